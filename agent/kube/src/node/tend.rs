//! Work that is begun from the start with each claim, as restores and verifications are.
//!
//! The worker is at work on a task of its own. Beside it this loop shows that the agent lives, and watches for what ends the
//! work early.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::again::{Backoff, LastWords, WRITES};
use super::duty::{Pace, Seen, Taken};
use super::others::{Others, ended_by_others, panicked};
use super::record::{Lost, Record, Unwritten};
use super::status::Words;
use super::{Failure, Meter};

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

/// A heartbeat that is to be written.
struct Beat {
    at: Instant,
    backoff: Backoff,
}

impl Beat {
    /// The one that follows a write.
    fn after(pace: Pace) -> Self {
        Self { at: Instant::now() + pace.heartbeat, backoff: WRITES }
    }
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
        let (mut early, mut next) = (None, Beat::after(self.pace));
        let result = loop {
            let watched = early.is_none();
            tokio::select! {
                done = &mut work => break done.unwrap_or_else(|died| Err(panicked(died))),
                ends = early_end(&mut self.seen, &mut self.record, &self.stopping), if watched => {
                    tracing::info!(run = self.name, early = ?ends, "the work is ended early");
                    early = Some(ends);
                }
                () = sleep_until(next.at), if watched => {
                    early = self.beat(&meter, &mut next).await.err().map(Early::Lost);
                }
            }
            if early.is_some() {
                cancel.cancel();
            }
        };
        self.record.said.beat(&meter);
        (early, result)
    }

    /// Writes that the agent lives, and how far it is.
    async fn beat(&mut self, meter: &Meter, next: &mut Beat) -> Result<(), Lost> {
        self.record.said.beat(meter);
        match self.record.write().await {
            Ok(()) => *next = Beat::after(self.pace),
            Err(Unwritten::Lost(lost)) => return Err(lost),
            Err(error @ Unwritten::Later(_)) => {
                error.note(&self.name);
                next.at = next.backoff.next_try();
            }
        }
        Ok(())
    }

    /// Writes what is said, whatever it takes; false if it is not to be written, or the agent has to stop before it could.
    pub(super) async fn write_all(&mut self) -> bool {
        let (mut backoff, mut last_words) = (WRITES, LastWords::default());
        loop {
            match self.record.write().await {
                Ok(()) => return true,
                Err(Unwritten::Lost(_)) => return false,
                Err(error @ Unwritten::Later(_)) => error.note(&self.name),
            }
            if last_words.are_over(&self.stopping) {
                return false;
            }
            sleep_until(backoff.next_try()).await;
        }
    }
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
