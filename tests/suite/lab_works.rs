//! The lab does what the other tests believe it to do.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use remora_tests::truth::{Difference, assert_same, first_difference};
use remora_tests::{DiskSpec, Format, KIB, Lab, MIB, run, wait_until};

#[test]
fn writes_without_a_guest_are_in_the_truth() {
    let domain = Lab::shared()
        .domain("writes")
        .disk(DiskSpec::qcow2("vda", 64 * MIB))
        .disk(DiskSpec::raw("vdb", 16 * MIB))
        .disk(DiskSpec::overlay("vdc", 16 * MIB))
        .paused();
    for target in ["vda", "vdb", "vdc"] {
        let size = domain.image(target).size();
        let mut wanted = vec![0; size.try_into().unwrap()];
        let before = domain.truth(target);
        assert_eq!(std::fs::read(before).unwrap(), wanted, "{target} is empty at first");

        domain.write(target, 0x22, MIB, 64 * KIB);
        domain.write_bytes(target, 3 * MIB + 512, b"remora  ".repeat(64).as_slice());
        domain.write_zeros(target, MIB, 4 * KIB);
        domain.assert_reads(target, 0x22, MIB + 4 * KIB, 60 * KIB);
        domain.write(target, 0x44, 8 * MIB, 512); // The last writes: they would be missing without a flush.
        domain.write(target, 0x33, size - 4 * KIB, 4 * KIB);

        wanted[1 << 20..(1 << 20) + (64 << 10)].fill(0x22);
        wanted[1 << 20..(1 << 20) + (4 << 10)].fill(0);
        wanted[(3 << 20) + 512..(3 << 20) + 1024].copy_from_slice(b"remora  ".repeat(64).as_slice());
        wanted[8 << 20..(8 << 20) + 512].fill(0x44);
        let end = wanted.len();
        wanted[end - 4096..].fill(0x33);
        assert!(std::fs::read(domain.truth(target)).unwrap() == wanted, "{target} holds what was written");
    }
}

#[test]
fn a_read_of_other_bytes_than_expected_is_noticed() {
    let domain = Lab::shared().domain("reads").disk(DiskSpec::qcow2("vda", MIB)).paused();
    let read = || domain.assert_reads("vda", 0x11, 0, 4096);
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(read)).is_err());
}

#[test]
fn a_write_that_fails_is_noticed() {
    let domain = Lab::shared().domain("fails").disk(DiskSpec::qcow2("vda", MIB)).paused();
    let write = || domain.write("vda", 0x11, MIB, 4096);
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(write)).is_err());
    let write = || domain.write_bytes("vda", MIB, &[1; 512]);
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(write)).is_err());
}

#[test]
fn the_first_difference_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let [left, right] = ["left", "right"].map(|name| dir.path().join(name));
    let mut bytes = vec![7; 3 << 20];
    std::fs::write(&left, &bytes).unwrap();
    std::fs::write(&right, &bytes).unwrap();
    assert_eq!(first_difference(&left, &right), None);
    std::fs::write(&right, &bytes[..2 << 20]).unwrap();
    assert_eq!(first_difference(&left, &right), Some(Difference::Length { shorter: 2 << 20 }));
    bytes[(2 << 20) + 5] = 8;
    std::fs::write(&right, &bytes).unwrap();
    let wanted = Difference::Byte { offset: (2 << 20) + 5, left: 7, right: 8 };
    assert_eq!(first_difference(&left, &right), Some(wanted));
}

#[test]
fn an_overlay_keeps_the_data_below_it() {
    let lab = Lab::shared();
    let data = lab.scratch("content").join("content.raw");
    std::fs::write(&data, vec![0x5a; 2 << 20]).unwrap();
    for format in [Format::Overlay, Format::Qcow2, Format::Raw] {
        let domain = lab.domain("content").disk(DiskSpec::holding("vda", format, &data)).paused();
        assert_same(&domain.truth("vda"), &data);
    }
}

#[test]
fn a_killed_qemu_leaves_the_domain_shut_off_and_startable() {
    let domain = Lab::shared().domain("killed").disk(DiskSpec::qcow2("vda", MIB)).paused();
    domain.write("vda", 1, 0, 4096);
    domain.qemu_io("vda", "flush");
    domain.sigkill_qemu();
    domain.start_paused();
    domain.assert_reads("vda", 1, 0, 4096);
}

