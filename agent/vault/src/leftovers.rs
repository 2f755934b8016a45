//! What dead processes have left beside the VMs' segments and sessions, which a collection looks after.

use object_store::path::Path;
use remora_core::Result;
use serde::Serialize;

use crate::collect::{DEAD_AFTER, Mode};
use crate::init;
use crate::names::{self, Writers};
use crate::segment::generations::GENERATIONS;
use crate::store::{Staged, Store};
use crate::vault::Vault;

/// What was left, and is gone or would go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Leftovers {
    /// How many objects and unfinished writes.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Leftovers {
    /// One more, if it is there.
    pub(crate) fn add(&mut self, bytes: Option<u64>) {
        if let Some(bytes) = bytes {
            self.objects += 1;
            self.bytes += bytes;
        }
    }
}

impl Vault {
    /// Removes what inits, trials of a doctor and writes into a folder have left that were killed. What may belong to a
    /// process that is at work stays: all but what an init left waits for a day, by the store's clock.
    pub async fn remove_leftovers(&self, mode: Mode) -> Result<Leftovers> {
        let store = &self.0.store;
        let long_ago = self.0.now().await? - DEAD_AFTER;
        let mut found = init::clear_others(store, &self.0.descriptor, long_ago, mode).await?;
        for (name, trial) in store.trials().await? {
            if trial.stored < long_ago {
                found.add(Some(trial.size));
                if mode == Mode::Run {
                    store.remove(&name).await?;
                }
            }
        }
        for staged in store.staged().await? {
            if staged.touched < long_ago && cannot_be_published(store, &staged).await? {
                found.add(Some(staged.bytes));
                if mode == Mode::Run {
                    staged.remove()?;
                }
            }
        }
        Ok(found)
    }
}

/// Whether removing the file of an unfinished write is safe even if whoever wrote it only slept. Where the name is free
/// again, another process may begin to write under it, and the first one, when it wakes up, publish what that has
/// written so far. So what several processes may store waits until the object is there: it cannot be created then.
async fn cannot_be_published(store: &Store, staged: &Staged) -> Result<bool> {
    let name = &staged.object;
    match names::writers(name) {
        None => Ok(false),
        Some(Writers::One) => Ok(true),
        Some(Writers::Many) => Ok(store.exists(name).await? || is_of_no_segment(store, name).await?),
    }
}

/// Whether it is a generation of a segment of which nothing is there any more.
async fn is_of_no_segment(store: &Store, name: &Path) -> Result<bool> {
    let Some((tenant, vm, id)) = names::segment_path(name) else { return Ok(false) };
    for generation in 0..GENERATIONS {
        if store.exists(&names::segment(tenant, vm, id, generation)).await? {
            return Ok(false);
        }
    }
    Ok(true)
}
