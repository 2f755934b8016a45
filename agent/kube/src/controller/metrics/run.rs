//! What is counted of runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt;
use prometheus_client::encoding::EncodeLabelValue;

use crate::conditions;
use crate::resources::BackupRun;
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
}

impl RunState {
    pub(super) const ALL: [Self; 5] = [Self::Waiting, Self::Assigned, Self::Running, Self::Complete, Self::Failed];

    pub(super) fn of(run: &BackupRun) -> Self {
        let Some(status) = &run.status else { return Self::Waiting };
        if conditions::holds(&status.conditions, "Complete") {
            Self::Complete
        } else if conditions::holds(&status.conditions, "Failed") {
            Self::Failed
        } else if status.agent.is_some() {
            Self::Running
        } else if status.node.is_some() {
            Self::Assigned
        } else {
            Self::Waiting
        }
    }
}

/// Of each machine that runs have a verified point of, what was found of the newest: 1 if it is damaged.
pub(super) fn damaged_points(runs: &[Arc<BackupRun>]) -> BTreeMap<String, i64> {
    let mut newest: BTreeMap<String, (Option<Timestamp>, i64)> = BTreeMap::new();
    for run in runs {
        let Some(found) = verification::found(run) else { continue };
        let at = newest.entry(vm(run)).or_insert((None, 0));
        *at = (*at).max((run.creation_timestamp().map(|time| time.0), i64::from(found == Found::Damaged)));
    }
    newest.into_iter().map(|(vm, (_, damaged))| (vm, damaged)).collect()
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

/// The machine, as `NAMESPACE/NAME`.
fn vm(run: &BackupRun) -> String {
    format!("{}/{}", run.namespace().unwrap_or_default(), run.spec.virtual_machine)
}
