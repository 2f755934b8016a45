//! Whether the controller has to end a run.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{Ended, is_claimed};
use crate::conditions;
use crate::controller::observed::{Agent, Observed};
use crate::deadline;
use crate::resources::{BackupRun, Run};
use crate::verification;

/// After so long without a heartbeat an agent is dead. It shows one every 30 s at least.
const DEAD: Duration = Duration::from_mins(2);

/// So much longer another pod of the same node has to take the run over.
const TAKE_OVER: Duration = Duration::from_mins(2);

/// So long an agent that lives has to end a run that is cancelled or late.
const GRACE: SignedDuration = SignedDuration::from_mins(3);

/// Of a run that had an agent.
const PERHAPS: &str = "If it has committed a point before, the repository has it.";

/// Why it has to end now, if it has to.
pub(super) fn of(observed: &Observed) -> Option<Ended> {
    as_asked(observed).or_else(|| lost(observed))
}

/// The same, of the run alone and the time.
pub(super) fn as_asked(observed: &Observed) -> Option<Ended> {
    let run = &observed.run;
    let claimed = is_claimed(run);
    let grace = if claimed { GRACE } else { SignedDuration::ZERO };
    let past = |time: Option<Timestamp>| time.is_some_and(|time| time.duration_until(observed.now) >= grace);
    // A cancel has no time of its own: an agent that lives and does not act upon it has until the deadline.
    if past(run.metadata.deletion_timestamp.as_ref().map(|time| time.0)) || (run.spec.cancel && !claimed) {
        return Some(cancelled(run, claimed));
    }
    past(deadline::of(run)).then(|| too_late(run, claimed))
}

fn cancelled(run: &BackupRun, claimed: bool) -> Ended {
    let how = match (claimed, had_agent(run)) {
        (true, _) => format!(", and its agent did not end it in time. {PERHAPS}"),
        // Whoever gave it back may have been told to stop while it committed.
        (false, true) => format!(" when no agent had it any more. {PERHAPS}"),
        (false, false) => " before an agent had taken it. Nothing was stored by it.".into(),
    };
    Ended { reason: "Cancelled", message: format!("The run was cancelled{how}") }
}

/// Whether any agent ever had it.
fn had_agent(run: &BackupRun) -> bool {
    run.status.as_ref().is_some_and(|status| status.start_time.is_some())
}

fn too_late(run: &BackupRun, claimed: bool) -> Ended {
    let conditions = run.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let last = conditions::find(conditions, "Assigned").filter(|one| one.status != "True");
    let why = match last {
        Some(assigned) => format!("It waited: {}", assigned.message),
        None if claimed => format!("Its agent did not end it in time. {PERHAPS}"),
        None if had_agent(run) => format!("The agent that had it gave it back, and no other took it. {PERHAPS}"),
        None => "No agent took it: look at the agents' pods in remora's namespace.".into(),
    };
    Ended {
        reason: "DeadlineExceeded",
        message: format!("The run did not end within {} of its creation. {why}", run.spec.deadline),
    }
}

fn lost(observed: &Observed) -> Option<Ended> {
    let run = &observed.run;
    if !is_lost(run, &observed.agents, observed.silent) {
        return None;
    }
    let node = run.status.as_ref().and_then(|status| status.node.as_deref()).unwrap_or("the machine's node");
    let message = format!(
        "The agent on {node} has shown no sign of life for {} seconds. All that was made for the run is removed. {PERHAPS} Look \
         at the node and at the agent's log, then create another BackupRun.",
        observed.silent.as_secs()
    );
    Some(Ended { reason: "AgentLost", message })
}

/// Whether who has claimed a run is dead, and nobody takes it over. `agents` are those of its node: one that is not ready yet will
/// be.
pub(in crate::controller) fn is_lost(run: &impl Run, agents: &[Agent], silent: Duration) -> bool {
    let Some(holder) = run.agent() else { return false };
    let successor = agents.iter().any(|agent| agent.uid != holder);
    let patience = if successor { DEAD + TAKE_OVER } else { DEAD };
    silent >= patience
}

/// Whether its agent is to end it, and the verification of its point: for the key service, which gives no keys to what is over.
pub(in crate::controller) fn is_over(run: &BackupRun, now: Timestamp) -> bool {
    if verification::is_pending(run, now) {
        return run.is_cancelled();
    }
    run.has_ended() || run.is_cancelled() || deadline::of(run).is_some_and(|deadline| deadline <= now)
}
