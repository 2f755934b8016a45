//! Object Lock: objects that the store keeps until a time, whoever asks it to delete them.
//!
//! A bucket with Object Lock keeps *versions*: what is stored under a name that is there, and what is deleted, only
//! hides the versions before. A version goes when it is deleted by its id, which the store refuses until its time has
//! come. The mode is COMPLIANCE: in GOVERNANCE, whoever may bypass it (the owner of most stores' credentials) could
//! delete everything at once, and that is the thief whom it is to stop.

mod s3;
mod xml;

use std::fmt;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use object_store::path::Path;
use object_store::{PutPayload, Result};

use super::{Deleted, Store, is_missing};

pub(super) use s3::S3Locks;

/// Requests about locks in flight.
const AT_ONCE: usize = 32;

/// Times are rounded up by at most this part of the time that objects are kept, so that few are in use at once.
const GRAINS: i64 = 32;

/// A version of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) name: Path,
    pub(crate) id: String,
    /// Whether it is what a reader gets.
    pub(crate) latest: bool,
    pub(crate) what: What,
    /// When it was stored, by the store's clock.
    pub(crate) stored: Timestamp,
}

/// What a version is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Bytes, so many.
    Data(u64),
    /// A mark that hides the versions before it: somebody deleted the object.
    DeleteMarker,
}

/// What a store with Object Lock can do beside others.
#[async_trait]
pub(crate) trait Locks: fmt::Debug + Send + Sync {
    /// Stores an object under a name that is free, kept for so long.
    async fn put_new(&self, name: &Path, payload: PutPayload, keep_for: SignedDuration) -> Result<()>;

    /// Until when a version is kept, the current one if none is named.
    async fn kept_until(&self, name: &Path, version: Option<&str>) -> Result<Option<Timestamp>>;

    /// Keeps a version until then. One that is kept longer is an error.
    async fn keep_until(&self, name: &Path, version: &str, until: Timestamp) -> Result<()>;

    /// The versions of the objects whose names begin so; of each name the newest comes first.
    async fn versions(&self, prefix: &str) -> Result<Vec<Version>>;

    /// Removes a version for good.
    async fn remove_version(&self, name: &Path, version: &str) -> Result<()>;
}

/// The time until which an object that is stored now is kept.
pub(crate) fn rounded(now: Timestamp, keep_for: SignedDuration) -> Timestamp {
    let grain = (keep_for.as_secs() / GRAINS).max(1);
    let until = now.as_second().saturating_add(keep_for.as_secs()).saturating_add(grain);
    Timestamp::from_second(until - until.rem_euclid(grain)).unwrap_or(Timestamp::MAX)
}

impl Store {
    /// What it can do with locks; none of a folder, or of a bucket that is not S3's.
    pub(crate) fn locks(&self) -> Option<&dyn Locks> {
        self.shared.locks.as_deref()
    }

    /// The versions of all objects below a folder.
    pub(crate) async fn versions(&self, folder: &Path) -> remora_core::Result<Vec<Version>> {
        let Some(locks) = self.locks() else { return Ok(Vec::new()) };
        let prefix = if folder.as_ref().is_empty() { String::new() } else { format!("{folder}/") };
        locks.versions(&prefix).await.map_err(|e| self.error("listing the versions of", folder, e))
    }

    /// The versions of one object, the newest first.
    pub(crate) async fn versions_of(&self, name: &Path) -> remora_core::Result<Vec<Version>> {
        let Some(locks) = self.locks() else { return Ok(Vec::new()) };
        let found = locks.versions(name.as_ref()).await;
        let found = found.map_err(|e| self.error("listing the versions of", name, e))?;
        Ok(found.into_iter().filter(|version| version.name == *name).collect())
    }

    /// Until when a version is kept; none if it is not, or is gone.
    pub(crate) async fn kept_until(&self, version: &Version) -> remora_core::Result<Option<Timestamp>> {
        let Some(locks) = self.locks() else { return Ok(None) };
        match locks.kept_until(&version.name, Some(&version.id)).await {
            Err(error) if is_missing(&error) => Ok(None),
            until => until.map_err(|e| self.error("asking for the lock of", &version.name, e)),
        }
    }

    /// Keeps versions until then, or longer if they are kept longer. One that is gone is passed over.
    pub(crate) async fn keep_all_until(&self, versions: &[Version], until: Timestamp) -> remora_core::Result<()> {
        let keep = |version: Version| async move { self.keep_until(&version, until).await };
        stream::iter(versions.to_vec()).map(keep).buffer_unordered(AT_ONCE).try_collect().await
    }

    async fn keep_until(&self, version: &Version, until: Timestamp) -> remora_core::Result<()> {
        let Some(locks) = self.locks() else { return Ok(()) };
        let Err(error) = locks.keep_until(&version.name, &version.id, until).await else { return Ok(()) };
        if is_missing(&error) {
            return Ok(());
        }
        // The store refuses to shorten a time: that of a hold, or of a setting that was lowered.
        match self.kept_until(version).await {
            Ok(Some(there)) if there >= until => Ok(()),
            _ => Err(self.error("locking", &version.name, error)),
        }
    }

    /// Removes versions for good, those of one object one after the other; those that are kept must not be among them.
    pub(crate) async fn remove_versions(&self, versions: &[Version]) -> remora_core::Result<()> {
        let Some(locks) = self.locks() else { return Ok(()) };
        let remove = |versions: Vec<Version>| async move {
            for version in versions {
                match locks.remove_version(&version.name, &version.id).await {
                    Err(error) if !is_missing(&error) => return Err(self.error("removing", &version.name, error)),
                    _ => {}
                }
            }
            Ok(())
        };
        let objects: Vec<_> = versions.chunk_by(|a, b| a.name == b.name).map(<[Version]>::to_vec).collect();
        stream::iter(objects).map(remove).buffer_unordered(AT_ONCE).try_collect().await
    }

    /// An error of an object that is missing, with what became of it, if the bucket tells.
    pub(crate) async fn explain_missing(&self, name: &Path, error: remora_core::Error) -> remora_core::Error {
        // The generations of a segment have its name as their prefix.
        let Some(locks) = self.locks() else { return error };
        let Ok(versions) = locks.versions(name.as_ref()).await else { return error };
        let marker = versions.iter().find(|version| version.latest && version.what == What::DeleteMarker);
        let hidden = versions.iter().any(|version| matches!(version.what, What::Data(_)));
        match marker {
            Some(marker) if hidden => self.damaged(&marker.name, Deleted(marker.stored)).advise(UNDELETE),
            _ => error,
        }
    }
}

/// What to do about objects that were deleted and that the bucket still has.
const UNDELETE: &str = "The bucket still has it: `remora repo undelete` brings back what was deleted. Find out who deleted it, and change \
     the credentials.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_rounded_up_and_few_are_in_use() {
        let day = SignedDuration::from_hours(24);
        let start: Timestamp = "2026-11-21T16:15:18Z".parse().unwrap();
        let mut all = std::collections::BTreeSet::new();
        for hour in 0..240 {
            let now = start + SignedDuration::from_hours(hour);
            let until = rounded(now, day * 30);
            assert!(until > now + day * 30 && until <= now + day * 31, "{until}");
            all.insert(until);
        }
        assert!(all.len() <= 12, "{all:?}");
        let until = rounded(start, SignedDuration::from_secs(3));
        assert_eq!(until.as_second(), start.as_second() + 4);
    }
}
