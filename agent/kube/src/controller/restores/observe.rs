//! Reads what the controller has to know of a restore.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client, ResourceExt};
use remora_core::ports::Mover;
use remora_core::{Error, ErrorKind, PointId};
use remora_vault::VaultOptions;
use serde_json::Value;

use super::objects::{AGENT_CERTIFICATE, AGENT_KEY, CA, PORT, worker_name};
use super::observed::{ClaimFacts, Image, MachineFacts, Observed, PodState, PointFacts, WorkerFacts};
use super::{machine, users};
use crate::conditions::holds;
use crate::controller::observe::{Reader, taken};
use crate::controller::observed::{RepositoryFacts, StorageClasses, Taken, Thing};
use crate::controller::opened::{IfEmpty, Opened};
use crate::controller::tenancy::{self, Trouble};
use crate::controller::{Settings, is_unknown};
use crate::keys::WorkerAccess;
use crate::kubevirt::{RUN_LABEL, bytes, is_of_run};
use crate::resources::{Repository, RestoreRun, Run};
use crate::targets::{is_target, targets};

type Result<T> = std::result::Result<T, kube::Error>;

/// How long reading a point may take: all that is looked at has a minute.
const PATIENCE: Duration = Duration::from_secs(45);

/// Reads all of it; of a run that an agent has only what changes.
pub(super) async fn observe(
    client: &Client,
    settings: &Settings,
    opened: &Opened,
    run: RestoreRun,
    silent: Duration,
) -> Result<Observed> {
    let reader = Reader { client, settings, namespace: run.namespace().unwrap_or_default() };
    let uid = run.uid().unwrap_or_default();
    let mut observed = Observed {
        silent,
        agents: Vec::new(),
        repository: RepositoryFacts::Missing,
        point: PointFacts::Unread,
        claims: BTreeMap::new(),
        worker: WorkerFacts::None,
        secret: Taken::Free,
        machine: MachineFacts::default(),
        classes: StorageClasses::default(),
        image: None,
        run,
    };
    let name = worker_name(&observed.run);
    let pod = reader.api::<Pod>().get_opt(&name).await?;
    observed.worker = pod.as_ref().map_or(WorkerFacts::None, |pod| worker_facts(pod, &uid));
    let secret = reader.api::<Secret>().get_metadata_opt(&name).await?;
    observed.secret = taken(secret.as_ref().map(|secret| &secret.metadata), &uid);
    let written = holds(observed.run.conditions(), "Written");
    let preparing = observed.run.node().is_none() && !observed.run.is_over() && !observed.run.is_cancelled();
    let makes = written && !observed.run.has_ended() && observed.run.spec.virtual_machine.is_some();
    if preparing || makes {
        observed.repository = reader.repository(observed.run.repository()).await?;
        observed.point = point(&reader, opened, &observed).await?;
        observed.machine = machine_facts(&reader, &observed, &uid).await?;
    }
    observed.claims = claims(&reader, &observed, &uid).await?;
    if preparing {
        observed.classes = reader.classes().await?;
        observed.image = image(client, settings).await?;
    }
    let node = match &observed.worker {
        WorkerFacts::Pod(_, PodState::Runs(node)) => Some(node.clone()),
        _ => None,
    };
    if let Some(node) = observed.run.node().map(ToOwned::to_owned).or(node) {
        observed.agents = reader.agents(&node).await?;
    }
    Ok(observed)
}

/// The point, as the run's own namespace can read it.
async fn point(reader: &Reader<'_>, opened: &Opened, observed: &Observed) -> Result<PointFacts> {
    if !matches!(observed.repository, RepositoryFacts::Ready(_)) {
        return Ok(PointFacts::Unread);
    }
    let text = &observed.run.spec.point;
    let Ok(id) = text.parse::<PointId>() else {
        let message = format!(
            "{text:?} is no id of a point: that is 16 hexadecimal digits, a dash and a number, as the status of a BackupRun \
             tells it. Create another RestoreRun."
        );
        return Ok(PointFacts::Unusable("NoSuchPoint", message));
    };
    let reference = observed.run.repository();
    let namespace = reference.namespace.as_deref().unwrap_or(&reader.namespace);
    let repositories: Api<Repository> = Api::namespaced(reader.client.clone(), namespace);
    let repository = repositories.get(&reference.name).await?;
    let material = match tenancy::material(reader.client, &reader.settings.namespace, &repository).await {
        Ok(material) => material,
        Err(Trouble::Says(says)) => return Ok(PointFacts::Later(says.message)),
        Err(Trouble::Api(error)) => return Err(error),
    };
    let reading = async {
        let open = opened.get((namespace.to_owned(), reference.name.clone()), &material, IfEmpty::Fail).await?;
        let vault = open.keyring.vault(&reader.namespace.parse()?, VaultOptions::default()).await?;
        Ok::<_, Error>(vault.open(&id).await?.point().clone())
    };
    let late = Error::new(ErrorKind::Unavailable, format!("the store did not answer within {} s", PATIENCE.as_secs()));
    Ok(match tokio::time::timeout(PATIENCE, reading).await.unwrap_or(Err(late)) {
        Ok(point) if point.vm.as_str().split_once('/').is_some_and(|(of, _)| of == reader.namespace) => {
            PointFacts::Found(Box::new(point))
        }
        Ok(_) => no_such_point(&id, &reader.namespace),
        Err(error) => match error.kind() {
            ErrorKind::NotFound => no_such_point(&id, &reader.namespace),
            ErrorKind::Damaged | ErrorKind::Unsupported | ErrorKind::Invalid => {
                PointFacts::Unusable("PointNotReadable", format!("{}.", error.chain().trim_end_matches('.')))
            }
            _ => PointFacts::Later(error.chain()),
        },
    })
}

