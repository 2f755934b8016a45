//! What policies cost: decisions on files, a reload, an idle host. `tests/deciding` measures; the components are the built-in
//! ones, in the production host.

use std::path::Path;
use std::process::Command;

use remora_tests::{MIB, Must, run};
use serde_json::Value;

use crate::report::{Row, Run};
use crate::setting::Setting;

/// Runs of everything.
const RUNS: usize = 5;

const WHERE_TIME_GOES: &str = "the records are copied into the component's memory and its answer out of it; a fresh \
                               instance reads its settings first.";
const WHERE_MEMORY_GOES: &str = "compiled code, and an instance that waits for each policy.";

/// What is measured: its name, where it stands in the answer, what is allowed in nanoseconds.
const TIMES: [(&str, &[&str], u64); 4] = [
    ("authorize, warm: p50 of a decision", &["warm"], 5_000),
    ("authorize, a fresh instance: p50 of a decision", &["fresh"], 60_000),
    ("authorize, 64 at once: p50 of each decision", &["batch_each"], 2_000),
    ("Reload of one changed policy of 200, with a new module: CPU time", &[], 100_000_000),
];

pub(crate) fn measure(_: &Setting) -> Vec<Row> {
    let measured: Vec<Value> = (0..RUNS).map(|_| run(&mut Command::new(program())).ok().json()).collect();
    let mut rows: Vec<_> = TIMES.into_iter().map(|(what, at, allowed)| times(what, at, allowed, &measured)).collect();
    let memory = |value: &Value| {
        let bytes = number(&value["idle_bytes"]);
        let (allowed, measured) = ("150 MiB".into(), format!("{:.0} MiB", bytes / MIB as f64));
        Run { allowed, measured, share: bytes / (150 * MIB) as f64 }
    };
    let runs = measured.iter().map(memory).collect();
    rows.push(Row::median("Idle host with 50 components: resident memory", WHERE_MEMORY_GOES, runs));
    rows
}

fn times(what: &'static str, at: &[&str], allowed: u64, measured: &[Value]) -> Row {
    let run = |value: &Value| {
        let (nanos, told) = if let [name] = at {
            let (p50, p99) = (number(&value[name]["p50"]), number(&value[name]["p99"]));
            (p50, format!("{} (p99 {})", micros(p50), micros(p99)))
        } else {
            let cpu = number(&value["reload_cpu"]);
            (cpu, format!("{:.0} ms", cpu / 1e6))
        };
        let allowed_told = if at.is_empty() { format!("{} ms", allowed / 1_000_000) } else { micros(allowed as f64) };
        Run { allowed: allowed_told, measured: told, share: nanos / allowed as f64 }
    };
    Row::median(what, WHERE_TIME_GOES, measured.iter().map(run).collect())
}

fn micros(nanos: f64) -> String {
    format!("{:.1} µs", nanos / 1e3)
}

fn number(value: &Value) -> f64 {
    value.as_f64().must(format_args!("read a number: {value}"))
}

/// Beside this program.
fn program() -> std::path::PathBuf {
    let own = std::env::current_exe().must("find this program");
    own.parent().unwrap_or(Path::new(".")).join("remora-deciding")
}
