//! What a copy promises: the same bytes, only what is missing, and the next try goes on.

use std::sync::Arc;

use remora_core::plan::Asked;
use remora_core::point::{Decision, Quiesce};
use remora_core::ports::{Mover, NoProgress};
use remora_core::testing::{FakeHost, FakeMover, Fault, Faults, FaultyMover, When};
use remora_core::{BLOCK_SIZE, ErrorKind, MemoryBudget, PointId, Result, VmName};
use tokio_util::sync::CancellationToken;

use super::{CopyReport, copy};
use crate::backup::{BackupRequest, backup};

/// Blocks of the disk: more than a window, and a short last one.
const DISK: usize = 150 * BLOCK_SIZE as usize + 512;

/// A VM, its repository, and the one that copies go to. Both can break.
struct Lab {
    host: FakeHost,
    from: FaultyMover<FakeMover>,
    to: FaultyMover<FakeMover>,
}

impl Lab {
    /// With points of a disk that changes: a full, and two increments.
    async fn new() -> Self {
        let host = FakeHost::new("vm");
        let mut disk = vec![0; DISK];
        fastrand::Rng::with_seed(5).fill(&mut disk[..20 * BLOCK_SIZE as usize]);
        host.attach("vda", disk, true);
        let faulty = || FaultyMover { inner: FakeMover::default(), faults: Faults::default() };
        let lab = Self { host, from: faulty(), to: faulty() };
        lab.backup().await;
        for block in [3, 140] {
            lab.host.write(0, block * BLOCK_SIZE + 7, b"changed");
            lab.backup().await;
        }
        lab
    }

    async fn backup(&self) -> PointId {
        let request = BackupRequest {
            vm: VmName::new("vm").unwrap(),
            disks: None,
            asked: Asked::Auto,
            quiesce: Quiesce::Never,
            patience: remora_core::ports::Patience::None,
            spot_checks: 0,
            memory: MemoryBudget::new(1 << 20),
        };
        let cancel = CancellationToken::new();
        backup(&self.host, &self.from, request, Arc::new(NoProgress), cancel).await.unwrap().point.id
    }

    async fn copy(&self, wanted: &[PointId]) -> Result<CopyReport> {
        self.copy_until(CancellationToken::new(), wanted).await
    }

    async fn copy_until(&self, cancel: CancellationToken, wanted: &[PointId]) -> Result<CopyReport> {
        copy(&self.from, &self.to, wanted, Arc::new(NoProgress), cancel).await
    }

    /// Every point has exactly one copy, with the same bytes.
    async fn assert_all_copied(&self) {
        let (ours, theirs) = (self.from.inner.list(None).await.unwrap(), self.to.inner.list(None).await.unwrap());
        assert_eq!(ours.points.len(), theirs.points.len());
        for (point, copied) in ours.points.iter().zip(&theirs.points) {
            assert_eq!(point.origin(), copied.origin());
            assert_eq!((point.time, &point.vm, &copied.disks[0].checkpoint), (copied.time, &copied.vm, &None));
            assert!(self.from.inner.bytes(&point.id, 0) == self.to.inner.bytes(&copied.id, 0), "{}", point.id);
        }
    }
}

#[tokio::test]
async fn copies_are_equal_and_read_only_what_differs() {
    let lab = Lab::new().await;
    let report = lab.copy(&[]).await.unwrap();
    lab.assert_all_copied().await;
    let decisions: Vec<_> = report.copied.iter().map(|one| (one.point.decision, one.point.disks[0].read)).collect();
    let one_block = (Decision::Incremental, BLOCK_SIZE);
    assert_eq!(decisions, [(Decision::Full, DISK as u64), one_block, one_block]);
}

#[tokio::test]
async fn what_is_there_is_not_copied_again() {
    let lab = Lab::new().await;
    lab.copy(&[]).await.unwrap();
    lab.backup().await;
    let report = lab.copy(&[]).await.unwrap();
    assert_eq!((report.there, report.copied.len()), (3, 1));
    lab.assert_all_copied().await;
}

#[tokio::test]
async fn a_copy_of_a_copy_is_known_for_what_it_is() {
    let lab = Lab::new().await;
    lab.copy(&[]).await.unwrap();
    let third = FakeMover::default();
    let go = |from| copy(from, &third, &[], Arc::new(NoProgress), CancellationToken::new());
    assert_eq!(go(&lab.to.inner).await.unwrap().copied.len(), 3);
    assert_eq!(go(&lab.from.inner).await.unwrap().there, 3);
}

