//! Others who have KubeVirt back up the same machine: they are waited for, and what they do to our tracker is noticed.

use remora_tests::cluster::{Product, Pull, Vm, is_true};
use serde_json::{Value, json};

use crate::scene::{SIZE, Scene, is_incremental, is_spoiled};

#[test]
fn other_backups_of_the_machine_are_waited_for_and_never_taken_for_ours() {
    let _undisturbed = Product::undisturbed();
    let mut scene = Scene::new("others");
    let vm = scene.vm.cluster().existing_vm(scene.vm.namespace(), scene.vm.name());
    assert_eq!(scene.back_up()["decision"], "full");

    // Through a tracker of theirs: ours is what it was.
    Pull::make_tracker(&vm, "theirs");
    let status = behind(&mut scene, &vm, "theirs");
    assert!(is_incremental(&status), "{status:#}");

    // Through ours, which has moved on when the run begins.
    let trackers = vm.cluster().list("vmbackuptracker", vm.namespace(), "app.kubernetes.io/managed-by=remora");
    let ours = trackers[0]["metadata"]["name"].as_str().unwrap().to_owned();
    let status = behind(&mut scene, &vm, &ours);
    assert_eq!(status["decision"], "reread", "{status:#}");
    let reason = status["reason"].as_str().unwrap();
    // By what the tracker said when the run was planned, or when its job ran: KubeVirt takes its time to write it.
    let noticed = ["of the newest point is gone", "moved on to"].iter().any(|words| reason.contains(words));
    assert!(is_spoiled(&status) || noticed, "{status:#}");

    // Through ours, between two runs.
    scene.increment();
    scene.change();
    Pull::start(&vm, &ours, "stolen", 4 * SIZE).end();
    let status = scene.back_up();
    assert_eq!(status["decision"], "reread", "{status:#}");
    assert!(status["reason"].as_str().unwrap().contains("of the newest point is gone"), "{status:#}");

    scene.increment();
    scene.assert_points_are_right();
}

/// A run that is asked for while somebody else's backup through a tracker runs, and waits for it. Gives its status.
fn behind(scene: &mut Scene, vm: &Vm, tracker: &str) -> Value {
    let name = format!("of-{tracker}");
    let other = Pull::start(vm, tracker, &name, 4 * SIZE);
    let status = scene.disturbed(&json!({}), |scene, run| {
        let says = scene.waits(run, "Assigned", "WaitingForBackup");
        assert!(says.contains(&name), "{says}");
        other.end();
    });
    assert!(is_true(&status, "Complete"), "{status:#}\n{}", scene.product.logs());
    status
}