#[test]
fn domains_outlive_their_libvirtd() {
    let lab = Lab::start(); // Not the shared one: others use its libvirtd just now.
    let domain = lab.domain("outlives").disk(DiskSpec::qcow2("vda", MIB)).paused();
    let qemu = domain.qemu();
    lab.restart_libvirtd();
    assert_eq!((domain.state().as_str(), domain.qemu()), ("paused", qemu));
    lab.crash_libvirtd();
    assert_eq!((domain.state().as_str(), domain.qemu()), ("paused", qemu));
}

#[test]
fn disks_come_and_change_their_size() {
    let domain = Lab::shared().domain("disks").disk(DiskSpec::qcow2("vda", MIB)).paused();
    let added = domain.attach(&DiskSpec::raw("vdb", 2 * MIB));
    domain.write("vdb", 9, MIB, 512);
    assert_eq!(added.size(), 2 * MIB);
    domain.resize("vda", 3 * MIB);
    assert_eq!(domain.image("vda").size(), 3 * MIB);
    domain.destroy();
    domain.detach("vdb");
    domain.start_paused();
    assert!(!domain.virsh("domblklist", &[]).contains("vdb"));
}

#[test]
fn names_may_be_odd() {
    for name in ["with spaces", "ünïcode ✓", "-dash", "7", "a'b\"c<d>&e", "two\nlines"] {
        let domain = Lab::shared().domain(name).disk(DiskSpec::qcow2("vda", MIB)).paused();
        assert_eq!(domain.virsh("domname", &[]), name);
        domain.write("vda", 1, 0, 512);
        assert!(domain.qemu().as_raw() > 0);
    }
}

/// Whether a process of a lab runs. Its number alone tells nothing: that may be another process's by now, while a command line
/// with the lab's folder in it is no other lab's. A dead process that nobody has waited for yet has none.
fn runs(pid: &str, dir: &Path) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).contains(dir.to_str().unwrap())
}

#[test]
fn labs_share_nothing_and_end_with_all_their_processes() {
    let labs: Vec<Lab> = thread::scope(|scope| {
        let starts: Vec<_> = (0..2).map(|_| scope.spawn(Lab::start)).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    let domains: Vec<_> =
        labs.iter().map(|lab| lab.domain("same name").disk(DiskSpec::qcow2("vda", MIB)).paused()).collect();
    let qemus: Vec<_> = domains.iter().map(|domain| domain.qemu()).collect();
    assert_ne!(qemus[0], qemus[1]);
    // As if the tests had died: nobody undefines the domains.
    domains.into_iter().for_each(std::mem::forget);
    let dirs: Vec<_> = labs.iter().map(|lab| lab.dir().to_owned()).collect();
    drop(labs);
    for (qemu, dir) in qemus.into_iter().zip(dirs) {
        assert!(!runs(&qemu.to_string(), &dir), "QEMU {qemu} lives on");
        assert!(!dir.exists(), "{} is left behind", dir.display());
    }
}

#[test]
fn the_host_sees_nothing_of_the_lab() {
    let lab = Lab::shared();
    let domain = lab.domain("unseen").disk(DiskSpec::qcow2("vda", MIB)).paused();
    let inside = lab.run_inside(Command::new("ls").arg("/run/libvirt/qemu")).ok();
    assert!(inside.text().contains("unseen.pid"), "{inside:?}");
    let outside = run(Command::new("find").args(["/run/libvirt", "/etc/libvirt", "-name", "unseen*"]));
    assert_eq!(outside.stdout, b"");
    drop(domain);
}

#[test]
fn a_lab_ends_even_if_its_process_is_killed() {
    let mut lab = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["sh", "-c", "echo $REMORA_LAB; virsh -q domcapabilities >/dev/null; echo up; exec cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(lab.stdout.take().unwrap()).lines().map(Result::unwrap);
    let dir = PathBuf::from(lines.next().unwrap());
    assert_eq!(lines.next().unwrap(), "up");
    let libvirtd = std::fs::read_to_string(dir.join("libvirtd.pid")).unwrap().trim().to_owned();
    assert!(std::fs::read_link(format!("/proc/{libvirtd}/exe")).unwrap().ends_with("libvirtd"));
    assert!(runs(&libvirtd, &dir));
    lab.kill().unwrap(); // SIGKILL: nothing of it runs any more, no Drop and no exit handler.
    lab.wait().unwrap();
    wait_until("the lab is left behind", Duration::from_mins(5), || !runs(&libvirtd, &dir) && !dir.exists());
}
