//! A cluster with the controller, and what the tests play in it.

use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use remora_tests::{Answer, ApiServer, Controller, condition, wait_until};
use serde_json::{Value, json};

use crate::deployed;

/// How long the controller may take for what it does at once: it looks again every 15 s, and the machine may be busy.
pub(super) const SOON: Duration = Duration::from_mins(10);

/// How often a played agent shows that it lives. The controller takes one for dead that is silent for two minutes, and a test can
/// take longer than that on a busy machine.
const BEAT: Duration = Duration::from_secs(30);

/// How many times it does: for as long as a test waits for anything.
const BEATS: i64 = 20;

/// KubeVirt's definitions: of machines, and of their backups.
pub(super) const MACHINES: &str = include_str!("../kubevirt/machines.yaml");
pub(super) const BACKUPS: [&str; 2] = [
    include_str!("../kubevirt/backup.kubevirt.io_virtualmachinebackups.yaml"),
    include_str!("../kubevirt/backup.kubevirt.io_virtualmachinebackuptrackers.yaml"),
];

/// A name as agents choose them: of the repository, and of bits that are none of another attempt's.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The cluster of these tests: policies hold in all of it, and one controller acts in it.
pub(crate) struct Cluster {
    pub(crate) api: ApiServer,
    pub(super) controller: Controller,
}

/// What a test plays: a namespace with a machine `web` that runs on node `one`, and nothing speaks against its backup.
pub(super) struct Shop {
    pub(super) cluster: &'static Cluster,
    pub(super) namespace: String,
}

