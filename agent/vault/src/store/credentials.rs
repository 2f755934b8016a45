//! Where the credentials of a bucket come from: a file, a folder of files, or the environment.
//!
//! Whatever the form, what is found becomes the variables that the vendor's own tools take from the environment.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use remora_core::{Error, ErrorKind, Result};

use crate::location::Vendor;
use crate::store::access::Reach;

/// A file of credentials larger than this is none.
const LIMIT: u64 = 64 * 1024;

/// The key of a Kubernetes Secret that Velero keeps credentials under.
const VELERO: &str = "cloud";

/// What a file of a service account of Google's becomes.
const SERVICE_ACCOUNT: &str = "google_service_account_key";

/// The variables that matter of each vendor, lower-case.
const S3: &[&str] = &[
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
    "aws_region",
    "aws_default_region",
    "aws_endpoint_url",
    "aws_endpoint_url_s3",
    "aws_web_identity_token_file",
    "aws_role_arn",
    "aws_role_session_name",
    "aws_endpoint_url_sts",
    "aws_container_credentials_relative_uri",
    "aws_container_credentials_full_uri",
    "aws_container_authorization_token_file",
];
const AZURE: &[&str] = &[
    "azure_storage_account_name",
    "azure_storage_account_key",
    "azure_storage_access_key",
    "azure_storage_sas_token",
    "azure_client_id",
    "azure_client_secret",
    "azure_tenant_id",
    "azure_authority_host",
    "azure_federated_token_file",
];
const GOOGLE: &[&str] = &["google_service_account", SERVICE_ACCOUNT, "google_application_credentials"];

/// Other names that vendors and Velero use for some of the variables.
const ALIASES: &[(&str, &str)] = &[
    ("azure_storage_account", "azure_storage_account_name"),
    ("azure_storage_account_access_key", "azure_storage_account_key"),
    ("azure_storage_key", "azure_storage_account_key"),
];

/// Those of which one proves who we are.
const PROOFS: &[&str] = &[
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_web_identity_token_file",
    "aws_container_credentials_relative_uri",
    "aws_container_credentials_full_uri",
    "azure_storage_account_key",
    "azure_storage_access_key",
    "azure_storage_sas_token",
    "azure_client_secret",
    "azure_federated_token_file",
    "google_service_account",
    SERVICE_ACCOUNT,
    "google_application_credentials",
];

