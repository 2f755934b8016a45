//! What an agent's attempt wants of KubeVirt.

use remora_core::{BackupName, RepositoryId};

use super::{Plan, SOON, Status, Step, WORKING, missing_finalizer, removal_of, wanted_attempt};
use crate::conditions::Says;
use crate::controller::objects::Wanted;
use crate::controller::observed::{
    Found, Machine, Made, Observed, Orphan, RepositoryFacts, Taken, Thing, TrackerFacts,
};
use crate::controller::plan::assignment;
use crate::deadline;
use crate::kubevirt::{scratch_name, token_name, tracker_name};
use crate::resources::Attempt;

/// Of a run that an agent has claimed.
pub(super) fn plan(observed: &Observed) -> Plan {
    let run = &observed.run;
    let mut plan = match wanted_attempt(run) {
        None => Plan { steps: removal_of(run, &observed.made), again: Some(WORKING), ..Plan::default() },
        Some(attempt) => wanted(observed, attempt),
    };
    let removing = wanted_attempt(run).is_none() && !observed.made.nothing();
    if removing || !plan.steps.is_empty() {
        plan.again = Some(SOON);
    }
    plan.finalizer = missing_finalizer(run);
    let node = run.status.as_ref().and_then(|status| status.node.clone());
    let assigned = node.as_ref().map(|node| Says::yes("Assigned", format!("The agent of node {node} works on it.")));
    let status = plan.status.take().unwrap_or_default();
    plan.status = Some(Status { node, assigned, ..status });
    plan
}

fn wanted(observed: &Observed, attempt: &Attempt) -> Plan {
    // What other attempts left goes first: KubeVirt takes one backup of a machine at a time.
    let others = leftovers(&observed.made, attempt);
    if !others.nothing() {
        let says = Says::not_yet("CleaningUp", "What an earlier attempt needed is being removed.");
        return Plan {
            steps: removal_of(&observed.run, &others),
            status: Some(of(attempt, says)),
            again: Some(SOON),
            ..Plan::default()
        };
    }
    if matches!(observed.names.backup, Taken::Ours { .. }) {
        let message = format!("VirtualMachineBackup {} was made.", attempt.backup);
        return Plan {
            status: Some(of(attempt, Says::yes("Prepared", message))),
            again: Some(WORKING),
            ..Plan::default()
        };
    }
    match make(observed, attempt) {
        Ok(steps) => {
            let message = format!("VirtualMachineBackup {} is being made.", attempt.backup);
            let says = Says::not_yet("Preparing", message);
            Plan { steps, status: Some(of(attempt, says)), again: Some(SOON), ..Plan::default() }
        }
        Err(says) => Plan { status: Some(of(attempt, says)), again: Some(super::WAITING), ..Plan::default() },
    }
}

fn of(attempt: &Attempt, says: Says) -> Status {
    Status { prepared: Some((attempt.number, says)), ..Status::default() }
}

/// What was made for other attempts.
fn leftovers(made: &Made, attempt: &Attempt) -> Made {
    let backups: Vec<_> = made.backups.iter().filter(|backup| backup.name != attempt.backup).cloned().collect();
    // These have their machine's name: they are as good for the next attempt, unless they are going already.
    let going = |things: &[Thing]| things.iter().filter(|thing| thing.leaving).cloned().collect();
    let (scratches, tokens) = (going(&made.scratches), going(&made.tokens));
    let of_others = |orphan: &&Orphan| orphan.backup.name != attempt.backup;
    let orphans = made.orphans.iter().filter(of_others).cloned().collect();
    Made { backups, scratches, tokens, attached: made.attached, orphans }
}

/// What to make, in this order; or why not.
fn make(observed: &Observed, attempt: &Attempt) -> Result<Vec<Step>, Says> {
    let run = &observed.run;
    let repository = repository(observed)?;
    let ours = attempt.backup.parse::<BackupName>().is_ok_and(|name| name.repository() == repository);
    if !ours {
        let message = format!(
            "{} is no name of a backup of this repository. The agent is of another version, or not remora's.",
            attempt.backup
        );
        return Err(Says::no("BadAttempt", message));
    }
    let found = machine(observed)?;
    nothing_else(observed, found, attempt)?;
    names(observed, attempt)?;
    let mut steps = Vec::new();
    match &observed.names.tracker {
        TrackerFacts::Ours => {}
        TrackerFacts::Free => steps.push(Step::Make(Wanted::tracker(run, &found.uid, repository))),
        TrackerFacts::OfEarlierMachine(uid) => {
            steps.push(Step::RemoveTracker(tracker_name(&run.spec.virtual_machine, repository), uid.clone()));
            return Ok(steps);
        }
        TrackerFacts::Foreign => {
            return Err(taken("VirtualMachineBackupTracker", &tracker_name(&run.spec.virtual_machine, repository)));
        }
    }
    if observed.names.scratch == Taken::Free {
        let class = class(observed)?;
        steps.push(Step::Make(Wanted::scratch(run, size(found)?, class)));
    }
    if observed.names.token == Taken::Free {
        steps.push(Step::Make(Wanted::token(run)));
    }
    let left = deadline::of(run).map_or(0, |deadline| observed.now.duration_until(deadline).as_secs().max(0));
    steps.push(Step::Make(Wanted::backup(run, attempt, repository, left)));
    Ok(steps)
}

