//! The repositories, each opened when it is first needed: a passphrase takes a second to try. What a mover keeps in a form of its
//! own is opened for each run, by its document as it is then.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::join_all;
use remora_core::ports::Mover;
use remora_core::{Error, ErrorKind, RepositoryId, Result};
use remora_plugins::documents::Target;
use remora_plugins::movers::{Movers, VolumeMover};
use remora_vault::{KeyFile, Passphrase, Secret, Vault, VaultOptions};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::config::Repository;

/// So long one is not tried again that could not be opened in time: a run would wait for it at its end each time, and a mounted
/// folder that does not answer keeps a thread for each try.
const REST: Duration = Duration::from_hours(1);

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
    /// Which repository each is that was opened, by the first name of its place.
    ids: Mutex<BTreeMap<String, RepositoryId>>,
    /// When each was last tried to be opened for that alone.
    tried: Mutex<BTreeMap<String, Instant>>,
    /// Where the host remembers what it saw of them.
    state: PathBuf,
}

impl Repositories {
    pub(crate) fn new(configured: BTreeMap<String, Repository>, movers: Movers, state: PathBuf) -> Self {
        Self { configured, movers, open: Mutex::default(), ids: Mutex::default(), tried: Mutex::default(), state }
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
        let vault = Vault::open(&repository.location(&self.movers)?, &secret, options).await?;
        self.learn(name, vault.repository());
        Ok(vault)
    }

    /// Remembers which repository a name's place holds. That another place holds the same one is told: somebody means two.
    pub(crate) fn learn(&self, name: &str, id: RepositoryId) {
        let Some(name) = self.first(name) else { return };
        let mut ids = self.ids();
        if ids.insert(name.clone(), id) == Some(id) {
            return;
        }
        for (other, _) in ids.iter().filter(|(other, of)| **of == id && *other != name) {
            let advice = "Take one of them out of agent.toml, and name the other one in all policies.";
            let what =
                "two names of agent.toml are one repository: of its points stays what the policies of either keep";
            tracing::warn!(repository = name, other, %id, advice, "{what}");
        }
    }

    /// Opens each that was not opened since the start, and closes it again: only then is it known to be another one than the others.
    /// It takes `most` at the most.
    pub(crate) async fn meet_others(&self, most: Duration) {
        let opened = self.strangers(Instant::now()).into_iter().map(|name| async move {
            if let Err(error) = self.vault(name).await {
                tracing::debug!(repository = name, error = error.chain(), "it is not known which repository this is");
            }
        });
        if timeout(most, join_all(opened)).await.is_err() {
            tracing::debug!("it is not known of each repository which one it is");
        }
    }

    /// Those that were not opened since the start, without those that rest; they are tried now.
    fn strangers(&self, now: Instant) -> Vec<&String> {
        let (ids, mut tried) = (self.ids(), self.tried.lock().unwrap_or_else(PoisonError::into_inner));
        let rests = |name: &String| tried.get(name).is_some_and(|last| now.duration_since(*last) < REST);
        let is_first = |name: &String| self.first(name) == Some(name);
        let strangers: Vec<_> =
            self.configured.keys().filter(|name| is_first(name) && !ids.contains_key(*name) && !rests(name)).collect();
        tried.extend(strangers.iter().map(|name| ((*name).clone(), now)));
        strangers
    }

    fn ids(&self) -> MutexGuard<'_, BTreeMap<String, RepositoryId>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self) -> MutexGuard<'_, Cells> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a policy means that names this, or nothing; none if that is not there. Of several names of one place it is the first:
    /// what one policy keeps there is not dropped by another one's rules.
    pub(crate) fn meant(&self, target: Option<&Target>) -> Option<Target> {
        match self.find(target).ok()? {
            Target::Repository(name) => self.first(&name).cloned().map(Target::Repository),
            mover @ Target::Mover(_) => Some(mover),
        }
    }

