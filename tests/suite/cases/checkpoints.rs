//! Bitmaps and checkpoints that died or that somebody took away.

use remora_tests::{DiskSpec, Domain, KIB, Lab, MIB};

use super::{CONSISTENT, FIRST, Protected};

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
