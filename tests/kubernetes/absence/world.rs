//! A node with its agent and two machines, beside an API server that has remora. The test plays KubeVirt and the kubelet.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use remora_core::ByteRange;
use remora_core::ports::{DiskIndex, Mover};
use remora_core::testing::FakeHost;
use remora_kube::node::{KeyService, Me};
use remora_tests::{ApiServer, Deployed, Relay, condition, wait_until};
use remora_vault::{Keyring, Location, Passphrase, Secret, VaultOptions};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::agent::{self, Engine, Restorer};
use super::machine::Gate;

/// How long anything may take on a busy machine.
pub(super) const SOON: Duration = Duration::from_mins(10);

/// The machines' namespace.
const NAMESPACE: &str = "shop";

/// The node.
const NODE: &str = "node-0";

/// A machine that is backed up by hand, and one by policy. Their labels say so.
const MACHINES: [(&str, &str); 2] = [("web", "by-hand"), ("other", "nightly")];

/// The bytes of each one's disk.
const SIZE: u64 = 8 << 20;

pub(super) struct World {
    pub(super) deployed: Deployed,
    /// Between the programs and the API server.
    way: Relay,
    runtime: Runtime,
    pub(super) engine: Engine,
    /// Where restores wait in their middle.
    pub(super) restores: Gate,
    /// The UID of the agent's pod.
    pub(super) agent: String,
    /// Of the agent: tokens and certificates.
    _folder: TempDir,
}

impl World {
    pub(super) fn start() -> Self {
        let api = ApiServer::start();
        let way = Relay::before(api.address());
        let url = format!("https://{}:{}", Ipv4Addr::LOCALHOST, way.address().port());
        let deployed = Deployed::start(api, &url);
        let api = &deployed.api;
        api.make_namespace(NAMESPACE);
        let repository = format!("/apis/remora.dev/v1alpha1/namespaces/remora/repositories/{}", Deployed::REPOSITORY);
        api.merge(&repository, &json!({"spec": {"allowedNamespaces": [NAMESPACE]}})).ok();
        for (name, label) in MACHINES {
            make_machine(api, name, label);
        }
        let mut pod = pod("agent", &json!({"app.kubernetes.io/name": "remora-agent"}), &json!([]));
        pod["spec"]["serviceAccountName"] = json!("remora-agent");
        let pod = running(api, "remora", &pod);
        let uid = pod["metadata"]["uid"].as_str().unwrap().to_owned();
        let folder = TempDir::new().unwrap();
        let (ca, token) = (folder.path().join("ca.crt"), folder.path().join("token"));
        let published = api.get("/api/v1/namespaces/remora/configmaps/remora-controller-ca");
        std::fs::write(&ca, published["data"]["ca.crt"].as_str().unwrap()).unwrap();
        std::fs::write(&token, api.token("remora", "remora-agent", Some("remora-controller"), Some(&pod))).unwrap();
        let keys = KeyService { url: deployed.controller.keys_url().parse().unwrap(), ca, token };
        let hosts = MACHINES.map(|(name, _)| (name.to_owned(), host(name))).into();
        let engine = Engine { keys, hosts, gate: Gate::default(), begun: Arc::new(Mutex::default()) };
        let restores = Gate::default();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let me =
            Me { node: NODE.into(), token: None, namespace: "remora".into(), pod: "agent".into(), uid: uid.clone() };
        let own = api.token("remora", "remora-agent", None, Some(&pod));
        let client = agent::client(&runtime, api, &url, own);
        agent::start(&runtime, client, me, engine.clone(), Restorer(restores.clone()));
        Self { deployed, way, runtime, engine, restores, agent: uid, _folder: folder }
    }

    pub(super) fn api(&self) -> &ApiServer {
        &self.deployed.api
    }

    /// No program reaches the API server from now on.
    pub(super) fn api_server_goes(&self) {
        self.way.go();
    }

    /// It is started anew, and has to learn its own rules while the programs ask it already.
    pub(super) fn api_server_comes_back(&self) {
        self.api().stop();
        self.way.come_back();
        self.api().start_again();
    }

    /// The disk of a machine.
    pub(super) fn host(&self, machine: &str) -> &FakeHost {
        &self.engine.hosts[machine]
    }

    /// Asks for a backup of a machine.
    pub(super) fn backup(&self, name: &str, machine: &str) {
        let repository = json!({"name": Deployed::REPOSITORY, "namespace": "remora"});
        let spec = json!({"virtualMachine": machine, "repository": repository});
        self.create("BackupRun", "backupruns", name, &spec);
    }

