//! Writing a point into a mover's own form.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use remora_core::point::{Decision, Point};
use remora_core::ports::{DiskIndex, DiskReads, NewDisk, NewPoint, PointReader, PointWriter};
use remora_core::{BLOCK_SIZE, ByteRange, Error, ErrorKind, PIECE_SIZE, PointId, Result};

use super::super::document::ReadBack;
use super::super::wire::{self, VolumeCapabilities, VolumeDisk};
use super::Inner;
use super::calls::{Begun, DiskOf};
use super::catalogue::checked;
use super::check::{Disk, Laid};
use super::claim::Claim;
use super::reader::Reader;
use super::windows::{Windows, window_len};
use crate::host::Digest;

/// A point on its way.
pub(super) struct Writer {
    inner: Arc<Inner>,
    new: NewPoint,
    claim: Claim,
    begun: Begun,
    can: VolumeCapabilities,
    /// The parent, if something is to be taken from it.
    parent: Option<Reader>,
    disks: Vec<Mutex<Laid>>,
}

impl Writer {
    /// Other hosts may be at points of machines of this name meanwhile.
    pub(super) async fn begin(inner: Arc<Inner>, new: NewPoint) -> Result<Self> {
        let can = inner.calls.capabilities().await?;
        if can.granularity > BLOCK_SIZE || can.max_transfer < BLOCK_SIZE {
            let what = format!("mover {} takes no pieces of {BLOCK_SIZE} bytes", inner.calls.name);
            let why = format!("its granularity is {}, its max-transfer {}", can.granularity, can.max_transfer);
            let advice = "Ask who made it for one that does: this version of remora moves disks in such pieces.";
            return Err(Error::new(ErrorKind::Unsupported, what).because(why).advise(advice));
        }
        let (claim, catalogue) = inner.claim(&new.vm).await?;
        let increments = new.disks.iter().any(|disk| disk.decision == Decision::Incremental);
        let parent = match new.parent.as_ref().filter(|_| increments) {
            Some(parent) => {
                let parent = catalogue.find(parent).map_err(dropped_meanwhile)?;
                Some(Reader::new(Arc::clone(&inner), parent).await?)
            }
            None => None,
        };
        let disk = |disk: &NewDisk| VolumeDisk { name: disk.name.to_string(), size: disk.size };
        // Should this fail, it may have begun all the same: the note of the claim stays, and a later run gives both up.
        let begun = inner.calls.begin(wire::NewPoint {
            id: claim.attempt.to_string(),
            vm_name: new.vm.as_str().into(),
            vm_namespace: String::new(),
            vm_uid: new.disks.first().map(|disk| disk.identity.vm_uuid.clone()).unwrap_or_default(),
            time: new.time.as_second(),
            disks: new.disks.iter().map(disk).collect(),
            parent: parent.as_ref().filter(|_| can.incremental).map(|parent| parent.id.clone()),
            description: Vec::new(),
        });
        let begun = begun.await?;
        let disks = new.disks.iter().map(|_| Mutex::default()).collect();
        Ok(Self { inner, new, claim, begun, can, parent, disks })
    }

    /// The point that is written.
    const fn id(&self) -> &PointId {
        &self.claim.attempt.point
    }

    fn laid(&self, disk: DiskIndex) -> MutexGuard<'_, Laid> {
        self.disks[disk.0].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores bytes that are not all zero.
    async fn store(&self, disk: DiskIndex, at: u64, data: Bytes) -> Result<()> {
        let most = self.can.max_transfer / BLOCK_SIZE * BLOCK_SIZE;
        for range in ByteRange::at(at, data.len() as u64).split(most) {
            let bytes = data.slice((range.start - at) as usize..(range.end - at) as usize);
            let hashed = bytes.clone();
            let digest = tokio::task::spawn_blocking(move || Digest::of(&hashed)).await;
            let digest = digest.map_err(|died| Error::new(ErrorKind::Failed, "hashing died").because(died))?;
            self.inner.calls.write(&self.begun, number(disk), range.start, bytes).await?;
            self.laid(disk).written.push((range, digest));
        }
        Ok(())
    }

