//! Which runs are due by the policies that are in force.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use prometheus_client::registry::Registry;
use remora_core::is_ahead;
use remora_core::policy::{Ending, VmFacts};
use remora_kube::controller::{DueRun, ScheduledRun, Scheduler, Since, Verified};
use remora_kube::resources::{ScratchSpec, Verify};
use remora_plugins::documents::Target;
use remora_plugins::set::{BackupPolicy, Generation};
use remora_schedule::{Charge, Entry, Job, Ledger, Planner, PolicyMetrics, Power, Vm};
use tokio::sync::watch;

/// What a failed run followed is not known if no run before it is: any occasion of so long before may be the one.
const LONG: SignedDuration = SignedDuration::from_hours(366 * 24);

/// Plans by policy. What was done is learnt from runs, and from what a controller before has remembered.
pub(crate) struct ByPolicy {
    policies: watch::Receiver<Arc<Generation>>,
    metrics: PolicyMetrics,
    planner: Planner,
    ledger: Ledger,
    /// Those whose runs tell since when they are selected.
    begun: HashSet<Charge>,
    /// When the runs began whose points were verified last, or are to be.
    verified: HashMap<Charge, Timestamp>,
    /// Runs of a clock that was ahead, by when it said that they began: since when it is known that they did not.
    ahead: HashMap<(Charge, Timestamp), Timestamp>,
    /// The generation of which it was told what is missing.
    told: u64,
}

impl ByPolicy {
    pub(crate) fn new(policies: watch::Receiver<Arc<Generation>>, metrics: PolicyMetrics) -> Self {
        let (planner, ledger) = (Planner::default(), Ledger::default());
        let (begun, verified, ahead) = (HashSet::new(), HashMap::new(), HashMap::new());
        Self { policies, metrics, planner, ledger, begun, verified, ahead, told: 0 }
    }

    /// Writes what runs tell into the ledger. What it knows of a run that is gone stays.
    fn learn(&mut self, runs: &[ScheduledRun], now: Timestamp) {
        let runs = self.set_back(runs, now);
        let mut of: BTreeMap<Charge, Vec<&ScheduledRun>> = BTreeMap::new();
        for run in &runs {
            let charge = Charge { policy: run.policy.clone(), vm: run.vm.clone() };
            of.entry(charge).or_default().push(run);
        }
        self.begun = of.keys().cloned().collect();
        let verified =
            |runs: &[&ScheduledRun]| runs.iter().filter(|run| run.verified == Verified::Yes).map(|run| run.begun).max();
        self.verified = of.iter().filter_map(|(charge, runs)| Some((charge.clone(), verified(runs)?))).collect();
        for (charge, mut runs) in of {
            runs.sort_by_key(|run| run.begun);
            let Some(first) = runs.first() else { continue };
            let failed = matches!(first.ending, Ending::Failed(_));
            let followed = if failed { first.begun - LONG } else { first.begun };
            let mut learnt = Entry::new(followed);
            for run in runs {
                learnt.note(run.begun, run.ending.clone());
            }
            let is_newer = |known: &Entry| known.settled <= learnt.settled || is_ahead(known.settled, now);
            if self.ledger.get(&charge).is_none_or(is_newer) {
                self.ledger.put(charge, learnt);
            }
        }
    }

    /// The runs, those of a clock that was ahead as if they had begun when that was first seen: what follows on one would else
    /// not be due before that time comes.
    fn set_back(&mut self, runs: &[ScheduledRun], now: Timestamp) -> Vec<ScheduledRun> {
        let before = std::mem::take(&mut self.ahead);
        let mut runs = runs.to_vec();
        for run in runs.iter_mut().filter(|run| is_ahead(run.begun, now)) {
            let charge = Charge { policy: run.policy.clone(), vm: run.vm.clone() };
            let key = (charge, run.begun);
            run.begun = before.get(&key).copied().filter(|seen| !is_ahead(*seen, now)).unwrap_or(now);
            self.ahead.insert(key, run.begun);
            // It rests from then on: else it would be tried again at once, over and over where the API server's clock is ahead.
            if let Ending::Failed(at) = &mut run.ending {
                *at = run.begun;
            }
        }
        runs
    }

