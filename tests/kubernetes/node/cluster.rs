//! What the source of KubeVirt asks of the cluster. KubeVirt and the controller are played by the test.

use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};

use async_trait::async_trait;
use remora_core::point::Point;
use remora_core::ports::Outcome;
use remora_core::{BackupName, Error, ErrorKind, RepositoryId};
use remora_kube::kubevirt::tracker_name;
use remora_kube::node::{Desk, Done, Failure, Order, Worker};
use remora_kube::resources::Capability;
use remora_source::kubevirt::{
    BackupKind, BackupProgress, BackupWish, ChangedBlockTracking, Cluster, Depth, Freeze, JobFacts, VmFacts,
};
use remora_tests::ApiServer;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::scene::{SOON, Scene, soon};
use super::worker::a_backup;

pub(super) const REPOSITORY: RepositoryId = RepositoryId::from_bytes([7; 16]);

/// What the source was told.
enum Told {
    Facts(Box<VmFacts>),
    Progress(BackupProgress),
    Job(JobFacts, Option<String>),
    Gone,
}

/// A source that asks for a backup, and looks what becomes of it until that has ended.
struct Asks(Sender<Told>);

#[async_trait]
impl Worker for Asks {
    async fn committed(&self, _: &Order, _: &BackupName) -> Result<Option<Point>, Failure> {
        Ok(None)
    }

    async fn work(&self, _: &Order, desk: &Desk, _: CancellationToken) -> Result<Done, Failure> {
        let cluster = desk.cluster(REPOSITORY);
        self.0.send(Told::Facts(Box::new(cluster.look().await?))).unwrap();
        let wish = BackupWish { backup: a_backup(), depth: Depth::SinceLatest, freeze: Freeze::Try };
        cluster.begin(&wish).await?;
        let mut seen = None;
        loop {
            let now = cluster.progress(&wish.backup, seen.as_ref()).await?;
            self.0.send(Told::Progress(now.clone())).unwrap();
            match now {
                BackupProgress::Running(_) => {
                    let asked = cluster.progress_now(&wish.backup).await?;
                    if asked != now {
                        return Err(Error::new(ErrorKind::Failed, format!("watched: {now:?}, asked: {asked:?}")).into());
                    }
                    let (job, latest) = (cluster.job().await?, cluster.latest_checkpoint().await?);
                    self.0.send(Told::Job(job, latest)).unwrap();
                }
                BackupProgress::Failed { .. } | BackupProgress::Ended(_) => break,
                BackupProgress::Queued(_) | BackupProgress::Waiting(_) | BackupProgress::ScratchDetached => {}
            }
            seen = Some(now);
        }
        cluster.end(&wish.backup, Outcome::Abandoned).await?;
        self.0.send(Told::Gone).unwrap();
        Err(Error::new(ErrorKind::Busy, "enough").into())
    }

    async fn capabilities(&self) -> Vec<Capability> {
        Vec::new()
    }
}

/// A kind of KubeVirt's, whose objects may hold anything.
fn definition(group: &str, version: &str, kind: &str) -> String {
    let (singular, plural) = (kind.to_lowercase(), format!("{}s", kind.to_lowercase()));
    format!(
        "---\napiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata:\n  name: {plural}.{group}\nspec:\n  \
         group: {group}\n  names: {{kind: {kind}, plural: {plural}, singular: {singular}}}\n  scope: Namespaced\n  versions:\n  \
         - name: {version}\n    served: true\n    storage: true\n    schema: {{openAPIV3Schema: {{type: object, \
         x-kubernetes-preserve-unknown-fields: true}}}}\n"
    )
}

/// KubeVirt's kinds are there.
pub(super) fn define(api: &ApiServer) {
    static DEFINED: OnceLock<()> = OnceLock::new();
    DEFINED.get_or_init(|| {
        let kinds = [
            ("kubevirt.io", "v1", "VirtualMachine"),
            ("kubevirt.io", "v1", "VirtualMachineInstance"),
            ("backup.kubevirt.io", "v1alpha1", "VirtualMachineBackup"),
            ("backup.kubevirt.io", "v1alpha1", "VirtualMachineBackupTracker"),
        ];
        api.define(&kinds.map(|(group, version, kind)| definition(group, version, kind)).concat());
    });
}

/// A machine of KubeVirt with one disk, running on the scene's node, whose agent has that worker.
pub(super) struct Machine {
    pub(super) scene: Scene,
    _agent: super::scene::AgentAtWork,
}

/// One of which it is seen what the source is told.
struct Seen {
    machine: Machine,
    told: Receiver<Told>,
}

impl Seen {
    fn running() -> Self {
        let (sender, told) = channel();
        Self { machine: Machine::running(Asks(sender)), told }
    }

    #[track_caller]
    fn told(&self) -> Told {
        self.told.recv_timeout(SOON).expect("the source is told something")
    }

    #[track_caller]
    fn progress(&self) -> BackupProgress {
        match self.told() {
            Told::Progress(progress) => progress,
            _ => panic!("something else was told"),
        }
    }
}

