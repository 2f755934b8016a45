//! Where on the VM's disks chunks came from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use remora_core::ports::{DiskIndex, Mover};
use remora_core::{ByteRange, DiskName, ErrorKind, PointId, Result};

use crate::map::node::{LEAF_BYTES, RecordRef};
use crate::names::SegmentId;
use crate::reader::{Reader, chunk_runs};
use crate::vault::Vault;

/// Leaves that are fetched together.
const LEAVES_TOGETHER: u64 = 16;

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
    let mut places = BTreeMap::new();
    let (entry, _) = vault.0.point(point).await?;
    for point in vault.list(Some(&entry.point.vm)).await?.points {
        let reader = Reader::open(Arc::clone(&vault.0), &point.id).await?;
        for (n, disk) in point.disks.iter().enumerate() {
            let leaves = disk.size.div_ceil(LEAF_BYTES);
            for (leaf, range) in (0u64..).zip(ByteRange::new(0, disk.size).split(LEAF_BYTES)) {
                if leaf.is_multiple_of(LEAVES_TOGETHER) {
                    reader.map(DiskIndex(n)).read_ahead(leaf..leaves.min(leaf + LEAVES_TOGETHER)).await;
                }
                look(&reader, DiskIndex(n), range, segments, &mut places).await?;
            }
        }
    }
    Ok(places)
}

/// Looks at one leaf.
async fn look(
    reader: &Reader,
    disk: DiskIndex,
    range: ByteRange,
    segments: &BTreeSet<SegmentId>,
    places: &mut BTreeMap<RecordRef, Place>,
) -> Result<()> {
    let leaf = match reader.map(disk).leaf(range.start / LEAF_BYTES).await {
        Ok(leaf) => leaf,
        Err(error) if error.kind() == ErrorKind::Damaged => return Ok(()),
        Err(error) => return Err(error),
    };
    for run in chunk_runs(&leaf, range).filter(|run| segments.contains(&run.chunk.segment)) {
        if let Some(at) = run.range.start.checked_sub(run.offset) {
            places.entry(run.chunk).or_insert_with(|| Place { disk: reader.disk(disk).name.clone(), at });
        }
    }
    Ok(())
}
