//! Runs that policies ask for. What policies say is behind [`Scheduler`]; here runs are made of it, so many at a time, and
//! those that have long ended are removed.
//!
//! What was done before is read from the runs themselves (`history.rs`). Of a machine that has none yet it is remembered
//! since when it is selected (`memory.rs`). The name of a run tells what it follows (`objects.rs`): so two controllers, or
//! one that was started again, never make two of one.

mod history;
mod machines;
mod memory;
mod objects;
mod port;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::api::PostParams;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, ResourceExt};
use remora_core::VmName;
use remora_core::policy::{Ending, VmFacts, Word};
use tokio_util::sync::CancellationToken;

use self::machines::Machines;
use self::memory::Memory;
use super::apply::remove;
use super::metrics::Metrics;
use super::{OWNER, Settings, within};
use crate::resources::{BackupRun, Verify};

pub use self::port::{DueRun, ScheduledRun, Scheduler, Since, Verified};

/// How often it is looked whether something is due.
const EVERY: Duration = Duration::from_secs(5);

/// How long it may take until a run that was made is seen.
const SEEN: Duration = Duration::from_mins(1);

/// A run that was refused is not tried again for so long.
const REST: Duration = Duration::from_mins(1);

/// So many old runs are removed with each look.
const REMOVED: usize = 16;

/// What scheduling needs.
pub(super) struct Context {
    pub(super) client: Client,
    pub(super) settings: Settings,
    pub(super) runs: Store<BackupRun>,
    pub(super) metrics: Metrics,
}

