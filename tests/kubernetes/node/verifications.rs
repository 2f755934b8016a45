//! Verifications of a node: the controller, and what reads points, are played.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use remora_core::ports::{Damage, Effect, Progress, VerifyReport};
use remora_core::{ByteRange, DiskName, Error, ErrorKind, PointId};
use remora_kube::node::{Failure, Meter, Order, VerifyWorker};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::scene::{Scene, soon};
use super::worker::Played;

/// What is found of a point.
#[derive(Clone, Copy)]
enum Found {
    Sound,
    Damaged,
    Nothing(ErrorKind),
}

/// Reads ten bytes, five of them once it is told to.
#[derive(Clone)]
struct Reads(Arc<Play>);

struct Play {
    told: Semaphore,
    found: Found,
    begun: Mutex<Vec<String>>,
}

impl Reads {
    fn new(told: usize, found: Found) -> Self {
        Self(Arc::new(Play { told: Semaphore::new(told), found, begun: Mutex::default() }))
    }

    fn begun(&self) -> Vec<String> {
        self.0.begun.lock().unwrap().clone()
    }
}

#[async_trait]
impl VerifyWorker for Reads {
    async fn verify(
        &self,
        order: &Order,
        point: &PointId,
        meter: Arc<Meter>,
        cancel: CancellationToken,
    ) -> Result<VerifyReport, Failure> {
        self.0.begun.lock().unwrap().push(order.name.clone());
        assert_eq!(point.to_string(), "0011223344556677-1");
        meter.expect(10);
        meter.advance(5);
        tokio::select! {
            told = self.0.told.acquire() => told.unwrap().forget(),
            () = cancel.cancelled() => return Err(Error::new(ErrorKind::Cancelled, "cancelled").into()),
        }
        meter.advance(5);
        let damage = Damage {
            disk: DiskName::new("root").unwrap(),
            range: ByteRange::new(0, 65536),
            effect: Effect::Lost,
            object: "segment".into(),
            why: "it is gone".into(),
        };
        match self.0.found {
            Found::Sound => Ok(VerifyReport { checked: 10, damage: Vec::new() }),
            Found::Damaged => Ok(VerifyReport { checked: 10, damage: vec![damage] }),
            Found::Nothing(kind) => Err(Error::new(kind, "no").advise("Ask.").into()),
        }
    }
}

/// A run of this node whose point an agent has stored.
fn stored(scene: &Scene, name: &str, verify: &str, agent: &str) {
    let repository = json!({"name": "offsite"});
    scene.runs.create(name, &json!({"virtualMachine": name, "repository": repository, "verify": verify})).ok();
    let since = "2026-01-01T00:00:00Z";
    let condition = |kind: &str, reason: &str| json!({"type": kind, "status": "True", "reason": reason, "message": "", "lastTransitionTime": since});
    let conditions = [condition("Claimed", "Claimed"), condition("Complete", "Stored")];
    let end = json!({
        "node": scene.node, "agent": agent, "conditions": conditions, "point": "0011223344556677-1", "percent": 100,
        "heartbeat": 7, "completionTime": since, "readBytes": 3, "attempt": {"number": 2, "backup": "b", "state": "Ended"},
    });
    scene.says(name, &end);
}

/// What the end of a run said.
fn end(scene: &Scene, name: &str) -> Vec<Value> {
    let status = scene.status(name);
    ["point", "percent", "completionTime", "readBytes", "attempt", "node"].map(|field| status[field].clone()).into()
}

#[test]
pub(super) fn a_point_is_read_after_the_end_and_its_run_says_how_far_and_that_it_is_sound() {
    let (scene, worker) = (Scene::new(), Reads::new(0, Found::Sound));
    stored(&scene, "plain", "None", "gone");
    stored(&scene, "run", "All", "gone");
    let before = end(&scene, "run");
    let pod = scene.pod("agent");
    let agent = scene.verifications("agent", pod.clone(), worker.clone());
    scene.becomes("run", "Verified", "Unknown", "Verifying");
    let asked: Vec<_> = agent.shim.requests().into_iter().filter(|one| one.contains("/backupruns?")).collect();
    assert!(
        !asked.is_empty() && asked.iter().all(|one| one.contains("spec.verify")),
        "it is told of others: {asked:?}"
    );
    soon("it does not say how far it is", || scene.status("run")["verifiedPercent"] == 50);
    let at_work = scene.status("run");
    assert_eq!(at_work["agent"], json!(pod));
    soon("its heart does not beat", || scene.status("run")["heartbeat"] != at_work["heartbeat"]);
    worker.0.told.add_permits(1);
    scene.becomes("run", "Verified", "True", "Sound");
    assert_eq!(scene.status("run")["verifiedPercent"], 100);
    assert_eq!(
        (end(&scene, "run"), scene.condition("run", "Complete")),
        (before, Some(("True".into(), "Stored".into())))
    );
    soon("an event says it", || scene.events("BackupRun", "run").contains(&"Verified".into()));
    assert_eq!((worker.begun(), scene.status("plain")["agent"].clone()), (vec!["run".to_owned()], json!("gone")));
}

