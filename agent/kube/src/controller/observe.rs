//! Reads what the controller has to know of a run.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{ListParams, ObjectMeta};
use kube::{Api, Client, ResourceExt};

use super::observed::{
    Claim, Found, Halted, Instance, Machine, Made, Names, Observed, OtherRun, RepositoryFacts, Selectors,
    StorageClasses, Taken, Thing, TrackerFacts,
};
use super::plan;
use super::users::Others;
use super::worker::{self, PodState, Worker, WorkerFacts};
use super::{Settings, is_unknown};
use crate::conditions;
use crate::kubevirt::{
    Backing, KubeVirt, Source, Stage, TRACKER, VirtualMachine, VirtualMachineBackup, VirtualMachineBackupTracker,
    VirtualMachineInstance, bytes, is_of_run, scratch_name, token_name, tracker_name, tracking,
};
use crate::resources::{BackupRun, Repository, RepositoryReference, Run};

type Result<T> = std::result::Result<T, kube::Error>;

/// What KubeVirt says of a machine of which nothing runs, and nothing is to.
const STOPPED: &str = "Stopped";

/// Reads all of it. Of a run that has ended only what is left of it.
pub(super) async fn observe(
    client: &Client,
    settings: &Settings,
    run: BackupRun,
    silent: Duration,
) -> Result<Observed> {
    let reader = Reader { client, settings, namespace: run.namespace().unwrap_or_default() };
    let uid = run.uid().unwrap_or_default();
    let mut observed = Observed {
        now: Timestamp::now(),
        silent,
        agents: Vec::new(),
        others: Vec::new(),
        machine: Machine::Missing,
        repository: RepositoryFacts::Missing,
        made: Made::default(),
        foreign: Vec::new(),
        names: Names::default(),
        classes: StorageClasses::default(),
        worker: Worker::default(),
        image: None,
        run,
    };
    if plan::ends_as_asked(&observed) {
        // Whatever cannot be read of the rest.
        return Ok(observed);
    }
    let backups = reader.backups().await?;
    let beside = reader.beside(&observed.run).await?;
    observed.made = made(backups.as_deref().unwrap_or_default(), &beside, &uid);
    observed.made.attached = reader.is_attached(&observed.run, &observed.made).await?;
    observed.made.orphans = reader.orphans(backups.as_deref().unwrap_or_default(), &observed.made).await?;
    if observed.run.status.as_ref().is_some_and(|status| status.halted) {
        observed.worker = worker::observe(&reader, &observed.run).await?;
        observed.image = worker::image(client, settings).await?;
    }
    if observed.run.has_ended() {
        return Ok(observed);
    }
    observed.repository = reader.repository(observed.run.repository()).await?;
    observed.machine = match &backups {
        None => reader.without_backups().await?,
        Some(_) => reader.machine(&observed.run).await?,
    };
    // Of a run that is claimed those where it was claimed, wherever the machine is now.
    let holder = observed.run.status.as_ref().filter(|status| status.agent.is_some()).and_then(|one| one.node.clone());
    if let Some(node) = holder.or_else(|| node(&observed)) {
        observed.agents = reader.agents(&node).await?;
    }
    observed.others = reader.others(&observed.run).await?;
    let (attempt, backups) = (plan::wanted_attempt(&observed.run).cloned(), backups.unwrap_or_default());
    // No agent is kept busy by a run that has to wait for somebody else's backup.
    let may_wait = !plan::is_claimed(&observed.run) && backups.iter().any(is_somebody_else_s);
    if attempt.is_none() && !may_wait {
        return Ok(observed);
    }
    let trackers: Api<VirtualMachineBackupTracker> = reader.api();
    let trackers = match trackers.list(&ListParams::default()).await {
        Err(error) if is_unknown(&error) => Vec::new(),
        trackers => trackers?.items,
    };
    observed.foreign = foreign(&observed.run, &uid, &backups, &trackers);
    if let Some(attempt) = attempt {
        observed.names = names(&observed, &attempt.backup, &backups, &beside, &trackers);
        observed.classes = reader.classes().await?;
    }
    Ok(observed)
}

pub(super) struct Reader<'a> {
    pub(super) client: &'a Client,
    pub(super) settings: &'a Settings,
    pub(super) namespace: String,
}

