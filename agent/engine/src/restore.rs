//! Restoring a disk of a point, raw and sparse, into a [`Target`].

#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use futures::stream::{FuturesUnordered, TryStreamExt};
use futures::{FutureExt, StreamExt, future::BoxFuture};
use remora_core::ports::{DiskIndex, Mover, Piece, PointReader, Progress};
use remora_core::{ByteRange, Error, ErrorKind, Result};
use remora_holes::write_zeros;
use tokio_util::sync::CancellationToken;

use crate::breaks::record_breaks;
use crate::cancel::{check, or_cancelled};
use crate::target::{Target, write_error};

/// Bytes given to one blocking write: enough that waking a thread costs nothing beside it.
const BATCH: u64 = 2 * 1024 * 1024;

/// Writes at the same time: the kernel lets one at a time into a file, and the next is ready when it is done.
const WRITES: usize = 2;

/// The most that is zeroed at once, so that a cancellation is soon seen.
const ZEROS: u64 = 64 * 1024 * 1024;

/// Writes a disk of a point into `target`, verified, and gives it back to be finished: a file then shows up under its
/// name. Zeros are holes in it; on a device everything that the disk spans is written or zeroed.
///
/// If the target is a disk of a VM, the repository learns first that its bytes changed behind the hypervisor's back.
pub async fn restore(
    mover: &dyn Mover,
    reader: &dyn PointReader,
    disk: DiskIndex,
    target: Target,
    progress: Arc<dyn Progress>,
    cancel: CancellationToken,
) -> Result<Target> {
    let point = reader.point();
    let Some(chosen) = point.disks.get(disk.0) else {
        return Err(Error::new(ErrorKind::Invalid, format!("point {} has no disk number {}", point.id, disk.0)));
    };
    let named = format!("restore of disk {} of point {}", chosen.name, point.id);
    let size = chosen.size;
    if target.replaces() {
        let reason = format!("disk {} of point {} was restored there", chosen.name, point.id);
        let told = or_cancelled(&cancel, record_breaks(mover, target.path(), &reason)).await;
        told.map_err(|e| e.within(&named))?;
    }
    progress.expect(size);
    let written = write_all(reader, disk, size, &target, progress.as_ref(), &cancel).await;
    written.map(|()| target).map_err(|e| e.within(&named))
}

async fn write_all(
    reader: &dyn PointReader,
    disk: DiskIndex,
    size: u64,
    target: &Target,
    progress: &dyn Progress,
    cancel: &CancellationToken,
) -> Result<()> {
    let mut writes = Writes {
        file: target.file(),
        path: target.path().into(),
        zeros: target.keeps_old_bytes(),
        batch: Vec::new(),
        batched: 0,
        running: FuturesUnordered::new(),
    };
    if !writes.zeros {
        writes.file.set_len(size).map_err(|e| write_error(target.path(), e))?;
    }
    let fed = feed(reader, disk, size, &mut writes, progress, cancel).await;
    // Whatever happened, no write is left running.
    let ended = writes.end().await;
    fed.and(ended)
}

async fn feed(
    reader: &dyn PointReader,
    disk: DiskIndex,
    size: u64,
    writes: &mut Writes,
    progress: &dyn Progress,
    cancel: &CancellationToken,
) -> Result<()> {
    let mut pieces = reader.pieces(disk, ByteRange::new(0, size));
    let mut at = 0;
    while let Some(piece) = or_cancelled(cancel, pieces.try_next()).await? {
        let range = ByteRange::at(piece.at, piece.data.len() as u64);
        if range.start < at || range.end > size {
            return Err(Error::new(ErrorKind::Failed, format!("the repository gave {range} where byte {at} was due")));
        }
        writes.zero(ByteRange::new(at, range.start), cancel).await?;
        writes.write(piece).await?;
        progress.advance(range.end - at);
        at = range.end;
    }
    writes.zero(ByteRange::new(at, size), cancel).await?;
    progress.advance(size - at);
    writes.flush().await
}

/// Writes under way on blocking threads.
struct Writes {
    file: Arc<File>,
    path: Box<Path>,
    /// Whether gaps must be zeroed.
    zeros: bool,
    batch: Vec<Piece>,
    batched: u64,
    running: FuturesUnordered<BoxFuture<'static, Result<()>>>,
}

impl Writes {
    async fn write(&mut self, piece: Piece) -> Result<()> {
        self.batched += piece.data.len() as u64;
        self.batch.push(piece);
        if self.batched >= BATCH { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<()> {
        self.batched = 0;
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return Ok(());
        }
        self.start(move |file| batch.iter().try_for_each(|piece| file.write_all_at(&piece.data, piece.at))).await
    }

    async fn zero(&mut self, gap: ByteRange, cancel: &CancellationToken) -> Result<()> {
        if self.zeros {
            for part in gap.split(ZEROS) {
                check(cancel)?;
                self.start(move |file| write_zeros(file, part)).await?;
            }
        }
        Ok(())
    }

    /// Starts a write once there is room for it. Reports what failed before.
    async fn start(&mut self, work: impl FnOnce(&File) -> std::io::Result<()> + Send + 'static) -> Result<()> {
        while self.running.len() >= WRITES {
            self.running.next().await.unwrap_or(Ok(()))?;
        }
        let (file, path) = (Arc::clone(&self.file), self.path.clone());
        // Spawned here, not when it is first awaited: writing goes on while the next pieces are fetched.
        let task = tokio::task::spawn_blocking(move || work(&file).map_err(|e| write_error(&path, e)));
        self.running.push(joined(task).boxed());
        Ok(())
    }

    async fn end(&mut self) -> Result<()> {
        let mut ended = Ok(());
        while let Some(done) = self.running.next().await {
            ended = ended.and(done);
        }
        ended
    }
}

async fn joined<T>(task: tokio::task::JoinHandle<Result<T>>) -> Result<T> {
    task.await.map_err(|e| Error::new(ErrorKind::Failed, "a blocking task died").because(e))?
}
