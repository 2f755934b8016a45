//! From a location to its store's client.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{Certificate, HttpConnector, ReqwestConnector};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use remora_core::outage::Seen;
use remora_core::{Error, ErrorKind, Result, check_authorities};
use reqwest::header::{HeaderName, HeaderValue};

use crate::location::{Addressing, Bucket, Location, Place, Plugin, Vendor};
use crate::store::access::{Access, Reach};
use crate::store::credentials::Variables;
use crate::store::limits::{Limited, Paces};
use crate::store::lock::{Locks, S3Locks};
use crate::store::outage::Waiting;
use crate::store::reach::{Connector, ToInternet};

/// The client's own, where none is named.
const DEFAULT_REGION: &str = "us-east-1";

/// How long a server that does not answer is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For a connection.
    pub(super) connect: Duration,
    /// For the next bytes of an answer; while a PUT is sent, for all of it: 16 MiB in this time are 140 KiB/s.
    pub(super) silence: Duration,
    /// How often a request is repeated, the pauses growing and drawn at random.
    pub(super) retries: usize,
    /// After this time a request is not repeated again.
    pub(super) give_up: Duration,
    /// For a store that has answered before, and is away.
    pub(super) outage: Duration,
}

/// What S3 checks the body of a PUT against: it is in a header, which is signed, and Object Lock asks for it. Were the body
/// signed too, the store would compute the same sum twice: a sixth of what a PUT costs it.
const CHECKSUM: Option<Checksum> = Some(Checksum::SHA256);

impl Patience {
    pub(super) const USUAL: Self = Self {
        connect: Duration::from_secs(10),
        silence: Duration::from_mins(2),
        retries: 8,
        give_up: Duration::from_mins(2),
        outage: Duration::from_mins(2),
    };

    fn retry(self) -> RetryConfig {
        let backoff =
            BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(10), base: 2.0 };
        RetryConfig { backoff, max_retries: self.retries, retry_timeout: self.give_up }
    }
}

/// The clients of a store.
pub(super) struct Opened {
    pub(super) store: Arc<dyn ObjectStore>,
    /// Of S3 only; whether the bucket has Object Lock is not asked yet.
    pub(super) locks: Option<Arc<dyn Locks>>,
}

/// The client of the store at `location`, as a vault there has it, without what the vault adds. For measuring it.
pub fn client_of(location: &Location) -> Result<Arc<dyn ObjectStore>> {
    Ok(open(location, Patience::USUAL)?.store)
}

/// The clients of the store at `location`. A folder must exist; of a bucket nothing is asked yet.
pub(super) fn open(location: &Location, patience: Patience) -> Result<Opened> {
    let paces = Paces::of(location.access.limits);
    let mut locks = None;
    let bare: Arc<dyn ObjectStore> = match &location.place {
        Place::Folder(folder) => {
            if !folder.is_dir() {
                return Err(Error::new(ErrorKind::NotFound, format!("repository {location}: no such folder"))
                    .advise("Check the path, or make a repository there with `remora repo init`."));
            }
            let store = LocalFileSystem::new_with_prefix(folder)
                .map_err(|e| Error::new(ErrorKind::Failed, format!("repository {location}")).because(e))?;
            Arc::new(store.with_fsync(true))
        }
        Place::Bucket(bucket) => {
            if bucket.vendor == Vendor::S3 {
                locks = Some(s3_locks(location, bucket, patience, paces.clone())?);
            }
            let options = client_options(&location.access, patience)?;
            let client = client(location, bucket, options, patience, CHECKSUM, Seen::Never)?;
            Arc::new(PrefixStore::new(client, bucket.prefix.clone()))
        }
        Place::Plugin(plugin) => plugin_store(location, plugin)?,
    };
    Ok(Opened { store: Limited::over(bare, paces), locks })
}

