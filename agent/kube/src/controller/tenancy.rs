//! What a repository may borrow, by whose it is; decided each time that it is used, whatever was admitted.
//!
//! A Repository of the namespace of remora is the administrators', and borrows what it likes. Any other is a tenant's: it
//! lies in a bucket, names its own credentials, and reaches the internet alone (the vault's client looks at every address
//! that it connects to).

use std::collections::BTreeMap;

use base64ct::{Base64, Encoding};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, CustomResource, ResourceExt};
use remora_core::{NotAuthorities, check_authorities, cut_newline};
use serde::{Deserialize, Serialize};
use url::Url;
use zeroize::Zeroizing;

use crate::api_server::is_unknown;
use crate::conditions::Says;
use crate::keys::{ReachOfStore, StoreAccess};
use crate::resources::{CaSecretReference, Repository};

/// The fewest characters of a passphrase: it is tried by whoever has the store.
const SHORTEST: usize = 20;

/// The most that credentials and CA may be, in all and in files: they are kept in memory as long as the repository is open.
const LARGEST: usize = 64 * 1024;
const MOST_FILES: usize = 16;

/// The folder beside Velero's: what is in its own, Velero calls an error.
const BESIDE: &str = "-remora";

/// How a repository's store is reached, and what opens it.
pub(super) struct Material {
    pub(super) store: StoreAccess,
    pub(super) passphrase: Zeroizing<Vec<u8>>,
}

