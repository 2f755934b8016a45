//! What to do about a run: a pure function of what was observed. `apply.rs` does it.
//!
//! A run is *assigned* to the node of its machine, or of the pod that has the claims of one that is halted, when nothing
//! speaks against it, and says what does until then. Once an agent has claimed it, the controller makes what the agent's
//! attempt wants, and removes what it no longer wants. Whoever holds the claim writes the end; the controller does where
//! nobody holds it, or nobody lives. After the end everything is removed, and the finalizer last.

pub(super) mod assignment;
mod attempt;
mod ending;
mod halted;
#[cfg(test)]
mod tests;

pub(super) use ending::{is_lost, is_over};

use std::time::Duration;

use jiff::SignedDuration;

use self::assignment::Place;
use crate::conditions::{self, Says};
use crate::controller::FINALIZER;
use crate::controller::objects::{Wanted, last_tracker};
use crate::controller::observed::{Made, Observed, Orphan, Thing};
use crate::controller::worker::WorkerStep;
use crate::deadline;
use crate::kubevirt::VirtualMachineBackupTracker;
use crate::resources::{AttemptState, BackupRun, Run};

/// When a run that waits is looked at again, if nothing happens before.
pub(super) const WAITING: Duration = Duration::from_secs(15);

/// The same, of one that nobody has claimed and that waits for long: a cluster's nightly runs all wait at once.
const LONGEST: Duration = Duration::from_mins(5);

/// When a run that is worked on is looked at again: its heartbeat is read then.
pub(super) const WORKING: Duration = Duration::from_secs(30);

/// How soon after something was begun that the API server finishes in its own time.
pub(super) const SOON: Duration = Duration::from_secs(2);

/// What to do, in this order: the finalizer, the steps, the status.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) finalizer: Finalizer,
    pub(super) steps: Vec<Step>,
    /// None leaves the status as it is.
    pub(super) status: Option<Status>,
    /// None: nothing has to be looked at again.
    pub(super) again: Option<Duration>,
}

/// What becomes of the finalizer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Finalizer {
    /// It stays as it is.
    #[default]
    Keep,
    /// It is put.
    Add,
    /// It is taken away.
    Remove,
}

/// The controller's part of a status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) node: Option<String>,
    /// Whether the machine's claims are read, and not what runs of it.
    pub(super) halted: bool,
    pub(super) assigned: Option<Says>,
    /// Of which attempt, and what.
    pub(super) prepared: Option<(i32, Says)>,
    pub(super) ended: Option<Ended>,
}

/// Why a run ends without a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    RemoveBackup(Thing),
    RemoveScratch(Thing),
    RemoveToken(Thing),
    /// A tracker of an earlier machine: its name and UID.
    RemoveTracker(String, String),
    Make(Wanted),
    /// Has KubeVirt let go of a backup, by a last tracker.
    LetGo(Box<VirtualMachineBackupTracker>, Orphan),
    /// About who reads the claims of a halted machine.
    Worker(WorkerStep),
}

/// The plan.
pub(super) fn plan(observed: &Observed) -> Plan {
    let run = &observed.run;
    if run.has_ended() {
        return after_the_end(observed);
    }
    if run.is_leaving() && !has_finalizer(run) {
        // It goes whatever we do; what was made for it has it as its owner.
        return Plan::default();
    }
    if let Some(ended) = ending::of(observed) {
        // Nothing is removed before that is written: who sees the past would remove what a living agent reads.
        let status = Status { ended: Some(ended), ..kept(run) };
        return Plan { finalizer: missing_finalizer(run), steps: Vec::new(), status: Some(status), again: Some(SOON) };
    }
    match (is_claimed(run), is_halted(run)) {
        (true, true) => halted::working(observed),
        (true, false) => attempt::plan(observed),
        (false, _) => assignment(observed),
    }
}

/// Of a run that nobody has claimed.
fn assignment(observed: &Observed) -> Plan {
    let run = &observed.run;
    let mut plan = match assignment::decide(observed) {
        Ok(Place::Claims(halted)) => halted::plan(observed, halted),
        decided => elsewhere(observed, decided),
    };
    plan.finalizer = missing_finalizer(run);
    plan
}