/// The store of a plugin. Its document says with whose credentials it is reached, and how far.
fn plugin_store(location: &Location, plugin: &Plugin) -> Result<Arc<dyn ObjectStore>> {
    match (&location.access.plugins, location.access.reach) {
        (Some(plugins), Reach::Anywhere) => plugins.open(&plugin.name, plugin.prefix.as_ref()),
        _ => Err(Error::new(ErrorKind::Unsupported, format!("repository {location}: there are no plugins here"))
            .advise("Give a folder's path, file:///path, s3://, az:// or gs://.")),
    }
}

/// What the bucket can do with locks.
fn s3_locks(
    location: &Location,
    bucket: &Bucket,
    patience: Patience,
    paces: Option<Arc<Paces>>,
) -> Result<Arc<dyn Locks>> {
    let options = client_options(&location.access, patience)?;
    // Of an endpoint of plain HTTP.
    let http = connector(location, patience, Seen::Never)?.connect(&options.clone().with_allow_http(true));
    let connector = connector(location, patience, Seen::Never)?;
    let how = How { options, patience, connector };
    let (s3, region) = s3(bucket, &variables(location, bucket)?, how, CHECKSUM).map_err(|e| invalid(bucket, e))?;
    let keeping = {
        let (location, bucket, paces) = (location.clone(), bucket.clone(), paces.clone());
        move |until| keeping_client(&location, &bucket, patience, paces.clone(), until)
    };
    Ok(Arc::new(S3Locks {
        s3,
        http: http.map_err(|e| invalid(bucket, e))?,
        region,
        prefix: bucket.prefix.clone(),
        patience,
        paces,
        keeping: Box::new(keeping),
        newest: Mutex::default(),
    }))
}

/// Of S3: a client whose objects are kept until then. It sends the headers with every request, so it is for PUTs only.
pub(super) fn keeping_client(
    location: &Location,
    bucket: &Bucket,
    patience: Patience,
    paces: Option<Arc<Paces>>,
    until: Timestamp,
) -> Result<Arc<dyn ObjectStore>> {
    let until = until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let headers = [("x-amz-object-lock-mode", "COMPLIANCE"), ("x-amz-object-lock-retain-until-date", until.as_str())];
    Ok(Limited::over(client_with_headers(location, bucket, patience, &headers, CHECKSUM)?, paces))
}

