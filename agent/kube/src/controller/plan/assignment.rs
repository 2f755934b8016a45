//! Whether a run can be given to its machine's node, and what to do where it cannot.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::conditions::Says;
use crate::controller::observed::{
    Claim, Found, Halted, Instance, Machine, Observed, OtherRun, RepositoryFacts, Selectors,
};
use crate::controller::worker::no_agent;
use crate::kubevirt::tracking;
use crate::resources::{BackupRun, RepositoryReference, Run};

/// The reason of a run that somebody else's backup of its machine keeps from beginning.
pub(in crate::controller) const WAITING_FOR_BACKUP: &str = "WaitingForBackup";

/// Where a machine is backed up.
#[derive(Debug)]
pub(super) enum Place<'a> {
    /// On the node on which it runs.
    Node(String),
    /// It is halted, and this is what it has.
    Claims(&'a Halted),
}

/// The place; or why there is none yet. What is nearest to the user comes first.
pub(super) fn decide(observed: &Observed) -> Result<Place<'_>, Says> {
    repository(&observed.run, &observed.repository)?;
    let found = machine(observed)?;
    if let Some(halted) = &found.halted {
        readable(&observed.run, &halted.claims)?;
        first(observed)?;
        return Ok(Place::Claims(halted));
    }
    let instance = running(&observed.run, found)?;
    tracked(&observed.run, found)?;
    if instance.disks.is_empty() {
        return Err(no_disk());
    }
    if instance.migrating {
        return Err(Says::no("Migrating", "The machine is being migrated to another node. The run begins after that."));
    }
    first(observed)?;
    nothing_in_flight(observed, instance)?;
    let node = instance.node.clone().filter(|node| !node.is_empty());
    let node =
        node.ok_or_else(|| Says::no("NotRunning", "The machine has no node yet. The run begins when it runs."))?;
    if observed.agents.iter().all(|agent| !agent.is_ready) {
        return Err(no_agent(&node));
    }
    Ok(Place::Node(node))
}

fn no_disk() -> Says {
    let message = "None of the machine's disks is a PersistentVolumeClaim or a DataVolume: nothing of it can be backed up. \
                   Move what is to be kept to such a disk.";
    Says::no("NoEligibleDisk", message)
}

/// Whether the claims of a halted machine can be read.
fn readable(run: &BackupRun, claims: &[Claim]) -> Result<(), Says> {
    if claims.is_empty() {
        return Err(no_disk());
    }
    let machine = &run.spec.virtual_machine;
    if let Some(missing) = claims.iter().find(|claim| claim.block.is_none()) {
        let message = format!(
            "There is no PersistentVolumeClaim {}, which machine {machine} has a disk on. The run begins when it is there.",
            missing.name
        );
        return Err(Says::no("NoClaim", message));
    }
    match claims.iter().find_map(|claim| Some((&claim.name, claim.users.first()?))) {
        None => Ok(()),
        Some((claim, user)) => {
            let message = format!(
                "Machine {machine} is halted, and its PersistentVolumeClaim {claim} is used by {user}. The run begins when \
                 nobody uses it."
            );
            Err(Says::no("ClaimInUse", message))
        }
    }
}

/// Whether a run's repository can be used.
pub(in crate::controller) fn repository(run: &impl Run, facts: &RepositoryFacts) -> Result<(), Says> {
    let reference = run.repository();
    let own = run.meta().namespace.as_deref().unwrap_or_default();
    match facts {
        RepositoryFacts::Ready(_) => Ok(()),
        RepositoryFacts::Missing => Err(missing(reference, own)),
        RepositoryFacts::NotAllowed => Err(not_allowed(reference, own)),
        RepositoryFacts::NotReady(why) => {
            let (name, namespace) = (&reference.name, reference.namespace_or(own));
            let message = format!("Repository {name} of namespace {namespace} cannot be used: {why}");
            Err(Says::no("RepositoryNotReady", message))
        }
    }
}

/// Of one of the run's own namespace.
pub(in crate::controller) fn missing(reference: &RepositoryReference, own: &str) -> Says {
    let (name, namespace) = (&reference.name, reference.namespace_or(own));
    let message = format!(
        "There is no Repository {name} in namespace {namespace}. Create it, or create another run that names another."
    );
    Says::no("RepositoryMissing", message)
}

/// Of a repository that is there or not: who may not use it learns nothing about it.
pub(in crate::controller) fn not_allowed(reference: &RepositoryReference, own: &str) -> Says {
    let (name, namespace) = (&reference.name, reference.namespace_or(own));
    let message = format!(
        "Namespace {own} may use no Repository {name} of namespace {namespace}. Name one of {own}, or ask the administrators \
         to list {own} in the allowedNamespaces of one of theirs."
    );
    Says::no("RepositoryNotAllowed", message)
}

fn machine(observed: &Observed) -> Result<&Found, Says> {
    let name = &observed.run.spec.virtual_machine;
    match &observed.machine {
        Machine::NoKubeVirt => Err(Says::no(
            "NoKubeVirt",
            "This cluster has no KubeVirt: the API server knows no VirtualMachine. Install KubeVirt 1.8 or later.",
        )),
        Machine::NoBackups => Err(Says::no(
            "KubeVirtTooOld",
            "This cluster's KubeVirt knows no VirtualMachineBackup. Update it to 1.8 or later and turn its feature gates \
             IncrementalBackup and UtilityVolumes on.",
        )),
        Machine::Missing => {
            let message = format!(
                "There is no VirtualMachine {name} in this namespace. Create it, or create a BackupRun with another name."
            );
            Err(Says::no("NoMachine", message))
        }
        Machine::Found(found) => Ok(found),
    }
}

