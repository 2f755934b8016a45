//! The loop: runs of this node are claimed as there is room, and done, one a VM; what becomes of them is counted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use kube::{Client, ResourceExt};
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::choose::{Candidate, Machine, choose, machine};
use super::claim::{Claim, claim};
use super::desk::Seen;
use super::run::{Outcome, Run};
use super::status::Said;
use super::tell::Teller;
use super::this_node::ThisNode;
use super::watch::{News, Runs, is_too_old, runs_of};
use super::{Desk, Me, Meter, Order, Worker};
use crate::resources::BackupRun;

/// How often and how many.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Runs at work at once.
    pub parallel: usize,
    /// Between two heartbeats of a run.
    pub heartbeat: Duration,
    /// After this it is looked again at runs that could not be claimed: their agent may be gone by now.
    pub look_again: Duration,
    /// Between two looks at what this node can do; what is unchanged is written every fourth time.
    pub capabilities: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            parallel: 2,
            heartbeat: Duration::from_secs(10),
            look_again: Duration::from_secs(10),
            capabilities: Duration::from_mins(5),
        }
    }
}

/// What the agent has done, and does.
#[derive(Debug, Default)]
pub struct Counts {
    /// Points made.
    pub stored: AtomicU64,
    /// Runs that ended without one.
    pub failed: AtomicU64,
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
}

