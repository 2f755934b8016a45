//! What is logged of runs: each line says which one it is of, and of which machine.

use std::io;
use std::sync::{Arc, LazyLock, Mutex};

use async_trait::async_trait;
use remora_core::point::Point;
use remora_core::{BackupName, Error, ErrorKind};
use remora_kube::node::{Desk, Done, Failure, Meter, Order, RestoreOrder, RestoreWorker, Worker};
use remora_kube::resources::Capability;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::scene::Scene;

/// What this process logs, whatever test it is of.
static LOG: LazyLock<Log> = LazyLock::new(|| {
    let log = Log::default();
    let writer = log.clone();
    // As the programs do with `--log-json`.
    tracing_subscriber::fmt().with_writer(move || writer.clone()).json().init();
    log
});

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// The line of run `run` of a scene that says this.
    #[track_caller]
    fn line(&self, scene: &Scene, message: &str) -> Value {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let (run, worker) = (json!(format!("{}/run", scene.namespace)), json!(scene.namespace));
        let is =
            |fields: &Value| fields["message"] == message && (fields["run"] == run || fields["namespace"] == worker);
        let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.find(|line| is(&line["fields"])).unwrap_or_else(|| panic!("nobody says {message:?} of {run}"))
    }
}

/// Fails, and logs something before.
struct Logs;

impl Logs {
    fn fail(namespace: &str) -> Failure {
        tracing::info!(namespace, "somebody is at work");
        Error::new(ErrorKind::NoSpace, "there is no room").advise("Make some.").into()
    }
}

#[async_trait]
impl Worker for Logs {
    async fn committed(&self, _: &Order, _: &BackupName) -> Result<Option<Point>, Failure> {
        Ok(None)
    }

    async fn work(&self, order: &Order, _: &Desk, _: CancellationToken) -> Result<Done, Failure> {
        Err(Self::fail(&order.namespace))
    }

    async fn capabilities(&self) -> Vec<Capability> {
        Vec::new()
    }
}

#[async_trait]
impl RestoreWorker for Logs {
    async fn restore(&self, order: &RestoreOrder, _: Arc<Meter>, _: CancellationToken) -> Result<(), Failure> {
        Err(Self::fail(&order.namespace))
    }
}

/// That the lines of run `run` of a scene that say this are of it, and of that machine.
#[track_caller]
fn assert_told(log: &Log, scene: &Scene, messages: &[&str], machine: &str) {
    let uid = scene.run("run")["metadata"]["uid"].clone();
    let full = |name: &str| json!(format!("{}/{name}", scene.namespace));
    for message in messages {
        let line = log.line(scene, message);
        let spans = line["spans"].as_array().cloned().unwrap_or_default();
        let run = spans.iter().find(|span| span["name"] == "run").unwrap_or_else(|| panic!("of no run: {line}"));
        assert_eq!((&run["run"], &run["uid"], &run["vm"]), (&full("run"), &uid, &full(machine)), "{line}");
    }
}

#[test]
fn each_line_that_is_logged_of_a_run_says_of_which_and_of_which_machine() {
    let (log, scene) = (&*LOG, Scene::new());
    let _agent = scene.agent("agent", Logs);
    scene.assigned("run", &json!({"virtualMachine": "web"}));
    scene.becomes("run", "Failed", "True", "NoSpace");
    assert_told(log, &scene, &["a run begins", "somebody is at work", "there is no room. Make some."], "web");
}

#[test]
fn each_line_that_is_logged_of_a_restore_says_of_which_and_of_which_machine() {
    let (log, scene) = (&*LOG, Scene::of("RestoreRun", "restoreruns"));
    let _agent = scene.restores("agent", Logs);
    let target = json!({"name": "copy"});
    let spec = json!({"point": "0011223344556677-1", "repository": {"name": "offsite"}, "virtualMachine": target});
    scene.runs.create("run", &spec).ok();
    scene.says("run", &json!({"node": scene.node}));
    scene.becomes("run", "Written", "False", "NoSpace");
    assert_told(log, &scene, &["a restore begins", "somebody is at work", "there is no room. Make some."], "copy");
}
