//! What keeping a store tidy needs beside create-only writes: listing with times, replacing, removing.

use std::path::PathBuf;

use futures::TryStreamExt;
use jiff::Timestamp;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt, PutPayload};
use remora_core::Result;

use super::Store;
use crate::names;

/// An object as a listing tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// The last part of its name.
    pub(crate) name: String,
    /// Bytes.
    pub(crate) size: u64,
    /// When it was stored, by the store's clock.
    pub(crate) stored: Timestamp,
}

/// Why an object that does not exist is damage; other damage has other words.
#[derive(Debug, thiserror::Error)]
#[error("it is missing")]
pub(crate) struct Missing;

/// Why an entry is missing after the last one of a sequence, and where this host remembers it.
#[derive(Debug, thiserror::Error)]
#[error(
    "it is missing, and this host has seen it ({}): the store was put back to an earlier state, or does not list what it holds",
    .0.display()
)]
pub(crate) struct PutBack(pub(crate) PathBuf);

/// Why an object is missing that the bucket still has.
#[derive(Debug, thiserror::Error)]
#[error("it is missing: it was deleted at {0}, and the bucket still has it")]
pub(crate) struct Deleted(pub(crate) Timestamp);

impl Store {
    /// The objects right below a folder, in order of their names.
    pub(crate) async fn listed(&self, folder: &Path) -> Result<Vec<Listed>> {
        let depth = folder.parts().count() + 1;
        let objects = self.inner.list(Some(folder)).try_filter_map(|object| async move {
            let name = object.location.filename().filter(|_| object.location.parts().count() == depth);
            Ok(name.map(|name| Listed { name: name.into(), size: object.size, stored: stored(&object) }))
        });
        let mut objects: Vec<_> = objects.try_collect().await.map_err(|e| self.error("listing", folder, e))?;
        objects.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(objects)
    }

    /// All objects of `remora doctor`'s trials, with what is known of each.
    pub(crate) async fn trials(&self) -> Result<Vec<(Path, Listed)>> {
        let folder = Path::from(names::TRIALS);
        let objects = self.inner.list(Some(&folder)).try_filter_map(|object| async move {
            let Some(name) = object.location.filename().filter(|_| names::is_trial(&object.location)) else {
                return Ok(None);
            };
            let listed = Listed { name: name.into(), size: object.size, stored: stored(&object) };
            Ok(Some((object.location, listed)))
        });
        objects.try_collect().await.map_err(|e| self.error("listing", &folder, e))
    }

    /// Stores an object, whether or not there is one of that name.
    pub(crate) async fn replace(&self, name: &Path, payload: PutPayload) -> Result<()> {
        self.inner.put(name, payload).await.map(drop).map_err(|e| self.error("storing", name, e))
    }

    /// Removes an object; one that is not there is as good.
    pub(crate) async fn remove(&self, name: &Path) -> Result<()> {
        match self.inner.delete(name).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.error("removing", name, error)),
        }
    }

    /// The store's own time: that of an object which is stored for the purpose. A host's clock may be wrong.
    pub(crate) async fn now(&self, probe: &Path) -> Result<Timestamp> {
        self.replace(probe, PutPayload::default()).await?;
        self.inner.head(probe).await.map(|meta| stored(&meta)).map_err(|e| self.error("looking at", probe, e))
    }
}

fn stored(object: &ObjectMeta) -> Timestamp {
    Timestamp::from_microsecond(object.last_modified.timestamp_micros()).unwrap_or(Timestamp::MAX)
}
