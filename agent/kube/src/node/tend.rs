//! Work that is begun from the start with each claim, as restores and verifications are.
//!
//! The worker is at work on a task of its own. Beside it this loop shows that the agent lives, and watches for what ends the
//! work early.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::duty::{Pace, Seen, Taken};
use super::others::{Others, ended_by_others, panicked};
use super::record::{Lost, Record, Unwritten};
use super::status::Words;
use super::{Failure, Meter};

/// Between tries to write, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(20));

/// How long an agent that is told to stop tries to write.
const LAST_WORDS: Duration = Duration::from_secs(15);

/// What ends work early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Early {
    Cancelled,
    Stopping,
    Lost(Lost),
}

impl From<Others> for Early {
    fn from(others: Others) -> Self {
        match others {
            Others::Cancelled => Self::Cancelled,
            Others::Lost(lost) => Self::Lost(lost),
        }
    }
}

/// What an agent says of such work while it goes on.
pub(super) trait Beats: Words {
    /// Shows observers that the agent lives, and how far it is.
    fn beat(&mut self, meter: &Meter);
}

/// A claimed run.
pub(super) struct Tended<S: Words> {
    /// `<namespace>/<name>`, for logs.
    pub(super) name: String,
    pub(super) pace: Pace,
    pub(super) record: Record<S>,
    seen: watch::Receiver<Seen<S::Run>>,
    stopping: CancellationToken,
}

impl<S: Beats> Tended<S> {
    pub(super) fn new(name: String, pace: Pace, taken: Taken<S::Run, S>) -> Self {
        let Taken { record, seen, stopping, .. } = taken;
        Self { name, pace, record, seen, stopping }
    }

    /// Has it done by `work`, which ends soon after its token is cancelled. Gives what ended it early, and what came of it.
    pub(super) async fn done<T, F>(
        &mut self,
        work: impl FnOnce(Arc<Meter>, CancellationToken) -> F,
    ) -> (Option<Early>, Result<T, Failure>)
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let (meter, cancel) = (Arc::new(Meter::default()), CancellationToken::new());
        let mut work = tokio::spawn(work(Arc::clone(&meter), cancel.clone()).in_current_span());
        let (mut early, mut next_beat, mut backoff) = (None, Instant::now() + self.pace.heartbeat, BACKOFF.0);
        let result = loop {
            let watched = early.is_none();
            tokio::select! {
                done = &mut work => break done.unwrap_or_else(|died| Err(panicked(died))),
                ends = early_end(&mut self.seen, &mut self.record, &self.stopping), if watched => {
                    tracing::info!(run = self.name, early = ?ends, "the work is ended early");
                    early = Some(ends);
                    cancel.cancel();
                }
                () = sleep_until(next_beat), if watched => {
                    self.record.said.beat(&meter);
                    match self.record.write().await {
                        Ok(()) => (next_beat, backoff) = (Instant::now() + self.pace.heartbeat, BACKOFF.0),
                        Err(Unwritten::Lost(lost)) => {
                            early = Some(Early::Lost(lost));
                            cancel.cancel();
                        }
                        Err(error @ Unwritten::Later(_)) => {
                            tracing::warn!(run = self.name, "{error}; it is tried again");
                            (next_beat, backoff) = later(backoff);
                        }
                    }
                }
            }
        };
        self.record.said.beat(&meter);
        (early, result)
    }

    /// Writes what is said, whatever it takes; false if it is not to be written, or the agent has to stop before it could.
    pub(super) async fn write_all(&mut self) -> bool {
        let (mut backoff, mut last) = (BACKOFF.0, None);
        loop {
            match self.record.write().await {
                Ok(()) => return true,
                Err(Unwritten::Lost(_)) => return false,
                Err(error @ Unwritten::Later(_)) => {
                    tracing::warn!(run = self.name, "{error}; it is tried again");
                }
            }
            if self.stopping.is_cancelled() && last.get_or_insert_with(Instant::now).elapsed() > LAST_WORDS {
                return false;
            }
            let (until, next) = later(backoff);
            backoff = next;
            sleep_until(until).await;
        }
    }
}

/// When it is tried again, and how much later after that. Not in step with other agents.
fn later(backoff: Duration) -> (Instant, Duration) {
    (Instant::now() + backoff.mul_f64(0.5 + fastrand::f64()), (backoff * 2).min(BACKOFF.1))
}

/// Waits for what ends the work before the worker does. May be dropped and called again.
async fn early_end<S: Words>(
    seen: &mut watch::Receiver<Seen<S::Run>>,
    record: &mut Record<S>,
    stopping: &CancellationToken,
) -> Early {
    tokio::select! {
        // Who is told to stop says that a run was cancelled, if it was.
        biased;
        others = ended_by_others(seen, record) => others.into(),
        () = stopping.cancelled() => Early::Stopping,
    }
}
