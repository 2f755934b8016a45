//! What to do about a restore: a pure function of what was observed.
//!
//! Claims, certificates and worker are made once nothing speaks against the restore; what does ends it, for a restore that
//! waits until a claim is free would overwrite it when nobody expects that any more. Only what is no fault of the request is
//! waited for: the repository, the worker's start, an agent. When the worker runs, the run is given to its node. The agent
//! says how the writing ended, and the controller how the run did: where all is written, after it has removed the worker, and made
//! the machine; where not, before it removes anything.

mod making;
#[cfg(test)]
mod tests;

use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use serde_json::Value;

use super::observed::{ClaimFacts, Observed, PointFacts};
use crate::conditions::{Says, find};
use crate::controller::observed::{Taken, Thing};
use crate::controller::plan::{Finalizer, SOON, WAITING, WORKING, has_finalizer, is_lost, missing_finalizer};
use crate::controller::worker::{PodState, WorkerFacts, WorkerStep};
use crate::resources::Run;

/// So long a run may take from its creation on: whatever has begun has three days, as long as a backup may have at the most. One
/// that drips keeps a place of its node's, and its claims, until then.
const ENDS_WITHIN: Duration = Duration::from_hours(96);

/// What to do, in this order: the finalizer, the status if the run ends, the steps, any other status.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) finalizer: Finalizer,
    pub(super) steps: Vec<Step>,
    /// None leaves the status as it is.
    pub(super) status: Option<Status>,
    /// None: nothing has to be looked at again.
    pub(super) again: Option<Duration>,
}

/// The controller's part of a status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) node: Option<String>,
    pub(super) assigned: Option<Says>,
    pub(super) ended: Option<Ended>,
}

/// How a run ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Well(String),
    Badly(Says),
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Worker(WorkerStep),
    RemoveClaim(Thing),
    MakeClaim(Box<PersistentVolumeClaim>),
    MakeMachine(Box<Value>),
}

/// The plan.
pub(super) fn plan(observed: &Observed) -> Plan {
    let run = &observed.run;
    if run.has_ended() {
        return after_the_end(observed);
    }
    if run.is_leaving() && !has_finalizer(run) {
        // It goes whatever we do; the worker has it as its owner.
        return Plan::default();
    }
    let mut plan = match (ending(observed), written(observed)) {
        (Some(says), _) => end(observed, Ended::Badly(says)),
        (None, Some(true)) => finish(observed),
        (None, _) if run.node().is_some() => working(observed),
        (None, _) => making::plan(observed),
    };
    plan.finalizer = missing_finalizer(run);
    plan
}

/// Whether all is written, as its agent says; none while it does not.
fn written(observed: &Observed) -> Option<bool> {
    match find(observed.run.conditions(), "Written")?.status.as_str() {
        "True" => Some(true),
        "False" => Some(false),
        _ => None,
    }
}

/// Why it has to end now, if it has to.
fn ending(observed: &Observed) -> Option<Says> {
    let run = &observed.run;
    // What is written already stays; a machine of it is not made any more.
    if run.is_cancelled() {
        return Some(Says::no("Cancelled", format!("The run was cancelled.{}", overwritten(observed))));
    }
    match written(observed) {
        Some(false) => {
            let said = find(run.conditions(), "Written")?;
            let message = format!("{}{}", said.message, overwritten(observed));
            return Some(Says::no(said.reason.clone(), message));
        }
        Some(true) => return None,
        None => {}
    }
    if is_lost(run, &observed.agents, observed.silent) {
        let message = format!(
            "The agent on {} has shown no sign of life for {} seconds.{} Look at the node and at the agent's log, then create \
             another RestoreRun.",
            run.node().unwrap_or("the worker's node"),
            observed.silent.as_secs(),
            overwritten(observed)
        );
        return Some(Says::no("AgentLost", message));
    }
    // What has not begun has less time.
    if run.node().is_some() && observed.age > ENDS_WITHIN {
        return Some(too_late(&format!(
            "{} See how fast its store is read, and what its agent's log says; then create another RestoreRun.",
            overwritten(observed)
        )));
    }
    None
}

fn too_late(what_to_do: &str) -> Says {
    let hours = ENDS_WITHIN.as_secs() / 3600;
    Says::no("DeadlineExceeded", format!("The restore did not end within {hours} hours of its creation.{what_to_do}"))
}

/// What became of claims that were there before, once an agent has begun.
fn overwritten(observed: &Observed) -> String {
    let run = &observed.run;
    if run.agent().is_none() && run.status.as_ref().is_none_or(|status| status.start_time.is_none()) {
        return String::new();
    }
    let theirs = observed.claims.iter().filter(|(_, facts)| !matches!(facts.taken, Taken::Ours { .. } | Taken::Free));
    let theirs: Vec<_> = theirs.map(|(name, _)| name.as_str()).collect();
    if theirs.is_empty() || written(observed) == Some(true) {
        return String::new();
    }
    format!(
        " What was in {} may be overwritten in part: restore there again before anything uses it.",
        theirs.join(", ")
    )
}

