//! Bitmaps and checkpoints that died or that somebody took away.

use std::collections::BTreeSet;

use remora_tests::{DiskSpec, Domain, KIB, Lab, MIB, Remora};
use serde_json::json;

use super::{CONSISTENT, FIRST, Protected, backup, text};

fn protected(name: &str) -> Protected<'static> {
    let domain = Lab::shared().domain(name).disk(DiskSpec::qcow2("vda", 64 * MIB)).paused();
    domain.write("vda", 0x11, 0, 4 * MIB);
    Protected::new(domain)
}

/// Writes that reach the image.
fn write(domain: &Domain<'_>, pattern: u8, at: u64) {
    domain.write("vda", pattern, at, 64 * KIB);
    domain.flush("vda");
}

#[test]
fn after_a_kill_of_qemu_the_disk_is_reread_and_then_incremental_again() {
    let vm = protected("cli killed");
    let mut all = vec![vm.backup(&[("vda", "full", FIRST)])];
    // A checkpoint that was made since the start has no bitmap in the image …
    write(&vm.domain, 0x22, MIB);
    vm.domain.sigkill_qemu();
    vm.domain.start_paused();
    all.push(vm.backup(&[("vda", "reread", "is unusable: it is missing in the image")]));
    write(&vm.domain, 0x33, 2 * MIB);
    all.push(vm.backup(&[("vda", "incremental", CONSISTENT)]));
    // … and an older one has one that missed what was written since.
    vm.domain.destroy();
    vm.domain.start_paused();
    write(&vm.domain, 0x44, 3 * MIB);
    vm.domain.sigkill_qemu();
    vm.domain.start_paused();
    all.push(vm.backup(&[("vda", "reread", "is unusable: it is inconsistent: QEMU ended without storing it")]));
    write(&vm.domain, 0x55, 5 * MIB);
    all.push(vm.backup(&[("vda", "incremental", CONSISTENT)]));
    for taken in &all {
        vm.assert_restores(taken);
    }
    assert_eq!(vm.checkpoints(), [all[4].checkpoint("vda")].into(), "the dead ones are gone");
}

/// The bitmaps that QEMU holds of the disk.
fn bitmaps(domain: &Domain<'_>) -> BTreeSet<String> {
    let nodes = domain.qmp(&json!({"execute": "query-named-block-nodes", "arguments": {"flat": true}}));
    let bitmaps = nodes["return"].as_array().unwrap().iter().filter_map(|node| node["dirty-bitmaps"].as_array());
    bitmaps.flatten().map(|bitmap| text(&bitmap["name"]).to_owned()).collect()
}

#[test]
fn bitmaps_of_ours_that_libvirt_has_forgotten_go_and_others_stay() {
    let vm = protected("cli forgotten");
    vm.backup(&[("vda", "full", FIRST)]);
    // Of another repository that protects this VM too, and of another program.
    let other = Remora::init(vm.lab());
    let others = backup(&vm.domain, &other, &[("vda", "full", FIRST)]).checkpoint("vda");
    vm.domain.virsh("checkpoint-delete", &[&others, "--metadata"]);
    let foreign = "somebody's";
    let image = vm.domain.image("vda").path;
    let nodes = vm.domain.qmp(&json!({"execute": "query-named-block-nodes", "arguments": {"flat": true}}));
    let node = nodes["return"]
        .as_array()
        .unwrap()
        .iter()
        .find(|node| node["drv"] == "qcow2" && node["file"] == *image.to_str().unwrap());
    let add = json!({"node": node.unwrap()["node-name"], "name": foreign, "persistent": true});
    vm.domain.qmp(&json!({"execute": "block-dirty-bitmap-add", "arguments": add}));

    let mut newest = vm.backup(&[("vda", "incremental", CONSISTENT)]);
    for pattern in [0x22, 0x33] {
        let forgotten = newest.checkpoint("vda");
        vm.domain.virsh("checkpoint-delete", &[&forgotten, "--metadata"]);
        assert!(bitmaps(&vm.domain).contains(&forgotten), "libvirt leaves the bitmap");
        write(&vm.domain, pattern, MIB);
        newest = vm.backup(&[("vda", "reread", "is unusable: libvirt has forgotten its checkpoint")]);
        let wanted = [newest.checkpoint("vda"), others.clone(), foreign.to_owned()];
        assert_eq!(bitmaps(&vm.domain), wanted.into());
    }
    write(&vm.domain, 0x44, 2 * MIB);
    vm.assert_restores(&vm.backup(&[("vda", "incremental", CONSISTENT)]));
}

#[test]
fn a_checkpoint_deleted_behind_our_back_makes_a_reread() {
    let vm = protected("cli deleted");
    let mut all = vec![vm.backup(&[("vda", "full", FIRST)])];
    let ways: [(&[&str], &str); 2] =
        [(&[], "of the newest point is gone"), (&["--metadata"], "is unusable: libvirt has forgotten its checkpoint")];
    for (options, reason) in ways {
        let checkpoint = all.last().unwrap().checkpoint("vda");
        vm.domain.virsh("checkpoint-delete", &[&[checkpoint.as_str()], options].concat());
        write(&vm.domain, 0x22, all.len() as u64 * MIB);
        all.push(vm.backup(&[("vda", "reread", reason)]));
        write(&vm.domain, 0x33, all.len() as u64 * MIB);
        all.push(vm.backup(&[("vda", "incremental", CONSISTENT)]));
    }
    for taken in &all {
        vm.assert_restores(taken);
    }
}
