//! Is it still the same disk, and did nobody write it behind the hypervisor's back?

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use remora_tests::{DiskSpec, KIB, Lab, MIB, content};

use super::{CONSISTENT, FIRST, Protected};

/// Overwrites a range of a file in place, which keeps its inode.
fn overwrite(path: &Path, byte: u8, at: u64, len: u64) {
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(&vec![byte; len as usize], at).unwrap();
    file.sync_all().unwrap();
}

/// Where a file holds 64 KiB of `byte`, cluster-aligned.
fn cluster_of(path: &Path, byte: u8) -> u64 {
    let bytes = fs::read(path).unwrap();
    let clusters = bytes.chunks_exact(64 << 10);
    let found = clusters.into_iter().position(|cluster| cluster.iter().all(|b| *b == byte)).unwrap();
    found as u64 * 64 * KIB
}

#[test]
fn another_file_under_the_same_name_is_reread_though_its_bitmap_is_clean() {
    let vm = Protected::new(Lab::shared().domain("cli replaced").disk(DiskSpec::qcow2("vda", 64 * MIB)).paused());
    // Noise, so that storing it again would show.
    vm.domain.write_bytes("vda", 0, &content::noise(1, 4 << 20));
    vm.domain.write("vda", 0x11, 8 * MIB, 64 * KIB);
    let full = vm.backup(&[("vda", "full", FIRST)]);
    vm.domain.destroy();
    let image = vm.domain.image("vda").path;
    let other = image.with_extension("other");
    fs::copy(&image, &other).unwrap();
    // The same bitmaps, all clean, over other bytes.
    overwrite(&other, 0x99, cluster_of(&other, 0x11), 64 * KIB);
    fs::rename(&other, &image).unwrap();
    vm.domain.start_paused();
    let reread = vm.backup(&[("vda", "reread", "was replaced by another file")]);
    let stored = reread.stored("vda");
    assert!(stored < MIB, "only what differs is stored, not {stored} bytes");
    vm.assert_restores(&full);
    vm.assert_restores(&reread);
    vm.domain.write("vda", 0x33, 10 * MIB, 64 * KIB);
    vm.assert_restores(&vm.backup(&[("vda", "incremental", CONSISTENT)]));
}

#[test]
fn a_data_file_below_an_overlay_written_outside_qemu_is_noticed() {
    let vm = Protected::new(Lab::shared().domain("cli overlay").disk(DiskSpec::overlay("vda", 64 * MIB)).paused());
    let data = vm.domain.image("vda").data.unwrap();
    vm.domain.write("vda", 0x11, 0, 4 * MIB);
    let full = vm.backup(&[("vda", "full", FIRST)]);
    vm.domain.write("vda", 0x22, 8 * MIB, 64 * KIB);
    let increment = vm.backup(&[("vda", "incremental", CONSISTENT)]);

    // While it is off: a single block, which no spot check would find.
    vm.domain.destroy();
    overwrite(&data, 0x77, 30 * MIB, 512);
    vm.domain.start_paused();
    let off = vm.backup(&[("vda", "reread", "its raw data file may have been written while its QEMU was not running")]);
    vm.domain.write("vda", 0x33, 9 * MIB, 64 * KIB);
    let after_off = vm.backup(&[("vda", "incremental", CONSISTENT)]);

    // While it runs: most of it, which 16 blocks out of a thousand cannot miss.
    overwrite(&data, 0x78, 2 * MIB, 60 * MIB);
    let running = vm.backup(&[("vda", "reread", "though its bitmap says unchanged: the disk was written behind")]);
    vm.domain.write("vda", 0x44, 9 * MIB, 64 * KIB);
    let after_running = vm.backup(&[("vda", "incremental", CONSISTENT)]);
    for taken in [full, increment, off, after_off, running, after_running] {
        vm.assert_restores(&taken);
    }
}

#[test]
fn disks_may_be_added_resized_and_removed() {
    let vm = Protected::new(Lab::shared().domain("cli disks").disk(DiskSpec::qcow2("vda", 64 * MIB)).paused());
    vm.domain.write("vda", 0x11, 0, 4 * MIB);
    let mut all = vec![vm.backup(&[("vda", "full", FIRST)])];

    vm.domain.attach(&DiskSpec::qcow2("vdb", 16 * MIB));
    vm.domain.write("vdb", 0x22, MIB, MIB);
    vm.domain.write("vda", 0x22, MIB, 64 * KIB);
    let both = [("vda", "incremental", CONSISTENT), ("vdb", "full", "disk vdb is not in the newest point")];
    all.push(vm.backup(&both));
    let both = [("vda", "incremental", CONSISTENT), ("vdb", "incremental", CONSISTENT)];
    vm.domain.write("vdb", 0x33, 2 * MIB, 64 * KIB);
    all.push(vm.backup(&both));

    vm.domain.write("vda", 0x33, 63 * MIB, MIB);
    vm.domain.resize("vda", 96 * MIB);
    vm.domain.write("vda", 0x44, 95 * MIB, MIB);
    let resized = [("vda", "reread", "its size changed from 67108864 to 100663296 bytes"), both[1]];
    all.push(vm.backup(&resized));
    vm.domain.write("vda", 0x55, 80 * MIB, 64 * KIB);
    all.push(vm.backup(&both));

    // A paused machine never lets a disk go.
    vm.domain.destroy();
    vm.domain.detach("vdb");
    vm.domain.start_paused();
    vm.domain.write("vda", 0x66, 80 * MIB, 64 * KIB);
    all.push(vm.backup(&both[..1]));
    for taken in &all {
        vm.assert_restores(taken);
    }
    let [with, without] = [all[4].point(), all[5].point()];
    let differ = vm.remora.json(["diff", with, without]);
    assert_eq!((&differ[0]["bytes"], &differ[1]["only_in"]), (&(64 * KIB).into(), &with.into()), "{differ:#}");
}

#[test]
fn a_raw_disk_is_reread_each_time_beside_an_incremental_one() {
    let disks = [DiskSpec::qcow2("vda", 64 * MIB), DiskSpec::raw("vdb", 32 * MIB)];
    let vm = disks.into_iter().fold(Lab::shared().domain("cli raw"), remora_tests::DomainBuilder::disk).paused();
    let vm = Protected::new(vm);
    vm.domain.write("vda", 0x11, 0, 4 * MIB);
    vm.domain.write_bytes("vdb", 0, &content::noise(1, 4 << 20));
    let mut all = vec![vm.backup(&[("vda", "full", FIRST), ("vdb", "full", FIRST)])];
    let wanted = [
        ("vda", "incremental", CONSISTENT),
        ("vdb", "reread", "a raw image holds no bitmaps, so changes are found by comparing"),
    ];
    for round in 0..3 {
        // The last time nothing changes.
        if round < 2 {
            vm.domain.write("vda", 0x33, round * MIB, 64 * KIB);
            vm.domain.write("vdb", 0x44, round * MIB, 64 * KIB);
        }
        let taken = vm.backup(&wanted);
        assert_eq!(taken.disk("vdb")["checkpoint"], serde_json::Value::Null);
        assert!(taken.stored("vdb") <= 64 * KIB, "{:#}", taken.shown);
        all.push(taken);
    }
    assert_eq!(vm.checkpoints(), [all[3].checkpoint("vda")].into());
    for taken in &all {
        vm.assert_restores(taken);
    }
}
