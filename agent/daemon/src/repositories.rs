//! The repositories, each opened when it is first needed: a passphrase takes a second to try. What a mover keeps in a form of its
//! own is opened for each run, by its document as it is then.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use remora_core::ports::Mover;
use remora_core::{Error, ErrorKind, Result};
use remora_plugins::documents::Target;
use remora_plugins::movers::{Movers, VolumeMover};
use remora_vault::{KeyFile, Passphrase, Secret, Vault, VaultOptions};
use tokio::sync::OnceCell;

use crate::config::Repository;

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

    /// What a policy means that names this, or nothing; none if that is not there. Of several names of one place it is the first:
    /// what one policy keeps there is not dropped by another one's rules.
    pub(crate) fn meant(&self, target: Option<&Target>) -> Option<Target> {
        match self.find(target).ok()? {
            Target::Repository(name) => {
                let named = self.configured.get(&name)?;
                let (first, _) = self.configured.iter().find(|(_, other)| other.is_where(named))?;
                Some(Target::Repository(first.clone()))
            }
            mover @ Target::Mover(_) => Some(mover),
        }
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
        (Some(path), _) => KeyFile::of_file(path).map(Secret::KeyFile),
        (None, Some(path)) => Passphrase::of_file(path).map(Secret::Passphrase),
        (None, None) => Err(Error::new(ErrorKind::Invalid, "the repository has no key_file and no passphrase_file")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn several_names_of_one_place_mean_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str, url: &str| format!("[repositories.{name}]\nurl = '{url}'\nkey_file = 'k'\n");
        let text = [("a", "/r"), ("b", "/r/"), ("c", "/r/c"), ("d", "s3://r"), ("e", "s3://r/")];
        std::fs::write(folder.path().join("agent.toml"), text.map(|(name, url)| place(name, url)).concat()).unwrap();
        let configured = Config::read(folder.path()).unwrap().repositories;
        let repositories = Repositories::new(configured, Movers::new("plugins", None), folder.path().into());
        let repository = |name: &str| Target::Repository(name.to_owned());
        for (name, meant) in [("a", "a"), ("b", "a"), ("c", "c"), ("d", "d"), ("e", "d")] {
            assert_eq!(repositories.meant(Some(&repository(name))), Some(repository(meant)), "{name}");
        }
        assert_eq!(repositories.meant(Some(&repository("f"))), None);
        assert_eq!(repositories.meant(None), None, "there are several");
        let mover = Target::Mover("a".to_owned());
        assert_eq!(repositories.meant(Some(&mover)), Some(mover));
    }
}
