//! Digests of stretches of a disk, which are kept with its point: so that a restore notices what was changed meanwhile.
//!
//! A window's digest is the SHA-256, cut to 128 bits, of each of its blocks that is not all zero, in order: the block's number (64
//! bits, little endian) and its bytes. What calls a block zero, or data, changes nothing about it.

use std::ops::Range;

use bytes::Bytes;
use remora_core::extent::BlockExtents;
use remora_core::{BLOCK_SIZE, ByteRange, Extent};
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

/// The shortest window.
const SHORTEST: u64 = 16 << 20;

/// Windows of all disks of a point together, at most: a description has 1 MiB.
const MOST: u64 = 8_192;

/// The digest of a window, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct WindowDigest(String);

/// The windows of a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Windows {
    /// How long each is, but for the last one.
    pub(super) len: u64,
    /// None where only a part of it was stored with this point.
    pub(super) digests: Vec<Option<WindowDigest>>,
}

/// How long the windows of a point's disks are.
pub(super) fn window_len(disks: impl IntoIterator<Item = u64>) -> u64 {
    let (mut len, disks) = (SHORTEST, disks.into_iter().collect::<Vec<_>>());
    while disks.iter().map(|size| size.div_ceil(len)).sum::<u64>() > MOST {
        len *= 2;
    }
    len
}

/// The windows of a disk, in order.
pub(super) fn windows(size: u64, len: u64) -> impl Iterator<Item = ByteRange> {
    ByteRange::new(0, size).split(len.max(BLOCK_SIZE))
}

/// A window that is being read.
pub(super) struct Hashing(Context);

impl Hashing {
    pub(super) fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    /// Takes whole blocks.
    pub(super) fn feed(&mut self, at: u64, bytes: &Bytes) {
        for (n, block) in (at / BLOCK_SIZE..).zip(bytes.chunks(BLOCK_SIZE as usize)) {
            if block.iter().any(|byte| *byte != 0) {
                self.0.update(&n.to_le_bytes());
                self.0.update(block);
            }
        }
    }

    pub(super) fn finish(self) -> WindowDigest {
        WindowDigest(hex::encode(&self.0.finish().as_ref()[..16]))
    }
}

/// Compares the windows of a disk that is read in order, as far as their digests are known.
pub(super) struct Comparing<'a> {
    expected: &'a [Option<WindowDigest>],
    len: u64,
    /// The window that is being read.
    at: usize,
    hashing: Hashing,
}

impl<'a> Comparing<'a> {
    pub(super) fn new(windows: &'a Windows) -> Self {
        Self { expected: &windows.digests, len: windows.len.max(BLOCK_SIZE), at: 0, hashing: Hashing::new() }
    }

    /// The next bytes, within one window; or the window that has others than were stored.
    pub(super) fn feed(&mut self, at: u64, bytes: &Bytes) -> Result<(), Range<u64>> {
        self.up_to((at / self.len) as usize)?;
        self.hashing.feed(at, bytes);
        Ok(())
    }

    /// All windows before this one are over.
    pub(super) fn up_to(&mut self, window: usize) -> Result<(), Range<u64>> {
        while self.at < window.min(self.expected.len()) {
            let found = std::mem::replace(&mut self.hashing, Hashing::new()).finish();
            let from = self.at as u64 * self.len;
            if self.expected[self.at].as_ref().is_some_and(|expected| *expected != found) {
                return Err(from..from + self.len);
            }
            self.at += 1;
        }
        Ok(())
    }

    /// The disk is over.
    pub(super) fn end(&mut self) -> Result<(), Range<u64>> {
        self.up_to(self.expected.len())
    }
}

/// The map of a block-aligned range rounded to blocks: a block is zero only if all of it is. `size` is the disk's.
pub(super) fn of_blocks(map: Vec<Extent>, range: ByteRange, size: u64) -> Vec<Extent> {
    let by = |extent: Extent, from: u64, to: u64| {
        let moved = |at: u64| at - from + to;
        Extent { range: ByteRange::new(moved(extent.range.start), moved(extent.range.end)), ..extent }
    };
    let (mut blocks, mut rounded) =
        (BlockExtents::new(range.end.min(size) - range.start), Vec::with_capacity(map.len()));
    for extent in map {
        blocks.push(by(extent, range.start, 0), &mut rounded);
    }
    blocks.finish(&mut rounded);
    rounded.into_iter().map(|extent| by(extent, 0, range.start)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_as_short_as_there_is_room_for() {
        assert_eq!(window_len([1, 1 << 30]), 16 << 20);
        assert_eq!(window_len([1 << 40]), 128 << 20);
        assert_eq!(window_len([100 << 40, 100 << 40]), 32 << 30);
        assert_eq!(
            windows(33 << 20, 16 << 20).map(|range| range.len()).collect::<Vec<_>>(),
            [16 << 20, 16 << 20, 1 << 20]
        );
    }

    #[test]
    fn a_digest_knows_no_zeros_and_every_other_byte() {
        let block = BLOCK_SIZE as usize;
        let digest = |at: u64, bytes: Vec<u8>| {
            let mut hashing = Hashing::new();
            hashing.feed(at * BLOCK_SIZE, &bytes.into());
            hashing.finish()
        };
        let mut bytes = vec![0; 3 * block];
        bytes[block + 5] = 1;
        let whole = digest(0, bytes.clone());
        assert_eq!(whole, digest(1, bytes[block..2 * block].to_vec()));
        assert_ne!(whole, digest(0, bytes[block..2 * block].to_vec()));
        bytes[block + 5] = 2;
        assert_ne!(whole, digest(0, bytes));
    }

    #[test]
    fn the_window_that_differs_is_named_and_one_that_is_not_known_is_not() {
        let len = SHORTEST;
        let data = Bytes::from(vec![1; BLOCK_SIZE as usize]);
        let mut known = Hashing::new();
        known.feed(2 * len, &data);
        let zeros = Some(Hashing::new().finish());
        let windows = Windows { len, digests: vec![zeros.clone(), None, Some(known.finish()), zeros] };
        let read = |second: bool, third: &Bytes| {
            let mut comparing = Comparing::new(&windows);
            if second {
                comparing.feed(len, &data)?;
            }
            comparing.feed(2 * len, third)?;
            comparing.end()
        };
        assert_eq!(read(false, &data), Ok(()));
        assert_eq!(read(true, &data), Ok(()));
        assert_eq!(read(true, &Bytes::from(vec![2; BLOCK_SIZE as usize])), Err(2 * len..3 * len));
        let mut comparing = Comparing::new(&windows);
        comparing.feed(0, &data).unwrap();
        assert_eq!(comparing.end(), Err(0..len));
    }
}
