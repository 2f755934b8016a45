//! The object store, with errors that name the object and say what to do.

mod access;
mod credentials;
mod doctor;
mod errors;
#[cfg(test)]
pub(crate) mod lenient;
mod limits;
mod lock;
mod open;
mod outage;
mod reach;
mod staging;
mod tending;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::TryStreamExt;
use jiff::SignedDuration;
use object_store::path::Path;
use object_store::{Extensions, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use remora_core::{Error, ErrorKind, Result};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

use crate::location::{Location, Place};
use crate::names;
pub use access::{Access, Limits, Plugins, Reach};
pub use doctor::{Finding, Need, examine};
use open::Patience;
pub use open::client_of;

pub(crate) use lock::{Locks, Version, What, rounded};
pub(crate) use staging::Staged;
pub(crate) use tending::{Deleted, Listed, Missing, PutBack};

/// Ranges that are fetched from a bucket at the same time. A connection each; what they hold is bounded by whoever asks.
const FETCHES: usize = 64;

/// How often a PUT of unknown outcome is tried, the store's client's own repetitions aside.
const TRIES: usize = 2;

/// A folder or a bucket. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Store {
    inner: Arc<dyn ObjectStore>,
    place: String,
    shared: Arc<Shared>,
}

/// What the clones of a store have in common.
struct Shared {
    /// The folder, if it is one.
    folder: Option<PathBuf>,
    /// Set once the store was seen to honour create-only PUTs.
    proven: OnceCell<()>,
    /// Places for ranges of buckets; a folder reads all ranges of a file in one go.
    fetches: Option<Semaphore>,
    /// What it can do with locks, if it is of a kind that may.
    locks: Option<Arc<dyn Locks>>,
    /// How long what is created is kept.
    keep_for: Mutex<Option<SignedDuration>>,
    /// How far whoever chose it is trusted.
    reach: Reach,
    /// Whether it is behind a mover, which looks at a few places of what it stored.
    behind_a_mover: bool,
}

impl fmt::Debug for Store {
    // Not the client, which knows credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.place).finish()
    }
}

/// What became of a create-only PUT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Created {
    /// It is there and synced.
    Yes,
    /// An object of that name exists; it may or may not be this one.
    NameTaken,
}

/// The end of an object, and where it begins.
#[derive(Clone, Debug)]
pub(crate) struct Tail {
    pub(crate) bytes: Bytes,
    /// The object's whole length.
    pub(crate) object_len: u64,
}

/// Names a damaged object at the end of an error's chain of causes, for reports.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub(crate) struct DamagedObject {
    pub(crate) name: String,
    why: Box<dyn std::error::Error + Send + Sync>,
}

impl DamagedObject {
    /// Whether the object does not exist, rather than being damaged.
    pub(crate) fn is_missing(&self) -> bool {
        self.why.is::<Missing>() || self.why.is::<Deleted>()
    }

    /// The damaged object that an error speaks of.
    pub(crate) fn of(error: &Error) -> Option<&Self> {
        let mut next = std::error::Error::source(error);
        while let Some(cause) = next {
            if let Some(damaged) = cause.downcast_ref() {
                return Some(damaged);
            }
            next = cause.source();
        }
        None
    }
}

impl Store {
    /// The store at `location`. A folder must exist; a bucket is not asked yet.
    pub(crate) fn open(location: &Location) -> Result<Self> {
        Self::open_with(location, Patience::USUAL)
    }

    fn open_with(location: &Location, patience: Patience) -> Result<Self> {
        let folder = match &location.place {
            Place::Folder(folder) => Some(folder.clone()),
            Place::Bucket(_) | Place::Plugin(_) => None,
        };
        let open::Opened { store, locks } = open::open(location, patience)?;
        let mut store = Self::new(store, location.to_string(), folder, locks).reached_to(location.access.reach);
        store.unshared().behind_a_mover = location.mover().is_some();
        Ok(store)
    }

    fn new(inner: Arc<dyn ObjectStore>, place: String, folder: Option<PathBuf>, locks: Option<Arc<dyn Locks>>) -> Self {
        let fetches = folder.is_none().then(|| Semaphore::new(FETCHES));
        let (proven, keep_for, reach) = (OnceCell::new(), Mutex::default(), Reach::default());
        let shared = Shared { folder, proven, fetches, locks, keep_for, reach, behind_a_mover: false };
        Self { inner, place, shared: Arc::new(shared) }
    }

