//! Extents: what a source says of each byte of a disk, and their rounding to blocks.

use crate::range::{BLOCK_SIZE, ByteRange};

/// What a source knows of a range. A hint where it says `Data`: such bytes may still be zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExtentState {
    /// The same bytes as in the point that the view was opened against.
    Unchanged,
    /// Reads as zero.
    Zero,
    /// Must be read to be known.
    Data,
}

/// A byte range with one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// Where.
    pub range: ByteRange,
    /// What.
    pub state: ExtentState,
}

/// Rounds a source's extents to blocks: a block is `Unchanged` or `Zero` only if every byte of it is, and `Data` when
/// its bytes disagree. Extents come in order, without gaps, from 0 to the disk's size; what comes out is in order,
/// block-aligned (but for a short last block) and merged.
#[derive(Debug)]
pub struct BlockExtents {
    size: u64,
    /// The block that is known in part, with the state of that part.
    partial: Option<Extent>,
    /// The run of whole blocks that may still grow.
    run: Option<Extent>,
}

impl BlockExtents {
    /// For a disk of `size` bytes.
    pub const fn new(size: u64) -> Self {
        Self { size, partial: None, run: None }
    }

    /// Takes the next extent and appends to `out` the runs that are now final.
    pub fn push(&mut self, next: Extent, out: &mut Vec<Extent>) {
        let mut rest = ByteRange::new(next.range.start, next.range.end.min(self.size));
        if let Some(partial) = self.partial.take() {
            let head = ByteRange::new(rest.start, rest.end.min(self.block_end(partial.range.start)));
            let state = if partial.state == next.state { next.state } else { ExtentState::Data };
            self.block_part(Extent { range: ByteRange::new(partial.range.start, head.end), state }, out);
            rest.start = head.end;
        }
        if rest.is_empty() {
            return;
        }
        let whole = ByteRange::new(
            rest.start,
            if rest.end == self.size { rest.end } else { rest.end / BLOCK_SIZE * BLOCK_SIZE },
        );
        if !whole.is_empty() {
            self.whole_blocks(Extent { range: whole, state: next.state }, out);
        }
        if whole.end.max(rest.start) < rest.end {
            self.partial =
                Some(Extent { range: ByteRange::new(whole.end.max(rest.start), rest.end), state: next.state });
        }
    }

    /// Appends the last run, once all extents were pushed.
    pub fn finish(mut self, out: &mut Vec<Extent>) {
        debug_assert!(self.partial.is_none(), "extents ended before the disk");
        out.extend(self.run.take());
    }

    fn block_end(&self, at: u64) -> u64 {
        ((at / BLOCK_SIZE + 1) * BLOCK_SIZE).min(self.size)
    }

    fn block_part(&mut self, part: Extent, out: &mut Vec<Extent>) {
        if part.range.end == self.block_end(part.range.start) {
            self.whole_blocks(part, out);
        } else {
            self.partial = Some(part);
        }
    }

    fn whole_blocks(&mut self, next: Extent, out: &mut Vec<Extent>) {
        match &mut self.run {
            Some(run) if run.state == next.state => run.range.end = next.range.end,
            run => out.extend(run.replace(next)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounded(size: u64, extents: &[(u64, ExtentState)]) -> Vec<(u64, u64, ExtentState)> {
        let (mut blocks, mut out, mut at) = (BlockExtents::new(size), Vec::new(), 0);
        for &(end, state) in extents {
            blocks.push(Extent { range: ByteRange::new(at, end), state }, &mut out);
            at = end;
        }
        blocks.finish(&mut out);
        out.iter().map(|e| (e.range.start, e.range.end, e.state)).collect()
    }

    #[test]
    fn dirty_rounds_outward_and_zero_inward() {
        use ExtentState::{Data, Unchanged, Zero};
        let b = BLOCK_SIZE;
        let out = rounded(8 * b, &[(b + 1, Unchanged), (b + 2, Data), (4 * b + 7, Zero), (8 * b, Unchanged)]);
        assert_eq!(
            out,
            [
                (0, b, Unchanged),
                (b, 2 * b, Data),
                (2 * b, 4 * b, Zero),
                (4 * b, 5 * b, Data),
                (5 * b, 8 * b, Unchanged)
            ]
        );
    }

    #[test]
    fn many_extents_in_one_block_and_a_short_last_block() {
        use ExtentState::{Data, Zero};
        let b = BLOCK_SIZE;
        let out = rounded(2 * b + 100, &[(10, Zero), (20, Data), (30, Zero), (b, Zero), (2 * b + 100, Zero)]);
        assert_eq!(out, [(0, b, Data), (b, 2 * b + 100, Zero)]);
    }

    /// Byte by byte: whatever the source said, a block's state is what all its bytes agree on, else data.
    #[test]
    fn agrees_with_a_byte_wise_model() {
        let mut seed = 7_u64;
        let mut random = move |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        for _ in 0..500 {
            let size = random(5 * BLOCK_SIZE) + 1;
            let (mut extents, mut at) = (Vec::new(), 0);
            while at < size {
                let step = if random(2) == 0 { random(BLOCK_SIZE) + 1 } else { BLOCK_SIZE };
                at = (at + step).min(size);
                extents.push((at, [ExtentState::Data, ExtentState::Zero, ExtentState::Unchanged][random(3) as usize]));
            }
            let out = rounded(size, &extents);
            let state_in =
                |list: &[(u64, ExtentState)], byte: u64| list.iter().find(|(end, _)| byte < *end).map(|e| e.1);
            let flat: Vec<_> = out.iter().map(|&(_, end, state)| (end, state)).collect();
            for start in (0..size).step_by(BLOCK_SIZE as usize) {
                let end = (start + BLOCK_SIZE).min(size);
                let first = state_in(&extents, start);
                let edges = extents.iter().map(|e| e.0).filter(|e| (start..end).contains(e));
                let agree = edges.clone().all(|e| state_in(&extents, e) == first);
                let expected = if agree { first } else { Some(ExtentState::Data) };
                assert_eq!(state_in(&flat, start), expected, "block at {start} of {size}: {extents:?}");
            }
        }
    }
}
