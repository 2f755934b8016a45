//! Where on the VM's disks chunks came from.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use remora_core::ports::{DiskIndex, Mover};
use remora_core::{ByteRange, DiskName, ErrorKind, PointId, Result};

use crate::map::node::{Child, LEAF_BYTES, RecordRef};
use crate::names::SegmentId;
use crate::reader::{Reader, chunk_runs};
use crate::vault::Vault;

/// Leaves that are fetched together.
const LEAVES_TOGETHER: usize = 16;

/// Where a chunk's first block was on a disk. A chunk is what lay together there.
pub(super) struct Place {
    pub(super) disk: DiskName,
    pub(super) at: u64,
}

/// The places of the chunks of some segments, by the maps of all points of the VM that `point` is of: its own do not show
/// every chunk of a segment that it shares with others. Maps that are damaged show none.
pub(super) async fn of(
    vault: &Vault,
    point: &PointId,
    segments: &BTreeSet<SegmentId>,
) -> Result<BTreeMap<RecordRef, Place>> {
    let mut search = Search { segments, leaves: HashSet::new(), places: BTreeMap::new() };
    let (entry, _) = vault.0.point(point).await?;
    for point in vault.list(Some(&entry.point.vm)).await?.points {
        let reader = Reader::open(Arc::clone(&vault.0), &point.id).await?;
        for n in 0..point.disks.len() {
            search.disk(&reader, DiskIndex(n)).await?;
        }
    }
    Ok(search.places)
}

struct Search<'a> {
    segments: &'a BTreeSet<SegmentId>,
    /// The leaves that were looked at: points share most of theirs.
    leaves: HashSet<RecordRef>,
    places: BTreeMap<RecordRef, Place>,
}

impl Search<'_> {
    async fn disk(&mut self, reader: &Reader, disk: DiskIndex) -> Result<()> {
        let map = reader.map(disk);
        let leaves = map.shape().leaves();
        for first in (0..leaves).step_by(LEAVES_TOGETHER) {
            let mut new = Vec::new();
            for leaf in first..leaves.min(first + LEAVES_TOGETHER as u64) {
                if let Some(Child::Node(node)) = unless_damaged(map.child(0, leaf).await)?
                    && self.leaves.insert(node)
                {
                    new.push(leaf);
                }
            }
            map.read_ahead(new.iter().copied()).await;
            for leaf in new {
                self.leaf(reader, disk, leaf).await?;
            }
        }
        Ok(())
    }

    async fn leaf(&mut self, reader: &Reader, disk: DiskIndex, index: u64) -> Result<()> {
        let Some(leaf) = unless_damaged(reader.map(disk).leaf(index).await)? else { return Ok(()) };
        let start = index * LEAF_BYTES;
        let range = ByteRange::new(start, reader.disk(disk).size.min(start + LEAF_BYTES));
        for run in chunk_runs(&leaf, range).filter(|run| self.segments.contains(&run.chunk.segment)) {
            if let Some(at) = run.range.start.checked_sub(run.offset) {
                self.places.entry(run.chunk).or_insert_with(|| Place { disk: reader.disk(disk).name.clone(), at });
            }
        }
        Ok(())
    }
}

fn unless_damaged<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Err(error) if error.kind() == ErrorKind::Damaged => Ok(None),
        found => found.map(Some),
    }
}
