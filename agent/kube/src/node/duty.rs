//! The loop of one kind of runs: those of this node are claimed as there is room, and done; what becomes of them is counted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use jiff::Timestamp;
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt};
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::Me;
use super::choose::{Candidate, Machine, Room, Turns, choose, spare};
use super::claim::{Claim, claim};
use super::record::Record;
use super::run::Outcome;
use super::status::Words;
use super::watch::{News, Runs, advice, is_too_old, runs_of};
use crate::resources::Run;

/// How often and how many.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Runs at work at once; and one more, of another namespace, once all of these have been at work for an hour.
    pub parallel: usize,
    /// Between two heartbeats of a run.
    pub heartbeat: Duration,
    /// After this it is looked again at runs that could not be claimed: their agent may be gone by now.
    pub look_again: Duration,
    /// So long a run is left alone that was given back because it only waits.
    pub rest: Duration,
    /// Between two looks at what this node can do, at most; what is unchanged is written every fourth time.
    pub capabilities: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            parallel: 2,
            heartbeat: Duration::from_secs(10),
            look_again: Duration::from_secs(10),
            rest: Duration::from_mins(1),
            capabilities: Duration::from_mins(5),
        }
    }
}

/// What the agent has done, and does, of runs of one kind.
#[derive(Debug, Default)]
pub struct Counts {
    /// Points made, or restores written.
    pub stored: AtomicU64,
    /// Runs that failed.
    pub failed: AtomicU64,
    /// Runs, and verifications, that nobody wanted any more.
    pub cancelled: AtomicU64,
    /// Runs given back for the next agent.
    pub given_back: AtomicU64,
    /// Runs that were taken away: deleted, or ended by the controller.
    pub lost: AtomicU64,
    /// Runs at work.
    pub running: AtomicU64,
    /// Runs of this node that wait.
    pub waiting: AtomicU64,
    /// Whether the runs of this node are known.
    pub ready: AtomicBool,
    /// Why they are not followed.
    trouble: Mutex<Option<String>>,
}

impl Counts {
    /// A run has ended here.
    pub(super) fn count(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Stored => &self.stored,
            Outcome::Failed => &self.failed,
            Outcome::Cancelled => &self.cancelled,
            Outcome::GivenBack => &self.given_back,
            Outcome::Lost => &self.lost,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Why the runs of this node are not followed, if they are not.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// That is why they are not followed, or they are.
    pub fn set_trouble(&self, why: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }
}

/// What is known of a run from the watch; none once it is no longer of this node, or no longer there.
pub(super) type Seen<R> = Option<Arc<R>>;

/// What an agent does with runs of one kind.
#[async_trait]
pub(super) trait Duty: Send + Sync + 'static {
    /// The kind.
    type Run: Run;
    /// What it says in their status.
    type Said: Words<Run = Self::Run> + Send;

    /// Which of the node's runs it is told of, if not of all: more terms of the selector of fields, each after a comma.
    const SELECTS: &'static str = "";

    /// What it takes to be one thing: of each it has one run done at a time.
    fn machine(run: &Self::Run) -> Machine;

    /// The virtual machine that it reads or makes, if it does.
    fn vm(run: &Self::Run) -> Option<&str>;

    /// Whether it is an agent's to begin, whoever has claimed it.
    fn is_to_begin(run: &Self::Run) -> bool;

    /// What claims it.
    fn claiming(&self, run: &Self::Run, now: Timestamp) -> Self::Said;

    /// Has a run done that is ours.
    async fn done(&self, taken: Taken<Self::Run, Self::Said>) -> Outcome;
}

/// A run that was claimed.
pub(super) struct Taken<R, S: Words> {
    /// As it was when it was claimed.
    pub(super) object: Arc<R>,
    pub(super) record: Record<S>,
    pub(super) seen: watch::Receiver<Seen<R>>,
    /// The agent is to stop.
    pub(super) stopping: CancellationToken,
}

/// The loop.
pub(super) struct Rounds<D: Duty> {
    client: Client,
    me: Arc<Me>,
    duty: Arc<D>,
    pace: Pace,
    counts: Arc<Counts>,
    runs: Runs<D::Run>,
    /// Runs at work, or about to be claimed, by UID.
    active: BTreeMap<String, Active<D::Run>>,
    /// Runs that could not be claimed, and until when they are left alone unless they change.
    postponed: BTreeMap<String, Instant>,
    turns: Turns,
    /// How each ended; none if it was not ours to do.
    tasks: JoinSet<Option<Outcome>>,
}

struct Active<R> {
    task: Id,
    machine: Machine,
    seen: watch::Sender<Seen<R>>,
    since: Instant,
}

impl<D: Duty> Rounds<D> {
    /// One that has done nothing yet.
    pub(super) fn new(client: Client, me: Arc<Me>, duty: D, pace: Pace, counts: Arc<Counts>) -> Self {
        Self {
            client,
            me,
            duty: Arc::new(duty),
            pace,
            counts,
            runs: Runs::default(),
            active: BTreeMap::new(),
            postponed: BTreeMap::new(),
            turns: Turns::default(),
            tasks: JoinSet::new(),
        }
    }