fn running<'a>(run: &BackupRun, found: &'a Found) -> Result<&'a Instance, Says> {
    let running = found.instance.as_ref().filter(|instance| instance.phase == "Running");
    running.ok_or_else(|| {
        let state = found.instance.as_ref().map_or(&found.state, |instance| &instance.phase);
        let state = if state.is_empty() { "not running" } else { state };
        let message = format!(
            "VirtualMachine {} is {state}: it is backed up while it runs, or when it is Stopped. The run begins then.",
            run.spec.virtual_machine
        );
        Says::no("NotRunning", message)
    })
}

fn tracked(run: &BackupRun, found: &Found) -> Result<(), Says> {
    let name = &run.spec.virtual_machine;
    match found.tracking.as_str() {
        tracking::ENABLED => Ok(()),
        tracking::PENDING_RESTART => {
            let message = format!(
                "KubeVirt tracks the changes of {name} from its next start on. Restart it: virtctl restart {name}."
            );
            Err(Says::no("TrackingPendingRestart", message))
        }
        tracking::INITIALIZING => Err(Says::no(
            "TrackingInitializing",
            "KubeVirt is about to track the machine's changes. The run begins after that.",
        )),
        tracking::GATE_OFF => Err(Says::no(
            "FeatureGateDisabled",
            "The machine is selected for changed-block tracking, but KubeVirt's feature gate IncrementalBackup is off. Ask \
             the administrators to add IncrementalBackup and UtilityVolumes to spec.configuration.developerConfiguration.\
             featureGates of the KubeVirt object, and restart the machine then.",
        )),
        _ => Err(Says::no("TrackingDisabled", how_to_track(name, &found.selectors))),
    }
}

/// Which label has KubeVirt track a machine.
fn how_to_track(name: &str, selectors: &Selectors) -> String {
    let not = format!("KubeVirt does not track the changes of {name}.");
    let machines = selectors.machines.as_ref().and_then(words);
    let namespaces = selectors.namespaces.as_ref().and_then(words);
    let label = match (machines, namespaces) {
        (None, None) => {
            return format!(
                "{not} Ask the administrators to set spec.configuration.changedBlockTrackingLabelSelectors of the KubeVirt \
                 object, such as virtualMachineLabelSelector: {{matchLabels: {{changedBlockTracking: \"true\"}}}}; then \
                 label the machine so and restart it."
            );
        }
        (Some(machine), None) => format!("Label it {machine}"),
        (None, Some(namespace)) => format!("Have its namespace labelled {namespace}"),
        (Some(machine), Some(namespace)) => format!("Label it {machine}, or have its namespace labelled {namespace}"),
    };
    format!("{not} {label}, and restart it: virtctl restart {name}.")
}

/// A selector as people write it; none of an empty one.
fn words(selector: &LabelSelector) -> Option<String> {
    let labels = selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}={value}"));
    let expressions = selector.match_expressions.iter().flatten().map(|one| {
        let values = one.values.as_deref().unwrap_or_default().join(", ");
        let values = if values.is_empty() { String::new() } else { format!(" ({values})") };
        format!("{} {}{values}", one.key, one.operator)
    });
    let words: Vec<_> = labels.chain(expressions).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

/// One run at a time: one that is assigned, else the oldest, and of two of one second that of the first name.
fn first(observed: &Observed) -> Result<(), Says> {
    let run = &observed.run;
    let this = OtherRun {
        name: run.metadata.name.clone().unwrap_or_default(),
        created: run.metadata.creation_timestamp.as_ref().map(|time| time.0),
        assigned: run.status.as_ref().is_some_and(|status| status.node.is_some()),
    };
    let rank = |run: &OtherRun| (!run.assigned, run.created, run.name.clone());
    match observed.others.iter().min_by_key(|other| rank(other)).filter(|other| rank(other) < rank(&this)) {
        None => Ok(()),
        Some(other) => {
            let message =
                format!("BackupRun {} of the same machine was first. This one begins when that has ended.", other.name);
            Err(Says::no("WaitingForRun", message))
        }
    }
}

/// KubeVirt takes one backup of a machine at a time, and an agent does few runs at once: one that has to wait holds up others.
fn nothing_in_flight(observed: &Observed, instance: &Instance) -> Result<(), Says> {
    let attempt = observed.run.status.as_ref().and_then(|status| status.attempt.as_ref());
    // What an attempt of this run left is removed, with an agent or without.
    let job = instance.job.as_ref().filter(|job| attempt.is_none_or(|attempt| attempt.backup != **job));
    let message = match (observed.foreign.first(), job) {
        (None, None) => return Ok(()),
        (Some((name, at)), _) => {
            format!(
                "VirtualMachineBackup {name} of the same machine is in flight ({at}). The run begins when that has ended."
            )
        }
        // Such as of a run before, whose backup KubeVirt has not let go of.
        (None, Some(job)) => {
            format!("The machine still works on backup {job}. The run begins when that has ended.")
        }
    };
    Err(Says::no(WAITING_FOR_BACKUP, message))
}
