//! What a restore promises: exact bytes, no half file, and a repository that knows.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use remora_core::plan::Asked;
use remora_core::point::Quiesce;
use remora_core::ports::{DiskIndex, Mover, NoProgress, Patience};
use remora_core::testing::{FakeHost, FakeMover, Fault, Faults, FaultyMover, When};
use remora_core::{BLOCK_SIZE, Error, ErrorKind, MemoryBudget, PointId, Result, VmName};
use tokio_util::sync::CancellationToken;

use super::restore;
use crate::backup::{BackupRequest, backup};
use crate::target::{Existing, Target};

/// A point of a disk with data at both ends and a hole of several MiB, that lies at `path`.
struct Lab {
    mover: FaultyMover<FakeMover>,
    point: PointId,
    disk: Arc<Vec<u8>>,
    folder: tempfile::TempDir,
    cancel: CancellationToken,
}

impl Lab {
    async fn new() -> Self {
        let mut disk = vec![0; 100 * BLOCK_SIZE as usize + 512];
        disk[..3 * BLOCK_SIZE as usize].fill(1);
        let tail = 90 * BLOCK_SIZE as usize;
        fastrand::Rng::with_seed(5).fill(&mut disk[tail..]);
        let host = FakeHost::new("vm");
        host.attach("vda", disk, true);
        let mover = FaultyMover { inner: FakeMover::default(), faults: Faults::default() };
        let request = BackupRequest {
            vm: VmName::new("vm").unwrap(),
            disks: None,
            asked: Asked::Auto,
            quiesce: Quiesce::Never,
            patience: Patience::None,
            spot_checks: 0,
            memory: MemoryBudget::new(1 << 20),
        };
        let cancel = CancellationToken::new();
        let done = backup(&host, &mover, request, Arc::new(NoProgress), cancel.clone()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        Self { mover, point: done.point.id, disk: host.bytes(0), folder, cancel }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("vda.raw")
    }

    fn files(&self) -> usize {
        std::fs::read_dir(self.folder.path()).unwrap().count()
    }

    async fn restore_to(&self, target: Target) -> Result<()> {
        let reader = self.mover.open(&self.point).await.unwrap();
        let (progress, cancel) = (Arc::new(NoProgress), self.cancel.clone());
        restore(&self.mover, reader.as_ref(), DiskIndex(0), target, progress, cancel).await?.finish()
    }

    async fn restore(&self, existing: Existing) -> Result<()> {
        self.restore_to(Target::prepare(&self.path(), existing, self.disk.len() as u64)?).await
    }

    fn assert_is_the_disk(&self, path: &Path) {
        assert!(std::fs::read(path).unwrap()[..self.disk.len()] == self.disk[..]);
    }
}

#[tokio::test]
async fn a_new_file_is_exact_and_sparse() {
    let lab = Lab::new().await;
    lab.restore(Existing::Refuse).await.unwrap();
    lab.assert_is_the_disk(&lab.path());
    let meta = lab.path().metadata().unwrap();
    assert_eq!((meta.len(), meta.mode() & 0o777), (lab.disk.len() as u64, 0o600));
    assert!(meta.blocks() * 512 < 20 * BLOCK_SIZE, "{} bytes are allocated", meta.blocks() * 512);
}

#[tokio::test]
async fn what_is_written_in_place_keeps_no_old_byte() {
    let lab = Lab::new().await;
    let old = vec![0xEE; lab.disk.len() + 1000];
    std::fs::write(lab.path(), &old).unwrap();
    lab.restore_to(Target::in_place(&lab.path())).await.unwrap();
    lab.assert_is_the_disk(&lab.path());
    let after = std::fs::read(lab.path()).unwrap();
    assert!(after[lab.disk.len()..] == old[lab.disk.len()..], "beyond the disk nothing changes");
}

#[tokio::test]
async fn an_existing_file_is_refused_unless_forced() {
    let lab = Lab::new().await;
    std::fs::write(lab.path(), "precious").unwrap();
    assert_eq!(lab.restore(Existing::Refuse).await.unwrap_err().kind(), ErrorKind::Exists);
    assert_eq!(std::fs::read(lab.path()).unwrap(), b"precious");
    lab.restore(Existing::Replace).await.unwrap();
    lab.assert_is_the_disk(&lab.path());
}

/// A backup of a disk that lies where the next restore writes.
async fn protect(lab: &Lab, path: &Path) -> VmName {
    let host = FakeHost::new("owner");
    host.attach("vda", vec![1; BLOCK_SIZE as usize], true);
    host.set_data_file(0, &format!("{} 8:15", path.display()));
    let request = BackupRequest {
        vm: VmName::new("owner").unwrap(),
        disks: None,
        asked: Asked::Auto,
        quiesce: Quiesce::Never,
        patience: Patience::None,
        spot_checks: 0,
        memory: MemoryBudget::new(1 << 20),
    };
    backup(&host, &lab.mover, request, Arc::new(NoProgress), lab.cancel.clone()).await.unwrap().point.vm
}

#[tokio::test]
async fn the_repository_learns_of_a_vms_disk_before_it_is_written() {
    let lab = Lab::new().await;
    std::fs::write(lab.path(), "old").unwrap();
    let owner = protect(&lab, &lab.path()).await;

    // If it cannot be told, nothing is written.
    let number = 2; // open, list, record_break
    lab.mover.faults.arm(number, Fault::Fail(ErrorKind::Unavailable, When::Before));
    assert_eq!(lab.restore(Existing::Replace).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(lab.mover.faults.hit(), Some("record_break"));
    assert_eq!(std::fs::read(lab.path()).unwrap(), b"old");
    lab.mover.faults.disarm();

    lab.restore(Existing::Replace).await.unwrap();
    let breaks = lab.mover.history(&owner).await.unwrap().breaks;
    assert_eq!(breaks.len(), 1);
    assert!(breaks[0].reason.contains("restored"), "{}", breaks[0].reason);
    assert!(lab.mover.history(&VmName::new("vm").unwrap()).await.unwrap().breaks.is_empty());
}

#[tokio::test]
async fn a_failure_at_any_piece_leaves_no_file() {
    for call in 0.. {
        let lab = Lab::new().await;
        lab.mover.faults.arm(call + 1, Fault::Fail(ErrorKind::Damaged, When::Before));
        let done = lab.restore(Existing::Refuse).await;
        if lab.mover.faults.hit().is_none() {
            assert!(call > 10, "only {call} pieces");
            done.unwrap();
            break;
        }
        let error = done.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
        assert!(error.chain().contains("disk vda") && error.chain().contains(&lab.point.to_string()));
        assert_eq!(lab.files(), 0);
    }
}

#[tokio::test]
async fn a_cancellation_leaves_no_file() {
    let lab = Lab::new().await;
    let token = lab.cancel.clone();
    lab.mover.faults.arm(5, Fault::Hang(Arc::new(move || token.cancel())));
    assert_eq!(lab.restore(Existing::Refuse).await.unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(lab.files(), 0);
}

#[test]
fn a_full_target_says_what_to_do() {
    let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
    let error: Error = super::write_error(Path::new("/a"), full);
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert!(error.advice().is_some());
}
