//! Reading all of a point that is not lost.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use remora_core::point::Point;
use remora_core::ports::{Damage, DiskIndex, Effect, Piece, PointReader};
use remora_core::{ByteRange, ErrorKind, Extent, ExtentState, PIECE_SIZE, Result};

use crate::map::node::LEAF_BYTES;
use crate::reader::{Found, Reader};
use crate::verify::{add, damage};

/// A point in which what is lost reads as zeros, and is written down.
pub struct Salvage {
    reader: Reader,
    lost: Mutex<Vec<Damage>>,
}

impl Salvage {
    pub(crate) fn of(reader: Reader) -> Self {
        Self { reader, lost: Mutex::default() }
    }

    /// What of a disk was lost when its pieces were read, in order.
    pub fn lost(&self, disk: DiskIndex) -> Vec<Damage> {
        let name = &self.reader.disk(disk).name;
        self.list().iter().filter(|damage| damage.disk == *name).cloned().collect()
    }

    fn list(&self) -> MutexGuard<'_, Vec<Damage>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pieces of a run: its own, or zeros if it is lost.
    fn pieces_of(&self, disk: DiskIndex, found: Found) -> Vec<Result<Piece>> {
        let range = found.range;
        match found.data {
            Err(error) if error.kind() == ErrorKind::Damaged => {
                match damage(&self.reader, disk, range, Effect::Lost, &Arc::new(error)) {
                    Ok(damage) => add(&mut self.list(), damage),
                    Err(error) => return vec![Err(error)],
                }
                let zeros = Bytes::from(vec![0; range.len().min(PIECE_SIZE) as usize]);
                let piece = |part: ByteRange| Piece { at: part.start, data: zeros.slice(..part.len() as usize) };
                range.split(PIECE_SIZE).map(|part| Ok(piece(part))).collect()
            }
            data => vec![data.map(|data| Piece { at: range.start, data })],
        }
    }
}

#[async_trait]
impl PointReader for Salvage {
    fn point(&self) -> &Point {
        self.reader.point()
    }

    /// What is lost counts as data.
    fn extents(&self, disk: DiskIndex, range: ByteRange) -> BoxStream<'_, Result<Extent>> {
        let leaves = stream::iter(range.split(LEAF_BYTES)).then(move |part| async move {
            let extents: Vec<_> = self.reader.extents(disk, part).collect().await;
            let lost = |found: &Result<Extent>| found.as_ref().is_err_and(|e| e.kind() == ErrorKind::Damaged);
            if extents.iter().any(lost) {
                return stream::iter(vec![Ok(Extent { range: part, state: ExtentState::Data })]);
            }
            stream::iter(extents)
        });
        leaves.flatten().boxed()
    }

    /// As of any reader: here nothing is made up.
    async fn read(&self, disk: DiskIndex, range: ByteRange) -> Result<Bytes> {
        self.reader.read(disk, range).await
    }

    fn pieces(&self, disk: DiskIndex, range: ByteRange) -> BoxStream<'_, Result<Piece>> {
        let found = self.reader.windows(disk, range);
        found.flat_map(move |found| stream::iter(self.pieces_of(disk, found))).boxed()
    }

    async fn differing(&self, disk: DiskIndex, at: u64, data: &Bytes) -> Result<Vec<ByteRange>> {
        self.reader.differing(disk, at, data).await
    }
}