fn no_such_point(id: &PointId, namespace: &str) -> PointFacts {
    let message = format!(
        "The repository has no point {id} of a machine of namespace {namespace}. The status of a BackupRun tells its \
         point's id. Create another RestoreRun."
    );
    PointFacts::Unusable("NoSuchPoint", message)
}

/// The claims that the run names or has had made, and who uses them.
async fn claims(reader: &Reader<'_>, observed: &Observed, uid: &str) -> Result<BTreeMap<String, ClaimFacts>> {
    let run = &observed.run;
    let mut names: BTreeSet<String> = run.spec.disks.iter().map(|to| to.claim.clone()).collect();
    if let PointFacts::Found(point) = &observed.point {
        names.extend(targets(&run.spec, point).into_iter().flatten().map(|target| target.claim));
    }
    let api: Api<PersistentVolumeClaim> = reader.api();
    let made = ListParams::default().labels(&format!("{RUN_LABEL}={uid}"));
    let made = api.list_metadata(&made).await?.items;
    names.extend(made.iter().map(ResourceExt::name_any).filter(|name| is_target(run, name)));
    // What is left of a run that has ended goes, whoever uses it.
    let others = if run.has_ended() { Others::default() } else { Others::read(reader).await? };
    let mut all = BTreeMap::new();
    for name in names {
        let claim = api.get_opt(&name).await?;
        let mut facts = claim.as_ref().map(|claim| claim_facts(claim, uid)).unwrap_or_default();
        if claim.is_some() {
            facts.users = users::users(&name, uid, &others.pods, &others.instances, &others.machines);
        }
        all.insert(name, facts);
    }
    Ok(all)
}

fn claim_facts(claim: &PersistentVolumeClaim, uid: &str) -> ClaimFacts {
    let size = |quantities: Option<&BTreeMap<String, _>>| quantities.and_then(|all| bytes(all.get("storage")?));
    let spec = claim.spec.as_ref();
    let asks = spec.and_then(|spec| size(spec.resources.as_ref()?.requests.as_ref()));
    let has = claim.status.as_ref().and_then(|status| size(status.capacity.as_ref()));
    let labelled = claim.labels().get(RUN_LABEL).is_some_and(|of| of == uid);
    let leaving = claim.metadata.deletion_timestamp.is_some();
    ClaimFacts {
        // It has no owner, for it stays; its name is one of the run's.
        taken: if labelled { Taken::Ours { leaving } } else { Taken::Foreign },
        uid: claim.uid().unwrap_or_default(),
        capacity: has.or(asks),
        block: spec.and_then(|spec| spec.volume_mode.as_deref()) == Some("Block"),
        users: Vec::new(),
    }
}

/// What might use claims of a namespace.
#[derive(Default)]
struct Others {
    pods: Vec<Pod>,
    instances: Vec<Value>,
    machines: Vec<Value>,
}

impl Others {
    async fn read(reader: &Reader<'_>) -> Result<Self> {
        let pods = reader.api::<Pod>().list(&ListParams::default()).await?.items;
        let instances = of_kubevirt(reader, "VirtualMachineInstance").await?;
        Ok(Self { pods, instances, machines: of_kubevirt(reader, "VirtualMachine").await? })
    }
}

fn kubevirt(reader: &Reader<'_>, kind: &str) -> Api<DynamicObject> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("kubevirt.io", "v1", kind));
    Api::namespaced_with(reader.client.clone(), &reader.namespace, &kind)
}

