//! What the controller's key service tells an agent: how to open the repository of a run of its node, for that run's
//! tenant.
//!
//! `GET /v1/runs/<namespace>/<name>`, of a restore `/v1/restores/<namespace>/<name>`, with `Authorization: Bearer <token of the
//! agent's ServiceAccount for AUDIENCE>`. The answer is [`RunKeys`] (200), or [`Refusal`] with 401 (no such token), 403 (no run
//! of that node, whether it is there or not, or one that is not allowed any more), 409 (the run has ended, was cancelled, or is
//! late) or 503 (not now: ask again).

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use base64ct::{Base64, Encoding};
use remora_core::{Error, ErrorKind, Result};
use remora_vault::{Access, Grant, Limits, Location, Plugins, Reach};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

/// Whom an agent's token is for.
pub const AUDIENCE: &str = "remora-controller";

/// The path of a backup run's keys.
pub fn path(namespace: &str, name: &str) -> String {
    format!("/v1/runs/{namespace}/{name}")
}

/// The path of a restore run's.
pub fn restore_path(namespace: &str, name: &str) -> String {
    format!("/v1/restores/{namespace}/{name}")
}

/// How the worker of a run is reached. Prints no secret.
#[derive(Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerAccess {
    /// Its address and port.
    pub address: SocketAddr,
    /// What its certificate is signed by; PEM.
    pub ca: String,
    /// What the agent shows; PEM.
    pub certificate: String,
    /// The key of that; PEM.
    pub key: String,
    /// The claims that it has, by the numbers that it knows them by.
    pub claims: Vec<String>,
}

/// What an agent needs for a run: where a repository is, what opens one tenant's part of it, and the way to the run's worker.
/// Prints no secret.
#[derive(Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunKeys {
    /// The tenant: the run's namespace.
    pub tenant: String,
    /// How its store is reached.
    #[serde(flatten)]
    pub store: StoreAccess,
    /// A [`Grant`], as text.
    pub grant: String,
    /// The worker: of a restore, and of the backup of a halted machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerAccess>,
    /// Of a backup into an administrators' repository: the names of those of them that are certainly not this one. Any other name
    /// that a policy has may be a second one of this place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub elsewhere: Vec<String>,
}

/// How a repository's store is reached. Prints no secret.
#[derive(Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreAccess {
    /// As [`Location`] takes it.
    pub url: String,
    /// What may be connected to.
    pub reach: ReachOfStore,
    /// The store's credentials: files by their names, as a Secret's folder has them; base64. None if it needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<BTreeMap<String, String>>,
    /// PEM certificates that the store's is signed by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

/// [`Reach`], as a word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReachOfStore {
    /// An administrator's repository.
    Anywhere,
    /// A tenant's. Whatever is not said is that.
    #[default]
    Internet,
}

/// Why there are no keys.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// In one word of capitals and small letters.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl RunKeys {
    /// What opens the tenant's part.
    pub fn grant(&self) -> Result<Grant> {
        self.grant.parse()
    }
}

impl StoreAccess {
    /// The place. The credentials' files are written to `folder`, which is made and must not exist; it has to stay as long
    /// as the place is used, and belongs in memory.
    ///
    /// Plugins are the administrators': a tenant's repository gets none.
    pub fn location(&self, folder: &Path, plugins: Option<&Plugins>) -> Result<Location> {
        let failed = |e| Error::io(format!("keeping credentials in {}", folder.display()), e);
        fs::DirBuilder::new().mode(0o700).create(folder).map_err(failed)?;
        let plugins = plugins.filter(|_| self.reach == ReachOfStore::Anywhere).cloned();
        let mut access = Access { limits: Limits::default(), reach: self.reach.into(), plugins, ..Access::default() };
        if let Some(ca) = &self.ca {
            let file = folder.join("ca.pem");
            write(&file, ca.as_bytes()).map_err(failed)?;
            access.ca_file = Some(file);
        }
        if let Some(credentials) = &self.credentials {
            let files = folder.join("credentials");
            fs::DirBuilder::new().mode(0o700).create(&files).map_err(failed)?;
            for (name, content) in credentials {
                let content = Zeroizing::new(Base64::decode_vec(content).map_err(|_| unreadable(name))?);
                write(&files.join(file_name(name)?), &content).map_err(failed)?;
            }
            access.credentials = Some(files);
        }
        Ok(self.url.parse::<Location>()?.reached_by(access))
    }
}