/// Tenancy holds when it is used, not only when it was asked for.
fn repository(observed: &Observed) -> Result<RepositoryId, Says> {
    let run = &observed.run;
    let (reference, own) = (&run.spec.repository, run.metadata.namespace.as_deref().unwrap_or_default());
    match &observed.repository {
        RepositoryFacts::Ready(id) => Ok(*id),
        RepositoryFacts::Missing => Err(assignment::missing(reference, own)),
        RepositoryFacts::NotAllowed => Err(assignment::not_allowed(reference, own)),
        RepositoryFacts::NotReady(why) => Err(Says::not_yet("RepositoryNotReady", why.clone())),
    }
}

fn machine(observed: &Observed) -> Result<&Found, Says> {
    match &observed.machine {
        Machine::Found(found) => Ok(found),
        _ => Err(Says::no("NoMachine", "The machine is gone.")),
    }
}

/// KubeVirt itself lets two backups of a machine in, through two trackers, and mixes them up.
fn nothing_else(observed: &Observed, found: &Found, attempt: &Attempt) -> Result<(), Says> {
    if let Some((name, at)) = observed.foreign.first() {
        let message =
            format!("VirtualMachineBackup {name} of the same machine is in flight ({at}). This one is made after it.");
        return Err(Says::not_yet(assignment::WAITING_FOR_BACKUP, message));
    }
    let job = found.instance.as_ref().and_then(|instance| instance.job.as_ref());
    match job.filter(|job| **job != attempt.backup) {
        None => Ok(()),
        Some(job) => {
            let message = format!("The machine still works on backup {job}. This one is made after it.");
            Err(Says::not_yet(assignment::WAITING_FOR_BACKUP, message))
        }
    }
}

fn names(observed: &Observed, attempt: &Attempt) -> Result<(), Says> {
    let machine = &observed.run.spec.virtual_machine;
    let (scratch, token) = (scratch_name(machine), token_name(machine));
    for (kind, name, stands_for) in [
        ("VirtualMachineBackup", &attempt.backup, &observed.names.backup),
        ("PersistentVolumeClaim", &scratch, &observed.names.scratch),
        ("Secret", &token, &observed.names.token),
    ] {
        match stands_for {
            Taken::Free | Taken::Ours { leaving: false } => {}
            Taken::Ours { leaving: true } => {
                return Err(Says::not_yet(
                    "CleaningUp",
                    format!("{kind} {name} of an earlier attempt is being removed."),
                ));
            }
            Taken::OfRun(run) => {
                let message = format!("{kind} {name} is still in use by BackupRun {run} of the same machine.");
                return Err(Says::not_yet("WaitingForRun", message));
            }
            Taken::Foreign => return Err(taken(kind, name)),
        }
    }
    Ok(())
}

fn taken(kind: &str, name: &str) -> Says {
    let message = format!(
        "There is a {kind} {name} that remora did not make. Delete or rename it, and create another BackupRun."
    );
    Says::no("NameTaken", message)
}

/// The scratch's class, by name; none for the cluster's default.
fn class(observed: &Observed) -> Result<Option<String>, Says> {
    let wanted = &observed.run.spec.scratch.storage_class_name;
    let classes = &observed.classes;
    let names = if classes.names.is_empty() { "none".into() } else { classes.names.join(", ") };
    if wanted.is_empty() && classes.default.is_none() {
        let message = format!(
            "The cluster has no default StorageClass for the scratch volume. Name one in spec.scratch.storageClassName ({names}), \
             or in target.scratch.storageClassName of the policy that asks for the run."
        );
        return Err(Says::no("NoStorageClass", message));
    }
    if !wanted.is_empty() && !classes.names.contains(wanted) {
        let message =
            format!("There is no StorageClass {wanted} for the scratch volume. Name one that is there ({names}).");
        return Err(Says::no("NoStorageClass", message));
    }
    Ok((!wanted.is_empty()).then(|| wanted.clone()))
}

/// The bytes of all eligible disks.
fn size(found: &Found) -> Result<u64, Says> {
    let disks = found.instance.as_ref().map(|instance| instance.disks.as_slice()).unwrap_or_default();
    if disks.is_empty() {
        return Err(Says::no("NoEligibleDisk", "The machine no longer runs, or has no disk that can be backed up."));
    }
    let mut sum = 0_u64;
    for (volume, size) in disks {
        let size = size.ok_or_else(|| {
            let message = format!("The size of volume {volume} is not known: its claim is missing or not bound.");
            Says::not_yet("DiskSizeUnknown", message)
        })?;
        sum = sum.saturating_add(size);
    }
    Ok(sum)
}
