//! Where disks go: images, standard output, block devices, and the VM's own disk.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use remora_tests::truth::assert_same;
use remora_tests::{DiskSpec, KIB, Lab, MIB, run};

use super::{CONSISTENT, FIRST, Protected, Taken};

/// A VM with two points: data, zeros over data, and holes.
fn protected(name: &str, disk: DiskSpec) -> (Protected<'static>, [Taken; 2]) {
    let vm = Protected::new(Lab::shared().domain(name).disk(disk).paused());
    vm.domain.write_all("vda", &[(0x11, 0, 6 * MIB), (0x12, 30 * MIB, 300 * KIB)]);
    let full = vm.backup(&[("vda", "full", FIRST)]);
    vm.domain.write("vda", 0x22, MIB, 64 * KIB);
    vm.domain.discard("vda", 2 * MIB, 2 * MIB);
    let increment = vm.backup(&[("vda", "incremental", CONSISTENT)]);
    (vm, [full, increment])
}

/// An image holds the same as a raw file, by qemu-img's judgement.
#[track_caller]
fn assert_image(image: &Path, format: &str, truth: &Path) {
    run(Command::new("qemu-img").args(["compare", "-f", format, "-F", "raw"]).arg(image).arg(truth)).ok();
    if format == "qcow2" {
        run(Command::new("qemu-img").args(["check", "-q", "-f", format]).arg(image)).ok();
    }
}

#[test]
fn points_are_exported_to_files_and_standard_output() {
    let (vm, points) = protected("cli exported", DiskSpec::qcow2("vda", 64 * MIB));
    let folder = vm.lab().scratch("exported");
    for taken in &points {
        let truth = &taken.truths[0].1;
        for format in ["qcow2", "raw"] {
            let [file, piped] = ["file", "piped"].map(|name| folder.join(format!("{}.{name}.{format}", taken.point())));
            let path = file.to_str().unwrap();
            let export = ["export", taken.point(), "--disk", "vda", "--format", format];
            let told = vm.remora.json([&export[..], &["--to", path]].concat());
            assert_eq!((&told["path"], &told["size"]), (&path.into(), &(64 * MIB).into()), "{told:#}");
            assert_image(&file, format, truth);
            fs::write(&piped, vm.remora.ok(export).stdout).unwrap();
            assert_image(&piped, format, truth);
            vm.remora.fails([&export[..], &["--to", path]].concat(), 4, "exists already");
        }
        let restored = folder.join(format!("{}.restored.qcow2", taken.point()));
        let to = restored.to_str().unwrap();
        vm.remora.ok(["restore", taken.point(), "--disk", "vda", "--to", to, "--format", "qcow2"]);
        assert_image(&restored, "qcow2", truth);
    }
}

/// A block device over a file, detached when dropped.
struct Loop(PathBuf);

impl Loop {
    fn new(file: &Path) -> Self {
        let ran = run(Command::new("losetup").args(["--find", "--show"]).arg(file)).ok();
        Self(ran.text().into())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run(Command::new("losetup").arg("--detach").arg(&self.0)).ok();
    }
}

#[test]
fn a_block_device_gets_the_disk_and_keeps_nothing_of_before() {
    let (vm, points) = protected("cli device", DiskSpec::qcow2("vda", 64 * MIB));
    let folder = vm.lab().scratch("device");
    let [old, short] = [64, 63].map(|size| {
        let path = folder.join(format!("{size}.raw"));
        File::create(&path).unwrap().write_all(&vec![0xee; size << 20]).unwrap();
        Loop::new(&path)
    });
    for taken in points.iter().rev() {
        let to = |device: &Loop| device.0.to_str().unwrap().to_owned();
        let restore = ["restore", taken.point(), "--disk", "vda", "--to"];
        vm.remora.fails([&restore[..], &[&to(&old)]].concat(), 4, "exists already");
        vm.remora.fails([&restore[..], &[&to(&short), "--force"]].concat(), 10, "66060288 bytes");
        vm.remora.ok([&restore[..], &[&to(&old), "--force"]].concat());
        assert_same(&old.0, &taken.truths[0].1);
    }
}

#[test]
fn a_restore_over_the_vms_own_disk_makes_the_next_backup_a_reread() {
    let cases = [
        (DiskSpec::qcow2("vda", 64 * MIB), "qcow2"),
        // Of an overlay the data file is restored, and the overlay is made anew.
        (DiskSpec::overlay("vda", 64 * MIB), "raw"),
    ];
    for (disk, format) in cases {
        let (vm, [full, increment]) = protected(&format!("cli own {format}"), disk);
        let image = vm.domain.image("vda");
        let path = image.data.clone().unwrap_or_else(|| image.path.clone());
        vm.domain.destroy();
        let restore = ["restore", full.point(), "--disk", "vda", "--format", format, "--to", path.to_str().unwrap()];
        let forced = [&restore[..], &["--force"]].concat();
        vm.remora.fails(restore, 4, "exists already");
        if image.data.is_some() {
            // It would still say "zeros" of what the guest had discarded, whatever its data file holds.
            let before = fs::read(&path).unwrap();
            let refused = vm.remora.fails(&forced, 11, "is the raw data file below the overlay");
            assert!(fs::read(&path).unwrap() == before, "nothing is written");
            let (_, command) = refused.stderr.split_once("then restore: ").unwrap();
            run(Command::new("sh").args(["-c", command])).ok();
        }
        vm.remora.ok(&forced);
        vm.domain.start_paused();
        let reread = vm.backup(&[("vda", "reread", "was replaced by another file")]);
        assert_same(&reread.truths[0].1, &full.truths[0].1);
        vm.domain.write("vda", 0x33, 10 * MIB, 64 * KIB);
        let next = vm.backup(&[("vda", "incremental", CONSISTENT)]);
        for taken in [&full, &increment, &reread, &next] {
            vm.assert_restores(taken);
        }
    }
}
