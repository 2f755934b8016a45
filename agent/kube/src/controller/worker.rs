//! A run's worker: an unprivileged pod of the run's namespace that has the claims and no key. It is what a claim waits for
//! that is bound to a node only when it is used, and the agent of the node on which it runs does the run.

mod objects;
mod plan;

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

pub(super) use objects::{Mounted, Mounts, Overlay, Placement, Task, worker_name};
pub(super) use plan::{Trouble, WorkerStep, no_agent, refused, take};

use self::objects::{AGENT_CERTIFICATE, AGENT_KEY, CA, PORT};
use super::Settings;
use super::observe::{Reader, taken};
use super::observed::{Taken, Thing};
use crate::keys::WorkerAccess;
use crate::kubevirt::is_of_run;
use crate::resources::Run;

type Result<T> = std::result::Result<T, kube::Error>;

/// What there is of a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Worker {
    pub(super) pod: WorkerFacts,
    /// What the name of its Secret stands for.
    pub(super) secret: Taken,
}

/// An image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) name: String,
    pub(super) pull_policy: Option<String>,
}

/// A worker's pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum WorkerFacts {
    #[default]
    None,
    /// Somebody else's pod has its name.
    Foreign,
    Pod(Thing, PodState),
}

/// What a pod is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PodState {
    /// Not there yet: why.
    Waiting(String),
    /// On that node, with an address.
    Runs(String),
    /// It has ended: why.
    Ended(String),
}

/// Looks at it.
pub(super) async fn observe(reader: &Reader<'_>, run: &impl Run) -> Result<Worker> {
    let (name, uid) = (worker_name(run), run.meta().uid.clone().unwrap_or_default());
    let pod = reader.api::<Pod>().get_opt(&name).await?;
    let secret = reader.api::<Secret>().get_metadata_opt(&name).await?;
    Ok(Worker {
        pod: pod.as_ref().map_or(WorkerFacts::None, |pod| worker_facts(pod, &uid)),
        secret: taken(secret.as_ref().map(|secret| &secret.metadata), &uid),
    })
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
pub(super) async fn image(client: &Client, settings: &Settings) -> Result<Option<Image>> {
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
pub(super) async fn access(client: &Client, run: &impl Run) -> Result<std::result::Result<WorkerAccess, String>> {
    let (namespace, name) = (run.meta().namespace.clone().unwrap_or_default(), worker_name(run));
    let uid = run.meta().uid.clone().unwrap_or_default();
    let pod = Api::<Pod>::namespaced(client.clone(), &namespace).get_opt(&name).await?;
    let secret = Api::<Secret>::namespaced(client.clone(), &namespace).get_opt(&name).await?;
    let pod = pod.filter(|pod| is_of_run(&pod.metadata, &uid) && matches!(state(pod), PodState::Runs(_)));
    let claims = pod.as_ref().map(mounted_claims).unwrap_or_default();
    let ip = pod.and_then(|pod| pod.status?.pod_ip?.parse::<IpAddr>().ok());
    let files = secret.filter(|secret| is_of_run(&secret.metadata, &uid)).and_then(|secret| secret.data);
    let file = |name: &str| files.as_ref().and_then(|files| String::from_utf8(files.get(name)?.0.clone()).ok());
    let access = ip.and_then(|ip| {
        Some(WorkerAccess {
            address: SocketAddr::new(ip, PORT),
            ca: file(CA)?,
            certificate: file(AGENT_CERTIFICATE)?,
            key: file(AGENT_KEY)?,
            claims,
        })
    });
    Ok(access.ok_or_else(|| format!("The worker {name} does not run, or its certificates are gone.")))
}

/// The claims of a worker, in the order in which it was told of them.
fn mounted_claims(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let disks = volumes.iter().filter(|volume| volume.name.starts_with("disk-"));
    let claims = disks.filter_map(|volume| volume.persistent_volume_claim.as_ref());
    claims.map(|source| source.claim_name.clone()).collect()
}
