//! Movers of points that misbehave: each costs its own run, and nothing is listed.

use std::fs;
use std::time::Duration;

use remora_core::plan::Asked;
use remora_core::point::Decision;
use remora_core::ports::Mover;
use remora_core::testing::{new_disk, new_point};
use remora_core::{BLOCK_SIZE, ErrorKind, VmName};
use remora_plugins::movers::{Patience, VolumeMover};

use super::example;
use super::volumes::{Lab, restored};

/// A mover to the appliance of a lab, of another name than the lab's own. It is not tried again.
fn hostile(lab: &Lab, misbehave: &str) -> VolumeMover {
    let folder = lab.folder.path();
    let text = fs::read_to_string(folder.join("array.yaml")).unwrap().replace("array", "hostile");
    let settings = format!("', misbehave: '{misbehave}'}}\nsecrets");
    // Those that never answer are not waited for, and ask nobody before; the others have all the time that a busy machine needs.
    let timeout = if ["loop", "lines"].iter().any(|endless| misbehave.starts_with(endless)) { "1s" } else { "5m" };
    let text = format!("{}timeout: {timeout}\n", text.replace("'}\nsecrets", &settings));
    assert!(text.contains("misbehave"), "{text}");
    fs::write(folder.join("hostile.yaml"), text).unwrap();
    fs::copy(example("hostile-array"), folder.join("hostile.wasm")).unwrap();
    let mut movers = lab.folder.movers.clone();
    movers.patience = Patience { retries: 0, give_up: Duration::from_mins(10) };
    movers.open_points("hostile").unwrap_or_else(|e| panic!("{}", e.chain()))
}

/// The notes that make points.
fn noted(lab: &Lab) -> Vec<String> {
    lab.appliance.points().into_iter().filter(|name| name.ends_with("-checked")).collect()
}

/// Which call, how, and what is said of it. The first one needs a run that was not disturbed before it.
const FAULTS: &[(&str, &str)] = &[
    ("trap in unchanged", "`unchanged` failed: it trapped"),
    ("trap in validate", "`validate` failed: it trapped"),
    ("trap in open", "`open` failed: it trapped"),
    ("trap in begin", "`begin` failed: it trapped"),
    ("trap in write", "`write` failed: it trapped"),
    ("trap in zero", "`zero` failed: it trapped"),
    ("trap in commit", "`commit` failed: it trapped"),
    ("trap in list", "`list` failed: it trapped"),
    ("trap in extents", "`extents` failed: it trapped"),
    ("trap in read", "`read` failed: it trapped"),
    ("loop in open", "did not answer within 1000 ms"),
    ("loop in list", "did not answer within 1000 ms"),
    ("lines in list", "did not answer within 1000 ms"),
    ("memory in commit", "growing memory"),
    ("recursion in commit", "it trapped"),
    ("list gigantically", "fuel"),
];

/// What it says cannot be so, and what is said of that.
const LIES: &[(&str, &str)] = &[
    ("list for ever", "its listing never ends"),
    ("list too much", "a page of its listing has 2000 points, 1000 at most"),
    ("begin extents late", "are not in order, or have gaps"),
    ("go on with extents", "are not in order, or have gaps"),
    ("leave extents empty", "are not in order, or have gaps"),
    ("end extents early", " end at "),
    ("read nothing", "and gave 0 bytes"),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_mover_of_points_that_misbehaves_fails_its_own_run_and_nothing_is_listed() {
    let lab = Lab::new();
    let good = lab.backup().await.point.id;
    let behaving = hostile(&lab, "");
    lab.try_backup_by(&behaving, Asked::Auto, 0).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    let before = noted(&lab);
    let faults = FAULTS.iter().map(|fault| (fault, ErrorKind::Unavailable));
    let table = faults.chain(LIES.iter().map(|lie| (lie, ErrorKind::Damaged)));
    for (seed, ((how, said), kind)) in (20..).zip(table) {
        lab.change_something(seed);
        let mover = hostile(&lab, how);
        // While it is at work, another one is used.
        let (attack, others) = tokio::join!(lab.try_backup_by(&mover, Asked::Auto, 0), lab.points());
        let error = attack.expect_err(how);
        assert_eq!(error.kind(), kind, "{how}: {}", error.chain());
        assert!(error.chain().contains(said), "{how}: {}", error.chain());
        assert_eq!(others, std::slice::from_ref(&good), "{how}");
        assert_eq!(noted(&lab), before, "{how}: a point is listed");
        assert!(mover.process().is_some(), "{how}: the process did not outlive it");
    }
    // They are in nobody's way.
    for mover in [&behaving, &lab.mover] {
        let point = lab.try_backup_by(mover, Asked::Auto, 0).await.unwrap_or_else(|e| panic!("{}", e.chain())).point;
        assert!(point.id.sequence() > good.sequence());
        for (n, bytes) in lab.disks().iter().enumerate() {
            assert!(restored(mover, &point.id, n).await == **bytes, "disk {n}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_can_neither_delete_nor_give_up_costs_room_until_a_later_run() {
    let lab = Lab::new();
    let left = || lab.appliance.points().into_iter().filter(|name| name.ends_with("-begun")).count();
    let mover = hostile(&lab, "trap in delete");
    let point = lab.try_backup_by(&mover, Asked::Auto, 0).await.unwrap_or_else(|e| panic!("{}", e.chain())).point;
    assert_eq!((mover.list(None).await.unwrap().points, left()), (vec![point], 1));
    let mover = hostile(&lab, "trap in abort");
    let disks = vec![new_disk("vda", BLOCK_SIZE, Decision::Full)];
    let writer = mover.begin(new_point(&VmName::new("vm 1").unwrap(), None, disks)).await.unwrap();
    writer.abandon().await;
    assert_eq!((noted(&lab).len(), left()), (1, 1), "the first one's note is gone by then, and its own is there");
    lab.try_backup_by(&hostile(&lab, ""), Asked::Auto, 0).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    assert_eq!((noted(&lab).len(), left()), (2, 0));
    assert_eq!(lab.appliance.points().len(), 4, "points and their notes: {:?}", lab.appliance.points());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_takes_no_pieces_of_a_blocks_size_is_refused_before_anything_is_stored() {
    let lab = Lab::new();
    let error = lab.try_backup_by(&hostile(&lab, "take large pieces"), Asked::Auto, 0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", error.chain());
    assert!(error.chain().contains("its granularity is 1048576"), "{}", error.chain());
    assert!(error.advice().is_some() && lab.appliance.points().is_empty(), "{:?}", lab.appliance.points());
}
