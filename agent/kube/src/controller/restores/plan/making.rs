//! What a restore needs before an agent can write: checked, and made.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use remora_core::point::Point;
use serde_json::Value;

use super::{Ended, Observed, Plan, PointFacts, SOON, Status, Step, WAITING, end, in_use};
use crate::conditions::Says;
use crate::controller::observed::Taken;
use crate::controller::plan::assignment;
use crate::controller::restores::observed::ClaimFacts;
use crate::controller::restores::{claim, machine};
use crate::controller::worker::{Mounted, Mounts, Task, Trouble};
use crate::resources::VirtualMachineTarget;
use crate::targets::{Target, targets};

/// So long a run waits for what is no fault of its own. Later nobody expects any more that it overwrites what it names.
pub(super) const BEGINS_WITHIN: Duration = Duration::from_hours(24);

/// Of a run that has no node yet.
pub(super) fn plan(observed: &Observed) -> Plan {
    let late = observed.age > BEGINS_WITHIN;
    match next(observed) {
        Err(Trouble::Ends(says)) => end(observed, Ended::Badly(says)),
        Err(Trouble::Waits(says)) if late => end(observed, Ended::Badly(too_late(Some(&says)))),
        // Perhaps no controller was there to look at it in time.
        Ok(_) if late => end(observed, Ended::Badly(too_late(None))),
        Err(Trouble::Waits(says)) => waiting(says),
        Ok(next) => next,
    }
}

/// With what it still waits for, if it does.
fn too_late(waits: Option<&Says>) -> Says {
    let now = match waits {
        Some(says) => {
            format!("{}. Create another RestoreRun when that is mended.", says.message.trim_end_matches('.'))
        }
        None => "Nothing speaks against it now: create another RestoreRun.".to_owned(),
    };
    Says::no("DeadlineExceeded", format!("The restore did not begin within 24 hours, and nothing was written. {now}"))
}

fn waiting(says: Says) -> Plan {
    let status = Status { assigned: Some(says), ..Status::default() };
    Plan { status: Some(status), again: Some(WAITING), ..Plan::default() }
}

fn next(observed: &Observed) -> Result<Plan, Trouble> {
    if let Some((claim, first)) = &observed.first {
        return Err(not_first(claim, first).into());
    }
    assignment::repository(&observed.run, &observed.repository).map_err(Trouble::Waits)?;
    let point = point(observed)?;
    let targets = targets(&observed.run.spec, point)?;
    wanted_machine(observed, point)?;
    for target in &targets {
        fits(observed, target)?;
    }
    let steps = steps(observed, point, &targets)?;
    if !steps.is_empty() {
        let says = Says::not_yet("Preparing", "The claims, and the pod that writes them, are being made.");
        return Ok(Plan { steps, again: Some(SOON), ..waiting(says) });
    }
    let node = observed.worker.node(&observed.run, Task::Receive, &observed.agents)?;
    let message = format!("The pod that writes the claims runs on node {node}, whose agent takes the run.");
    let status = Status { node: Some(node), assigned: Some(Says::yes("Assigned", message)), ended: None };
    Ok(Plan { status: Some(status), again: Some(WAITING), ..Plan::default() })
}

fn not_first(claim: &str, first: &str) -> Says {
    let message = format!(
        "RestoreRun {first} was first to write PersistentVolumeClaim {claim}. Create another RestoreRun when that has ended, or with \
         a claim of another name."
    );
    Says::no("ClaimInUse", message)
}

fn point(observed: &Observed) -> Result<&Point, Trouble> {
    match &observed.point {
        PointFacts::Found(point) => Ok(point),
        PointFacts::Unusable(reason, why) => Err(Says::no(*reason, why.clone()).into()),
        PointFacts::Later(why) => {
            let message = format!("Point {} cannot be read now, and is tried again: {why}", observed.run.spec.point);
            Err(Trouble::Waits(Says::not_yet("PointNotReadable", message)))
        }
        PointFacts::Unread => Err(Trouble::Waits(Says::not_yet("PointNotReadable", "The point is being read."))),
    }
}

/// Whether the machine can be made, if one is wanted: said before anything is written.
fn wanted_machine(observed: &Observed, point: &Point) -> Result<(), Trouble> {
    let Some(wanted) = &observed.run.spec.virtual_machine else { return Ok(()) };
    if observed.machine.unknown {
        return Err(no_kubevirt().into());
    }
    machine(observed, point)?;
    if observed.machine.taken != Taken::Free {
        return Err(name_taken("VirtualMachine", &wanted.name).into());
    }
    if wanted.keep_identity && observed.machine.original {
        return Err(original_exists(point, wanted).into());
    }
    Ok(())
}

fn no_kubevirt() -> Says {
    let message = "This cluster has no KubeVirt: the API server knows no VirtualMachine. Install KubeVirt 1.8 or later, or \
                   restore the disks to claims; then create another RestoreRun.";
    Says::no("NoKubeVirt", message)
}