async fn of_kubevirt(reader: &Reader<'_>, kind: &str) -> Result<Vec<Value>> {
    match kubevirt(reader, kind).list(&ListParams::default()).await {
        Ok(list) => Ok(list.items.into_iter().filter_map(|one| serde_json::to_value(one).ok()).collect()),
        Err(error) if is_unknown(&error) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

async fn machine_facts(reader: &Reader<'_>, observed: &Observed, uid: &str) -> Result<MachineFacts> {
    let Some(wanted) = &observed.run.spec.virtual_machine else { return Ok(MachineFacts::default()) };
    let api = kubevirt(reader, "VirtualMachine");
    let there = match api.get_opt(&wanted.name).await {
        Err(error) if is_unknown(&error) => None,
        there => there?,
    };
    let ours = |machine: &DynamicObject| machine.labels().get(RUN_LABEL).is_some_and(|of| of == uid);
    let taken = there
        .as_ref()
        .map_or(Taken::Free, |machine| if ours(machine) { Taken::Ours { leaving: false } } else { Taken::Foreign });
    let original = match &observed.point {
        PointFacts::Found(point) => machine::original(&point.definition),
        _ => None,
    };
    let original = match original {
        Some(original) if original != wanted.name => api.get_opt(&original).await?.is_some(),
        _ => false,
    };
    Ok(MachineFacts { taken, original })
}

fn worker_facts(pod: &Pod, uid: &str) -> WorkerFacts {
    if !is_of_run(&pod.metadata, uid) {
        return WorkerFacts::Foreign;
    }
    let leaving = pod.metadata.deletion_timestamp.is_some();
    let thing = Thing { name: pod.name_any(), uid: pod.uid().unwrap_or_default(), leaving };
    WorkerFacts::Pod(thing, state(pod))
}

fn state(pod: &Pod) -> PodState {
    let status = pod.status.clone().unwrap_or_default();
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let container = status.container_statuses.as_ref().and_then(|all| all.first()?.state.clone()).unwrap_or_default();
    match (status.phase.as_deref(), node) {
        (Some("Succeeded" | "Failed"), _) => {
            let terminated = container.terminated.unwrap_or_default();
            let why = [status.reason, status.message, terminated.reason, terminated.message].into_iter().flatten();
            let why = why.filter(|words| !words.is_empty()).collect::<Vec<_>>().join(": ");
            PodState::Ended(if why.is_empty() { format!("exit code {}", terminated.exit_code) } else { why })
        }
        (Some("Running"), Some(node)) if container.running.is_some() && status.pod_ip.is_some() => PodState::Runs(node),
        _ => {
            let waiting = container.waiting.and_then(|waiting| waiting.message.or(waiting.reason));
            let unscheduled = status.conditions.into_iter().flatten().find(|one| one.status == "False");
            let why = waiting.or_else(|| unscheduled.and_then(|one| one.message));
            PodState::Waiting(why.unwrap_or_else(|| "it is being started".into()))
        }
    }
}

/// The image of this controller's own pod, or the one that it was told.
async fn image(client: &Client, settings: &Settings) -> Result<Option<Image>> {
    if let Some(name) = &settings.image {
        return Ok(Some(Image { name: name.clone(), pull_policy: None }));
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), &settings.namespace);
    let own = ListParams::default().fields(&format!("metadata.name={}", settings.instance));
    let own = pods.list(&own).await?.items.into_iter().next().and_then(|pod| pod.spec);
    let container = own.and_then(|spec| spec.containers.into_iter().find(|one| one.name == "controller"));
    Ok(container.and_then(|one| Some(Image { name: one.image?, pull_policy: one.image_pull_policy })))
}

/// How the worker of a run is reached; or why it cannot be.
pub(in crate::controller) async fn worker(
    client: &Client,
    run: &RestoreRun,
) -> Result<std::result::Result<WorkerAccess, String>> {
    let (namespace, name) = (run.namespace().unwrap_or_default(), worker_name(run));
    let uid = run.uid().unwrap_or_default();
    let pod = Api::<Pod>::namespaced(client.clone(), &namespace).get_opt(&name).await?;
    let secret = Api::<Secret>::namespaced(client.clone(), &namespace).get_opt(&name).await?;
    let pod = pod.filter(|pod| is_of_run(&pod.metadata, &uid) && matches!(state(pod), PodState::Runs(_)));
    let ip = pod.and_then(|pod| pod.status?.pod_ip?.parse::<IpAddr>().ok());
    let files = secret.filter(|secret| is_of_run(&secret.metadata, &uid)).and_then(|secret| secret.data);
    let file = |name: &str| files.as_ref().and_then(|files| String::from_utf8(files.get(name)?.0.clone()).ok());
    let access = ip.and_then(|ip| {
        Some(WorkerAccess {
            address: SocketAddr::new(ip, PORT),
            ca: file(CA)?,
            certificate: file(AGENT_CERTIFICATE)?,
            key: file(AGENT_KEY)?,
        })
    });
    Ok(access.ok_or_else(|| format!("The worker {name} does not run, or its certificates are gone.")))
}
