//! Settings: from the command line, then `REMORA_*`, then a file.

use std::ffi::OsString;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::ValueEnum;
use remora_core::{Error, ErrorKind, Result};
use remora_vault::{Access, Limits, Tenant};
use serde::Deserialize;

use crate::args::{Flags, OutputFormat};
use crate::environment::{Environment, LIBVIRT};
use crate::secret::SecretFrom;
use crate::size::Size;

/// The settings of a run, from wherever they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) repo: Option<String>,
    pub(crate) tenant: Tenant,
    pub(crate) access: Access,
    pub(crate) plugins: Option<PathBuf>,
    pub(crate) secret: SecretFrom,
    pub(crate) connect: Option<String>,
    pub(crate) scratch: Option<PathBuf>,
    pub(crate) run_dir: Option<PathBuf>,
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) output: OutputFormat,
}

/// The configuration file. Its relative paths are relative to its folder.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct FromFile {
    repo: Option<String>,
    tenant: Option<String>,
    credentials: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    plugins: Option<PathBuf>,
    limit_upload: Option<Size>,
    limit_download: Option<Size>,
    limit_requests: Option<NonZeroU64>,
    passphrase_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    connect: Option<String>,
    scratch: Option<PathBuf>,
    run_dir: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    output: Option<FileOutput>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum FileOutput {
    Text,
    Json,
}

impl Settings {
    /// Puts them together.
    pub(crate) fn gather(flags: &Flags, environment: &Environment) -> Result<Self> {
        let file = match config_path(flags, environment) {
            Some(path) => FromFile::read(&path)?,
            None => FromFile::default(),
        };
        let path = |flag: &Option<PathBuf>, name: &str| flag.clone().or_else(|| environment.get(name).map(Into::into));
        let access = Access {
            credentials: path(&flags.credentials, "REMORA_CREDENTIALS").or(file.credentials),
            ca_file: path(&flags.ca_file, "REMORA_CA_FILE").or(file.ca_file),
            limits: Limits {
                upload: parsed(flags.limit_upload, environment, "REMORA_LIMIT_UPLOAD")?
                    .or(file.limit_upload)
                    .map(|s| s.0),
                download: parsed(flags.limit_download, environment, "REMORA_LIMIT_DOWNLOAD")?
                    .or(file.limit_download)
                    .map(|s| s.0),
                requests: parsed(flags.limit_requests, environment, "REMORA_LIMIT_REQUESTS")?.or(file.limit_requests),
            },
            ..Access::default()
        };
        let output = output_of(flags, environment)?.or(file.output.map(|output| match output {
            FileOutput::Text => OutputFormat::Text,
            FileOutput::Json => OutputFormat::Json,
        }));
        Ok(Self {
            repo: text(flags.repo.as_ref(), environment, "REMORA_REPO")?.or(file.repo),
            tenant: tenant(flags, environment, file.tenant)?,
            access,
            plugins: path(&flags.plugins, "REMORA_PLUGINS").or(file.plugins),
            secret: secret_from(flags, environment, file.key_file, file.passphrase_file)?,
            connect: text(flags.connect.as_ref(), environment, "REMORA_CONNECT")?
                .or(text(None, environment, LIBVIRT)?)
                .or(file.connect),
            scratch: path(&flags.scratch, "REMORA_SCRATCH").or(file.scratch),
            run_dir: path(&flags.run_dir, "REMORA_RUN_DIR").or(file.run_dir),
            state_dir: path(&flags.state_dir, "REMORA_STATE_DIR").or(file.state_dir),
            output: output.unwrap_or_default(),
        })
    }
}

/// Whose points.
fn tenant(flags: &Flags, environment: &Environment, in_file: Option<String>) -> Result<Tenant> {
    if let Some(tenant) = parsed(flags.tenant.clone(), environment, "REMORA_TENANT")? {
        return Ok(tenant);
    }
    in_file.map_or_else(|| Ok(Tenant::default()), |name| name.parse())
}

