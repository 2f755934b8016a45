//! Of a run of a machine that is halted: a pod that has its claims is made, and the agent of that pod's node reads through it.
//!
//! KubeVirt may start the machine at any time. Then the pod goes, so that the claims are free; the agent notices that it went,
//! or that the machine is another version, and stores nothing.

use super::{Plan, SOON, Status, Step, WAITING, WORKING, missing_finalizer};
use crate::conditions::Says;
use crate::controller::observed::{Claim, Halted, Machine, Observed};
use crate::controller::worker::{Mounted, Mounts, PodState, Task, Trouble, WorkerFacts};

/// Of a run that nobody has claimed.
pub(super) fn plan(observed: &Observed, halted: &Halted) -> Plan {
    let (steps, again, status) = match next(observed, halted) {
        Ok(Next::Make(steps)) => (steps, SOON, preparing()),
        Ok(Next::Runs(node)) => {
            let message = format!("{} runs on node {node}, whose agent takes the run.", Task::Lend.described());
            let assigned = Some(Says::yes("Assigned", message));
            (Vec::new(), WAITING, Status { node: Some(node), halted: true, assigned, ..Status::default() })
        }
        Err(Trouble::Ends(says) | Trouble::Waits(says)) => {
            // One that has ended is made again.
            let ended = matches!(observed.worker.pod, WorkerFacts::Pod(_, PodState::Ended(_)));
            let steps = if ended { observed.worker.removal(&observed.run) } else { Vec::new() };
            (
                steps.into_iter().map(Step::Worker).collect(),
                WAITING,
                Status { halted: true, assigned: Some(says), ..Status::default() },
            )
        }
    };
    Plan { steps, status: Some(status), again: Some(again), ..Plan::default() }
}

enum Next {
    Make(Vec<Step>),
    Runs(String),
}

fn next(observed: &Observed, halted: &Halted) -> Result<Next, Trouble> {
    // First it is written that there may be a worker: who only looks at the status must not overlook one.
    if !super::is_halted(&observed.run) {
        return Ok(Next::Make(Vec::new()));
    }
    let mounted = |claim: &Claim| Mounted { claim: claim.name.clone(), block: claim.block == Some(true) };
    let mounts = Mounts {
        disks: halted.claims.iter().map(mounted).collect(),
        placement: halted.placement.clone(),
        ..Mounts::default()
    };
    let steps = observed.worker.making(&observed.run, Task::Lend, observed.image.as_ref(), &mounts)?;
    if !steps.is_empty() {
        return Ok(Next::Make(steps.into_iter().map(Step::Worker).collect()));
    }
    observed.worker.node(&observed.run, Task::Lend, &observed.agents).map(Next::Runs)
}

fn preparing() -> Status {
    let message = "The machine is halted. A pod that reads its claims is being made.";
    Status { halted: true, assigned: Some(Says::not_yet("Preparing", message)), ..Status::default() }
}

/// Of a run that an agent has claimed.
pub(super) fn working(observed: &Observed) -> Plan {
    let still = match &observed.machine {
        Machine::Found(found) => {
            found.halted.as_ref().is_some_and(|halted| halted.claims.iter().all(|one| one.users.is_empty()))
        }
        _ => false,
    };
    let steps = if still { Vec::new() } else { observed.worker.removal(&observed.run) };
    let node = observed.run.status.as_ref().and_then(|status| status.node.clone());
    let assigned = node.as_ref().map(|node| Says::yes("Assigned", format!("The agent of node {node} works on it.")));
    Plan {
        finalizer: missing_finalizer(&observed.run),
        steps: steps.into_iter().map(Step::Worker).collect(),
        status: Some(Status { node, halted: true, assigned, ..Status::default() }),
        again: Some(WORKING),
    }
}
