//! The slots of a repository: who can open it, and how that changes without touching any data.

#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use jiff::Timestamp;
use object_store::path::Path;
use remora_core::{Error, ErrorKind, RepositoryId, Result};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::descriptor::Descriptor;
use crate::keys::{Key, RepositoryKeys, random};
use crate::location::Location;
use crate::names::SLOTS;
use crate::removals;
use crate::secret::{Passphrase, Secret};
use crate::slot::{Effort, OpensBy, Slot};
use crate::store::{Created, Reach, Store};

/// A slot is some hundred bytes.
const LIMIT: u64 = 64 * 1024;

/// How many slots a repository has at most: each may cost whoever opens it a second.
const MOST: usize = 32;

/// How many of them are tried in a store that somebody chose who is not trusted.
const MOST_OF_STRANGERS: usize = 8;

/// One passphrase of this process is stretched at a time: each takes its slot's memory, up to a GiB.
static ONE: Semaphore = Semaphore::const_new(1);

/// A slot's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlotId([u8; 8]);

impl SlotId {
    pub(crate) fn random() -> Self {
        Self(random())
    }

    pub(crate) fn path(self) -> Path {
        Path::from(format!("{SLOTS}/{self}.json"))
    }

    /// From an object's name; none for anything else that lies there.
    fn of(file_name: &str) -> Option<Self> {
        let id: Self = file_name.strip_suffix(".json")?.parse().ok()?;
        (file_name == format!("{id}.json")).then_some(id)
    }
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for SlotId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut bytes = [0; 8];
        hex::decode_to_slice(text, &mut bytes)
            .map_err(|_| "a key slot's id has 16 hexadecimal digits; list them with `remora key list`".to_owned())?;
        Ok(Self(bytes))
    }
}

impl Serialize for SlotId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SlotId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What opens a slot, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlotKind {
    /// A passphrase.
    Passphrase,
    /// A key file.
    KeyFile,
}

/// A slot, for people.
#[derive(Clone, Debug, Serialize)]
pub struct SlotInfo {
    /// Its id.
    pub id: SlotId,
    /// None if it cannot be read.
    pub kind: Option<SlotKind>,
    /// None if it cannot be read.
    pub created: Option<Timestamp>,
    /// Whether it is the one that opened the repository just now.
    pub current: bool,
    /// Why it can open nothing; none for a sound one.
    pub unusable: Option<String>,
}

/// A repository opened for its keys.
#[derive(Debug)]
pub struct Keyring {
    pub(crate) store: Store,
    pub(crate) descriptor: Descriptor,
    key: Key,
    opened_by: SlotId,
    effort: Effort,
}

impl Keyring {
    /// Opens the repository at `location` with whichever slot `secret` fits.
    pub async fn open(location: &Location, secret: &Secret) -> Result<Self> {
        Self::open_in(Store::open(location)?, secret).await
    }

    pub(crate) async fn open_in(store: Store, secret: &Secret) -> Result<Self> {
        let descriptor = Descriptor::read(&store).await?;
        let (opened_by, key) = open(&store, secret, descriptor.id).await?;
        Ok(Self { store, descriptor, key, opened_by, effort: Effort::Measured })
    }

    /// The same, to which a passphrase costs no time.
    #[cfg(test)]
    pub(crate) fn without_effort(self) -> Self {
        Self { effort: Effort::Least, ..self }
    }

    /// The slot that opened it.
    pub const fn opened_by(&self) -> SlotId {
        self.opened_by
    }

    /// The slots, by age.
    pub async fn slots(&self) -> Result<Vec<SlotInfo>> {
        let mut slots = Vec::new();
        for id in ids(&self.store).await? {
            let (kind, created, unusable) = match read(&self.store, id).await {
                Ok(slot) => {
                    let kind = match slot.opens_by {
                        OpensBy::Passphrase(_) => SlotKind::Passphrase,
                        OpensBy::KeyFile => SlotKind::KeyFile,
                    };
                    (Some(kind), Some(slot.created), None)
                }
                Err(error) if error.kind() == ErrorKind::Damaged => (None, None, Some(error.chain())),
                Err(error) => return Err(error),
            };
            slots.push(SlotInfo { id, kind, created, current: id == self.opened_by, unusable });
        }
        slots.sort_by_key(|slot| (slot.created, slot.id));
        Ok(slots)
    }