fn end(observed: &Observed, ended: Ended) -> Plan {
    let keep = matches!(ended, Ended::Well(_)) || written(observed) == Some(true);
    let status = Status { node: observed.run.node().map(ToOwned::to_owned), assigned: None, ended: Some(ended) };
    let steps = removal(observed, if keep { Claims::Stay } else { Claims::Go });
    Plan { steps, status: Some(status), again: Some(SOON), ..Plan::default() }
}

/// Of a run whose worker an agent writes to, or is about to.
fn working(observed: &Observed) -> Plan {
    let lost = match &observed.worker.pod {
        WorkerFacts::Pod(thing, PodState::Runs(_)) if !thing.leaving => None,
        WorkerFacts::Pod(_, PodState::Ended(why)) => Some(why.clone()),
        _ => Some("it is gone".to_owned()),
    };
    if let Some(why) = lost {
        let message = format!(
            "The pod that wrote the claims has ended: {why}.{} Create another RestoreRun.",
            overwritten(observed)
        );
        return end(observed, Ended::Badly(Says::no("WorkerLost", message)));
    }
    if let Some(says) = observed.claims.iter().find_map(|(name, facts)| in_use(name, facts)) {
        let message = format!("{}{}", says.message, overwritten(observed));
        return end(observed, Ended::Badly(Says::no(says.reason, message)));
    }
    let node = observed.run.node().map(ToOwned::to_owned);
    let status = Status { node, ..Status::default() };
    Plan { status: Some(status), again: Some(WORKING), ..Plan::default() }
}

fn in_use(name: &str, facts: &ClaimFacts) -> Option<Says> {
    let user = facts.users.first()?;
    let message = format!(
        "PersistentVolumeClaim {name} is used by {user}. Stop what uses it, or restore to a claim of another name; then \
         create another RestoreRun."
    );
    Some(Says::no("ClaimInUse", message))
}

/// All is written: the worker lets go of the claims, and then the machine is made.
fn finish(observed: &Observed) -> Plan {
    let node = observed.run.node().map(ToOwned::to_owned);
    let steps = removal(observed, Claims::Stay);
    if observed.worker.is_there() {
        return Plan {
            steps,
            status: Some(Status { node, ..Status::default() }),
            again: Some(SOON),
            ..Plan::default()
        };
    }
    let Some(wanted) = &observed.run.spec.virtual_machine else {
        let message = "All disks are written, and were read back as they are in the point.";
        return end(observed, Ended::Well(message.into()));
    };
    match (&observed.machine.taken, &observed.point) {
        (Taken::Ours { .. }, _) => {
            let how = if wanted.start { "is started" } else { "is halted" };
            end(
                observed,
                Ended::Well(format!("VirtualMachine {} is made of the restored disks, and {how}.", wanted.name)),
            )
        }
        (Taken::Free, PointFacts::Found(point)) => match making::machine(observed, point) {
            Ok(machine) => {
                let steps = vec![Step::MakeMachine(Box::new(machine))];
                let status = Some(Status { node, ..Status::default() });
                Plan { steps, status, again: Some(SOON), ..Plan::default() }
            }
            Err(says) => end(observed, Ended::Badly(kept(says))),
        },
        (Taken::Free, PointFacts::Unusable(reason, why)) => {
            end(observed, Ended::Badly(kept(Says::no(*reason, why.clone()))))
        }
        (Taken::Free, _) if observed.age > ENDS_WITHIN => {
            let says = too_late(" The point, which tells what machine to make, cannot be read.");
            end(observed, Ended::Badly(kept(says)))
        }
        (Taken::Free, _) => Plan { again: Some(WAITING), ..Plan::default() },
        (Taken::OfRun(_) | Taken::Foreign, _) => {
            end(observed, Ended::Badly(kept(making::name_taken("VirtualMachine", &wanted.name))))
        }
    }
}

/// Of an end after all was written.
pub(super) fn kept(says: Says) -> Says {
    let message = format!("{} All disks are written, and their claims stay.", says.message);
    Says { message, ..says }
}

fn after_the_end(observed: &Observed) -> Plan {
    if !has_finalizer(&observed.run) {
        return Plan::default();
    }
    let complete = crate::conditions::holds(observed.run.conditions(), "Complete");
    let claims = if complete || written(observed) == Some(true) { Claims::Stay } else { Claims::Go };
    let left = observed.worker.is_there()
        || (claims == Claims::Go && observed.claims.values().any(|facts| matches!(facts.taken, Taken::Ours { .. })));
    if !left {
        return Plan { finalizer: Finalizer::Remove, ..Plan::default() };
    }
    Plan { steps: removal(observed, claims), again: Some(SOON), ..Plan::default() }
}

/// Whether what was restored stays.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Claims {
    Stay,
    Go,
}

fn removal(observed: &Observed, claims: Claims) -> Vec<Step> {
    let mut steps: Vec<_> = observed.worker.removal(&observed.run).into_iter().map(Step::Worker).collect();
    if claims == Claims::Go {
        let ours = observed.claims.iter().filter(|(_, facts)| facts.taken == Taken::Ours { leaving: false });
        let thing =
            |name: &String, facts: &ClaimFacts| Thing { name: name.clone(), uid: facts.uid.clone(), leaving: false };
        steps.extend(ours.map(|(name, facts)| Step::RemoveClaim(thing(name, facts))));
    }
    steps
}
