//! A repository of simulated VMs in a folder.

use std::path::Path;
use std::sync::Arc;

use remora_core::plan::Asked;
use remora_core::point::{Decision, Quiesce};
use remora_core::ports::{NoProgress, Patience};
use remora_core::{Error, ErrorKind, MemoryBudget, Result, VmName};
use remora_engine::{BackupRequest, SPOT_CHECKS, backup};
use remora_vault::{Location, Secret, Vault, VaultOptions};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::store::{Counted, Traffic};
use crate::vm::{Change, Disk, SimulatedVm};

/// Pieces in flight.
const PIECES: u64 = 64 * 1024 * 1024;

/// The repository, and the VMs whose points it holds.
pub struct Synthetic {
    vault: Vault,
    store: Counted,
    vms: Vec<(VmName, SimulatedVm)>,
}

/// A point that was made.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Made {
    /// How it was made.
    pub decision: Decision,
    /// Bytes of the disk that were read.
    pub disk: u64,
    /// The metadata that went through the store for it.
    pub metadata: Traffic,
}

impl Synthetic {
    /// A new repository in a folder, of so many VMs with a disk each.
    pub async fn new(folder: &Path, secret: &Secret, vms: u64, disk: Disk) -> Result<Self> {
        let location: Location = folder.to_string_lossy().parse()?;
        Vault::init(&location, secret, None).await?;
        let failed = |e| Error::new(ErrorKind::Failed, "opening the store").because(e);
        let store = Counted::new(folder.to_owned()).map_err(failed)?;
        let vault = Vault::open_over(Arc::new(store.clone()), secret, VaultOptions::default()).await?;
        let vm = |n| {
            let name = VmName::new(format!("vm-{n}"))?;
            Ok((name.clone(), SimulatedVm::new(name, disk, n)))
        };
        Ok(Self { vault, store, vms: (0..vms).map(vm).collect::<Result<_>>()? })
    }

    /// The guest of a VM writes, and its next point is made; the first one is a full.
    pub async fn back_up(&self, vm: usize, change: Change) -> Result<Made> {
        let (name, source) = &self.vms[vm];
        source.write(change);
        self.store.take();
        let request = BackupRequest {
            vm: name.clone(),
            disks: None,
            asked: Asked::Auto,
            quiesce: Quiesce::Never,
            patience: Patience::None,
            spot_checks: SPOT_CHECKS,
            memory: MemoryBudget::new(PIECES),
        };
        let report = backup(source, &self.vault, request, Arc::new(NoProgress), CancellationToken::new()).await?;
        let disk = report.point.disks.iter().map(|disk| disk.read).sum();
        Ok(Made { decision: report.point.decision, disk, metadata: self.store.take() })
    }
}

#[cfg(test)]
mod tests {
    use remora_core::BLOCK_SIZE;
    use remora_vault::KeyFile;

    use super::*;

    const KIB: u64 = 1024;

    /// A sixteenth of a disk of 1 TiB, and of what `make bench` changes on it.
    const DISK: Disk = Disk { size: 64 << 30, data_every: 4 << 20 };
    const CHANGED: u64 = 100;

    async fn assert_little(synthetic: &Synthetic, change: Change, read: u64, written: u64) {
        let made = synthetic.back_up(0, change).await.unwrap();
        let Made { decision, disk, metadata } = made;
        assert_eq!(decision, Decision::Incremental);
        assert!(disk >= CHANGED * BLOCK_SIZE / 2, "{change:?}: {made:?}");
        assert!(metadata.read <= read && metadata.written <= written, "{change:?}: {made:?}");
    }

    #[tokio::test]
    async fn an_increment_reads_and_writes_metadata_in_proportion_to_what_changed() {
        let dir = tempfile::tempdir().unwrap();
        let secret = Secret::KeyFile(KeyFile::new(&[7; 32]).unwrap());
        let synthetic = Synthetic::new(&dir.path().join("repo"), &secret, 1, DISK).await.unwrap();
        let full = synthetic.back_up(0, Change::Together(CHANGED)).await.unwrap();
        assert_eq!((full.decision, full.metadata.read), (Decision::Full, 0));
        // 16 blocks are compared with their digests, a segment's details each: most of what little changes reads.
        for _ in 0..20 {
            assert_little(&synthetic, Change::Together(CHANGED), 256 * KIB, 16 * KIB).await;
            assert_little(&synthetic, Change::Scattered(CHANGED), 512 * KIB, 64 * KIB).await;
        }
    }
}
