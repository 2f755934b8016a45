//! Two hosts that back up machines of one name through one array: neither touches what the other is at.

use std::process::Command;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use remora_core::point::Decision;
use remora_core::ports::{DiskIndex, DiskReads, Mover, PointWriter};
use remora_core::testing::{new_disk, new_point};
use remora_core::{BLOCK_SIZE, ErrorKind, PointId, VmName};
use remora_process::Process;
use serde_json::json;

use super::volumes::{Lab, VDB, noise, restored};

const LEN: u64 = 8 * BLOCK_SIZE;

fn vm() -> VmName {
    VmName::new("vm 1").unwrap()
}

/// A run of a host that has stored half of its disk.
async fn half_way(lab: &Lab) -> Box<dyn PointWriter> {
    let writer = lab.mover.begin(new_point(&vm(), None, vec![new_disk("vda", LEN, Decision::Full)])).await.unwrap();
    writer.write(DiskIndex(0), 0, Bytes::from(noise(LEN / 2, 77))).await.unwrap();
    writer
}

/// Stores the other half, and commits.
async fn the_rest(writer: Box<dyn PointWriter>) -> remora_core::Result<remora_core::point::Point> {
    writer.write(DiskIndex(0), LEN / 2, Bytes::from(noise(LEN / 2, 78))).await?;
    writer.commit(&[DiskReads { read: LEN, rewritten: 0 }]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_in_the_middle_of_another_hosts_takes_nothing_from_it() {
    let one = Lab::new();
    let other = Lab::beside(&one);
    let writer = half_way(&one).await;
    let begun = other.mover.begin(new_point(&vm(), None, vec![new_disk("vdb", LEN, Decision::Full)])).await.unwrap();
    begun.write(DiskIndex(0), 0, Bytes::from(noise(LEN, 5))).await.unwrap();
    let point = the_rest(writer).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    let mut stored = noise(LEN / 2, 77);
    stored.extend(noise(LEN / 2, 78));
    assert!(restored(&other.mover, &point.id, 0).await == stored, "it was spoilt by the other host");
    // The one that comes second is told so, and nothing of it stays.
    let error = begun.commit(&[DiskReads { read: LEN, rewritten: 0 }]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{}", error.chain());
    assert_eq!(one.points().await, std::slice::from_ref(&point.id));
    assert!(restored(&one.mover, &point.id, 0).await == stored);
    assert_eq!(other.appliance.points().len(), 2, "a point and its note: {:?}", other.appliance.points());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_run_beside_a_slower_one_of_another_host_spoils_neither() {
    let one = Lab::new();
    let other = Lab::beside(&one);
    let writer = half_way(&one).await;
    let second = other.backup().await.point.id;
    let error = the_rest(writer).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{}", error.chain());
    assert_eq!(one.points().await, std::slice::from_ref(&second));
    assert!(restored(&one.mover, &second, 1).await == *other.host.bytes(1));
    assert_eq!(restored(&one.mover, &second, 1).await.len() as u64, VDB);
    // Once both are at rest, each backs up.
    for lab in [&one, &other, &one] {
        let point = lab.backup().await.point.id;
        assert!(restored(&one.mover, &point, 1).await == *lab.host.bytes(1));
    }
    assert_eq!(one.points().await.len(), 4);
}

/// The digits of what a run that died stored of the first point.
const OWN: &str = "00000000000000aa";

/// Leaves in the appliance what a run of `process` leaves that is killed while it writes, some hours ago. Gives the names.
async fn left(lab: &Lab, process: Option<&Process>, hours: i64) -> Vec<String> {
    let known: PointId = lab.backup().await.point.id;
    for name in lab.appliance.points() {
        lab.appliance.remove(&name);
    }
    let disks = format!("{}-1-{OWN}", known.vm());
    let began = Timestamp::now() - SignedDuration::from_hours(hours);
    let note = json!({"began": began, "process": process}).to_string();
    lab.appliance.keep(&format!("{disks}-begun"), "vm 1", Some(note.as_bytes()));
    lab.appliance.keep(&disks, "vm 1", None);
    lab.appliance.points()
}

async fn next_run(lab: &Lab) -> u64 {
    let point = lab.backup().await.point.id;
    assert!(restored(&lab.mover, &point, 1).await == *lab.host.bytes(1));
    point.sequence()
}

/// A process of this host that has ended.
fn gone() -> Process {
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    let process = Process::of(&child.id().to_string()).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    process
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_of_this_process_left_goes_with_the_next_run() {
    let lab = Lab::new();
    drop(half_way(&lab).await);
    let left = lab.appliance.points();
    assert_eq!(left.len(), 2, "{left:?}");
    assert_eq!(lab.points().await, []);
    assert_eq!(next_run(&lab).await, 2);
    assert!(left.iter().all(|name| !lab.appliance.points().contains(name)), "{:?}", lab.appliance.points());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_of_this_host_left_goes_with_the_next_run() {
    let lab = Lab::new();
    let left = left(&lab, Some(&gone()), 1).await;
    assert_eq!((left.len(), next_run(&lab).await), (2, 2));
    assert!(left.iter().all(|name| !lab.appliance.points().contains(name)), "{:?}", lab.appliance.points());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_host_is_at_stays_for_a_week() {
    let elsewhere = Process { boot: "another".into(), ..gone() };
    for process in [Some(&elsewhere), None] {
        let lab = Lab::new();
        let alive = left(&lab, process, 6 * 24).await;
        assert_eq!(next_run(&lab).await, 2, "its number is taken");
        assert!(alive.iter().all(|name| lab.appliance.points().contains(name)), "{:?}", lab.appliance.points());
        let dead = left(&lab, process, 7 * 24 + 1).await;
        next_run(&lab).await;
        assert!(dead.iter().all(|name| !lab.appliance.points().contains(name)), "{:?}", lab.appliance.points());
    }
}
