//! Reading a point that a mover keeps.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use remora_core::point::Point;
use remora_core::ports::{DiskIndex, Piece, PointReader};
use remora_core::{BLOCK_SIZE, ByteRange, DiskName, Error, ErrorKind, Extent, ExtentState, PIECE_SIZE, Result};

use super::Inner;
use super::calls::DiskOf;

/// What is asked about in one call.
const WINDOW: u64 = 1 << 30;

/// Reads under way of one stream.
const AT_ONCE: usize = 8;

pub(super) struct Reader {
    inner: Arc<Inner>,
    id: String,
    point: Point,
}

impl Reader {
    pub(super) async fn new(inner: Arc<Inner>, point: Point) -> Result<Self> {
        // What cannot be opened is told before anything is read.
        inner.calls.capabilities().await?;
        Ok(Self { inner, id: point.id.to_string(), point })
    }

    /// The place of a disk, and its size.
    pub(super) fn disk(&self, name: &DiskName) -> Result<(DiskIndex, u64)> {
        let found = self.point.disk(name).map(|(n, disk)| (DiskIndex(n), disk.size));
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("point {} has no disk {name}", self.id)))
    }

    fn of(&self, disk: DiskIndex) -> DiskOf<'_> {
        DiskOf { point: &self.id, disk: u32::try_from(disk.0).unwrap_or(u32::MAX) }
    }
}

#[async_trait]
impl PointReader for Reader {
    fn point(&self) -> &Point {
        &self.point
    }

    fn extents(&self, disk: DiskIndex, range: ByteRange) -> BoxStream<'_, Result<Extent>> {
        let windows = stream::iter(range.split(WINDOW));
        let extents = windows.then(move |window| async move {
            let extents = self.inner.calls.extents(self.of(disk), window).await?;
            Ok::<_, Error>(stream::iter(extents.into_iter().map(Ok)))
        });
        extents.try_flatten().boxed()
    }

    async fn read(&self, disk: DiskIndex, range: ByteRange) -> Result<Bytes> {
        self.inner.calls.read(self.of(disk), range).await
    }

    fn pieces(&self, disk: DiskIndex, range: ByteRange) -> BoxStream<'_, Result<Piece>> {
        let data = self.extents(disk, range).try_filter(|extent| std::future::ready(extent.state == ExtentState::Data));
        let ranges = data.map_ok(|extent| stream::iter(extent.range.split(PIECE_SIZE).map(Ok))).try_flatten();
        let fetch =
            move |range: ByteRange| async move { Ok(Piece { at: range.start, data: self.read(disk, range).await? }) };
        ranges.map_ok(fetch).try_buffered(AT_ONCE).boxed()
    }

    /// Reads them, for nothing here has digests.
    async fn differing(&self, disk: DiskIndex, at: u64, data: &Bytes) -> Result<Vec<ByteRange>> {
        let size = self.point.disks.get(disk.0).map_or(0, |disk| disk.size);
        let range = ByteRange::at(at, data.len() as u64);
        let there = match range.intersect(ByteRange::new(0, size)) {
            Some(within) => self.read(disk, within).await?,
            None => Bytes::new(),
        };
        let differs = |block: &ByteRange| {
            let (from, to) = ((block.start - at) as usize, (block.end - at) as usize);
            there.get(from..to) != Some(&data[from..to])
        };
        Ok(super::merged(range.split(BLOCK_SIZE).filter(differs).collect()))
    }
}