    /// The same, seen from what was meant `here`: two URLs may be one place, so a repository that is not known to be another one
    /// than that counts as a second name of it.
    pub(crate) fn meant_from(&self, here: Option<&Target>, target: Option<&Target>) -> Option<Target> {
        let meant = self.meant(target)?;
        match (&meant, here) {
            (Target::Repository(there), Some(Target::Repository(this))) if !self.are_apart(there, this) => {
                here.cloned()
            }
            _ => Some(meant),
        }
    }

    /// Whether two are certainly not one: both were opened, and have other ids.
    fn are_apart(&self, one: &str, other: &str) -> bool {
        let ids = self.ids();
        matches!((ids.get(one), ids.get(other)), (Some(one), Some(other)) if one != other)
    }

    /// The first of the names of a place, as far as the URLs tell.
    fn first(&self, name: &str) -> Option<&String> {
        let named = self.configured.get(name)?;
        self.configured.iter().find(|(_, other)| other.is_where(named)).map(|(first, _)| first)
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
    use remora_vault::Location;

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

    #[test]
    fn what_could_not_be_opened_rests_before_it_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str, url: &str| format!("[repositories.{name}]\nurl = '{url}'\nkey_file = 'k'\n");
        let text = [("a", "/a"), ("b", "/b"), ("c", "/b/")].map(|(name, url)| place(name, url)).concat();
        std::fs::write(folder.path().join("agent.toml"), text).unwrap();
        let configured = Config::read(folder.path()).unwrap().repositories;
        let repositories = Repositories::new(configured, Movers::new("plugins", None), folder.path().into());
        let now = Instant::now();
        assert_eq!(repositories.strangers(now), ["a", "b"]);
        assert_eq!(repositories.strangers(now + REST / 2), [""; 0]);
        repositories.learn("a", RepositoryId::random());
        assert_eq!(repositories.strangers(now + REST), ["b"]);
    }

    #[tokio::test]
    async fn what_is_not_known_to_be_another_repository_counts_as_this_one() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("key"), [7; 32]).unwrap();
        let secret = Secret::KeyFile(KeyFile::new(&[7; 32]).unwrap());
        for place in ["one", "two"] {
            let location: Location = folder.path().join(place).to_str().unwrap().parse().unwrap();
            Vault::init(&location, &secret, None).await.unwrap();
        }
        std::os::unix::fs::symlink(folder.path().join("one"), folder.path().join("again")).unwrap();
        let place = |name: &str, url: &str| format!("[repositories.{name}]\nurl = '{url}'\nkey_file = 'key'\n");
        let text = [("a", "one"), ("b", "again"), ("c", "two")].map(|(name, url)| place(name, url)).concat();
        std::fs::write(folder.path().join("agent.toml"), text).unwrap();
        let configured = Config::read(folder.path()).unwrap().repositories;
        let repositories = Repositories::new(configured, Movers::new("plugins", None), folder.path().join("state"));
        let repository = |name: &str| Target::Repository(name.to_owned());
        let seen_from = |here: &str, name: &str| {
            let meant = repositories.meant_from(Some(&repository(here)), Some(&repository(name)));
            assert!(meant == Some(repository(here)) || meant == Some(repository(name)), "{meant:?}");
            meant
        };
        for name in ["a", "b", "c"] {
            assert_eq!(seen_from("a", name), Some(repository("a")), "none was opened: {name}");
        }
        repositories.get(Some(&repository("a"))).await.map(drop).unwrap();
        repositories.forget(Some(&repository("a")));
        assert_eq!(seen_from("a", "c"), Some(repository("a")), "only the one was opened");
        repositories.meet_others(Duration::from_mins(5)).await;
        for (here, name, meant) in [("a", "b", "a"), ("b", "a", "b"), ("a", "c", "c"), ("c", "b", "b"), ("c", "c", "c")]
        {
            assert_eq!(seen_from(here, name), Some(repository(meant)), "{name} from {here}");
        }
        let mover = Target::Mover("a".to_owned());
        assert_eq!(repositories.meant_from(Some(&repository("a")), Some(&mover)), Some(mover.clone()));
        assert_eq!(repositories.meant_from(Some(&mover), Some(&repository("a"))), Some(repository("a")));
        assert_eq!(repositories.meant_from(Some(&repository("a")), Some(&repository("gone"))), None);
    }
}
