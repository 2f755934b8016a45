//! A store behind a mover that was there, and is away for a while: calls wait for it, where they would be given up within seconds.
//!
//! As with remora's own clients, a store that has never answered is not waited for: more likely its address is mistyped. Those who
//! come when it was waited for in vain do not wait again.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// What the calls of one store know of it together.
#[derive(Debug, Default)]
pub(super) struct Outage(Mutex<Seen>);

#[derive(Clone, Copy, Debug, Default)]
enum Seen {
    /// It has never answered.
    #[default]
    Never,
    /// It answered last.
    There,
    /// It has not answered since.
    Away(Instant),
}

impl Outage {
    /// The store has answered.
    pub(super) fn is_over(&self) {
        *self.seen() = Seen::There;
    }

    /// Since when a store is away that has just not answered; none if it has never done so.
    pub(super) fn since(&self, mover: &str) -> Option<Instant> {
        let mut seen = self.seen();
        match *seen {
            Seen::Never => None,
            Seen::There => {
                tracing::info!(mover, "the store is away, and is waited for");
                let now = Instant::now();
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