    /// Writes what the parent has: the mover makes no differences.
    async fn copy(&self, parent: &Reader, disk: DiskIndex, range: ByteRange) -> Result<()> {
        let (from, _) = parent.disk(&self.new.disks[disk.0].name)?;
        for piece in range.split(PIECE_SIZE) {
            let bytes = parent.read(from, piece).await?;
            self.write(disk, piece.start, bytes).await?;
        }
        self.laid(disk).copied.push(range);
        Ok(())
    }

    /// Reads back what was stored; what is known of each disk's bytes then.
    async fn check(&self) -> Result<Vec<Windows>> {
        let all = self.inner.catalogue(Some(&self.new.vm)).await?;
        if !all.has_disks(&self.claim.attempt) {
            let what = format!("it says that it stored point {}, and does not list it", self.id());
            return Err(self.inner.calls.lie(&what));
        }
        let parent = self.parent.as_ref().map(PointReader::point);
        let parent_id = self.parent.as_ref().map(|parent| parent.id.as_str()).unwrap_or_default();
        let len = window_len(self.new.disks.iter().map(|disk| disk.size));
        let mut windows = Vec::new();
        for (n, disk) in self.new.disks.iter().enumerate() {
            let laid = std::mem::take(&mut *self.laid(DiskIndex(n)));
            let before = parent.and_then(|parent| parent.disk(&disk.name));
            let known = before.and_then(|(n, _)| self.parent.as_ref()?.windows(DiskIndex(n)));
            let mut checked = Disk {
                calls: &self.inner.calls,
                new: DiskOf { point: &self.begun.id, disk: number(DiskIndex(n)) },
                parent: before.map(|(n, _)| DiskOf { point: parent_id, disk: number(DiskIndex(n)) }),
                size: disk.size,
                laid,
                how: self.inner.grant.read_back,
            };
            windows.push(checked.read_back(len, known).await?);
        }
        Ok(windows)
    }

    /// Whether nobody looked at some of what the point will have: what it takes from its parent is no better known than it was there.
    fn is_sampled(&self) -> bool {
        let inherits = || (0..self.disks.len()).any(|n| self.laid(DiskIndex(n)).inherits());
        let parent = self.parent.as_ref().is_some_and(|parent| parent.sampled);
        self.inner.grant.read_back != ReadBack::Full || parent && inherits()
    }

    /// Makes a point of it, if none came in between.
    async fn list(&self, point: &Point, windows: Vec<Windows>, sampled: bool) -> Result<()> {
        let before = self.inner.catalogue(Some(&self.new.vm)).await?;
        if before.newest() != self.new.parent.as_ref() || !before.is_alone(&self.claim.attempt) {
            return Err(
                Error::new(ErrorKind::Busy, "another point of the VM came in between").advise("Run this again.")
            );
        }
        self.claim.is_in_time()?;
        self.inner.note(checked(&self.claim.attempt, point, windows, sampled)?).await?;
        let after = self.inner.catalogue(Some(&self.new.vm)).await?;
        after.find(self.id()).map(drop).map_err(|error| {
            let why = error.chain();
            self.inner
                .calls
                .lie(&format!("it says that it stored the note of point {}, and does not give it back", self.id()))
                .because(why)
        })
    }

    async fn finish(&self, reads: &[DiskReads]) -> Result<Point> {
        let mut stored = Vec::new();
        for (n, disk) in self.new.disks.iter().enumerate() {
            let laid = self.laid(DiskIndex(n));
            if let Some(at) = laid.hole(disk.size) {
                let what = format!("disk {}: it is not covered once from byte {at} on", disk.name);
                return Err(Error::new(ErrorKind::Failed, what));
            }
            stored.push(laid.written.iter().map(|(range, _)| range.len()).sum::<u64>());
        }
        self.inner.calls.commit(&self.begun).await?;
        // Before what was laid is used up.
        let sampled = self.is_sampled();
        let windows = self.check().await?;
        let point = self.new.point(self.id().clone(), self.inner.repository, reads.iter().copied().zip(stored));
        self.list(&point, windows, sampled).await?;
        self.inner.let_go(&self.claim).await;
        if sampled {
            tracing::info!(point = %self.id(), "not all that the point has was read back");
        }
        Ok(point)
    }
}

