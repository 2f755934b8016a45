//! What a repair run promises the VM, against fakes: also with a fault at every single call.

use std::sync::Arc;

use remora_core::plan::Asked;
use remora_core::point::{Decision, Quiesce};
use remora_core::ports::{Damage, NoProgress, Repair};
use remora_core::testing::{FakeHost, FakeMover, Fault, Faults, FaultyMover, FaultySource, When};
use remora_core::{ByteRange, MemoryBudget, PIECE_SIZE, PointId};

use super::*;
use crate::{BackupRequest, SPOT_CHECKS, backup};

const SIZE: u64 = 300_000;

struct Lab {
    host: FakeHost,
    mover: FakeMover,
    faults: Faults,
    cancel: CancellationToken,
}

fn vm(name: &str) -> VmName {
    VmName::new(name).unwrap()
}

impl Lab {
    fn new() -> Self {
        let host = FakeHost::new("vm 1");
        host.attach("vda", (0..SIZE).map(|n| (n / 7 % 251) as u8).collect(), true);
        Self { host, mover: FakeMover::default(), faults: Faults::default(), cancel: CancellationToken::new() }
    }

    async fn back_up(&self) -> Decision {
        let request = BackupRequest {
            vm: vm("vm 1"),
            disks: None,
            asked: Asked::Auto,
            quiesce: Quiesce::Never,
            patience: Patience::None,
            spot_checks: SPOT_CHECKS,
            memory: MemoryBudget::new(PIECE_SIZE),
        };
        let done = backup(&self.host, &self.mover, request, Arc::new(NoProgress), CancellationToken::new()).await;
        done.unwrap().point.decision
    }

    /// A point whose first byte is another one.
    async fn damaged(&self) -> (PointId, Vec<DamagedPoint>) {
        assert_eq!(self.back_up().await, Decision::Full);
        self.mover.spoil();
        let point = self.mover.list(None).await.unwrap().points.remove(0).id;
        let damage = Damage {
            disk: DiskName::new("vda").unwrap(),
            range: ByteRange::new(0, 65536),
            effect: Effect::Lost,
            object: "an object".into(),
            why: "a test".into(),
        };
        (point.clone(), vec![DamagedPoint { point, damage: vec![damage] }])
    }

    async fn repair(&self, name: &str, damaged: &[DamagedPoint]) -> Result<Vec<Mended>> {
        let source = FaultySource { inner: self.host.clone(), faults: self.faults.clone() };
        let mover = FaultyMover { inner: self.mover.clone(), faults: self.faults.clone() };
        repair(Ok(&source), &mover, &vm(name), damaged, &self.cancel).await
    }

    fn assert_nothing_is_left(&self) {
        assert!(!self.host.is_open(), "a view is still open after {:?}", self.faults.hit());
        assert!(!self.host.is_claimed(), "the VM is still claimed after {:?}", self.faults.hit());
    }
}

fn why_not(mended: &[Mended]) -> &str {
    match &mended[0].repair {
        Repair::Not(why) => why,
        Repair::Done => panic!("{mended:?}"),
    }
}

#[tokio::test]
async fn a_repair_reads_the_running_vm_and_leaves_its_tracking_as_it_was() {
    let lab = Lab::new();
    let (point, damaged) = lab.damaged().await;
    let before = lab.host.checkpoints(0);
    assert_eq!(before.len(), 1);
    lab.host.write(0, 200_000, b"the guest goes on");
    let mended = lab.repair("vm 1", &damaged).await.unwrap();
    assert_eq!(mended[0].repair, Repair::Done);
    assert!(lab.mover.bytes(&point, 0).unwrap()[..65536] == lab.host.bytes(0)[..65536]);
    assert_eq!(lab.host.checkpoints(0), before);
    lab.assert_nothing_is_left();
    assert_eq!(lab.back_up().await, Decision::Incremental);
    let newest = lab.mover.list(None).await.unwrap().points.pop().unwrap().id;
    assert!(lab.mover.bytes(&newest, 0).unwrap()[..] == lab.host.bytes(0)[..], "the increment misses nothing");
}

#[tokio::test]
async fn a_vm_that_cannot_be_opened_is_why_nothing_is_repaired() {
    let lab = Lab::new();
    let (_, damaged) = lab.damaged().await;
    assert!(why_not(&lab.repair("vm 2", &damaged).await.unwrap()).contains("no such VM"));
    let claimed = lab.host.claim(&vm("vm 1"), Patience::None).await.unwrap();
    assert!(why_not(&lab.repair("vm 1", &damaged).await.unwrap()).contains("claimed already"));
    drop(claimed);
    let no_source = Error::new(ErrorKind::Unsupported, "a libvirt on another host");
    let mended = repair(Err(&no_source), &lab.mover, &vm("vm 1"), &damaged, &lab.cancel).await.unwrap();
    assert!(why_not(&mended).contains("another host"));
    let mut elsewhere = damaged.clone();
    elsewhere[0].damage[0].disk = DiskName::new("vdx").unwrap();
    assert!(why_not(&lab.repair("vm 1", &elsewhere).await.unwrap()).contains("none of these disks"));
    lab.assert_nothing_is_left();
}

#[tokio::test]
async fn whatever_fails_nothing_is_left_open() {
    let mut lab = Lab::new();
    let (_, damaged) = lab.damaged().await;
    let before = lab.host.checkpoints(0);
    lab.faults.disarm();
    lab.repair("vm 1", &damaged).await.unwrap();
    let calls = lab.faults.calls();
    assert!(calls >= 4, "{calls}: claim, open, repair, close at least");
    for call in 0..calls {
        for when in [When::Before, When::After] {
            lab.faults.arm(call, Fault::Fail(ErrorKind::Unavailable, when));
            let ended = lab.repair("vm 1", &damaged).await;
            let hit = lab.faults.hit();
            assert!(hit != Some("repair") || ended.is_err(), "{hit:?}");
            lab.faults.disarm();
            // A close that failed, and a claim whose answer was lost, are left to the next run.
            lab.repair("vm 1", &damaged).await.unwrap();
            lab.assert_nothing_is_left();
            assert_eq!(lab.host.checkpoints(0), before, "{hit:?}");
        }
        let cancel = lab.cancel.clone();
        lab.faults.arm(call, Fault::Call(Arc::new(move || cancel.cancel())));
        let ended = lab.repair("vm 1", &damaged).await;
        assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == ErrorKind::Cancelled));
        lab.faults.disarm();
        lab.cancel = CancellationToken::new();
        lab.repair("vm 1", &damaged).await.unwrap();
        lab.assert_nothing_is_left();
    }
}
