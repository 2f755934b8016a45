//! An increment reads, stores and rewrites little more than what changed. (`make bench` asserts the same of larger disks.)

use remora_tests::{DiskSpec, GIB, Lab, MIB, Remora, scattered};
use serde_json::Value;

const DISK: u64 = 2 * GIB;

/// For metadata.
const SLACK: u64 = 4 * MIB;

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("no number {name} in {value}"))
}

#[test]
fn an_increment_reads_and_stores_the_scattered_blocks_that_changed() {
    let domain = Lab::shared().domain("changed only").disk(DiskSpec::qcow2("vda", DISK)).paused();
    let remora = Remora::init(domain.lab());
    let backup = || remora.json(["backup", domain.name(), "--quiesce", "never"]);
    let bytes = || number(&remora.json(["repo", "status"]), "bytes");
    backup();
    for round in 0..2 {
        let written = scattered::write(&domain, "vda", round, DISK / 100);
        let before = bytes();
        let report = backup();
        assert_eq!(report["decision"], "incremental", "{report:#}");
        let shown = remora.json(["show", report["point"].as_str().unwrap()]);
        let rewritten = number(&shown["disks"][0], "rewritten");
        let read = number(&report["disks"][0], "read") - rewritten;
        assert!(read >= written.bytes, "{written:?} was not all written or not all read: {report:#}");
        assert!(read <= written.bytes + written.bytes / 50 + SLACK, "{written:?}, {report:#}");
        let grown = bytes() - before;
        assert!(grown <= written.compressed + written.compressed / 50 + SLACK + rewritten, "{written:?}, {grown}");
        assert!(rewritten <= written.bytes / 4, "{written:?}, {shown:#}");
    }
}
