//! Disks that are devices, in claims in block mode: of a machine that runs and of one that is halted, and restored to a claim
//! that is there and to a new one. Those who read and write them are not root.

use std::fs;

use remora_tests::cluster::Product;
use remora_tests::truth::assert_same;

use crate::machines::{assert_reread, is_halted, is_restored_in_place};
use crate::scene::{SIZE, Scene};

#[test]
fn a_device_is_backed_up_running_and_halted_and_restored_in_place_and_to_a_new_claim() {
    let _undisturbed = Product::undisturbed();
    let mut scene = Scene::with("devices", |vm| vm.in_block_mode("data"));
    assert!(scene.vm.image("data").starts_with("/dev"));
    assert_eq!(scene.back_up()["decision"], "full");
    scene.increment();

    is_halted(&mut scene);
    assert_reread(&scene.back_up(), "no checkpoint");

    is_restored_in_place(&mut scene);
    assert_same(&scene.vm.image("data"), &scene.truth("run-0", "data"));
    assert_reread(&scene.back_up(), "was written behind the hypervisor's back");

    is_restored_to_a_new_claim(&scene);
    scene.assert_points_are_right();
}

/// The claim is made as the point tells of the one before. Its volume, on which something else is, waits for the pod that is to
/// write it.
fn is_restored_to_a_new_claim(scene: &Scene) {
    let (cluster, namespace, newest) = (scene.vm.cluster(), scene.vm.namespace(), scene.last_run());
    cluster.kubectl(&["label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted"]);
    let device = cluster.make_device(namespace, SIZE);
    fs::write(&device, vec![0xee_u8; SIZE as usize]).unwrap();
    scene.restore("new", newest, "data", "new-data");
    assert_eq!(cluster.image(namespace, "new-data"), device);
    assert_same(&device, &scene.truth(newest, "data"));
}