impl Counts {
    /// A run has ended here.
    pub(super) fn count(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Stored => &self.stored,
            Outcome::Failed => &self.failed,
            Outcome::GivenBack => &self.given_back,
            Outcome::Lost => &self.lost,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// The agent of a node.
pub struct Agent<W> {
    client: Client,
    me: Arc<Me>,
    worker: Arc<W>,
    pace: Pace,
    counts: Arc<Counts>,
    teller: Teller,
    runs: Runs<BackupRun>,
    /// Runs at work, or about to be claimed, by UID.
    active: BTreeMap<String, Active>,
    /// Runs that could not be claimed, and until when they are left alone unless they change.
    postponed: BTreeMap<String, Instant>,
    tasks: JoinSet<Ended>,
}

struct Active {
    task: Id,
    machine: Machine,
    seen: watch::Sender<Seen>,
}

/// How a task ended; none if the run was not ours to do.
struct Ended(Option<Outcome>);

impl<W: Worker> Agent<W> {
    /// An agent that has done nothing yet.
    pub fn new(client: Client, me: Me, worker: W, pace: Pace, counts: Arc<Counts>) -> Self {
        let teller = Teller::new(client.clone(), &me);
        Self {
            client,
            me: Arc::new(me),
            worker: Arc::new(worker),
            pace,
            counts,
            teller,
            runs: Runs::default(),
            active: BTreeMap::new(),
            postponed: BTreeMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Works until it is told to stop; then gives back what is not done.
    pub async fn run(mut self, stop: CancellationToken) {
        let node = ThisNode::new(self.client.clone(), Arc::clone(&self.me), Arc::clone(&self.worker), self.pace);
        let node = tokio::spawn(node.keep(stop.clone()));
        let mut events = runs_of::<BackupRun>(&self.client, &self.me.node);
        let mut again = tokio::time::interval(self.pace.look_again);
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                Some(event) = events.next() => match event {
                    Ok(event) => self.note(event),
                    Err(error) => {
                        tracing::warn!(%error, "the runs of this node are not followed; it is tried again");
                        if is_too_old(&error) {
                            events = runs_of::<BackupRun>(&self.client, &self.me.node);
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
        if let Err(died) = node.await {
            tracing::error!(%died, "who tells of this node has died");
        }
    }

    fn note(&mut self, event: kube::runtime::watcher::Event<BackupRun>) {
        match self.runs.note(event) {
            News::Is(uid, run) => {
                self.postponed.remove(&uid);
                if let Some(active) = self.active.get(&uid) {
                    active.seen.send_replace(Seen::Run(run));
                }
            }
            News::Gone(uids) => {
                for active in uids.iter().filter_map(|uid| self.active.get(uid)) {
                    active.seen.send_replace(Seen::Gone);
                }
            }
            News::Nothing => {}
        }
        self.counts.ready.store(self.runs.are_known(), Ordering::Relaxed);
    }

    /// Begins what can be begun, once all runs are known: the oldest go first.
    fn begin_what_can(&mut self, stop: &CancellationToken) {
        if !self.runs.are_known() || stop.is_cancelled() {
            return;
        }
        let free = self.pace.parallel.saturating_sub(self.active.len());
        let now = Instant::now();
        self.postponed.retain(|_, until| *until > now);
        let busy: BTreeSet<_> = self.active.values().map(|active| active.machine.clone()).collect();
        let known = |uid: &String| self.active.contains_key(uid) || self.postponed.contains_key(uid);
        let idle = self.runs.iter().filter(|run| run.uid().is_some_and(|uid| !known(&uid)));
        let (chosen, left) = choose(idle, machine, &self.me.uid, &busy, free);
        for candidate in chosen {
            self.begin(candidate, stop);
        }
        self.counts.running.store(self.active.len() as u64, Ordering::Relaxed);
        self.counts.waiting.store(left as u64, Ordering::Relaxed);
    }

    fn begin(&mut self, candidate: Candidate<BackupRun>, stop: &CancellationToken) {
        let uid = candidate.run.uid().unwrap_or_default();
        let (seen, run) = watch::channel(Seen::Run(Arc::clone(&candidate.run)));
        let (sender, wishes) = mpsc::channel(4);
        let desk = Desk {
            client: self.client.clone(),
            me: Arc::clone(&self.me),
            order: order(&candidate.run),
            meter: Arc::new(Meter::default()),
            wishes: sender,
            run,
            cancel: CancellationToken::new(),
            stopping: stop.clone(),
        };
        let machine = machine(&candidate.run);
        let (worker, teller, pace) = (Arc::clone(&self.worker), self.teller.clone(), self.pace);
        let (client, me) = (self.client.clone(), Arc::clone(&self.me));
        let task = async move {
            let name = desk.order.full_name();
            let said = Said::claiming(&candidate.run, &me, Timestamp::now());
            let record = match claim(&client, &me, &candidate, said).await {
                Ok(Claim::Ours(record)) => *record,
                Ok(Claim::OfAnother | Claim::Changed) => return Ended(None),
                Err(error) => {
                    let why = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(run = name, why, "the run cannot be claimed; it is tried again");
                    return Ended(None);
                }
            };
            tracing::info!(run = name, vm = desk.order.spec.virtual_machine, "a run begins");
            teller.normal(&candidate.run, "Claimed", &format!("the agent of node {} works on it", me.node)).await;
            let run = Run { worker, teller, pace, object: candidate.run, record, desk, wishes };
            Ended(Some(run.drive().await))
        };
        let task = self.tasks.spawn(task).id();
        self.active.insert(uid, Active { task, machine, seen });
    }

    fn ended(&mut self, ended: Result<(Id, Ended), JoinError>) {
        let (task, outcome) = match ended {
            Ok((task, Ended(outcome))) => (task, outcome),
            Err(died) => {
                tracing::error!(%died, "a run died; it is begun again");
                (died.id(), None)
            }
        };
        let ended: Vec<_> = self.active.extract_if(.., |_, active| active.task == task).collect();
        if outcome.is_none() {
            let until = Instant::now() + self.pace.look_again;
            self.postponed.extend(ended.into_iter().map(|(uid, _)| (uid, until)));
        }
        if let Some(outcome) = outcome {
            self.counts.count(outcome);
        }
    }
}

fn order(run: &BackupRun) -> Order {
    Order {
        namespace: run.namespace().unwrap_or_default(),
        name: run.name_any(),
        uid: run.uid().unwrap_or_default(),
        spec: run.spec.clone(),
    }
}
