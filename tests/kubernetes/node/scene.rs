//! A node with its runs and agents, and a controller that the tests play.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use remora_kube::node::{Agent, Counts, Me, Pace, RestoreWorker, Restores, Verifications, VerifyWorker, Worker};
use remora_tests::{ApiServer, wait_until};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::shim::Shim;
use crate::deploy::agent_token;
use crate::{Resources, with};

/// How long anything may take on a busy machine.
pub(super) const SOON: Duration = Duration::from_mins(10);

/// A node of a test's own, in a namespace of its own that is also remora's.
pub(super) struct Scene {
    pub(super) runs: Resources,
    pub(super) namespace: String,
    pub(super) node: String,
    /// Its `Node`, once it has one.
    joined: OnceLock<Joined>,
    runtime: Runtime,
}

/// A node of the cluster.
struct Joined {
    uid: String,
    /// A token of a pod on it.
    token: NamedTempFile,
}

/// An agent at work.
pub(super) struct AgentAtWork {
    pub(super) me: Me,
    pub(super) shim: Arc<Shim>,
    pub(super) counts: Arc<Counts>,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl AgentAtWork {
    /// Ends it as SIGKILL does: it says nothing more.
    pub(super) fn kill(&mut self) {
        self.shim.away(true);
        self.stop.cancel();
        self.task.take().unwrap().abort();
    }
}

impl Scene {
    pub(super) fn new() -> Self {
        Self::of("BackupRun", "backupruns")
    }

    /// One whose runs are of that kind.
    pub(super) fn of(kind: &'static str, plural: &'static str) -> Self {
        let runs = Resources::new(kind, plural);
        let namespace = runs.list.split('/').nth(5).unwrap().to_owned();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        Self { node: format!("node-of-{namespace}"), joined: OnceLock::new(), runs, namespace, runtime }
    }

    pub(super) fn api(&self) -> &'static ApiServer {
        self.runs.api
    }

    /// The reasons of the events on an object of its namespace.
    pub(super) fn events(&self, kind: &str, name: &str) -> Vec<String> {
        let path = format!("/apis/events.k8s.io/v1/namespaces/{}/events", self.namespace);
        let of_it = |event: &&Value| event["regarding"]["kind"] == kind && event["regarding"]["name"] == name;
        let all = self.api().get(&path)["items"].as_array().unwrap().clone();
        all.iter().filter(of_it).map(|event| event["reason"].as_str().unwrap().to_owned()).collect()
    }

    /// A run that the controller has given to this node.
    pub(super) fn assigned(&self, name: &str, fields: &Value) {
        let spec = json!({"virtualMachine": name, "repository": {"name": "offsite"}});
        self.runs.create(name, &with(spec, fields)).ok();
        self.says(name, &json!({"node": self.node}));
    }

    /// What somebody says in the status of a run.
    pub(super) fn says(&self, name: &str, status: &Value) {
        self.api().merge(&format!("{}/status", self.runs.path(name)), &json!({"status": status})).ok();
    }

    pub(super) fn run(&self, name: &str) -> Value {
        self.api().get(&self.runs.path(name))
    }

    /// All runs.
    pub(super) fn list(&self) -> Vec<Value> {
        self.api().get(&self.runs.list)["items"].as_array().unwrap().clone()
    }

    pub(super) fn status(&self, name: &str) -> Value {
        self.run(name)["status"].clone()
    }

