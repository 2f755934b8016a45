//! What the API server knows of the fleet: agents' pods, machines, what runs of them, their claims and launchers.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use http::{Method, Request};
use kube::core::ObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use remora_core::RepositoryId;
use remora_kube::resources::{BackupRun, Run};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{Args, Result, tell};

/// Requests at once.
const AT_ONCE: usize = 24;

/// How long an API server may be away that is asked again.
const PATIENCE: Duration = Duration::from_mins(10);

/// How long it is waited before it is.
const AGAIN: Duration = Duration::from_secs(1);

/// The namespace of remora.
pub(crate) const REMORA: &str = "remora";

/// The fleet's objects.
pub(crate) struct Cluster {
    client: Client,
    repository: String,
    pub(crate) id: RepositoryId,
    machines: Vec<Machine>,
}

/// A machine, and where it runs.
#[derive(Clone)]
struct Machine {
    namespace: String,
    name: String,
    node: String,
}

/// The name of a node.
pub(crate) fn node(number: usize) -> String {
    format!("node-{number}")
}

impl Cluster {
    /// Makes all of it.
    pub(crate) async fn make(client: Client, args: &Args) -> Result<Self> {
        let path = format!("/apis/remora.dev/v1alpha1/namespaces/{REMORA}/repositories/{}", args.repository);
        let repository = request(&client, Method::GET, &path, &Value::Null).await?;
        let id = repository["status"]["repositoryId"].as_str().ok_or("the Repository is not ready")?.parse()?;
        let machines = (0..args.machines).map(|number| Machine {
            namespace: format!("fleet-{}", number / args.nodes % args.namespaces),
            name: format!("vm-{number}"),
            node: node(number % args.nodes),
        });
        let cluster = Self { client, repository: args.repository.clone(), id, machines: machines.collect() };
        let namespaces: BTreeSet<_> = cluster.machines.iter().map(|machine| machine.namespace.clone()).collect();
        let allowed = json!({"spec": {"allowedNamespaces": namespaces}});
        request(&cluster.client, Method::PATCH, &path, &allowed).await?;
        cluster.each(namespaces.iter(), |name| cluster.namespace(name)).await?;
        cluster.each(cluster.machines.iter(), |machine| cluster.machine(machine)).await?;
        Ok(cluster)
    }

    async fn each<T, F: Future<Output = Result<()>>>(
        &self,
        all: impl Iterator<Item = T>,
        one: impl Fn(T) -> F,
    ) -> Result<()> {
        stream::iter(all).map(one).buffer_unordered(AT_ONCE).try_collect().await
    }

    async fn create(&self, list: &str, object: &Value) -> Result<Value> {
        request(&self.client, Method::POST, list, object).await
    }

    async fn merge(&self, path: &str, fields: &Value) -> Result<Value> {
        request(&self.client, Method::PATCH, path, fields).await
    }

    async fn namespace(&self, name: &str) -> Result<()> {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        self.create("/api/v1/namespaces", &object).await.map(drop)
    }

