//! Copying points into another repository, of whatever keys and form: the second and third copy of a backup.
//!
//! A copy is a point like any other there. It knows which point it is a copy of, so that a copy that is begun again goes
//! on with the first point that is missing. What was stored is read back and compared before the next point.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use remora_core::point::{Decision, Origin, Point, PointDisk};
use remora_core::ports::{DiskIndex, DiskReads, Mover, NewDisk, NewPoint, PointReader, PointWriter, Progress};
use remora_core::{BLOCK_SIZE, ByteRange, Error, ErrorKind, PIECE_SIZE, PointId, Result};
use tokio_util::sync::CancellationToken;

use crate::cancel::or_cancelled;

/// What is copied, and compared, as one.
const WINDOW: u64 = 8 * 1024 * 1024;

/// Windows in flight; the reader's own memory budget bounds them further.
const WINDOWS: usize = 8;

/// What a copy did.
#[derive(Debug, Default)]
pub struct CopyReport {
    /// The points that were copied, in order.
    pub copied: Vec<Copied>,
    /// How many were there already.
    pub there: u64,
    /// Points that could not be copied because they are damaged, and how.
    pub damaged: Vec<(PointId, Error)>,
}

/// A point and its copy.
#[derive(Clone, Debug)]
pub struct Copied {
    /// The point that was copied.
    pub from: PointId,
    /// The new point.
    pub point: Point,
}

/// Copies points, all if none is `wanted`, from one repository to another; those that are there already are left alone.
/// A damaged point does not keep the others from being copied.
pub async fn copy(
    from: &dyn Mover,
    to: &dyn Mover,
    wanted: &[PointId],
    progress: Arc<dyn Progress>,
    cancel: CancellationToken,
) -> Result<CopyReport> {
    if from.repository() == to.repository() {
        let what = format!("both repositories are {}", from.repository());
        return Err(Error::new(ErrorKind::Invalid, what).advise("Copy to another repository."));
    }
    let listing = or_cancelled(&cancel, from.list(None)).await?;
    let mut report = CopyReport { damaged: listing.unreadable, ..CopyReport::default() };
    let known: BTreeMap<Origin, Point> = listing.points.iter().map(|point| (point.origin(), point.clone())).collect();
    let chosen = chosen(listing.points, wanted, &mut report.damaged)?;
    let there = or_cancelled(&cancel, to.list(None)).await?.points;
    let mut there: BTreeSet<Origin> = there.iter().map(Point::origin).collect();
    for point in chosen {
        if !there.insert(point.origin()) {
            report.there += 1;
            continue;
        }
        let one = Copy { from, to, point: &point, known: &known, progress: &progress };
        match or_cancelled(&cancel, one.all()).await {
            Ok(copied) => report.copied.push(Copied { from: point.id.clone(), point: copied }),
            Err(error) if error.kind() == ErrorKind::Damaged => report.damaged.push((point.id.clone(), error)),
            Err(error) => return Err(error.within(format!("copying point {}", point.id))),
        }
    }
    Ok(report)
}

/// The wanted points, in the order of their repository; of those that cannot be read only the wanted stay in `damaged`.
fn chosen(points: Vec<Point>, wanted: &[PointId], damaged: &mut Vec<(PointId, Error)>) -> Result<Vec<Point>> {
    if wanted.is_empty() {
        return Ok(points);
    }
    damaged.retain(|(id, _)| wanted.contains(id));
    let chosen: Vec<_> = points.into_iter().filter(|point| wanted.contains(&point.id)).collect();
    let found = |id: &PointId| chosen.iter().any(|point| point.id == *id) || damaged.iter().any(|(bad, _)| bad == id);
    match wanted.iter().find(|id| !found(id)) {
        None => Ok(chosen),
        Some(missing) => Err(Error::new(ErrorKind::NotFound, format!("there is no point {missing} to copy"))
            .advise("List what there is with `remora points`.")),
    }
}