fn original_exists(point: &Point, wanted: &VirtualMachineTarget) -> Says {
    let original = machine::original(&point.definition).unwrap_or_default();
    let message = format!(
        "VirtualMachine {original} is there, and {} would have its MAC addresses and its firmware's UUID. Delete the \
         original first, or create a RestoreRun without keepIdentity.",
        wanted.name
    );
    Says::no("OriginalExists", message)
}

/// The machine that is wanted.
pub(super) fn machine(observed: &Observed, point: &Point) -> Result<Value, Says> {
    let run = &observed.run;
    let Some(wanted) = &run.spec.virtual_machine else { return Ok(Value::Null) };
    let claims: BTreeMap<_, _> = targets(&run.spec, point)?.into_iter().map(|one| (one.disk, one.claim)).collect();
    machine::machine(&point.definition, wanted, &claims, run.metadata.uid.as_deref().unwrap_or_default())
}

pub(super) fn name_taken(kind: &str, name: &str) -> Says {
    let message = format!("There is a {kind} {name} already. Delete it, or create a RestoreRun with another name.");
    Says::no("NameTaken", message)
}

/// Whether a disk can go to its claim.
fn fits(observed: &Observed, target: &Target) -> Result<(), Trouble> {
    let name = &target.claim;
    let Some(facts) = observed.claims.get(name).filter(|facts| facts.taken != Taken::Free) else {
        return is_class(observed, target);
    };
    if let Some(other) = &facts.left_by {
        let message = format!("RestoreRun {other} ends, and has not let go of PersistentVolumeClaim {name} yet.");
        return Err(Trouble::Waits(Says::not_yet("WaitingForRun", message)));
    }
    let ours = matches!(facts.taken, Taken::Ours { .. });
    if observed.run.spec.virtual_machine.is_some() && !ours {
        return Err(name_taken("PersistentVolumeClaim", name).into());
    }
    if let Some(says) = in_use(name, facts) {
        return Err(says.into());
    }
    if matches!(facts.taken, Taken::Ours { leaving: true }) {
        let message =
            format!("PersistentVolumeClaim {name} is being deleted. Create another RestoreRun when it is gone.");
        return Err(Says::no("ClaimGoing", message).into());
    }
    if let Some(capacity) = facts.capacity.filter(|capacity| *capacity < target.size) {
        let message = format!(
            "PersistentVolumeClaim {name} has {capacity} bytes, and disk {} has {}. Expand it, or restore to a claim of \
             another name, which is made as large as the disk needs; then create another RestoreRun.",
            target.disk, target.size
        );
        return Err(Says::no("ClaimTooSmall", message).into());
    }
    Ok(())
}

/// Whether there is the class that a claim would be made of.
fn is_class(observed: &Observed, target: &Target) -> Result<(), Trouble> {
    let PointFacts::Found(point) = &observed.point else { return Ok(()) };
    let class = claim::claim(&observed.run, target, point).spec.and_then(|spec| spec.storage_class_name);
    let known = |class: &String| class.is_empty() || observed.classes.names.contains(class);
    match class {
        Some(class) if !known(&class) => {
            let message = format!(
                "There is no StorageClass {class} for PersistentVolumeClaim {}. Create a RestoreRun whose storageClassName is \
                 one of: {}.",
                target.claim,
                observed.classes.names.join(", ")
            );
            Err(Says::no("NoStorageClass", message).into())
        }
        None if observed.classes.default.is_none() => {
            let message = format!(
                "The cluster has no default StorageClass for PersistentVolumeClaim {}. Create a RestoreRun whose \
                 storageClassName is one of: {}.",
                target.claim,
                observed.classes.names.join(", ")
            );
            Err(Says::no("NoStorageClass", message).into())
        }
        _ => Ok(()),
    }
}

/// What is still to be made.
fn steps(observed: &Observed, point: &Point, targets: &[Target]) -> Result<Vec<Step>, Trouble> {
    let (run, free) = (&observed.run, ClaimFacts::default());
    let (mut steps, mut mounts) = (Vec::new(), Mounts::default());
    let placement = machine::placement(&point.definition);
    mounts.placement = match run.spec.virtual_machine {
        // Where the worker runs first, claims are bound: there the machine has to be able to run.
        Some(_) => placement,
        // Nobody knows who is to have them. They may be, or have to be, on nodes that are kept for machines such as this one.
        None => placement.tolerations(),
    };
    for target in targets {
        let facts = observed.claims.get(&target.claim).unwrap_or(&free);
        let mut block = facts.block;
        if facts.taken == Taken::Free {
            let made = claim::claim(run, target, point);
            block = is_block(&made);
            steps.push(Step::MakeClaim(Box::new(made)));
        }
        mounts.disks.push(Mounted { claim: target.claim.clone(), block });
        mounts.overlays.extend(facts.overlays.iter().cloned());
    }
    let making = observed.worker.making(run, Task::Receive, observed.image.as_ref(), &mounts)?;
    steps.extend(making.into_iter().map(Step::Worker));
    Ok(steps)
}

fn is_block(claim: &PersistentVolumeClaim) -> bool {
    claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()) == Some("Block")
}
