//! What a backup run promises, against fakes: also with a fault at every single call.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use remora_core::plan::Asked;
use remora_core::point::{Decision, Quiesce};
use remora_core::ports::{Mover, NoProgress, Patience};
use remora_core::testing::{FakeHost, FakeMover, Fault, Faults, FaultyMover, FaultySource, GRANULARITY, When};
use remora_core::{BLOCK_SIZE, DiskName, ErrorKind, MemoryBudget, PIECE_SIZE, PointId, Result, VmName};
use tokio_util::sync::CancellationToken;

use super::{BackupReport, BackupRequest, SPOT_CHECKS, backup};

/// A host with a disk whose last block is short, and one that takes several pieces.
struct Lab {
    host: FakeHost,
    mover: FakeMover,
    faults: Faults,
    cancel: CancellationToken,
    /// What each listed point must hold.
    expected: BTreeMap<PointId, Vec<Arc<Vec<u8>>>>,
}

const VDA: u64 = 6 * BLOCK_SIZE + 512;
const VDB: u64 = PIECE_SIZE + 9 * BLOCK_SIZE;

fn noise(len: u64, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

impl Lab {
    fn new() -> Self {
        let host = FakeHost::new("vm 1");
        host.attach("vda", noise(VDA, 1), true);
        let mut vdb = noise(VDB, 2);
        vdb[2 * BLOCK_SIZE as usize..5 * BLOCK_SIZE as usize].fill(0);
        host.attach("vdb", vdb, true);
        Self {
            host,
            mover: FakeMover::default(),
            faults: Faults::default(),
            cancel: CancellationToken::new(),
            expected: BTreeMap::new(),
        }
    }

    fn request(asked: Asked) -> BackupRequest {
        BackupRequest {
            vm: VmName::new("vm 1").unwrap(),
            disks: None,
            asked,
            quiesce: Quiesce::Preferred,
            patience: Patience::None,
            spot_checks: SPOT_CHECKS,
            // Smaller than what is in flight: nobody may wait for what he holds himself.
            memory: MemoryBudget::new(PIECE_SIZE + 1),
        }
    }

    async fn run(&mut self, request: BackupRequest) -> Result<BackupReport> {
        let source = FaultySource { inner: self.host.clone(), faults: self.faults.clone() };
        let mover = FaultyMover { inner: self.mover.clone(), faults: self.faults.clone() };
        let run = backup(&source, &mover, request, Arc::new(NoProgress), self.cancel.clone());
        let done = tokio::time::timeout(Duration::from_mins(10), run).await.expect("a run must end");
        let disks: Vec<_> = (0..2).map(|n| self.host.bytes(n)).collect();
        for point in self.mover.list(None).await.unwrap().points {
            self.expected.entry(point.id).or_insert_with(|| disks.clone());
        }
        done
    }

    async fn backup(&mut self) -> BackupReport {
        self.run(Self::request(Asked::Auto)).await.unwrap()
    }

    /// Every listed point holds what the disks held when it was made.
    async fn assert_points_are_right(&self) {
        for point in self.mover.list(None).await.unwrap().points {
            for (n, expected) in self.expected[&point.id].iter().enumerate() {
                let stored = self.mover.bytes(&point.id, n).unwrap();
                assert!(stored == expected[..], "disk {n} of {} ({})", point.id, point.decision);
            }
        }
    }

    fn assert_nothing_is_left(&self) {
        assert!(!self.host.is_open(), "a view is still open after {:?}", self.faults.hit());
        assert!(!self.host.is_claimed(), "the VM is still claimed after {:?}", self.faults.hit());
    }

    fn change_something(&self, seed: u64) {
        self.host.write(0, 3 * BLOCK_SIZE + 100, &noise(1000, seed));
        self.host.write(1, PIECE_SIZE - 10, &noise(20, seed));
        self.host.write(1, 0, &vec![0; BLOCK_SIZE as usize]);
    }
}

fn decisions(report: &BackupReport) -> Vec<Decision> {
    report.point.disks.iter().map(|disk| disk.decision).collect()
}

#[tokio::test]
async fn an_increment_reads_what_changed_and_its_spot_checks_only() {
    let mut lab = Lab::new();
    let full = lab.backup().await;
    assert_eq!(decisions(&full), [Decision::Full, Decision::Full]);
    assert_eq!(full.point.disks[1].read, VDB - 3 * BLOCK_SIZE, "zeros need no reading");
    lab.host.write(1, 8 * BLOCK_SIZE, &noise(BLOCK_SIZE, 7));
    let next = lab.backup().await;
    assert_eq!(decisions(&next), [Decision::Incremental, Decision::Incremental]);
    assert_eq!(next.point.parent, Some(full.point.id));
    // All but the last of seven blocks are whole; the spot checks read all that did not change.
    assert_eq!(next.point.disks[0].read, VDA);
    assert_eq!(next.point.disks[1].read, BLOCK_SIZE + SPOT_CHECKS as u64 * BLOCK_SIZE);
    lab.assert_points_are_right().await;
    lab.assert_nothing_is_left();
}

#[tokio::test]
async fn fragmented_stretches_are_rewritten_within_a_quarter_of_what_changed() {
    let mut lab = Lab::new();
    lab.backup().await;
    for block in [0, 2, 4, 6, 8, 10, 12, 14] {
        lab.host.write(1, block * BLOCK_SIZE, &noise(100, block));
    }
    let next = lab.backup().await;
    assert_eq!(next.point.disks[1].rewritten, 2 * BLOCK_SIZE);
    assert_eq!(next.point.disks[1].read, (8 + 2 + SPOT_CHECKS as u64) * BLOCK_SIZE);
    lab.assert_points_are_right().await;
}

#[tokio::test]
async fn only_the_newest_points_checkpoints_stay() {
    let mut lab = Lab::new();
    let foreign = remora_core::CheckpointName::random(remora_core::RepositoryId::random());
    lab.backup().await;
    let second = lab.backup().await;
    for n in 0..2 {
        let kept: Vec<_> = lab.host.checkpoints(n).into_iter().collect();
        assert_eq!(kept, [second.point.disks[n].checkpoint.clone().unwrap()], "{foreign} is not ours");
    }
}

#[tokio::test]
async fn two_repositories_protect_one_vm_without_disturbing_each_other() {
    let mut lab = Lab::new();
    lab.backup().await;
    let first = std::mem::take(&mut lab.mover);
    let expected = std::mem::take(&mut lab.expected);
    lab.change_something(1);
    assert_eq!(decisions(&lab.backup().await), [Decision::Full, Decision::Full]);
    lab.mover = first;
    lab.expected = expected;
    lab.change_something(2);
    assert_eq!(decisions(&lab.backup().await), [Decision::Incremental, Decision::Incremental]);
    lab.assert_points_are_right().await;
}

#[tokio::test]
async fn a_lying_bitmap_is_caught_and_the_disk_reread_in_the_same_run() {
    let mut lab = Lab::new();
    lab.backup().await;
    lab.host.write_behind(1, 0, &noise(VDB, 99));
    let next = lab.backup().await;
    assert_eq!(decisions(&next), [Decision::Incremental, Decision::Reread]);
    assert!(next.point.reason.contains("behind the hypervisor's back"), "{}", next.point.reason);
    assert_eq!(next.notes.len(), 1);
    lab.assert_points_are_right().await;
}

#[tokio::test]
async fn a_bitmap_that_only_opening_finds_broken_makes_a_reread() {
    let mut lab = Lab::new();
    lab.backup().await;
    lab.host.spoil();
    lab.change_something(4);
    let next = lab.backup().await;
    assert_eq!(decisions(&next), [Decision::Reread, Decision::Reread]);
    assert!(next.point.reason.contains("inconsistent"), "{}", next.point.reason);
    lab.assert_points_are_right().await;
    lab.change_something(5);
    assert_eq!(decisions(&lab.backup().await), [Decision::Incremental, Decision::Incremental]);
}

#[tokio::test]
async fn a_disk_resized_between_plan_and_open_is_reread_at_its_new_size() {
    for size in [VDB + 3 * BLOCK_SIZE + 7, VDB - BLOCK_SIZE] {
        let mut lab = Lab::new();
        lab.backup().await;
        let host = lab.host.clone();
        lab.faults.arm(2, Fault::Call(Arc::new(move || host.resize(1, size))));
        let next = lab.backup().await;
        assert_eq!(lab.faults.hit(), Some("open"));
        assert_eq!(decisions(&next), [Decision::Incremental, Decision::Reread]);
        assert_eq!(next.point.disks[1].size, size);
        lab.assert_points_are_right().await;
    }
}

#[tokio::test]
async fn a_source_that_names_checkpoints_itself_is_incremental_from_the_name_that_it_gave() {
    let mut lab = Lab::new();
    lab.host.name_checkpoints();
    let full = lab.backup().await;
    let named = full.point.disks[0].checkpoint.clone().unwrap();
    assert!(named.backup().is_some() && lab.host.checkpoints(0) == [named].into());
    lab.change_something(4);
    let next = lab.backup().await;
    assert_eq!(decisions(&next), [Decision::Incremental, Decision::Incremental]);
    assert_eq!(lab.host.checkpoints(0), next.point.disks[0].checkpoint.clone().into_iter().collect());
    // The size was a guess before; that it changed shows once the disk is open.
    lab.host.resize(1, VDB + BLOCK_SIZE);
    let next = lab.backup().await;
    assert_eq!(decisions(&next), [Decision::Incremental, Decision::Reread]);
    assert!(next.point.reason.contains("size changed"), "{}", next.point.reason);
    lab.assert_points_are_right().await;
}

#[tokio::test]
async fn an_increment_that_the_open_view_cannot_tell_is_a_reread_of_the_same_view() {
    let mut lab = Lab::new();
    lab.backup().await;
    lab.change_something(4);
    lab.host.tell_no_increment(Some("the tracker moved on"));
    let next = lab.backup().await;
    assert_eq!(decisions(&next), [Decision::Reread, Decision::Reread]);
    assert_eq!(next.point.reason, "the tracker moved on");
    lab.assert_points_are_right().await;
    lab.host.tell_no_increment(None);
    lab.change_something(5);
    assert_eq!(decisions(&lab.backup().await), [Decision::Incremental, Decision::Incremental]);
    lab.assert_points_are_right().await;
}

#[tokio::test]
async fn a_raw_data_file_is_reread_after_a_restart() {
    let mut lab = Lab::new();
    lab.host.set_data_file(0, "/raw 1:9");
    lab.backup().await;
    assert_eq!(decisions(&lab.backup().await), [Decision::Incremental, Decision::Incremental]);
    lab.host.restart();
    assert_eq!(decisions(&lab.backup().await), [Decision::Reread, Decision::Incremental]);
    lab.assert_points_are_right().await;
}

#[tokio::test]
async fn a_disk_that_holds_no_bitmaps_is_reread_beside_one_that_does() {
    let mut lab = Lab::new();
    lab.host = FakeHost::new("vm 1");
    lab.host.attach("vda", noise(VDA, 1), false);
    lab.host.attach("vdb", noise(VDB, 2), true);
    assert!(lab.backup().await.point.disks[0].checkpoint.is_none());
    lab.change_something(3);
    let next = lab.backup().await;
    assert_eq!(decisions(&next), [Decision::Reread, Decision::Incremental]);
    assert_eq!((next.point.decision, next.point.disks[0].stored), (Decision::Reread, BLOCK_SIZE));
    lab.assert_points_are_right().await;
}

#[tokio::test]
async fn chosen_disks_only_and_unknown_ones_are_named() {
    let mut lab = Lab::new();
    let disks = |names: &[&str]| names.iter().map(|name| DiskName::new(*name).unwrap()).collect::<Vec<_>>();
    let request = |names: &[&str]| BackupRequest { disks: Some(disks(names)), ..Lab::request(Asked::Auto) };
    let error = lab.run(request(&["vdz"])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.chain().contains("vdz") && error.advice().unwrap().contains("vda, vdb"), "{}", error.chain());
    let report = lab.run(request(&["vdb", "vdb"])).await.unwrap();
    assert_eq!(report.point.disks.iter().map(|disk| disk.name.as_str()).collect::<Vec<_>>(), ["vdb"]);
    let unknown = BackupRequest { vm: VmName::new("no").unwrap(), ..Lab::request(Asked::Auto) };
    assert_eq!(lab.run(unknown).await.unwrap_err().kind(), ErrorKind::NotFound);
    lab.assert_nothing_is_left();
}

/// The calls of a run in order, each broken once, until a run has no such call any more.
async fn at_every_call(mut each: impl AsyncFnMut(Lab, u64) -> bool) {
    for call in 0.. {
        let mut lab = Lab::new();
        lab.backup().await;
        lab.change_something(call + 10);
        if !each(lab, call).await {
            assert!(call > 40, "only {call} calls were broken");
            return;
        }
    }
}

#[tokio::test]
async fn a_failure_at_any_call_loses_nothing_and_leaves_nothing() {
    for (kind, when) in [
        (ErrorKind::Failed, When::Before),
        (ErrorKind::Unavailable, When::Before),
        (ErrorKind::Damaged, When::Before),
        (ErrorKind::NoSpace, When::After),
    ] {
        at_every_call(async |mut lab, call| {
            let before = lab.host.checkpoints(1);
            lab.faults.arm(call, Fault::Fail(kind, when));
            let done = lab.run(Lab::request(Asked::Auto)).await;
            let Some(hit) = lab.faults.hit() else { return false };
            match (&done, hit) {
                (Ok(report), "close" | "retire") => {
                    assert!(report.notes.iter().any(|note| note.contains("injected")));
                    assert!(report.left.as_ref().is_some_and(|why| why.contains("injected")), "{:?}", report.left);
                }
                // A parent that is damaged, or a bitmap that is refused, makes a reread.
                (Ok(report), _) => {
                    assert_eq!((kind, report.point.decision), (ErrorKind::Damaged, Decision::Reread), "{hit}");
                }
                (Err(_), "open" | "open point" | "differing") if kind == ErrorKind::Damaged => {
                    panic!("{hit}: damage makes a reread, not a failure")
                }
                (Err(error), _) => {
                    assert_eq!(error.kind(), kind, "{hit}");
                    assert!(error.chain().contains(&format!("injected into {hit}")), "{}", error.chain());
                }
            }
            if !(hit == "close" && when == When::Before) {
                lab.assert_nothing_is_left();
            }
            let unknown = hit == "commit" && kind == ErrorKind::Unavailable;
            if done.is_err() && !unknown {
                assert_eq!(lab.host.checkpoints(1), before, "{hit}");
            }
            lab.assert_points_are_right().await;
            lab.faults.disarm();
            lab.change_something(call + 1000);
            lab.backup().await;
            lab.assert_points_are_right().await;
            assert_eq!(lab.host.checkpoints(1).len(), 1);
            true
        })
        .await;
    }
}

#[tokio::test]
async fn an_unknown_commit_keeps_both_checkpoints_and_the_next_run_is_incremental_either_way() {
    for when in [When::Before, When::After] {
        at_every_call(async |mut lab, call| {
            lab.faults.arm(call, Fault::Fail(ErrorKind::Unavailable, when));
            let done = lab.run(Lab::request(Asked::Auto)).await;
            let hit = lab.faults.hit();
            if hit == Some("commit") {
                assert!(done.is_err());
                assert_eq!(lab.host.checkpoints(0).len(), 2);
                lab.assert_nothing_is_left();
                lab.faults.disarm();
                lab.change_something(77);
                assert_eq!(decisions(&lab.backup().await), [Decision::Incremental, Decision::Incremental]);
                assert_eq!(lab.host.checkpoints(0).len(), 1);
                lab.assert_points_are_right().await;
            }
            hit.is_some()
        })
        .await;
    }
}

#[tokio::test]
async fn a_cancellation_at_any_call_ends_the_run_and_leaves_nothing() {
    // Once a commit began, or while the view is opened or closed, the call is not dropped.
    const AWAITED: [&str; 4] = ["open", "commit", "close", "retire"];
    at_every_call(async |mut lab, call| {
        let before = (lab.host.checkpoints(0), lab.mover.list(None).await.unwrap().points);
        let token = lab.cancel.clone();
        let cancel: Arc<dyn Fn() + Send + Sync> = Arc::new(move || token.cancel());
        lab.faults.arm(call, Fault::Call(Arc::clone(&cancel)));
        // Seen first which call this is: those that are dropped on cancellation are then made to hang.
        let done = lab.run(Lab::request(Asked::Auto)).await;
        let Some(hit) = lab.faults.hit() else { return false };
        lab.assert_nothing_is_left();
        let committing = ["commit", "close", "retire"].contains(&hit);
        assert_eq!(done.is_ok(), committing, "{hit}");
        if !committing {
            assert_eq!(done.unwrap_err().kind(), ErrorKind::Cancelled, "{hit}");
            assert_eq!((lab.host.checkpoints(0), lab.mover.list(None).await.unwrap().points), before, "{hit}");
        }
        if !AWAITED.contains(&hit) {
            lab.cancel = CancellationToken::new();
            let token = lab.cancel.clone();
            lab.faults.arm(call, Fault::Hang(Arc::new(move || token.cancel())));
            assert_eq!(lab.run(Lab::request(Asked::Auto)).await.unwrap_err().kind(), ErrorKind::Cancelled, "{hit}");
            lab.assert_nothing_is_left();
        }
        lab.faults.disarm();
        lab.cancel = CancellationToken::new();
        lab.backup().await;
        lab.assert_points_are_right().await;
        true
    })
    .await;
}

/// What may happen to a VM and to its backups.
#[derive(Clone, Debug)]
enum Happening {
    Write {
        disk: usize,
        at: u64,
        len: u64,
        zero: bool,
    },
    /// All of a disk, behind the hypervisor's back: the spot check cannot miss it.
    Lie {
        disk: usize,
    },
    Resize {
        disk: usize,
        blocks: u64,
        tail: u64,
    },
    Restart,
    Crash,
    Spoil,
    Backup {
        asked: Asked,
        fault: Option<(u64, ErrorKind, When)>,
    },
}

fn happening() -> impl Strategy<Value = Happening> {
    let kind = prop_oneof![Just(ErrorKind::Unavailable), Just(ErrorKind::Damaged), Just(ErrorKind::NoSpace)];
    let when = prop_oneof![Just(When::Before), Just(When::After)];
    let fault = proptest::option::of((0_u64..80, kind, when));
    let asked = prop_oneof![8 => Just(Asked::Auto), 1 => Just(Asked::Reread), 1 => Just(Asked::Full)];
    prop_oneof![
        8 => (0_usize..2, 0..VDB, 1..3 * GRANULARITY, any::<bool>())
            .prop_map(|(disk, at, len, zero)| Happening::Write { disk, at, len, zero }),
        1 => (0_usize..2).prop_map(|disk| Happening::Lie { disk }),
        1 => (0_usize..2, 1_u64..30, 0_u64..3)
            .prop_map(|(disk, blocks, tail)| Happening::Resize { disk, blocks, tail: tail * 512 }),
        1 => Just(Happening::Restart),
        1 => Just(Happening::Crash),
        1 => Just(Happening::Spoil),
        8 => (asked, fault).prop_map(|(asked, fault)| Happening::Backup { asked, fault }),
    ]
}

async fn happens(lab: &mut Lab, n: u64, happening: Happening) {
    match happening {
        Happening::Write { disk, at, len, zero } => {
            lab.host.write(disk, at, &if zero { vec![0; len as usize] } else { noise(len, n) });
        }
        Happening::Lie { disk } => lab.host.write_behind(disk, 0, &noise(2 * VDB, n)),
        Happening::Resize { disk, blocks, tail } => lab.host.resize(disk, blocks * BLOCK_SIZE + tail),
        Happening::Restart => lab.host.restart(),
        Happening::Crash => lab.host.crash(),
        Happening::Spoil => lab.host.spoil(),
        Happening::Backup { asked, fault } => {
            if let Some((call, kind, when)) = fault {
                lab.faults.arm(call, Fault::Fail(kind, when));
            }
            let done = lab.run(Lab::request(asked)).await;
            assert!(done.is_ok() || lab.faults.hit().is_some(), "{done:?}");
            if lab.faults.hit() != Some("close") {
                lab.assert_nothing_is_left();
            }
            lab.faults.disarm();
            lab.assert_points_are_right().await;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_listed_point_equals_the_disks_whatever_happened(story in proptest::collection::vec(happening(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut lab = Lab::new();
            for (n, happening) in story.into_iter().enumerate() {
                happens(&mut lab, n as u64 + 100, happening).await;
            }
            lab.backup().await;
            lab.assert_points_are_right().await;
        });
    }
}