    /// Chosen by somebody who is trusted so far. For a store that has no clones yet.
    pub(crate) fn reached_to(mut self, reach: Reach) -> Self {
        self.unshared().reach = reach;
        self
    }

    fn unshared(&mut self) -> &mut Shared {
        Arc::get_mut(&mut self.shared).expect("it has no clones yet")
    }

    /// How far whoever chose it is trusted.
    pub(crate) fn reach(&self) -> Reach {
        self.shared.reach
    }

    /// Whether what is stored goes through a mover: of a large object a few places are read back, then it counts as stored.
    pub(crate) fn is_behind_a_mover(&self) -> bool {
        self.shared.behind_a_mover
    }

    /// Any store, for tests and measurements.
    pub(crate) fn over(inner: Arc<dyn ObjectStore>) -> Self {
        Self::locking_over(inner, None)
    }

    /// One that lies in a folder, for tests.
    #[cfg(test)]
    pub(crate) fn over_folder(inner: Arc<dyn ObjectStore>, folder: PathBuf) -> Self {
        Self::new(inner, "test".into(), Some(folder), None)
    }

    /// Any store that may have locks, for tests and measurements.
    pub(crate) fn locking_over(inner: Arc<dyn ObjectStore>, locks: Option<Arc<dyn Locks>>) -> Self {
        Self::new(inner, "test".into(), None, locks)
    }

    /// From now on, what is created is kept for so long.
    pub(crate) fn keep_new_for(&self, time: Option<SignedDuration>) {
        *self.shared.keep_for.lock().unwrap_or_else(PoisonError::into_inner) = time;
    }