impl Reader<'_> {
    pub(super) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The namespace's backups; none if the API server knows no such things.
    async fn backups(&self) -> Result<Option<Vec<VirtualMachineBackup>>> {
        match self.api().list(&ListParams::default()).await {
            Ok(list) => Ok(Some(list.items)),
            Err(error) if is_unknown(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn without_backups(&self) -> Result<Machine> {
        let known = self.client.list_api_group_resources("kubevirt.io/v1").await;
        match known {
            Ok(_) => Ok(Machine::NoBackups),
            Err(error) if is_unknown(&error) => Ok(Machine::NoKubeVirt),
            Err(error) => Err(error),
        }
    }

    async fn machine(&self, run: &BackupRun) -> Result<Machine> {
        let name = &run.spec.virtual_machine;
        let Some(machine) = self.api::<VirtualMachine>().get_opt(name).await? else { return Ok(Machine::Missing) };
        let instance = self.api::<VirtualMachineInstance>().get_opt(name).await?;
        let uid = machine.uid().unwrap_or_default();
        // One that another object made, or nobody, is not this machine's.
        let owned =
            |instance: &VirtualMachineInstance| instance.owner_references().iter().any(|owner| owner.uid == uid);
        let instance = instance.filter(owned);
        let of_machine = machine.status.as_ref().and_then(|status| status.changed_block_tracking.as_ref());
        let of_instance = instance.as_ref().and_then(|one| one.status.as_ref()?.changed_block_tracking.as_ref());
        let [of_machine, of_instance] = [of_machine, of_instance].map(|of| of.map(|tracking| tracking.state.as_str()));
        let tracking = tracking::state(of_instance, of_machine).to_owned();
        let selectors = if tracking == tracking::ENABLED { Selectors::default() } else { self.selectors().await? };
        let halted = if instance.is_none() { self.halted(run, &machine).await? } else { None };
        Ok(Machine::Found(Box::new(Found {
            uid,
            state: machine.status.and_then(|status| status.printable_status).unwrap_or_default(),
            tracking,
            selectors,
            instance: match instance {
                Some(instance) => Some(self.instance(instance).await?),
                None => None,
            },
            halted,
        })))
    }

    /// What can be read of a machine of which nothing runs.
    async fn halted(&self, run: &BackupRun, machine: &VirtualMachine) -> Result<Option<Halted>> {
        let state = machine.status.as_ref().and_then(|status| status.printable_status.as_deref());
        let template = machine.spec.template.as_ref().filter(|_| state == Some(STOPPED));
        let Some(template) = template else { return Ok(None) };
        let others = Others::read(self).await?;
        let (uid, itself) = (run.uid().unwrap_or_default(), format!("VirtualMachine {}", machine.name_any()));
        let mut claims = Vec::new();
        for (_, backing) in template.spec.eligible() {
            let Backing::Claim(name) = backing else { continue };
            let claim = self.api::<PersistentVolumeClaim>().get_opt(name).await?;
            let block =
                |claim: PersistentVolumeClaim| claim.spec.and_then(|spec| spec.volume_mode).as_deref() == Some("Block");
            let users = others.of(name, &uid).into_iter().filter(|user| *user != itself).collect();
            claims.push(Claim { name: name.to_owned(), block: claim.map(block), users });
        }
        Ok(Some(Halted { claims, placement: others.placement(&machine.name_any()) }))
    }

    async fn selectors(&self) -> Result<Selectors> {
        let installations: Api<KubeVirt> = Api::all(self.client.clone());
        let found = match installations.list(&ListParams::default()).await {
            Ok(list) => {
                list.items.into_iter().find_map(|one| one.spec.configuration.changed_block_tracking_label_selectors)
            }
            Err(error) if is_unknown(&error) => None,
            Err(error) => return Err(error),
        };
        let found = found.unwrap_or_default();
        Ok(Selectors { machines: found.virtual_machine_label_selector, namespaces: found.namespace_label_selector })
    }

    async fn instance(&self, instance: VirtualMachineInstance) -> Result<Instance> {
        let mut disks = Vec::new();
        for (volume, backing) in instance.spec.eligible() {
            let size = match backing {
                Backing::HostDisk(capacity) => capacity.and_then(bytes),
                Backing::Claim(claim) => self.capacity(claim).await?,
            };
            disks.push((volume.to_owned(), size));
        }
        // KubeVirt backs files of the node up too, and the scratch holds what changes of them; the agent does not read them.
        if !instance.spec.eligible().any(|(_, backing)| matches!(backing, Backing::Claim(_))) {
            disks.clear();
        }
        let status = instance.status.unwrap_or_default();
        let job = status.changed_block_tracking.and_then(|tracking| tracking.backup_status);
        let job = job.filter(|job| !job.completed && !job.failed).and_then(|job| job.backup_name);
        let migrating = status.migration_state.is_some_and(|migration| !migration.completed && !migration.failed);
        let phase = status.phase.unwrap_or_default();
        Ok(Instance { phase, node: status.node_name, migrating, disks, job })
    }

    /// What a claim has, or asks for if that is more.
    async fn capacity(&self, claim: &str) -> Result<Option<u64>> {
        let Some(claim) = self.api::<PersistentVolumeClaim>().get_opt(claim).await? else { return Ok(None) };
        let has = claim.status.and_then(|status| status.capacity);
        let asks = claim.spec.and_then(|spec| spec.resources?.requests);
        let size = |quantities: Option<std::collections::BTreeMap<_, _>>| {
            quantities.and_then(|all| all.get("storage").and_then(bytes))
        };
        Ok(size(has).max(size(asks)))
    }

    pub(super) async fn repository(&self, reference: &RepositoryReference) -> Result<RepositoryFacts> {
        let namespace = reference.namespace.as_deref().unwrap_or(&self.namespace);
        let repositories: Api<Repository> = Api::namespaced(self.client.clone(), namespace);
        let repository = repositories.get_opt(&reference.name).await?;
        Ok(repository_facts(repository.as_ref(), &self.settings.namespace, namespace, &self.namespace))
    }

    /// The UIDs of the agents' pods that run on a node.
    pub(super) async fn agents(&self, node: &str) -> Result<Vec<String>> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.settings.namespace);
        let params = ListParams::default()
            .labels("app.kubernetes.io/name=remora-agent")
            .fields(&format!("spec.nodeName={node}"));
        let pods = pods.list(&params).await?.items.into_iter();
        Ok(pods.filter(works).filter_map(|pod| pod.metadata.uid).collect())
    }

    async fn others(&self, run: &BackupRun) -> Result<Vec<OtherRun>> {
        let params = ListParams::default().fields(&format!("spec.virtualMachine={}", run.spec.virtual_machine));
        let runs = self.api::<BackupRun>().list(&params).await?.items.into_iter();
        let other = |other: &BackupRun| other.metadata.uid != run.metadata.uid && !other.has_ended();
        Ok(runs
            .filter(other)
            .map(|other| OtherRun {
                created: other.metadata.creation_timestamp.as_ref().map(|time| time.0),
                assigned: other.status.as_ref().is_some_and(|status| status.node.is_some()),
                name: other.name_any(),
            })
            .collect())
    }

    /// What has the names of the machine's scratch and token.
    async fn beside(&self, run: &BackupRun) -> Result<Beside> {
        let machine = &run.spec.virtual_machine;
        let scratch = self.api::<PersistentVolumeClaim>().get_metadata_opt(&scratch_name(machine)).await?;
        let token = self.api::<Secret>().get_metadata_opt(&token_name(machine)).await?;
        Ok(Beside { scratch: scratch.map(|claim| claim.metadata), token: token.map(|secret| secret.metadata) })
    }

    /// Whether a scratch that no backup needs any more is still attached to what runs of the machine.
    async fn is_attached(&self, run: &BackupRun, made: &Made) -> Result<bool> {
        if made.scratches.is_empty() || !made.backups.is_empty() {
            return Ok(false);
        }
        let name = &run.spec.virtual_machine;
        let instance = match self.api::<VirtualMachineInstance>().get_opt(name).await {
            // With KubeVirt went what it was attached to.
            Err(error) if is_unknown(&error) => None,
            instance => instance?,
        };
        let attached = instance.map(|instance| instance.spec.utility_volumes).unwrap_or_default();
        Ok(attached.iter().any(|volume| volume.claim_name == scratch_name(name)))
    }

    async fn orphans(&self, backups: &[VirtualMachineBackup], made: &Made) -> Result<Vec<(Thing, String)>> {
        let leaving = |backup: &&VirtualMachineBackup| {
            made.backups.iter().find(|thing| thing.leaving && backup.metadata.uid.as_ref() == Some(&thing.uid)).cloned()
        };
        let leaving: Vec<_> =
            backups.iter().filter_map(|backup| Some((leaving(&backup)?, &backup.spec.source))).collect();
        if leaving.is_empty() {
            return Ok(Vec::new());
        }
        let trackers = self.api::<VirtualMachineBackupTracker>().list_metadata(&ListParams::default()).await?.items;
        let gone = |source: &Source| {
            source.kind == TRACKER && !trackers.iter().any(|tracker| tracker.name_any() == source.name)
        };
        let orphans = leaving.into_iter().filter(|(_, source)| gone(source));
        Ok(orphans.map(|(thing, source)| (thing, source.name.clone())).collect())
    }

    pub(super) async fn classes(&self) -> Result<StorageClasses> {
        const DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
        let classes: Api<StorageClass> = Api::all(self.client.clone());
        let classes = classes.list_metadata(&ListParams::default()).await?.items;
        let default =
            classes.iter().find(|class| class.annotations().get(DEFAULT).is_some_and(|value| value == "true"));
        Ok(StorageClasses {
            default: default.map(ResourceExt::name_any),
            names: classes.iter().map(ResourceExt::name_any).collect(),
        })
    }
}

