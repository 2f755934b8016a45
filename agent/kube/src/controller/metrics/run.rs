//! What is counted of runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt;
use prometheus_client::encoding::EncodeLabelValue;

use crate::conditions::{self, CHECKPOINTS_STAY};
use crate::resources::{BackupRun, Run, Verify};
use crate::verification::{self, Found};

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(super) enum RunState {
    /// Something speaks against it.
    Waiting,
    /// A node has it, and no agent has claimed it yet.
    Assigned,
    Running,
    Complete,
    /// Ended without a point.
    Failed,
    /// Likewise, for somebody wanted it to.
    Cancelled,
}

impl RunState {
    pub(super) const ALL: [Self; 6] =
        [Self::Waiting, Self::Assigned, Self::Running, Self::Complete, Self::Failed, Self::Cancelled];

    pub(super) fn of(run: &BackupRun) -> Self {
        let Some(status) = &run.status else { return Self::Waiting };
        if conditions::holds(&status.conditions, "Complete") {
            Self::Complete
        } else if conditions::holds(&status.conditions, "Failed") {
            let why = conditions::find(&status.conditions, "Failed").map(|failed| failed.reason.as_str());
            if why == Some("Cancelled") { Self::Cancelled } else { Self::Failed }
        } else if status.agent.is_some() {
            Self::Running
        } else if status.node.is_some() {
            Self::Assigned
        } else {
            Self::Waiting
        }
    }
}

/// What a run has read of disks, and what it has stored.
pub(super) fn bytes(run: &BackupRun) -> (u64, u64) {
    let count = |bytes: Option<i64>| bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or_default();
    run.status.as_ref().map_or((0, 0), |status| (count(status.read_bytes), count(status.stored_bytes)))
}

/// Of each machine that runs have a verified point of, what was found of the newest one in each repository: 1 if any of these
/// is damaged.
pub(super) fn damaged_points(runs: &[Arc<BackupRun>]) -> BTreeMap<String, i64> {
    let mut newest: BTreeMap<(String, String), (Option<Timestamp>, i64)> = BTreeMap::new();
    for run in runs {
        let Some(found) = verification::found(run) else { continue };
        // Who has not read the data cannot say that they are sound.
        if found == Found::Sound && run.spec.verify != Verify::All {
            continue;
        }
        let at = newest.entry((vm(run), repository(run))).or_insert((None, 0));
        *at = (*at).max((run.creation_timestamp().map(|time| time.0), i64::from(found == Found::Damaged)));
    }
    let mut all = BTreeMap::new();
    for ((vm, _), (_, damaged)) in newest {
        let any = all.entry(vm).or_insert(0);
        *any = damaged.max(*any);
    }
    all
}

/// Of each machine that runs have a point of, when the newest was begun, in seconds since 1970.
pub(super) fn newest_points(runs: &[Arc<BackupRun>]) -> BTreeMap<String, i64> {
    let mut newest = BTreeMap::new();
    for run in runs.iter().filter(|run| RunState::of(run) == RunState::Complete) {
        let status = run.status.as_ref().filter(|status| status.point.is_some());
        let Some(begun) = status.and_then(|status| status.start_time.as_ref()) else { continue };
        let at = newest.entry(vm(run)).or_insert(i64::MIN);
        *at = (*at).max(begun.0.as_second());
    }
    newest
}

/// How many of the newest complete runs of each machine, in a row, may have left checkpoints behind: of each of its repositories,
/// added up. Runs of a halted machine do not count, for they have none to remove.
pub(super) fn left_checkpoints(runs: &[Arc<BackupRun>]) -> BTreeMap<String, i64> {
    let mut of_each: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let halted = |run: &BackupRun| run.status.as_ref().is_some_and(|status| status.halted);
    for run in runs.iter().filter(|run| RunState::of(run) == RunState::Complete && !halted(run)) {
        let left = conditions::holds(run.conditions(), CHECKPOINTS_STAY);
        let made = run.creation_timestamp().map(|time| time.0);
        of_each.entry((vm(run), repository(run))).or_default().push((made, left));
    }
    let mut all = BTreeMap::new();
    for ((vm, _), mut of_one) in of_each {
        of_one.sort_unstable();
        let in_a_row = of_one.iter().rev().take_while(|(_, left)| *left).count();
        *all.entry(vm).or_insert(0) += i64::try_from(in_a_row).unwrap_or(i64::MAX);
    }
    all
}

/// Where its point is, as `NAMESPACE/NAME`.
fn repository(run: &BackupRun) -> String {
    let reference = &run.spec.repository;
    let namespace = reference.namespace.clone().or_else(|| run.namespace()).unwrap_or_default();
    format!("{namespace}/{}", reference.name)
}

/// The machine, as `NAMESPACE/NAME`.
fn vm(run: &BackupRun) -> String {
    format!("{}/{}", run.namespace().unwrap_or_default(), run.spec.virtual_machine)
}