#[tokio::test]
async fn chosen_points_alone_are_copied_in_any_order() {
    let lab = Lab::new().await;
    let points = lab.from.list(None).await.unwrap().points;
    lab.copy(&[points[2].id.clone()]).await.unwrap();
    // Behind the newer one: compared with it, for nothing tells how they differ but their bytes.
    let report = lab.copy(&[points[0].id.clone()]).await.unwrap();
    let copied = &report.copied[0].point;
    assert!(lab.from.inner.bytes(&points[0].id, 0) == lab.to.inner.bytes(&copied.id, 0));
    let unknown = PointId::new("00".repeat(8), 9).unwrap();
    assert_eq!(lab.copy(&[unknown]).await.unwrap_err().kind(), ErrorKind::NotFound);
    let itself = copy(&lab.from, &lab.from, &[], Arc::new(NoProgress), CancellationToken::new()).await;
    assert_eq!(itself.unwrap_err().kind(), ErrorKind::Invalid);
}

/// Whatever call fails, before or after it took effect, the next copy goes on.
#[tokio::test]
async fn a_copy_that_failed_anywhere_goes_on() {
    for (side, when) in [(0, When::Before), (0, When::After), (1, When::Before), (1, When::After)] {
        for call in 0.. {
            let lab = Lab::new().await;
            let faults = if side == 0 { &lab.from.faults } else { &lab.to.faults };
            faults.arm(call, Fault::Fail(ErrorKind::Unavailable, when));
            let outcome = lab.copy(&[]).await;
            if faults.hit().is_none() {
                assert!(outcome.is_ok() && call > 10, "only {call} calls");
                break;
            }
            faults.disarm();
            lab.copy(&[]).await.unwrap();
            lab.assert_all_copied().await;
        }
    }
}

/// Whatever call of the store hangs, a copy that is told to stop does, and the next one goes on.
#[tokio::test]
async fn a_copy_is_stopped_at_every_call_that_hangs() {
    let mut hit = Vec::new();
    for call in 0.. {
        let (lab, cancel) = (Lab::new().await, CancellationToken::new());
        let token = cancel.clone();
        lab.to.faults.arm(call, Fault::Hang(Arc::new(move || token.cancel())));
        let outcome = lab.copy_until(cancel, &[]).await;
        let Some(name) = lab.to.faults.hit() else {
            outcome.unwrap();
            break;
        };
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Cancelled, "{name}");
        hit.push(name);
        lab.to.faults.disarm();
        lab.copy(&[]).await.unwrap();
        lab.assert_all_copied().await;
    }
    let commits: Vec<_> = hit.windows(2).filter(|calls| calls[1] == "commit").map(|calls| calls[0]).collect();
    assert_eq!(commits, ["settle"; 3], "all is stored before there may be a point");
}

#[tokio::test]
async fn a_damaged_point_is_told_and_the_others_are_copied() {
    let lab = Lab::new().await;
    let points = lab.from.list(None).await.unwrap().points;
    lab.from.faults.arm(1, Fault::Fail(ErrorKind::Damaged, When::Before));
    let report = lab.copy(&[]).await.unwrap();
    assert_eq!(lab.from.faults.hit(), Some("open point"));
    assert_eq!(report.damaged.iter().map(|(id, _)| id).collect::<Vec<_>>(), [&points[0].id]);
    assert_eq!(report.copied.len(), 2);
}

#[tokio::test]
async fn a_copy_that_reads_back_otherwise_is_an_error() {
    for call in 0.. {
        let lab = Lab::new().await;
        let first = lab.from.list(None).await.unwrap().points[0].id.clone();
        let stored = lab.to.inner.clone();
        lab.to.faults.arm(call, Fault::Call(Arc::new(move || stored.spoil())));
        let outcome = lab.copy(&[first]).await;
        match lab.to.faults.hit() {
            // The call that comes after the commit: what was stored is spoiled just before it is read back.
            Some("open point") => {
                let error = outcome.unwrap_err();
                assert!(error.chain().contains("reads back as something else"), "{}", error.chain());
                break;
            }
            hit => assert!(hit.is_some() && outcome.is_ok()),
        }
    }
}
