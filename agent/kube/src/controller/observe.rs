//! Reads what the controller has to know of a run. `machine.rs` reads its machine, `owners.rs` says whose the things are that
//! were found.

mod machine;
mod owners;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use self::owners::{Beside, foreign, is_somebody_else_s, made, names};
use super::Settings;
use super::observed::{Agent, Machine, Made, Names, Observed, Orphan, OtherRun, RepositoryFacts, StorageClasses};
use super::plan;
use super::worker::{self, PodState, Worker, WorkerFacts};
use crate::api_server::is_unknown;
use crate::conditions;
use crate::kubevirt::{
    PROTECTION, Source, TRACKER, VirtualMachineBackup, VirtualMachineBackupTracker, VirtualMachineInstance,
    scratch_name, token_name,
};
use crate::resources::{BackupRun, Repository, RepositoryReference, Run};

pub(super) use self::owners::taken;

type Result<T> = std::result::Result<T, kube::Error>;

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
    if !observed.run.has_ended() {
        observe_unfinished(&reader, &mut observed, backups, &beside).await?;
    }
    Ok(observed)
}

/// Reads what a run waits for, or works on.
async fn observe_unfinished(
    reader: &Reader<'_>,
    observed: &mut Observed,
    backups: Option<Vec<VirtualMachineBackup>>,
    beside: &Beside,
) -> Result<()> {
    observed.repository = reader.repository(observed.run.repository()).await?;
    observed.machine = match &backups {
        None => reader.without_backups().await?,
        Some(_) => reader.machine(&observed.run).await?,
    };
    // Of a run that is claimed those where it was claimed, wherever the machine is now.
    let holder = observed.run.status.as_ref().filter(|status| status.agent.is_some()).and_then(|one| one.node.clone());
    if let Some(node) = holder.or_else(|| node(observed)) {
        observed.agents = reader.agents(&node).await?;
    }
    observed.others = reader.others(&observed.run).await?;
    let (attempt, backups) = (plan::wanted_attempt(&observed.run).cloned(), backups.unwrap_or_default());
    // No agent is kept busy by a run that has to wait for somebody else's backup.
    let may_wait = !plan::is_claimed(&observed.run) && backups.iter().any(is_somebody_else_s);
    if attempt.is_none() && !may_wait {
        return Ok(());
    }
    let trackers: Api<VirtualMachineBackupTracker> = reader.api();
    let trackers = match trackers.list(&ListParams::default()).await {
        Err(error) if is_unknown(&error) => Vec::new(),
        trackers => trackers?.items,
    };
    let uid = observed.run.uid().unwrap_or_default();
    observed.foreign = foreign(&observed.run, &uid, &backups, &trackers);
    if let Some(attempt) = attempt {
        observed.names = names(observed, &attempt.backup, &backups, beside, &trackers);
        observed.classes = reader.classes().await?;
    }
    Ok(())
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

    pub(super) async fn repository(&self, reference: &RepositoryReference) -> Result<RepositoryFacts> {
        let namespace = reference.namespace_or(&self.namespace);
        let repositories: Api<Repository> = Api::namespaced(self.client.clone(), namespace);
        let repository = repositories.get_opt(&reference.name).await?;
        Ok(repository_facts(repository.as_ref(), &self.settings.namespace, namespace, &self.namespace))
    }

    /// The agents of a node.
    pub(super) async fn agents(&self, node: &str) -> Result<Vec<Agent>> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.settings.namespace);
        let params = ListParams::default()
            .labels("app.kubernetes.io/name=remora-agent")
            .fields(&format!("spec.nodeName={node}"));
        Ok(pods.list(&params).await?.items.iter().filter_map(agent).collect())
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

    async fn orphans(&self, backups: &[VirtualMachineBackup], made: &Made) -> Result<Vec<Orphan>> {
        let leaving = |backup: &&VirtualMachineBackup| {
            made.backups.iter().find(|thing| thing.leaving && backup.metadata.uid.as_ref() == Some(&thing.uid)).cloned()
        };
        let leaving: Vec<_> = backups.iter().filter_map(|backup| Some((leaving(&backup)?, backup))).collect();
        if leaving.is_empty() {
            return Ok(Vec::new());
        }
        let trackers = self.api::<VirtualMachineBackupTracker>().list_metadata(&ListParams::default()).await?.items;
        let gone = |source: &Source| {
            source.kind == TRACKER && !trackers.iter().any(|tracker| tracker.name_any() == source.name)
        };
        let orphans = leaving.into_iter().filter(|(_, backup)| gone(&backup.spec.source));
        Ok(orphans
            .map(|(thing, backup)| Orphan {
                backup: thing,
                tracker: backup.spec.source.name.clone(),
                others: backup.finalizers().iter().filter(|one| *one != PROTECTION).cloned().collect(),
            })
            .collect())
    }

    pub(super) async fn classes(&self) -> Result<StorageClasses> {
        let classes: Api<StorageClass> = Api::all(self.client.clone());
        let classes = classes.list_metadata(&ListParams::default()).await?.items;
        let default = classes.iter().find(|class| is_default(class.annotations()));
        Ok(StorageClasses {
            default: default.map(ResourceExt::name_any),
            names: classes.iter().map(ResourceExt::name_any).collect(),
        })
    }
}

/// Whether a class with these annotations is the cluster's default. The second is as old as classes, and counts still.
fn is_default(annotations: &BTreeMap<String, String>) -> bool {
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"]
        .iter()
        .any(|name| annotations.get(*name).is_some_and(|value| value == "true"))
}

/// The agent of a pod, if it lives: it is ready, or has just been started. One that crashes over and over does not, nor one whose
/// node is lost, though both pods are called running for ever. Of one that nobody has looked at yet nothing is said.
fn agent(pod: &Pod) -> Option<Agent> {
    let status = pod.status.as_ref()?;
    if status.phase.as_deref() != Some("Running") || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let ready = status.conditions.iter().flatten().find(|one| one.type_ == "Ready");
    let is_ready = ready.is_none_or(|ready| ready.status == "True");
    // Where a node is lost, its pods are said not to be ready, and their containers stay as they were told of last.
    let begins = |one: &ContainerStatus| {
        !one.ready && one.restart_count == 0 && one.state.as_ref().is_some_and(|state| state.running.is_some())
    };
    let lives = is_ready || status.container_statuses.iter().flatten().any(begins);
    pod.metadata.uid.clone().filter(|_| lives).map(|uid| Agent { uid, is_ready })
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