    async fn machine(&self, machine: &Machine) -> Result<()> {
        let Machine { namespace, name, node } = machine;
        let (core, kubevirt) = (format!("/api/v1/namespaces/{namespace}"), kubevirt(namespace));
        let claim = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        });
        self.create(&format!("{core}/persistentvolumeclaims"), &claim).await?;
        let bound = json!({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}});
        self.merge(&format!("{core}/persistentvolumeclaims/{name}/status"), &bound).await?;
        let spec = json!({
            "domain": {"devices": {"disks": [{"name": "root"}]}},
            "volumes": [{"name": "root", "persistentVolumeClaim": {"claimName": name}}],
        });
        let object = json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": name},
            "spec": {"template": {"spec": spec}}, "status": {"printableStatus": "Running"},
        });
        let object = self.create(&format!("{kubevirt}/virtualmachines"), &object).await?;
        let owner = owner("VirtualMachine", &object);
        let instance = json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": name, "ownerReferences": [owner]}, "spec": spec,
        });
        let instance = self.create(&format!("{kubevirt}/virtualmachineinstances"), &instance).await?;
        let labels = json!({"kubevirt.io": "virt-launcher", "kubevirt.io/created-by": instance["metadata"]["uid"]});
        let launcher = pod(&format!("virt-launcher-{name}"), node, &labels, Some(owner_of_pod(&instance)));
        let launcher = self.running(namespace, &launcher).await?;
        let uid = launcher["metadata"]["uid"].as_str().unwrap_or_default();
        let status = json!({"status": {
            "phase": "Running", "nodeName": node, "runtimeUser": 107, "activePods": {uid: node},
            "changedBlockTracking": {"state": "Enabled"},
        }});
        self.merge(&format!("{kubevirt}/virtualmachineinstances/{name}"), &status).await.map(drop)
    }

    async fn running(&self, namespace: &str, pod: &Value) -> Result<Value> {
        let list = format!("/api/v1/namespaces/{namespace}/pods");
        let made = self.create(&list, pod).await?;
        let path = format!("{list}/{}/status", made["metadata"]["name"].as_str().unwrap_or_default());
        self.merge(&path, &json!({"status": {"phase": "Running"}})).await?;
        Ok(made)
    }

    /// The pod of the agent of a node: its name, its UID, and two files with tokens: for the API server and for the keys.
    pub(crate) async fn agent(&self, node: &str, args: &Args) -> Result<(String, String, [PathBuf; 2])> {
        let name = format!("agent-{node}");
        let labels = json!({"app.kubernetes.io/name": "remora-agent"});
        let mut pod = pod(&name, node, &labels, None);
        pod["spec"]["serviceAccountName"] = json!("remora-agent");
        let pod = self.running(REMORA, &pod).await?;
        let path = format!("/api/v1/namespaces/{REMORA}/serviceaccounts/remora-agent/token");
        let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": pod["metadata"]["uid"]});
        let mut files = Vec::new();
        for (of, audiences) in [("api", json!([])), ("keys", json!(["remora-controller"]))] {
            let spec = json!({"audiences": audiences, "boundObjectRef": bound, "expirationSeconds": 86400});
            let asked = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
            let given = self.create(&path, &asked).await?;
            let file = args.folder.join(format!("{node}-{of}"));
            tokio::fs::write(&file, given["status"]["token"].as_str().ok_or("there is no token")?).await?;
            files.push(file);
        }
        let files = files.try_into().map_err(|_| "there are two tokens")?;
        Ok((name, pod["metadata"]["uid"].as_str().unwrap_or_default().into(), files))
    }

    /// Makes a run for each of so many machines.
    pub(crate) async fn run(&self, first: usize, count: usize) -> Result<()> {
        let machines = self.machines.iter().cycle().skip(first).take(count).enumerate();
        self.each(machines, |(number, machine)| async move {
            let name = format!("{}-{}", machine.name, first + number);
            let repository = json!({"name": self.repository, "namespace": REMORA});
            let run = json!({
                "apiVersion": "remora.dev/v1alpha1", "kind": "BackupRun", "metadata": {"name": name},
                "spec": {"virtualMachine": machine.name, "repository": repository},
            });
            let list = format!("/apis/remora.dev/v1alpha1/namespaces/{}/backupruns", machine.namespace);
            self.create(&list, &run).await.map(drop)
        })
        .await
    }
}

fn kubevirt(namespace: &str) -> String {
    format!("/apis/kubevirt.io/v1/namespaces/{namespace}")
}

fn owner(kind: &str, of: &Value) -> Value {
    let metadata = &of["metadata"];
    json!({
        "apiVersion": "kubevirt.io/v1", "kind": kind, "name": metadata["name"], "uid": metadata["uid"],
        "controller": true,
    })
}

fn owner_of_pod(instance: &Value) -> Value {
    owner("VirtualMachineInstance", instance)
}

fn pod(name: &str, node: &str, labels: &Value, owner: Option<Value>) -> Value {
    let owners: Vec<_> = owner.into_iter().collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": labels, "ownerReferences": owners},
        "spec": {"nodeName": node, "containers": [{"name": "one", "image": "none.example.org/none"}]},
    })
}

/// One request; asked again while the API server is away, or says that it cannot do it now. If the answer to one that makes an
/// object was lost, the next try fails: the object is there.
pub(crate) async fn request(client: &Client, method: Method, path: &str, body: &Value) -> Result<Value> {
    let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let begun = Instant::now();
    loop {
        let request = Request::builder().method(&method).uri(path).header("Content-Type", kind).body(body.clone())?;
        match client.request(request).await {
            Ok(answer) => return Ok(answer),
            Err(error) if is_final(&error) || begun.elapsed() > PATIENCE => {
                return Err(format!("{method} {path}: {error}").into());
            }
            Err(_) => sleep(AGAIN).await,
        }
    }
}

/// Whether asking again would change nothing.
fn is_final(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429)
}

/// Tells of each run that ends, once.
pub(crate) async fn ends(client: Client) {
    let mut known = BTreeSet::new();
    let runs = watcher(Api::<BackupRun>::all(client), watcher::Config::default()).default_backoff().touched_objects();
    let mut runs = std::pin::pin!(runs);
    while let Some(run) = runs.next().await {
        let Ok(run) = run else { continue };
        let conditions = run.conditions();
        let holds = |kind: &str| conditions.iter().find(|one| one.type_ == kind && one.status == "True");
        let Some(end) = holds("Complete").or_else(|| holds("Failed")) else { continue };
        if known.insert(run.uid()) {
            tell(&json!({"ended": full_name(&run.metadata), "reason": end.reason, "message": end.message}));
        }
    }
}

pub(crate) fn full_name(of: &ObjectMeta) -> String {
    format!("{}/{}", of.namespace.as_deref().unwrap_or_default(), of.name.as_deref().unwrap_or_default())
}
