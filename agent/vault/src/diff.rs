//! What changed between two points: by map where the maps are the same, else by digest.

use remora_core::{BLOCK_SIZE, ByteRange, DiskName, Result};

use crate::fragments::merge;
use crate::map::node::{LEAF_BLOCKS, LEAF_BYTES};
use crate::parent::Known;
use crate::reader::Reader;

/// See [`remora_core::ports::Mover::diff`].
pub(crate) async fn diff(from: &Reader, to: &Reader, disk: &DiskName) -> Result<Vec<ByteRange>> {
    let (before, after) = (from.map(from.disk_named(disk)?), to.map(to.disk_named(disk)?));
    let (old, new) = (before.shape(), after.shape());
    let mut changed = Vec::new();
    for index in 0..old.leaves().min(new.leaves()) {
        let same_size = old.leaf_blocks(index) == new.leaf_blocks(index)
            && (old.size() == new.size() || index + 1 < old.leaves().min(new.leaves()));
        if same_size && before.child(0, index).await? == after.child(0, index).await? {
            continue;
        }
        let range = ByteRange::at(index * LEAF_BYTES, LEAF_BYTES);
        let range = ByteRange::new(range.start, range.end.min(old.size()).min(new.size()));
        let was = Known::of(before, from.segments(), range).await?;
        let is = Known::of(after, to.segments(), range).await?;
        let first = index * LEAF_BLOCKS;
        for n in 0..range.len().div_ceil(BLOCK_SIZE) {
            if !was.same(&is, n as usize) {
                let block = ByteRange::at((first + n) * BLOCK_SIZE, BLOCK_SIZE);
                changed.push(ByteRange::new(block.start, block.end.min(old.size().max(new.size()))));
            }
        }
    }
    if old.size() != new.size() {
        let shorter = old.size().min(new.size());
        let start = changed.last().map_or(shorter, |last| last.end.max(shorter));
        changed.push(ByteRange::new(start, old.size().max(new.size())));
        changed.retain(|range| !range.is_empty());
    }
    Ok(merge(&changed))
}