    fn due_run(&self, job: Job, now: Timestamp) -> Option<DueRun> {
        Some(DueRun {
            verify: self.verify(&job, now),
            policy: job.charge.policy,
            vm: job.vm,
            after: job.after,
            start: job.start,
            word: job.word,
            repository: repository(&job.policy).ok()?.to_owned(),
            quiesce: job.policy.quiesce,
            scratch: ScratchSpec { storage_class_name: job.policy.scratch_class.clone().unwrap_or_default() },
            deadline: job.policy.deadline,
        })
    }

    /// A machine of which no run tells that a point was verified has that done first of all.
    fn verify(&self, job: &Job, now: Timestamp) -> Verify {
        let age = |at: &Timestamp| Duration::try_from(now.duration_since(*at)).unwrap_or_default();
        let last = self.verified.get(&job.charge);
        let due = job.policy.verify_every.is_some_and(|every| last.is_none_or(|at| age(at) >= every));
        if due { Verify::All } else { Verify::None }
    }

    /// Says what policies lack, once of each generation.
    fn tell(&mut self, generation: &Generation) {
        if self.told == generation.number {
            return;
        }
        self.told = generation.number;
        for (policy, _) in generation.backups() {
            if let Err(lack) = repository(policy) {
                tracing::error!(
                    policy = policy.name,
                    advice = "Name a Repository of remora's namespace in target.repository.",
                    "a policy {lack}, so nothing is backed up by it"
                );
            }
        }
    }
}

#[async_trait]
impl Scheduler for ByPolicy {
    fn metrics(&self) -> Box<dyn Fn(&mut Registry) + Send + Sync> {
        let metrics = self.metrics.clone();
        Box::new(move |all| metrics.register(all))
    }

    fn is_idle(&self) -> bool {
        self.policies.borrow().backups().next().is_none()
    }

    async fn changed(&mut self) {
        if self.policies.changed().await.is_err() {
            // Nobody follows them any more: the program ends.
            std::future::pending::<()>().await;
        }
    }

    fn remember(&mut self, since: &Since) {
        for (policy, machines) in since {
            for (vm, since) in machines {
                self.ledger.put(Charge { policy: policy.clone(), vm: vm.clone() }, Entry::new(*since));
            }
        }
    }

    async fn due(&mut self, machines: Vec<VmFacts>, runs: &[ScheduledRun], now: Timestamp) -> Vec<DueRun> {
        let generation = Arc::clone(&self.policies.borrow_and_update());
        self.tell(&generation);
        self.learn(runs, now);
        let there: HashSet<_> = machines.iter().map(|facts| facts.name.clone()).collect();
        self.ledger.retain(|charge| there.contains(&charge.vm));
        // One that is halted is backed up all the same.
        let vms: Vec<_> = machines.into_iter().map(|facts| Vm { facts, power: Power::On }).collect();
        let (jobs, failures) = self.planner.due(&generation, &vms, &mut self.ledger, now).await;
        for failure in &failures {
            self.metrics.failed(failure);
        }
        jobs.into_iter().filter_map(|job| self.due_run(job, now)).collect()
    }

    fn since(&self) -> Since {
        let (mut since, generation) = (Since::new(), self.policies.borrow());
        let in_force: HashSet<_> = generation.backups().map(|(policy, _)| policy.name.as_str()).collect();
        let new = |charge: &Charge| in_force.contains(charge.policy.as_str()) && !self.begun.contains(charge);
        for (charge, entry) in self.ledger.iter().filter(|(charge, _)| new(charge)) {
            since.entry(charge.policy.clone()).or_default().insert(charge.vm.clone(), entry.settled);
        }
        since
    }
}

/// The Repository that a policy backs up into, or what it does in its place.
fn repository(policy: &BackupPolicy) -> Result<&str, String> {
    match &policy.target {
        Some(Target::Repository(name)) => Ok(name),
        Some(Target::Mover(name)) => {
            Err(format!("has the target.mover {name}, and on Kubernetes no mover keeps points in a form of its own"))
        }
        None => Err("names no repository".into()),
    }
}

#[cfg(test)]
mod tests;
