//! What the runs tell that policies asked for: what was done, what is at work, and which are kept no longer.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use remora_core::policy::{Ending, PastRun};
use remora_core::{VmName, is_ahead};

use super::{DueRun, ScheduledRun, Verified};
use crate::conditions;
use crate::controller::plan::has_finalizer;
use crate::resources::{BackupRun, Run, Verify};
use crate::verification::{self, Found};

/// The label of a run that a policy asked for: the policy's name. Only the controller puts it.
pub(super) const POLICY_LABEL: &str = "remora.dev/policy";

/// So many runs with a point are kept of each machine and policy: as many as schedules that follow the changes look at. The newest
/// one whose point was verified is kept beside them: it tells until when none has to be.
const COMPLETE: usize = 8;

/// So many others are: as many as failures make the pause until the next try longer.
const OTHERS: usize = 5;

/// Runs of a machine that is gone tell which points there are of it. For so long.
const OF_THE_GONE: SignedDuration = SignedDuration::from_hours(30 * 24);

/// A run that no node was found for in so long waits for somebody: those after it go on.
const STALLED: SignedDuration = SignedDuration::from_mins(5);

/// The policy that asked for a run, if one did.
pub(super) fn policy(run: &BackupRun) -> Option<&str> {
    run.labels().get(POLICY_LABEL).map(String::as_str)
}

fn machine(run: &BackupRun) -> Option<VmName> {
    VmName::new(format!("{}/{}", run.namespace()?, run.spec.virtual_machine)).ok()
}

/// All that policies asked for.
pub(super) fn scheduled(runs: &[Arc<BackupRun>], now: Timestamp) -> Vec<ScheduledRun> {
    let learnt = |run: &Arc<BackupRun>| {
        Some(ScheduledRun {
            policy: policy(run)?.to_owned(),
            vm: machine(run)?,
            begun: run.metadata.creation_timestamp.as_ref()?.0,
            ending: ending(run, now),
            verified: verified(run, now),
        })
    };
    runs.iter().filter_map(learnt).collect()
}

fn ending(run: &BackupRun, now: Timestamp) -> Ending {
    let Some(status) = run.status.as_ref().filter(|_| run.has_ended()) else { return Ending::Settled };
    // The node's clock says when, which may be behind, or far ahead: a run that fails must not be tried again at once for that,
    // nor years later.
    let created = run.metadata.creation_timestamp.as_ref().map(|time| time.0).unwrap_or_default();
    let told = status.completion_time.as_ref().map(|time| time.0).filter(|time| !is_ahead(*time, now));
    let ended = told.map_or(created, |time| time.max(created));
    if conditions::holds(&status.conditions, "Complete") {
        let begun = status.start_time.as_ref().map_or(ended, |time| time.0);
        let bytes = |number: i64| u64::try_from(number).unwrap_or_default();
        return Ending::Made(PastRun {
            time: begun,
            changed: status.read_bytes.map(bytes).unwrap_or_default(),
            size: status.disks.iter().map(|disk| bytes(disk.size_bytes)).sum(),
            seconds: bytes(ended.duration_since(begun).as_secs()),
        });
    }
    match conditions::find(&status.conditions, "Failed") {
        // Somebody did not want it.
        Some(failed) if failed.reason == "Cancelled" => Ending::Settled,
        _ => Ending::Failed(ended),
    }
}

/// What waits for its verification will not be asked for again; what could not be verified will, by the next run. So will what
/// is damaged: it is to be known soon whether the points after it are sound.
fn verified(run: &BackupRun, now: Timestamp) -> Verified {
    let is_sound = verification::found(run) == Some(Found::Sound);
    let counts = !run.has_ended() || verification::is_pending(run, now) || is_sound;
    if run.spec.verify != Verify::None && counts { Verified::Yes } else { Verified::No }
}

/// The machines that have a run which has not ended, whoever asked for it.
pub(super) fn busy(runs: &[Arc<BackupRun>]) -> HashSet<VmName> {
    runs.iter().filter(|run| !run.has_ended()).filter_map(|run| machine(run)).collect()
}

/// How many of those that policies asked for are at work, or soon will be, by namespace.
pub(super) fn at_work(runs: &[Arc<BackupRun>], now: Timestamp) -> BTreeMap<String, usize> {
    let counts = |run: &&Arc<BackupRun>| {
        let created = run.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
        let young = now.duration_since(created) < STALLED;
        policy(run).is_some() && !run.has_ended() && (young || run.node().is_some())
    };
    let mut at_work = BTreeMap::new();
    for run in runs.iter().filter(counts) {
        *at_work.entry(run.namespace().unwrap_or_default()).or_default() += 1;
    }
    at_work
}

/// What is due, in turn: the namespace of which the fewest are at work is first, so that a mass of machines in one keeps
/// nobody else waiting. Those of one namespace stay in their order.
pub(super) fn in_turn(due: Vec<DueRun>, at_work: &BTreeMap<String, usize>) -> Vec<DueRun> {
    let mut before = at_work.clone();
    let mut all: Vec<_> = due
        .into_iter()
        .map(|due| {
            let place = before.entry(due.vm.namespace.clone()).or_default();
            *place += 1;
            (*place, due)
        })
        .collect();
    all.sort_by_key(|(place, due)| (*place, due.start));
    all.into_iter().map(|(_, due)| due).collect()
}

/// Those that are kept no longer, the oldest first.
pub(super) fn superfluous(runs: &[Arc<BackupRun>], machines: &HashSet<VmName>, now: Timestamp) -> Vec<Arc<BackupRun>> {
    let mut of: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let over = |run: &&Arc<BackupRun>| {
        run.has_ended() && !has_finalizer(&***run) && !run.is_leaving() && !verification::is_pending(run, now)
    };
    for run in runs.iter().filter(over) {
        let (Some(policy), Some(vm), Some(created)) = (policy(run), machine(run), &run.metadata.creation_timestamp)
        else {
            continue;
        };
        let complete = conditions::holds(run.conditions(), "Complete");
        of.entry((policy.to_owned(), vm, complete)).or_default().push((created.0, run));
    }
    let mut all = Vec::new();
    for ((_, vm, complete), mut runs) in of {
        runs.sort_by_key(|(created, run)| (*created, run.name_any()));
        let kept = if complete { COMPLETE } else { OTHERS };
        let more = runs.len().saturating_sub(kept);
        let verified = runs.iter().rposition(|(_, run)| verification::found(run).is_some());
        let gone = !machines.contains(&vm);
        let old = |created: Timestamp| gone && now.duration_since(created) > OF_THE_GONE;
        let is_superfluous = |at: usize, created| (at < more && Some(at) != verified) || old(created);
        let superfluous = runs.into_iter().enumerate().filter(|(at, (created, _))| is_superfluous(*at, *created));
        all.extend(superfluous.map(|(_, (created, run))| (created, Arc::clone(run))));
    }
    all.sort_by_key(|(created, run)| (*created, run.name_any()));
    all.into_iter().map(|(_, run)| run).collect()
}

#[cfg(test)]
mod tests;