impl Cluster {
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&[MACHINES, BACKUPS[0], BACKUPS[1]], &[]))
    }

    /// Two more, for tests of policies: what is scheduled is bounded in all of a cluster.
    pub(crate) fn scheduled(number: usize) -> &'static Self {
        static SCHEDULED: [OnceLock<Cluster>; 2] = [const { OnceLock::new() }; 2];
        SCHEDULED[number].get_or_init(|| Self::start(&[MACHINES, BACKUPS[0], BACKUPS[1]], &["--scheduled-runs=3"]))
    }

    /// One more, that has no KubeVirt; for one test, which gives it one.
    pub(super) fn without_kubevirt() -> &'static Self {
        static WITHOUT: OnceLock<Cluster> = OnceLock::new();
        WITHOUT.get_or_init(|| Self::start(&[], &[]))
    }

    fn start(kubevirt: &[&str], further: &[&str]) -> Self {
        let api = ApiServer::start();
        api.define(&deployed("crds.yaml"));
        for definition in kubevirt {
            api.define(definition);
        }
        apply(&api, &deployed("controller.yaml"));
        apply(&api, &deployed("admission.yaml"));
        apply(&api, AGENTS);
        for node in ["one", "two"] {
            let pod = pod(node);
            let path = "/api/v1/namespaces/remora/pods";
            api.create(path, &pod).ok();
            let name = pod["metadata"]["name"].as_str().unwrap();
            api.merge(&format!("{path}/{name}/status"), &json!({"status": {"phase": "Running"}})).ok();
        }
        let class = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "example.org/none",
            "metadata": {"name": "thin", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        });
        api.create("/apis/storage.k8s.io/v1/storageclasses", &class).ok();
        let controller = Controller::start_with(&api, &api.url(), further);
        secret(&api, "remora", "passphrase", &json!({"passphrase": "correct horse battery staple"}));
        let spec = json!({
            "url": format!("file://{}/repository", controller.folder().display()),
            "passphraseSecret": {"name": "passphrase"},
        });
        repository(&api, "remora", "offsite", &spec);
        let cluster = Self { api, controller };
        wait_until("the repository is not opened", SOON, || {
            cluster.ready("remora", "offsite").is_some_and(|one| one["status"] == "True")
        });
        cluster
    }

    /// What is said of a repository.
    pub(super) fn ready(&self, namespace: &str, name: &str) -> Option<Value> {
        condition(&self.api.get(&repository_path(namespace, name)), "Ready")
    }

    /// The events on an object, by reason.
    pub(super) fn events(&self, namespace: &str, kind: &str, name: &str) -> Vec<String> {
        let events = self.api.get(&format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events"));
        let of = |event: &&Value| event["regarding"]["kind"] == kind && event["regarding"]["name"] == name;
        let events = events["items"].as_array().unwrap().iter().filter(of);
        events.map(|event| event["reason"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until an event on an object has a reason: it follows the condition.
    #[track_caller]
    pub(super) fn tells(&self, namespace: &str, kind: &str, name: &str, reason: &str) {
        wait_until(format_args!("no event {reason} on {kind} {namespace}/{name}"), SOON, || {
            self.events(namespace, kind, name).contains(&reason.to_owned())
        });
    }

    /// Changes which namespaces the administrators' repository serves. Other tests do so at the same time.
    pub(super) fn allow(&self, change: impl Fn(&mut Vec<Value>)) {
        let path = repository_path("remora", "offsite");
        loop {
            let before = self.api.get(&path);
            let mut allowed = before["spec"]["allowedNamespaces"].as_array().cloned().unwrap_or_default();
            change(&mut allowed);
            let version = json!({"resourceVersion": before["metadata"]["resourceVersion"]});
            let changed = self.api.merge(&path, &json!({"metadata": version, "spec": {"allowedNamespaces": allowed}}));
            if changed.code != 409 {
                changed.ok();
                return;
            }
        }
    }

    /// A token of the agent of a node.
    pub(super) fn agent(&self, node: &str, audience: Option<&str>) -> String {
        let pod = self.api.get(&format!("/api/v1/namespaces/remora/pods/agent-{node}"));
        self.api.token("remora", "remora-agent", audience, Some(&pod))
    }

    /// Has the agent of node `one` show that it lives, in the status of a run that it has claimed, until it may write there no
    /// more. Nobody waits for the thread: it ends with its run, or with the tests.
    pub(super) fn beats(&'static self, run: &str) {
        let (status, agent) = (format!("{run}/status"), self.agent("one", None));
        thread::spawn(move || {
            for heartbeat in 2..2 + BEATS {
                thread::sleep(BEAT);
                let beat = json!({"status": {"heartbeat": heartbeat}});
                if self.api.merge_as(&agent, &status, &beat).code != 200 {
                    break;
                }
            }
        });
    }

    /// The UID of that agent's pod.
    pub(super) fn agent_uid(&self, node: &str) -> Value {
        self.api.get(&format!("/api/v1/namespaces/remora/pods/agent-{node}"))["metadata"]["uid"].clone()
    }
}

/// What an agent's `ServiceAccount` may do beside what is refused it: all that the policies have to hold it back from.
const AGENTS: &str = r"
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: remora-agent
  namespace: remora
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: agents-of-the-tests
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: cluster-admin
subjects:
- kind: ServiceAccount
  name: remora-agent
  namespace: remora
";

/// Applies a stream of objects of any kinds that are deployed.
fn apply(api: &ApiServer, stream: &str) {
    for object in stream.split("---\n").filter(|text| text.contains("\nkind: ")) {
        let field = |name: &str| {
            let line = object.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim().to_owned())
        };
        let namespace = field("  namespace: ").unwrap_or_default();
        let rbac = "/apis/rbac.authorization.k8s.io/v1";
        let admission = "/apis/admissionregistration.k8s.io/v1";
        let list = match field("kind: ").unwrap().as_str() {
            "Namespace" => "/api/v1/namespaces".to_owned(),
            "ServiceAccount" => format!("/api/v1/namespaces/{namespace}/serviceaccounts"),
            "Service" => format!("/api/v1/namespaces/{namespace}/services"),
            "Deployment" => format!("/apis/apps/v1/namespaces/{namespace}/deployments"),
            "ClusterRole" => format!("{rbac}/clusterroles"),
            "ClusterRoleBinding" => format!("{rbac}/clusterrolebindings"),
            "Role" => format!("{rbac}/namespaces/{namespace}/roles"),
            "RoleBinding" => format!("{rbac}/namespaces/{namespace}/rolebindings"),
            "ValidatingAdmissionPolicy" => format!("{admission}/validatingadmissionpolicies"),
            "ValidatingAdmissionPolicyBinding" => format!("{admission}/validatingadmissionpolicybindings"),
            other => panic!("where is {other}?"),
        };
        api.apply_all(&list, &format!("---\n{object}"));
    }
}

fn pod(node: &str) -> Value {
    let labels = json!({"app.kubernetes.io/name": "remora-agent"});
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("agent-{node}"), "labels": labels},
        "spec": {
            "nodeName": node, "serviceAccountName": "remora-agent",
            "containers": [{"name": "agent", "image": "none.example.org/none"}],
        },
    })
}

pub(super) fn secret(api: &ApiServer, namespace: &str, name: &str, data: &Value) {
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data});
    api.create(&format!("/api/v1/namespaces/{namespace}/secrets"), &secret).ok();
}

pub(super) fn repository(api: &ApiServer, namespace: &str, name: &str, spec: &Value) {
    let metadata = json!({"name": name});
    let object = json!({"apiVersion": "remora.dev/v1alpha1", "kind": "Repository", "metadata": metadata, "spec": spec});
    api.create(&format!("/apis/remora.dev/v1alpha1/namespaces/{namespace}/repositories"), &object).ok();
}

