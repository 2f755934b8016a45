//! A repair run: what verifications found damaged is made anew from the running VM.
//!
//! The VM is claimed and opened as for a backup, but for tracking: no checkpoint is made, moved or removed, so the next
//! backup is what it would have been. If the VM cannot be opened, what needs no VM is repaired nevertheless.

use std::collections::BTreeSet;
use std::result::Result as StdResult;

use remora_core::point::Quiesce;
use remora_core::ports::{
    ClaimedVm, DamagedPoint, Effect, Mended, Mover, OpenDisk, OpenRequest, OpenVm, Outcome, Patience, Source, Tracking,
    VmDisks,
};
use remora_core::{CheckpointName, DiskName, Error, ErrorKind, Result, VmName};
use tokio_util::sync::CancellationToken;

use crate::cancel::{check, or_cancelled};

#[cfg(test)]
mod tests;

/// Repairs damaged points of one VM, as far as its disks still hold what was lost. `source` may be why there is none.
///
/// Fails only if the mover does, or when it is cancelled; nothing of the run is left open then.
pub async fn repair(
    source: StdResult<&dyn Source, &Error>,
    mover: &dyn Mover,
    vm: &VmName,
    damaged: &[DamagedPoint],
    cancel: &CancellationToken,
) -> Result<Vec<Mended>> {
    let lost = damaged.iter().flat_map(|point| &point.damage).filter(|damage| damage.effect == Effect::Lost);
    let wanted: BTreeSet<&DiskName> = lost.map(|damage| &damage.disk).collect();
    if wanted.is_empty() {
        return or_cancelled(cancel, mover.repair(damaged, VmDisks::NotOpen("nothing of them is needed"))).await;
    }
    let opened = match source {
        Ok(source) => open(source, mover, vm, &wanted, cancel).await,
        Err(error) => Err(Error::new(error.kind(), error.chain())),
    };
    // The claim is held until the view is closed.
    let (_claimed, opened) = match opened {
        Ok(opened) => opened,
        Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
        Err(error) => {
            let why = error.chain();
            tracing::warn!(%vm, why, "the VM cannot be read, so nothing is repaired from it");
            return or_cancelled(cancel, mover.repair(damaged, VmDisks::NotOpen(&why))).await;
        }
    };
    let mended = or_cancelled(cancel, mover.repair(damaged, VmDisks::Open(opened.disks()))).await;
    if let Err(error) = opened.close(Outcome::Abandoned).await {
        tracing::warn!(%vm, error = error.chain(), "closing the view failed; the next run of this VM cleans up");
    }
    mended
}

/// Opens those of the wanted disks that the VM has now.
async fn open(
    source: &dyn Source,
    mover: &dyn Mover,
    vm: &VmName,
    wanted: &BTreeSet<&DiskName>,
    cancel: &CancellationToken,
) -> Result<(Box<dyn ClaimedVm>, Box<dyn OpenVm>)> {
    let claimed = or_cancelled(cancel, source.claim(vm, Patience::None)).await?;
    let disks = claimed.state().disks.iter().filter(|disk| wanted.contains(&disk.name));
    let request = OpenRequest {
        disks: disks.map(|disk| OpenDisk { name: disk.name.clone(), since: None }).collect(),
        checkpoint: CheckpointName::random(mover.repository()),
        tracking: Tracking::AsBefore,
        // What is read is proven block by block.
        quiesce: Quiesce::Never,
    };
    if request.disks.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "the VM has none of these disks any more"));
    }
    // Opening is not interrupted, so that no half-open job is left; it has deadlines of its own.
    let opened = claimed.open(&request).await?;
    if let Err(error) = check(cancel) {
        opened.close(Outcome::Abandoned).await?;
        return Err(error);
    }
    Ok((claimed, opened))
}
