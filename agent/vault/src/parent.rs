//! What the parent holds of a piece, by digest: for rereads and comparisons.

use std::collections::HashSet;

use remora_core::{BLOCK_SIZE, ByteRange, ErrorKind, Result};

use crate::keys::Digest;
use crate::map::disk::DiskMap;
use crate::map::node::{LEAF_BLOCKS, RecordRef, Target};
use crate::names::SegmentId;
use crate::segment::footer::Details;
use crate::segment::read::Segments;

/// What is known of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KnownBlock {
    /// It reads as zero.
    Zero,
    /// A block with this digest.
    Digest(Digest),
    /// The disk had no such block, or what told of it is damaged.
    Nothing,
}

/// What is known of the blocks of a range.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    blocks: Vec<KnownBlock>,
    /// The length of the disk's short last block and its place in `blocks`, if the range has it.
    last: Option<(usize, usize)>,
}

impl Known {
    /// Of no block anything.
    pub(crate) const fn nothing() -> Self {
        Self { blocks: Vec::new(), last: None }
    }

    /// What `map` holds of a range. Damage makes blocks unknown, so that they are stored again.
    pub(crate) async fn of(map: &DiskMap, segments: &Segments, range: ByteRange) -> Result<Self> {
        Self::but_for(&HashSet::new(), map, segments, range).await
    }

    /// The same, and nothing of what lies in the segments of `lost`: their digests may be sound though the data is gone.
    pub(crate) async fn but_for(
        lost: &HashSet<SegmentId>,
        map: &DiskMap,
        segments: &Segments,
        range: ByteRange,
    ) -> Result<Self> {
        let shape = map.shape();
        let (first, end) = (range.start / BLOCK_SIZE, range.end.div_ceil(BLOCK_SIZE));
        let mut blocks = Vec::with_capacity((end - first) as usize);
        let mut block = first;
        while block < end.min(shape.blocks()) {
            let leaf = block / LEAF_BLOCKS;
            let upto = end.min(shape.blocks()).min((leaf + 1) * LEAF_BLOCKS);
            let (from, to) = ((block % LEAF_BLOCKS) as u16, (upto - leaf * LEAF_BLOCKS) as u16);
            match unless_damaged(map.leaf(leaf).await)? {
                Some(leaf) => {
                    for run in leaf.within(from, to) {
                        match run.target {
                            Target::Chunk { chunk, .. } if lost.contains(&chunk.segment) => {
                                blocks.resize(blocks.len() + usize::from(run.count), KnownBlock::Nothing);
                            }
                            target => known_run(&mut blocks, segments, target, run.count).await?,
                        }
                    }
                }
                None => blocks.resize(blocks.len() + usize::from(to - from), KnownBlock::Nothing),
            }
            block = upto;
        }
        blocks.resize((end - first) as usize, KnownBlock::Nothing);
        let short = (shape.size() % BLOCK_SIZE) as usize;
        let place =
            shape.blocks().checked_sub(first + 1).map(|n| n as usize).filter(|n| short > 0 && *n < blocks.len());
        Ok(Self { blocks, last: place.map(|place| (place, short)) })
    }

    /// Whether block `n` of the range is known to be `len` bytes with that digest.
    pub(crate) fn has(&self, n: usize, len: usize, digest: Digest) -> bool {
        self.len_of(n) == len && self.blocks.get(n) == Some(&KnownBlock::Digest(digest))
    }

    /// Whether block `n` of the range is known to be `len` zero bytes.
    pub(crate) fn is_zero(&self, n: usize, len: usize) -> bool {
        self.len_of(n) == len && self.blocks.get(n) == Some(&KnownBlock::Zero)
    }

    /// Whether block `n` is known to be the same here and there.
    pub(crate) fn same(&self, other: &Self, n: usize) -> bool {
        let known = self.blocks.get(n).filter(|block| **block != KnownBlock::Nothing);
        known.is_some() && known == other.blocks.get(n) && self.len_of(n) == other.len_of(n)
    }

    fn len_of(&self, n: usize) -> usize {
        match self.last {
            Some((place, short)) if place == n => short,
            _ => BLOCK_SIZE as usize,
        }
    }
}

async fn known_run(blocks: &mut Vec<KnownBlock>, segments: &Segments, target: Target, count: u16) -> Result<()> {
    let count = usize::from(count);
    let end = blocks.len() + count;
    if let Target::Chunk { chunk, first } = target {
        let details = details_of(segments, chunk).await?;
        let digests = details.iter().flat_map(|d| d.blocks.iter().skip(usize::from(first)).take(count));
        blocks.extend(digests.map(|digest| KnownBlock::Digest(*digest)));
        blocks.resize(end, KnownBlock::Nothing);
    } else {
        blocks.resize(end, KnownBlock::Zero);
    }
    Ok(())
}

async fn details_of(segments: &Segments, chunk: RecordRef) -> Result<Option<Details>> {
    unless_damaged(segments.details(chunk).await)
}

fn unless_damaged<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::Damaged => {
            tracing::warn!(error = error.chain(), "the parent is damaged here; the blocks are stored again");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let mut words = bytes.chunks_exact(64);
    words.all(|word| word.iter().fold(0, |any, byte| any | byte) == 0)
        && words.remainder().iter().all(|byte| *byte == 0)
}
