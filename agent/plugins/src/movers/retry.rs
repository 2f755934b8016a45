//! Calls that are made again while that makes sense: the host does that for every mover, and no mover for itself.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::conversation::{Component, Failed, Luggage};
use super::failure;
use super::wire::{Call, Done};

/// The first pause before a call is made again; each is twice the one before, and drawn at random below that.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How long a store that fails is tried.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How often a call is made again.
    pub retries: u32,
    /// After this time it is not made again.
    pub give_up: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { retries: 8, give_up: Duration::from_mins(2) }
    }
}

impl Patience {
    /// Calls a component of the mover `name`. The luggage of the call that went well is given back.
    pub(super) async fn call(
        self,
        component: &Component,
        (name, doing): (&str, &str),
        make: impl Fn() -> (Call, Luggage),
    ) -> Result<(Done, Luggage), Failed> {
        let started = Instant::now();
        let mut pause = FIRST_PAUSE;
        for tries_left in (0..=self.retries).rev() {
            let (call, luggage) = make();
            let failed = match component.call(call, luggage.clone()).await {
                Ok(done) => return Ok((done, luggage)),
                Err(failed) => failed,
            };
            let Some(not_before) = failure::again_after(&failed).filter(|_| tries_left > 0) else {
                return Err(failed);
            };
            let wait = not_before.max(pause.mul_f64(fastrand::f64()));
            if started.elapsed() + wait > self.give_up {
                return Err(failed);
            }
            tracing::debug!(mover = name, "{doing} is tried again: {failed:?}");
            sleep(wait).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
        unreachable!("the last try returns")
    }
}
