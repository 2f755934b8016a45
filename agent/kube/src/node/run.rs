//! One run, from its claim to its end.
//!
//! The worker is at work on a task of its own. Beside it this loop writes what is to be written, shows that the agent
//! lives, and watches for what ends the run early. An API server that does not answer holds up what is written, not the
//! worker. `ending.rs` has what follows the worker's end.

mod ending;
mod work;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use self::work::Work;
use super::again::{Backoff, WRITES};
use super::desk::{Change, Desk, Wish};
use super::duty::{Pace, Seen};
use super::others::{Others, ended_by_others, panicked};
use super::record::{Lost, Record, Unwritten};
use super::status::Said;
use super::tell::Teller;
use super::{Done, Failure, Meter, Worker};
use crate::deadline;
use crate::resources::{BackupRun, Run as _};

/// What ends a run early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Early {
    Cancelled,
    DeadlineExceeded,
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

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Stored,
    Failed,
    /// Likewise, for nobody wants it any more.
    Cancelled,
    /// The next agent of this node begins it again, or this one later.
    GivenBack,
    /// It is no longer this agent's.
    Lost,
}

/// A claimed run.
pub(super) struct Run<W> {
    pub(super) worker: Arc<W>,
    pub(super) teller: Teller,
    pub(super) pace: Pace,
    /// The object, as it was when it was claimed.
    pub(super) object: Arc<BackupRun>,
    pub(super) record: Record<Said>,
    pub(super) desk: Desk,
    pub(super) wishes: mpsc::Receiver<Wish>,
}

/// What is to be written, and when.
struct Writing {
    /// Whether something is said that is not written.
    unwritten: bool,
    next_try: Instant,
    backoff: Backoff,
    next_beat: Instant,
    /// Who waits for what is said to be written.
    waiting: Vec<oneshot::Sender<Result<(), Lost>>>,
}

/// A run that the worker is at work on, or was.
struct Driven<W> {
    run: Run<W>,
    seen: watch::Receiver<Seen<BackupRun>>,
    stopping: CancellationToken,
    meter: Arc<Meter>,
    deadline: Option<Instant>,
    early: Option<Early>,
    writing: Writing,
}

impl<W: Worker> Run<W> {
    /// Has the run done.
    pub(super) async fn drive(self) -> Outcome {
        let writing = Writing {
            unwritten: false,
            next_try: Instant::now(),
            backoff: WRITES,
            next_beat: Instant::now() + self.pace.heartbeat,
            waiting: Vec::new(),
        };
        let driven = Driven {
            seen: self.desk.run.clone(),
            stopping: self.desk.stopping.clone(),
            meter: self.desk.meter(),
            deadline: deadline::of(&self.object).map(from_now),
            early: None,
            writing,
            run: self,
        };
        driven.drive().await
    }
}

/// The instant of a time; one that has passed is now.
fn from_now(time: Timestamp) -> Instant {
    let left = Duration::try_from(time.duration_since(Timestamp::now())).unwrap_or_default();
    let now = Instant::now();
    now.checked_add(left).unwrap_or(now)
}

impl<W: Worker> Driven<W> {
    async fn drive(mut self) -> Outcome {
        let cancel = self.run.desk.cancel.clone();
        // Not begun at all if that is known from the start.
        let late = self.deadline.is_some_and(|deadline| deadline <= Instant::now());
        self.early = match (self.run.object.is_cancelled(), late) {
            (true, _) => Some(Early::Cancelled),
            (false, true) => Some(Early::DeadlineExceeded),
            (false, false) => None,
        };
        if self.early.is_some() {
            cancel.cancel();
        }
        let work = Work { worker: Arc::clone(&self.run.worker), desk: self.run.desk.clone(), cancel: cancel.clone() };
        let mut work = tokio::spawn(work.all(self.run.record.attempt()).in_current_span());
        let result = loop {
            if let Some(result) = self.step(&mut work, &cancel).await {
                break result;
            }
        };
        self.run.wishes.close();
        self.end(result).await
    }

    /// Waits for one thing to happen, and does what it calls for. Gives what the worker made, once it has ended.
    async fn step(
        &mut self,
        work: &mut JoinHandle<Result<Done, Failure>>,
        cancel: &CancellationToken,
    ) -> Option<Result<Done, Failure>> {
        let (unwritten, next_try, next_beat) = (self.writing.unwritten, self.writing.next_try, self.writing.next_beat);
        let watched = self.early.is_none();
        tokio::select! {
            done = work => return Some(done.unwrap_or_else(|died| Err(panicked(died)))),
            Some(wish) = self.run.wishes.recv() => self.wish(wish),
            early = early_end(&mut self.seen, &mut self.run.record, self.deadline, &self.stopping), if watched => {
                tracing::info!(run = self.run.desk.order.full_name(), ?early, "the run is ended early");
                self.early = Some(early);
            }
            () = sleep_until(next_try), if unwritten => self.try_write().await,
            () = sleep_until(next_beat), if !unwritten => self.write_soon(),
        }
        if self.early.is_some() {
            cancel.cancel();
        }
        None
    }

    /// Says what the worker wishes.
    fn wish(&mut self, wish: Wish) {
        let said = &mut self.run.record.said;
        let news = match wish.change {
            Change::Want(attempt) => said.want(attempt),
            Change::End(backup) => said.end_attempt(&backup),
        };
        if news || self.writing.unwritten {
            self.writing.waiting.push(wish.written);
            self.write_soon();
        } else {
            // Nobody may wait any more.
            wish.written.send(Ok(())).ok();
        }
    }

    fn write_soon(&mut self) {
        if !self.writing.unwritten {
            self.writing.unwritten = true;
            self.writing.next_try = Instant::now();
        }
    }

    /// Writes all that is said.
    async fn try_write(&mut self) {
        if let Some(Early::Lost(lost)) = self.early {
            return self.lost(lost);
        }
        self.run.record.said.beat();
        if self.run.record.said.status.completion_time.is_none() {
            self.run.record.said.progress(&self.meter);
        }
        match self.run.record.write().await {
            Ok(()) => {
                let heartbeat = self.run.pace.heartbeat;
                let writing = &mut self.writing;
                (writing.unwritten, writing.backoff, writing.next_beat) = (false, WRITES, Instant::now() + heartbeat);
                writing.waiting.drain(..).for_each(|waits| _ = waits.send(Ok(())));
            }
            Err(Unwritten::Lost(lost)) => self.lost(lost),
            Err(error @ Unwritten::Later(_)) => {
                error.note(&self.run.desk.order.full_name());
                self.writing.next_try = self.writing.backoff.next_try();
            }
        }
    }

    /// Nothing of this run is written any more.
    fn lost(&mut self, lost: Lost) {
        self.early = Some(Early::Lost(lost));
        self.writing.unwritten = false;
        self.writing.next_beat = Instant::now() + self.run.pace.heartbeat;
        self.writing.waiting.drain(..).for_each(|waits| _ = waits.send(Err(lost)));
    }
}

/// Waits for what ends the run before the worker does. May be dropped and called again.
async fn early_end(
    seen: &mut watch::Receiver<Seen<BackupRun>>,
    record: &mut Record<Said>,
    deadline: Option<Instant>,
    stopping: &CancellationToken,
) -> Early {
    let passes = async {
        match deadline {
            Some(deadline) => sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = stopping.cancelled() => Early::Stopping,
        others = ended_by_others(seen, record) => others.into(),
        () = passes => Early::DeadlineExceeded,
    }
}