/// Makes runs until `cancel`.
pub(super) async fn keep(context: Context, mut scheduler: Box<dyn Scheduler>, cancel: CancellationToken) {
    // Without them nothing is known of what was done.
    tokio::select! {
        () = cancel.cancelled() => return,
        known = context.runs.wait_until_ready() => if known.is_err() { return },
    }
    let mut scheduling =
        Scheduling { context, machines: None, memory: None, made: HashMap::new(), resting: HashMap::new() };
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = scheduling.look(&mut *scheduler) => {}
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = scheduler.changed() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// A machine under a policy.
type Charge = (String, VmName);

struct Scheduling {
    context: Context,
    /// None while no policy is in force.
    machines: Option<Machines>,
    /// None until it was read.
    memory: Option<Memory>,
    /// Runs that were made and are not seen yet.
    made: HashMap<ObjectRef<BackupRun>, Made>,
    /// Until when what was refused is not tried again.
    resting: HashMap<Charge, Instant>,
}

struct Made {
    run: ScheduledRun,
    at: Instant,
}

impl Scheduling {
    async fn look(&mut self, scheduler: &mut dyn Scheduler) {
        if scheduler.is_idle() {
            self.machines = None;
            self.context.metrics.waiting(0);
            return;
        }
        let Some(machines) = self.machines().await else { return };
        if let Err(error) = self.recall(scheduler).await {
            tracing::warn!(%error, "nothing is scheduled: since when machines are selected cannot be read");
            return;
        }
        let names: HashSet<VmName> = machines.iter().map(|facts| facts.name.clone()).collect();
        let runs = self.context.runs.state();
        let due = self.due(scheduler, machines, &runs).await;
        self.keep(scheduler.since()).await;
        self.make(due, &runs).await;
        self.remove(&runs, &names).await;
    }

    /// The machines that there are, watched from the first look on; none until all are known.
    async fn machines(&mut self) -> Option<Vec<VmFacts>> {
        let client = &self.context.client;
        let machines = self.machines.get_or_insert_with(|| Machines::watch(client.clone()));
        machines.are_known().await.then(|| machines.facts())
    }

    /// Has the scheduler know what a controller before has remembered, if it does not yet.
    async fn recall(&mut self, scheduler: &mut dyn Scheduler) -> Result<(), kube::Error> {
        if self.memory.is_none() {
            let memory = within(Memory::read(&self.context.client, &self.context.settings)).await?;
            scheduler.remember(memory.since());
            self.memory = Some(memory);
        }
        Ok(())
    }

    /// The runs that are due after these, and after those that were made and are not seen yet.
    async fn due(
        &mut self,
        scheduler: &mut dyn Scheduler,
        machines: Vec<VmFacts>,
        runs: &[Arc<BackupRun>],
    ) -> Vec<DueRun> {
        self.made.retain(|run, made| self.context.runs.get(run).is_none() && made.at.elapsed() < SEEN);
        let now = Timestamp::now();
        let mut known = history::scheduled(runs, now);
        known.extend(self.made.values().map(|made| made.run.clone()));
        scheduler.due(machines, &known, now).await
    }

    /// Keeps this for a controller that follows.
    async fn keep(&mut self, since: Since) {
        let Some(memory) = &mut self.memory else { return };
        if let Err(error) = within(memory.keep(&self.context.client, &self.context.settings, since)).await {
            tracing::warn!(%error, "a controller that follows does not know since when new machines are selected");
        }
    }

    /// Makes those that there is room for: one of a machine, and so many in all.
    async fn make(&mut self, due: Vec<DueRun>, runs: &[Arc<BackupRun>]) {
        let mut busy = history::busy(runs);
        busy.extend(self.made.values().map(|made| made.run.vm.clone()));
        let mut of_namespaces = history::at_work(runs, Timestamp::now());
        for run in self.made.keys() {
            *of_namespaces.entry(run.namespace.clone().unwrap_or_default()).or_default() += 1;
        }
        let mut at_work: usize = of_namespaces.values().sum();
        self.resting.retain(|_, until| *until > Instant::now());
        let mut waiting = 0;
        for due in history::in_turn(due, &of_namespaces) {
            let charge = (due.policy.clone(), due.vm.name.clone());
            let room = at_work < self.context.settings.scheduled_runs && !busy.contains(&due.vm.name);
            if !room || self.resting.contains_key(&charge) {
                waiting += 1;
                continue;
            }
            match within(self.create(&due)).await {
                Ok(()) => {
                    at_work += 1;
                    busy.insert(due.vm.name);
                }
                Err(error) => {
                    let (policy, vm) = (&due.policy, due.vm.name.as_str());
                    tracing::warn!(policy, vm, %error, "a scheduled run could not be made; it is tried again in a minute");
                    self.resting.insert(charge, Instant::now() + REST);
                    waiting += 1;
                    if !matches!(error, kube::Error::Api(_)) {
                        // Nobody answers: the others would wait as long.
                        break;
                    }
                }
            }
        }
        self.context.metrics.waiting(waiting);
    }

    async fn create(&mut self, due: &DueRun) -> Result<(), kube::Error> {
        let run = objects::run(due, &self.context.settings.namespace);
        let (namespace, name) = (due.vm.namespace.as_str(), run.name_any());
        let api: Api<BackupRun> = Api::namespaced(self.context.client.clone(), namespace);
        let params = PostParams { field_manager: Some(OWNER.into()), ..PostParams::default() };
        let made = match api.create(&params, &run).await {
            Ok(made) => {
                self.context.metrics.scheduled(&due.policy);
                made
            }
            // A controller before made it, or this one whose answer was lost, and it is not seen yet.
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                let there = api.get(&name).await?;
                if history::policy(&there) != Some(&due.policy) {
                    return Err(kube::Error::Api(status));
                }
                there
            }
            Err(error) => return Err(error),
        };
        let (vm, start, Word { digest, settings, reason }) = (due.vm.name.as_str(), due.start, &due.word);
        tracing::info!(policy = due.policy, vm, run = name, %start, digest, settings, reason, "a run is due");
        let begun = made.metadata.creation_timestamp.as_ref().map_or(due.start, |time| time.0);
        let verified = if due.verify == Verify::None { Verified::No } else { Verified::Yes };
        let (policy, vm, ending) = (due.policy.clone(), due.vm.name.clone(), Ending::Settled);
        let run = ScheduledRun { policy, vm, begun, ending, verified };
        self.made.insert(ObjectRef::from_obj(&made), Made { run, at: Instant::now() });
        Ok(())
    }

    /// Removes the oldest of what is more than is kept.
    async fn remove(&self, runs: &[Arc<BackupRun>], machines: &HashSet<VmName>) {
        for run in history::superfluous(runs, machines, Timestamp::now()).into_iter().take(REMOVED) {
            let (namespace, name) = (run.namespace().unwrap_or_default(), run.name_any());
            let uid = run.uid().unwrap_or_default();
            if let Err(error) = within(remove::<BackupRun>(&self.context.client, &namespace, &name, &uid)).await {
                tracing::warn!(namespace, name, %error, "an old scheduled run could not be removed");
                return;
            }
        }
    }
}