/// Whether an agent's pod runs, and not only from one crash to the next.
fn works(pod: &Pod) -> bool {
    let status = pod.status.clone().unwrap_or_default();
    let states = status.container_statuses.into_iter().flatten().filter_map(|one| one.state);
    let mut waiting = states.filter_map(|state| state.waiting?.reason);
    let crashes = waiting.any(|reason| reason == "CrashLoopBackOff");
    status.phase.as_deref() == Some("Running") && pod.metadata.deletion_timestamp.is_none() && !crashes
}

/// The node of a machine that runs, or of the pod that has its claims.
fn node(observed: &Observed) -> Option<String> {
    let instance = match &observed.machine {
        Machine::Found(found) => found.instance.as_ref(),
        _ => None,
    };
    match (instance, &observed.worker.pod) {
        (Some(instance), _) => instance.node.clone(),
        (None, WorkerFacts::Pod(_, PodState::Runs(node))) => Some(node.clone()),
        (None, _) => None,
    }
}

/// Whether a repository of `namespace` can be used for a run of `tenant`. One of another namespace must be the
/// administrators': a tenant cannot serve others, nor be asked for what it holds.
pub(super) fn repository_facts(
    repository: Option<&Repository>,
    administrators: &str,
    namespace: &str,
    tenant: &str,
) -> RepositoryFacts {
    let allowed = |repository: &Repository| {
        namespace == tenant || repository.spec.allowed_namespaces.iter().any(|allowed| allowed == tenant)
    };
    if namespace != tenant && namespace != administrators {
        return RepositoryFacts::NotAllowed;
    }
    let Some(repository) = repository else {
        // Who may not use it learns not even that it is not there.
        return if namespace == tenant { RepositoryFacts::Missing } else { RepositoryFacts::NotAllowed };
    };
    if !allowed(repository) {
        return RepositoryFacts::NotAllowed;
    }
    let status = repository.status.clone().unwrap_or_default();
    let ready = conditions::find(&status.conditions, "Ready");
    let id = status.repository_id.as_ref().and_then(|id| id.parse().ok());
    match (ready, id) {
        (Some(ready), Some(id)) if ready.status == "True" => RepositoryFacts::Ready(id),
        (Some(ready), _) => RepositoryFacts::NotReady(ready.message.clone()),
        (None, _) => RepositoryFacts::NotReady("it has not been opened yet.".into()),
    }
}

