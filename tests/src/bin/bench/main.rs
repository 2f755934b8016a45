//! `make bench`: measures how fast remora is and how much it uses, against limits that are measured in the same run,
//! and writes `docs/benchmarks.md`. `bench NAME…` measures only these and writes nothing.
//!
//! Disks and repositories lie below `REMORA_TEST_DIR` or the system's folder for temporary files: some 20 GiB.

// Figures are ratios of bytes and seconds: 52 bits are more than was measured, and clocks and counters only grow.
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::unchecked_time_subtraction,
    reason = "figures of a benchmark"
)]

mod file;
mod fragments;
mod full;
mod huge;
mod idle;
mod incremental;
mod kubevirt;
mod measure;
mod memory;
mod nodes;
mod peers;
mod plugins;
mod report;
mod restore;
mod s3;
mod scale;
mod setting;

use std::process::ExitCode;
use std::time::Instant;

use report::Row;
use setting::Setting;

/// A measurement by its name.
type Bench = (&'static str, fn(&Setting) -> Vec<Row>);

/// What can be measured, in the order of the table.
const BENCHES: [Bench; 14] = [
    ("full", full::measure),
    ("incremental", incremental::measure),
    ("fragments", fragments::measure),
    ("memory", memory::measure),
    ("huge", huge::measure),
    ("file", file::measure),
    ("restore", restore::measure),
    ("s3", s3::measure),
    ("scale", scale::measure),
    ("plugins", plugins::measure),
    ("idle", idle::measure),
    ("nodes", nodes::measure),
    ("kubevirt", kubevirt::measure),
    ("peers", peers::measure),
];

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = wanted.iter().find(|name| BENCHES.iter().all(|(known, _)| known != name)) {
        let known: Vec<_> = BENCHES.iter().map(|(name, _)| *name).collect();
        eprintln!("no benchmark is called {unknown:?}; there are {}", known.join(", "));
        return ExitCode::from(2);
    }
    let setting = Setting::start();
    let mut rows = Vec::new();
    for (name, measure) in BENCHES {
        if wanted.is_empty() || wanted.iter().any(|one| one == name) {
            eprintln!("== {name}");
            let start = Instant::now();
            let measured = measure(&setting);
            for row in &measured {
                println!("{}", row.line());
            }
            eprintln!("   {:.0} s", start.elapsed().as_secs_f64());
            rows.extend(measured);
        }
    }
    if wanted.is_empty() {
        let names: Vec<_> = BENCHES.iter().map(|(name, _)| *name).collect();
        report::write(&rows, &setting.into_sections(), &names);
    }
    ExitCode::SUCCESS
}
