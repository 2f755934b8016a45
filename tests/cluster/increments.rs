//! Many increments in a row: KubeVirt never removes a checkpoint, so remora removes its own.

use remora_tests::cluster::Product;
use serde_json::json;

use crate::scene::Scene;

const INCREMENTS: usize = 30;

#[test]
fn thirty_increments_in_a_row_leave_one_checkpoint_and_its_bitmaps() {
    let _undisturbed = Product::undisturbed();
    let mut scene = Scene::new("increments");
    assert_eq!(scene.back_up()["decision"], "full");
    let mut made = 0;
    for number in 0..INCREMENTS {
        made += usize::from(scene.increment()["decision"] == "incremental");
        if number % 10 == 9 {
            let checkpoints = scene.checkpoints();
            assert_eq!(checkpoints.len(), 1, "{number}: {checkpoints:?}");
            // A bitmap that no checkpoint tells of would stay for ever.
            assert_eq!(bitmaps(&scene), [1, 1], "{number}");
        }
    }
    assert!(made > INCREMENTS / 2, "KubeVirt spoils most of them: {made} of {INCREMENTS} were made");
    scene.assert_points_are_right();
}

/// How many bitmaps each disk has.
fn bitmaps(scene: &Scene) -> Vec<usize> {
    let command = json!({"execute": "query-named-block-nodes", "arguments": {"flat": true}}).to_string();
    let nodes = scene.vm.try_virsh("qemu-monitor-command", &[&command]).ok().json();
    let nodes = nodes["return"].as_array().unwrap();
    let with = nodes.iter().filter_map(|node| node["dirty-bitmaps"].as_array());
    with.map(Vec::len).filter(|&number| number > 0).collect()
}