    /// Works until it is told to stop; then gives back what is not done.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut events = runs_of::<D::Run>(&self.client, &self.me.node, D::SELECTS);
        let mut again = tokio::time::interval(self.pace.look_again);
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                Some(event) = events.next() => match event {
                    Ok(event) => self.note(event),
                    Err(error) => {
                        self.note_trouble(&error);
                        if is_too_old(&error) {
                            events = runs_of::<D::Run>(&self.client, &self.me.node, D::SELECTS);
                        }
                        continue;
                    }
                },
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended),
                _ = again.tick() => {}
            }
            self.begin_what_can(&stop);
        }
        while let Some(ended) = self.tasks.join_next_with_id().await {
            self.ended(ended);
        }
    }

    /// Why the runs are not followed: for the log, and for whoever asks whether the agent is ready.
    fn note_trouble(&self, error: &watcher::Error) {
        let (kind, advice) = (kind::<D>(), advice(error));
        tracing::warn!(kind, %error, advice, "the runs of this node are not followed; it is tried again");
        let advice = advice.map(|advice| format!(". {advice}")).unwrap_or_default();
        self.counts.set_trouble(Some(format!("{kind}: {error}{advice}")));
    }

    fn note(&mut self, event: Event<D::Run>) {
        match self.runs.note(event) {
            News::Is(uid, run) => {
                self.postponed.remove(&uid);
                if let Some(active) = self.active.get(&uid) {
                    active.seen.send_replace(Some(run));
                }
            }
            News::Gone(uids) => {
                for active in uids.iter().filter_map(|uid| self.active.get(uid)) {
                    active.seen.send_replace(None);
                }
            }
            News::Nothing => {}
        }
        // A list that is begun again may fail again.
        if self.runs.are_known() {
            self.counts.ready.store(true, Ordering::Relaxed);
            self.counts.set_trouble(None);
        }
    }

    /// Begins what can be begun, once all runs are known.
    fn begin_what_can(&mut self, stop: &CancellationToken) {
        if !self.runs.are_known() || stop.is_cancelled() {
            return;
        }
        let free = self.pace.parallel.saturating_sub(self.active.len());
        let now = Instant::now();
        let held: Vec<_> = self.active.values().map(|active| now.duration_since(active.since)).collect();
        let spare = spare(&held, self.pace.parallel);
        self.postponed.retain(|_, until| *until > now);
        let busy: BTreeSet<_> = self.active.values().map(|active| active.machine.clone()).collect();
        let known = |uid: &String| self.active.contains_key(uid) || self.postponed.contains_key(uid);
        let idle = self
            .runs
            .iter()
            .filter(|run| !D::Said::is_over(run) && D::is_to_begin(run))
            .filter(|run| run.uid().is_some_and(|uid| !known(&uid)));
        let time = Timestamp::now();
        let rested = time - self.pace.rest;
        let room = Room { me: &self.me.uid, busy: &busy, turns: &self.turns, free, spare, rested, now: time };
        let (chosen, left) = choose(idle, D::machine, &room);
        for candidate in chosen {
            self.begin(candidate, stop);
        }
        self.counts.running.store(self.active.len() as u64, Ordering::Relaxed);
        self.counts.waiting.store(left as u64, Ordering::Relaxed);
    }

    fn begin(&mut self, candidate: Candidate<D::Run>, stop: &CancellationToken) {
        let uid = candidate.run.uid().unwrap_or_default();
        let machine = D::machine(&candidate.run);
        self.turns.had(&machine.0);
        let span = span::<D>(&candidate.run);
        let (sender, seen) = watch::channel(Some(Arc::clone(&candidate.run)));
        let (client, me, duty) = (self.client.clone(), Arc::clone(&self.me), Arc::clone(&self.duty));
        let stopping = stop.clone();
        let task = async move {
            let record = claimed(&client, &me, &*duty, &candidate).await?;
            Some(duty.done(Taken { object: candidate.run, record, seen, stopping }).await)
        };
        let task = self.tasks.spawn(task.instrument(span)).id();
        self.active.insert(uid, Active { task, machine, seen: sender, since: Instant::now() });
    }

    fn ended(&mut self, ended: Result<(Id, Option<Outcome>), JoinError>) {
        let (task, outcome) = match ended {
            Ok(ended) => ended,
            Err(died) => {
                tracing::error!(kind = kind::<D>(), %died, "a run died; it is begun again");
                (died.id(), None)
            }
        };
        let ended: Vec<_> = self.active.extract_if(.., |_, active| active.task == task).collect();
        if let Some(outcome) = outcome {
            self.counts.count(outcome);
        } else {
            let until = Instant::now() + self.pace.look_again;
            self.postponed.extend(ended.into_iter().map(|(uid, _)| (uid, until)));
        }
    }
}

/// Claims a run; none if it is not ours to do.
async fn claimed<D: Duty>(
    client: &Client,
    me: &Me,
    duty: &D,
    candidate: &Candidate<D::Run>,
) -> Option<Record<D::Said>> {
    let said = duty.claiming(&candidate.run, Timestamp::now());
    match claim(client, me, candidate, said).await {
        Ok(Claim::Ours(record)) => Some(*record),
        Ok(Claim::OfAnother | Claim::Changed) => None,
        Err(error) => {
            let (run, namespace) = (candidate.run.name_any(), candidate.run.namespace());
            let why = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(kind = kind::<D>(), namespace, run, why, "it cannot be claimed; it is tried again");
            None
        }
    }
}

/// What stands beside all that is logged of a run.
fn span<D: Duty>(run: &D::Run) -> tracing::Span {
    let namespace = run.namespace().unwrap_or_default();
    let full = |name: &str| format!("{namespace}/{name}");
    tracing::info_span!(
        "run",
        kind = kind::<D>(),
        run = full(&run.name_any()),
        uid = run.uid(),
        vm = D::vm(run).map(full)
    )
}

/// The kind's name.
fn kind<D: Duty>() -> String {
    <D::Run as kube::Resource>::kind(&()).into_owned()
}
