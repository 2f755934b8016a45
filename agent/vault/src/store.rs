//! The object store, with errors that name the object and say what to do.

mod tending;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use remora_core::{Error, ErrorKind, Result};

use crate::location::Location;

pub(crate) use tending::{Listed, Missing};

/// A folder, later a bucket. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    inner: Arc<dyn ObjectStore>,
    place: String,
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
        self.why.is::<Missing>()
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
    /// The store at `location`. A folder must exist.
    pub(crate) fn open(location: &Location) -> Result<Self> {
        let folder = location.folder();
        if !folder.is_dir() {
            return Err(Error::new(ErrorKind::NotFound, format!("repository {location}: no such folder"))
                .advise("Check the path, or make a repository there with `remora repo init`."));
        }
        let inner = object_store::local::LocalFileSystem::new_with_prefix(folder)
            .map_err(|e| Error::new(ErrorKind::Failed, format!("repository {location}")).because(e))?
            .with_fsync(true);
        Ok(Self { inner: Arc::new(inner), place: location.to_string() })
    }

    /// Any store, for tests.
    #[cfg(test)]
    pub(crate) fn over(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, place: "test".into() }
    }

    /// Where it is, for messages.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// Stores an object under a name that must be free; synced when this returns.
    pub(crate) async fn create(&self, name: &Path, payload: PutPayload) -> Result<Created> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.inner.put_opts(name, payload, options).await {
            Ok(_) => Ok(Created::Yes),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                Ok(Created::NameTaken)
            }
            Err(error) => Err(self.error("storing", name, error)),
        }
    }

    /// A whole object; none if there is no such object. One longer than `limit` is damage.
    pub(crate) async fn get(&self, name: &Path, limit: u64) -> Result<Option<Bytes>> {
        let found = match self.inner.get_opts(name, GetOptions::default()).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(self.error("reading", name, error)),
        };
        if found.meta.size > limit {
            return Err(self.damaged(name, format!("it has {} bytes, at most {limit} make sense", found.meta.size)));
        }
        found.bytes().await.map(Some).map_err(|e| self.error("reading", name, e))
    }

    /// The last `len` bytes of an object, or all of a shorter one.
    pub(crate) async fn tail(&self, name: &Path, len: u64) -> Result<Tail> {
        let options = GetOptions { range: Some(GetRange::Suffix(len)), ..GetOptions::default() };
        let found = self.inner.get_opts(name, options).await.map_err(|e| self.error("reading", name, e))?;
        let object_len = found.meta.size;
        let bytes = found.bytes().await.map_err(|e| self.error("reading", name, e))?;
        Ok(Tail { bytes, object_len })
    }

    /// Several ranges of an object, each exactly as long as asked.
    pub(crate) async fn ranges(&self, name: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let found = match self.inner.get_ranges(name, ranges).await {
            Ok(found) => found,
            Err(error) => return Err(self.range_error(name, ranges, error).await),
        };
        for (range, bytes) in ranges.iter().zip(&found) {
            if bytes.len() as u64 != range.end - range.start {
                return Err(self.damaged(name, format!("bytes {}..{} are cut off", range.start, range.end)));
            }
        }
        Ok(found)
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
        match self.inner.head(name).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
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

    fn error(&self, doing: &str, name: &Path, error: object_store::Error) -> Error {
        let what = format!("{doing} object {name} of repository {}", self.place);
        match error {
            object_store::Error::NotFound { .. } => self.damaged(name, Missing),
            error if full(&error) => {
                Error::new(ErrorKind::NoSpace, what).because(error).advise("Free space in the repository's store.")
            }
            error => Error::new(ErrorKind::Unavailable, what).because(error),
        }
    }
}

fn full(error: &object_store::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return matches!(io.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
        }
        cause = error.source();
    }
    false
}