pub(super) fn repository_path(namespace: &str, name: &str) -> String {
    format!("/apis/remora.dev/v1alpha1/namespaces/{namespace}/repositories/{name}")
}

impl Shop {
    /// A new one, which the administrators' repository serves.
    pub(super) fn open() -> Self {
        Self::open_in(Cluster::shared())
    }

    /// A new one in a cluster.
    pub(super) fn open_in(cluster: &'static Cluster) -> Self {
        let shop = Self::without_machine_in(cluster);
        shop.furnish();
        shop
    }

    /// The same without the machine, which [`Shop::furnish`] makes.
    pub(super) fn without_machine_in(cluster: &'static Cluster) -> Self {
        let shop = Self { namespace: cluster.api.namespace(), cluster };
        cluster.allow(|allowed| allowed.push(json!(shop.namespace)));
        shop
    }

    /// Makes the machine and its claim.
    pub(super) fn furnish(&self) {
        self.machine(&json!({}));
        self.claim("root", "1Gi");
    }

    pub(super) fn list(&self, group: &str, plural: &str) -> String {
        format!("/apis/{group}/namespaces/{}/{plural}", self.namespace)
    }

    pub(super) fn core(&self, plural: &str) -> String {
        format!("/api/v1/namespaces/{}/{plural}", self.namespace)
    }

    /// The machine, and what runs of it, with fields changed.
    pub(super) fn machine(&self, instance: &Value) {
        self.machine_of("web", &json!({}));
        if instance != &json!({}) {
            self.change_instance(instance);
        }
    }

    /// A machine with labels, and what runs of it.
    pub(super) fn machine_of(&self, name: &str, labels: &Value) {
        let machine = json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": name, "labels": labels},
            "spec": {}, "status": {"printableStatus": "Running"},
        });
        let machine = self.cluster.api.create(&self.list("kubevirt.io/v1", "virtualmachines"), &machine).ok();
        let owner = json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": name,
            "uid": machine["metadata"]["uid"], "controller": true,
        });
        let running = json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": name, "ownerReferences": [owner]},
            "spec": {
                "domain": {"devices": {"disks": [{"name": "root"}]}},
                "volumes": [{"name": "root", "persistentVolumeClaim": {"claimName": "root"}}],
            },
            "status": {
                "phase": "Running", "nodeName": "one", "changedBlockTracking": {"state": "Enabled"},
            },
        });
        self.cluster.api.create(&self.list("kubevirt.io/v1", "virtualmachineinstances"), &running).ok();
    }

    pub(super) fn change_instance(&self, fields: &Value) {
        let path = format!("{}/web", self.list("kubevirt.io/v1", "virtualmachineinstances"));
        self.cluster.api.merge(&path, fields).ok();
    }

    fn claim(&self, name: &str, size: &str) {
        let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}});
        let claim =
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec});
        self.cluster.api.create(&self.core("persistentvolumeclaims"), &claim).ok();
    }

    /// Asks for a run.
    pub(super) fn run(&self, name: &str, fields: &Value) -> Run<'_> {
        let mut spec = json!({"virtualMachine": "web", "repository": {"name": "offsite", "namespace": "remora"}});
        spec.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let metadata = json!({"name": name});
        let object =
            json!({"apiVersion": "remora.dev/v1alpha1", "kind": "BackupRun", "metadata": metadata, "spec": spec});
        self.cluster.api.create(&self.list("remora.dev/v1alpha1", "backupruns"), &object).ok();
        Run { shop: self, name: name.into() }
    }

    /// The events on an object of its namespace, by reason.
    pub(super) fn events(&self, kind: &str, name: &str) -> Vec<String> {
        self.cluster.events(&self.namespace, kind, name)
    }

    /// Waits until an event on an object of its namespace has a reason.
    #[track_caller]
    pub(super) fn tells(&self, kind: &str, name: &str, reason: &str) {
        self.cluster.tells(&self.namespace, kind, name, reason);
    }

    /// From now on no more objects of a resource are taken. Quotas are counted by another program: here nobody is.
    pub(super) fn uses_up(&self, resource: &str) {
        let (name, counted) = (format!("none-{}", fastrand::u32(..)), format!("count/{resource}"));
        // And none of what nobody else makes here, by which it is seen to be in force.
        let (metadata, hard) = (json!({"name": name}), json!({counted: "0", "count/configmaps": "0"}));
        let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": hard}});
        let (api, list) = (&self.cluster.api, self.core("resourcequotas"));
        api.create(&list, &quota).ok();
        let used = json!({"status": {"hard": hard, "used": hard}});
        api.merge(&format!("{list}/{name}/status"), &used).ok();
        // The API server decides by what it was told of quotas, a moment after they are stored.
        let (dry, says) = (format!("{}?dryRun=All", self.core("configmaps")), format!("exceeded quota: {name},"));
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "none"}});
        wait_until("the quota is not in force", SOON, || {
            let answer = api.create_as(api.owner_token(), &dry, &object);
            answer.body["message"].as_str().is_some_and(|message| message.contains(&says))
        });
    }

    /// The names of what there is of a kind.
    pub(super) fn names(&self, list: &str) -> Vec<String> {
        let items = self.cluster.api.get(list)["items"].as_array().unwrap().clone();
        items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    }

    /// What is there of what the controller makes for attempts.
    pub(super) fn made(&self) -> Vec<String> {
        let mut names = self.names(&self.list("backup.kubevirt.io/v1alpha1", "virtualmachinebackups"));
        let ours = |name: &String| name.starts_with("remora-");
        names.extend(self.names(&self.core("persistentvolumeclaims")).into_iter().filter(ours));
        names.extend(self.names(&self.core("secrets")).into_iter().filter(ours));
        names
    }
}

