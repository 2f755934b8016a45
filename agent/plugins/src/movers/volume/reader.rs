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
use super::calls::{DiskOf, MAPPED};
use super::catalogue::Listed;
use super::windows::{Comparing, Windows};

/// Reads under way of one stream.
const AT_ONCE: usize = 8;

pub(super) struct Reader {
    inner: Arc<Inner>,
    /// What its disks are called.
    pub(super) id: String,
    point: Point,
    windows: Vec<Windows>,
    /// Whether nobody looked at some of what it has.
    pub(super) sampled: bool,
}

impl Reader {
    pub(super) async fn new(inner: Arc<Inner>, listed: &Listed) -> Result<Self> {
        // What cannot be opened is told before anything is read.
        inner.calls.capabilities().await?;
        let (point, windows) = (listed.point.clone(), listed.windows.clone());
        Ok(Self { inner, id: listed.attempt.to_string(), point, windows, sampled: listed.sampled })
    }

    /// What is known of a disk's bytes.
    pub(super) fn windows(&self, disk: DiskIndex) -> Option<&Windows> {
        self.windows.get(disk.0)
    }

    /// The bytes of a stretch are not those that were stored.
    fn changed(&self, disk: DiskIndex, range: std::ops::Range<u64>) -> Error {
        let name = self.point.disks.get(disk.0).map_or("", |disk| disk.name.as_str());
        let range = ByteRange::new(range.start, range.end);
        self.inner
            .calls
            .lie(&format!("point {}, disk {name}, {range}: other bytes are there than were stored", self.point.id))
    }

    /// The place of a disk, and its size.
    pub(super) fn disk(&self, name: &DiskName) -> Result<(DiskIndex, u64)> {
        let found = self.point.disk(name).map(|(n, disk)| (DiskIndex(n), disk.size));
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("point {} has no disk {name}", self.point.id)))
    }

    /// The extents of a range, rounded to blocks.
    fn blocks(&self, disk: DiskIndex, range: ByteRange) -> BoxStream<'_, Result<Extent>> {
        let size = self.point.disks.get(disk.0).map_or(0, |disk| disk.size);
        let blocks = self.inner.calls.blocks(self.of(disk), range.outward(size), size);
        let within = move |extent: Extent| extent.range.intersect(range).map(|range| Extent { range, ..extent });
        blocks.try_filter_map(move |extent| std::future::ready(Ok(within(extent)))).boxed()
    }

    /// Hands pieces on, each looked at.
    fn compared<'a>(
        &'a self,
        disk: DiskIndex,
        pieces: BoxStream<'a, Result<Piece>>,
        comparing: Comparing<'a>,
    ) -> BoxStream<'a, Result<Piece>> {
        let next = move |(mut pieces, mut comparing): (BoxStream<'a, Result<Piece>>, Comparing<'a>)| async move {
            let Some(piece) = pieces.try_next().await? else {
                comparing.end().map_err(|range| self.changed(disk, range))?;
                return Ok(None);
            };
            comparing.feed(piece.at, &piece.data).map_err(|range| self.changed(disk, range))?;
            Ok::<_, Error>(Some((piece, (pieces, comparing))))
        };
        stream::try_unfold((pieces, comparing), next).boxed()
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
        let windows = stream::iter(range.split(MAPPED));
        let extents = windows.then(move |window| async move {
            let extents = self.inner.calls.extents(self.of(disk), window).await?;
            Ok::<_, Error>(stream::iter(extents.into_iter().map(Ok)))
        });
        extents.try_flatten().boxed()
    }

    async fn read(&self, disk: DiskIndex, range: ByteRange) -> Result<Bytes> {
        self.inner.calls.read(self.of(disk), range).await
    }

    /// Of a whole disk, in which windows are compared with their digests. An error comes after what is wrong.
    fn pieces(&self, disk: DiskIndex, range: ByteRange) -> BoxStream<'_, Result<Piece>> {
        let data = self.blocks(disk, range).try_filter(|extent| std::future::ready(extent.state == ExtentState::Data));
        let ranges = data.map_ok(|extent| stream::iter(extent.range.split(PIECE_SIZE).map(Ok))).try_flatten();
        let fetch =
            move |range: ByteRange| async move { Ok(Piece { at: range.start, data: self.read(disk, range).await? }) };
        let pieces = ranges.map_ok(fetch).try_buffered(AT_ONCE).boxed();
        let size = self.point.disks.get(disk.0).map_or(0, |disk| disk.size);
        match self.windows(disk).filter(|_| range == ByteRange::new(0, size)) {
            Some(windows) => self.compared(disk, pieces, Comparing::new(windows)),
            None => pieces,
        }
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