impl Machine {
    pub(super) fn running<W: Worker>(worker: W) -> Self {
        let scene = Scene::new();
        define(scene.api());
        let agent = scene.agent("agent", worker);
        let machine = Self { scene, _agent: agent };
        machine.make();
        machine
    }

    fn make(&self) {
        let devices = json!({"disks": [{"name": "seed"}, {"name": "root"}]});
        let volumes = json!([
            {"name": "root", "persistentVolumeClaim": {"claimName": "web-root"}},
            {"name": "seed", "cloudInitNoCloud": {"secretRef": {"name": "seed"}}},
        ]);
        let spec = json!({"domain": {"devices": devices}, "volumes": volumes});
        self.create(
            "/api/v1",
            "persistentvolumeclaims",
            &json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "web-root"},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
            }),
        );
        let claim = format!("/api/v1/namespaces/{}/persistentvolumeclaims/web-root/status", self.scene.namespace);
        self.scene.api().merge(&claim, &json!({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}})).ok();
        self.create(
            "/apis/kubevirt.io/v1",
            "virtualmachines",
            &json!({
                "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "web"},
                "spec": {"template": {"spec": spec}, "unknownToUs": 1},
            }),
        );
        let instance = self.create("/apis/kubevirt.io/v1", "virtualmachineinstances", &json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": "web"}, "spec": spec,
        }));
        let uid = instance["metadata"]["uid"].as_str().unwrap();
        let pods = ["virt-launcher-web", "of-somebody-else"].map(|name| self.launcher(name, uid));
        self.instance_says(&json!({
            "nodeName": self.scene.node, "runtimeUser": 107, "activePods": {&*pods[0]: self.scene.node},
            "changedBlockTracking": {"state": "Enabled"},
        }));
        self.create(
            "/apis/backup.kubevirt.io/v1alpha1",
            "virtualmachinebackuptrackers",
            &json!({
                "apiVersion": "backup.kubevirt.io/v1alpha1", "kind": "VirtualMachineBackupTracker",
                "metadata": {"name": tracker_name("web", REPOSITORY)},
                "spec": {"source": {"apiGroup": "kubevirt.io", "kind": "VirtualMachine", "name": "web"}},
                "status": {"latestCheckpoint": {"name": "before", "volumes": [{"volumeName": "root"}]}},
            }),
        );
    }

    /// A pod that says it is the instance's.
    fn launcher(&self, name: &str, instance: &str) -> String {
        let pod = self.create("/api/v1", "pods", &json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": name, "labels": {"kubevirt.io/created-by": instance},
                "ownerReferences": [{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": "web", "uid": instance}],
            },
            "spec": {"nodeName": self.scene.node, "containers": [{"name": "compute", "image": "launcher"}]},
        }));
        let path = format!("/api/v1/namespaces/{}/pods/{name}/status", self.scene.namespace);
        self.scene.api().merge(&path, &json!({"status": {"phase": "Running"}})).ok();
        pod["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    pub(super) fn create(&self, group: &str, plural: &str, object: &Value) -> Value {
        self.scene.api().create(&format!("{group}/namespaces/{}/{plural}", self.scene.namespace), object).ok()
    }

    fn instance_says(&self, status: &Value) {
        self.instance_is(&json!({"status": status}));
    }

    pub(super) fn instance_is(&self, fields: &Value) {
        let path = format!("/apis/kubevirt.io/v1/namespaces/{}/virtualmachineinstances/web", self.scene.namespace);
        self.scene.api().merge(&path, fields).ok();
    }

    pub(super) fn backups(&self) -> String {
        format!("/apis/backup.kubevirt.io/v1alpha1/namespaces/{}/virtualmachinebackups", self.scene.namespace)
    }

    /// What the controller makes of the run's attempt.
    pub(super) fn prepare(&self, owner: &str) -> String {
        let name = self.scene.status("run")["attempt"]["backup"].as_str().unwrap().to_owned();
        self.create("/apis/backup.kubevirt.io/v1alpha1", "virtualmachinebackups", &json!({
            "apiVersion": "backup.kubevirt.io/v1alpha1", "kind": "VirtualMachineBackup",
            "metadata": {
                "name": name, "labels": {"remora.dev/run": owner},
                "ownerReferences": [{"apiVersion": "remora.dev/v1alpha1", "kind": "BackupRun", "name": "run", "uid": owner}],
            },
            "spec": {
                "source": {
                    "apiGroup": "backup.kubevirt.io", "kind": "VirtualMachineBackupTracker",
                    "name": tracker_name("web", REPOSITORY),
                },
                "mode": "Pull", "pvcName": "scratch",
            },
        }));
        name
    }
}

