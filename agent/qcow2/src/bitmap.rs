//! Which clusters hold data: one bit each, so that a disk costs 2 MiB of memory per TiB however fragmented it is.

/// A set of cluster numbers below a fixed bound.
#[derive(Clone, Debug)]
pub(crate) struct ClusterSet {
    words: Vec<u64>,
    len: u64,
}

impl ClusterSet {
    /// The empty set of numbers below `bound`.
    pub(crate) fn new(bound: u64) -> Self {
        Self { words: vec![0; bound.div_ceil(64) as usize], len: 0 }
    }

    /// Adds `range`, which lies below the bound.
    pub(crate) fn insert(&mut self, range: std::ops::Range<u64>) {
        let mut at = range.start;
        while at < range.end {
            let stop = range.end.min((at / 64 + 1) * 64);
            let ones = u64::MAX >> (64 - (stop - at)) << (at % 64);
            let word = &mut self.words[(at / 64) as usize];
            self.len += u64::from((ones & !*word).count_ones());
            *word |= ones;
            at = stop;
        }
    }

    /// Whether `cluster` is in the set; false beyond the bound.
    pub(crate) fn contains(&self, cluster: u64) -> bool {
        self.words.get((cluster / 64) as usize).is_some_and(|word| word >> (cluster % 64) & 1 == 1)
    }

    /// How many numbers the set holds.
    pub(crate) const fn len(&self) -> u64 {
        self.len
    }

    /// The lowest number in the set that is at least `from`.
    pub(crate) fn next(&self, from: u64) -> Option<u64> {
        let first = (from / 64) as usize;
        let head = *self.words.get(first)? & (u64::MAX << (from % 64));
        if head != 0 {
            return Some(first as u64 * 64 + u64::from(head.trailing_zeros()));
        }
        let rest = self.words[first + 1..].iter().position(|word| *word != 0)? + first + 1;
        Some(rest as u64 * 64 + u64::from(self.words[rest].trailing_zeros()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_set(ranges in prop::collection::vec((0_u64..300, 0_u64..100), 0..8)) {
            let (mut set, mut model) = (ClusterSet::new(400), BTreeSet::new());
            for (start, len) in ranges {
                set.insert(start..start + len);
                model.extend(start..start + len);
            }
            prop_assert_eq!(set.len(), model.len() as u64);
            for cluster in 0..500 {
                prop_assert_eq!(set.contains(cluster), model.contains(&cluster));
                prop_assert_eq!(set.next(cluster), model.range(cluster..).next().copied());
            }
        }
    }
}
