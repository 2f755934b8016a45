//! Running `remora-fleet` (`tests/fleet`): agents of many nodes with their machines.

mod load;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

pub use self::load::Load;
use crate::deployed::Deployed;
use crate::process::Must;
use crate::remora::program;

/// How often it is looked whether what is waited for holds, if the fleet says nothing.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A running fleet. Dropping it ends it.
pub struct Fleet {
    folder: TempDir,
    child: Child,
    orders: Option<ChildStdin>,
    told: Receiver<Value>,
    ready: bool,
    /// The runs that were begun, in order; one that was begun twice is there twice.
    pub begun: Vec<String>,
    /// The runs whose job runs or ran.
    pub works: BTreeSet<String>,
    /// The runs that have ended, and their reasons.
    pub ended: BTreeMap<String, String>,
}

/// What is played.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Nodes, with an agent each.
    pub nodes: usize,
    /// Machines of all nodes.
    pub machines: usize,
    /// Namespaces in which these are.
    pub namespaces: usize,
}

/// What runs do once their jobs run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// They end.
    None,
    /// They wait for [`Fleet::release`].
    UntilReleased,
}

impl Fleet {
    /// Starts one, whose agents reach the API server at `url`, and waits until its agents are at work.
    pub fn start(deployed: &Deployed, url: &str, size: Size, pause: Pause) -> Self {
        let folder = tempfile::tempdir().must("make the fleet's folder");
        let (api, controller) = (&deployed.api, &deployed.controller);
        let mut command = Command::new(program("remora-fleet"));
        command.args(["--server", &api.url(), "--agents", url, "--token", api.owner_token()]);
        command.args(["--keys", &controller.keys_url(), "--repository", Deployed::REPOSITORY]);
        command.arg("--ca").arg(api.certificate()).arg("--folder").arg(folder.path());
        for (name, value) in [("nodes", size.nodes), ("machines", size.machines), ("namespaces", size.namespaces)] {
            command.args([format!("--{name}"), value.to_string()]);
        }
        if pause == Pause::UntilReleased {
            command.arg("--hold");
        }
        let log = File::create(folder.path().join("log")).must("open the fleet's log");
        let child = command.env_remove("REMORA_LOG").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn();
        let mut child = child.must("start remora-fleet");
        let orders = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().must("take the fleet's output")).lines();
        let (sender, told) = channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                sender.send(serde_json::from_str(&line).must("read what the fleet says")).ok();
            }
        });
        let (begun, works, ended) = (Vec::new(), BTreeSet::new(), BTreeMap::new());
        let mut fleet = Self { folder, child, orders, told, ready: false, begun, works, ended };
        // Some thousands of objects a minute, and each has five.
        let limit = Duration::from_mins(10) + Duration::from_millis(150) * u32::try_from(size.machines).must("count");
        fleet.wait_until("the fleet is not ready", limit, |fleet| fleet.ready);
        fleet
    }

    fn order(&mut self, order: &str) {
        writeln!(self.orders.as_mut().must("have its input"), "{order}").must("give the fleet an order");
    }

    /// Asks for a run of each of so many machines, from the number `first` on. No two runs have the same number.
    pub fn run(&mut self, first: usize, count: usize) {
        self.order(&format!("run {first} {count}"));
    }

    /// Lets so many runs end.
    pub fn release(&mut self, count: usize) {
        self.order(&format!("release {count}"));
    }

    /// Waits until what it has told makes something hold.
    #[track_caller]
    pub fn wait_until(&mut self, what: &str, limit: Duration, mut holds: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !holds(self) {
            assert!(
                start.elapsed() < limit,
                "waited {limit:?} in vain: {what}; ended: {:?}\n{}",
                self.ended,
                self.log()
            );
            if let Ok(told) = self.told.recv_timeout(LOOK_EVERY) {
                self.note(&told);
                // All that is there already.
                while let Ok(told) = self.told.try_recv() {
                    self.note(&told);
                }
            } else {
                let status = self.child.try_wait().must("look at the fleet");
                assert!(status.is_none(), "the fleet has ended: {status:?}\n{}", self.log());
            }
        }
    }

    fn note(&mut self, told: &Value) {
        let text = |name: &str| told[name].as_str().map(ToOwned::to_owned);
        self.ready |= !told["ready"].is_null();
        self.begun.extend(text("begun"));
        self.works.extend(text("works"));
        if let Some(run) = text("ended") {
            self.ended.insert(run, text("reason").unwrap_or_default());
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What its agents have logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Gives its agents new tokens, as the kubelet does.
    pub fn renew_tokens(&self, deployed: &Deployed, nodes: usize) {
        for node in (0..nodes).map(|number| format!("node-{number}")) {
            let pod = deployed.api.get(&format!("/api/v1/namespaces/remora/pods/agent-{node}"));
            for (of, audience) in [("api", None), ("keys", Some("remora-controller"))] {
                let token = deployed.api.token("remora", "remora-agent", audience, Some(&pod));
                fs::write(self.folder.path().join(format!("{node}-{of}")), token).must("write a token");
            }
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the fleet's log:\n{}", self.log());
        }
        drop(self.orders.take());
        self.child.wait().ok();
    }
}
