//! What to do about a run: a pure function of what was observed. `apply.rs` does it.
//!
//! A run is *assigned* to the node of its machine when nothing speaks against it, and says what does until then. Once an
//! agent has claimed it, the controller makes what the agent's attempt wants, and removes what it no longer wants. Whoever
//! holds the claim writes the end; the controller does where nobody holds it, or nobody lives. After the end everything is
//! removed, and the finalizer last.

pub(super) mod assignment;
mod attempt;
mod ending;
#[cfg(test)]
mod tests;

pub(super) use ending::{is_lost, is_over};

use std::time::Duration;

use crate::conditions::Says;
use crate::controller::FINALIZER;
use crate::controller::objects::Wanted;
use crate::controller::observed::{Made, Observed, Thing};
use crate::resources::{AttemptState, BackupRun, Run};

/// When a run that waits is looked at again, if nothing happens before.
pub(super) const WAITING: Duration = Duration::from_secs(15);

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
    if is_claimed(run) { attempt::plan(observed) } else { assignment(observed) }
}

/// Of a run that nobody has claimed.
fn assignment(observed: &Observed) -> Plan {
    let run = &observed.run;
    let status = match assignment::decide(observed) {
        Ok(node) => Status {
            assigned: Some(Says::yes(
                "Assigned",
                format!("The machine runs on node {node}, whose agent takes the run."),
            )),
            node: Some(node),
            ..Status::default()
        },
        Err(says) => Status { assigned: Some(says), ..Status::default() },
    };
    let steps = removal(&observed.made);
    Plan { finalizer: missing_finalizer(run), steps, status: Some(status), again: Some(WAITING) }
}

fn after_the_end(observed: &Observed) -> Plan {
    let run = &observed.run;
    if !has_finalizer(run) {
        return Plan::default();
    }
    if observed.made.nothing() {
        return Plan { finalizer: Finalizer::Remove, ..Plan::default() };
    }
    Plan { steps: removal(&observed.made), again: Some(SOON), ..Plan::default() }
}

/// Removes what was made: the backup first, for it uses the others; what uses nothing waits until it is gone.
fn removal(made: &Made) -> Vec<Step> {
    let going = |things: &[Thing]| things.iter().filter(|thing| !thing.leaving).cloned().collect::<Vec<_>>();
    if !made.backups.is_empty() {
        return going(&made.backups).into_iter().map(Step::RemoveBackup).collect();
    }
    // KubeVirt takes a moment to detach it, and reports an error of one that is gone before.
    let scratches = if made.attached { Vec::new() } else { going(&made.scratches) };
    let scratches = scratches.into_iter().map(Step::RemoveScratch);
    scratches.chain(going(&made.tokens).into_iter().map(Step::RemoveToken)).collect()
}

/// What the status said before of assignment and preparation: what an end leaves to read.
fn kept(run: &BackupRun) -> Status {
    let status = run.status.clone().unwrap_or_default();
    Status { node: status.node, ..Status::default() }
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

/// The attempt that is wanted.
pub(super) fn wanted_attempt(run: &BackupRun) -> Option<&crate::resources::Attempt> {
    let attempt = run.status.as_ref()?.attempt.as_ref();
    attempt.filter(|attempt| attempt.state == AttemptState::Wanted)
}