/// Of a run that needs no worker, or none any more.
fn elsewhere(observed: &Observed, decided: Result<Place<'_>, Says>) -> Plan {
    let steps = removal(observed);
    let status = match decided {
        _ if observed.worker.is_there() => {
            let message = "The machine is not halted any more. The pod that was to read its claims is being removed.";
            Status { halted: true, assigned: Some(Says::not_yet("CleaningUp", message)), ..Status::default() }
        }
        Ok(Place::Node(node)) => {
            let message = format!("The machine runs on node {node}, whose agent takes the run.");
            Status { assigned: Some(Says::yes("Assigned", message)), node: Some(node), ..Status::default() }
        }
        Ok(Place::Claims(_)) => Status::default(),
        Err(says) => Status { assigned: Some(says), ..Status::default() },
    };
    Plan { steps, status: Some(status), again: Some(again(observed)), ..Plan::default() }
}

/// After as long as it has waited already, and not after its deadline.
fn again(observed: &Observed) -> Duration {
    let (run, now) = (&observed.run, observed.now);
    let since = conditions::find(run.conditions(), "Assigned").map(|one| one.last_transition_time.0);
    let waited = now.duration_since(since.unwrap_or(now));
    let left = deadline::of(run).map_or(LONGEST, |deadline| positive(deadline.duration_since(now)));
    positive(waited).clamp(WAITING, LONGEST).min(left.max(SOON))
}

fn positive(time: SignedDuration) -> Duration {
    Duration::try_from(time).unwrap_or_default()
}

fn after_the_end(observed: &Observed) -> Plan {
    let run = &observed.run;
    if !has_finalizer(run) {
        return Plan::default();
    }
    if observed.made.nothing() && !observed.worker.is_there() {
        return Plan { finalizer: Finalizer::Remove, ..Plan::default() };
    }
    Plan { steps: removal(observed), again: Some(SOON), ..Plan::default() }
}

/// Removes all that was made for the run.
fn removal(observed: &Observed) -> Vec<Step> {
    let worker = observed.worker.removal(&observed.run).into_iter().map(Step::Worker);
    removal_of(&observed.run, &observed.made).into_iter().chain(worker).collect()
}

/// Removes what KubeVirt's backup needed: the backup first, for it uses the others; what uses nothing waits until it is gone.
fn removal_of(run: &BackupRun, made: &Made) -> Vec<Step> {
    let going = |things: &[Thing]| things.iter().filter(|thing| !thing.leaving).cloned().collect::<Vec<_>>();
    if !made.backups.is_empty() {
        let let_go = |orphan: &Orphan| Step::LetGo(Box::new(last_tracker(run, orphan)), orphan.clone());
        let orphans = made.orphans.iter().map(let_go);
        return going(&made.backups).into_iter().map(Step::RemoveBackup).chain(orphans).collect();
    }
    // KubeVirt takes a moment to detach it, and reports an error of one that is gone before.
    let scratches = if made.attached { Vec::new() } else { going(&made.scratches) };
    let scratches = scratches.into_iter().map(Step::RemoveScratch);
    scratches.chain(going(&made.tokens).into_iter().map(Step::RemoveToken)).collect()
}

/// What the status said before of assignment and preparation: what an end leaves to read.
fn kept(run: &BackupRun) -> Status {
    let status = run.status.clone().unwrap_or_default();
    Status { node: status.node, halted: status.halted, ..Status::default() }
}

/// Whether it ends because somebody wants it, or its time is over: for that nothing else has to be known.
pub(super) fn ends_as_asked(observed: &Observed) -> bool {
    !observed.run.has_ended() && ending::as_asked(observed).is_some()
}

pub(super) fn missing_finalizer(run: &impl Run) -> Finalizer {
    if has_finalizer(run) || run.is_leaving() { Finalizer::Keep } else { Finalizer::Add }
}

pub(super) fn has_finalizer(run: &impl Run) -> bool {
    run.meta().finalizers.iter().flatten().any(|one| one == FINALIZER)
}

pub(super) fn is_claimed(run: &impl Run) -> bool {
    run.agent().is_some()
}

/// Whether it is one of a machine that was halted when it began.
fn is_halted(run: &BackupRun) -> bool {
    run.status.as_ref().is_some_and(|status| status.halted)
}

/// The attempt that is wanted.
pub(super) fn wanted_attempt(run: &BackupRun) -> Option<&crate::resources::Attempt> {
    let attempt = run.status.as_ref()?.attempt.as_ref();
    attempt.filter(|attempt| attempt.state == AttemptState::Wanted)
}
