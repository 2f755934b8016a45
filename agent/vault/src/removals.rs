//! Removing key slots so that one is always left, whoever removes which, and whoever is killed at whatever instant.
//!
//! Removals are decided one after the other, each by an entry of a log: which slot goes, and which one stays because it
//! has just opened the repository. Whoever wants to remove a slot
//!
//! 1. removes the slot of the last entry, in case whoever wrote that was killed (if it is its own, it gives up),
//! 2. looks whether its own slot is still there, and
//! 3. creates the next entry: if somebody else did, it begins again. Then it removes the slot.
//!
//! When an entry is created, the slots of all entries before it are gone, and the one that it keeps is there: it can only
//! be removed by a later entry, which keeps another one that is there. Slots' names are drawn at random and never used
//! again, so a removal that comes late removes nothing.

use bytes::Bytes;
use object_store::path::Path;
use remora_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::keyring::SlotId;
use crate::names::{self, REMOVALS};
use crate::store::{Created, Store};

#[cfg(test)]
mod tests;

/// An entry is some hundred bytes.
const LIMIT: u64 = 64 * 1024;

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Removal {
    removes: SlotId,
    keeps: SlotId,
    /// The hexadecimal BLAKE3 of both, a newline after each: a flipped bit must not name another slot.
    checksum: String,
}

impl Removal {
    fn new(removes: SlotId, keeps: SlotId) -> Self {
        let checksum = blake3::hash(format!("{removes}\n{keeps}\n").as_bytes()).to_hex().to_string();
        Self { removes, keeps, checksum }
    }

    fn encode(&self) -> Bytes {
        let mut text = serde_json::to_vec_pretty(self).expect("a removal is plain data");
        text.push(b'\n');
        text.into()
    }
}

/// Removes a slot, because the slot `keeps` has opened the repository.
pub(crate) async fn remove(store: &Store, removes: SlotId, keeps: SlotId) -> Result<()> {
    loop {
        let last = last(store).await?;
        if last > 0 {
            finish(store, last, keeps).await?;
        }
        if !store.exists(&keeps.path()).await? {
            return Err(gone(keeps, "was removed meanwhile"));
        }
        if !store.exists(&removes.path()).await? {
            return Ok(());
        }
        let entry = Removal::new(removes, keeps).encode();
        if store.create(&names::removal(last + 1), entry.into()).await? == Created::Yes {
            return store.remove(&removes.path()).await;
        }
    }
}

/// The number of the newest entry; 0 if there is none.
async fn last(store: &Store) -> Result<u64> {
    let names = store.children(&Path::from(REMOVALS)).await?;
    Ok(names.iter().filter_map(|name| names::sequence(name)).max().unwrap_or_default())
}

fn gone(keeps: SlotId, why: &str) -> Error {
    Error::new(ErrorKind::Refused, format!("key slot {keeps}, which opened the repository, {why}"))
        .advise("Open it with another slot's secret; add one first with `remora key add` if there is none.")
}

/// Does what an entry says, in case whoever wrote it did not come to it. Not to the slot that has just opened the
/// repository: it may have been put back from another copy, because no other one's secret is known any more.
async fn finish(store: &Store, number: u64, keeps: SlotId) -> Result<()> {
    let name = names::removal(number);
    let damaged = |why: String| {
        store.damaged(&name, why).advise(
            "No key slot is removed while this is unclear: copy the object back from another copy of the repository.",
        )
    };
    let bytes = store.get(&name, LIMIT).await?.ok_or_else(|| damaged("it is missing".into()))?;
    let entry: Removal = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
    if entry != Removal::new(entry.removes, entry.keeps) {
        return Err(damaged("its checksum is wrong".into()));
    }
    if entry.removes == keeps {
        return Err(gone(keeps, "is one that was removed, or is being removed"));
    }
    store.remove(&entry.removes.path()).await
}