    /// Adds a slot for another secret, and opens it to be sure. No other object changes. If there is one that the secret
    /// opens, it is that one: a call that was broken off may have stored it.
    pub async fn add(&self, secret: &Secret) -> Result<SlotId> {
        match self.opened_with(secret, None).await? {
            Some(id) => Ok(id),
            None => self.create(secret).await,
        }
    }

    /// The slot that a secret opens, if there is one beside `but`.
    async fn opened_with(&self, secret: &Secret, but: Option<SlotId>) -> Result<Option<SlotId>> {
        for id in ids(&self.store).await?.into_iter().filter(|id| Some(*id) != but) {
            match read(&self.store, id).await {
                Ok(slot) if slot.could_open(secret) => {
                    let opened = unwrap(slot, secret, self.descriptor.id).await?;
                    if opened.is_some_and(|key| key.as_bytes() == self.key.as_bytes()) {
                        return Ok(Some(id));
                    }
                }
                Err(error) if error.kind() != ErrorKind::Damaged => return Err(error),
                _ => {}
            }
        }
        Ok(None)
    }

    async fn create(&self, secret: &Secret) -> Result<SlotId> {
        if ids(&self.store).await?.len() >= MOST {
            let what = format!("repository {} has {MOST} key slots already", self.store.place());
            return Err(Error::new(ErrorKind::Refused, what).advise("Remove one first with `remora key remove`."));
        }
        let id = SlotId::random();
        create(&self.store, id, &self.key, secret, self.descriptor.id, self.effort).await?;
        let opened = unwrap(read(&self.store, id).await?, secret, self.descriptor.id).await?;
        match opened {
            Some(key) if key.as_bytes() == self.key.as_bytes() => Ok(id),
            _ => Err(self.store.damaged(&id.path(), "the slot that was just stored does not open")),
        }
    }

    /// Removes a slot, but not the one that opened the repository: so there is always one that is known to work.
    pub async fn remove(&self, id: SlotId) -> Result<()> {
        if id == self.opened_by {
            return Err(Error::new(ErrorKind::Refused, format!("key slot {id} is the one that opened the repository"))
                .advise("Open it with another slot's passphrase or key file; add one first if there is none."));
        }
        if !ids(&self.store).await?.contains(&id) {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no key slot {id}"))
                .advise("List them with `remora key list`."));
        }
        removals::remove(&self.store, id, self.opened_by).await
    }

    /// Exchanges the passphrase that opened the repository for another: adds a slot, then removes the old one. A call
    /// that is broken off leaves the old one, both, or the new one alone; the same call again goes on.
    pub async fn change_passphrase(self, new: Passphrase) -> Result<SlotId> {
        let old = self.opened_by;
        if !matches!(read(&self.store, old).await?.opens_by, OpensBy::Passphrase(_)) {
            return Err(Error::new(ErrorKind::Refused, "the repository was opened with a key file, not a passphrase")
                .advise("Open it with the passphrase to change, or use `remora key add` and `remora key remove`."));
        }
        let new = Secret::Passphrase(new);
        let id = match self.opened_with(&new, Some(old)).await? {
            Some(id) => id,
            None => self.create(&new).await?,
        };
        Self { opened_by: id, ..self }.remove(old).await?;
        Ok(id)
    }

    /// The subkeys of the repository key.
    pub(crate) fn keys(&self) -> RepositoryKeys {
        RepositoryKeys::new(&self.key)
    }
}

/// Adds a slot.
pub(crate) async fn create(
    store: &Store,
    id: SlotId,
    key: &Key,
    secret: &Secret,
    repository: RepositoryId,
    effort: Effort,
) -> Result<()> {
    let (key, secret) = (key.clone(), secret.clone());
    let slot = blocking(move || Slot::wrap(&key, &secret, repository, effort)).await?;
    match store.create(&id.path(), Bytes::from(slot.encode()).into()).await? {
        Created::Yes => Ok(()),
        Created::NameTaken => Err(Error::new(ErrorKind::Exists, format!("key slot {id} exists already"))),
    }
}