/// Makes the folder below which what opens repositories is kept, with nothing left in it of a process that was killed: whatever
/// has a name that begins with `prefix`.
pub fn clear(folder: &Path, prefix: &str) -> Result<()> {
    let failed = |e| {
        Error::io(format!("clearing {}", folder.display()), e)
            .advise("It has to be a folder of this process's own: in a pod an emptyDir in memory.")
    };
    fs::create_dir_all(folder).map_err(failed)?;
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            fs::remove_dir_all(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}

/// A name as a Secret's keys are.
fn file_name(name: &str) -> Result<&str> {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if plain && !name.is_empty() && !name.starts_with('.') { Ok(name) } else { Err(unreadable(name)) }
}

fn unreadable(name: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("the credentials' part {name:?} cannot be read"))
}

fn write(path: &Path, content: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(content)
}

impl From<ReachOfStore> for Reach {
    fn from(reach: ReachOfStore) -> Self {
        match reach {
            ReachOfStore::Anywhere => Self::Anywhere,
            ReachOfStore::Internet => Self::Internet,
        }
    }
}

impl Drop for RunKeys {
    fn drop(&mut self) {
        self.grant.zeroize();
    }
}

impl Drop for WorkerAccess {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl fmt::Debug for WorkerAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerAccess").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for StoreAccess {
    fn drop(&mut self) {
        self.credentials.iter_mut().flat_map(BTreeMap::values_mut).for_each(Zeroize::zeroize);
    }
}

impl fmt::Debug for RunKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunKeys").field("tenant", &self.tenant).field("store", &self.store).finish_non_exhaustive()
    }
}

impl fmt::Debug for StoreAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreAccess").field("url", &self.url).field("reach", &self.reach).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn access(credentials: &serde_json::Value) -> StoreAccess {
        let access = json!({
            "url": "s3://bucket/prefix", "reach": "anywhere", "credentials": credentials, "ca": "-----BEGIN",
        });
        serde_json::from_value(access).unwrap()
    }

    #[test]
    fn credentials_become_files_that_their_owner_alone_can_read() {
        use std::os::unix::fs::PermissionsExt;
        let above = tempfile::tempdir().unwrap();
        let folder = above.path().join("keys");
        access(&json!({"cloud": "aHVudGVyMg=="})).location(&folder, None).unwrap();
        assert_eq!(fs::read(folder.join("credentials/cloud")).unwrap(), b"hunter2");
        assert_eq!(fs::read(folder.join("ca.pem")).unwrap(), b"-----BEGIN");
        for (path, mode) in [("", 0o700), ("credentials", 0o700), ("credentials/cloud", 0o600)] {
            assert_eq!(fs::metadata(folder.join(path)).unwrap().permissions().mode() & 0o777, mode, "{path}");
        }
    }

    #[test]
    fn plugins_open_the_administrators_repositories_and_no_tenant_s() {
        let above = tempfile::tempdir().unwrap();
        let plugins = Plugins::new(|_, _| Err(Error::new(ErrorKind::NotFound, "there is none")));
        for (reach, given) in [(ReachOfStore::Anywhere, Some(plugins.clone())), (ReachOfStore::Internet, None)] {
            let access = StoreAccess { url: "plugin:acme/p".into(), reach, credentials: None, ca: None };
            let location = access.location(&above.path().join(format!("{reach:?}")), Some(&plugins)).unwrap();
            let wanted = Access { reach: reach.into(), plugins: given, ..Access::default() };
            assert_eq!(location, "plugin:acme/p".parse::<Location>().unwrap().reached_by(wanted), "{reach:?}");
        }
    }

    #[test]
    fn what_is_no_file_s_name_is_refused() {
        let above = tempfile::tempdir().unwrap();
        for (number, name) in ["", "..", "../ca.pem", "a/b", ".hidden", "a\0b"].iter().enumerate() {
            let folder = above.path().join(number.to_string());
            assert_eq!(
                access(&json!({*name: ""})).location(&folder, None).unwrap_err().kind(),
                ErrorKind::Invalid,
                "{name}"
            );
        }
        assert!(access(&json!({"a": "%"})).location(&above.path().join("b"), None).is_err());
    }

    #[test]
    fn no_secret_is_printed_and_what_is_not_said_reaches_least() {
        let keys: RunKeys = serde_json::from_value(json!({
            "tenant": "shop", "url": "s3://b", "reach": "internet", "credentials": {"cloud": "aHVudGVyMg=="}, "grant": "00ff",
        }))
        .unwrap();
        let printed = format!("{keys:?}");
        assert!(!printed.contains("aHVu") && !printed.contains("00ff"), "{printed}");
        assert_eq!(ReachOfStore::default(), ReachOfStore::Internet);
    }
}
