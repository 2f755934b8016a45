//! State `copy`: reads what is to be read, many pieces at once, and hands it to the mover.

use std::sync::Arc;

use futures::TryStreamExt;
use remora_core::ports::{DiskIndex, DiskReads, DiskView, NewDisk, NewPoint, PointWriter, Progress};
use remora_core::{ByteRange, MemoryBudget, Result};

use super::windows::{Step, Stepping, steps};
use super::{DiskRun, Run, broken};
use crate::cancel::or_cancelled;

/// Pieces in flight: between the source, the mover's CPU work and the store, enough that none of them waits.
const IN_FLIGHT: usize = 32;

impl Run<'_> {
    pub(super) async fn copy(&mut self, mut disks: Vec<DiskRun>) -> Result<(Box<dyn PointWriter>, Vec<DiskReads>)> {
        let writer = or_cancelled(&self.cancel, self.mover.begin(self.new_point(&disks)?)).await?;
        match self.copy_disks(&mut disks, writer.as_ref()).await {
            Ok(()) => Ok((writer, disks.iter().map(|disk| disk.reads).collect())),
            Err(error) => {
                writer.abandon().await;
                Err(error)
            }
        }
    }

    async fn copy_disks(&self, disks: &mut [DiskRun], writer: &dyn PointWriter) -> Result<()> {
        for disk in disks.iter() {
            self.progress.expect(if disk.is_incremental() { disk.changed } else { disk.size });
        }
        let views = self.opened()?.disks().to_vec();
        for (n, (disk, view)) in disks.iter_mut().zip(views).enumerate() {
            let copy = DiskCopy {
                view: view.as_ref(),
                writer,
                disk: DiskIndex(n),
                incremental: disk.is_incremental(),
                memory: &self.request.memory,
                progress: &self.progress,
            };
            let reads = or_cancelled(&self.cancel, copy.all()).await?;
            disk.reads.read += reads.read;
            disk.reads.rewritten += reads.rewritten;
        }
        Ok(())
    }

    fn new_point(&self, disks: &[DiskRun]) -> Result<NewPoint> {
        let opened = self.opened()?;
        let new_disk = |disk: &DiskRun| NewDisk {
            name: disk.state.name.clone(),
            size: disk.size,
            identity: disk.state.identity.clone(),
            lineage: disk.plan.lineage,
            checkpoint: disk.checkpoint.clone(),
            instance: opened.instance(),
            read_in_full: disk.plan.read_in_full,
            decision: disk.plan.decision,
            reason: disk.plan.reason.clone(),
        };
        Ok(NewPoint {
            vm: self.request.vm.clone(),
            time: opened.time(),
            parent: self.history.newest.as_ref().map(|point| point.id.clone()),
            quiesced: opened.quiesced(),
            definition: self.claimed()?.state().definition.clone(),
            tool: concat!("remora ", env!("CARGO_PKG_VERSION")).into(),
            origin: None,
            disks: disks.iter().map(new_disk).collect(),
        })
    }
}

/// The copy of one disk.
struct DiskCopy<'a> {
    view: &'a dyn DiskView,
    writer: &'a dyn PointWriter,
    disk: DiskIndex,
    incremental: bool,
    memory: &'a MemoryBudget,
    progress: &'a Arc<dyn Progress>,
}

impl DiskCopy<'_> {
    async fn all(&self) -> Result<DiskReads> {
        let stepping = Stepping { view: self.view, writer: self.writer, disk: self.disk, believed: self.incremental };
        let done = steps(stepping).map_ok(|step| self.step(step)).try_buffer_unordered(IN_FLIGHT);
        let add = |all: DiskReads, one: DiskReads| async move {
            Ok(DiskReads { read: all.read + one.read, rewritten: all.rewritten + one.rewritten })
        };
        done.try_fold(DiskReads::default(), add).await
    }

    async fn step(&self, step: Step) -> Result<DiskReads> {
        match step {
            Step::Read(range) => {
                self.read(range).await?;
                self.progress.advance(range.len());
                Ok(DiskReads { read: range.len(), rewritten: 0 })
            }
            Step::Rewrite(range) => {
                self.read(range).await?;
                Ok(DiskReads { read: range.len(), rewritten: range.len() })
            }
            Step::Zero(range) => {
                self.writer.zero(self.disk, range).await?;
                if !self.incremental {
                    self.progress.advance(range.len());
                }
                Ok(DiskReads::default())
            }
            Step::Unchanged(range) => {
                self.writer.unchanged(self.disk, range).await?;
                Ok(DiskReads::default())
            }
        }
    }

    async fn read(&self, range: ByteRange) -> Result<()> {
        let _held = self.memory.reserve(range.len()).await;
        let data = self.view.read(range).await?;
        if data.len() as u64 != range.len() {
            return Err(broken(format!("disk {}, {range}: {} bytes were read", self.view.name(), data.len())));
        }
        self.writer.write(self.disk, range.start, data).await
    }
}
