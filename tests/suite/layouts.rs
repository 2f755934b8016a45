//! The prepared disks hold what the other tests believe them to hold.

use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use remora_tests::files::{Holes, assert_there};
use remora_tests::layout::Prepared;
use remora_tests::{Agent, DiskSpec, Format, Lab, Layout, run};

#[test]
fn every_filesystem_holds_its_files() {
    let prepared: Vec<_> = Layout::ALL.iter().map(|layout| layout.prepare()).collect();
    let out = tempfile::tempdir().unwrap();
    let mut guestfish = Command::new("guestfish");
    guestfish.env("LIBGUESTFS_BACKEND", "direct").env("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg");
    guestfish.args(["--ro", "--format=raw"]);
    for disk in prepared.iter().flat_map(|one| &one.disks) {
        guestfish.arg("-a").arg(disk);
    }
    guestfish.arg("run");
    let mut first = 0;
    let mut trees = Vec::new();
    for Prepared { disks, filesystems } in &prepared {
        for filesystem in *filesystems {
            let tree = out.path().join(trees.len().to_string());
            let tar = tree.with_extension("tar");
            guestfish.args([":", "mount-ro", &filesystem.device(first), "/"]);
            guestfish.args([":", "tar-out", "/"]).arg(&tar).args([":", "umount-all"]);
            trees.push((tree, tar, filesystem));
        }
        first += disks.len();
    }
    run(&mut guestfish).ok();
    for (tree, tar, filesystem) in trees {
        std::fs::create_dir(&tree).unwrap();
        run(Command::new("tar").arg("-xpf").arg(&tar).arg("-C").arg(&tree)).ok();
        let mut files = filesystem.files();
        for file in &mut files {
            // libguestfs' archives hold whole seconds.
            let seconds = file.modified.duration_since(UNIX_EPOCH).unwrap().as_secs();
            file.modified = UNIX_EPOCH + Duration::from_secs(seconds);
        }
        assert_there(&tree, &files, filesystem.kind.keeps(), Holes::MayBeFilled);
    }
}

#[test]
fn a_guest_mounts_what_it_knows_of_a_layout() {
    let lab = Lab::shared();
    let mut domain = lab.domain("layouts");
    for (layout, targets) in [(Layout::Mbr, &["vda"][..]), (Layout::Lvm, &["vdb", "vdc"])] {
        for (target, disk) in targets.iter().zip(&layout.prepare().disks) {
            domain = domain.disk(DiskSpec::holding(target, Format::Qcow2, disk));
        }
    }
    let domain = domain.booted(Agent::Works);
    let guest = domain.guest();
    for (mount, seed) in [
        ("vda1", "mbr ext4"),
        ("vda2", "mbr xfs"),
        ("vda3", "mbr vfat"),
        ("vda5", "mbr btrfs"),
        ("vg0-root", "lvm root"),
        ("vg0-data", "lvm data"),
    ] {
        assert_eq!(guest.sh(&format!("cat /mnt/{mount}/hello.txt")), format!("hello from {seed}"));
    }
}
