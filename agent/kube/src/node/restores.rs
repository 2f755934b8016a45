//! The restores of one node: claimed as there is room, and done. The loop is that of backups without what these have beside:
//! attempts, deadlines, machines that take one run at a time.

mod run;
mod said;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use jiff::Timestamp;
use kube::runtime::watcher::Event;
use kube::{Client, ResourceExt};
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::run::Restore;
use self::said::RestoreSaid;
use super::agent::Pace;
use super::choose::{Candidate, Machine, choose};
use super::claim::{Claim, claim};
use super::run::Outcome;
use super::tell::Teller;
use super::watch::{News, Runs, is_too_old, runs_of};
use super::{Counts, Failure, Me, Meter};
use crate::resources::{RestoreRun, RestoreRunSpec, Run};

/// Writes disks of points.
#[async_trait]
pub trait RestoreWorker: Send + Sync + 'static {
    /// Writes all that the order names, verified. Ends soon after `cancel`, with the kind `Cancelled`.
    async fn restore(&self, order: &RestoreOrder, meter: Arc<Meter>, cancel: CancellationToken) -> Result<(), Failure>;
}

/// A restore to be done.
#[derive(Clone, Debug)]
pub struct RestoreOrder {
    /// The run's namespace, which is also the tenant.
    pub namespace: String,
    /// The run's name.
    pub name: String,
    /// What is asked for.
    pub spec: RestoreRunSpec,
}

impl RestoreOrder {
    /// `<namespace>/<name>`, for logs.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// What is known of a run from the watch; none once it is gone.
type Seen = Option<Arc<RestoreRun>>;

/// The restores of a node.
pub struct Restores<W> {
    client: Client,
    me: Arc<Me>,
    worker: Arc<W>,
    pace: Pace,
    counts: Arc<Counts>,
    teller: Teller,
    runs: Runs<RestoreRun>,
    /// Runs at work, or about to be claimed, by UID.
    active: BTreeMap<String, (Id, watch::Sender<Seen>)>,
    /// Runs that could not be claimed, and until when they are left alone unless they change.
    postponed: BTreeMap<String, Instant>,
    tasks: JoinSet<Option<Outcome>>,
}

impl<W: RestoreWorker> Restores<W> {
    /// One that has done nothing yet.
    pub fn new(client: Client, me: Me, worker: W, pace: Pace, counts: Arc<Counts>) -> Self {
        Self {
            teller: Teller::new(client.clone(), &me),
            client,
            me: Arc::new(me),
            worker: Arc::new(worker),
            pace,
            counts,
            runs: Runs::default(),
            active: BTreeMap::new(),
            postponed: BTreeMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Works until it is told to stop; then gives back what is not done.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut events = runs_of::<RestoreRun>(&self.client, &self.me.node);
        let mut again = tokio::time::interval(self.pace.look_again);
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                Some(event) = events.next() => match event {
                    Ok(event) => self.note(event),
                    Err(error) => {
                        tracing::warn!(%error, "the restores of this node are not followed; it is tried again");
                        if is_too_old(&error) {
                            events = runs_of::<RestoreRun>(&self.client, &self.me.node);
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

    fn note(&mut self, event: Event<RestoreRun>) {
        match self.runs.note(event) {
            News::Is(uid, run) => {
                self.postponed.remove(&uid);
                if let Some((_, seen)) = self.active.get(&uid) {
                    seen.send_replace(Some(run));
                }
            }
            News::Gone(uids) => {
                for (_, seen) in uids.iter().filter_map(|uid| self.active.get(uid)) {
                    seen.send_replace(None);
                }
            }
            News::Nothing => {}
        }
    }

    /// Begins what can be begun, once all runs are known: the oldest go first.
    fn begin_what_can(&mut self, stop: &CancellationToken) {
        if !self.runs.are_known() || stop.is_cancelled() {
            return;
        }
        let free = self.pace.parallel.saturating_sub(self.active.len());
        let now = Instant::now();
        self.postponed.retain(|_, until| *until > now);
        let known = |uid: &String| self.active.contains_key(uid) || self.postponed.contains_key(uid);
        // One that is to end is the controller's to end, whoever has claimed it: begun again it would end at once, and again.
        let idle = self.runs.iter().filter(|run| !run.is_cancelled() && run.uid().is_some_and(|uid| !known(&uid)));
        let (chosen, _) = choose(idle, itself, &self.me.uid, &BTreeSet::new(), free);
        for candidate in chosen {
            self.begin(candidate, stop);
        }
    }

    fn begin(&mut self, candidate: Candidate<RestoreRun>, stop: &CancellationToken) {
        let uid = candidate.run.uid().unwrap_or_default();
        let (sender, seen) = watch::channel(Some(Arc::clone(&candidate.run)));
        let (worker, teller, pace, stopping) = (Arc::clone(&self.worker), self.teller.clone(), self.pace, stop.clone());
        let (client, me) = (self.client.clone(), Arc::clone(&self.me));
        let task = async move {
            let order = order(&candidate.run);
            let said = RestoreSaid::claiming(&candidate.run, &me, Timestamp::now());
            let record = match claim(&client, &me, &candidate, said).await {
                Ok(Claim::Ours(record)) => *record,
                Ok(Claim::OfAnother | Claim::Changed) => return None,
                Err(error) => {
                    let why = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(run = order.full_name(), why, "the restore cannot be claimed; it is tried again");
                    return None;
                }
            };
            tracing::info!(run = order.full_name(), point = order.spec.point, "a restore begins");
            let note = format!("the agent of node {} works on it", me.node);
            teller.of_restore(&candidate.run, "Claimed", &note).await;
            Some(Restore { worker, pace, record, order, seen, stopping }.drive().await)
        };
        let task = self.tasks.spawn(task).id();
        self.active.insert(uid, (task, sender));
    }

    fn ended(&mut self, ended: Result<(Id, Option<Outcome>), JoinError>) {
        let (task, outcome) = match ended {
            Ok(ended) => ended,
            Err(died) => {
                tracing::error!(%died, "a restore died; it is begun again");
                (died.id(), None)
            }
        };
        let ended: Vec<_> = self.active.extract_if(.., |_, (of, _)| *of == task).collect();
        if outcome.is_none() {
            let until = Instant::now() + self.pace.look_again;
            self.postponed.extend(ended.into_iter().map(|(uid, _)| (uid, until)));
        }
        if let Some(outcome) = outcome {
            self.counts.count(outcome);
        }
    }
}

/// Restores are in nobody's way: their claims are their own.
fn itself(run: &RestoreRun) -> Machine {
    (run.namespace().unwrap_or_default(), run.name_any())
}

fn order(run: &RestoreRun) -> RestoreOrder {
    RestoreOrder { namespace: run.namespace().unwrap_or_default(), name: run.name_any(), spec: run.spec.clone() }
}
