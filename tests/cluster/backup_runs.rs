//! Backup runs of the deployed remora, from the object that asks for one to the restored disks.

use std::path::Path;

use remora_tests::cluster::{Product, Vm};
use remora_tests::truth::assert_same;
use remora_tests::{MIB, Remora};
use serde_json::Value;

use crate::scene::is_incremental;

const SIZE: u64 = 64 * MIB;
const DISKS: [&str; 2] = ["system", "data"];

#[test]
fn both_points_of_a_machine_are_what_its_disks_held() {
    let _undisturbed = Product::undisturbed();
    let product = Product::shared();
    let cluster = product.cluster();
    let namespace = cluster.namespace("runs");
    let dir = tempfile::tempdir().unwrap();
    let repository = format!("bucket-{namespace}");
    let remora = product.repository(&repository, &namespace, dir.path()).with("REMORA_TENANT", &namespace);
    let vm = cluster.vm(&namespace, "web").disk("system", SIZE).empty_disk("data", SIZE).start();

    vm.guest().write_file("/mnt/vda/first", b"first");
    vm.guest().sh("head -c 5000000 /dev/urandom | dd of=/dev/vdb bs=64k seek=100 conv=fsync 2>/dev/null");
    let first = back_up(product, &vm, &repository, "first", dir.path());
    assert_eq!(first["decision"], "full", "{first:#}");

    vm.guest().write_file("/mnt/vda/second", b"second");
    vm.guest().sh("head -c 300000 /dev/urandom | dd of=/dev/vdb bs=64k seek=500 conv=fsync 2>/dev/null");
    let second = back_up(product, &vm, &repository, "second", dir.path());
    assert!(is_incremental(&second), "{second:#}");
    let read = second["readBytes"].as_u64().unwrap();
    assert!(read > 0 && (read < SIZE / 4 || second["decision"] == "reread"), "{second:#}");

    for (run, status) in [("first", first), ("second", second)] {
        assert_restores(&remora, &status, run, dir.path());
    }
}

/// Keeps what the disks hold, and backs them up before they change.
fn back_up(product: &Product, vm: &Vm, repository: &str, run: &str, dir: &Path) -> Value {
    vm.still(|| {
        for disk in DISKS {
            vm.truth(disk, &dir.join(format!("{run}.{disk}")));
        }
        product.back_up(vm, repository, run)
    })
}

/// That the point of a run has what was kept.
#[track_caller]
fn assert_restores(remora: &Remora, status: &Value, run: &str, dir: &Path) {
    let into = dir.join(format!("restored-{run}"));
    remora.ok(["restore", status["point"].as_str().unwrap(), "--to", into.to_str().unwrap()]);
    for disk in DISKS {
        assert_same(&into.join(format!("{disk}.raw")), &dir.join(format!("{run}.{disk}")));
    }
}
