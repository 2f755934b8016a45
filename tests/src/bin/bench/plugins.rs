//! What plugins cost. Policies: decisions on files, a reload, an idle host. A mover of objects: storing and reading through it,
//! beside the same server without it. `tests/deciding` measures, in the production hosts.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use remora_tests::s3::{KEY, SECRET};
use remora_tests::{MIB, Must, Plugin, RemoraAgent, S3, hostile_policy, run, wait_until};
use serde_json::Value;

use crate::report::{Row, Run};
use crate::setting::Setting;

/// Runs of everything.
const RUNS: usize = 5;

const WHERE_TIME_GOES: &str = "each text of a question is copied into the component's memory by a call of its allocator, what the 64 \
                               have in common once, and its answers out of it; a fresh instance reads its settings first.";
const WHERE_A_RELOAD_GOES: &str = "the new module is compiled, in a process of its own.";
const WHERE_THE_SWAP_GOES: &str = "an agent waits until the folder has rested for 300 ms, compiles the new module, and asks it a first \
                                   question.";
const WHERE_MEMORY_GOES: &str = "compiled code, and an instance that waits for each policy.";
const WHERE_A_PUT_GOES: &str = "64 KiB of what a mover says that it stored are read back: a small request beside each PUT, \
                                which the server on the same cores answers.";
const WHERE_A_GET_GOES: &str = "each request is planned in another process, which takes some round trips to it.";

/// What is allowed over the time without a plugin.
const MOVING: f64 = 1.1;

/// How long a changed policy may take to be in force.
const IN_FORCE: Duration = Duration::from_secs(2);

/// How long is waited for that.
const WHILE: Duration = Duration::from_mins(1);

/// What is measured of decisions: its name, where it stands in the answer, what is allowed in nanoseconds. The 64 are
/// about files of one folder that one user lists.
const DECISIONS: [(&str, &str, u64); 3] = [
    ("authorize, warm: p50 of a decision", "warm", 5_000),
    ("authorize, a fresh instance: p50 of a decision", "fresh", 60_000),
    ("authorize, 64 at once: p50 of each decision", "batch_each", 2_000),
];

/// What a reload may take, in nanoseconds.
const RELOAD: u64 = 100_000_000;

const WHAT_IS_LIMITED: &str = "The limits of `authorize` are for the median (p50) of its decisions. The p99 beside it has no limit, \
                               and may be above that one.\n";

pub(crate) fn measure(setting: &Setting) -> Vec<Row> {
    setting.tell("Decisions on files", WHAT_IS_LIMITED.into());
    let mut rows = deciding();
    rows.push(swapping(setting));
    rows.extend(moving(setting));
    rows
}

fn deciding() -> Vec<Row> {
    let measure = |_| run(&mut Command::new(program("remora-deciding"))).ok().json();
    let measured: Vec<Value> = (0..RUNS).map(measure).collect();
    let mut rows: Vec<_> =
        DECISIONS.into_iter().map(|(what, at, allowed)| times(what, at, allowed, &measured)).collect();
    let reload = |value: &Value| {
        let cpu = number(&value["reload_cpu"]);
        let (allowed, measured) = (format!("{} ms", RELOAD / 1_000_000), format!("{:.0} ms", cpu / 1e6));
        Run { allowed, measured, share: cpu / RELOAD as f64 }
    };
    let runs = measured.iter().map(reload).collect();
    let what = "Reload of one changed policy of 200, with a new module: CPU time";
    rows.push(Row::median(what, WHERE_A_RELOAD_GOES, runs));
    let memory = |value: &Value| {
        let bytes = number(&value["idle_bytes"]);
        let (allowed, measured) = ("150 MiB".into(), format!("{:.0} MiB", bytes / MIB as f64));
        Run { allowed, measured, share: bytes / (150 * MIB) as f64 }
    };
    let runs = measured.iter().map(memory).collect();
    rows.push(Row::median("Idle host with 50 components: resident memory", WHERE_MEMORY_GOES, runs));
    rows
}