/// What has the names of a machine's scratch and token.
struct Beside {
    scratch: Option<ObjectMeta>,
    token: Option<ObjectMeta>,
}

fn made(backups: &[VirtualMachineBackup], beside: &Beside, uid: &str) -> Made {
    Made {
        backups: things(backups.iter().map(|backup| &backup.metadata), uid),
        scratches: things(beside.scratch.iter(), uid),
        tokens: things(beside.token.iter(), uid),
        attached: false,
        orphans: Vec::new(),
    }
}

fn names(
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

pub(super) fn things<'a>(metadata: impl Iterator<Item = &'a ObjectMeta>, uid: &str) -> Vec<Thing> {
    let ours = metadata.filter(|metadata| is_of_run(metadata, uid));
    ours.map(|metadata| Thing {
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        leaving: metadata.deletion_timestamp.is_some(),
    })
    .collect()
}

pub(super) fn taken(metadata: Option<&ObjectMeta>, uid: &str) -> Taken {
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
fn foreign(
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
fn is_somebody_else_s(backup: &VirtualMachineBackup) -> bool {
    let mut owners = backup.metadata.owner_references.iter().flatten();
    in_flight(backup).is_some() && !owners.any(|owner| is_of_run(&backup.metadata, &owner.uid))
}

#[cfg(test)]
mod tests;
