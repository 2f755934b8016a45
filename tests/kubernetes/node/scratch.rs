//! A scratch that cannot be attached on the machine's node: the engine over the source of KubeVirt, as the agent has them.
//! KubeVirt, the scheduler and the controller are played by the test.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use remora_core::plan::Asked;
use remora_core::point::{Point, Quiesce};
use remora_core::ports::Patience;
use remora_core::testing::FakeMover;
use remora_core::{BackupName, MemoryBudget, VmName};
use remora_engine::{BackupRequest, SPOT_CHECKS, backup};
use remora_kube::node::{Desk, Done, Failure, Order, Worker};
use remora_kube::resources::Capability;
use remora_source::kubevirt::{KubevirtOptions, KubevirtSource};
use serde_json::json;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::cluster::{Machine, REPOSITORY};
use super::scene::soon;

/// Backs a machine of KubeVirt up to memory.
struct OverKubevirt {
    pods: TempDir,
    mover: FakeMover,
}

#[async_trait]
impl Worker for OverKubevirt {
    async fn committed(&self, _: &Order, _: &BackupName) -> Result<Option<Point>, Failure> {
        Ok(None)
    }

    async fn work(&self, order: &Order, desk: &Desk, cancel: CancellationToken) -> Result<Done, Failure> {
        let options = KubevirtOptions {
            pods: self.pods.path().into(),
            start_within: Duration::from_secs(3),
            ..KubevirtOptions::new(Vec::new())
        };
        let source = KubevirtSource::new(Arc::new(desk.cluster(REPOSITORY)), options);
        let request = BackupRequest {
            vm: VmName::new(order.vm_name()).unwrap(),
            disks: None,
            asked: Asked::Auto,
            quiesce: Quiesce::Never,
            patience: Patience::Wait(Duration::from_mins(5)),
            spot_checks: SPOT_CHECKS,
            memory: MemoryBudget::new(1 << 20),
        };
        let report = backup(&source, &self.mover, request, desk.meter(), cancel).await?;
        Ok(Done { point: report.point, notes: report.notes, left: report.left })
    }

    async fn capabilities(&self) -> Vec<Capability> {
        Vec::new()
    }
}

/// What the scheduler says of a pod that is to be where its volume is not.
const UNSCHEDULABLE: &str = "0/2 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity";

#[test]
fn a_scratch_that_cannot_be_attached_ends_the_run_with_that_reason_and_what_to_do() {
    let machine = Machine::running(OverKubevirt { pods: TempDir::new().unwrap(), mover: FakeMover::default() });
    let scene = &machine.scene;
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "scratch"},
        "spec": {
            "storageClassName": "elsewhere", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}},
        },
    });
    machine.create("/api/v1", "persistentvolumeclaims", &claim);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "hp-volume-x"},
        "spec": {"containers": [{"name": "hotplug-disk", "image": "launcher"}]},
    });
    machine.create("/api/v1", "pods", &pod);
    let unschedulable =
        json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": UNSCHEDULABLE});
    let path = format!("/api/v1/namespaces/{}/pods/hp-volume-x/status", scene.namespace);
    scene.api().merge(&path, &json!({"status": {"conditions": [unschedulable]}})).ok();
    machine.instance_is(&json!({
        "spec": {"utilityVolumes": [{"name": "backup-vol", "claimName": "scratch", "type": "Backup"}]},
        "status": {"volumeStatus": [
            {"name": "backup-vol", "phase": "AttachedToNode", "target": "", "message": "Created hotplug attachment pod hp-volume-x",
                "hotplugVolume": {"attachPodName": "hp-volume-x"}},
        ]},
    }));

    scene.assigned("run", &json!({"virtualMachine": "web"}));
    soon("it is asked for", || scene.status("run")["attempt"]["state"] == "Wanted");
    let uid = scene.run("run")["metadata"]["uid"].as_str().unwrap().to_owned();
    let name = machine.prepare(&uid);
    // The controller removes then what it has made, and the run ends once it is gone.
    soon("it is let go", || scene.status("run")["attempt"]["state"] == "Ended");
    assert_eq!(scene.condition("run", "Failed"), None);
    scene.api().delete(&format!("{}/{name}", machine.backups())).ok();

    scene.becomes("run", "Failed", "True", "ScratchNotAttachable");
    assert_eq!(scene.condition("run", "Complete"), Some(("False".into(), "ScratchNotAttachable".into())));
    let message = scene.message("run", "Failed");
    let told = [
        "the scratch PVC cannot be attached on the VM's node",
        "PersistentVolumeClaim scratch of StorageClass elsewhere is Pending",
        UNSCHEDULABLE,
    ];
    let to_do = ["spec.scratch.storageClassName", "WaitForFirstConsumer"];
    assert!(told.into_iter().chain(to_do).all(|words| message.contains(words)), "{message}");
    for (kind, name) in [("BackupRun", "run"), ("VirtualMachine", "web")] {
        soon("an event says it", || scene.events(kind, name).contains(&"ScratchNotAttachable".into()));
    }
    assert_eq!(scene.status("run")["attempt"]["number"], 1, "nothing else was tried");
}
