//! An increment with 1 % of a 20 GiB disk dirty in scattered blocks: what it reads, stores and takes.

use std::time::Duration;

use remora_tests::scattered;
use remora_tests::{DiskSpec, Domain, GIB, MIB, Must, Remora};
use serde_json::Value;

use crate::measure::{mib, seconds, took};
use crate::report::{Row, Run};
use crate::setting::{Setting, remove};

const DISK: u64 = 20 * GIB;

/// How many increments are made.
const INCREMENTS: u64 = 3;

/// What is allowed for metadata and rounding.
const SLACK: u64 = 4 * MIB;

/// What is allowed over the time that the bytes cost at a full backup's rate.
const START: Duration = Duration::from_secs(2);

pub(crate) fn measure(setting: &Setting) -> Vec<Row> {
    let rate = setting.full_rate();
    let domain = setting.lab.domain("incremental").disk(DiskSpec::qcow2("vda", DISK)).paused();
    let remora = Remora::init(&setting.lab);
    backup(&remora, &domain, "full");
    let [mut reads, mut stores, mut rewrites, mut walls] = [const { Vec::new() }; 4];
    for number in 0..INCREMENTS {
        let written = scattered::write(&domain, "vda", number, DISK / 100);
        let before = stored_bytes(&remora);
        let (report, wall) = backup(&remora, &domain, "incremental");
        let grown = stored_bytes(&remora) - before;
        let shown = remora.json(["show", report["point"].as_str().must("read a point's name")]);
        let rewritten = number_of(&shown["disks"][0], "rewritten");
        let read = number_of(&report["disks"][0], "read") - rewritten;
        let most_read = written.bytes + written.bytes / 50 + SLACK;
        let most_stored = written.compressed + written.compressed / 50 + SLACK;
        let most_rewritten = written.bytes / 4;
        // Writes that QEMU did not do would look like a good result.
        assert!(read >= written.bytes, "only {read} of {} dirty bytes were read", written.bytes);
        assert!(read <= most_read, "{read} bytes were read for {} dirty ones", written.bytes);
        assert!(grown <= most_stored + rewritten, "{grown} bytes were stored for {}", written.compressed);
        assert!(rewritten <= most_rewritten, "{rewritten} bytes were rewritten");
        reads.push(run(read, most_read));
        stores.push(run(grown.saturating_sub(rewritten), most_stored));
        rewrites.push(run(rewritten, most_rewritten));
        let limit = Duration::from_secs_f64(written.bytes as f64 / rate) + START;
        walls.push(Run {
            allowed: format!("{} = 2 s + {} at the full backup's rate", seconds(limit), mib(written.bytes)),
            measured: seconds(wall),
            share: wall.as_secs_f64() / limit.as_secs_f64(),
        });
    }
    remove(&remora);
    vec![
        Row::median("Increment, 1 % of 20 GiB dirty: read (asserted)", "", reads),
        Row::median("The same: stored, all of the repository's growth (asserted)", "", stores),
        Row::median("The same: rewritten against fragmentation (asserted)", "", rewrites),
        Row::median("The same: time", "", walls),
    ]
}

fn run(bytes: u64, most: u64) -> Run {
    Run { allowed: mib(most), measured: mib(bytes), share: bytes as f64 / most as f64 }
}

/// Makes a point with this decision; its report and the time that it took.
pub(crate) fn backup(remora: &Remora, domain: &Domain<'_>, decision: &str) -> (Value, Duration) {
    let backed_up = took(&mut remora.command(["backup", domain.name(), "--quiesce", "never", "-o", "json"]));
    let report = backed_up.json();
    assert_eq!(report["decision"], decision, "{report:#}");
    (report, backed_up.wall)
}

fn number_of(value: &Value, name: &str) -> u64 {
    value[name].as_u64().must(format_args!("read {name} in {value}"))
}

fn stored_bytes(remora: &Remora) -> u64 {
    number_of(&remora.json(["repo", "status"]), "bytes")
}
