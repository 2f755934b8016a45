//! The agent with the engine that makes points, over a source and a repository in memory.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use remora_core::plan::Asked;
use remora_core::point::{Point, Quiesce};
use remora_core::ports::{Mover, Patience};
use remora_core::testing::{FakeHost, FakeMover};
use remora_core::{BackupName, CheckpointName, MemoryBudget, PointId, VmName};
use remora_engine::{BackupRequest, SPOT_CHECKS, backup};
use remora_kube::node::{Desk, Done, Failure, Order, Worker};
use remora_kube::resources::Capability;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::scene::Scene;

/// A backup of all disks of a run's machine, with so many bytes of memory.
pub(crate) fn request(order: &Order, memory: u64) -> BackupRequest {
    BackupRequest {
        vm: VmName::new(order.vm_name()).unwrap(),
        disks: None,
        asked: Asked::Auto,
        quiesce: Quiesce::Never,
        patience: Patience::None,
        spot_checks: SPOT_CHECKS,
        memory: MemoryBudget::new(memory),
    }
}

/// Backs one VM up from one memory to another.
#[derive(Clone)]
struct InMemory {
    host: FakeHost,
    mover: FakeMover,
    made: Arc<Mutex<Vec<PointId>>>,
}

#[async_trait]
impl Worker for InMemory {
    async fn committed(&self, order: &Order, attempt: &BackupName) -> Result<Option<Point>, Failure> {
        let listing = self.mover.list(Some(&VmName::new(order.vm_name()).unwrap())).await?;
        let of_it = |point: &Point| {
            point
                .disks
                .iter()
                .any(|disk| disk.checkpoint.as_ref().and_then(CheckpointName::backup).as_ref() == Some(attempt))
        };
        Ok(listing.points.into_iter().find(of_it))
    }

    async fn work(&self, order: &Order, desk: &Desk, cancel: CancellationToken) -> Result<Done, Failure> {
        let report = backup(&self.host, &self.mover, request(order, 1 << 20), desk.meter(), cancel).await?;
        self.made.lock().unwrap().push(report.point.id.clone());
        Ok(Done { point: report.point, notes: report.notes, left: report.left })
    }

    async fn capabilities(&self) -> Vec<Capability> {
        Vec::new()
    }
}

#[test]
fn a_full_and_then_an_increment_hold_what_the_guest_wrote() {
    let scene = Scene::new();
    let host = FakeHost::new(&format!("{}/web", scene.namespace));
    host.name_checkpoints();
    host.attach("root", (0..=255).cycle().take(8 << 20).collect(), true);
    let worker = InMemory { host: host.clone(), mover: FakeMover::default(), made: Arc::default() };
    let _agent = scene.agent("agent", worker.clone());
    scene.assigned("first", &json!({"virtualMachine": "web"}));
    scene.becomes("first", "Complete", "True", "Stored");
    host.write(0, 70_000, b"the guest was here");
    scene.assigned("second", &json!({"virtualMachine": "web"}));
    scene.becomes("second", "Complete", "True", "Stored");
    let (first, second) = (scene.status("first"), scene.status("second"));
    assert_eq!((&first["decision"], &second["decision"]), (&json!("full"), &json!("incremental")));
    assert_eq!(first["disks"][0]["name"], "root");
    assert_eq!((&first["disks"][0]["sizeBytes"], &first["readBytes"]), (&json!(8 << 20), &json!(8 << 20)));
    assert!(second["readBytes"].as_i64().unwrap() < 2 << 20, "{second:#}");
    let made = worker.made.lock().unwrap().clone();
    assert_eq!(worker.mover.bytes(&made[1], 0).unwrap(), host.bytes(0).as_slice());
    assert_eq!(second["point"], json!(made[1].to_string()));
}