#[test]
fn a_backup_is_asked_for_followed_and_let_go() {
    let seen = Seen::running();
    let (machine, scene) = (&seen.machine, &seen.machine.scene);
    scene.assigned("run", &json!({"virtualMachine": "web"}));
    let Told::Facts(facts) = seen.told() else { panic!("no facts") };
    assert_eq!(facts.vm.as_str(), format!("{}/web", scene.namespace));
    assert_eq!((&facts.tracking, facts.volumes.len()), (&ChangedBlockTracking::Enabled, 1));
    assert_eq!((facts.volumes[0].name.as_str(), facts.volumes[0].capacity), ("root", 1 << 30));
    assert_eq!(facts.left_out[0].0, "disk seed");
    assert_eq!(facts.latest.as_ref().unwrap().name, "before");
    let pods = scene.api().get(&format!("/api/v1/namespaces/{}/pods/virt-launcher-web", scene.namespace));
    assert_eq!(json!(facts.instance.as_ref().unwrap().pod), pods["metadata"]["uid"]);
    let definition: Value = serde_json::from_str(&facts.definition).unwrap();
    assert_eq!(definition["virtualMachine"]["spec"]["unknownToUs"], 1);
    // A Secret by its name: the agent may read none.
    let volumes = &definition["virtualMachine"]["spec"]["template"]["spec"]["volumes"];
    assert_eq!(volumes[1], json!({"name": "seed", "cloudInitNoCloud": {"secretRef": {"name": "seed"}}}));
    assert_eq!(definition["persistentVolumeClaims"][0]["metadata"]["name"], "web-root");

    assert!(matches!(seen.progress(), BackupProgress::Queued(_)));
    let attempt = scene.status("run")["attempt"].clone();
    assert_eq!(
        (&attempt["number"], &attempt["forceFull"], &attempt["state"]),
        (&json!(1), &json!(false), &json!("Wanted"))
    );
    let uid = scene.run("run")["metadata"]["uid"].as_str().unwrap().to_owned();
    let name = machine.prepare(&uid);
    assert!(matches!(seen.progress(), BackupProgress::Waiting(_)));
    let path = format!("{}/{name}", machine.backups());
    scene.api().merge(&path, &json!({"status": {"type": "Incremental"}})).ok();
    let job = json!({"backupName": name, "checkpointName": format!("{name}-now"), "volumes": [{"volumeName": "root"}]});
    machine.instance_says(&json!({"changedBlockTracking": {"state": "Enabled", "backupStatus": job}}));
    assert_eq!(seen.progress(), BackupProgress::ScratchDetached);
    machine.instance_is(&json!({"spec": {"utilityVolumes": [{"name": "backup-vol", "claimName": "scratch"}]}}));
    let BackupProgress::Running(running) = seen.progress() else { panic!("it does not run") };
    assert_eq!((running.kind, running.checkpoint), (BackupKind::Incremental, format!("{name}-now")));
    assert_eq!(running.scratch.as_deref(), Some("backup-vol"));
    let Told::Job(job, latest) = seen.told() else { panic!("no job") };
    assert_eq!((job.backup, job.ended, latest.as_deref()), (Some(name.clone()), None, Some("before")));

    // Somebody removes it; KubeVirt takes its time.
    scene.api().merge(&path, &json!({"metadata": {"finalizers": ["kubevirt.io/test"]}})).ok();
    scene.api().delete(&path).ok();
    assert!(matches!(seen.progress(), BackupProgress::Ended(_)));
    soon("it is let go", || scene.status("run")["attempt"]["state"] == "Ended");
    assert!(seen.told.try_recv().is_err(), "it is not gone yet");
    assert_eq!(scene.condition("run", "Failed"), None);
    scene.api().merge(&path, &json!({"metadata": {"finalizers": null}})).ok();
    assert!(matches!(seen.told(), Told::Gone));
    scene.becomes("run", "Failed", "True", "Busy");
}

#[test]
fn a_backup_that_is_not_the_run_s_is_not_believed_and_what_cannot_be_made_says_why() {
    let seen = Seen::running();
    let (machine, scene) = (&seen.machine, &seen.machine.scene);
    scene.assigned("run", &json!({"virtualMachine": "web"}));
    assert!(matches!(seen.told(), Told::Facts(_)));
    assert!(matches!(seen.progress(), BackupProgress::Queued(_)));
    let since = "2026-01-01T00:00:00Z";
    let condition = |status: &str, reason: &str, message: &str| json!({"type": "Prepared", "status": status, "reason": reason, "message": message, "lastTransitionTime": since});
    let says = |condition: Value| {
        let mut object = scene.runs.object("run", &json!({}));
        object.as_object_mut().unwrap().remove("spec");
        object["status"] = json!({"preparedAttempt": 1, "conditions": [condition]});
        scene.api().apply(&format!("{}/status", scene.runs.path("run")), "remora-controller", &object.to_string()).ok();
    };
    says(condition("Unknown", "Waits", "another backup is first"));
    assert_eq!(seen.progress(), BackupProgress::Queued("another backup is first".into()));
    let name = machine.prepare("the-uid-of-another");
    let BackupProgress::Failed { reason, .. } = seen.progress() else { panic!("it is believed") };
    assert_eq!(reason, "ForeignBackup");
    scene.api().delete(&format!("{}/{name}", machine.backups())).ok();
    assert!(matches!(seen.told(), Told::Gone));
    scene.becomes("run", "Failed", "True", "Busy");
    let prepared = scene.condition("run", "Prepared");
    assert_eq!(prepared, Some(("Unknown".into(), "Waits".into())), "the controller's condition stays");
}
