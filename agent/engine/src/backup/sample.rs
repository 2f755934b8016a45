//! A uniform sample of blocks, drawn in one pass and in memory that does not grow with the disk.

use remora_core::{BLOCK_SIZE, ByteRange};

/// A reservoir of block numbers (Li's "Algorithm L": it skips what it will not draw, so a run of millions of blocks
/// costs a few steps).
pub(super) struct Sample {
    wanted: usize,
    random: fastrand::Rng,
    blocks: Vec<u64>,
    /// Blocks offered so far.
    seen: u64,
    /// Which of all offered blocks is drawn next, once the reservoir is full.
    next: u64,
    weight: f64,
}

impl Sample {
    pub(super) fn new(wanted: usize, random: fastrand::Rng) -> Self {
        Self { wanted, random, blocks: Vec::with_capacity(wanted), seen: 0, next: 0, weight: 1.0 }
    }

    /// Offers the blocks of a block-aligned range.
    pub(super) fn offer(&mut self, range: ByteRange) {
        if self.wanted == 0 {
            return;
        }
        let (first, count) = (range.start / BLOCK_SIZE, range.len().div_ceil(BLOCK_SIZE));
        let (from, end) = (self.seen, self.seen + count);
        self.seen = end;
        let mut at = from;
        while at < end && self.blocks.len() < self.wanted {
            self.blocks.push(first + (at - from));
            at += 1;
            if self.blocks.len() == self.wanted {
                self.next = at;
                self.skip();
            }
        }
        while self.blocks.len() == self.wanted && self.next < end {
            let place = self.random.usize(..self.wanted);
            self.blocks[place] = first + (self.next - from);
            self.next += 1;
            self.skip();
        }
    }

    /// The drawn blocks, in order.
    pub(super) fn into_blocks(mut self) -> Vec<u64> {
        self.blocks.sort_unstable();
        self.blocks
    }

    /// Moves `next` over the blocks that are not drawn.
    #[allow(clippy::cast_precision_loss, clippy::cast_sign_loss)] // A skip too large for u64 saturates, as it should.
    fn skip(&mut self) {
        self.weight *= (self.unit().ln() / self.wanted as f64).exp();
        let skipped = (self.unit().ln() / (1.0 - self.weight).ln()).floor();
        self.next = self.next.saturating_add(skipped as u64);
    }

    /// A number above 0 and below 1.
    fn unit(&mut self) -> f64 {
        self.random.f64().max(f64::MIN_POSITIVE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(first: u64, count: u64) -> ByteRange {
        ByteRange::at(first * BLOCK_SIZE, count * BLOCK_SIZE)
    }

    #[test]
    fn few_blocks_are_all_drawn_and_none_beyond_what_was_offered() {
        let mut sample = Sample::new(16, fastrand::Rng::with_seed(1));
        sample.offer(blocks(5, 3));
        sample.offer(ByteRange::new(100 * BLOCK_SIZE, 100 * BLOCK_SIZE + 512));
        assert_eq!(sample.into_blocks(), [5, 6, 7, 100]);
        let mut none = Sample::new(0, fastrand::Rng::with_seed(1));
        none.offer(blocks(0, 10));
        assert!(none.into_blocks().is_empty());
    }

    #[test]
    fn every_block_is_drawn_equally_often() {
        let mut drawn = [0_u32; 100];
        for seed in 0..20_000 {
            let mut sample = Sample::new(10, fastrand::Rng::with_seed(seed));
            (0..10).for_each(|run| sample.offer(blocks(run * 10, 10)));
            let blocks = sample.into_blocks();
            assert!(blocks.windows(2).all(|pair| pair[0] < pair[1]), "{blocks:?}");
            for block in blocks {
                drawn[block as usize] += 1;
            }
        }
        // 2000 expected, standard deviation 42.
        assert!(drawn.iter().all(|count| (1750..2250).contains(count)), "{drawn:?}");
    }

    #[test]
    fn a_huge_run_costs_few_steps() {
        let mut sample = Sample::new(16, fastrand::Rng::with_seed(3));
        sample.offer(blocks(0, 1 << 40));
        assert!(sample.into_blocks().iter().any(|block| *block > 1 << 30));
    }
}