fn times(what: &'static str, at: &str, allowed: u64, measured: &[Value]) -> Row {
    let run = |value: &Value| {
        let (p50, p99) = (number(&value[at]["p50"]), number(&value[at]["p99"]));
        let measured = format!("{} (p99 {})", micros(p50), micros(p99));
        Run { allowed: micros(allowed as f64), measured, share: p50 / allowed as f64 }
    };
    Row::median(what, WHERE_TIME_GOES, measured.iter().map(run).collect())
}

/// From the swap of a mounted folder until the changed policy, with a module that nobody has seen, is in force in an agent.
fn swapping(setting: &Setting) -> Row {
    let agent = RemoraAgent::start_with(&setting.lab, None, None);
    let document = "kind: BackupPolicy\nname: swapped\nselect: {module: file:own.wasm}\n\
                    schedule: {module: builtin:cron, settings: {cron: 15 2 * * *}}\n";
    let generation = || agent.metric("remora_policy_generation").must("read the generation of an agent");
    let swap = |n: usize| {
        // A section that nothing reads gives it a digest of its own.
        let mut module = hostile_policy();
        module.extend([0, 2, 1, u8::try_from(n).must("count to 255")]);
        let before = generation();
        agent.put_bytes(&[("swapped.yaml", document.as_bytes()), ("own.wasm", &module)]);
        let swapped = Instant::now();
        wait_until("the policy is not in force", WHILE, || generation() > before);
        let took = swapped.elapsed();
        let broken = agent.metric("remora_policy_broken{file=\"swapped.yaml\"}");
        assert!(broken == Some(0.0), "the policy is broken: {}", agent.log_text());
        Run {
            allowed: format!("{} s", IN_FORCE.as_secs()),
            measured: format!("{:.2} s", took.as_secs_f64()),
            share: took.as_secs_f64() / IN_FORCE.as_secs_f64(),
        }
    };
    let what = "From the swap of a mounted folder until a changed policy, with a new module, is in force";
    Row::median(what, WHERE_THE_SWAP_GOES, (0..RUNS).map(swap).collect())
}

fn micros(nanos: f64) -> String {
    format!("{:.1} µs", nanos / 1e3)
}

fn number(value: &Value) -> f64 {
    value.as_f64().must(format_args!("read a number: {value}"))
}

/// Objects of 4 MiB through the SDK's example mover, and through remora's own client, to one server in turns.
fn moving(setting: &Setting) -> Vec<Row> {
    let s3 = S3::start_in(&setting.lab.scratch("moving"));
    let plugin = Plugin::of_bucket(s3.address(), &s3.bucket("plugin"));
    let mut command = Command::new(program("remora-moving"));
    command.arg(s3.url(&s3.bucket("own"))).arg(plugin.url("a/repository")).arg(plugin.folder());
    let measured = run(command.env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", SECRET)).ok().json();
    let row = |what, name: &str, why| {
        let rounds = measured[name].as_array().must("read the rounds of a benchmark");
        Row::median(what, why, rounds.iter().map(of_round).collect())
    };
    vec![
        row(
            "Storing 4 MiB objects in S3 through a plugin, as a backup does: three at once, two without it",
            "put",
            WHERE_A_PUT_GOES,
        ),
        row("Reading them", "get", WHERE_A_GET_GOES),
    ]
}

fn of_round(round: &Value) -> Run {
    let [own, plugin] = ["own", "plugin"].map(|name| number(&round[name]));
    let allowed = own * MOVING;
    Run {
        allowed: format!("{:.2} ms each = {MOVING} × {:.2} ms without it", allowed / 1e6, own / 1e6),
        measured: format!("{:.2} ms: {:.2} × as long", plugin / 1e6, plugin / own),
        share: plugin / allowed,
    }
}

/// Beside this program.
fn program(name: &str) -> std::path::PathBuf {
    let own = std::env::current_exe().must("find this program");
    own.parent().unwrap_or(Path::new(".")).join(name)
}
