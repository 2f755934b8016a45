//! How far a run is.

use std::sync::atomic::{AtomicU64, Ordering};

use remora_core::ports::Progress;

/// Counts bytes; the status tells them with the next heartbeat.
#[derive(Debug, Default)]
pub struct Meter {
    expected: AtomicU64,
    done: AtomicU64,
}

impl Meter {
    /// Bytes to read, as far as known.
    pub fn expected(&self) -> u64 {
        self.expected.load(Ordering::Relaxed)
    }

    /// Bytes read so far.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Read of expected, 0 to 100; none while nothing is known.
    pub fn percent(&self) -> Option<i32> {
        let (expected, done) = (self.expected(), self.done());
        let percent = u128::from(done.min(expected)) * 100;
        percent.checked_div(u128::from(expected)).map(|percent| percent as i32)
    }
}

impl Progress for Meter {
    fn expect(&self, bytes: u64) {
        self.expected.fetch_add(bytes, Ordering::Relaxed);
    }

    fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_is_known_once_something_is_expected_and_never_above_a_hundred() {
        let meter = Meter::default();
        assert_eq!(meter.percent(), None);
        meter.expect(u64::MAX / 2);
        meter.advance(u64::MAX / 4);
        assert_eq!(meter.percent(), Some(49));
        meter.advance(u64::MAX / 2);
        assert_eq!(meter.percent(), Some(100));
    }
}
