//! The usual: a full backup, then what changed.

use remora_tests::truth::assert_same;
use remora_tests::{DiskSpec, KIB, Lab, MIB, Remora};
use serde_json::json;

use super::{CONSISTENT, FIRST, Protected, assert_restores, backup};

/// What the spot check of an increment may read.
const SPOT_CHECK: u64 = 16 * 64 * KIB;

#[test]
fn the_first_point_is_full_and_the_next_read_what_changed() {
    let vm =
        Protected::new(Lab::shared().domain("cli usual & ünusual").disk(DiskSpec::qcow2("vda", 64 * MIB)).paused());
    vm.domain.write("vda", 0x11, 0, 8 * MIB);
    let full = vm.backup(&[("vda", "full", FIRST)]);
    assert_eq!(full.shown["parent"], json!(null));
    let mut all = vec![full];
    // Writes, writes of zeros, discards, nothing at all, and the very end of the disk.
    let changes: [(&dyn Fn(), u64); 5] = [
        (&|| vm.domain.write_all("vda", &[(0x22, 0, 4 * KIB), (0x23, 20 * MIB, 70 * KIB)]), 3 * 64 * KIB),
        (&|| vm.domain.write_zeros("vda", MIB, 2 * MIB), 2 * MIB),
        (&|| vm.domain.discard("vda", 4 * MIB, 2 * MIB), 2 * MIB),
        (&|| {}, 0),
        (&|| vm.domain.write("vda", 0x24, 64 * MIB - 512, 512), 64 * KIB),
    ];
    for (change, dirty) in changes {
        change();
        let taken = vm.backup(&[("vda", "incremental", CONSISTENT)]);
        assert_eq!(taken.shown["parent"], all.last().unwrap().report["point"]);
        let rewritten = taken.disk("vda")["rewritten"].as_u64().unwrap();
        let read = taken.read("vda") - rewritten;
        assert!(read <= dirty + SPOT_CHECK, "{read} bytes were read for {dirty} that changed");
        all.push(taken);
    }
    for taken in &all {
        vm.assert_restores(taken);
    }
    assert_eq!(vm.checkpoints(), [all.last().unwrap().checkpoint("vda")].into(), "older checkpoints go");
    let listed = vm.remora.json(["points", vm.domain.name()]);
    let listed: Vec<_> = listed.as_array().unwrap().iter().map(|point| &point["point"]).collect();
    assert_eq!(listed, all.iter().map(|taken| &taken.report["point"]).collect::<Vec<_>>());
    let verified = vm.remora.json(["verify"]);
    assert_eq!(verified.as_array().unwrap().len(), all.len());
    assert!(
        verified.as_array().unwrap().iter().all(|one| one["ok"] == true && one["damage"] == json!([])),
        "{verified:#}"
    );
}

#[test]
fn a_diff_names_the_ranges_that_were_written() {
    let vm = Protected::new(Lab::shared().domain("cli diff").disk(DiskSpec::qcow2("vda", 64 * MIB)).paused());
    vm.domain.write("vda", 0x11, 0, 8 * MIB);
    let one = vm.backup(&[("vda", "full", FIRST)]);
    vm.domain.write_all("vda", &[(0x22, MIB, 4 * KIB), (0x22, 2 * MIB + 60 * KIB, 8 * KIB), (0x33, 40 * MIB, MIB)]);
    let two = vm.backup(&[("vda", "incremental", CONSISTENT)]);
    vm.domain.discard("vda", 4 * MIB, MIB);
    vm.domain.write("vda", 0x11, 6 * MIB, MIB); // Dirty, but what was there.
    let three = vm.backup(&[("vda", "incremental", CONSISTENT)]);

    let first = [(MIB, 64 * KIB), (2 * MIB, 128 * KIB), (40 * MIB, MIB)];
    let second = [(4 * MIB, MIB)];
    let both = [first[0], first[1], second[0], first[2]];
    for (from, to, ranges) in [
        (&one, &two, &first[..]),
        (&two, &one, &first),
        (&two, &three, &second),
        (&one, &three, &both),
        (&one, &one, &[]),
    ] {
        let wanted: Vec<_> = ranges.iter().map(|(at, len)| json!({"start": at, "end": at + len})).collect();
        let bytes: u64 = ranges.iter().map(|(_, len)| len).sum();
        let found = vm.remora.json(["diff", from.point(), to.point()]);
        assert_eq!(found, json!([{"disk": "vda", "only_in": null, "bytes": bytes, "ranges": wanted}]));
    }
}

#[test]
fn two_repositories_protect_one_vm_and_leave_each_others_checkpoints() {
    let domain = Lab::shared().domain("cli two").disk(DiskSpec::qcow2("vda", 64 * MIB)).paused();
    let repositories = [(); 2].map(|()| Remora::init(Lab::shared()));
    domain.write("vda", 0x11, 0, 4 * MIB);
    let mut newest = repositories.each_ref().map(|remora| backup(&domain, remora, &[("vda", "full", FIRST)]));
    for round in 0..3 {
        for (n, remora) in repositories.iter().enumerate() {
            let at = 2 * round + n as u64;
            domain.write("vda", 0x22, at * MIB, 64 * KIB);
            let taken = backup(&domain, remora, &[("vda", "incremental", CONSISTENT)]);
            assert_restores(Lab::shared(), remora, &newest[n]);
            assert_restores(Lab::shared(), remora, &taken);
            newest[n] = taken;
            let vm = domain.virsh("checkpoint-list", &["--name"]);
            let listed: std::collections::BTreeSet<_> = vm.lines().filter(|line| !line.is_empty()).collect();
            let wanted = newest.each_ref().map(|taken| taken.checkpoint("vda"));
            assert_eq!(listed, wanted.iter().map(String::as_str).collect());
        }
    }
}

#[test]
fn shut_off_and_started_again_the_increment_is_exact() {
    let vm = Protected::new(Lab::shared().domain("cli restarted").disk(DiskSpec::qcow2("vda", 64 * MIB)).paused());
    vm.domain.write("vda", 0x11, 0, 4 * MIB);
    let full = vm.backup(&[("vda", "full", FIRST)]);
    vm.domain.write("vda", 0x22, MIB, 64 * KIB);
    vm.domain.destroy();
    vm.remora.fails(["backup", vm.domain.name()], 9, "it is shut off");
    vm.domain.start_paused();
    vm.domain.write("vda", 0x33, 20 * MIB, 64 * KIB);
    let taken = vm.backup(&[("vda", "incremental", CONSISTENT)]);
    assert!(taken.read("vda") <= 2 * 64 * KIB + SPOT_CHECK, "{:#}", taken.shown);
    vm.assert_restores(&full);
    vm.assert_restores(&taken);
    let again = vm.backup(&[("vda", "incremental", CONSISTENT)]);
    assert_same(&again.truths[0].1, &taken.truths[0].1);
    vm.assert_restores(&again);
}
