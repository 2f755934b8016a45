//! Many increments in a row: KubeVirt never removes a checkpoint, so remora removes its own.

use remora_tests::cluster::Product;

use crate::scene::Scene;

const INCREMENTS: usize = 30;

#[test]
fn thirty_increments_in_a_row_leave_one_checkpoint_and_its_bitmaps() {
    let _undisturbed = Product::undisturbed();
    let mut scene = Scene::new("increments");
    assert_eq!(scene.back_up()["decision"], "full");
    let (mut made, mut frozen) = (0, 0);
    for number in 0..INCREMENTS {
        // How many of them KubeVirt spoils, and how many guests freeze in time, is a matter of how busy the machine is.
        made += usize::from(scene.increment()["decision"] == "incremental");
        frozen += usize::from(scene.was_frozen(scene.last_run()));
        if number % 10 == 9 {
            let checkpoints = scene.checkpoints();
            assert_eq!(checkpoints.len(), 1, "{number}: {checkpoints:?}");
            // A bitmap that no checkpoint tells of would stay for ever.
            assert_eq!(scene.bitmaps(), [1, 1], "{number}");
        }
    }
    assert_ne!(made, 0, "KubeVirt spoils each of them");
    assert_ne!(frozen, 0, "the guest was frozen for none of them");
    scene.assert_points_are_right();
}
