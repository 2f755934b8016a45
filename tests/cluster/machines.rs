//! What may happen to a machine between its runs, and in the middle of one: it is killed, restarted, deleted, tracked no
//! more, written over; disks come, go and grow.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use remora_tests::cluster::{Product, is_true};
use remora_tests::{MIB, run, wait_until};
use serde_json::{Value, json};

use crate::scene::{SIZE, Scene, is_spoiled, why_failed};

/// How long KubeVirt and others may take on a busy machine.
const LIMIT: Duration = Duration::from_mins(15);

#[test]
fn a_machine_that_is_killed_restarted_untracked_written_over_or_deleted_has_no_wrong_point() {
    let _undisturbed = Product::undisturbed();
    let mut scene = Scene::new("killed");
    assert_eq!(scene.back_up()["decision"], "full");

    launcher_is_killed(&mut scene);
    assert_reread_for_any(&scene.back_up(), &LOST);
    scene.increment();

    is_restarted_in_the_middle(&mut scene);
    assert_reread_for_any(&scene.back_up(), &LOST_OR_STOPPED);

    // KubeVirt keeps the bitmaps over that, and knows of no writes in between.
    scene.restart();
    scene.vm.wait(true);
    assert_reread(&scene.back_up(), "its QEMU was not running");

    is_halted(&mut scene);
    assert_reread(&scene.back_up(), "no checkpoint");

    tracking_is_switched_off_and_on(&mut scene);
    assert_reread_for_any(&scene.back_up(), &LOST_OR_STOPPED);

    is_restored_in_place(&mut scene);
    assert_reread(&scene.back_up(), "was written behind the hypervisor's back");

    scene.assert_points_are_right();
    is_deleted(&mut scene);
    scene.assert_points_are_right();
}

/// What is said of bitmaps that are gone, or that QEMU could not save: by whether KubeVirt knows that already when the run begins. It
/// looks for them once the machine runs, and again after ever longer pauses.
const LOST: [&str; 3] = ["of the newest point is gone", "KubeVirt made a full backup", "tracker lost"];

/// The same where KubeVirt may have kept the old ones.
const LOST_OR_STOPPED: [&str; 4] = [LOST[0], LOST[1], LOST[2], "its QEMU was not running"];

#[track_caller]
pub(crate) fn assert_reread(status: &Value, why: &str) {
    assert_reread_for_any(status, &[why]);
}

#[track_caller]
fn assert_reread_for_any(status: &Value, whys: &[&str]) {
    assert_eq!(status["decision"], "reread", "{status:#}");
    let reason = status["reason"].as_str().unwrap();
    let said = whys.iter().any(|why| !why.is_empty() && reason.contains(why));
    // Some is known only once the job of an increment runs.
    assert!(said || is_spoiled(status), "{whys:?}: {status:#}");
}

fn launcher_is_killed(scene: &mut Scene) {
    let status = scene.disturbed_in_the_middle(&json!({}), |scene, _, _held| {
        let before = scene.vm.instance()["metadata"]["uid"].clone();
        scene.vm.launcher().signal("compute", Signal::SIGKILL);
        scene.wait_for_another_instance(&before);
    });
    assert_broken_off(&status);
    scene.vm.wait(true);
}

fn is_restarted_in_the_middle(scene: &mut Scene) {
    let status = scene.disturbed_in_the_middle(&json!({}), |scene, _, _held| scene.restart());
    assert_broken_off(&status);
    scene.vm.wait(true);
}

/// That a run failed whose machine went while it was read.
#[track_caller]
fn assert_broken_off(status: &Value) {
    let (reason, message) = why_failed(status);
    assert_eq!(reason, "Unavailable", "{message}");
}

/// Its disks are read where they lie.
pub(crate) fn is_halted(scene: &mut Scene) {
    let (cluster, namespace) = (scene.vm.cluster(), scene.vm.namespace().to_owned());
    scene.change();
    scene.patch_machine(&json!({"spec": {"runStrategy": "Halted"}}));
    cluster.wait_gone("vmi", &namespace, "web", LIMIT);
    let status = scene.run(&json!({}), |_, _| {});
    assert!(is_true(&status, "Complete"), "{status:#}");
    assert_eq!(status["halted"], true, "{status:#}");
    assert_reread(&status, "the VM is halted");
    let workers = cluster.list("pods", &namespace, "app.kubernetes.io/name=remora-worker");
    assert!(workers.is_empty(), "a worker is left: {workers:#?}");
    scene.patch_machine(&json!({"spec": {"runStrategy": "Always"}}));
    scene.vm.wait(true);
}

fn tracking_is_switched_off_and_on(scene: &mut Scene) {
    let label =
        |scene: &Scene, on: &str| scene.patch_machine(&json!({"metadata": {"labels": {"changedBlockTracking": on}}}));
    // Until it is restarted it is tracked still.
    label(scene, "false");
    scene.increment();
    scene.restart();
    waits_in_vain(scene, "TrackingDisabled", "changedBlockTracking=true");
    label(scene, "true");
    waits_in_vain(scene, "TrackingPendingRestart", "virtctl restart web");
    scene.restart();
    scene.vm.wait(true);
}

/// A run that says what it waits for, and is cancelled.
fn waits_in_vain(scene: &mut Scene, reason: &str, advice: &str) {
    let status = scene.disturbed(&json!({}), |scene, run| {
        let says = scene.waits(run, "Assigned", reason);
        assert!(says.contains(advice), "{says}");
        scene.cancel(run);
    });
    assert_eq!(why_failed(&status).0, "Cancelled");
}

