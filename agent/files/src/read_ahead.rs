//! Notices that a file is read from front to back, and says what to fetch before it is asked for.

use remora_core::{ByteRange, PIECE_SIZE};

/// So many bytes in sequence before anything is fetched ahead: small files and scattered reads cost no more than they
/// are.
const SEQUENTIAL_AFTER: u64 = 2 * PIECE_SIZE;
/// Fetched ahead at most; a small part of any sensible cache.
const WINDOW: u64 = 4 * PIECE_SIZE;
/// The kernel sends the requests of one sequential reader slightly out of order.
const SLACK: u64 = PIECE_SIZE;

/// The reading of one open file.
#[derive(Debug, Default)]
pub(crate) struct ReadAhead {
    next: u64,
    in_sequence: u64,
    fetched_to: u64,
}

impl ReadAhead {
    /// Takes note of a read and returns what to fetch now: whole pieces behind the read, within a file of `size` bytes,
    /// none of them twice.
    pub(crate) fn read(&mut self, range: ByteRange, size: u64) -> ByteRange {
        let sequential = range.start <= self.next.saturating_add(SLACK) && range.end.saturating_add(SLACK) >= self.next;
        if sequential {
            self.in_sequence = self.in_sequence.saturating_add(range.len());
            self.next = self.next.max(range.end);
        } else {
            *self = Self { next: range.end, in_sequence: range.len(), fetched_to: 0 };
        }
        if self.in_sequence < SEQUENTIAL_AFTER {
            return ByteRange::new(0, 0);
        }
        let start = self.next.next_multiple_of(PIECE_SIZE).max(self.fetched_to).min(size);
        let end = (self.next.saturating_add(WINDOW) / PIECE_SIZE * PIECE_SIZE).clamp(start, size.max(start));
        self.fetched_to = end;
        ByteRange::new(start, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 100 * PIECE_SIZE + 5;

    #[test]
    fn a_sequential_reader_gets_every_later_piece_once() {
        let (mut ahead, mut fetched, step) = (ReadAhead::default(), Vec::new(), 128 * 1024);
        for at in (0..SIZE).step_by(step as usize) {
            let range = ahead.read(ByteRange::new(at, (at + step).min(SIZE)), SIZE);
            assert!(range.is_empty() || range.end <= at + step + WINDOW);
            fetched.extend(range.split(PIECE_SIZE));
        }
        let pieces: Vec<_> = fetched.iter().map(|r| r.start / PIECE_SIZE).collect();
        assert_eq!(pieces, (2..=100).collect::<Vec<_>>());
        assert_eq!(fetched.last().unwrap().end, SIZE);
    }

    #[test]
    fn scattered_and_short_reads_fetch_nothing() {
        let mut ahead = ReadAhead::default();
        for at in [0, 50, 20, 80, 3].map(|n| n * PIECE_SIZE) {
            assert!(ahead.read(ByteRange::at(at, PIECE_SIZE), SIZE).is_empty(), "{at}");
        }
        let mut ahead = ReadAhead::default();
        assert!(ahead.read(ByteRange::at(0, SEQUENTIAL_AFTER - 1), SIZE).is_empty());
    }

    #[test]
    fn slightly_disordered_requests_are_one_sequence() {
        let mut ahead = ReadAhead::default();
        let fetched: u64 = [1_u64, 0, 3, 2, 5, 4, 7, 6]
            .iter()
            .map(|n| ahead.read(ByteRange::at(n * PIECE_SIZE / 2, PIECE_SIZE / 2), SIZE).len())
            .sum();
        assert!(fetched >= WINDOW);
    }

    #[test]
    fn offsets_at_the_end_of_the_address_space_do_no_harm() {
        let mut ahead = ReadAhead::default();
        for _ in 0..4 {
            assert!(ahead.read(ByteRange::at(u64::MAX - 10, u64::MAX), SIZE).is_empty());
            let _ = ahead.read(ByteRange::new(0, u64::MAX), u64::MAX);
        }
    }
}
