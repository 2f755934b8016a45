//! Backup runs of the deployed remora, from the object that asks for one to the restored disks.

use std::path::Path;

use remora_tests::cluster::{Product, Vm};
use remora_tests::truth::assert_same;
use remora_tests::{MIB, Remora};
use serde_json::{Value, json};

use crate::scene::{Scene, is_incremental, why_failed};

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

#[test]
fn a_run_that_is_cancelled_or_deleted_in_its_middle_leaves_nothing_and_the_next_one_is_right() {
    let _undisturbed = Product::undisturbed();
    let mut scene = Scene::new("ended");
    assert_eq!(scene.back_up()["decision"], "full");
    let entries = scene.entries();

    let status = scene.disturbed_in_the_middle(&json!({}), |scene, run, _held| {
        scene.cancel(run);
        scene.wait_for(run, "its job goes on", |status| status["attempt"]["state"] == "Ended");
    });
    let (reason, message) = why_failed(&status);
    assert_eq!(reason, "Cancelled", "{message}");
    assert!(status["point"].is_null(), "{status:#}");
    assert_eq!(scene.entries(), entries, "a point was committed");
    scene.back_up();

    scene.deleted_in_the_middle();
    scene.back_up();
    scene.increment();
    scene.assert_points_are_right();
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