/// The copy of one point.
struct Copy<'a> {
    from: &'a dyn Mover,
    to: &'a dyn Mover,
    point: &'a Point,
    /// The points of the repository that is copied from.
    known: &'a BTreeMap<Origin, Point>,
    progress: &'a Arc<dyn Progress>,
}

/// How a disk is copied.
struct DiskCopy {
    decision: Decision,
    reason: &'static str,
    /// What is read and stored, in windows.
    windows: Vec<ByteRange>,
}

impl Copy<'_> {
    async fn all(&self) -> Result<Point> {
        let reader = self.from.open(&self.point.id).await?;
        let newest = self.to.history(&self.point.vm).await?.newest;
        let mut disks = Vec::with_capacity(self.point.disks.len());
        for disk in &self.point.disks {
            disks.push(self.plan(disk, newest.as_ref()).await?);
        }
        let parent = newest.map(|point| point.id);
        let writer = self.to.begin(self.new_point(parent, &disks)).await?;
        let written = match self.write(reader.as_ref(), writer.as_ref(), &disks).await {
            Ok(written) => written,
            Err(error) => {
                writer.abandon().await;
                return Err(error);
            }
        };
        let reads: Vec<_> = disks.iter().map(|disk| DiskReads { read: disk.bytes(), rewritten: 0 }).collect();
        let copied = writer.commit(&reads).await?;
        self.compare(&copied, &disks, &written).await?;
        Ok(copied)
    }

    /// Only what differs is copied if the newest point there is a copy of one that is still here.
    async fn plan(&self, disk: &PointDisk, newest: Option<&Point>) -> Result<DiskCopy> {
        let whole = || ByteRange::new(0, disk.size).split(WINDOW).collect();
        let Some(newest) = newest.filter(|point| point.disk(&disk.name).is_some_and(|(_, d)| d.size == disk.size))
        else {
            return Ok(DiskCopy { decision: Decision::Full, reason: "nothing to compare with", windows: whole() });
        };
        let Some(base) = self.known.get(&newest.origin()) else {
            let reason = "compared with the newest point there";
            return Ok(DiskCopy { decision: Decision::Reread, reason, windows: whole() });
        };
        let changed = self.from.diff(&base.id, &self.point.id, &disk.name).await?;
        let windows = changed.into_iter().flat_map(|range| range.split(WINDOW)).collect();
        let reason = "only what differs from the newest copy";
        Ok(DiskCopy { decision: Decision::Incremental, reason, windows })
    }

    fn new_point(&self, parent: Option<PointId>, disks: &[DiskCopy]) -> NewPoint {
        let origin = self.point.origin();
        let new_disk = |(disk, copy): (&PointDisk, &DiskCopy)| NewDisk {
            name: disk.name.clone(),
            size: disk.size,
            identity: disk.identity.clone(),
            lineage: disk.lineage,
            // It belongs to the other repository, which removes it when it pleases.
            checkpoint: None,
            instance: None,
            read_in_full: disk.read_in_full,
            decision: copy.decision,
            reason: format!("copy of point {} of repository {}: {}", origin.point, origin.repository, copy.reason),
        };
        NewPoint {
            vm: self.point.vm.clone(),
            time: self.point.time,
            parent,
            quiesced: self.point.quiesced,
            definition: self.point.definition.clone(),
            tool: concat!("remora ", env!("CARGO_PKG_VERSION")).into(),
            disks: self.point.disks.iter().zip(disks).map(new_disk).collect(),
            origin: Some(origin.clone()),
        }
    }

    /// Writes and stores all disks; gives the hash of each window's data.
    async fn write(
        &self,
        reader: &dyn PointReader,
        writer: &dyn PointWriter,
        disks: &[DiskCopy],
    ) -> Result<Vec<Vec<blake3::Hash>>> {
        let mut hashes = Vec::with_capacity(disks.len());
        for (n, copy) in disks.iter().enumerate() {
            let disk = DiskIndex(n);
            // Once to copy it, once to read it back.
            self.progress.expect(2 * copy.bytes());
            if copy.decision == Decision::Incremental {
                for gap in gaps(&copy.windows, self.point.disks[n].size) {
                    writer.unchanged(disk, gap).await?;
                }
            }
            let copied = stream::iter(copy.windows.iter().copied()).map(|window| async move {
                let hash = copy_window(reader, writer, disk, window).await?;
                self.progress.advance(window.len());
                Ok::<_, Error>(hash)
            });
            hashes.push(copied.buffered(WINDOWS).try_collect().await?);
        }
        // A store that hangs or fails now does so before the commit, while there cannot be a point.
        writer.settle().await?;
        Ok(hashes)
    }

    /// Reads back what was stored.
    async fn compare(&self, copied: &Point, disks: &[DiskCopy], written: &[Vec<blake3::Hash>]) -> Result<()> {
        let reader = &self.to.open(&copied.id).await?;
        for (n, (copy, written)) in disks.iter().zip(written).enumerate() {
            let windows = copy.windows.iter().copied().zip(written.iter().copied());
            let compared = stream::iter(windows).map(|(window, written)| async move {
                let hash = hash_window(reader.as_ref(), DiskIndex(n), window).await?;
                self.progress.advance(window.len());
                if hash == written { Ok(()) } else { Err(self.differs(copied, n, window)) }
            });
            compared.buffer_unordered(WINDOWS).try_collect::<()>().await?;
        }
        Ok(())
    }

    fn differs(&self, copied: &Point, disk: usize, window: ByteRange) -> Error {
        let disk = &self.point.disks[disk].name;
        let what = format!("copy {}, disk {disk}, {window}: it reads back as something else", copied.id);
        Error::new(ErrorKind::Failed, what)
            .advise("Check this machine's memory, remove that copy with `remora prune`, and copy again.")
    }
}

