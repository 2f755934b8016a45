//! Removing from a bucket that keeps versions: what is locked waits, and what goes, goes for good.

use std::collections::{BTreeMap, HashMap};

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use object_store::path::Path;
use remora_core::Result;

use crate::names::{self, Folder};
use crate::repository::Repository;
use crate::store::{Version, What};

/// Questions about locks in flight.
const QUESTIONS: usize = 32;

/// What stands in the way of removing objects of a VM.
#[derive(Default)]
pub(super) struct Obstacles {
    /// All versions of its segments, by name.
    versions: HashMap<Path, Vec<Version>>,
    /// The objects that are locked, and until when.
    locked: BTreeMap<Path, Timestamp>,
}

impl Obstacles {
    /// Asks of each of these objects whether it is locked: one request each, and one for a thousand versions.
    pub(super) async fn of(vault: &Repository, vm: Folder, doomed: &[Path], now: Timestamp) -> Result<Self> {
        let mut found = Self::default();
        for version in vault.store.versions(&names::segments(vault.tenant, vm)).await? {
            found.versions.entry(version.name.clone()).or_default().push(version);
        }
        let data = doomed.iter().flat_map(|name| found.of_name(name)).filter(|v| v.what != What::DeleteMarker);
        let data: Vec<Version> = data.cloned().collect();
        let ask = |version: Version| async move {
            let until = vault.store.kept_until(&version).await?;
            Ok::<_, remora_core::Error>((version.name, until))
        };
        let asked: Vec<_> = stream::iter(data).map(ask).buffer_unordered(QUESTIONS).try_collect().await?;
        for (name, until) in asked {
            if let Some(until) = until.filter(|until| *until > now) {
                let latest = found.locked.entry(name).or_insert(until);
                *latest = until.max(*latest);
            }
        }
        Ok(found)
    }

    fn of_name(&self, name: &Path) -> &[Version] {
        self.versions.get(name).map_or(&[], Vec::as_slice)
    }

    /// Until when an object is locked.
    pub(super) fn locked(&self, name: &Path) -> Option<Timestamp> {
        self.locked.get(name).copied()
    }

    /// All versions of these objects, and marks that hide nothing.
    pub(super) fn versions<'a>(&'a self, names: impl IntoIterator<Item = &'a Path>) -> Vec<Version> {
        names.into_iter().flat_map(|name| self.of_name(name)).cloned().collect()
    }
}

/// Removes what sessions that have ended, and the objects that are stored again and again, left hidden: nothing of that
/// is locked, or ever needed.
pub(super) async fn sweep_hidden(vault: &Repository, vm: Folder) -> Result<()> {
    let mut versions = vault.store.versions(&names::sessions(vault.tenant, vm)).await?;
    for name in [names::kept(vault.tenant, vm), Path::from(names::CLOCK)] {
        versions.extend(vault.store.versions_of(&name).await?);
    }
    // Of a session that lives, its newest beat; of one that has ended, nothing, not even the mark.
    let hidden: Vec<_> = versions.into_iter().filter(|v| !v.latest || v.what == What::DeleteMarker).collect();
    vault.store.remove_versions(&hidden).await
}