/// The parent was there when the run was planned.
fn dropped_meanwhile(error: Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => Error::new(ErrorKind::Busy, "the point that this one follows was dropped meanwhile")
            .advise("Run this again."),
        _ => error,
    }
}

fn number(disk: DiskIndex) -> u32 {
    u32::try_from(disk.0).unwrap_or(u32::MAX)
}

/// The runs of whole blocks of some data that are all zero, or are not: offsets within it.
fn runs(data: &Bytes) -> Vec<(ByteRange, bool)> {
    let mut runs: Vec<(ByteRange, bool)> = Vec::new();
    for range in ByteRange::new(0, data.len() as u64).split(BLOCK_SIZE) {
        let zero = data[range.start as usize..range.end as usize].iter().all(|byte| *byte == 0);
        match runs.last_mut() {
            Some((last, same)) if *same == zero => last.end = range.end,
            _ => runs.push((range, zero)),
        }
    }
    runs
}

#[async_trait]
impl PointWriter for Writer {
    async fn write(&self, disk: DiskIndex, at: u64, data: Bytes) -> Result<()> {
        for (run, zero) in runs(&data) {
            let range = ByteRange::new(at + run.start, at + run.end);
            if zero {
                self.zero(disk, range).await?;
            } else {
                self.store(disk, range.start, data.slice(run.start as usize..run.end as usize)).await?;
            }
        }
        Ok(())
    }

    async fn zero(&self, disk: DiskIndex, range: ByteRange) -> Result<()> {
        self.inner.calls.zero(&self.begun, number(disk), range).await?;
        self.laid(disk).zero.push(range);
        Ok(())
    }

    async fn unchanged(&self, disk: DiskIndex, range: ByteRange) -> Result<()> {
        let parent = self.parent.as_ref().ok_or_else(|| Error::new(ErrorKind::Failed, "there is no parent"))?;
        if !self.can.incremental {
            return self.copy(parent, disk, range).await;
        }
        self.inner.calls.unchanged(&self.begun, number(disk), range).await?;
        self.laid(disk).unchanged.push(range);
        Ok(())
    }

    /// How the mover keeps its points is its own matter.
    async fn worth_rewriting(&self, _: DiskIndex, _: &[ByteRange], _: u64) -> Result<Vec<ByteRange>> {
        Ok(Vec::new())
    }

    async fn commit(self: Box<Self>, reads: &[DiskReads]) -> Result<Point> {
        let finished = self.finish(reads).await;
        if let Err(error) = &finished
            && error.kind() != ErrorKind::Unavailable
            && let Err(error) = self.inner.remove(&self.claim).await
        {
            // Nobody lists it, and a later run removes it.
            tracing::warn!(point = %self.id(), error = error.chain(), "what was stored of it stays for now");
        }
        finished
    }

    async fn abandon(self: Box<Self>) {
        match self.inner.calls.abort(&self.begun).await {
            Ok(()) => self.inner.let_go(&self.claim).await,
            Err(error) => {
                tracing::warn!(point = %self.id(), error = error.chain(), "what was stored of it stays for now");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_found_block_by_block() {
        let block = BLOCK_SIZE as usize;
        let mut data = vec![0; 4 * block + 10];
        data[block] = 1;
        data[4 * block + 9] = 1;
        let found: Vec<_> = runs(&data.into()).into_iter().map(|(range, zero)| (range.end, zero)).collect();
        let blocks = |n: u64| n * BLOCK_SIZE;
        assert_eq!(found, [(blocks(1), true), (blocks(2), false), (blocks(4), true), (blocks(4) + 10, false)]);
    }
}
