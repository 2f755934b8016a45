//! Which stretches to store whole again, so that reads stay fast after any number of increments.

use std::collections::BTreeMap;

use remora_core::{BLOCK_SIZE, ByteRange, Result};

use crate::map::disk::DiskMap;
use crate::map::node::{LEAF_BLOCKS, Leaf};

/// What is stored whole: 4 blocks. Such a stretch reads nearly as fast as a whole chunk, and a small increment's budget
/// is enough for one.
const STRETCH_BLOCKS: u64 = 4;

/// A stretch in fewer pieces than this is left as it is.
const PIECES: usize = 3;

/// A stretch with a changed block.
struct Stretch {
    /// Blocks of it that did not change, as ranges of the disk.
    unchanged: Vec<ByteRange>,
    bytes: u64,
    pieces: usize,
}

/// See [`remora_core::ports::PointWriter::worth_rewriting`].
pub(crate) async fn worth_rewriting(parent: &DiskMap, changed: &[ByteRange], budget: u64) -> Result<Vec<ByteRange>> {
    if budget < BLOCK_SIZE {
        return Ok(Vec::new());
    }
    let mut stretches = Vec::new();
    let mut leaf: Option<(u64, std::sync::Arc<Leaf>)> = None;
    for (number, changed_blocks) in by_stretch(changed) {
        let first = number * STRETCH_BLOCKS;
        let index = first / LEAF_BLOCKS;
        if leaf.as_ref().is_none_or(|(known, _)| *known != index) {
            leaf = Some((index, parent.leaf(index).await?));
        }
        let Some((_, leaf)) = &leaf else { continue };
        if let Some(stretch) = Stretch::of(parent, leaf, first, changed_blocks) {
            stretches.push(stretch);
        }
    }
    Ok(choose(stretches, budget))
}

/// The stretches that were changed, with a bit for each block that was.
fn by_stretch(changed: &[ByteRange]) -> BTreeMap<u64, u64> {
    let mut stretches = BTreeMap::new();
    for range in changed {
        for block in range.start / BLOCK_SIZE..range.end.div_ceil(BLOCK_SIZE) {
            *stretches.entry(block / STRETCH_BLOCKS).or_insert(0_u64) |= 1 << (block % STRETCH_BLOCKS);
        }
    }
    stretches
}

impl Stretch {
    /// None if it is not worth it.
    fn of(parent: &DiskMap, leaf: &Leaf, first: u64, changed: u64) -> Option<Self> {
        let size = parent.shape().size();
        let end = (first + STRETCH_BLOCKS).min(parent.shape().blocks());
        let start_in_leaf = (first % LEAF_BLOCKS) as u16;
        let runs = leaf.within(start_in_leaf, start_in_leaf + (end - first) as u16);
        let pieces = runs.filter(|run| run.target != crate::map::node::Target::Zero).count();
        let blocks = (first..end).filter(|block| changed & 1 << (block - first) == 0);
        let unchanged: Vec<_> = blocks
            .map(|block| ByteRange::at(block * BLOCK_SIZE, BLOCK_SIZE))
            .map(|r| ByteRange::new(r.start, r.end.min(size)))
            .collect();
        let bytes = unchanged.iter().map(ByteRange::len).sum();
        (pieces >= PIECES && bytes > 0).then_some(Self { unchanged, bytes, pieces })
    }
}

/// Those that save the most pieces for their bytes, as far as the budget goes; in order and merged.
fn choose(mut stretches: Vec<Stretch>, mut budget: u64) -> Vec<ByteRange> {
    stretches.sort_by(|a, b| (b.pieces as u64 * a.bytes).cmp(&(a.pieces as u64 * b.bytes)));
    let mut chosen = Vec::new();
    for stretch in stretches {
        if stretch.bytes <= budget {
            budget -= stretch.bytes;
            chosen.extend(stretch.unchanged);
        }
    }
    chosen.sort_unstable();
    merge(&chosen)
}

/// Joins neighbours of ranges in order.
pub(crate) fn merge(ranges: &[ByteRange]) -> Vec<ByteRange> {
    let mut merged: Vec<ByteRange> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => merged.push(*range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_blocks_fall_into_their_stretches() {
        let block = |n: u64| ByteRange::at(n * BLOCK_SIZE, BLOCK_SIZE);
        let stretches = by_stretch(&[block(1), ByteRange::new(3 * BLOCK_SIZE, 6 * BLOCK_SIZE)]);
        assert_eq!(stretches.into_iter().collect::<Vec<_>>(), [(0, 0b1010), (1, 0b0011)]);
    }

    #[test]
    fn the_budget_is_kept_and_the_best_come_first() {
        let stretch = |at: u64, blocks: u64, pieces| Stretch {
            unchanged: vec![ByteRange::at(at * BLOCK_SIZE, blocks * BLOCK_SIZE)],
            bytes: blocks * BLOCK_SIZE,
            pieces,
        };
        let chosen = choose(vec![stretch(8, 3, 3), stretch(4, 1, 4), stretch(0, 3, 4)], 4 * BLOCK_SIZE);
        assert_eq!(chosen, [ByteRange::new(0, 3 * BLOCK_SIZE), ByteRange::at(4 * BLOCK_SIZE, BLOCK_SIZE)]);
    }
}
