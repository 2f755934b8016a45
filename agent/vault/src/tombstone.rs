//! Tombstones: entries of a VM's sequence that say what no longer counts.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::names::SessionId;

/// What no longer counts, and what must not be dropped. It tells all that earlier tombstones told of points, so that
/// only the newest one need be read; sessions are named once, for each is met by whom it names (see `session.rs`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tombstone {
    /// The numbers of dropped points, and of earlier tombstones.
    pub(crate) dropped: Numbers,
    /// The sessions that end here: their writers must not commit any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) ended: Vec<SessionId>,
    /// The points that are held, and until when.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) holds: BTreeMap<u64, Timestamp>,
}

/// A set of numbers as ranges, so that what was dropped in ten years is a few bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Numbers(Vec<(u64, u64)>);

impl Numbers {
    pub(crate) fn contains(&self, number: u64) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= number);
        after > 0 && number <= self.0[after - 1].1
    }

    pub(crate) fn insert(&mut self, number: u64) {
        if self.contains(number) {
            return;
        }
        let at = self.0.partition_point(|(first, _)| *first < number);
        self.0.insert(at, (number, number));
        let touches = |left: (u64, u64), right: (u64, u64)| left.1.checked_add(1) == Some(right.0);
        if at + 1 < self.0.len() && touches(self.0[at], self.0[at + 1]) {
            self.0[at].1 = self.0.remove(at + 1).1;
        }
        if at > 0 && touches(self.0[at - 1], self.0[at]) {
            self.0[at - 1].1 = self.0.remove(at).1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn numbers_are_a_set_in_few_ranges() {
        let mut seed = 7_u64;
        for _ in 0..50 {
            let (mut numbers, mut model) = (Numbers::default(), BTreeSet::new());
            for _ in 0..40 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let number = (seed >> 33) % 60;
                numbers.insert(number);
                model.insert(number);
                assert!((0..62).all(|n| numbers.contains(n) == model.contains(&n)), "{numbers:?} {model:?}");
                let runs = model.iter().filter(|n| !model.contains(&(**n + 1))).count();
                assert_eq!(numbers.0.len(), runs);
            }
        }
    }
}
