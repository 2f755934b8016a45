//! Whose is what was read: made for this run, for another one, or somebody else's.

use kube::ResourceExt;
use kube::api::ObjectMeta;

use crate::controller::observed::{Machine, Made, Names, Observed, RepositoryFacts, Taken, Thing, TrackerFacts};
use crate::kubevirt::{Stage, VirtualMachineBackup, VirtualMachineBackupTracker, is_of_run, tracker_name};
use crate::resources::BackupRun;

#[cfg(test)]
mod tests;

/// What has the names of a machine's scratch and token.
pub(super) struct Beside {
    pub(super) scratch: Option<ObjectMeta>,
    pub(super) token: Option<ObjectMeta>,
}

/// What was made for a run: all of it that says so.
pub(super) fn made(backups: &[VirtualMachineBackup], beside: &Beside, uid: &str) -> Made {
    Made {
        backups: things(backups.iter().map(|backup| &backup.metadata), uid),
        scratches: things(beside.scratch.iter(), uid),
        tokens: things(beside.token.iter(), uid),
        attached: false,
        orphans: Vec::new(),
    }
}

/// What the names that an attempt needs stand for.
pub(super) fn names(
    observed: &Observed,
    backup: &str,
    backups: &[VirtualMachineBackup],
    beside: &Beside,
    trackers: &[VirtualMachineBackupTracker],
) -> Names {
    let run = &observed.run;
    let uid = run.metadata.uid.as_deref().unwrap_or_default();
    let existing = backups.iter().find(|one| one.metadata.name.as_deref() == Some(backup));
    let machine = match &observed.machine {
        Machine::Found(found) => found.uid.as_str(),
        _ => "",
    };
    let wanted_tracker = match observed.repository {
        RepositoryFacts::Ready(id) => Some(tracker_name(&run.spec.virtual_machine, id)),
        _ => None,
    };
    let tracker = trackers.iter().find(|one| wanted_tracker.is_some() && one.metadata.name == wanted_tracker);
    Names {
        backup: existing.map_or(Taken::Free, |backup| backup_taken(backup, wanted_tracker.as_deref(), uid)),
        scratch: taken(beside.scratch.as_ref(), uid),
        token: taken(beside.token.as_ref(), uid),
        tracker: tracker_facts(tracker, &run.spec.virtual_machine, machine),
    }
}

/// Those that were made for the run of that UID.
fn things<'a>(metadata: impl Iterator<Item = &'a ObjectMeta>, uid: &str) -> Vec<Thing> {
    let ours = metadata.filter(|metadata| is_of_run(metadata, uid));
    ours.map(|metadata| Thing {
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        leaving: metadata.deletion_timestamp.is_some(),
    })
    .collect()
}

/// Who has a name; nobody if nothing has it.
pub(in crate::controller) fn taken(metadata: Option<&ObjectMeta>, uid: &str) -> Taken {
    let Some(metadata) = metadata else { return Taken::Free };
    if is_of_run(metadata, uid) {
        return Taken::Ours { leaving: metadata.deletion_timestamp.is_some() };
    }
    let owner = metadata.owner_references.iter().flatten().find(|owner| owner.kind.ends_with("Run"));
    match owner.filter(|owner| is_of_run(metadata, &owner.uid)) {
        Some(owner) => Taken::OfRun(owner.name.clone()),
        None => Taken::Foreign,
    }
}

/// A backup that says it is of the run must be one through the run's tracker, too.
fn backup_taken(backup: &VirtualMachineBackup, tracker: Option<&str>, uid: &str) -> Taken {
    match taken(Some(&backup.metadata), uid) {
        Taken::Ours { .. } if !tracker.is_none_or(|tracker| backup.spec.is_pull_of(tracker)) => Taken::Foreign,
        taken => taken,
    }
}

fn tracker_facts(tracker: Option<&VirtualMachineBackupTracker>, name: &str, machine: &str) -> TrackerFacts {
    let Some(tracker) = tracker else { return TrackerFacts::Free };
    // A machine, or a backup that lost its tracker with an earlier one.
    let ours = ["VirtualMachine", "VirtualMachineBackup"];
    let mut owners =
        tracker.metadata.owner_references.iter().flatten().filter(|owner| ours.contains(&owner.kind.as_str()));
    let source = &tracker.spec.source;
    match owners.next() {
        _ if source.kind != "VirtualMachine" || source.name != name => TrackerFacts::Foreign,
        None => TrackerFacts::Foreign,
        Some(owner) if owner.uid == machine => TrackerFacts::Ours,
        Some(_) => TrackerFacts::OfEarlierMachine(tracker.metadata.uid.clone().unwrap_or_default()),
    }
}

/// The backups of the run's machine that are in flight and of another run, or of nobody of ours.
pub(super) fn foreign(
    run: &BackupRun,
    uid: &str,
    backups: &[VirtualMachineBackup],
    trackers: &[VirtualMachineBackupTracker],
) -> Vec<(String, String)> {
    let machine = &run.spec.virtual_machine;
    let tracked = |name: &str| {
        let tracker = trackers.iter().find(|tracker| tracker.metadata.name.as_deref() == Some(name));
        tracker.is_some_and(|tracker| tracker.spec.source.name == *machine)
    };
    let of_machine = |backup: &&VirtualMachineBackup| match backup.spec.source.kind.as_str() {
        "VirtualMachine" => backup.spec.source.name == *machine,
        _ => tracked(&backup.spec.source.name),
    };
    let others = backups.iter().filter(|backup| !is_of_run(&backup.metadata, uid)).filter(of_machine);
    others.filter_map(|backup| Some((backup.name_any(), in_flight(backup)?))).collect()
}

/// What a backup is at that has not ended.
fn in_flight(backup: &VirtualMachineBackup) -> Option<String> {
    let conditions = backup.status.as_ref().map(|status| status.conditions.as_slice());
    match Stage::of(conditions.unwrap_or_default()) {
        Stage::InFlight(at) | Stage::Ending(at) => Some(at),
        Stage::Complete | Stage::Failed { .. } => None,
    }
}

/// Whether it is in flight, and no run's of ours: runs of one machine wait for one another as it is.
pub(super) fn is_somebody_else_s(backup: &VirtualMachineBackup) -> bool {
    let mut owners = backup.metadata.owner_references.iter().flatten();
    in_flight(backup).is_some() && !owners.any(|owner| is_of_run(&backup.metadata, &owner.uid))
}
