//! The repositories, each opened when it is first needed: a passphrase takes a second to try. What a mover keeps in a form of its
//! own is opened for each run, by its document as it is then.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use remora_core::ports::Mover;
use remora_core::{Error, ErrorKind, Result};
use remora_plugins::documents::Target;
use remora_plugins::movers::{Movers, VolumeMover};
use remora_vault::{KeyFile, Passphrase, Secret, Vault, VaultOptions};
use tokio::sync::OnceCell;
use zeroize::Zeroizing;

use crate::config::Repository;

/// A passphrase or key file larger than this is none.
const LARGEST_SECRET: u64 = 64 * 1024;

/// An open repository.
pub(crate) enum Opened {
    /// Of remora's own format.
    Vault(Vault),
    /// What a mover keeps in a form of its own.
    Volumes(VolumeMover),
}

impl Opened {
    /// What both can do.
    pub(crate) fn port(&self) -> &dyn Mover {
        match self {
            Self::Vault(vault) => vault,
            Self::Volumes(volumes) => volumes,
        }
    }
}

type Cells = BTreeMap<String, Arc<OnceCell<Arc<Opened>>>>;

/// All that the configuration names, and what movers keep in a form of their own.
pub(crate) struct Repositories {
    configured: BTreeMap<String, Repository>,
    movers: Movers,
    /// A store that does not answer holds up nobody who asks for another one.
    open: Mutex<Cells>,
    /// Where the host remembers what it saw of them.
    state: PathBuf,
}

impl Repositories {
    pub(crate) fn new(configured: BTreeMap<String, Repository>, movers: Movers, state: PathBuf) -> Self {
        Self { configured, movers, open: Mutex::default(), state }
    }

    /// What a policy names, or the only repository.
    pub(crate) async fn get(&self, target: Option<&Target>) -> Result<Arc<Opened>> {
        match self.find(target)? {
            Target::Mover(name) => self.movers.open_points(&name).map(|points| Arc::new(Opened::Volumes(points))),
            Target::Repository(name) => {
                let cell = Arc::clone(self.opened().entry(name.clone()).or_default());
                let open = async || self.vault(&name).await.map(|vault| Arc::new(Opened::Vault(vault)));
                cell.get_or_try_init(open).await.cloned().map_err(|error| error.within(format!("repository {name}")))
            }
        }
    }

    async fn vault(&self, name: &str) -> Result<Vault> {
        let repository = self.configured.get(name).ok_or_else(|| self.unknown(name))?;
        let secret = secret(repository)?;
        let options = VaultOptions { state: Some(self.state.clone()), ..VaultOptions::default() };
        Vault::open(&repository.location(&self.movers)?, &secret, options).await
    }

    fn opened(&self) -> MutexGuard<'_, Cells> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a policy means that names this, or nothing; none if that is not there.
    pub(crate) fn meant(&self, target: Option<&Target>) -> Option<Target> {
        self.find(target).ok()
    }

    fn find(&self, target: Option<&Target>) -> Result<Target> {
        match target {
            Some(Target::Repository(name)) if !self.configured.contains_key(name) => Err(self.unknown(name)),
            Some(target) => Ok(target.clone()),
            None => match self.configured.keys().collect::<Vec<_>>()[..] {
                [only] => Ok(Target::Repository(only.clone())),
                _ => Err(Error::new(ErrorKind::Invalid, "the policy does not say which repository is its target")
                    .advise(format!(
                        "Give target.repository, one of those in agent.toml ({}), or target.mover.",
                        self.names()
                    ))),
            },
        }
    }

    fn unknown(&self, wanted: &str) -> Error {
        Error::new(ErrorKind::NotFound, format!("agent.toml names no repository {wanted:?}"))
            .advise(format!("It names {}.", self.names()))
    }

    fn names(&self) -> String {
        let names: Vec<_> = self.configured.keys().map(String::as_str).collect();
        if names.is_empty() { "none".into() } else { names.join(", ") }
    }

    /// Opens it anew the next time: its store may have gone away for good, or what opened it may have been mended.
    pub(crate) fn forget(&self, target: Option<&Target>) {
        if let Ok(Target::Repository(name)) = self.find(target) {
            self.opened().remove(&name);
        }
    }
}

fn secret(repository: &Repository) -> Result<Secret> {
    match (&repository.key_file, &repository.passphrase_file) {
        (Some(path), _) => {
            let named = format!("key file {}", path.display());
            KeyFile::new(&read(&named, path)?).map(Secret::KeyFile).map_err(|error| error.within(named))
        }
        (None, Some(path)) => {
            let mut bytes = read(&format!("passphrase file {}", path.display()), path)?;
            if bytes.last() == Some(&b'\n') {
                bytes.pop();
            }
            Ok(Secret::Passphrase(Passphrase::new(bytes.to_vec())))
        }
        (None, None) => Err(Error::new(ErrorKind::Invalid, "the repository has no key_file and no passphrase_file")),
    }
}

fn read(named: &str, path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(1024));
    let file = std::fs::File::open(path).map_err(|e| Error::io(named, e))?;
    file.take(LARGEST_SECRET + 1).read_to_end(&mut bytes).map_err(|e| Error::io(named, e))?;
    if bytes.len() as u64 > LARGEST_SECRET {
        return Err(Error::new(ErrorKind::Invalid, format!("{named} is larger than {LARGEST_SECRET} bytes")));
    }
    Ok(bytes)
}
