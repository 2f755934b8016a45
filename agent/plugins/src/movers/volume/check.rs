//! What a mover stored is read back before anybody is told of a point.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use remora_core::{BLOCK_SIZE, ByteRange, Error, Extent, ExtentState, PIECE_SIZE, Result};

use super::super::document::ReadBack;
use super::calls::{Calls, DiskOf};
use super::windows::{Hashing, WindowDigest, Windows, windows};
use crate::host::Digest;

/// Reads at once.
const AT_ONCE: usize = 8;

/// Unchanged blocks of a disk that are compared with the parent's.
const UNCHANGED: usize = 16;

const OTHER: &str = "it says that it stored them, and other bytes are there";

/// What was written of a disk.
#[derive(Default)]
pub(super) struct Laid {
    /// Each write with the digest of its bytes.
    pub(super) written: Vec<(ByteRange, Digest)>,
    pub(super) zero: Vec<ByteRange>,
    pub(super) unchanged: Vec<ByteRange>,
    /// What of that was read from the parent and written again.
    pub(super) copied: Vec<ByteRange>,
}

impl Laid {
    /// In order, to be looked up.
    fn sort(&mut self) {
        self.written.sort_unstable_by_key(|(range, _)| *range);
        self.zero.sort_unstable();
        self.unchanged.sort_unstable();
        self.copied.sort_unstable();
    }

    /// What was written that begins in a range.
    fn written_in(&self, range: ByteRange) -> &[(ByteRange, Digest)] {
        let place = |at: u64| self.written.partition_point(|(written, _)| written.start < at);
        &self.written[place(range.start)..place(range.end)]
    }

    /// Whether anything of it is as it was in the parent.
    pub(super) fn inherits(&self) -> bool {
        !self.unchanged.is_empty() || !self.copied.is_empty()
    }

    /// Whether every byte of a disk is covered, and none twice; else where not.
    pub(super) fn hole(&self, size: u64) -> Option<u64> {
        let written = self.written.iter().map(|(range, _)| *range);
        let mut all: Vec<_> = written.chain(self.zero.iter().copied()).chain(self.unchanged.iter().copied()).collect();
        all.sort_unstable();
        let mut at = 0;
        for range in all {
            if range.start != at {
                return Some(at.min(range.start));
            }
            at = range.end;
        }
        (at != size).then_some(at)
    }
}

/// A disk of the new point, what was written of it, and where its parent is.
pub(super) struct Disk<'a> {
    pub(super) calls: &'a Calls,
    pub(super) new: DiskOf<'a>,
    pub(super) parent: Option<DiskOf<'a>>,
    pub(super) size: u64,
    pub(super) laid: Laid,
    pub(super) how: ReadBack,
}