    fn create(&self, kind: &str, plural: &str, name: &str, spec: &Value) {
        let metadata = json!({"name": name});
        let run = json!({"apiVersion": "remora.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec});
        self.api().create(&runs(plural), &run).ok();
    }

    pub(super) fn status(&self, run: &str) -> Value {
        self.api().get(&format!("{}/{run}", runs("backupruns")))["status"].clone()
    }

    /// Waits until a run of a kind has ended well.
    #[track_caller]
    pub(super) fn ends_well(&self, plural: &str, name: &str, reason: &str) {
        let path = format!("{}/{name}", runs(plural));
        let mut said = Value::Null;
        wait_until(format_args!("{path} does not end"), SOON, || {
            let run = self.api().get(&path);
            said = condition(&run, "Complete").unwrap_or_default();
            assert!(condition(&run, "Failed").is_none_or(|failed| failed["status"] != "True"), "{run:#}");
            said["status"] == "True"
        });
        assert_eq!(said["reason"], reason, "{said:#}");
    }

    /// The runs that policies asked for.
    pub(super) fn by_policy(&self) -> Vec<Value> {
        let labelled = format!("{}?labelSelector=remora.dev/policy", runs("backupruns"));
        self.api().get(&labelled)["items"].as_array().unwrap().clone()
    }

    /// KubeVirt runs the job of the backup that a run wants, once the controller has made it.
    pub(super) fn job_runs(&self, run: &str, machine: &str) {
        let api = self.api();
        let mut wanted = Value::Null;
        let path = |wanted: &Value| {
            let name = wanted["backup"].as_str().unwrap();
            format!("/apis/backup.kubevirt.io/v1alpha1/namespaces/{NAMESPACE}/virtualmachinebackups/{name}")
        };
        wait_until(format_args!("no backup is made for {run}"), SOON, || {
            wanted = self.status(run)["attempt"].clone();
            wanted["state"] == "Wanted" && api.look(&path(&wanted)).code == 200
        });
        let claim = api.get(&path(&wanted))["spec"]["pvcName"].clone();
        let checkpoint = format!("{}-2026-03-01_00-00-00", wanted["backup"].as_str().unwrap());
        let job = json!({
            "backupName": wanted["backup"], "checkpointName": checkpoint, "volumes": [{"volumeName": "root"}],
            "completed": false,
        });
        instance_is(api, machine, &json!([{"name": "scratch", "claimName": claim}]), &job);
        let kind = if wanted["forceFull"] == true { "Full" } else { "Incremental" };
        let begun = json!({"status": {"type": kind, "checkpointName": checkpoint}});
        api.merge(&format!("{}/status", path(&wanted)), &begun).ok();
    }

    /// KubeVirt lets go of a machine whose backup has gone, and Kubernetes of the run's scratch.
    pub(super) fn job_ends(&self, run: &str, machine: &str) {
        let api = self.api();
        instance_is(api, machine, &json!([]), &json!({"completed": true}));
        let uid = api.get(&format!("{}/{run}", runs("backupruns")))["metadata"]["uid"].clone();
        let uid = uid.as_str().unwrap();
        let list = format!("/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims");
        wait_until("the scratch stays", SOON, || {
            let scratches = api.get(&format!("{list}?labelSelector=remora.dev/run={uid}"))["items"].clone();
            for scratch in scratches.as_array().unwrap() {
                if !scratch["metadata"]["deletionTimestamp"].is_null() {
                    let path = format!("{list}/{}", scratch["metadata"]["name"].as_str().unwrap());
                    api.merge(&path, &json!({"metadata": {"finalizers": null}}));
                }
            }
            scratches == json!([])
        });
    }

    /// Asks for a restore of a point to a claim that is there, and has its worker run.
    pub(super) fn restore(&self, name: &str, point: &Value) {
        make_claim(self.api(), "copy");
        let spec = json!({
            "point": point, "repository": {"name": Deployed::REPOSITORY, "namespace": "remora"},
            "disks": [{"disk": "root", "claim": "copy"}],
        });
        self.create("RestoreRun", "restoreruns", name, &spec);
        let (api, path) = (self.api(), self.worker(name));
        wait_until("there is no worker", SOON, || api.look(&path).code == 200);
        let metadata = json!({"name": path.rsplit('/').next().unwrap()});
        let target = json!({"apiVersion": "v1", "kind": "Node", "name": NODE});
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": metadata, "target": target});
        api.create(&format!("{path}/binding"), &binding).ok();
        let container = json!({
            "name": "worker", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
            "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
        });
        let status = json!({
            "phase": "Running", "podIP": "192.0.2.7", "podIPs": [{"ip": "192.0.2.7"}], "containerStatuses": [container],
        });
        api.merge(&format!("{path}/status"), &json!({"status": status})).ok();
    }

    /// The kubelet ends the worker of a restore, once it is told to.
    pub(super) fn worker_goes(&self, restore: &str) {
        let (api, path) = (self.api(), self.worker(restore));
        wait_until("the worker stays", SOON, || {
            let found = api.look(&path);
            if found.code == 200 && !found.body["metadata"]["deletionTimestamp"].is_null() {
                api.delete(&format!("{path}?gracePeriodSeconds=0"));
            }
            found.code == 404
        });
    }

    fn worker(&self, restore: &str) -> String {
        let run = self.api().get(&format!("{}/{restore}", runs("restoreruns")));
        format!("/api/v1/namespaces/{NAMESPACE}/pods/remora-worker-{}", run["metadata"]["uid"].as_str().unwrap())
    }

    /// What the repository has of the disk of a run's point.
    pub(super) fn stored(&self, run: &str) -> Vec<u8> {
        let place = format!("file://{}/repository", self.deployed.controller.folder().display());
        let point = self.status(run)["point"].as_str().unwrap().to_owned();
        let reading = async {
            let secret = Secret::Passphrase(Passphrase::new(b"correct horse battery staple".to_vec()));
            let keyring = Keyring::open(&place.parse::<Location>().unwrap(), &secret).await.unwrap();
            let vault = keyring.vault(&NAMESPACE.parse().unwrap(), VaultOptions::default()).await.unwrap();
            let reader = vault.open(&point.parse().unwrap()).await.unwrap();
            reader.read(DiskIndex(0), ByteRange::new(0, SIZE)).await.unwrap()
        };
        self.runtime.block_on(reading).to_vec()
    }
}

fn runs(plural: &str) -> String {
    format!("/apis/remora.dev/v1alpha1/namespaces/{NAMESPACE}/{plural}")
}

fn host(name: &str) -> FakeHost {
    let host = FakeHost::new(&format!("{NAMESPACE}/{name}"));
    host.name_checkpoints();
    host.attach("root", (0..=250).cycle().take(SIZE as usize).collect(), true);
    host
}

fn kubevirt(plural: &str) -> String {
    format!("/apis/kubevirt.io/v1/namespaces/{NAMESPACE}/{plural}")
}

/// A machine that runs, with its claim and its launcher.
fn make_machine(api: &ApiServer, name: &str, label: &str) {
    make_claim(api, name);
    let spec = json!({
        "domain": {"devices": {"disks": [{"name": "root"}]}},
        "volumes": [{"name": "root", "persistentVolumeClaim": {"claimName": name}}],
    });
    let machine = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": name, "labels": {"backup": label}},
        "spec": {"template": {"spec": spec}}, "status": {"printableStatus": "Running"},
    });
    let machine = api.create(&kubevirt("virtualmachines"), &machine).ok();
    let owners = json!([owner("VirtualMachine", &machine)]);
    let instance = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": name, "ownerReferences": owners}, "spec": spec,
    });
    let instance = api.create(&kubevirt("virtualmachineinstances"), &instance).ok();
    let labels = json!({"kubevirt.io": "virt-launcher", "kubevirt.io/created-by": instance["metadata"]["uid"]});
    let owners = json!([owner("VirtualMachineInstance", &instance)]);
    let launcher = running(api, NAMESPACE, &pod(&format!("virt-launcher-{name}"), &labels, &owners));
    let uid = launcher["metadata"]["uid"].as_str().unwrap();
    let status = json!({
        "phase": "Running", "nodeName": NODE, "runtimeUser": 107, "activePods": {uid: NODE},
        "changedBlockTracking": {"state": "Enabled"},
    });
    api.merge(&format!("{}/{name}", kubevirt("virtualmachineinstances")), &json!({"status": status})).ok();
}

