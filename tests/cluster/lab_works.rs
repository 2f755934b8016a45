//! That the cluster of the tests is what the other tests take it for.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use remora_tests::cluster::{Product, Pull, is};
use remora_tests::truth::assert_same;
use remora_tests::{Cluster, MIB};
use serde_json::Value;

const SIZE: u64 = 64 * MIB;

/// How long what was ready once may take to be so again on a busy machine.
const LIMIT: Duration = Duration::from_mins(10);

#[test]
fn the_node_is_ready_and_kubevirt_is_deployed() {
    let cluster = Cluster::shared();
    let ready = |node: Option<&Value>| node.is_some_and(|node| is(node, "Ready", "True"));
    cluster.wait_for("node", "", cluster.node_name(), "it is not ready", LIMIT, ready);
    let deployed = |one: Option<&Value>| one.is_some_and(|one| one["status"]["phase"] == "Deployed");
    let kubevirt = cluster.wait_for("kubevirt", "kubevirt", "kubevirt", "it is not deployed", LIMIT, deployed).unwrap();
    assert_eq!(kubevirt["status"]["observedKubeVirtVersion"], "v1.9.0");
}

#[test]
fn a_full_and_an_incremental_backup_by_kubevirt_hold_what_the_disks_held() {
    let _undisturbed = Product::undisturbed();
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("pull");
    let vm = cluster.vm(&namespace, "web").disk("system", SIZE).empty_disk("data", SIZE).start();
    let guest = vm.guest();
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    guest.write_file("/mnt/vda/first", b"first");
    guest.sh("head -c 1000000 /dev/urandom | dd of=/dev/vdb bs=64k seek=100 conv=fsync 2>/dev/null");
    Pull::make_tracker(&vm, "tracker");

    let full = vm.still(|| {
        for disk in ["system", "data"] {
            vm.truth(disk, &file(&format!("{disk}.first")));
        }
        Pull::start(&vm, "tracker", "first", 4 * SIZE)
    });
    assert!(full.has_socket());
    for disk in ["system", "data"] {
        full.copy(disk, &file(&format!("{disk}.copy")));
        assert_same(&file(&format!("{disk}.copy")), &file(&format!("{disk}.first")));
    }
    assert_eq!(full.wait_for("the exporter serves it", is_serving)["type"], "Full");
    full.end();

    guest.write_file("/mnt/vda/second", b"second");
    guest.sh("head -c 300000 /dev/urandom | dd of=/dev/vdb bs=64k seek=500 conv=fsync 2>/dev/null");
    let incremental = vm.still(|| {
        for disk in ["system", "data"] {
            vm.truth(disk, &file(&format!("{disk}.second")));
        }
        Pull::start(&vm, "tracker", "second", 4 * SIZE)
    });
    for disk in ["system", "data"] {
        incremental.copy(disk, &file("whole"));
        assert_same(&file("whole"), &file(&format!("{disk}.second")));
        let changed = incremental.changed(disk);
        let bytes: u64 = changed.iter().map(|(_, length)| length).sum();
        assert!(bytes > 0 && bytes < SIZE / 4, "{disk}: {changed:?}");
        replace(&file(&format!("{disk}.copy")), &file("whole"), &changed);
        assert_same(&file(&format!("{disk}.copy")), &file(&format!("{disk}.second")));
    }
    assert_eq!(incremental.wait_for("it has a type", |status| status["type"].is_string())["type"], "Incremental");
    incremental.end();
}

/// Whether the exporter of a backup serves it.
fn is_serving(status: &Value) -> bool {
    let conditions = status["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|one| one["reason"] == "ExportReady"))
}

/// Makes parts of an image those of another.
fn replace(image: &Path, other: &Path, parts: &[(u64, u64)]) {
    let (into, from) = (fs::OpenOptions::new().write(true).open(image).unwrap(), File::open(other).unwrap());
    for &(offset, length) in parts {
        let mut bytes = vec![0; usize::try_from(length).unwrap()];
        from.read_exact_at(&mut bytes, offset).unwrap();
        into.write_all_at(&bytes, offset).unwrap();
    }
}
