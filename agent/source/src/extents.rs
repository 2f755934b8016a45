//! From NBD's block status to extents: `base:allocation` says what reads as zero, the dirty bitmap what has changed.

use remora_core::{ByteRange, Error, ErrorKind, Extent, ExtentState};
use remora_nbd::StatusExtent;

/// `base:allocation`: reads as zero (the NBD protocol's `NBD_STATE_ZERO`).
const ZERO: u32 = 2;

/// `qemu:dirty-bitmap:*`: changed (QEMU's `NBD_STATE_DIRTY`).
const DIRTY: u32 = 1;

/// The name of the context that tells zero from data.
pub(crate) const ALLOCATION: &str = "base:allocation";

/// The name of the context of a dirty bitmap.
pub(crate) fn dirty_context(bitmap: &str) -> String {
    format!("qemu:dirty-bitmap:{bitmap}")
}

/// Joins what both contexts say from byte `from` on into extents, as far as both reach, at most up to `end`. Without
/// `dirty` nothing is unchanged.
///
/// An answer that covers nothing is an error: the walk would never end.
pub(crate) fn join(
    from: u64,
    end: u64,
    allocation: &[StatusExtent],
    dirty: Option<&[StatusExtent]>,
) -> Result<Vec<Extent>, Error> {
    let mut allocation = Walk::new(from, end, allocation);
    let mut dirty = dirty.map(|dirty| Walk::new(from, end, dirty));
    let (mut out, mut at) = (Vec::<Extent>::new(), from);
    while at < end {
        let (Some((alloc_end, alloc)), Some((dirty_end, changed))) =
            (allocation.at(at), dirty.as_mut().map_or(Some((end, DIRTY)), |d| d.at(at)))
        else {
            break;
        };
        let state = match (changed & DIRTY != 0, alloc & ZERO != 0) {
            (false, _) => ExtentState::Unchanged,
            (true, true) => ExtentState::Zero,
            (true, false) => ExtentState::Data,
        };
        let range = ByteRange::new(at, alloc_end.min(dirty_end));
        match out.last_mut() {
            Some(last) if last.state == state => last.range.end = range.end,
            _ => out.push(Extent { range, state }),
        }
        at = range.end;
    }
    if at == from && from < end {
        return Err(Error::new(
            ErrorKind::Unavailable,
            format!("QEMU's block status from byte {from} on covers nothing"),
        ));
    }
    Ok(out)
}

/// Goes through one context's extents in order.
struct Walk<'a> {
    rest: std::slice::Iter<'a, StatusExtent>,
    current: Option<(u64, u32)>,
    reached: u64,
    limit: u64,
}

impl<'a> Walk<'a> {
    fn new(from: u64, limit: u64, extents: &'a [StatusExtent]) -> Self {
        Self { rest: extents.iter(), current: None, reached: from, limit }
    }

    /// The end and the flags of the extent that byte `at` lies in; each `at` is at least the one before.
    fn at(&mut self, at: u64) -> Option<(u64, u32)> {
        while self.current.is_none_or(|(end, _)| end <= at) {
            let next = self.rest.next()?;
            self.reached = self.reached.saturating_add(next.length).min(self.limit);
            self.current = Some((self.reached, next.flags));
        }
        self.current
    }
}

#[cfg(test)]
mod tests {
    use ExtentState::{Data, Unchanged, Zero};

    use super::*;

    fn status(extents: &[(u64, u32)]) -> Vec<StatusExtent> {
        extents.iter().map(|&(length, flags)| StatusExtent { length, flags }).collect()
    }

    fn joined(
        from: u64,
        end: u64,
        allocation: &[(u64, u32)],
        dirty: Option<&[(u64, u32)]>,
    ) -> Vec<(u64, u64, ExtentState)> {
        let dirty = dirty.map(status);
        let out = join(from, end, &status(allocation), dirty.as_deref()).unwrap();
        out.iter().map(|e| (e.range.start, e.range.end, e.state)).collect()
    }

    #[test]
    fn a_full_is_data_or_zero() {
        assert_eq!(
            joined(0, 100, &[(10, 0), (20, 3), (30, 1), (40, 2)], None),
            [(0, 10, Data), (10, 30, Zero), (30, 60, Data), (60, 100, Zero)]
        );
    }

    #[test]
    fn an_increment_is_unchanged_where_clean_whatever_the_allocation_says() {
        let out = joined(0, 100, &[(50, 0), (50, 3)], Some(&[(10, 0), (30, 1), (40, 1), (20, 0)]));
        assert_eq!(out, [(0, 10, Unchanged), (10, 50, Data), (50, 80, Zero), (80, 100, Unchanged)]);
    }

    #[test]
    fn the_shorter_answer_limits_and_nothing_goes_beyond_the_end() {
        assert_eq!(joined(100, 200, &[(10, 0)], Some(&[(1000, 1)])), [(100, 110, Data)]);
        assert_eq!(
            joined(100, 200, &[(1000, 0)], Some(&[(60, 0), (1000, 1)])),
            [(100, 160, Unchanged), (160, 200, Data)]
        );
        assert_eq!(joined(0, 10, &[(u64::MAX, 0), (u64::MAX, 0)], None), [(0, 10, Data)]);
    }

    #[test]
    fn an_answer_that_covers_nothing_is_an_error() {
        assert!(join(0, 10, &[], None).is_err());
        assert!(join(0, 10, &status(&[(0, 0), (0, 0)]), None).is_err());
        assert!(join(0, 10, &status(&[(10, 0)]), Some(&[])).is_err());
    }

    /// Byte by byte: each byte's state follows from its two flags.
    #[test]
    fn agrees_with_a_byte_wise_model() {
        let mut seed = 3_u64;
        let mut random = move |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        for _ in 0..300 {
            let mut list = |n: u64| (0..n).map(|_| (random(9), random(4) as u32)).collect::<Vec<_>>();
            let (allocation, mut dirty) = (list(12), list(12));
            dirty.push((1, 0));
            let flat = |list: &[(u64, u32)]| {
                list.iter().flat_map(|&(n, f)| std::iter::repeat_n(f, n as usize)).collect::<Vec<_>>()
            };
            let (a, d) = (flat(&allocation), flat(&dirty));
            let both = a.len().min(d.len()).min(40);
            if both == 0 {
                continue;
            }
            let out = joined(0, 40, &allocation, Some(&dirty));
            assert_eq!(out.last().unwrap().1, both as u64);
            for (byte, (a, d)) in a.iter().zip(&d).take(both).enumerate() {
                let want = if d & 1 == 0 {
                    Unchanged
                } else if a & 2 != 0 {
                    Zero
                } else {
                    Data
                };
                let got = out.iter().find(|e| (byte as u64) < e.1).unwrap().2;
                assert_eq!(got, want, "byte {byte} of {allocation:?} {dirty:?}");
            }
        }
    }
}
