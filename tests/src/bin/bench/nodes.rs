//! A cluster of many nodes: what it asks of the API server, and what memory it takes. The API server and the controller are real;
//! the agents are too, but for their source and their store (`tests/fleet`).

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use remora_tests::fleet::{Load, Pause, Size};
use remora_tests::{ApiServer, Deployed, Fleet, Must};

use crate::measure::mib;
use crate::report::{Row, Run};
use crate::setting::Setting;

/// Nodes, and machines on all of them.
const SIZES: [(usize, usize); 4] = [(20, 1_000), (50, 2_500), (100, 5_000), (200, 10_000)];

/// So many machines of each node are backed up, all at once; an agent takes two at a time.
const RUNS_OF_A_NODE: usize = 4;

/// Machines of a namespace.
const OF_A_NAMESPACE: usize = 50;

/// How long a cluster in which nothing happens is looked at.
const IDLE: Duration = Duration::from_mins(2);

/// How long a run may take.
const RUN: Duration = Duration::from_secs(10);

/// What may grow beyond the cluster's size.
const SLACK: f64 = 1.25;

/// How much memory the controller may take, by what it is deployed with.
const MEMORY: u64 = 256 << 20;

const WHERE: &str = "the table below tells which requests are made, by whom and of what size of cluster.";

/// What one cluster took.
struct Took {
    nodes: usize,
    machines: usize,
    runs: usize,
    load: Load,
    /// Of two minutes.
    idle: Load,
    wall: Duration,
    controller: u64,
    peak: u64,
    agents: u64,
}

pub(crate) fn measure(setting: &Setting) -> Vec<Row> {
    let largest = std::env::var("REMORA_BENCH_NODES").ok().map(|text| text.parse().must("read REMORA_BENCH_NODES"));
    let sizes = SIZES.into_iter().filter(|(nodes, _)| largest.is_none_or(|largest: usize| *nodes <= largest));
    let all: Vec<_> = sizes.map(|(nodes, machines)| measure_one(nodes, machines)).collect();
    let table = table(&all);
    println!("{table}");
    setting.tell("A cluster of many nodes", table);
    let (first, last) = (all.first().must("have a size"), all.last().must("have a size"));
    let linear = |what, of: fn(&Took) -> f64, unit: &str| {
        let (small, large) = (of(first), of(last));
        let allowed = format!("{:.1} {unit} = {SLACK} × {small:.1} with {} nodes", SLACK * small, first.nodes);
        let measured = format!("{large:.1} with {} nodes", last.nodes);
        Row::once(what, WHERE, Run { allowed, measured, share: large / (SLACK * small) })
    };
    vec![
        linear(
            "A cluster of many nodes: requests of a run",
            |took| took.of_run(took.load.controller + took.load.agents),
            "requests",
        ),
        linear(
            "The same: requests of a node in an idle minute",
            |took| took.idle_minute() / took.nodes as f64,
            "requests",
        ),
        Row::once(
            "The same: peak memory of the controller",
            WHERE,
            Run {
                allowed: mib(MEMORY),
                measured: format!("{} with {} machines", mib(last.peak), last.machines),
                share: last.peak as f64 / MEMORY as f64,
            },
        ),
    ]
}

impl Took {
    fn of_run(&self, requests: usize) -> f64 {
        requests as f64 / self.runs as f64
    }

    fn idle_minute(&self) -> f64 {
        (self.idle.controller + self.idle.agents) as f64 * 60.0 / IDLE.as_secs_f64()
    }
}

fn measure_one(nodes: usize, machines: usize) -> Took {
    let api = ApiServer::start();
    let url = api.url();
    let deployed = Deployed::start(api, &url);
    let size = Size { nodes, machines, namespaces: machines / OF_A_NAMESPACE };
    let began = Instant::now();
    let mut fleet = Fleet::start(&deployed, &url, size, Pause::None);
    eprintln!("   {nodes} nodes with {machines} machines are there after {:.0} s", began.elapsed().as_secs_f64());
    let runs = nodes * RUNS_OF_A_NODE;
    let (from, began) = (deployed.api.mark(), Instant::now());
    fleet.run(0, runs);
    let limit = Duration::from_mins(2) + RUN * u32::try_from(runs).must("count runs");
    fleet.wait_until("the runs do not end", limit, |fleet| fleet.ended.len() == runs);
    assert!(fleet.ended.values().all(|reason| reason == "Stored"), "{:?}", fleet.ended);
    let (ended, wall) = (deployed.api.mark(), began.elapsed());
    let load = Load::between(&deployed.api, from, ended);
    assert!(load.crowded().is_empty(), "more than one node has written these: {:?}", load.crowded());
    let quiet = deployed.api.mark();
    std::thread::sleep(IDLE);
    let idle = Load::between(&deployed.api, quiet, deployed.api.mark());
    let controller = deployed.controller.pid();
    Took {
        nodes,
        machines,
        runs,
        load,
        idle,
        wall,
        controller: memory(controller, "VmRSS:"),
        peak: memory(controller, "VmHWM:"),
        agents: memory(fleet.pid(), "VmRSS:"),
    }
}

/// A figure of a process's memory, in bytes.
pub(crate) fn memory(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).must("read a process's memory");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).must("find a process's memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().must("read a process's memory") << 10
}

fn table(all: &[Took]) -> String {
    let mut text = format!(
        "A real API server and a real controller under their real rules; agents that ask the cluster all that a backup asks, \
         and read no disk. Of each node {RUNS_OF_A_NODE} machines are backed up, all asked for at once. Memory of the \
         controller: at rest after the runs, and at its most (about 70 MiB of which is for trying the repository's \
         passphrase). Memory of agents: one process that plays all of them, divided by their number. Besides the Lease, \
         nothing is written by more than the controller and one node's agent (asserted). An agent's `AgentNode`, which it \
         writes in two requests every 20 minutes, is not among those of an idle minute.\n\n\
         | Nodes × machines | Runs | Requests a run: controller, agents | Idle minute: controller, agents | Controller | Agent | \
         Most writes of one object | All runs in |\n|---|---|---|---|---|---|---|---|\n"
    );
    for took in all {
        let minute = |requests: usize| requests as f64 * 60.0 / IDLE.as_secs_f64();
        let _ = writeln!(
            text,
            "| {} × {} | {} | {:.1}, {:.1} | {:.1}, {:.1} | {}, {} | {} | {} | {:.0} s |",
            took.nodes,
            took.machines,
            took.runs,
            took.of_run(took.load.controller),
            took.of_run(took.load.agents),
            minute(took.idle.controller),
            minute(took.idle.agents),
            mib(took.controller),
            mib(took.peak),
            mib(took.agents / took.nodes as u64),
            took.load.hottest().map_or(0, |(_, times)| times),
            took.wall.as_secs_f64(),
        );
    }
    text.push_str("\nOf what these requests are, most first, in the largest cluster:\n\n| Who | | On | A run |\n|---|---|---|---|\n");
    let last = all.last().must("have a size");
    let mut kinds: Vec<_> = last.load.by_kind.iter().collect();
    kinds.sort_by_key(|(_, times)| std::cmp::Reverse(**times));
    for ((who, verb, resource), times) in kinds.into_iter().take(12) {
        let _ = writeln!(text, "| {who} | {verb} | {resource} | {:.1} |", last.of_run(*times));
    }
    text
}
