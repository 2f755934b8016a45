//! A store that was there, and is away for a while: since when, and whether it is waited for at all.
//!
//! A store that has never answered is not waited for: more likely its address is mistyped. Those who come when it was waited
//! for in vain do not wait again: it is away since the same time for all of them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// What those who use one store know of it together.
#[derive(Debug, Default)]
pub struct Outage(Mutex<Seen>);

/// What the store was like when it was last asked.
#[derive(Clone, Copy, Debug, Default)]
pub enum Seen {
    /// It has never answered.
    #[default]
    Never,
    /// It answered last.
    There,
    /// It has not answered since.
    Away(Instant),
}

impl Outage {
    /// That of a store of which this is known beforehand.
    pub fn new(seen: Seen) -> Self {
        Self(Mutex::new(seen))
    }

    /// The store has answered.
    pub fn is_over(&self) {
        *self.seen() = Seen::There;
    }

    /// Since when a store is away that has just not answered; none if it has never answered. Calls `begins` where it is away since
    /// `now`.
    pub fn since(&self, now: Instant, begins: impl FnOnce()) -> Option<Instant> {
        let mut seen = self.seen();
        match *seen {
            Seen::Never => None,
            Seen::There => {
                begins();
                *seen = Seen::Away(now);
                Some(now)
            }
            Seen::Away(since) => Some(since),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_store_that_has_answered_is_away_since_it_first_did_not() {
        let (outage, begun, outages) = (Outage::default(), Instant::now(), Cell::new(0));
        let at = |seconds| begun + Duration::from_secs(seconds);
        let since = |seconds| outage.since(at(seconds), || outages.set(outages.get() + 1));
        assert_eq!(since(0), None, "it has never answered");
        outage.is_over();
        assert_eq!([since(10), since(500)], [Some(at(10)); 2]);
        assert_eq!(outages.get(), 1);
        outage.is_over();
        assert_eq!(since(600), Some(at(600)), "it was there in between");
        assert_eq!(outages.get(), 2);
    }
}
