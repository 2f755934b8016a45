//! What happens in the middle of a backup.

use std::time::Duration;

use remora_tests::{Domain, KIB, Lab, MIB, Ran, Small, wait_until};
use serde_json::Value;

use super::held::{Holdable, noise};
use super::{CONSISTENT, FIRST, check, taken, text};

/// The error that a failed run told as JSON.
#[track_caller]
fn error(ran: &Ran, code: i32) -> Value {
    assert_eq!(ran.code(), code, "{ran:?}");
    let told: Value = serde_json::from_str(ran.stderr.lines().last().unwrap()).unwrap();
    assert_eq!(told["error"]["exit"], code);
    told["error"].clone()
}

#[test]
fn a_vm_destroyed_or_killed_in_the_middle_is_said_so_and_the_next_backup_is_right() {
    let holdable = Holdable::new(Lab::shared(), "cli destroyed");
    let vm = &holdable.vm;
    let end_in_the_middle = |end: fn(&Domain<'static>)| {
        let held = holdable.hold_backup(&vm.remora);
        end(&vm.domain);
        let told = error(&held.goes_on(), 9);
        assert_eq!(told["kind"], "unavailable");
        assert!(text(&told["message"]).contains("the VM was shut off during the backup"), "{told:#}");
        assert!(text(&told["advice"]).contains("Start the VM"), "{told:#}");
        vm.assert_nothing_left();
        vm.domain.start_paused();
    };
    // The first time there is no point before, the second time there is one.
    end_in_the_middle(Domain::destroy);
    vm.remora.fails(["points", vm.domain.name()], 3, "no point");
    assert_eq!(vm.checkpoints().len(), 1, "what libvirt could not remove of a VM that is off");
    let full = vm.backup(&[("vda", "full", FIRST)]);
    assert_eq!(vm.checkpoints(), [full.checkpoint("vda")].into(), "that of the failed run is gone");

    let mut all = vec![full];
    let missing = ("vda", "reread", "is unusable: it is missing in the image");
    // In its orderly end QEMU stores the bitmap that the job does not use itself.
    let ends: [(fn(&Domain<'static>), _); 2] =
        [(Domain::destroy, ("vda", "incremental", CONSISTENT)), (Domain::sigkill_qemu, missing)];
    for (number, (end, wanted)) in (1..).zip(ends) {
        vm.domain.write_bytes("vda", 0, &noise(number));
        end_in_the_middle(end);
        let listed = vm.remora.json(["points", vm.domain.name()]);
        assert_eq!(listed.as_array().unwrap().len(), all.len(), "nothing of a failed run is listed: {listed:#}");
        vm.assert_restores(all.last().unwrap());
        assert_eq!(vm.checkpoints().len(), 2, "the failed run's is still there");
        vm.domain.write("vda", 0x44, MIB, 64 * KIB);
        all.push(vm.backup(&[wanted]));
        vm.assert_restores(all.last().unwrap());
        assert_eq!(vm.checkpoints(), [all.last().unwrap().checkpoint("vda")].into());
        vm.domain.write("vda", 0x55, MIB, 64 * KIB);
        all.push(vm.backup(&[("vda", "incremental", CONSISTENT)]));
        vm.assert_restores(all.last().unwrap());
    }
}

#[test]
fn libvirtd_restarted_or_killed_in_the_middle_costs_nothing() {
    let lab = Lab::start(); // Not the shared one: others use its libvirtd just now.
    let holdable = Holdable::new(&lab, "cli outlasts");
    let vm = &holdable.vm;
    let mut all = Vec::new();
    for (restart, wanted) in [
        (Lab::restart_libvirtd as fn(&Lab), ("vda", "full", FIRST)),
        (Lab::crash_libvirtd, ("vda", "incremental", CONSISTENT)),
    ] {
        vm.domain.write_bytes("vda", 0, &noise(1 + all.len() as u64));
        let truth = vm.domain.truth("vda");
        let held = holdable.hold_backup(&vm.remora);
        restart(&lab);
        let report = held.goes_on().ok().json();
        let point = taken(&vm.domain, &vm.remora, report, vec![("vda".into(), truth)]);
        check(&point, &vm.domain, &[wanted]);
        all.push(point);
    }
    vm.domain.write("vda", 0x33, 100 * MIB, 64 * KIB);
    all.push(vm.backup(&[("vda", "incremental", CONSISTENT)]));
    for point in &all {
        vm.assert_restores(point);
    }
}

#[test]
fn before_scratch_is_full_the_backup_ends_and_no_write_of_the_guest_fails() {
    let small = Small::new(64);
    let lab = Lab::start(); // It sees what is mounted before it.
    let holdable = Holdable::new(&lab, "cli scratch");
    let vm = &holdable.vm;
    let full = vm.backup(&[("vda", "full", FIRST)]);
    vm.domain.write_bytes("vda", 0, &noise(1));
    let beside = vm.remora.clone().with("REMORA_SCRATCH", small.path());
    let held = holdable.hold_backup(&beside);
    let before = small.used();
    let mut at = 32 * MIB;
    vm.domain.write("vda", 0x22, at, MIB);
    assert!(small.used() >= before + MIB, "the scratch file takes the old bytes");
    // Until after the job has ended; `write` panics if the guest would see an error.
    let (runs, mut most) = (|| vm.domain.try_virsh("backup-dumpxml", &[]).status.success(), 0);
    while runs() {
        most = most.max(small.used());
        at += MIB;
        assert!(at < 128 * MIB, "the job does not end");
        vm.domain.write("vda", 0x22, at, MIB);
        // On a busy machine the watchdog may get no processor for as long as it takes to fill the rest.
        if small.used() >= 64 * MIB * 4 / 5 {
            wait_until("the job does not end", Duration::from_mins(5), || !runs());
        }
    }
    assert!(most > 64 * MIB * 6 / 10, "ended long before four fifths were used: at {most}");
    vm.domain.write("vda", 0x22, 130 * MIB, 32 * MIB);
    let told = error(&held.goes_on(), 10);
    assert_eq!(told["kind"], "no-space");
    let message = text(&told["message"]);
    assert!(
        message.contains("so that the guest gets no write error") && message.contains(small.path().to_str().unwrap()),
        "{message}"
    );
    assert!(text(&told["advice"]).contains("--scratch"), "{told:#}");
    assert_eq!(vm.domain.writes("vda").failed, 0);
    assert_eq!(vm.domain.virsh("domblkerror", &[]), "No errors found");
    assert_eq!(small.used(), 0, "the scratch file is gone");
    vm.assert_nothing_left();
    vm.assert_restores(&full);
    assert_eq!(vm.checkpoints(), [full.checkpoint("vda")].into(), "that of the failed run is gone");

    // The guest is quiet now, so that the little room is enough.
    let wanted = [("vda", "incremental", CONSISTENT)];
    vm.assert_restores(&super::backup(&vm.domain, &beside, &wanted));
    vm.domain.write("vda", 0x33, MIB, 64 * KIB);
    vm.assert_restores(&vm.backup(&wanted));
}
