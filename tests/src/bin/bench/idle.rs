//! The agent of a node that has 50 machines and nothing to do.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use remora_tests::fleet::{Pause, Size};
use remora_tests::{ApiServer, Deployed, Fleet, MIB, MountedConfigMap, Must, wait_until};
use serde_json::json;

use crate::measure::{cpu_of, mib};
use crate::nodes::memory;
use crate::report::{Row, Run};
use crate::setting::Setting;

const MACHINES: usize = 50;

/// How long it is looked at: it looks around on its node every five minutes.
const WHILE: Duration = Duration::from_mins(6);

/// What it has policies of its administrator for.
const POLICY: &str = "kind: BackupPolicy\nname: nightly\nselect: {module: builtin:labels, settings: {matchLabels: {backup: nightly}}}\n\
    schedule: {module: builtin:cron, settings: {cron: 15 2 * * *}}\nretention: {module: builtin:gfs, settings: {daily: 7}}\n\
    target: {repository: backups}\n";

/// What it may take.
const MEMORY: u64 = 96 * MIB;
const SHARE_OF_A_CORE: f64 = 0.01;

const SOON: Duration = Duration::from_mins(5);

const WHERE: &str = "the runs of its node, connections to the API server.";

pub(crate) fn measure(_: &Setting) -> Vec<Row> {
    let api = ApiServer::start();
    let url = api.url();
    let deployed = Deployed::start(api, &url);
    // Each machine has a run that made a point.
    let mut fleet = Fleet::start(&deployed, &url, Size { nodes: 1, machines: MACHINES, namespaces: 5 }, Pause::None);
    fleet.run(0, MACHINES);
    fleet.wait_until("the runs do not end", SOON, |fleet| fleet.ended.len() == MACHINES);
    drop(fleet);
    let agent = Agent::start(&deployed);
    let cpu = || cpu_of(Pid::from_raw(agent.child.id().try_into().must("take a process id")));
    // Not its start.
    let (before, began) = (cpu(), Instant::now());
    std::thread::sleep(WHILE);
    let share = (cpu() - before).as_secs_f64() / began.elapsed().as_secs_f64();
    let (now, peak) = (memory(agent.child.id(), "VmRSS:"), memory(agent.child.id(), "VmHWM:"));
    vec![
        Row::once(
            "An idle agent with 50 machines on its node: memory",
            WHERE,
            Run {
                allowed: mib(MEMORY),
                measured: format!("{}, at its most {}", mib(now), mib(peak)),
                share: peak as f64 / MEMORY as f64,
            },
        ),
        Row::once(
            "The same: processor time in six minutes",
            WHERE,
            Run {
                allowed: format!("{:.1} % of a core", SHARE_OF_A_CORE * 100.0),
                measured: format!("{:.2} %", share * 100.0),
                share: share / SHARE_OF_A_CORE,
            },
        ),
    ]
}

/// `remora-agent node`, as the pod of the node's agent.
struct Agent {
    child: Child,
    _folder: tempfile::TempDir,
}

impl Agent {
    fn start(deployed: &Deployed) -> Self {
        let folder = tempfile::tempdir().must("make the agent's folder");
        let api = &deployed.api;
        let pod = api.get("/api/v1/namespaces/remora/pods/agent-node-0");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).must(format_args!("write {name}"));
            path
        };
        let token = file("api-token", &api.token("remora", "remora-agent", None, Some(&pod)));
        let kubeconfig = file("kubeconfig", &api.kubeconfig_at(&api.url(), &json!({"tokenFile": token})));
        let keys_token = file("token", &api.token("remora", "remora-agent", Some("remora-controller"), Some(&pod)));
        let published = api.get("/api/v1/namespaces/remora/configmaps/remora-controller-ca");
        let ca = file("ca.crt", published["data"]["ca.crt"].as_str().must("find the CA"));
        let dir = |name: &str| {
            let path = folder.path().join(name);
            fs::create_dir(&path).must(format_args!("make {name}"));
            path
        };
        let program = std::env::current_exe().must("find this program").with_file_name("remora-agent");
        let mut command = Command::new(program);
        command.args(["node", "--node", "node-0", "--namespace", "remora", "--pod", "agent-node-0", "--pod-uid"]);
        command.arg(pod["metadata"]["uid"].as_str().must("find the pod's UID"));
        command.args(["--controller", &deployed.controller.keys_url()]).arg("--controller-ca").arg(ca);
        for (name, path) in
            [("--token", keys_token), ("--pods", dir("pods")), ("--keys", dir("keys")), ("--state", dir("state"))]
        {
            command.arg(name).arg(path);
        }
        // As it is deployed.
        let policies = MountedConfigMap::make(folder.path().join("policies"));
        policies.put(&[("nightly.yaml", POLICY)]);
        command.arg("--policies").arg(policies.folder()).arg("--plugins").arg(dir("plugins"));
        command.args(["--listen", "127.0.0.1:0"]);
        let since = api.mark();
        let child = command.env("KUBECONFIG", kubeconfig).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let agent = Self { child: child.must("start remora-agent"), _folder: folder };
        wait_until("the agent does not watch its runs", SOON, || {
            let mut watches = 0;
            api.asked(since, api.mark(), |request| {
                watches +=
                    usize::from(request.user == "remora-agent" && request.verb == "watch" && request.code == 200);
            });
            watches >= 2
        });
        agent
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