/// A place of Velero's.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[kube(group = "velero.io", version = "v1", kind = "BackupStorageLocation", namespaced, schema = "disabled")]
#[serde(rename_all = "camelCase")]
pub(super) struct BackupStorageLocationSpec {
    #[serde(default)]
    provider: String,
    #[serde(default)]
    object_storage: ObjectStorage,
    #[serde(default)]
    config: BTreeMap<String, String>,
    credential: Option<KeyOfSecret>,
    access_mode: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct ObjectStorage {
    #[serde(default)]
    bucket: String,
    #[serde(default)]
    prefix: String,
    /// Base64.
    ca_cert: Option<String>,
    ca_cert_ref: Option<KeyOfSecret>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
struct KeyOfSecret {
    #[serde(default)]
    name: String,
    key: String,
}

/// Why there is none: a condition, or the API server.
#[derive(Debug)]
pub(super) enum Trouble {
    Says(Says),
    Api(kube::Error),
}

impl From<kube::Error> for Trouble {
    fn from(error: kube::Error) -> Self {
        Self::Api(error)
    }
}

fn no(reason: &'static str, message: impl Into<String>) -> Trouble {
    Trouble::Says(Says::no(reason, message))
}

/// Reads it, all of it from the repository's own namespace.
pub(super) async fn material(
    client: &Client,
    administrators: &str,
    repository: &Repository,
) -> Result<Material, Trouble> {
    let namespace = repository.namespace().unwrap_or_default();
    let reader = Reader { secrets: Api::namespaced(client.clone(), &namespace) };
    let passphrase = reader.passphrase(repository).await?;
    let mut store = match &repository.spec.backup_storage_location {
        Some(name) => {
            let locations: Api<BackupStorageLocation> = Api::namespaced(client.clone(), &namespace);
            let location = match locations.get(name).await {
                Ok(location) => Some(location),
                // Without Velero there is not even the kind.
                Err(error) if is_unknown(&error) => None,
                Err(error) => return Err(error.into()),
            };
            let location = location.ok_or_else(|| {
                let message = format!("There is no BackupStorageLocation {name} in namespace {namespace}. Create it, or give the Repository another place.");
                no("LocationMissing", message)
            })?;
            reader.of_location(&location.spec).await?
        }
        None => reader.of_url(repository).await?,
    };
    store.reach = if namespace == administrators { ReachOfStore::Anywhere } else { ReachOfStore::Internet };
    borrows_nothing(repository, &store)?;
    is_small(&store)?;
    Ok(Material { store, passphrase })
}

/// That a tenant's repository borrows nothing of the nodes', the cluster's or the administrators'.
fn borrows_nothing(repository: &Repository, store: &StoreAccess) -> Result<(), Trouble> {
    if store.reach == ReachOfStore::Anywhere {
        return Ok(());
    }
    if !["s3://", "az://", "gs://"].iter().any(|scheme| store.url.starts_with(scheme)) {
        return Err(no(
            "NotAllowed",
            "A tenant's Repository lies in a bucket: s3://, az:// or gs://. A folder or a plugin is the administrators'.",
        ));
    }
    if store.credentials.is_none() {
        return Err(no(
            "NotAllowed",
            "A tenant's Repository names its own credentials: put them into a Secret of this namespace and name it.",
        ));
    }
    if !repository.spec.allowed_namespaces.is_empty() {
        return Err(no(
            "NotAllowed",
            "A tenant's Repository serves its own namespace only: leave allowedNamespaces out.",
        ));
    }
    Ok(())
}

/// That it takes up little of the controller's and the agents' memory, which everybody's have to fit in.
fn is_small(store: &StoreAccess) -> Result<(), Trouble> {
    let credentials = || store.credentials.iter().flatten();
    let decoded = |text: &String| text.len() / 4 * 3;
    let size: usize = credentials().map(|(name, value)| name.len() + decoded(value)).sum();
    if size + store.ca.as_ref().map_or(0, String::len) > LARGEST || credentials().count() > MOST_FILES {
        let message = format!(
            "The store's credentials and CA are more than {} KiB or {MOST_FILES} keys. Put nothing else into their Secret.",
            LARGEST / 1024
        );
        return Err(no("CredentialsTooLarge", message));
    }
    Ok(())
}

struct Reader {
    secrets: Api<Secret>,
}

impl Reader {
    async fn secret(&self, name: &str, what: &str) -> Result<BTreeMap<String, ByteString>, Trouble> {
        let secret = self.secrets.get_opt(name).await?;
        let secret = secret.ok_or_else(|| {
            no(
                "SecretMissing",
                format!("There is no Secret {name}, which holds {what}. Create it in the Repository's namespace."),
            )
        })?;
        Ok(secret.data.unwrap_or_default())
    }

    async fn value(&self, name: &str, key: &str, what: &str) -> Result<Vec<u8>, Trouble> {
        let value = self.secret(name, what).await?.remove(key);
        let missing = || {
            no(
                "SecretMissing",
                format!("Secret {name} has no key {key}, which holds {what}. Add it, or name another key."),
            )
        };
        Ok(value.ok_or_else(missing)?.0)
    }

    async fn passphrase(&self, repository: &Repository) -> Result<Zeroizing<Vec<u8>>, Trouble> {
        let reference = &repository.spec.passphrase_secret;
        let mut value = Zeroizing::new(self.value(&reference.name, &reference.key, "the passphrase").await?);
        // As of a passphrase file.
        cut_newline(&mut value);
        if value.len() < SHORTEST {
            let message = format!(
                "The passphrase in Secret {} has fewer than {SHORTEST} characters, so that whoever has the store could guess it. Choose a longer one.",
                reference.name
            );
            return Err(no("PassphraseTooShort", message));
        }
        Ok(value)
    }

    async fn of_url(&self, repository: &Repository) -> Result<StoreAccess, Trouble> {
        let credentials = match &repository.spec.credentials_secret {
            Some(reference) => Some(encoded(self.secret(&reference.name, "the store's credentials").await?)),
            None => None,
        };
        let ca = match &repository.spec.ca_secret {
            Some(reference) => Some(self.ca(reference).await?),
            None => None,
        };
        let url = repository.spec.url.clone().unwrap_or_default();
        Ok(StoreAccess { url, reach: ReachOfStore::default(), credentials, ca })
    }

    async fn ca(&self, reference: &CaSecretReference) -> Result<String, Trouble> {
        let CaSecretReference { name, key } = reference;
        let value = self.value(name, key, "the store's CA").await?;
        certificates(value).map_err(|why| {
            no("CaInvalid", format!("Key {key} of Secret {name} is not the store's CA: {why}. {}", why.advice()))
        })
    }

    async fn of_location(&self, location: &BackupStorageLocationSpec) -> Result<StoreAccess, Trouble> {
        if location.access_mode.as_deref() == Some("ReadOnly") {
            return Err(no(
                "LocationReadOnly",
                "The BackupStorageLocation is ReadOnly. Give the Repository one that can be written.",
            ));
        }
        let url = url_of(location)?;
        let mut credentials = None;
        if let Some(reference) = &location.credential {
            let value = self.value(&reference.name, &reference.key, "the store's credentials").await?;
            // Velero's own name for it, whatever the key is called.
            credentials = Some(encoded(BTreeMap::from([("cloud".to_owned(), ByteString(value))])));
        }
        let ca = match (&location.object_storage.ca_cert_ref, &location.object_storage.ca_cert) {
            (Some(reference), _) => Some(self.value(&reference.name, &reference.key, "the store's CA").await?),
            (None, Some(ca)) => Some(
                Base64::decode_vec(ca)
                    .map_err(|_| no("LocationInvalid", "The caCert of the BackupStorageLocation is not base64."))?,
            ),
            (None, None) => None,
        };
        let pem = |ca| {
            certificates(ca).map_err(|why| {
                let message = format!("The CA of the BackupStorageLocation is none: {why}. {}", why.advice());
                no("LocationInvalid", message)
            })
        };
        let ca = ca.map(pem).transpose()?;
        Ok(StoreAccess { url, reach: ReachOfStore::default(), credentials, ca })
    }
}

/// What is PEM of certificates alone: a key that somebody named instead, or with them, goes to no agent.
fn certificates(value: Vec<u8>) -> Result<String, NotAuthorities> {
    check_authorities(&value)?;
    String::from_utf8(value).map_err(|_| NotAuthorities::Nothing)
}

fn encoded(data: BTreeMap<String, ByteString>) -> BTreeMap<String, String> {
    data.into_iter().map(|(name, value)| (name, Base64::encode_string(&value.0))).collect()
}

/// Where remora's part of a place of Velero's is.
fn url_of(location: &BackupStorageLocationSpec) -> Result<String, Trouble> {
    let vendor = location.provider.rsplit('/').next().unwrap_or_default();
    let scheme = match vendor {
        "aws" => "s3",
        "azure" => "az",
        "gcp" => "gs",
        other => {
            return Err(no(
                "LocationUnsupported",
                format!("The BackupStorageLocation's provider is {other}; remora knows aws, azure and gcp."),
            ));
        }
    };
    if location.config.get("insecureSkipTLSVerify").is_some_and(|value| value == "true") {
        return Err(no(
            "LocationUnsupported",
            "The BackupStorageLocation skips the check of certificates, which remora never does. Give it the store's CA in caCert.",
        ));
    }
    let prefix = location.object_storage.prefix.trim_matches('/');
    if prefix.is_empty() {
        return Err(no(
            "LocationWithoutPrefix",
            "The BackupStorageLocation has no prefix: all of its bucket is Velero's, which calls other folders in it an error. Give it a prefix, or name the place by url.",
        ));
    }
    let invalid = || no("LocationInvalid", "The BackupStorageLocation's bucket and prefix make no URL.");
    let mut url = Url::parse(&format!("{scheme}://bucket")).map_err(|_| invalid())?;
    url.set_host(Some(&location.object_storage.bucket)).map_err(|_| invalid())?;
    url.path_segments_mut().map_err(|()| invalid())?.extend(format!("{prefix}{BESIDE}").split('/'));
    let named = |key: &str| location.config.get(key).filter(|value| !value.is_empty());
    let parameters: &[(&str, &str)] = match scheme {
        "s3" => &[("region", "region"), ("endpoint", "s3Url"), ("path-style", "s3ForcePathStyle")],
        "az" => &[("account", "storageAccount")],
        _ => &[],
    };
    for (parameter, key) in parameters {
        if let Some(value) = named(key) {
            url.query_pairs_mut().append_pair(parameter, value);
        }
    }
    Ok(url.into())
}

#[cfg(test)]
mod tests;