#[test]
fn what_one_agent_stores_it_reads_back_once() {
    let (scene, worker) = (Scene::new(), Reads::new(2, Found::Sound));
    let pod = scene.pod("agent");
    let mut agents = [
        scene.agent_of("agent", pod.clone(), Played::default(), 2),
        scene.verifications("agent", pod.clone(), worker.clone()),
    ];
    scene.assigned("run", &json!({"verify": "Structure"}));
    scene.becomes("run", "Verified", "True", "Sound");
    // The next one, so that the first could have been begun again.
    scene.assigned("next", &json!({"verify": "All"}));
    scene.becomes("next", "Verified", "True", "Sound");
    for agent in &mut agents {
        scene.stop(agent);
    }
    assert_eq!(worker.begun(), ["run", "next"]);
    for name in ["run", "next"] {
        assert_eq!(scene.condition(name, "Complete"), Some(("True".into(), "Stored".into())));
    }
}

#[test]
fn damage_is_told_of_and_the_run_is_complete_all_the_same() {
    let (scene, worker) = (Scene::new(), Reads::new(1, Found::Damaged));
    stored(&scene, "run", "All", "gone");
    let _agent = scene.verifications("agent", scene.pod("agent"), worker);
    scene.becomes("run", "Verified", "False", "Damaged");
    let conditions = scene.status("run")["conditions"].to_string();
    assert!(conditions.contains("bytes 0..65536 of disk root are lost: it is gone (segment)"), "{conditions}");
    assert_eq!(scene.condition("run", "Complete"), Some(("True".into(), "Stored".into())));
    soon("an event says it", || scene.events("BackupRun", "run").contains(&"PointDamaged".into()));
}

#[test]
fn what_could_not_be_read_is_not_known_and_not_read_again() {
    let (scene, worker) = (Scene::new(), Reads::new(2, Found::Nothing(ErrorKind::Unavailable)));
    let mut agent = scene.verifications("agent", scene.pod("agent"), worker.clone());
    for name in ["run", "next"] {
        stored(&scene, name, "All", "gone");
        scene.becomes(name, "Verified", "Unknown", "Unavailable");
    }
    let conditions = scene.status("run")["conditions"].to_string();
    assert!(conditions.contains("no. Ask."), "{conditions}");
    scene.stop(&mut agent);
    assert_eq!(worker.begun(), ["run", "next"]);
}

#[test]
fn the_next_agent_begins_it_again_once_the_pod_of_the_one_before_is_gone() {
    let (scene, worker) = (Scene::new(), Reads::new(0, Found::Sound));
    let first = scene.pod("first");
    stored(&scene, "run", "All", "gone");
    let mut stopped = scene.verifications("first", first.clone(), worker.clone());
    scene.becomes("run", "Verified", "Unknown", "Verifying");
    scene.stop(&mut stopped);
    assert_eq!(scene.condition("run", "Verified"), Some(("Unknown".into(), "Verifying".into())));
    let second = scene.verifications("second", scene.pod("second"), worker.clone());
    // It has looked, and more than once.
    soon("it looks again", || second.shim.count("/pods?") >= 2);
    assert_eq!((scene.status("run")["agent"].clone(), worker.begun().len()), (json!(first), 1));
    scene.pod_is_gone("first");
    worker.0.told.add_permits(1);
    scene.becomes("run", "Verified", "True", "Sound");
    assert_eq!((scene.status("run")["agent"].clone(), worker.begun().len()), (json!(second.me.uid), 2));
}

#[test]
fn who_cancels_a_run_that_has_a_point_ends_its_verification_alone() {
    let (scene, worker) = (Scene::new(), Reads::new(0, Found::Sound));
    let mut agent = scene.verifications("agent", scene.pod("agent"), worker);
    stored(&scene, "run", "All", "gone");
    scene.becomes("run", "Verified", "Unknown", "Verifying");
    scene.runs.change("run", &json!({"cancel": true})).ok();
    scene.becomes("run", "Verified", "Unknown", "Cancelled");
    assert_eq!(scene.condition("run", "Complete"), Some(("True".into(), "Stored".into())));
    // Nothing has failed that anybody wanted.
    scene.stop(&mut agent);
    let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
    assert_eq!((count(&agent.counts.failed), count(&agent.counts.cancelled)), (0, 1));
    assert!(!scene.events("BackupRun", "run").contains(&"NotVerified".into()));
}

#[test]
fn points_are_read_one_at_a_time() {
    let (scene, worker) = (Scene::new(), Reads::new(0, Found::Sound));
    for name in ["one", "other"] {
        stored(&scene, name, "All", "gone");
    }
    let mut agent = scene.verifications("agent", scene.pod("agent"), worker.clone());
    soon("one begins", || !worker.begun().is_empty());
    let first = worker.begun()[0].clone();
    // Its loop has had its turn since, and more than once.
    let beat = scene.status(&first)["heartbeat"].clone();
    soon("its heart does not beat", || scene.status(&first)["heartbeat"] != beat);
    assert_eq!(worker.begun(), [first.as_str()]);
    worker.0.told.add_permits(1);
    soon("the other one begins", || worker.begun().len() == 2);
    assert_eq!(scene.condition(&first, "Verified"), Some(("True".into(), "Sound".into())));
    worker.0.told.add_permits(1);
    for name in ["one", "other"] {
        scene.becomes(name, "Verified", "True", "Sound");
    }
    scene.stop(&mut agent);
    assert_eq!(worker.begun().len(), 2);
}