    /// A condition of a run: its status and its reason.
    pub(super) fn condition(&self, name: &str, kind: &str) -> Option<(String, String)> {
        let status = self.status(name);
        let found = status["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)?;
        Some((found["status"].as_str()?.into(), found["reason"].as_str()?.into()))
    }

    /// The message of a condition of a run.
    pub(super) fn message(&self, name: &str, kind: &str) -> String {
        let status = self.status(name);
        let conditions = status["conditions"].as_array().unwrap();
        let found = conditions.iter().find(|condition| condition["type"] == kind).unwrap();
        found["message"].as_str().unwrap().to_owned()
    }

    /// Waits until a condition of a run has this status and reason.
    #[track_caller]
    pub(super) fn becomes(&self, name: &str, kind: &str, status: &str, reason: &str) {
        let wanted = Some((status.to_owned(), reason.to_owned()));
        wait_until(format_args!("{kind} of {name} does not become {status} {reason}"), SOON, || {
            self.condition(name, kind) == wanted
        });
    }

    /// A pod of an agent on this node; its UID.
    pub(super) fn pod(&self, name: &str) -> String {
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "remora-agent"}},
            "spec": {"nodeName": self.node, "containers": [{"name": "agent", "image": "remora"}]},
        });
        let made = self.api().create(&self.pods(), &pod).ok();
        made["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    pub(super) fn pod_is_gone(&self, name: &str) {
        self.api().delete(&format!("{}/{name}?gracePeriodSeconds=0", self.pods())).ok();
    }

    fn pods(&self) -> String {
        format!("/api/v1/namespaces/{}/pods", self.namespace)
    }

    /// An agent with a pod of its own, that does any number of runs at once.
    pub(super) fn agent<W: Worker>(&self, pod: &str, worker: W) -> AgentAtWork {
        self.agent_through(Shim::default(), pod, worker)
    }

    pub(super) fn agent_through<W: Worker>(&self, shim: Shim, pod: &str, worker: W) -> AgentAtWork {
        self.start(Arc::new(shim), pod, self.pod(pod), worker, pace(usize::MAX))
    }

    /// An agent with a pod that is there already, or was.
    pub(super) fn agent_of<W: Worker>(&self, pod: &str, uid: String, worker: W, parallel: usize) -> AgentAtWork {
        self.start(Arc::new(Shim::default()), pod, uid, worker, pace(parallel))
    }

    /// The same, of one that asks for next to nothing by the clock: how many requests it makes does not depend on how long the runs
    /// take.
    pub(super) fn counted_agent_of<W: Worker>(
        &self,
        pod: &str,
        uid: String,
        worker: W,
        parallel: usize,
    ) -> AgentAtWork {
        let hour = Duration::from_hours(1);
        let pace =
            Pace { heartbeat: hour, look_again: Duration::from_mins(1), rest: hour, capabilities: hour, parallel };
        self.start(Arc::new(Shim::default()), pod, uid, worker, pace)
    }

    fn start<W: Worker>(&self, shim: Arc<Shim>, pod: &str, uid: String, worker: W, pace: Pace) -> AgentAtWork {
        let client = {
            let _inside = self.runtime.enter();
            shim.client(self.api())
        };
        let me = self.me(pod, uid);
        let (stop, counts) = (CancellationToken::new(), Arc::new(Counts::default()));
        let agent = Agent::new(client, me.clone(), worker, pace, Arc::clone(&counts));
        let task = Some(self.runtime.spawn(agent.run(stop.clone())));
        AgentAtWork { me, shim, counts, stop, task }
    }

    /// What does restores, with a pod of its own.
    pub(super) fn restores<W: RestoreWorker>(&self, pod: &str, worker: W) -> AgentAtWork {
        let shim = Arc::new(Shim::default());
        let client = {
            let _inside = self.runtime.enter();
            shim.client(self.api())
        };
        let me = self.me(pod, self.pod(pod));
        let (stop, counts) = (CancellationToken::new(), Arc::new(Counts::default()));
        let restores = Restores::new(client, me.clone(), worker, pace(usize::MAX), Arc::clone(&counts));
        let task = Some(self.runtime.spawn(restores.run(stop.clone())));
        AgentAtWork { me, shim, counts, stop, task }
    }

    /// What does verifications, in a pod that is there already: one at a time, as the program does.
    pub(super) fn verifications<W: VerifyWorker>(&self, pod: &str, uid: String, worker: W) -> AgentAtWork {
        let shim = Arc::new(Shim::default());
        let client = {
            let _inside = self.runtime.enter();
            shim.client(self.api())
        };
        let me = self.me(pod, uid);
        let (stop, counts) = (CancellationToken::new(), Arc::new(Counts::default()));
        let verifications = Verifications::new(client, me.clone(), worker, pace(1), Arc::clone(&counts));
        let task = Some(self.runtime.spawn(verifications.run(stop.clone())));
        AgentAtWork { me, shim, counts, stop, task }
    }

    /// The node joins the cluster: agents that are started from now on have a token that tells its UID, which this is.
    pub(super) fn join(&self) -> &str {
        &self.joined.get_or_init(|| self.joined()).uid
    }

    fn joined(&self) -> Joined {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.node}});
        let node = self.api().create("/api/v1/nodes", &node).ok();
        // The account is there.
        agent_token(self.api());
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": self.node},
            "spec": {
                "nodeName": self.node, "serviceAccountName": "remora-agent",
                "containers": [{"name": "agent", "image": "remora"}],
            },
        });
        let pod = self.api().create("/api/v1/namespaces/remora/pods", &pod).ok();
        let token = NamedTempFile::new().unwrap();
        let told = self.api().token("remora", "remora-agent", Some("remora-controller"), Some(&pod));
        std::fs::write(token.path(), told).unwrap();
        Joined { uid: node["metadata"]["uid"].as_str().unwrap().to_owned(), token }
    }

    fn me(&self, pod: &str, uid: String) -> Me {
        let token = self.joined.get().map(|joined| joined.token.path().to_owned());
        Me { node: self.node.clone(), token, namespace: self.namespace.clone(), pod: pod.into(), uid }
    }

    /// Tells the agent to stop, as the kubelet does, and waits until it has.
    pub(super) fn stop(&self, agent: &mut AgentAtWork) {
        agent.stop.cancel();
        let task = agent.task.take().unwrap();
        self.runtime.block_on(async { tokio::time::timeout(SOON, task).await }).unwrap().unwrap();
    }
}

/// One of seconds, in which no run has waited for long enough.
fn pace(parallel: usize) -> Pace {
    let (second, rest) = (Duration::from_secs(1), Duration::from_hours(1));
    Pace { parallel, heartbeat: second, look_again: second, rest, capabilities: second }
}

#[track_caller]
pub(super) fn soon(what: &str, holds: impl FnMut() -> bool) {
    wait_until(what.to_owned(), SOON, holds);
}