/// Variables of a vendor, by their lower-case names. Prints no values.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Variables(BTreeMap<String, String>);

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Variables {
    /// Those of `vendor` at `path`, or else in `environment`. None that proves anything is an error.
    pub(super) fn gather(
        vendor: Vendor,
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self> {
        let environment: BTreeMap<_, _> = environment.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let profile = environment.get("AWS_PROFILE").cloned();
        let own = Self::known(vendor, environment.iter().map(|(name, value)| (name.clone(), value.clone())));
        let shared = environment.get("AWS_SHARED_CREDENTIALS_FILE").filter(|_| vendor == Vendor::S3 && !own.prove());
        let path = path.or_else(|| shared.map(Path::new));
        let found = match path {
            Some(path) => {
                let mut found = own.without_proofs();
                found.0.extend(read(vendor, path, profile.as_deref())?.0);
                found
            }
            None => own,
        };
        if found.prove() {
            return Ok(found);
        }
        let place = path.map_or_else(|| "the environment".into(), |path| path.display().to_string());
        Err(Error::new(ErrorKind::Invalid, format!("there are no credentials for the store in {place}"))
            .advise(usage(vendor)))
    }

    /// The same, if it names nothing of this host's that whoever wrote it must not reach: a file's content, such as this
    /// pod's own token, would be sent to a server of theirs.
    pub(super) fn within(self, reach: Reach) -> Result<Self> {
        if reach == Reach::Anywhere {
            return Ok(self);
        }
        let named = self.0.iter().find(|(name, value)| borrows(name, value)).map(|(name, _)| name);
        match named {
            None => Ok(self),
            Some(name) => Err(Error::new(ErrorKind::Refused, format!("the credentials hold {}", name.to_uppercase()))
                .advise(
                    "A tenant's credentials are written out: an access key, an account's key, a service account's key.",
                )),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    fn known(vendor: Vendor, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let known = match vendor {
            Vendor::S3 => S3,
            Vendor::Azure => AZURE,
            Vendor::Google => GOOGLE,
        };
        let named = variables.into_iter().map(|(name, value)| {
            let name = name.to_ascii_lowercase();
            let alias = ALIASES.iter().find(|(alias, _)| *alias == name);
            (alias.map_or(name, |(_, name)| (*name).into()), value)
        });
        Self(named.filter(|(name, value)| known.contains(&name.as_str()) && !value.is_empty()).collect())
    }

    fn prove(&self) -> bool {
        self.0.keys().any(|name| PROOFS.contains(&name.as_str()))
    }

    /// Credentials that are named must not be mixed with others that happen to be around.
    fn without_proofs(mut self) -> Self {
        self.0.retain(|name, _| !PROOFS.contains(&name.as_str()) && name != "aws_session_token");
        self
    }
}

/// Whether a variable names a file or a server, or has the cloud's own service asked.
fn borrows(name: &str, value: &str) -> bool {
    const NAMING: &[&str] = &["_file", "_uri", "_host", "google_application_credentials", "google_service_account"];
    // Google's key may say whom to ask for a token, and which server is Google.
    const GOOGLES: &[&str] = &["gcs_base_url", "disable_oauth"];
    NAMING.iter().any(|end| name.ends_with(end))
        || name.contains("endpoint_url")
        || (name == SERVICE_ACCOUNT && GOOGLES.iter().any(|word| has_field(value, word)))
}

/// Whether a JSON text has a field, however its name is written there. One that is no JSON is refused by who opens it.
fn has_field(text: &str, field: &str) -> bool {
    serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text)
        .is_ok_and(|fields| fields.contains_key(field))
}

fn usage(vendor: Vendor) -> &'static str {
    match vendor {
        Vendor::S3 => {
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN, or give \
             --credentials with a file in the form of ~/.aws/credentials or a folder with such a file named `cloud`. \
             A machine's own role is not used."
        }
        Vendor::Azure => {
            "Set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_CLIENT_ID, AZURE_TENANT_ID and \
             AZURE_FEDERATED_TOKEN_FILE, or give --credentials with a file of such lines (NAME=value) or a folder of \
             files of these names."
        }
        Vendor::Google => {
            "Set GOOGLE_APPLICATION_CREDENTIALS to the JSON file of a service account, or give --credentials with it."
        }
    }
}

fn read(vendor: Vendor, path: &Path, profile: Option<&str>) -> Result<Variables> {
    if !path.is_dir() {
        return parse(vendor, path, &text(path)?, profile);
    }
    if path.join(VELERO).is_file() {
        return read(vendor, &path.join(VELERO), profile);
    }
    let mut variables = Vec::new();
    let entries = std::fs::read_dir(path).map_err(|e| Error::io(named(path), e))?;
    for entry in entries {
        let entry = entry.map_err(|e| Error::io(named(path), e))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        // The hidden ones are how Kubernetes swaps a Secret's files.
        if name.starts_with('.') || !entry.path().is_file() {
            continue;
        }
        let value = text(&entry.path())?;
        let json = vendor == Vendor::Google && Path::new(&name).extension().is_some_and(|end| end == "json");
        variables.push((if json { SERVICE_ACCOUNT.into() } else { name }, value.trim_end_matches('\n').to_owned()));
    }
    Ok(Variables::known(vendor, variables))
}

fn named(path: &Path) -> String {
    format!("reading the credentials in {}", path.display())
}

fn text(path: &Path) -> Result<String> {
    let meta = std::fs::metadata(path).map_err(|e| Error::io(named(path), e))?;
    if meta.len() > LIMIT {
        return Err(Error::new(ErrorKind::Invalid, format!("{}: it is larger than {LIMIT} bytes", named(path))));
    }
    std::fs::read_to_string(path).map_err(|e| Error::io(named(path), e))
}

/// A file: of Google a JSON text, of the others lines `name = value`, of AWS in sections.
fn parse(vendor: Vendor, path: &Path, text: &str, profile: Option<&str>) -> Result<Variables> {
    if vendor == Vendor::Google {
        return Ok(Variables::known(vendor, [(SERVICE_ACCOUNT.to_owned(), text.to_owned())]));
    }
    let wanted = profile.unwrap_or("default");
    let (mut variables, mut sections, mut inside) = (Vec::new(), Vec::new(), true);
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(section) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let section = section.trim();
            inside = section == wanted || section.strip_prefix("profile ").is_some_and(|name| name.trim() == wanted);
            sections.push(section);
            continue;
        }
        let Some((name, value)) = line.trim_start_matches("export ").split_once('=') else {
            // Not the line itself: it may be a secret.
            let what = format!("{}: line {} is not NAME=value", named(path), number + 1);
            return Err(Error::new(ErrorKind::Invalid, what).advise(usage(vendor)));
        };
        if inside {
            let value = value.trim();
            let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
            variables.push((name.trim().to_owned(), value.to_owned()));
        }
    }
    let found = Variables::known(vendor, variables);
    if found.0.is_empty() && !sections.is_empty() {
        let what = format!("{}: it has no section [{wanted}], but {}", named(path), sections.join(", "));
        return Err(Error::new(ErrorKind::Invalid, what).advise("Set AWS_PROFILE to the section to use."));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Vec<(String, String)> {
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn gather(vendor: Vendor, path: Option<&Path>, variables: &[(&str, &str)]) -> Result<Vec<(String, String)>> {
        let found = Variables::gather(vendor, path, environment(variables))?;
        Ok(found.0.into_iter().collect())
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn the_environment_gives_what_the_vendors_tools_take_and_no_more() {
        let found = gather(
            Vendor::S3,
            None,
            &[
                ("AWS_ACCESS_KEY_ID", "k"),
                ("AWS_SECRET_ACCESS_KEY", "s"),
                ("AWS_SKIP_SIGNATURE", "true"),
                ("HOME", "/"),
            ],
        );
        assert_eq!(found.unwrap(), environment(&[("aws_access_key_id", "k"), ("aws_secret_access_key", "s")]));
        let found = gather(Vendor::Azure, None, &[("AZURE_STORAGE_ACCOUNT", "a"), ("AZURE_STORAGE_KEY", "k")]);
        let wanted = [("azure_storage_account_key", "k"), ("azure_storage_account_name", "a")];
        assert_eq!(found.unwrap(), environment(&wanted));
    }

    #[test]
    fn a_file_in_the_form_of_aws_gives_the_profile_that_is_asked_for() {
        let file = file(
            "# ours\n[other]\naws_access_key_id=no\n[default]\naws_access_key_id = k\naws_secret_access_key = a=b\n",
        );
        let found =
            gather(Vendor::S3, Some(file.path()), &[("AWS_SESSION_TOKEN", "old"), ("AWS_ACCESS_KEY_ID", "old")]);
        assert_eq!(found.unwrap(), environment(&[("aws_access_key_id", "k"), ("aws_secret_access_key", "a=b")]));
        let found = gather(Vendor::S3, Some(file.path()), &[("AWS_PROFILE", "other")]);
        assert_eq!(found.unwrap(), environment(&[("aws_access_key_id", "no")]));
        let path = file.path().to_str().unwrap();
        let found = gather(Vendor::S3, None, &[("AWS_SHARED_CREDENTIALS_FILE", path), ("AWS_REGION", "eu")]).unwrap();
        assert!(found.contains(&("aws_region".into(), "eu".into())) && found.len() == 3, "{found:?}");
        let error = gather(Vendor::S3, Some(file.path()), &[("AWS_PROFILE", "none")]).unwrap_err();
        assert!(error.chain().contains("other, default"), "{}", error.chain());
    }

    #[test]
    fn a_folder_of_a_kubernetes_secret_gives_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("..2026_11_21");
        std::fs::create_dir(&data).unwrap();
        for (name, value) in [("AWS_ACCESS_KEY_ID", "k\n"), ("AWS_SECRET_ACCESS_KEY", "s"), ("other", "x")] {
            std::fs::write(data.join(name), value).unwrap();
            std::os::unix::fs::symlink(data.join(name), folder.path().join(name)).unwrap();
        }
        let wanted = environment(&[("aws_access_key_id", "k"), ("aws_secret_access_key", "s")]);
        assert_eq!(gather(Vendor::S3, Some(folder.path()), &[]).unwrap(), wanted);
        // Velero's form goes first.
        std::fs::write(folder.path().join("cloud"), "[default]\naws_access_key_id=v\naws_secret_access_key=s\n")
            .unwrap();
        let wanted = environment(&[("aws_access_key_id", "v"), ("aws_secret_access_key", "s")]);
        assert_eq!(gather(Vendor::S3, Some(folder.path()), &[]).unwrap(), wanted);
    }

    #[test]
    fn azure_takes_lines_and_google_a_service_account() {
        let lines = file("AZURE_STORAGE_ACCOUNT_NAME=a\nexport AZURE_STORAGE_ACCOUNT_ACCESS_KEY=\"k==\"\n");
        let wanted = [("azure_storage_account_key", "k=="), ("azure_storage_account_name", "a")];
        assert_eq!(gather(Vendor::Azure, Some(lines.path()), &[]).unwrap(), environment(&wanted));
        let account = file("{\"type\": \"service_account\"}");
        let found = gather(Vendor::Google, Some(account.path()), &[]).unwrap();
        assert_eq!(found, environment(&[(SERVICE_ACCOUNT, "{\"type\": \"service_account\"}")]));
    }

    #[test]
    fn none_at_all_say_where_they_may_come_from_and_no_secret_is_ever_told() {
        let error = gather(Vendor::S3, None, &[("AWS_REGION", "eu")]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.advice().unwrap().contains("AWS_ACCESS_KEY_ID"));
        let error = gather(Vendor::S3, Some(file("hunter2").path()), &[]).unwrap_err();
        assert!(error.chain().contains("line 1") && !error.chain().contains("hunter2"), "{}", error.chain());
        let variables = [("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "hunter2")];
        let variables = Variables::gather(Vendor::S3, None, environment(&variables)).unwrap();
        assert_eq!(format!("{variables:?}"), r#"{"aws_access_key_id", "aws_secret_access_key"}"#);
        let missing = gather(Vendor::S3, Some(Path::new("/nonexistent")), &[]).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn credentials_of_a_tenant_name_no_file_and_no_server() {
        let within = |vendor, text: &str| {
            let all = Variables::gather(vendor, Some(file(text).path()), environment(&[])).unwrap();
            all.within(Reach::Internet)
        };
        let keys = "aws_access_key_id=a\naws_secret_access_key=s\naws_session_token=t\naws_region=r\n";
        within(Vendor::S3, keys).unwrap();
        within(Vendor::Azure, "azure_storage_account_key=k\nazure_storage_account_name=a\n").unwrap();
        within(Vendor::Google, r#"{"type": "service_account", "private_key": "k"}"#).unwrap();
        for (vendor, text) in [
            (Vendor::S3, format!("{keys}aws_endpoint_url=http://10.0.0.1\n")),
            (Vendor::S3, format!("{keys}aws_endpoint_url_sts=http://10.0.0.1\n")),
            (Vendor::S3, "aws_web_identity_token_file=/var/run/secrets/token\naws_role_arn=r\n".into()),
            (Vendor::S3, "aws_container_credentials_full_uri=http://169.254.170.2/x\n".into()),
            (Vendor::Azure, "azure_federated_token_file=/var/run/secrets/token\n".into()),
            (Vendor::Azure, "azure_client_secret=s\nazure_authority_host=http://10.0.0.1\n".into()),
            (Vendor::Google, r#"{"type": "service_account", "gcs_base_url": "http://10.0.0.1"}"#.into()),
            (Vendor::Google, r#"{"type": "service_account", "gcs\u005fbase_url": "http://10.0.0.1"}"#.into()),
            (Vendor::Google, r#"{"type": "service_account", "disable_oauth": true}"#.into()),
        ] {
            let error = within(vendor, &text).unwrap_err();
            assert!(error.kind() == ErrorKind::Refused && error.advice().is_some(), "{text}: {}", error.chain());
        }
    }
}