    /// Whether what is created is kept.
    pub(crate) fn keeps_new(&self) -> bool {
        self.shared.keep_for.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Where it is, for messages.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// Stores an object under a name that must be free; synced when this returns.
    ///
    /// "Exists already" may be this very PUT, repeated by the store's client after a lost reply, and a broken connection
    /// may have broken after the PUT took effect: so the object is looked at, and identical bytes are success.
    pub(crate) async fn create(&self, name: &Path, payload: PutPayload) -> Result<Created> {
        self.create_kept(name, payload, self.keep_for(), Extensions::new()).await
    }

    /// The same of one that has a place among those that are sent. It is given back once the object is sent, though a mover's
    /// store then still looks at what it stored; this returns after that.
    pub(crate) async fn create_from(
        &self,
        place: OwnedSemaphorePermit,
        name: &Path,
        payload: PutPayload,
    ) -> Result<Created> {
        // Other clients let go of what goes with a PUT when they please.
        if !self.is_behind_a_mover() {
            let created = self.create(name, payload).await;
            drop(place);
            return created;
        }
        let mut goes_with = Extensions::new();
        goes_with.insert(Arc::new(place));
        self.create_kept(name, payload, self.keep_for(), goes_with).await
    }

    /// The same of an object that only matters for a while: the store is not asked to keep it.
    pub(crate) async fn create_passing(&self, name: &Path, payload: PutPayload) -> Result<Created> {
        self.create_kept(name, payload, None, Extensions::new()).await
    }

    fn keep_for(&self) -> Option<SignedDuration> {
        *self.shared.keep_for.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn create_kept(
        &self,
        name: &Path,
        payload: PutPayload,
        keep_for: Option<SignedDuration>,
        mut goes_with: Extensions,
    ) -> Result<Created> {
        self.prove_create_only().await?;
        for tries_left in (0..TRIES).rev() {
            let put = match (keep_for, self.locks()) {
                (Some(time), Some(locks)) => locks.put_new(name, payload.clone(), time).await,
                _ => self.put_new_with(name, payload.clone(), std::mem::take(&mut goes_with)).await,
            };
            let Err(error) = put else { return Ok(Created::Yes) };
            if !is_taken(&error) && !errors::unknown_outcome(&error) {
                return Err(self.error("storing", name, error));
            }
            match self.holds(name, &payload).await {
                Ok(Some(true)) => return Ok(Created::Yes),
                Ok(Some(false)) => return Ok(Created::NameTaken),
                Ok(None) if tries_left > 0 => {}
                Ok(None) | Err(_) => return Err(self.error("storing", name, error)),
            }
        }
        unreachable!("the last try returns")
    }

    async fn put_new(&self, name: &Path, payload: PutPayload) -> object_store::Result<()> {
        self.put_new_with(name, payload, Extensions::new()).await
    }

    async fn put_new_with(&self, name: &Path, payload: PutPayload, extensions: Extensions) -> object_store::Result<()> {
        let options = PutOptions { mode: PutMode::Create, extensions, ..PutOptions::default() };
        self.inner.put_opts(name, payload, options).await.map(|_| ())
    }

    /// Whether an object has exactly these bytes; none if there is no such object.
    async fn holds(&self, name: &Path, payload: &PutPayload) -> object_store::Result<Option<bool>> {
        let found = match self.inner.get_opts(name, GetOptions::default()).await {
            Ok(found) if found.meta.size != payload.content_length() as u64 => return Ok(Some(false)),
            Ok(found) => found.bytes().await?,
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        if found.len() != payload.content_length() {
            let source = format!("the store sent {} of {} bytes", found.len(), payload.content_length()).into();
            return Err(object_store::Error::Generic { store: "remora", source });
        }
        let mut at = 0;
        let same = payload.iter().all(|part| {
            let there = found.get(at..at + part.len());
            at += part.len();
            there == Some(part)
        });
        Ok(Some(same && at == found.len()))
    }

    /// Makes sure, once a process, that the store does not replace an object by a create-only PUT: two backups at the
    /// same time could else replace one another's points. The object that shows it stays, so that it takes one request.
    pub(crate) async fn prove_create_only(&self) -> Result<()> {
        let proven = self.shared.proven.get_or_try_init(|| async {
            let name = Path::from(names::CREATE_ONLY);
            let mut stored = 0;
            // The first PUT makes the object where it is not there yet; the second one must not replace it.
            while stored < 2 {
                match self.put_new(&name, PutPayload::from_static(names::CREATE_ONLY_TEXT)).await {
                    Ok(()) => stored += 1,
                    Err(error) if is_taken(&error) => return Ok(()),
                    Err(object_store::Error::NotImplemented { .. }) => break,
                    Err(error) => {
                        let error = self.error("storing", &name, error);
                        if error.kind() == ErrorKind::Unsupported {
                            break;
                        }
                        return Err(error);
                    }
                }
            }
            Err(Error::new(
                ErrorKind::Unsupported,
                format!("the store of repository {} does not honour create-only PUTs (If-None-Match: *)", self.place),
            )
            .advise(
                "Two backups at the same time could replace one another's points there, so nothing is written to it. Use \
                 a store that honours them; `remora doctor` tells.",
            ))
        });
        proven.await.copied()
    }

    /// A whole object; none if there is no such object. One longer than `limit` is damage.
    pub(crate) async fn get(&self, name: &Path, limit: u64) -> Result<Option<Bytes>> {
        let found = match self.inner.get_opts(name, GetOptions::default()).await {
            Ok(found) => found,
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(self.error("reading", name, error)),
        };
        if found.meta.size > limit {
            return Err(self.damaged(name, format!("it has {} bytes, at most {limit} make sense", found.meta.size)));
        }
        let size = found.meta.size;
        let bytes = found.bytes().await.map_err(|e| self.error("reading", name, e))?;
        self.whole(name, bytes, size).map(Some)
    }

    /// A body that is as long as was announced.
    fn whole(&self, name: &Path, bytes: Bytes, len: u64) -> Result<Bytes> {
        if bytes.len() as u64 == len {
            return Ok(bytes);
        }
        let what = format!("reading object {name} of repository {}", self.place);
        Err(Error::new(ErrorKind::Unavailable, what)
            .because(format!("the store sent {} of {len} bytes", bytes.len()))
            .advise("Run this again; if it stays so, look at proxies between here and the store."))
    }

    /// The last `len` bytes of an object, or all of a shorter one.
    pub(crate) async fn tail(&self, name: &Path, len: u64) -> Result<Tail> {
        let options = GetOptions { range: Some(GetRange::Suffix(len)), ..GetOptions::default() };
        let found = self.inner.get_opts(name, options).await.map_err(|e| self.error("reading", name, e))?;
        let (object_len, range) = (found.meta.size, found.range.clone());
        let bytes = found.bytes().await.map_err(|e| self.error("reading", name, e))?;
        let bytes = self.whole(name, bytes, range.end - range.start)?;
        Ok(Tail { bytes, object_len })
    }

    /// Several ranges of an object, each exactly as long as asked.
    pub(crate) async fn ranges(&self, name: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let found = match &self.shared.fetches {
            None => self.inner.get_ranges(name, ranges).await,
            // Not `get_ranges`: it would join them to few long requests.
            Some(places) => {
                let fetches = ranges.iter().cloned().map(|range| self.fetch(places, name, range));
                futures::future::try_join_all(fetches).await
            }
        };
        let found: Vec<Bytes> = match found {
            Ok(found) => found,
            Err(error) => return Err(self.range_error(name, ranges, error).await),
        };
        for (range, bytes) in ranges.iter().zip(&found) {
            if bytes.len() as u64 != range.end - range.start {
                let source = format!("the store sent {} bytes for {}..{}", bytes.len(), range.start, range.end).into();
                return Err(self
                    .range_error(name, ranges, object_store::Error::Generic { store: "remora", source })
                    .await);
            }
        }
        Ok(found)
    }

    async fn fetch(&self, places: &Semaphore, name: &Path, range: Range<u64>) -> object_store::Result<Bytes> {
        let _place = places.acquire().await.expect("the semaphore is never closed");
        // Of one range it is `get_range`; a plugin's store answers this one without looking at the object first.
        let mut found = self.inner.get_ranges(name, std::slice::from_ref(&range)).await?;
        let missing = || object_store::Error::Generic { store: "remora", source: "it gave no range".into() };
        found.pop().ok_or_else(missing)
    }

    /// The names of the objects and folders right below a folder.
    pub(crate) async fn children(&self, folder: &Path) -> Result<Vec<String>> {
        let listing =
            self.inner.list_with_delimiter(Some(folder)).await.map_err(|e| self.error("listing", folder, e))?;
        let objects = listing.objects.iter().map(|o| &o.location);
        let names = objects.chain(&listing.common_prefixes).filter_map(|p| p.filename().map(Into::into));
        Ok(names.collect())
    }

    /// How many objects there are, and their bytes.
    pub(crate) async fn usage(&self) -> Result<(u64, u64)> {
        let add =
            |(count, bytes), object: object_store::ObjectMeta| async move { Ok((count + 1, bytes + object.size)) };
        self.inner.list(None).try_fold((0, 0), add).await.map_err(|e| self.error("listing", &Path::default(), e))
    }

    /// Whether an object is there.
    pub(crate) async fn exists(&self, name: &Path) -> Result<bool> {
        self.size(name).await.map(|size| size.is_some())
    }

    /// The bytes of an object; none if there is no such object.
    pub(crate) async fn size(&self, name: &Path) -> Result<Option<u64>> {
        match self.inner.head(name).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(self.error("looking for", name, error)),
        }
    }

    /// Damage of an object, named.
    pub(crate) fn damaged(&self, name: &Path, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::new(ErrorKind::Damaged, format!("object {name} of repository {}", self.place))
            .because(DamagedObject { name: name.to_string(), why: why.into() })
            .advise("Run `remora verify` to learn what else is affected; other points and disks still restore.")
    }

    /// Tells an object that was cut off from a store that does not answer.
    async fn range_error(&self, name: &Path, ranges: &[Range<u64>], error: object_store::Error) -> Error {
        let needed = ranges.iter().map(|r| r.end).max().unwrap_or_default();
        match self.inner.head(name).await {
            Ok(meta) if meta.size < needed => {
                self.damaged(name, format!("it has {} bytes, at least {needed} are wanted", meta.size))
            }
            _ => self.error("reading", name, error),
        }
    }

    #[expect(clippy::needless_pass_by_value, reason = "whoever has the error has no other use for it")]
    fn error(&self, doing: &str, name: &Path, error: object_store::Error) -> Error {
        let what = format!("{doing} object {name} of repository {}", self.place);
        if is_missing(&error) {
            return self.damaged(name, Missing);
        }
        let errors::Explained { kind, why, advice } = errors::explain(&error);
        let error = Error::new(kind, what).because(why);
        match advice {
            Some(advice) => error.advise(advice),
            None => error,
        }
    }
}

fn is_taken(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. })
}

/// Whether the object is missing, and not its bucket.
fn is_missing(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotFound { .. }) && !errors::no_bucket(error)
}
