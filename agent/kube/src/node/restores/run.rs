//! One restore, from its claim to the agent's last word.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use remora_core::{Error, ErrorKind};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::said::RestoreSaid;
use super::{RestoreOrder, RestoreWorker};
use crate::node::duty::{Pace, Seen};
use crate::node::record::{Lost, Record, Unwritten};
use crate::node::run::Outcome;
use crate::node::{Failure, Meter};
use crate::resources::{RestoreRun, Run};

/// Between tries to write, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(20));

/// How long an agent that is told to stop tries to write.
const LAST_WORDS: Duration = Duration::from_secs(15);

/// What ends a restore early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Early {
    /// The controller writes that end.
    Cancelled,
    Stopping,
    Lost(Lost),
}

/// A claimed restore.
pub(super) struct Restore<W> {
    pub(super) worker: Arc<W>,
    pub(super) pace: Pace,
    pub(super) record: Record<RestoreSaid>,
    pub(super) order: RestoreOrder,
    pub(super) seen: watch::Receiver<Seen<RestoreRun>>,
    pub(super) stopping: CancellationToken,
}

impl<W: RestoreWorker> Restore<W> {
    /// Has it done.
    pub(super) async fn drive(mut self) -> Outcome {
        let (meter, cancel) = (Arc::new(Meter::default()), CancellationToken::new());
        let mut work = {
            let (worker, order) = (Arc::clone(&self.worker), self.order.clone());
            let (meter, cancel) = (Arc::clone(&meter), cancel.clone());
            tokio::spawn(async move { worker.restore(&order, meter, cancel).await }.in_current_span())
        };
        let (mut early, mut next_beat, mut backoff) = (None, Instant::now() + self.pace.heartbeat, BACKOFF.0);
        let result = loop {
            let watched = early.is_none();
            tokio::select! {
                done = &mut work => break done.unwrap_or_else(|died| Err(panicked(died))),
                ends = ended_by_others(&mut self.seen, &mut self.record, &self.stopping), if watched => {
                    tracing::info!(run = self.order.full_name(), early = ?ends, "the restore is ended early");
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
                            tracing::warn!(run = self.order.full_name(), "{error}; it is tried again");
                            (next_beat, backoff) = later(backoff);
                        }
                    }
                }
            }
        };
        self.record.said.beat(&meter);
        self.end(early, result).await
    }

    async fn end(mut self, early: Option<Early>, result: Result<(), Failure>) -> Outcome {
        let now = Timestamp::now();
        let outcome = match (early, &result) {
            (Some(Early::Lost(lost)), _) => {
                tracing::warn!(run = self.order.full_name(), "{lost}: nothing is written of it any more");
                return Outcome::Lost;
            }
            (Some(Early::Cancelled), Err(_)) => return Outcome::Lost,
            (_, Ok(())) => {
                self.record.said.written(now);
                Outcome::Stored
            }
            (Some(Early::Stopping), Err(_)) => {
                self.record.said.given_back(now);
                Outcome::GivenBack
            }
            (None, Err(failure)) => {
                let (run, reason) = (self.order.full_name(), failure.reason());
                tracing::error!(run, reason, "{}", failure.message());
                self.record.said.failed(failure, now);
                Outcome::Failed
            }
        };
        if self.write_all().await { outcome } else { Outcome::Lost }
    }

    /// Writes what is said, whatever it takes; false if it is not to be written, or the agent has to stop before it could.
    async fn write_all(&mut self) -> bool {
        let (mut backoff, mut last) = (BACKOFF.0, None);
        loop {
            match self.record.write().await {
                Ok(()) => return true,
                Err(Unwritten::Lost(_)) => return false,
                Err(error @ Unwritten::Later(_)) => {
                    tracing::warn!(run = self.order.full_name(), "{error}; it is tried again");
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

/// Waits for what ends the restore before the worker does. May be dropped and called again.
async fn ended_by_others(
    seen: &mut watch::Receiver<Seen<RestoreRun>>,
    record: &mut Record<RestoreSaid>,
    stopping: &CancellationToken,
) -> Early {
    loop {
        let now = seen.borrow_and_update().clone();
        match now {
            Some(run) => {
                if let Err(lost) = record.saw(&run) {
                    return Early::Lost(lost);
                }
                if run.is_cancelled() {
                    return Early::Cancelled;
                }
            }
            // A watch may lose it for other reasons: only the API server knows.
            None => match record.look().await {
                Ok(_) => {}
                Err(Unwritten::Lost(lost)) => return Early::Lost(lost),
                Err(Unwritten::Later(_)) => {
                    sleep(BACKOFF.1).await;
                    continue;
                }
            },
        }
        tokio::select! {
            () = stopping.cancelled() => return Early::Stopping,
            changed = seen.changed() => if changed.is_err() {
                return std::future::pending().await;
            },
        }
    }
}

fn panicked(died: tokio::task::JoinError) -> Failure {
    Error::new(ErrorKind::Failed, "the restore died of a bug of remora").because(died).into()
}