/// Of S3: a client that sends with every object the checksum of another one. For a trial.
pub(super) fn mistaken_client(location: &Location, patience: Patience) -> Option<Result<Arc<dyn ObjectStore>>> {
    let Place::Bucket(bucket) = &location.place else { return None };
    let of_another = [("x-amz-checksum-sha256", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")];
    (bucket.vendor == Vendor::S3).then(|| client_with_headers(location, bucket, patience, &of_another, None))
}

/// A client of a store that was asked for other things before, and has answered.
fn client_with_headers(
    location: &Location,
    bucket: &Bucket,
    patience: Patience,
    headers: &[(&'static str, &str)],
    checksum: Option<Checksum>,
) -> Result<Arc<dyn ObjectStore>> {
    let header = |(name, value): &(&'static str, &str)| {
        let value = HeaderValue::from_str(value).expect("times and checksums are visible ASCII");
        (HeaderName::from_static(name), value)
    };
    let headers = headers.iter().map(header).collect();
    let options = client_options(&location.access, patience)?.with_default_headers(headers);
    let store = client(location, bucket, options, patience, checksum, Seen::There)?;
    Ok(Arc::new(PrefixStore::new(store, bucket.prefix.clone())))
}

fn client(
    location: &Location,
    bucket: &Bucket,
    options: ClientOptions,
    patience: Patience,
    checksum: Option<Checksum>,
    seen: Seen,
) -> Result<Arc<dyn ObjectStore>> {
    let variables = variables(location, bucket)?;
    let how = How { options, patience, connector: connector(location, patience, seen)? };
    let built = match bucket.vendor {
        Vendor::S3 => s3(bucket, &variables, how, checksum).map(|(s3, _)| Arc::new(s3) as Arc<dyn ObjectStore>),
        Vendor::Azure => azure(bucket, &variables, how),
        Vendor::Google => google(bucket, &variables, how),
    };
    built.map_err(|e| invalid(bucket, e))
}

/// How requests are made.
struct How {
    options: ClientOptions,
    patience: Patience,
    connector: Waiting<Connector>,
}

/// What makes the HTTP clients.
fn connector(location: &Location, patience: Patience, seen: Seen) -> Result<Waiting<Connector>> {
    let connector = match location.access.reach {
        Reach::Anywhere => Connector::Anywhere(ReqwestConnector::default()),
        Reach::Internet => Connector::Internet(ToInternet { patience, certificates: certificates(&location.access)? }),
    };
    Ok(Waiting { connector, name: location.to_string(), longest_outage: patience.outage, seen })
}

/// The PEM certificates that are trusted beside the system's.
fn certificates(access: &Access) -> Result<Option<Vec<u8>>> {
    let read = |path: &std::path::PathBuf| -> Result<Vec<u8>> {
        let pem = std::fs::read(path).map_err(|e| Error::io(named(path), e))?;
        check_authorities(&pem)
            .map_err(|why| Error::new(ErrorKind::Invalid, named(path)).because(why).advise(why.advice()))?;
        Ok(pem)
    };
    access.ca_file.as_ref().map(read).transpose()
}

fn named(path: &std::path::Path) -> String {
    format!("the CA certificates in {}", path.display())
}

fn variables(location: &Location, bucket: &Bucket) -> Result<Variables> {
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Variables::gather(bucket.vendor, location.access.credentials.as_deref(), environment)
        .and_then(|variables| variables.within(location.access.reach))
        .map_err(|e| e.within(format!("repository {location}")))
}

fn invalid(bucket: &Bucket, error: object_store::Error) -> Error {
    Error::new(ErrorKind::Invalid, format!("repository {bucket}"))
        .because(error)
        .advise("Check the URL's parameters and the credentials.")
}

fn client_options(access: &Access, patience: Patience) -> Result<ClientOptions> {
    // The one of this process; another caller may have been first.
    rustls::crypto::ring::default_provider().install_default().ok();
    let mut options = ClientOptions::new()
        .with_timeout_disabled()
        .with_connect_timeout(patience.connect)
        .with_read_timeout(patience.silence);
    if let (Some(path), Some(pem)) = (&access.ca_file, certificates(access)?) {
        let named = named(path);
        let bundle = Certificate::from_pem_bundle(&pem).ok().filter(|bundle| !bundle.is_empty());
        let bundle = bundle.ok_or_else(|| {
            Error::new(ErrorKind::Invalid, format!("{named} cannot be read"))
                .advise("The file holds certificates as text: -----BEGIN CERTIFICATE----- and so on.")
        })?;
        for certificate in bundle {
            options = options.with_root_certificate(certificate);
        }
    }
    Ok(options)
}

/// The client, and the region that its requests are signed for.
fn s3(
    bucket: &Bucket,
    variables: &Variables,
    how: How,
    checksum: Option<Checksum>,
) -> object_store::Result<(AmazonS3, String)> {
    let mut builder = AmazonS3Builder::new()
        .with_client_options(how.options)
        .with_http_connector(how.connector)
        .with_retry(how.patience.retry())
        .with_bucket_name(&bucket.name)
        .with_unsigned_payload(true);
    if let Some(checksum) = checksum {
        builder = builder.with_checksum_algorithm(checksum);
    }
    for (name, value) in variables.iter() {
        builder = builder.with_config(name.parse()?, value);
    }
    if let Some(region) = &bucket.region {
        builder = builder.with_region(region);
    }
    let region = builder.get_config_value(&AmazonS3ConfigKey::Region).unwrap_or_else(|| DEFAULT_REGION.into());
    let given = bucket.endpoint.as_ref().map(ToString::to_string);
    let named = |key| builder.get_config_value(&key);
    let endpoint =
        given.or_else(|| named(AmazonS3ConfigKey::S3Endpoint)).or_else(|| named(AmazonS3ConfigKey::Endpoint));
    let Some(endpoint) = endpoint else {
        // A certificate for *.s3.amazonaws.com does not cover a name with dots.
        let dotted = bucket.name.contains('.');
        let virtual_host = bucket.addressing != Some(Addressing::Path) && !dotted;
        return Ok((builder.with_virtual_hosted_style_request(virtual_host).build()?, region));
    };
    let mut endpoint = endpoint.trim_end_matches('/').to_owned();
    let virtual_host = bucket.addressing == Some(Addressing::VirtualHost);
    if virtual_host {
        // The client wants the bucket in it then.
        endpoint = endpoint.replacen("://", &format!("://{}.", bucket.name), 1);
    }
    let builder = builder
        .with_allow_http(endpoint.starts_with("http://"))
        .with_config(AmazonS3ConfigKey::S3Endpoint, endpoint)
        .with_virtual_hosted_style_request(virtual_host);
    Ok((builder.build()?, region))
}

fn azure(bucket: &Bucket, variables: &Variables, how: How) -> object_store::Result<Arc<dyn ObjectStore>> {
    let mut builder = MicrosoftAzureBuilder::new()
        .with_client_options(how.options)
        .with_http_connector(how.connector)
        .with_retry(how.patience.retry())
        .with_container_name(&bucket.name);
    for (name, value) in variables.iter() {
        builder = builder.with_config(name.parse()?, value);
    }
    if let Some(account) = &bucket.account {
        builder = builder.with_account(account);
    }
    if let Some(endpoint) = &bucket.endpoint {
        builder = builder.with_endpoint(endpoint.to_string()).with_allow_http(endpoint.scheme() == "http");
    }
    Ok(Arc::new(builder.build()?))
}

fn google(bucket: &Bucket, variables: &Variables, how: How) -> object_store::Result<Arc<dyn ObjectStore>> {
    let http = bucket.endpoint.as_ref().is_some_and(|endpoint| endpoint.scheme() == "http");
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_client_options(how.options.with_allow_http(http))
        .with_http_connector(how.connector)
        .with_retry(how.patience.retry())
        .with_bucket_name(&bucket.name);
    for (name, value) in variables.iter() {
        builder = builder.with_config(name.parse()?, value);
    }
    if let Some(endpoint) = &bucket.endpoint {
        builder = builder.with_base_url(endpoint.as_str().trim_end_matches('/'));
    }
    Ok(Arc::new(builder.build()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_the_place_of_an_authority_is_told_with_what_belongs_there() {
        let folder = tempfile::tempdir().unwrap();
        let key = "-----BEGIN PRIVATE KEY-----\nMA==\n-----END PRIVATE KEY-----\n";
        let both = format!("-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n{key}");
        for (file, pem, said) in [
            ("key.pem", key, "key.pem: there is a private key in it"),
            ("both.pem", both.as_str(), "both.pem: there is a private key in it"),
            ("empty.pem", "", "empty.pem: there is no certificate in it"),
        ] {
            let path = folder.path().join(file);
            std::fs::write(&path, pem).unwrap();
            let access = Access { ca_file: Some(path), ..Access::default() };
            let location: Location = "s3://bucket/prefix?region=eu-west-1".parse().unwrap();
            let error = open(&location.reached_by(access), Patience::USUAL).map(drop).unwrap_err();
            assert!(error.kind() == ErrorKind::Invalid && error.chain().contains(said), "{}", error.chain());
            assert!(error.advice().is_some_and(|advice| advice.contains("BEGIN CERTIFICATE")), "{:?}", error.advice());
        }
    }
}
