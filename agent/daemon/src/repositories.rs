//! The repositories, each opened when it is first needed: a passphrase takes a second to try.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use remora_core::{Error, ErrorKind, Result};
use remora_vault::{KeyFile, Passphrase, Secret, Vault, VaultOptions};
use tokio::sync::OnceCell;
use zeroize::Zeroizing;

use crate::config::Repository;

/// A passphrase or key file larger than this is none.
const LARGEST_SECRET: u64 = 64 * 1024;

type Opened = BTreeMap<String, Arc<OnceCell<Arc<Vault>>>>;

/// All that the configuration names.
pub(crate) struct Repositories {
    configured: BTreeMap<String, Repository>,
    /// A store that does not answer holds up nobody who asks for another one.
    open: Mutex<Opened>,
    /// Where the host remembers what it saw of them.
    state: PathBuf,
}

impl Repositories {
    pub(crate) fn new(configured: BTreeMap<String, Repository>, state: PathBuf) -> Self {
        Self { configured, open: Mutex::default(), state }
    }

    /// The one of that name, or the only one.
    pub(crate) async fn get(&self, name: Option<&str>) -> Result<Arc<Vault>> {
        let (name, repository) = self.find(name)?;
        let cell = Arc::clone(self.opened().entry(name.to_owned()).or_default());
        let opening = async {
            let secret = secret(repository)?;
            let options = VaultOptions { state: Some(self.state.clone()), ..VaultOptions::default() };
            Vault::open(&repository.location()?, &secret, options).await.map(Arc::new)
        };
        let vault = cell.get_or_try_init(|| opening).await;
        vault.cloned().map_err(|error| error.within(format!("repository {name}")))
    }

    fn opened(&self) -> MutexGuard<'_, Opened> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of the one that a policy means, if there is one.
    pub(crate) fn name(&self, name: Option<&str>) -> Option<&str> {
        self.find(name).ok().map(|(name, _)| name)
    }

    fn find(&self, name: Option<&str>) -> Result<(&str, &Repository)> {
        let names = || self.configured.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        match name {
            Some(wanted) => {
                self.configured.get_key_value(wanted).map(|(name, repository)| (name.as_str(), repository)).ok_or_else(
                    || {
                        Error::new(ErrorKind::NotFound, format!("agent.toml names no repository {wanted:?}"))
                            .advise(format!("It names: {}.", names()))
                    },
                )
            }
            None if self.configured.len() == 1 => {
                let only = self.configured.first_key_value().map(|(name, repository)| (name.as_str(), repository));
                only.ok_or_else(|| Error::new(ErrorKind::Failed, "there is no repository"))
            }
            None => Err(Error::new(ErrorKind::Invalid, "the policy does not say which repository is its target")
                .advise(format!("Give target.repository: one of {}.", names()))),
        }
    }

    /// Opens it anew the next time: its store may have gone away for good.
    pub(crate) fn forget(&self, name: Option<&str>) {
        if let Ok((name, _)) = self.find(name) {
            self.opened().remove(name);
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
