//! A mover whose calls can be broken.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;

use super::Faults;
use crate::point::Point;
use crate::ports::{
    DamagedPoint, DiskIndex, DiskReads, History, LineageBreak, Listing, Mended, Mover, NewPoint, Piece, PointReader,
    PointWriter, Progress, VerifyReport, VmDisks,
};
use crate::{ByteRange, DiskName, Extent, PointId, RepositoryId, Result, VmName};

/// Breaks the calls of a mover, of its writers and of its readers.
pub struct FaultyMover<M> {
    /// The mover.
    pub inner: M,
    /// What breaks.
    pub faults: Faults,
}

struct Writer {
    inner: Box<dyn PointWriter>,
    faults: Faults,
}

struct Reader {
    inner: Arc<dyn PointReader>,
    faults: Faults,
}

#[async_trait]
impl<M: Mover> Mover for FaultyMover<M> {
    fn repository(&self) -> RepositoryId {
        self.inner.repository()
    }

    async fn list(&self, vm: Option<&VmName>) -> Result<Listing> {
        self.faults.call("list", self.inner.list(vm)).await
    }

    async fn history(&self, vm: &VmName) -> Result<History> {
        self.faults.call("history", self.inner.history(vm)).await
    }

    async fn record_break(&self, vm: &VmName, broken: LineageBreak) -> Result<()> {
        self.faults.call("record_break", self.inner.record_break(vm, broken)).await
    }

    async fn begin(&self, point: NewPoint) -> Result<Box<dyn PointWriter>> {
        let inner = self.faults.call("begin", self.inner.begin(point)).await?;
        Ok(Box::new(Writer { inner, faults: self.faults.clone() }))
    }

    async fn open(&self, point: &PointId) -> Result<Arc<dyn PointReader>> {
        let inner = self.faults.call("open point", self.inner.open(point)).await?;
        Ok(Arc::new(Reader { inner, faults: self.faults.clone() }))
    }

    async fn diff(&self, from: &PointId, to: &PointId, disk: &DiskName) -> Result<Vec<ByteRange>> {
        self.faults.call("diff", self.inner.diff(from, to, disk)).await
    }

    async fn verify(&self, point: &PointId, progress: Arc<dyn Progress>) -> Result<VerifyReport> {
        self.faults.call("verify", self.inner.verify(point, progress)).await
    }

    async fn repair(&self, damaged: &[DamagedPoint], disks: VmDisks<'_>) -> Result<Vec<Mended>> {
        self.faults.call("repair", self.inner.repair(damaged, disks)).await
    }
}

#[async_trait]
impl PointWriter for Writer {
    async fn write(&self, disk: DiskIndex, at: u64, data: Bytes) -> Result<()> {
        self.faults.call("write", self.inner.write(disk, at, data)).await
    }

    async fn zero(&self, disk: DiskIndex, range: ByteRange) -> Result<()> {
        self.faults.call("zero", self.inner.zero(disk, range)).await
    }

    async fn unchanged(&self, disk: DiskIndex, range: ByteRange) -> Result<()> {
        self.faults.call("unchanged", self.inner.unchanged(disk, range)).await
    }

    async fn worth_rewriting(&self, disk: DiskIndex, changed: &[ByteRange], budget: u64) -> Result<Vec<ByteRange>> {
        self.faults.call("worth_rewriting", self.inner.worth_rewriting(disk, changed, budget)).await
    }

    async fn settle(&self) -> Result<()> {
        self.faults.call("settle", self.inner.settle()).await
    }

    async fn commit(self: Box<Self>, reads: &[DiskReads]) -> Result<Point> {
        let Self { inner, faults } = *self;
        faults.call("commit", inner.commit(reads)).await
    }

    async fn abandon(self: Box<Self>) {
        self.inner.abandon().await;
    }
}

#[async_trait]
impl PointReader for Reader {
    fn point(&self) -> &Point {
        self.inner.point()
    }

    fn extents(&self, disk: DiskIndex, range: ByteRange) -> BoxStream<'_, Result<Extent>> {
        let broken = move |extent: Result<Extent>| async move { self.faults.call("extents", async { extent }).await };
        self.inner.extents(disk, range).then(broken).boxed()
    }

    async fn read(&self, disk: DiskIndex, range: ByteRange) -> Result<Bytes> {
        self.faults.call("read point", self.inner.read(disk, range)).await
    }

    fn pieces(&self, disk: DiskIndex, range: ByteRange) -> BoxStream<'_, Result<Piece>> {
        let broken = move |piece: Result<Piece>| async move { self.faults.call("pieces", async { piece }).await };
        self.inner.pieces(disk, range).then(broken).boxed()
    }

    async fn differing(&self, disk: DiskIndex, at: u64, data: &Bytes) -> Result<Vec<ByteRange>> {
        self.faults.call("differing", self.inner.differing(disk, at, data)).await
    }
}
