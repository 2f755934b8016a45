//! The repositories that this process has opened, each once for what opens it now: a passphrase takes a second to try.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use remora_core::{Error, ErrorKind, Result};
use remora_vault::{Keyring, Passphrase, Plugins, Secret, Tenant, Vault};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::tenancy::Material;
use crate::keys::{StoreAccess, clear};

/// A repository that is open.
pub(super) struct Open {
    pub(super) keyring: Keyring,
    /// Where it is, for people.
    pub(super) place: String,
    /// Whether this process made it just now.
    pub(super) made: bool,
    /// Its credentials' files.
    _files: TempDir,
}

/// How long one that nobody asks for stays: longer than the controller that acts takes between two looks.
const IDLE: Duration = Duration::from_mins(20);

/// One of them.
struct Kept {
    /// What it was opened with.
    print: blake3::Hash,
    /// When it was asked for last.
    asked: Instant,
    /// What became of that.
    cell: Arc<OnceCell<Arc<Open>>>,
}

/// By namespace and name.
type Cells = HashMap<(String, String), Kept>;

/// All of them. Cheap to clone.
#[derive(Clone)]
pub(super) struct Opened {
    cells: Arc<Mutex<Cells>>,
    plugins: Option<Plugins>,
    /// Where credentials are kept as files, in folders whose names begin so.
    files: (PathBuf, String),
}

/// Whether an empty place is made a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IfEmpty {
    Make,
    Fail,
}

impl Opened {
    /// None yet. `plugins` open the administrators' repositories of plugins. What the controller of the same name has left is
    /// removed, for a pod's container that was killed and its next one have one folder.
    pub(super) fn new(plugins: Option<Plugins>, instance: &str) -> Result<Self> {
        Self::below(std::env::temp_dir(), plugins, instance)
    }

    fn below(folder: PathBuf, plugins: Option<Plugins>, instance: &str) -> Result<Self> {
        // No instance's name has the last sign, so none's names begin as another's.
        let prefix = format!("remora-keys-{instance}_");
        clear(&folder, &prefix)?;
        Ok(Self { cells: Arc::default(), plugins, files: (folder, prefix) })
    }

    /// A new folder for the files of one that is opened.
    fn files(&self) -> Result<TempDir> {
        let (folder, prefix) = &self.files;
        let made = tempfile::Builder::new().prefix(prefix).tempdir_in(folder);
        made.map_err(|e| Error::io(format!("making a folder for credentials in {}", folder.display()), e))
    }

    /// The repository, opened with this material.
    pub(super) async fn get(&self, of: (String, String), material: &Material, if_empty: IfEmpty) -> Result<Arc<Open>> {
        let print = fingerprint(material);
        let cell = self.cell(of, print, Instant::now());
        cell.get_or_try_init(|| open(self, material, if_empty)).await.cloned()
    }

    fn cell(&self, of: (String, String), print: blake3::Hash, asked: Instant) -> Arc<OnceCell<Arc<Open>>> {
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        // Where nobody acts, nobody knows which there are.
        cells.retain(|_, kept| asked.saturating_duration_since(kept.asked) < IDLE);
        let kept = cells.entry(of).or_insert_with(|| Kept { print, asked, cell: Arc::default() });
        if kept.print != print {
            *kept = Kept { print, asked, cell: Arc::default() };
        }
        kept.asked = asked;
        Arc::clone(&kept.cell)
    }

    /// Forgets all but those.
    pub(super) fn keep(&self, is_there: impl Fn(&(String, String)) -> bool) {
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        cells.retain(|of, _| is_there(of));
    }

    /// Opens it anew the next time.
    pub(super) fn forget(&self, namespace: &str, name: &str) {
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        cells.remove(&(namespace.to_owned(), name.to_owned()));
    }
}

/// The keys of one tenant, which is made if it is new.
pub(super) async fn grant(open: &Open, tenant: &Tenant) -> Result<remora_vault::Grant> {
    match open.keyring.grant(tenant).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        known => return known,
    }
    match open.keyring.add_tenant(tenant).await {
        // Another controller may have been faster.
        Err(error) if error.kind() != ErrorKind::Exists => return Err(error),
        _ => {}
    }
    open.keyring.grant(tenant).await
}

async fn open(opened: &Opened, material: &Material, if_empty: IfEmpty) -> Result<Arc<Open>> {
    let files = opened.files()?;
    let location = material.store.location(&files.path().join("store"), opened.plugins.as_ref())?;
    let secret = Secret::Passphrase(Passphrase::new(material.passphrase.to_vec()));
    let mut made = false;
    let keyring = match Keyring::open(&location, &secret).await {
        Err(error) if error.kind() == ErrorKind::NotFound && if_empty == IfEmpty::Make => {
            Vault::init(&location, &secret, None).await?;
            made = true;
            Keyring::open(&location, &secret).await?
        }
        opened => opened?,
    };
    Ok(Arc::new(Open { keyring, place: location.to_string(), made, _files: files }))
}

/// What tells material from other material. Of the passphrase too: it stays in this process.
fn fingerprint(material: &Material) -> blake3::Hash {
    let StoreAccess { url, reach, credentials, ca } = &material.store;
    let mut hasher = blake3::Hasher::new();
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    part(url.as_bytes());
    part(&[*reach as u8]);
    for (name, content) in credentials.iter().flatten() {
        part(name.as_bytes());
        part(content.as_bytes());
    }
    part(ca.as_deref().unwrap_or_default().as_bytes());
    part(&material.passphrase);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::ReachOfStore;

    #[test]
    fn what_is_gone_or_not_asked_for_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let (opened, begin) = (Opened::below(folder.path().into(), None, "one").unwrap(), Instant::now());
        let of = |name: &str| ("shop".to_owned(), name.to_owned());
        let ask = |name: &str, after: Duration| opened.cell(of(name), blake3::hash(b"material"), begin + after);
        let (one, two) = (ask("one", Duration::ZERO), ask("two", Duration::ZERO));
        assert!(Arc::ptr_eq(&one, &ask("one", IDLE / 2)), "it is opened once");
        // Only this test holds the second one now.
        ask("one", IDLE);
        assert_eq!(Arc::strong_count(&two), 1);
        assert!(Arc::ptr_eq(&one, &ask("one", IDLE)));
        opened.keep(|of| of.1 != "one");
        assert_eq!(Arc::strong_count(&one), 1);
    }

    #[test]
    fn credentials_that_a_killed_controller_left_are_removed_by_the_next_of_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let at = |instance: &str| Opened::below(folder.path().into(), None, instance).unwrap();
        // Killed, it removes nothing.
        let [left, another] = ["one", "one-more"].map(|instance| at(instance).files().unwrap().keep());
        let store = StoreAccess {
            url: "s3://bucket/prefix".into(),
            reach: ReachOfStore::Internet,
            credentials: Some([("cloud".to_owned(), "aHVudGVyMg==".to_owned())].into()),
            ca: None,
        };
        store.location(&left.join("store"), None).unwrap();
        assert!(left.join("store/credentials/cloud").exists());
        // Something else that is kept there.
        let policies = folder.path().join("policies");
        std::fs::create_dir(&policies).unwrap();
        at("one");
        assert_eq!((left.exists(), another.exists(), policies.exists()), (false, true, true));
    }
}