/// A disk is what it was at the first run. Nothing but remora knows of that: KubeVirt has the same checkpoints as before.
pub(crate) fn is_restored_in_place(scene: &mut Scene) {
    let (cluster, namespace) = (scene.vm.cluster(), scene.vm.namespace());
    // KubeVirt's overlay knows now that all of it reads as zeros.
    scene.vm.guest().sh("blkdiscard /dev/vdb; sync");
    scene.patch_machine(&json!({"spec": {"runStrategy": "Halted"}}));
    cluster.wait_gone("vmi", namespace, "web", LIMIT);
    scene.restore("back", "run-0", "data", &scene.vm.claim("data"));
    scene.patch_machine(&json!({"spec": {"runStrategy": "Always"}}));
    scene.vm.wait(true);
    let sum = |text: String| text.split_whitespace().next().unwrap().to_owned();
    let image = scene.vm.image("data");
    let lies = sum(run(Command::new("sha256sum").arg(image)).ok().text().to_owned());
    assert_eq!(sum(scene.vm.guest().sh("sha256sum /dev/vdb")), lies, "the guest does not see what was restored");
}

fn is_deleted(scene: &mut Scene) {
    let status = scene.disturbed_in_the_middle(&json!({}), |scene, _, _held| {
        let (cluster, namespace) = (scene.vm.cluster(), scene.vm.namespace());
        cluster.delete("vm", namespace, "web");
        cluster.wait_gone("vmi", namespace, "web", LIMIT);
    });
    assert_broken_off(&status);
    let trackers =
        scene.vm.cluster().list("vmbackuptracker", scene.vm.namespace(), "app.kubernetes.io/managed-by=remora");
    for tracker in trackers {
        let name = tracker["metadata"]["name"].as_str().unwrap();
        scene.vm.cluster().wait_gone("vmbackuptracker", scene.vm.namespace(), name, LIMIT);
    }
}

#[test]
fn disks_that_come_go_and_grow_are_in_the_points_as_they_are_then() {
    let _undisturbed = Product::undisturbed();
    let mut scene = Scene::new("disks");
    assert_eq!(scene.back_up()["decision"], "full");

    scene.vm.plug("more", 32 * MIB);
    scene.disks.push("more");
    let status = scene.back_up();
    assert_reread_but(&status, "more");
    scene.increment();

    is_plugged_in_again(&scene, "more");
    let status = scene.back_up();
    assert_eq!(names(&status), ["data", "more", "system"], "{status:#}");
    for disk in status["disks"].as_array().unwrap() {
        assert_eq!(disk["decision"], "reread", "{status:#}");
    }
    scene.increment();
    // The checkpoint that one disk had no bitmap of any more is gone, and so are its others.
    assert_eq!((scene.checkpoints().len(), scene.bitmaps()), (1, vec![1, 1, 1]));

    scene.vm.unplug("more");
    scene.disks.pop();
    let status = scene.back_up();
    assert_eq!(names(&status), ["data", "system"], "{status:#}");
    scene.increment();

    scene.vm.grow("data", 128 * MIB);
    wait_until("the guest does not see that the disk has grown", LIMIT, || {
        scene.vm.guest().sh("cat /sys/block/vdb/size").parse::<u64>().unwrap() * 512 > SIZE
    });
    let status = scene.back_up();
    assert_reread(&status, "size changed");
    scene.increment();

    is_plugged_in_in_the_middle(&mut scene, "late");
    scene.disks.push("more");
    scene.assert_points_are_right();
}

/// Nobody tracks what is written to it in between, and KubeVirt's tracker says all the same that it has the disk.
fn is_plugged_in_again(scene: &Scene, disk: &str) {
    let image = scene.vm.image(disk);
    scene.vm.unplug(disk);
    let mut bytes = vec![0; MIB as usize];
    fastrand::fill(&mut bytes);
    let file = File::options().write(true).open(image).unwrap();
    file.write_all_at(&bytes, 3 * MIB).unwrap();
    scene.vm.plug_in(disk);
}

/// KubeVirt makes the pod anew by which the scratch is there: whether the run goes on or fails, its point is of the disks that the
/// machine had when it began, and the next one has all.
fn is_plugged_in_in_the_middle(scene: &mut Scene, disk: &'static str) {
    let status = scene.disturbed_in_the_middle(&json!({}), |scene, _, _held| scene.vm.plug(disk, 32 * MIB));
    if is_true(&status, "Complete") {
        assert_eq!(names(&status), ["data", "system"], "{status:#}");
    }
    scene.disks.push(disk);
    let status = scene.back_up();
    assert_eq!(names(&status), ["data", disk, "system"], "{status:#}");
    scene.increment();
}

/// That a disk is new, and all others were read again because of it.
#[track_caller]
fn assert_reread_but(status: &Value, new: &str) {
    assert_eq!(names(status), ["data", new, "system"], "{status:#}");
    for disk in status["disks"].as_array().unwrap() {
        let wanted = if disk["name"] == new { "full" } else { "reread" };
        assert_eq!(disk["decision"], wanted, "{status:#}");
    }
}

/// The names of the disks of a run's point, sorted.
fn names(status: &Value) -> Vec<&str> {
    let mut names: Vec<_> =
        status["disks"].as_array().unwrap().iter().map(|disk| disk["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    names
}