impl Disk<'_> {
    /// Reads back what was stored, and gives the digests of the windows that were stored whole or taken from the parent whole. In part,
    /// if that is wanted: then nothing is known of any window.
    pub(super) async fn read_back(&mut self, len: u64, parent: Option<&Windows>) -> Result<Windows> {
        let map: Vec<_> = self.calls.blocks(self.new, ByteRange::new(0, self.size), self.size).try_collect().await?;
        self.laid.sort();
        let mut digests = Vec::new();
        for (n, window) in windows(self.size, len).enumerate() {
            let unchanged = within(&self.laid.unchanged, window).map(|range| range.len()).sum::<u64>();
            let known = || {
                parent.filter(|parent| parent.len == len).and_then(|parent| parent.digests.get(n).cloned().flatten())
            };
            digests.push(if unchanged == window.len() {
                known()
            } else if unchanged == 0 && self.how == ReadBack::Full {
                let found = self.whole(&map, window).await?;
                self.of_copied(window, found, known)?
            } else {
                self.parts(&map, window).await?;
                None
            });
        }
        self.unchanged().await?;
        Ok(Windows { len, digests })
    }

    /// What is known of a window that was stored whole. What was copied from the parent is no better known than it was there.
    fn of_copied(
        &self,
        window: ByteRange,
        found: WindowDigest,
        known: impl FnOnce() -> Option<WindowDigest>,
    ) -> Result<Option<WindowDigest>> {
        let copied = within(&self.laid.copied, window).map(|range| range.len()).sum::<u64>();
        match copied {
            0 => Ok(Some(found)),
            all if all == window.len() => match known() {
                Some(known) if known != found => {
                    Err(self.lie("it was copied from the parent, which has other bytes there than were stored", window))
                }
                known => Ok(known),
            },
            _ => Ok(None),
        }
    }

    /// All of a window, in order.
    async fn whole(&self, map: &[Extent], window: ByteRange) -> Result<WindowDigest> {
        let written = self.laid.written_in(window);
        for (range, _) in written {
            self.is_data(map, *range)?;
        }
        let ranges: Vec<_> = data_in(map, window).into_iter().flat_map(|range| range.split(PIECE_SIZE)).collect();
        let read = ranges
            .into_iter()
            .map(|range| async move { Ok::<_, Error>((range, self.calls.read(self.new, range).await?)) });
        let mut read = stream::iter(read).buffered(AT_ONCE);
        let mut hashing = Hashing::new();
        while let Some((range, bytes)) = read.try_next().await? {
            let slice =
                |part: ByteRange| bytes.slice((part.start - range.start) as usize..(part.end - range.start) as usize);
            // What was written in one piece is within one that is read: neither crosses a multiple of the piece's size.
            for (part, digest) in self.laid.written_in(range) {
                self.is_stored(*part, *digest, &slice(*part))?;
            }
            for part in within(&self.laid.zero, range) {
                self.is_zero(part, &slice(part))?;
            }
            hashing.feed(range.start, &bytes);
        }
        Ok(hashing.finish())
    }

    /// What of a window was stored, or some of it.
    async fn parts(&self, map: &[Extent], window: ByteRange) -> Result<()> {
        let mut written = self.laid.written_in(window).to_vec();
        written.retain(|_| self.chosen());
        let looked_at = written.into_iter().map(|(range, digest)| async move {
            self.is_data(map, range)?;
            self.is_stored(range, digest, &self.calls.read(self.new, range).await?)
        });
        stream::iter(looked_at).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        let mut zeros = Vec::new();
        for range in within(&self.laid.zero, window) {
            zeros.extend(data_in(map, range).into_iter().flat_map(|range| range.split(PIECE_SIZE)));
        }
        zeros.retain(|_| self.chosen());
        let looked_at =
            zeros.into_iter().map(|range| async move { self.is_zero(range, &self.calls.read(self.new, range).await?) });
        stream::iter(looked_at).buffer_unordered(AT_ONCE).try_collect::<()>().await
    }

    /// Whether one more piece is looked at.
    fn chosen(&self) -> bool {
        match self.how {
            ReadBack::Full => true,
            ReadBack::Percent(percent) => fastrand::u8(..100) < percent,
        }
    }

    /// Whoever restores it reads nothing where its map says zero.
    fn is_data(&self, map: &[Extent], range: ByteRange) -> Result<()> {
        let read: u64 = data_in(map, range).iter().map(ByteRange::len).sum();
        if read == range.len() { Ok(()) } else { Err(self.lie(OTHER, range)) }
    }

    fn is_stored(&self, range: ByteRange, digest: Digest, bytes: &Bytes) -> Result<()> {
        if Digest::of(bytes) == digest { Ok(()) } else { Err(self.lie(OTHER, range)) }
    }

    fn is_zero(&self, range: ByteRange, bytes: &Bytes) -> Result<()> {
        let zero = bytes.iter().all(|byte| *byte == 0);
        if zero { Ok(()) } else { Err(self.lie("zeros were stored, and other bytes are there", range)) }
    }

    /// Of what it was to take from the parent, some.
    async fn unchanged(&self) -> Result<()> {
        let Some(parent) = self.parent else { return Ok(()) };
        let blocks: u64 = self.laid.unchanged.iter().map(|range| range.len().div_ceil(BLOCK_SIZE)).sum();
        if blocks == 0 {
            return Ok(());
        }
        for _ in 0..UNCHANGED {
            let Some(range) = self.block(fastrand::u64(..blocks)) else { continue };
            let (now, before) = (self.calls.read(self.new, range).await?, self.calls.read(parent, range).await?);
            if now != before {
                return Err(self.lie("they were to be as in the parent, and are not", range));
            }
        }
        Ok(())
    }

    /// The block of this number among the unchanged ones.
    fn block(&self, mut number: u64) -> Option<ByteRange> {
        for range in &self.laid.unchanged {
            let blocks = range.len().div_ceil(BLOCK_SIZE);
            if number < blocks {
                let start = range.start + number * BLOCK_SIZE;
                return Some(ByteRange::new(start, (start + BLOCK_SIZE).min(range.end)));
            }
            number -= blocks;
        }
        None
    }

    fn lie(&self, what: &str, range: ByteRange) -> remora_core::Error {
        self.calls.lie(&format!("point {}, disk {}, {range}: {what}", self.new.point, self.new.disk))
    }
}

/// The parts of ordered ranges that lie in another one.
fn within(ranges: &[ByteRange], other: ByteRange) -> impl Iterator<Item = ByteRange> {
    let first = ranges.partition_point(|range| range.end <= other.start);
    ranges[first..].iter().map_while(move |range| range.intersect(other))
}

/// The parts of a range that a map calls data.
fn data_in(map: &[Extent], range: ByteRange) -> Vec<ByteRange> {
    let first = map.partition_point(|extent| extent.range.end <= range.start);
    let within = map[first..].iter().take_while(|extent| extent.range.start < range.end);
    within
        .filter(|extent| extent.state == ExtentState::Data)
        .filter_map(|extent| extent.range.intersect(range))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::new(start, end)
    }

    #[test]
    fn what_is_not_covered_or_twice_is_found() {
        let written = |start, end| (range(start, end), Digest::of(b""));
        let laid = |written: Vec<_>, zero: &[ByteRange], unchanged: &[ByteRange]| Laid {
            written,
            zero: zero.to_vec(),
            unchanged: unchanged.to_vec(),
            copied: Vec::new(),
        };
        assert_eq!(laid(vec![written(4, 6), written(0, 2)], &[range(2, 4)], &[range(6, 9)]).hole(9), None);
        assert_eq!(laid(vec![written(0, 2)], &[range(3, 4)], &[]).hole(4), Some(2));
        assert_eq!(laid(vec![written(0, 2)], &[range(1, 4)], &[]).hole(4), Some(1));
        assert_eq!(laid(vec![written(0, 2)], &[], &[]).hole(4), Some(2));
        assert_eq!(laid(vec![], &[], &[]).hole(0), None);
    }

    #[test]
    fn data_is_what_the_map_calls_so() {
        let extent = |start, end, state| Extent { range: range(start, end), state };
        let map = [extent(0, 4, ExtentState::Data), extent(4, 8, ExtentState::Zero), extent(8, 12, ExtentState::Data)];
        assert_eq!(data_in(&map, range(2, 10)), [range(2, 4), range(8, 10)]);
        assert_eq!(data_in(&map, range(5, 6)), []);
        assert_eq!(data_in(&map, range(9, 12)), [range(9, 12)]);
    }
}