/// What is attached to a machine for a backup, and what it says of the job.
fn instance_is(api: &ApiServer, machine: &str, attached: &Value, job: &Value) {
    let status = json!({"changedBlockTracking": {"backupStatus": job}});
    let fields = json!({"spec": {"utilityVolumes": attached}, "status": status});
    api.merge(&format!("{}/{machine}", kubevirt("virtualmachineinstances")), &fields).ok();
}

/// A claim that is bound.
fn make_claim(api: &ApiServer, name: &str) {
    let list = format!("/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims");
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    });
    api.create(&list, &claim).ok();
    let bound = json!({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}});
    api.merge(&format!("{list}/{name}/status"), &bound).ok();
}

fn owner(kind: &str, of: &Value) -> Value {
    let metadata = &of["metadata"];
    json!({
        "apiVersion": "kubevirt.io/v1", "kind": kind, "name": metadata["name"], "uid": metadata["uid"],
        "controller": true,
    })
}

/// A pod on the node.
fn pod(name: &str, labels: &Value, owners: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": labels, "ownerReferences": owners},
        "spec": {
            "nodeName": NODE, "containers": [{"name": "one", "image": "none.example.org/none"}],
        },
    })
}

/// It is made, and runs.
fn running(api: &ApiServer, namespace: &str, pod: &Value) -> Value {
    let list = format!("/api/v1/namespaces/{namespace}/pods");
    let made = api.create(&list, pod).ok();
    let path = format!("{list}/{}/status", made["metadata"]["name"].as_str().unwrap());
    api.merge(&path, &json!({"status": {"phase": "Running"}})).ok();
    made
}
