//! Scratches that are not as they should be: one that cannot be on the machine's node, and one that fills up as the guest writes.

use std::time::Duration;

use remora_tests::cluster::Product;
use remora_tests::{Fault, MIB, wait_until};
use serde_json::{Value, json};

use crate::scene::{SIZE, Scene, why_failed};

/// How long KubeVirt and others may take on a busy machine.
const LIMIT: Duration = Duration::from_mins(10);

/// What the small scratch has: less than the two disks, and enough to begin with.
const ROOM: u64 = 120 * MIB;

/// Up to where the guest writes the second disk while the job runs, in MiB, after all of the first: that is more than 80 % of
/// the scratch, and leaves what QEMU's own tables take of it.
const ENOUGH: u64 = 40;

/// How long each segment is on its way to the store meanwhile. There are eight of them, which go two at a time: the guest has five
/// minutes to fill the scratch. Less than the two minutes that an agent waits for an answer.
const SLOW: Duration = Duration::from_secs(75);

#[test]
fn a_scratch_that_cannot_be_attached_or_fills_up_ends_the_run_and_does_nothing_to_the_guest() {
    let _undisturbed = Product::undisturbed();
    let mut scene = Scene::new("scratches");
    for disk in ["vda", "vdb"] {
        write(&scene, disk, 0, SIZE / MIB);
    }
    assert_eq!(scene.back_up()["decision"], "full");

    is_elsewhere(&mut scene);
    // KubeVirt's tracker has not moved on, so nothing is lost by it.
    scene.increment();

    fills_up(&mut scene);
    scene.back_up();
    scene.assert_points_are_right();
}

fn is_elsewhere(scene: &mut Scene) {
    let (cluster, namespace) = (scene.vm.cluster(), scene.vm.namespace().to_owned());
    let class = cluster.class_elsewhere(&format!("elsewhere-{namespace}"));
    let status = scene.disturbed(&json!({"scratch": {"storageClassName": class.name()}}), |_, _| {});
    let (reason, message) = why_failed(&status);
    assert_eq!(reason, "ScratchNotAttachable", "{message}");
    // For good, by what the scheduler of this Kubernetes says: it is not waited for.
    let bound = format!("of StorageClass {} is Bound", class.name());
    for words in ["cannot be attached on the VM's node", &bound, "cannot be scheduled", "spec.scratch.storageClassName"]
    {
        assert!(message.contains(words), "{words}: {message}");
    }
    assert_eq!(status["attempt"]["number"], 1, "something else was tried: {status:#}");
    let run = scene.last_run();
    for (kind, name) in [("BackupRun", run), ("VirtualMachine", scene.vm.name())] {
        wait_until(format_args!("no event of the {kind} says it"), LIMIT, || {
            let events = cluster.list("events.events.k8s.io", &namespace, "");
            let of = |event: &Value| event["regarding"]["kind"] == kind && event["regarding"]["name"] == name;
            events.iter().any(|event| of(event) && event["reason"] == "ScratchNotAttachable")
        });
    }
    let attaches = "kubevirt.io=hotplug-disk";
    wait_until("KubeVirt's pod is left", LIMIT, || cluster.list("pods", &namespace, attaches).is_empty());
}

fn fills_up(scene: &mut Scene) {
    let class = scene.vm.cluster().small_class(&format!("small-{}", scene.vm.namespace()), ROOM);
    let spec = json!({"mode": "Full", "scratch": {"storageClassName": class.name()}});
    scene.store.meddle("PUT", "/s/", Fault::Delay(SLOW), usize::MAX);
    let status = scene.disturbed(&spec, |scene, run| {
        // What it stores it has read, and before that its scratch was watched.
        wait_until("it stores nothing", LIMIT, || scene.store.left() < usize::MAX);
        write(scene, "vda", 0, SIZE / MIB);
        write(scene, "vdb", 0, ENOUGH);
        let status = scene.wait_for(run, "its job goes on", |status| status["attempt"]["state"] == "Ended");
        let backup = status["attempt"]["backup"].as_str().unwrap();
        scene.vm.cluster().wait_gone("vmbackup", scene.vm.namespace(), backup, LIMIT);
        // All that the scratch would have had no room for.
        write(scene, "vdb", ENOUGH, SIZE / MIB);
        write(scene, "vda", 0, SIZE / MIB);
        scene.store.come_back();
    });
    let (reason, message) = why_failed(&status);
    assert_eq!(reason, "NoSpace", "{message}");
    assert!(message.contains("the guest writes so much that the scratch PVC fills up"), "{message}");
    assert!(status["point"].is_null(), "{status:#}");
}

/// Has the guest write over a disk from one MiB up to another one. An error of the disk is one of the script.
#[track_caller]
fn write(scene: &Scene, disk: &str, from: u64, until: u64) {
    let count = until - from;
    scene.vm.guest().sh(&format!("dd if=/dev/urandom of=/dev/{disk} bs=1M seek={from} count={count} conv=fsync 2>&1"));
}