/// The first place that has a key file or a passphrase: flags, the environment, the file.
fn secret_from(
    flags: &Flags,
    environment: &Environment,
    key_file: Option<PathBuf>,
    passphrase_file: Option<PathBuf>,
) -> Result<SecretFrom> {
    let variable = |name: &str| environment.get(name).map(PathBuf::from);
    if key_file.is_some() && passphrase_file.is_some() {
        return Err(Error::new(ErrorKind::Invalid, "the configuration file has a key_file and a passphrase_file")
            .advise("Keep the one that is to open the repository."));
    }
    let in_environment = || {
        let passphrase = environment.passphrase().map(|_| SecretFrom::Environment);
        variable("REMORA_KEY_FILE")
            .map(SecretFrom::KeyFile)
            .or(passphrase)
            .or_else(|| variable("REMORA_PASSPHRASE_FILE").map(SecretFrom::PassphraseFile))
    };
    let either = |key_file: Option<PathBuf>, passphrase_file: Option<PathBuf>| {
        key_file.map(SecretFrom::KeyFile).or_else(|| passphrase_file.map(SecretFrom::PassphraseFile))
    };
    let found = either(flags.key_file.clone(), flags.passphrase_file.clone())
        .or_else(in_environment)
        .or_else(|| either(key_file, passphrase_file));
    Ok(found.unwrap_or_default())
}

/// The format that flags and environment ask for: known before the file is read, so that an error in it takes that
/// form.
pub(crate) fn output_of(flags: &Flags, environment: &Environment) -> Result<Option<OutputFormat>> {
    if flags.output.is_some() {
        return Ok(flags.output);
    }
    let Some(value) = text(None, environment, "REMORA_OUTPUT")? else { return Ok(None) };
    OutputFormat::from_str(&value, false)
        .map(Some)
        .map_err(|_| Error::new(ErrorKind::Invalid, format!("REMORA_OUTPUT is {value:?}")).advise("Use text or json."))
}

/// A value from the flag, or from a variable that may not be one.
fn parsed<T: FromStr>(flag: Option<T>, environment: &Environment, name: &str) -> Result<Option<T>>
where
    T::Err: std::fmt::Display,
{
    if flag.is_some() {
        return Ok(flag);
    }
    let Some(value) = text(None, environment, name)? else { return Ok(None) };
    let invalid = |e: T::Err| Error::new(ErrorKind::Invalid, format!("{name} is {value:?}: {e}"));
    value.parse().map(Some).map_err(invalid)
}

fn text(flag: Option<&String>, environment: &Environment, name: &str) -> Result<Option<String>> {
    match (flag, environment.get(name)) {
        (Some(flag), _) => Ok(Some(flag.clone())),
        (None, None) => Ok(None),
        (None, Some(value)) => match value.clone().into_string() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(Error::new(ErrorKind::Invalid, format!("{name} is not valid UTF-8"))),
        },
    }
}

/// The file that is named, which must be there, else the first of the usual ones that is.
fn config_path(flags: &Flags, environment: &Environment) -> Option<PathBuf> {
    let named = flags.config.clone().or_else(|| environment.get("REMORA_CONFIG").map(Into::into));
    named.or_else(|| usual_configs(std::env::var_os("XDG_CONFIG_HOME"), std::env::var_os("HOME")).find(|p| p.exists()))
}

fn usual_configs(xdg: Option<OsString>, home: Option<OsString>) -> impl Iterator<Item = PathBuf> {
    let set = |value: Option<OsString>| value.map(PathBuf::from).filter(|path| path.is_absolute());
    let own = set(xdg).or_else(|| set(home).map(|home| home.join(".config")));
    own.into_iter().chain([PathBuf::from("/etc")]).map(|folder| folder.join("remora/config.toml"))
}