impl DiskCopy {
    fn bytes(&self) -> u64 {
        self.windows.iter().map(ByteRange::len).sum()
    }
}

/// What lies between ranges that are in order, and around them.
fn gaps(ranges: &[ByteRange], size: u64) -> Vec<ByteRange> {
    let starts = std::iter::once(0).chain(ranges.iter().map(|range| range.end));
    let ends = ranges.iter().map(|range| range.start).chain([size]);
    starts.zip(ends).map(|(start, end)| ByteRange::new(start, end)).filter(|gap| !gap.is_empty()).collect()
}

/// Copies a window, and gives the hash of its data.
async fn copy_window(
    reader: &dyn PointReader,
    writer: &dyn PointWriter,
    disk: DiskIndex,
    window: ByteRange,
) -> Result<blake3::Hash> {
    let (mut hasher, mut at) = (blake3::Hasher::new(), window.start);
    let mut pieces = reader.pieces(disk, window);
    while let Some(piece) = pieces.try_next().await? {
        let range = ByteRange::at(piece.at, piece.data.len() as u64);
        if at < range.start {
            writer.zero(disk, ByteRange::new(at, range.start)).await?;
        }
        hash_blocks(&mut hasher, piece.at, &piece.data);
        for part in range.split(PIECE_SIZE) {
            let data = piece.data.slice((part.start - piece.at) as usize..(part.end - piece.at) as usize);
            writer.write(disk, part.start, data).await?;
        }
        at = range.end;
    }
    if at < window.end {
        writer.zero(disk, ByteRange::new(at, window.end)).await?;
    }
    Ok(hasher.finalize())
}

async fn hash_window(reader: &dyn PointReader, disk: DiskIndex, window: ByteRange) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut pieces = reader.pieces(disk, window);
    while let Some(piece) = pieces.try_next().await? {
        hash_blocks(&mut hasher, piece.at, &piece.data);
    }
    Ok(hasher.finalize())
}

/// Blocks that are not zero, each with its place: repositories may keep zeros, and pieces, differently.
fn hash_blocks(hasher: &mut blake3::Hasher, at: u64, data: &[u8]) {
    for (n, block) in data.chunks(BLOCK_SIZE as usize).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            hasher.update(&(at + n as u64 * BLOCK_SIZE).to_le_bytes()).update(block);
        }
    }
}
