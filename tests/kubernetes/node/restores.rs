//! Restores of a node: the controller, and what writes claims, are played.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use remora_core::ports::Progress;
use remora_core::{Error, ErrorKind};
use remora_kube::node::{Failure, Meter, RestoreOrder, RestoreWorker};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::scene::{Scene, soon};

/// Writes ten bytes, five of them once it is told to.
#[derive(Clone)]
struct Writes(Arc<Play>);

struct Play {
    told: Semaphore,
    fails: Option<ErrorKind>,
    begun: Mutex<usize>,
    cancelled: Mutex<usize>,
}

impl Writes {
    fn new(told: usize, fails: Option<ErrorKind>) -> Self {
        let told = Semaphore::new(told);
        Self(Arc::new(Play { told, fails, begun: Mutex::default(), cancelled: Mutex::default() }))
    }

    fn begun(&self) -> usize {
        *self.0.begun.lock().unwrap()
    }

    fn cancelled(&self) -> usize {
        *self.0.cancelled.lock().unwrap()
    }
}

#[async_trait]
impl RestoreWorker for Writes {
    async fn restore(&self, order: &RestoreOrder, meter: Arc<Meter>, cancel: CancellationToken) -> Result<(), Failure> {
        *self.0.begun.lock().unwrap() += 1;
        assert_eq!(order.spec.disks[0].claim, "copy");
        meter.expect(10);
        meter.advance(5);
        tokio::select! {
            told = self.0.told.acquire() => told.unwrap().forget(),
            () = cancel.cancelled() => {
                *self.0.cancelled.lock().unwrap() += 1;
                return Err(Error::new(ErrorKind::Cancelled, "cancelled").into());
            }
        }
        meter.advance(5);
        match self.0.fails {
            Some(kind) => Err(Error::new(kind, "no").advise("Ask.").into()),
            None => Ok(()),
        }
    }
}

fn scene() -> Scene {
    Scene::of("RestoreRun", "restoreruns")
}

/// A restore that the controller has given to this node.
fn assigned(scene: &Scene, name: &str) {
    let disks = json!([{"disk": "root", "claim": "copy"}]);
    let spec = json!({"point": "0011223344556677-1", "repository": {"name": "offsite"}, "disks": disks});
    scene.runs.create(name, &spec).ok();
    scene.says(name, &json!({"node": scene.node}));
}

#[test]
pub(super) fn a_restore_is_claimed_and_says_how_far_it_is_and_that_all_is_written() {
    let (scene, worker) = (scene(), Writes::new(0, None));
    let agent = scene.restores("agent", worker.clone());
    assigned(&scene, "run");
    scene.becomes("run", "Written", "Unknown", "Running");
    soon("it does not say how far it is", || scene.status("run")["percent"] == 50);
    let before = scene.status("run");
    assert_eq!((&before["agent"], &before["writtenBytes"]), (&json!(agent.me.uid), &json!(5)));
    soon("its heart does not beat", || scene.status("run")["heartbeat"] != before["heartbeat"]);
    worker.0.told.add_permits(1);
    scene.becomes("run", "Written", "True", "Verified");
    let status = scene.status("run");
    assert_eq!((&status["percent"], &status["writtenBytes"], worker.begun()), (&json!(100), &json!(10), 1));
    // The end is the controller's to say.
    assert!(status["completionTime"].is_null() && scene.condition("run", "Complete").is_none(), "{status:#}");
}

#[test]
fn what_fails_says_why_and_is_not_begun_again() {
    let (scene, worker) = (scene(), Writes::new(2, Some(ErrorKind::NoSpace)));
    let mut agent = scene.restores("agent", worker.clone());
    assigned(&scene, "run");
    scene.becomes("run", "Written", "False", "NoSpace");
    let message = scene.status("run")["conditions"].to_string();
    assert!(message.contains("no. Ask."), "{message}");
    assigned(&scene, "next");
    scene.becomes("next", "Written", "False", "NoSpace");
    scene.stop(&mut agent);
    assert_eq!(worker.begun(), 2);
}

#[test]
fn one_that_stops_gives_its_restore_to_the_next_which_begins_again() {
    let (scene, worker) = (scene(), Writes::new(0, None));
    let mut first = scene.restores("first", worker.clone());
    assigned(&scene, "run");
    scene.becomes("run", "Written", "Unknown", "Running");
    scene.stop(&mut first);
    assert_eq!(scene.condition("run", "Written"), Some(("Unknown".into(), "Interrupted".into())));
    assert!(scene.status("run")["agent"].is_null());
    worker.0.told.add_permits(1);
    let second = scene.restores("second", worker.clone());
    scene.becomes("run", "Written", "True", "Verified");
    assert_eq!((scene.status("run")["agent"].clone(), worker.begun()), (json!(second.me.uid), 2));
}

#[test]
fn one_of_a_dead_agent_is_taken_over_once_its_pod_is_gone() {
    let (scene, worker) = (scene(), Writes::new(1, None));
    let dead = scene.pod("dead");
    assigned(&scene, "run");
    scene.says("run", &json!({"agent": dead}));
    let agent = scene.restores("agent", worker.clone());
    assigned(&scene, "other");
    scene.becomes("other", "Written", "True", "Verified");
    assert_eq!(scene.status("run")["agent"], json!(dead), "it was taken from an agent that lives");
    worker.0.told.add_permits(1);
    scene.pod_is_gone("dead");
    scene.becomes("run", "Written", "True", "Verified");
    assert_eq!(scene.status("run")["agent"], json!(agent.me.uid));
}

#[test]
pub(super) fn what_is_cancelled_deleted_or_ended_is_left_alone() {
    let (scene, worker) = (scene(), Writes::new(0, None));
    let agent = scene.restores("agent", worker.clone());
    for (number, name) in ["cancelled", "deleted", "ended"].into_iter().enumerate() {
        assigned(&scene, name);
        scene.becomes(name, "Written", "Unknown", "Running");
        match name {
            "cancelled" => drop(scene.runs.change(name, &json!({"cancel": true})).ok()),
            "deleted" => drop(scene.api().delete(&scene.runs.path(name)).ok()),
            _ => {
                let since = "2026-01-01T00:00:00Z";
                let mut conditions = scene.status(name)["conditions"].as_array().unwrap().clone();
                conditions.push(json!({"type": "Failed", "status": "True", "reason": "R", "message": "m", "lastTransitionTime": since}));
                scene.says(name, &json!({"conditions": conditions}));
            }
        }
        soon("it is not cancelled", || worker.cancelled() == number + 1);
        if name != "deleted" {
            assert_eq!(scene.condition(name, "Written"), Some(("Unknown".into(), "Running".into())), "{name}");
        }
    }
    let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
    soon("each is counted", || (count(&agent.counts.cancelled), count(&agent.counts.lost)) == (1, 2));
}