impl FromFile {
    fn read(path: &Path) -> Result<Self> {
        let named = format!("configuration file {}", path.display());
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(&named, e))?;
        let mut file: Self = toml::from_str(&text).map_err(|error| {
            Error::new(ErrorKind::Invalid, named).because(error.to_string().trim_end().to_owned()).advise(
                "Its keys are: repo, tenant, passphrase_file, key_file, credentials, ca_file, plugins, limit_upload, limit_download, \
                 limit_requests, connect, scratch, run_dir, state_dir, output.",
            )
        })?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        let paths = [
            &mut file.passphrase_file,
            &mut file.key_file,
            &mut file.credentials,
            &mut file.ca_file,
            &mut file.plugins,
        ];
        for relative in paths.into_iter().chain([&mut file.scratch, &mut file.run_dir, &mut file.state_dir]).flatten() {
            *relative = folder.join(&*relative);
        }
        if let Some(repo) = file.repo.as_mut().filter(|repo| !repo.contains("://") && !repo.starts_with("plugin:")) {
            *repo = folder.join(&*repo).to_string_lossy().into_owned();
        }
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment::of(variables.iter().map(|(name, value)| ((*name).to_owned(), value.into())))
    }

    /// A configuration file with every key.
    fn config() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        let text = "repo = 'in-file'\ntenant = 'in-file'\ncredentials = 'cloud'\nca_file = '/ca'\nplugins = 'p'\nlimit_upload = '1MiB'\n\
                    limit_download = '2MiB'\nlimit_requests = 3\npassphrase_file = 'secret'\nconnect = 'file:///c'\nscratch = '/s'\n\
                    run_dir = 'r'\nstate_dir = 'state'\noutput = 'json'\n";
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    /// With limits of so many MiB and requests.
    fn access(credentials: impl Into<PathBuf>, ca_file: &str, limits: [u64; 3]) -> Access {
        let [upload, download, requests] = limits;
        let limits = Limits {
            upload: NonZeroU64::new(upload << 20),
            download: NonZeroU64::new(download << 20),
            requests: NonZeroU64::new(requests),
        };
        Access { credentials: Some(credentials.into()), ca_file: Some(ca_file.into()), limits, ..Access::default() }
    }

    #[test]
    fn flags_come_before_the_environment_and_that_before_the_file() {
        let (folder, path) = config();
        let config = ("REMORA_CONFIG", path.to_str().unwrap());
        let settings = Settings::gather(&Flags::default(), &environment(&[config])).unwrap();
        let within = |name: &str| folder.path().join(name);
        assert_eq!(
            settings,
            Settings {
                repo: Some(within("in-file").to_str().unwrap().into()),
                tenant: "in-file".parse().unwrap(),
                access: access(within("cloud"), "/ca", [1, 2, 3]),
                plugins: Some(within("p")),
                secret: SecretFrom::PassphraseFile(within("secret")),
                connect: Some("file:///c".into()),
                scratch: Some("/s".into()),
                run_dir: Some(within("r")),
                state_dir: Some(within("state")),
                output: OutputFormat::Json,
            }
        );

        let variables = [
            config,
            ("REMORA_REPO", "/env"),
            ("REMORA_TENANT", "in-env"),
            ("REMORA_CREDENTIALS", "/env/cloud"),
            ("REMORA_CA_FILE", "/env/ca"),
            ("REMORA_PLUGINS", "/env/p"),
            ("REMORA_LIMIT_UPLOAD", "4MiB"),
            ("REMORA_LIMIT_DOWNLOAD", "5MiB"),
            ("REMORA_LIMIT_REQUESTS", "6"),
            ("REMORA_PASSPHRASE_FILE", "/env/secret"),
            ("REMORA_CONNECT", "env:///c"),
            ("REMORA_SCRATCH", "/env/s"),
            ("REMORA_RUN_DIR", "/env/r"),
            ("REMORA_STATE_DIR", "/env/state"),
            ("REMORA_OUTPUT", "text"),
        ];
        let from_env = Settings {
            repo: Some("/env".into()),
            tenant: "in-env".parse().unwrap(),
            access: access("/env/cloud", "/env/ca", [4, 5, 6]),
            plugins: Some("/env/p".into()),
            secret: SecretFrom::PassphraseFile("/env/secret".into()),
            connect: Some("env:///c".into()),
            scratch: Some("/env/s".into()),
            run_dir: Some("/env/r".into()),
            state_dir: Some("/env/state".into()),
            output: OutputFormat::Text,
        };
        assert_eq!(Settings::gather(&Flags::default(), &environment(&variables)).unwrap(), from_env);

        let connect =
            |variables: &[(&str, &str)]| Settings::gather(&Flags::default(), &environment(variables)).unwrap().connect;
        let libvirts = ("LIBVIRT_DEFAULT_URI", "virsh:///c");
        assert_eq!(connect(&[config, libvirts]).as_deref(), Some("virsh:///c"), "before the file");
        assert_eq!(connect(&[config, libvirts, ("REMORA_CONNECT", "env:///c")]).as_deref(), Some("env:///c"));

        let flags = Flags {
            repo: Some("/flag".into()),
            tenant: "in-flag".parse().ok(),
            credentials: Some("flag-cloud".into()),
            ca_file: Some("flag-ca".into()),
            plugins: Some("flag-p".into()),
            limit_upload: "7MiB".parse().ok(),
            limit_download: "8MiB".parse().ok(),
            limit_requests: NonZeroU64::new(9),
            passphrase_file: Some("flag-secret".into()),
            connect: Some("flag:///c".into()),
            scratch: Some("flag-s".into()),
            run_dir: Some("flag-r".into()),
            state_dir: Some("flag-state".into()),
            output: Some(OutputFormat::Json),
            ..Flags::default()
        };
        let settings = Settings::gather(&flags, &environment(&variables)).unwrap();
        assert_eq!(
            settings,
            Settings {
                repo: Some("/flag".into()),
                tenant: "in-flag".parse().unwrap(),
                access: access("flag-cloud", "flag-ca", [7, 8, 9]),
                plugins: Some("flag-p".into()),
                secret: SecretFrom::PassphraseFile("flag-secret".into()),
                connect: Some("flag:///c".into()),
                scratch: Some("flag-s".into()),
                run_dir: Some("flag-r".into()),
                state_dir: Some("flag-state".into()),
                output: OutputFormat::Json,
            }
        );
    }

    #[test]
    fn the_secret_comes_from_the_first_place_that_has_one() {
        let (_folder, path) = config();
        let of = |flags: Flags, variables: &[(&str, &str)]| {
            let flags = Flags { config: Some(path.clone()), ..flags };
            Settings::gather(&flags, &environment(variables)).unwrap().secret
        };
        let none = Flags::default;
        let all = [("REMORA_KEY_FILE", "/k"), ("REMORA_PASSPHRASE", "p"), ("REMORA_PASSPHRASE_FILE", "/env")];
        let flag = Flags { passphrase_file: Some("/flag".into()), ..none() };
        assert_eq!(of(flag, &all), SecretFrom::PassphraseFile("/flag".into()));
        let flag = Flags { key_file: Some("/flag".into()), ..none() };
        assert_eq!(of(flag, &all), SecretFrom::KeyFile("/flag".into()));
        assert_eq!(of(none(), &all), SecretFrom::KeyFile("/k".into()));
        assert_eq!(of(none(), &all[1..]), SecretFrom::Environment);
        assert_eq!(of(none(), &all[2..]), SecretFrom::PassphraseFile("/env".into()));
        let in_file = SecretFrom::PassphraseFile(path.with_file_name("secret"));
        assert_eq!(of(none(), &[("REMORA_PASSPHRASE", ""), ("REMORA_KEY_FILE", "")]), in_file);
        std::fs::write(&path, "key_file = 'key'").unwrap();
        assert_eq!(of(none(), &[]), SecretFrom::KeyFile(path.with_file_name("key")));
        std::fs::write(&path, "key_file = 'key'\npassphrase_file = 'secret'").unwrap();
        let both = Flags { config: Some(path.clone()), ..none() };
        assert_eq!(Settings::gather(&both, &environment(&[])).unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn a_wrong_file_is_an_error_that_names_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        let flags = Flags { config: Some(path.clone()), ..Flags::default() };
        let error = |flags: &Flags| Settings::gather(flags, &Environment::default()).unwrap_err();
        assert_eq!(error(&flags).kind(), ErrorKind::NotFound);
        for (text, word) in [
            ("repos = '/r'", "repos"),
            ("repo = 1", "repo"),
            ("output = 'xml'", "xml"),
            ("limit_upload = '9 MB'", "MiB"),
            ("=", "config"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = error(&flags);
            assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
            assert!(error.chain().contains(word) && error.chain().contains("config.toml"), "{}", error.chain());
        }
        std::fs::write(&path, "").unwrap();
        for (name, value) in [("REMORA_LIMIT_UPLOAD", "fast"), ("REMORA_LIMIT_REQUESTS", "0")] {
            let error = Settings::gather(&flags, &environment(&[(name, value)])).unwrap_err();
            assert!(error.kind() == ErrorKind::Invalid && error.chain().contains(name), "{}", error.chain());
        }
        let wrong = environment(&[("REMORA_OUTPUT", "xml")]);
        assert_eq!(output_of(&Flags::default(), &wrong).unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn the_usual_files_are_ones_own_then_the_hosts() {
        let usual = |xdg: Option<&str>, home: Option<&str>| {
            usual_configs(xdg.map(Into::into), home.map(Into::into)).collect::<Vec<_>>()
        };
        let etc = PathBuf::from("/etc/remora/config.toml");
        assert_eq!(usual(None, Some("/h")), [PathBuf::from("/h/.config/remora/config.toml"), etc.clone()]);
        assert_eq!(usual(Some("/x"), Some("/h")), [PathBuf::from("/x/remora/config.toml"), etc.clone()]);
        assert_eq!(usual(None, None), [etc]);
    }
}