/// A run of a shop.
pub(super) struct Run<'a> {
    pub(super) shop: &'a Shop,
    pub(super) name: String,
}

impl Run<'_> {
    pub(super) fn path(&self) -> String {
        format!("{}/{}", self.shop.list("remora.dev/v1alpha1", "backupruns"), self.name)
    }

    pub(super) fn get(&self) -> Value {
        self.shop.cluster.api.get(&self.path())
    }

    pub(super) fn says(&self, kind: &str) -> Value {
        condition(&self.get(), kind).unwrap_or_default()
    }

    /// Waits until a condition has a reason; gives its message.
    #[track_caller]
    pub(super) fn waits_for(&self, kind: &str, reason: &str) -> String {
        let mut said = Value::Null;
        wait_until(format_args!("{} does not say {kind}={reason}", self.path()), SOON, || {
            said = self.says(kind);
            said["reason"] == reason
        });
        said["message"].as_str().unwrap_or_default().to_owned()
    }

    /// What the agent of a node writes into the status.
    pub(super) fn write(&self, node: &str, status: &Value) -> Answer {
        let token = self.shop.cluster.agent(node, None);
        self.shop.cluster.api.merge_as(&token, &format!("{}/status", self.path()), &json!({"status": status}))
    }

    /// The agent of node `one` claims it.
    #[track_caller]
    pub(super) fn claim(&self) {
        self.waits_for("Assigned", "Assigned");
        self.write("one", &json!({"agent": self.shop.cluster.agent_uid("one"), "heartbeat": 1})).ok();
        self.shop.cluster.beats(&self.path());
    }

    /// The agent wants an attempt; gives the name of its backup.
    #[track_caller]
    pub(super) fn wants(&self, number: u32) -> String {
        let backup = self.backup_name(number);
        self.write("one", &json!({"attempt": attempt(number, &backup, "Wanted")})).ok();
        backup
    }

    /// A name of the repository, and of the run and the number.
    pub(super) fn backup_name(&self, number: u32) -> String {
        let repository = self.shop.cluster.api.get(&repository_path("remora", "offsite"));
        let id = repository["status"]["repositoryId"].as_str().unwrap().to_owned();
        let id = u128::from_str_radix(&id, 16).unwrap();
        let random = self.get()["metadata"]["uid"]
            .as_str()
            .unwrap()
            .bytes()
            .fold(u128::from(number), |sum, byte| sum.wrapping_mul(257).wrapping_add(u128::from(byte)));
        format!("r-{}-{}", base32(id), base32(random))
    }

    /// What the agent says at the end.
    pub(super) fn end(&self, kind: &str) {
        let since = "2026-01-01T00:00:00Z";
        let end =
            json!({"type": kind, "status": "True", "reason": "Stored", "message": "m", "lastTransitionTime": since});
        // The controller may change conditions of its own in between, which an agent cannot put back.
        wait_until("the agent's last word is refused", SOON, || {
            let mut conditions = self.get()["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions.push(end.clone());
            self.write("one", &json!({"conditions": conditions, "completionTime": since})).code == 200
        });
    }
}

/// 128 bits as 26 digits.
fn base32(number: u128) -> String {
    let digit = |place: u32| {
        let five = if place < 25 { number >> (123 - 5 * place) } else { number << 2 };
        char::from(ALPHABET[(five & 31) as usize])
    };
    (0..26).map(digit).collect()
}

/// An attempt as agents write it.
pub(super) fn attempt(number: u32, backup: &str, state: &str) -> Value {
    json!({"number": number, "backup": backup, "forceFull": number > 1, "skipQuiesce": false, "state": state})
}
