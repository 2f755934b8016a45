//! State `check`: a clean bitmap can lie, so some blocks of each increment that are called unchanged are read and
//! compared with the parent.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use remora_core::plan::plan_lying_bitmap;
use remora_core::ports::{DiskIndex, DiskView, PointReader};
use remora_core::{BLOCK_SIZE, ByteRange, ErrorKind, ExtentState, Result};

use super::open::reread;
use super::sample::Sample;
use super::windows::block_extents;
use super::{DiskRun, Run, broken};
use crate::cancel::or_cancelled;

/// Blocks read and compared at the same time.
const AT_ONCE: usize = 8;

/// What a look at an increment's map and at some of its unchanged blocks found.
struct Findings {
    /// Bytes that the map calls changed and that must be read.
    changed: u64,
    /// Bytes read for the comparison.
    read: u64,
    /// The first block that differs.
    lie: Option<u64>,
}

impl Run<'_> {
    pub(super) async fn check(&mut self, mut disks: Vec<DiskRun>) -> Result<Vec<DiskRun>> {
        let incremental: Vec<usize> = (0..disks.len()).filter(|n| disks[*n].is_incremental()).collect();
        let Some(parent) = self.history.newest.clone().filter(|_| !incremental.is_empty()) else { return Ok(disks) };
        let reader = or_cancelled(&self.cancel, self.mover.open(&parent.id)).await;
        for n in incremental {
            let disk = &mut disks[n];
            let (index, before) =
                parent.disk(&disk.state.name).ok_or_else(|| broken("an increment without a parent"))?;
            let view = Arc::clone(&self.opened()?.disks()[n]);
            let found = match &reader {
                Ok(reader) => {
                    let look = look(view.as_ref(), reader.as_ref(), DiskIndex(index), self.request.spot_checks);
                    or_cancelled(&self.cancel, look).await
                }
                Err(error) => Err(again(error)),
            };
            match found {
                Ok(found) => {
                    disk.reads.read += found.read;
                    disk.changed = found.changed;
                    if let Some(block) = found.lie {
                        disk.plan = plan_lying_bitmap(before, block, Timestamp::now());
                        self.note(format!("disk {}: {}", disk.state.name, disk.plan.reason));
                    }
                }
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    let why = format!("the newest point is damaged: {}", error.chain());
                    self.note(format!("disk {}: {why}", disk.state.name));
                    reread(disk, why);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(disks)
    }
}

/// One error for several disks.
fn again(error: &remora_core::Error) -> remora_core::Error {
    remora_core::Error::new(error.kind(), error.chain())
}

/// One pass over the map, then the comparison of the blocks that it drew.
async fn look(view: &dyn DiskView, parent: &dyn PointReader, disk: DiskIndex, checks: usize) -> Result<Findings> {
    let mut sample = Sample::new(checks, fastrand::Rng::new());
    let mut changed = 0;
    let mut extents = block_extents(view);
    while let Some(extent) = extents.try_next().await? {
        match extent.state {
            ExtentState::Unchanged => sample.offer(extent.range),
            ExtentState::Data => changed += extent.range.len(),
            ExtentState::Zero => {}
        }
    }
    let blocks = sample.into_blocks();
    let size = view.size();
    let compare = |block: u64| async move {
        let at = block * BLOCK_SIZE;
        let range = ByteRange::new(at, (at + BLOCK_SIZE).min(size));
        let data = view.read(range).await?;
        let differs = !parent.differing(disk, at, &data).await?.is_empty();
        Ok::<_, remora_core::Error>((range.len(), differs.then_some(at)))
    };
    let compared: Vec<_> = stream::iter(blocks).map(compare).buffer_unordered(AT_ONCE).try_collect().await?;
    let read = compared.iter().map(|(len, _)| len).sum();
    Ok(Findings { changed, read, lie: compared.iter().filter_map(|(_, lie)| *lie).min() })
}
