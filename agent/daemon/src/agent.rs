//! The loop: what is due is started, so many at once, one a VM; what has ended is written down.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use remora_core::policy::{Ending, PastRun, Word};
use remora_core::{Error, ErrorKind, Result, VmName};
use remora_plugins::set::Generation;
use remora_schedule::{Charge, Job, Planner, Power, Selects, Vm};
use remora_source::Inventory;
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::answers::AnswersFile;
use crate::keepers::Keepers;
use crate::ledger::LedgerFile;
use crate::metrics::{Metrics, OfRun, OfStep, OfVm, RunOutcome};
use crate::work::{Done, Due, Soundness, Tools};

/// How often it is looked whether something is due.
const TICK: Duration = Duration::from_secs(1);

/// How often libvirt is asked which VMs there are.
const LOOK: Duration = Duration::from_secs(15);

/// The agent's state.
pub(crate) struct Agent {
    pub(crate) tools: Arc<Tools>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) policies: watch::Receiver<Arc<Generation>>,
    pub(crate) ledger: LedgerFile,
    pub(crate) parallel: usize,
    pub(crate) cancel: CancellationToken,
    planner: Planner,
    answers: AnswersFile,
    vms: Vec<Vm>,
    looked: Option<tokio::time::Instant>,
    /// What was told of VMs whose definitions cannot be read.
    unreadable: Vec<String>,
    running: JoinSet<Result<Done>>,
    /// What each of these is about: one that dies cannot say it itself.
    at_work: HashMap<Id, AtWork>,
}

/// A run that is at work.
struct AtWork {
    charge: Charge,
    begun: Timestamp,
}

impl Agent {
    pub(crate) fn new(
        tools: Arc<Tools>,
        metrics: Arc<Metrics>,
        policies: watch::Receiver<Arc<Generation>>,
        ledger: LedgerFile,
        answers: AnswersFile,
        parallel: usize,
    ) -> Self {
        let cancel = tools.cancel.clone();
        let (planner, vms) = (Planner::following(answers.read()), Vec::new());
        // A VM that has no more points has an old one after this start as before it.
        for (charge, entry) in ledger.ledger.iter().filter(|(charge, _)| planner.selects(charge) == Selects::Yes) {
            if let Some(newest) = entry.runs.first() {
                tell_newest(&metrics, &of_vm(charge), newest);
            }
        }
        let (looked, unreadable) = (None, Vec::new());
        let (running, at_work) = (JoinSet::new(), HashMap::new());
        Self {
            tools,
            metrics,
            policies,
            ledger,
            parallel,
            cancel,
            planner,
            answers,
            vms,
            looked,
            unreadable,
            running,
            at_work,
        }
    }

