//! The prepared disks hold what the other tests believe them to hold: a guest sees it; and of a point that has them all, each
//! filesystem is served with its files, and copied out.

use std::path::PathBuf;

use nix::sys::signal::Signal;
use remora_tests::files::Holes;
use remora_tests::layout::Place;
use remora_tests::{Agent, DiskSpec, Format, Lab, Layout, Remora};

use crate::hostile::mounts::Serving;

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

/// Where a filesystem is below `files/`, if the disks of its layout have these names.
fn shown(place: Place, disks: &[String]) -> PathBuf {
    match place {
        Place::Disk(disk) => PathBuf::from(&disks[disk]),
        Place::Partition(disk, number) => PathBuf::from(&disks[disk]).join(number.to_string()),
        Place::Volume(group, volume) => PathBuf::from(group).join(volume),
    }
}

#[test]
fn every_filesystem_of_a_point_is_served_and_copied_out() {
    let lab = Lab::shared();
    let mut domain = lab.domain("every layout");
    let (mut names, mut filesystems) = (('a'..='z').map(|letter| format!("vd{letter}")), Vec::new());
    for layout in Layout::ALL {
        let prepared = layout.prepare();
        let disks: Vec<_> = names.by_ref().take(prepared.disks.len()).collect();
        for (name, disk) in disks.iter().zip(&prepared.disks) {
            domain = domain.disk(DiskSpec::holding(name, Format::Qcow2, disk));
        }
        let placed = prepared.filesystems.iter().map(|filesystem| (shown(filesystem.place, &disks), filesystem));
        filesystems.extend(placed);
    }
    assert_eq!(filesystems.len(), 11, "{filesystems:?}");
    let domain = domain.paused();
    let remora = Remora::init(lab);
    let report = remora.json(["backup", domain.name(), "--quiesce", "never"]);
    let id = report["point"].as_str().unwrap();
    assert_eq!(report["disks"].as_array().unwrap().len(), 5);

    let serving = Serving::all(&remora, id, &lab.scratch("every layout").join("mounted"));
    for (place, filesystem) in &filesystems {
        filesystem.assert_at(&serving.folder.join("files").join(place), Holes::MayBeFilled);
    }
    // The guest's own view, by the fstab of its root filesystem, has the other volume at /data.
    let [root, data] = ["vg0/root", "vg0/data"]
        .map(|volume| filesystems.iter().find(|(place, _)| place == std::path::Path::new(volume)).unwrap().1);
    root.assert_at(&serving.folder.join("files/root"), Holes::MayBeFilled);
    data.assert_at(&serving.folder.join("files/root/data"), Holes::MayBeFilled);
    serving.end(Signal::SIGTERM);

    // One boot of the appliance for the four partitions of a disk, NTFS and btrfs among them.
    let to = lab.scratch("every layout").join("copied");
    let copied = remora.json(["cp", &format!("{id}:/vdb"), to.to_str().unwrap()]);
    assert_eq!(copied["failed"], serde_json::json!([]), "{copied:#}");
    let of_disk =
        filesystems.iter().filter_map(|(place, filesystem)| Some((place.strip_prefix("vdb").ok()?, filesystem)));
    let of_disk: Vec<_> = of_disk.collect();
    assert_eq!(of_disk.len(), 4);
    for (partition, filesystem) in of_disk {
        filesystem.assert_at(&to.join(partition), Holes::MustBeThere);
    }
}
