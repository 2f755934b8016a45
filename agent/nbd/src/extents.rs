//! What a server tells of a range, taken in as it comes: whatever is sent, what is kept is bounded.

use crate::error::NbdError;

/// The most extents that are kept of a reply in one context: 2 GiB in blocks of 64 KiB. The rest has to be asked again.
pub(crate) const EXTENTS_LIMIT: usize = 32 * 1024;

/// The bytes of an extent on the wire: its length and its flags.
pub(crate) const EXTENT_LEN: usize = 8;

/// Extents of one context, neighbours with equal flags joined.
pub(crate) struct Extents {
    /// Bytes of the range of which nothing was told yet.
    left: u32,
    kept: Vec<(u32, u32)>,
    /// More was told than is kept.
    full: bool,
}

impl Extents {
    /// None yet, of a range of `len` bytes.
    pub(crate) const fn new(len: u32) -> Self {
        Self { left: len, kept: Vec::new(), full: false }
    }

    /// Takes what comes next. The last extent may reach beyond the range and is cut.
    pub(crate) fn take(&mut self, wire: [u8; EXTENT_LEN]) -> Result<(), NbdError> {
        let [length, flags] = [0, 4].map(|at| u32::from_be_bytes([wire[at], wire[at + 1], wire[at + 2], wire[at + 3]]));
        if length == 0 || self.left == 0 {
            return Err(NbdError::Protocol("it tells of extents that were not asked for"));
        }
        let length = length.min(self.left);
        self.left -= length;
        let kept = self.kept.len();
        match self.kept.last_mut() {
            _ if self.full => {}
            Some(last) if last.1 == flags => last.0 += length,
            _ if kept == EXTENTS_LIMIT => self.full = true,
            _ => self.kept.push((length, flags)),
        }
        Ok(())
    }

    /// (length, flags) from the range's start without gaps, at least one.
    pub(crate) fn finish(self) -> Result<Vec<(u32, u32)>, NbdError> {
        if self.kept.is_empty() { Err(NbdError::Protocol("it tells of no extent")) } else { Ok(self.kept) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(len: u32, extents: impl IntoIterator<Item = (u32, u32)>) -> Vec<(u32, u32)> {
        let mut all = Extents::new(len);
        for (length, flags) in extents {
            all.take([length.to_be_bytes(), flags.to_be_bytes()].as_flattened().try_into().unwrap()).unwrap();
        }
        all.finish().unwrap()
    }

    #[test]
    fn neighbours_with_equal_flags_are_one() {
        assert_eq!(told(100, [(1, 1), (2, 1), (3, 0), (4, 0), (5, 1)]), [(3, 1), (7, 0), (5, 1)]);
        assert_eq!(told(1 << 20, (0..1 << 20).map(|_| (1, 3))), [(1 << 20, 3)]);
    }

    #[test]
    fn no_more_is_kept_than_the_limit_and_that_without_gaps() {
        let kept = told(u32::MAX, (0..100_000).map(|n| (7, n % 2)));
        assert_eq!(kept.len(), EXTENTS_LIMIT);
        assert!(kept.iter().enumerate().all(|(n, extent)| *extent == (7, n as u32 % 2)));
        // What is beyond must not be joined to the last that was kept.
        let flags = |n: u32| if n < 2 * EXTENTS_LIMIT as u32 { n % 2 } else { 1 };
        assert_eq!(told(u32::MAX, (0..100_000).map(|n| (7, flags(n)))), kept);
    }
}