    /// Works until it is told to stop; then lets runs end cleanly.
    pub(crate) async fn run(mut self) -> Result<()> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let cancel = self.cancel.clone();
        while !cancel.is_cancelled() {
            tokio::select! {
                () = cancel.cancelled() => break,
                () = self.look() => {}
            }
            self.start_what_is_due().await;
            tokio::select! {
                () = cancel.cancelled() => {}
                _ = ticks.tick() => {}
                Ok(()) = self.policies.changed() => {}
                Some(ended) = self.running.join_next_with_id() => self.note(ended),
            }
        }
        // The same token stops the runs: each gives its job back and leaves no trace.
        while let Some(ended) = self.running.join_next_with_id().await {
            self.note(ended);
        }
        self.ledger.save()
    }

    /// Looks which VMs there are. While libvirt does not answer, those of before are there.
    async fn look(&mut self) {
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK) {
            return;
        }
        match self.tools.source.inventory().await {
            Ok(inventory) => self.see(inventory),
            Err(error) => tracing::warn!(error = error.chain(), "the VMs of this host are not known anew"),
        }
    }

    /// Those are the VMs. One whose definition cannot be read is not among them: it is told of once, and has no run.
    fn see(&mut self, Inventory { found, unreadable }: Inventory) {
        let power = |running| if running { Power::On } else { Power::Off };
        self.vms = found.into_iter().map(|vm| Vm { power: power(vm.running), facts: vm.facts }).collect();
        self.looked = Some(tokio::time::Instant::now());
        self.metrics.unreadable.set(i64::try_from(unreadable.len()).unwrap_or(i64::MAX));
        let told: Vec<_> = unreadable.iter().map(Error::chain).collect();
        for error in told.iter().filter(|error| !self.unreadable.contains(error)) {
            tracing::error!(error, "a VM cannot be backed up by any policy: its definition cannot be read");
        }
        self.unreadable = told;
    }

    async fn start_what_is_due(&mut self) {
        if self.looked.is_none() {
            // Asked of no VMs, a policy selects none: that must not become what it answered last.
            return;
        }
        let generation = Arc::clone(&self.policies.borrow_and_update());
        let now = Timestamp::now();
        let known = self.ledger.ledger.iter().count();
        let (jobs, failures) = self.planner.due(&generation, &self.vms, &mut self.ledger.ledger, now).await;
        // Since when a VM is selected: an agent that is killed before its first run makes up for it.
        if self.ledger.ledger.iter().count() > known {
            told(self.ledger.save());
        }
        if let Some(answered) = self.planner.news() {
            told(self.answers.keep(answered));
        }
        for failure in &failures {
            self.metrics.policies.failed(failure);
        }
        let mut waiting = 0;
        for job in jobs {
            if self.running.len() < self.parallel && !self.is_busy(&job.vm.name) {
                self.start(job, &generation, now);
            } else {
                waiting += 1;
            }
        }
        self.metrics.running.set(i64::try_from(self.running.len()).unwrap_or(i64::MAX));
        self.metrics.waiting.set(waiting);
    }

    fn start(&mut self, job: Job, generation: &Generation, now: Timestamp) {
        let selects = |policy: &str| self.planner.selects(&Charge { policy: policy.into(), vm: job.vm.name.clone() });
        let repositories = &self.tools.repositories;
        let here = repositories.meant(job.policy.target.as_ref());
        let keepers = Keepers::of(
            generation,
            &job.vm,
            here.as_ref(),
            |named| repositories.meant_from(here.as_ref(), named),
            selects,
        );
        let verified = self.ledger.ledger.entry(&job.charge, now).verified;
        let verify = Due::after(verified, job.policy.verify_every, now);
        let Word { digest, settings, reason } = &job.word;
        tracing::info!(policy = job.charge.policy, vm = job.vm.name.as_str(), digest, settings, reason, "a run begins");
        let (tools, charge) = (Arc::clone(&self.tools), job.charge.clone());
        self.begin(charge, now, async move { tools.run(&job, keepers, verify).await });
    }

    fn begin(&mut self, charge: Charge, begun: Timestamp, run: impl Future<Output = Result<Done>> + Send + 'static) {
        let task = self.running.spawn(run);
        self.at_work.insert(task.id(), AtWork { charge, begun });
    }

    /// Whether a run is at work on a VM.
    fn is_busy(&self, vm: &VmName) -> bool {
        self.at_work.values().any(|at_work| at_work.charge.vm == *vm)
    }

    /// Writes down how a run ended.
    fn note(&mut self, ended: std::result::Result<(Id, Result<Done>), JoinError>) {
        let (id, result) = match ended {
            Ok(ended) => ended,
            Err(died) => (died.id(), Err(Error::new(ErrorKind::Failed, "the run died").because(died))),
        };
        let Some(AtWork { charge, begun }) = self.at_work.remove(&id) else { return };
        let of_vm = of_vm(&charge);
        let written = match result {
            Ok(done) => {
                self.count(&charge, &of_vm, &done);
                let verified = done.verified;
                let written = self.ledger.note(&charge, begun, Ending::Made(done.run));
                verified.map_or(Ok(()), |_| self.ledger.verified(&charge, Timestamp::now())).and(written)
            }
            Err(error) if error.kind() == ErrorKind::Cancelled && self.cancel.is_cancelled() => Ok(()),
            Err(error) => {
                tell(&charge, &error, "a run failed");
                self.runs(&charge, RunOutcome::Failed);
                self.ledger.note(&charge, begun, Ending::Failed(Timestamp::now()))
            }
        };
        told(written);
    }

    fn count(&self, charge: &Charge, of_vm: &OfVm, done: &Done) {
        tracing::info!(policy = charge.policy, vm = charge.vm.as_str(), read = done.run.changed, "a point was made");
        for (step, problem) in &done.problems {
            tell(charge, problem, "the point is there, but");
            let of_step = OfStep { policy: charge.policy.clone(), step: *step };
            self.metrics.problems.get_or_create(&of_step).inc();
        }
        tell_newest(&self.metrics, of_vm, &done.run);
        self.metrics.stored.get_or_create(of_vm).inc_by(done.stored);
        self.metrics.dropped.get_or_create(of_vm).inc_by(done.dropped as u64);
        if let Some(soundness) = done.verified {
            self.metrics.damaged.get_or_create(of_vm).set(i64::from(soundness == Soundness::Damaged));
        }
        // Last: whoever sees that a run ended finds the rest of it.
        self.runs(charge, RunOutcome::Succeeded);
    }

    fn runs(&self, charge: &Charge, outcome: RunOutcome) {
        self.metrics.runs.get_or_create(&OfRun { policy: charge.policy.clone(), outcome }).inc();
    }
}

fn of_vm(charge: &Charge) -> OfVm {
    OfVm { policy: charge.policy.clone(), vm: charge.vm.as_str().into() }
}

fn tell_newest(metrics: &Metrics, of_vm: &OfVm, newest: &PastRun) {
    metrics.last_point.get_or_create(of_vm).set(newest.time.as_duration().as_secs_f64());
}

/// What could not be written is no reason to stop.
fn told(written: Result<()>) {
    if let Err(error) = written {
        tracing::error!(error = error.chain(), "after a restart more may be done than is due, or less");
    }
}

fn tell(charge: &Charge, error: &Error, what: &str) {
    let advice = error.advice().unwrap_or_default();
    tracing::error!(policy = charge.policy, vm = charge.vm.as_str(), error = error.chain(), advice, "{what}");
}

#[cfg(test)]
mod tests;
