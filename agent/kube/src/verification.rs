//! How the verification of a run's point stands: for the agents that do it, and for the controller.

use jiff::{SignedDuration, Timestamp};

use crate::conditions::{find, holds};
use crate::deadline;
use crate::resources::{BackupRun, Run, Verify};

/// The condition.
pub(crate) const VERIFIED: &str = "Verified";

/// Its reason while the point is being read. Any other is the last word.
pub(crate) const VERIFYING: &str = "Verifying";

/// So long after the run's own deadline the point may still be read: on its node, others may have their turn before.
const MORE: SignedDuration = SignedDuration::from_hours(72);

/// Whether a run has a point that is to be verified, of which the last word is not said.
pub(crate) fn is_open(run: &BackupRun) -> bool {
    let open = find(run.conditions(), VERIFIED).is_none_or(|one| one.status == "Unknown" && one.reason == VERIFYING);
    run.spec.verify != Verify::None && holds(run.conditions(), "Complete") && open
}

/// The same, while there is time for it.
pub(crate) fn is_pending(run: &BackupRun, now: Timestamp) -> bool {
    is_open(run) && until(run).is_some_and(|until| now < until)
}

/// Until when the point is to be verified.
pub(crate) fn until(run: &BackupRun) -> Option<Timestamp> {
    deadline::of(run)?.checked_add(MORE).ok()
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Sound,
    Damaged,
}

/// What a verification has found, if it has.
pub(crate) fn found(run: &BackupRun) -> Option<Found> {
    match find(run.conditions(), VERIFIED)?.status.as_str() {
        "True" => Some(Found::Sound),
        "False" => Some(Found::Damaged),
        _ => None,
    }
}
