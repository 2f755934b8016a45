//! Byte ranges of a disk, and their rounding to blocks.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A block, the unit of change: QEMU's usual bitmap granularity.
pub const BLOCK_SIZE: u64 = 64 * 1024;

/// The largest piece that a run reads and a mover takes at once; pieces never cross a multiple of it.
pub const PIECE_SIZE: u64 = 1024 * 1024;

/// A half-open range of bytes, `start..end`. Never inverted; may be empty.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ByteRange {
    /// The first byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

impl ByteRange {
    /// `start..end`; an inverted range becomes empty at `start`.
    pub const fn new(start: u64, end: u64) -> Self {
        Self { start, end: if end < start { start } else { end } }
    }

    /// The `len` bytes from `start`, cut at the end of the address space.
    pub const fn at(start: u64, len: u64) -> Self {
        Self { start, end: start.saturating_add(len) }
    }

    /// How many bytes it spans.
    pub const fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Whether it spans nothing.
    pub const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The bytes that both span, if any.
    pub fn intersect(&self, other: Self) -> Option<Self> {
        let (start, end) = (self.start.max(other.start), self.end.min(other.end));
        (start < end).then_some(Self { start, end })
    }

    /// Whether every byte of `other` lies in it.
    pub const fn contains(&self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// The smallest range of whole blocks around it, cut at `size` (a disk's last block may be short).
    #[must_use]
    pub fn outward(&self, size: u64) -> Self {
        let start = self.start / BLOCK_SIZE * BLOCK_SIZE;
        let end = self.end.div_ceil(BLOCK_SIZE).saturating_mul(BLOCK_SIZE).min(size);
        Self::new(start, end)
    }

    /// The largest range of whole blocks within it; a short last block of a disk of `size` bytes counts as whole.
    #[must_use]
    pub fn inward(&self, size: u64) -> Self {
        let start = self.start.div_ceil(BLOCK_SIZE).saturating_mul(BLOCK_SIZE);
        let end = if self.end >= size { size } else { self.end / BLOCK_SIZE * BLOCK_SIZE };
        Self::new(start.min(size), end)
    }

    /// Cuts it at every multiple of `step`.
    pub fn split(self, step: u64) -> impl Iterator<Item = Self> {
        let mut at = self.start;
        std::iter::from_fn(move || {
            if at >= self.end {
                return None;
            }
            let end = (at / step + 1).saturating_mul(step).min(self.end);
            let piece = Self { start: at, end };
            at = end;
            Some(piece)
        })
    }
}

impl fmt::Debug for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {}..{}", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_keeps_a_short_last_block() {
        let size = 3 * BLOCK_SIZE + 512;
        assert_eq!(ByteRange::new(3 * BLOCK_SIZE + 1, size).outward(size), ByteRange::new(3 * BLOCK_SIZE, size));
        assert_eq!(ByteRange::new(1, size).inward(size), ByteRange::new(BLOCK_SIZE, size));
        assert_eq!(ByteRange::new(1, BLOCK_SIZE).inward(size).len(), 0);
    }

    #[test]
    fn split_covers_the_range_without_crossing_a_multiple() {
        let pieces: Vec<_> = ByteRange::new(10, 35).split(10).collect();
        assert_eq!(pieces, [ByteRange::new(10, 20), ByteRange::new(20, 30), ByteRange::new(30, 35)]);
        assert_eq!(ByteRange::new(5, 5).split(10).count(), 0);
    }
}