/// How many slots there are.
pub(crate) async fn count(store: &Store) -> Result<usize> {
    Ok(ids(store).await?.len())
}

async fn ids(store: &Store) -> Result<Vec<SlotId>> {
    let names = store.children(&Path::from(SLOTS)).await?;
    Ok(names.iter().filter_map(|name| SlotId::of(name)).collect())
}

/// The repository key, by whichever slot the secret fits. A damaged slot does not stand in another's way.
async fn open(store: &Store, secret: &Secret, repository: RepositoryId) -> Result<(SlotId, Key)> {
    let (mut unusable, mut tried) = (None, 0);
    let ids = ids(store).await?;
    let most = match store.reach() {
        Reach::Anywhere => MOST,
        Reach::Internet => MOST_OF_STRANGERS,
    };
    for id in ids.iter().take(MOST) {
        match read(store, *id).await {
            Ok(slot) if slot.could_open(secret) => {
                if tried == most {
                    return Err(too_many(store, secret, most));
                }
                tried += 1;
                if let Some(key) = unwrap(slot, secret, repository).await? {
                    return Ok((*id, key));
                }
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Damaged => unusable = Some(error),
            Err(error) => return Err(error),
        }
    }
    let place = store.place();
    match unusable {
        _ if ids.is_empty() => Err(Error::new(ErrorKind::Damaged, format!("repository {place} has no key slot"))
            .advise("Copy the folder `keys` back from another copy of the repository.")),
        None => Err(wrong(store, secret, tried, ids.len())),
        Some(damage) => {
            let what = format!("the {} opens none of the {tried} sound slots that take one", secret.noun());
            Err(damage
                .within(what)
                .advise("Try another slot's secret, or copy the slot back from another copy of the repository."))
        }
    }
}

fn too_many(store: &Store, secret: &Secret, most: usize) -> Error {
    let (place, noun) = (store.place(), secret.noun());
    Error::new(ErrorKind::WrongKey, format!("repository {place}: the {noun} opens none of the first {most} key slots that take one, and no more are tried"))
        .advise("Check it, and remove slots that nobody needs with `remora key remove`.")
}

fn wrong(store: &Store, secret: &Secret, tried: usize, slots: usize) -> Error {
    let noun = secret.noun();
    let what = format!(
        "repository {}: the {noun} opens none of its key slots ({slots}, of which {tried} take a {noun})",
        store.place()
    );
    Error::new(ErrorKind::WrongKey, what).advise(match secret {
        Secret::Passphrase(_) => {
            "Check REMORA_PASSPHRASE, the passphrase file (one trailing newline is ignored), or what you typed."
        }
        Secret::KeyFile(_) => "Check --key-file and REMORA_KEY_FILE, or open it with a passphrase.",
    })
}

async fn read(store: &Store, id: SlotId) -> Result<Slot> {
    let path = id.path();
    let bytes = store.get(&path, LIMIT).await?.ok_or_else(|| store.damaged(&path, "it is missing"))?;
    let slot = Slot::decode(&bytes).map_err(|why| store.damaged(&path, why))?;
    slot.check_cost(store.reach()).map_err(|why| store.damaged(&path, why))?;
    Ok(slot)
}

async fn unwrap(slot: Slot, secret: &Secret, repository: RepositoryId) -> Result<Option<Key>> {
    let secret = secret.clone();
    blocking(move || slot.unwrap(&secret, repository)).await
}

/// Stretching a passphrase takes a second of a core, and its memory: also when nobody waits for it any more.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let place = ONE.acquire().await.expect("it is never closed");
    let done = tokio::task::spawn_blocking(move || {
        let _place = place;
        work()
    })
    .await;
    done.map_err(|e| Error::new(ErrorKind::Failed, "deriving a key").because(e))?
}
