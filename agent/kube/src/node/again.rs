//! When what failed for want of an answer is tried again, and for how long by an agent that has to stop.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Between tries to write a status.
pub(super) const WRITES: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(20));

/// How long an agent that is told to stop tries to write.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(15);

/// Ever longer waits between tries.
#[derive(Debug)]
pub(super) struct Backoff {
    wait: Duration,
    most: Duration,
}

impl Backoff {
    /// Waits of `first`, and then of twice as long each time, up to `most`.
    pub(super) const fn new(first: Duration, most: Duration) -> Self {
        Self { wait: first, most }
    }

    /// When to try again, after a try that failed. Not in step with other agents, which all wait for the same server.
    pub(super) fn next_try(&mut self) -> Instant {
        let wait = self.wait;
        self.wait = (wait * 2).min(self.most);
        Instant::now() + wait.mul_f64(0.5 + fastrand::f64())
    }
}

/// What is left of [`LAST_WORDS`] while something is unwritten.
#[derive(Debug, Default)]
pub(super) struct LastWords {
    since: Option<Instant>,
}

impl LastWords {
    /// Whether nothing is. They begin when `stopping` is first seen cancelled here.
    pub(super) fn are_over(&mut self, stopping: &CancellationToken) -> bool {
        stopping.is_cancelled() && self.since.get_or_insert_with(Instant::now).elapsed() > LAST_WORDS
    }
}
