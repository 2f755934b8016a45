//! Writing a point: pieces become chunks of segments, and their blocks become leaves of maps.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use remora_core::point::{Decision, Point};
use remora_core::ports::{DiskIndex, DiskReads, History, NewDisk, NewPoint, PointWriter};
use remora_core::{BLOCK_SIZE, ByteRange, Error, ErrorKind, PIECE_SIZE, PointId, Result};
use remora_process::Process;

use crate::collect::end_abandoned;
use crate::fragments;
use crate::keys::{Digest, TenantKeys};
use crate::manifest::{Entry, MapEntry, PointEntry};
use crate::map::disk::DiskMap;
use crate::map::grow::{AppendNode, Filled, Filling, GrowingMap};
use crate::map::node::{RecordRef, Target};
use crate::names::{Folder, SegmentId};
use crate::parent::{Known, is_zero};
use crate::repository::Repository;
use crate::segment::build::{Builder, Built};
use crate::segment::codec;
use crate::segment::footer::Holds;
use crate::segment::read::Segments;
use crate::session::{self, LiveSession, Planned, Session};
use crate::uploads::Uploads;

pub(crate) struct Writer {
    session: LiveSession,
    work: Work,
}

/// A point on its way into the store.
struct Work {
    vault: Arc<Repository>,
    vm: Folder,
    planned: Planned,
    new: NewPoint,
    parent_hash: Option<String>,
    /// Segments of the parent of which something was found lost since.
    lost: HashSet<SegmentId>,
    segments: Arc<Segments>,
    disks: Vec<Disk>,
    chunks: Arc<Growing>,
    nodes: Growing,
    uploads: Uploads,
    /// Held while a full segment waits for its place among the uploads. Whoever has new bytes waits for it first: else
    /// a slow store would let full segments pile up in memory.
    storing: tokio::sync::Mutex<()>,
}

struct Disk {
    map: GrowingMap,
    decision: Decision,
    /// Bytes of sealed chunks.
    stored: AtomicU64,
}

/// The segment that grows now, of one kind.
struct Growing {
    holds: Holds,
    keys: TenantKeys,
    repository: [u8; 16],
    tenant: Folder,
    builder: Mutex<Builder>,
}

impl Growing {
    fn new(holds: Holds, vault: &Repository) -> Self {
        let repository = *vault.descriptor.id.as_bytes();
        let builder = Builder::new(holds, &vault.keys, repository, vault.tenant.0);
        Self { holds, keys: vault.keys.clone(), repository, tenant: vault.tenant, builder: Mutex::new(builder) }
    }

    fn lock(&self) -> MutexGuard<'_, Builder> {
        self.builder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the segment out if it is full.
    fn take_full(&self) -> Option<Built> {
        self.take_if(Builder::is_full)
    }

    /// Takes the segment out, at the end, if it holds anything.
    fn take_rest(&self) -> Option<Built> {
        self.take_if(|builder| builder.is_full() || !builder.is_empty())
    }

    fn take_if(&self, is_due: impl FnOnce(&Builder) -> bool) -> Option<Built> {
        let mut builder = self.lock();
        if !is_due(&builder) {
            return None;
        }
        let fresh = Builder::new(self.holds, &self.keys, self.repository, self.tenant.0);
        let full = std::mem::replace(&mut *builder, fresh);
        drop(builder);
        Some(full.finish(&self.keys))
    }
}

impl AppendNode for Growing {
    /// Nodes are a few KiB: packing one here costs less than handing it to another thread.
    fn append_node(&self, bytes: &[u8]) -> RecordRef {
        let packed = codec::pack(bytes);
        self.lock().append_node(packed)
    }
}

impl Writer {
    pub(crate) async fn begin(vault: Arc<Repository>, new: NewPoint) -> Result<Self> {
        let vm = vault.folder(&new.vm);
        if let Err(error) = end_abandoned(&vault, vm).await {
            tracing::warn!(error = error.chain(), "the session of a backup that was killed here may wait for a day");
        }
        let sequence = vault.sequence(vm).await?;
        vault.trust_settings(vm, &sequence).await?;
        let History { newest, breaks, .. } = vault.newest(vm, &sequence).await?;
        if newest.map(|p| p.id) != new.parent {
            return Err(session::busy(&new.vm, "got another point meanwhile"));
        }
        // It was decided before this look: a restore may have come in between. A copy asks no hypervisor what changed.
        let trusts_bitmap = new.origin.is_none() && new.disks.iter().any(|d| d.decision == Decision::Incremental);
        if trusts_bitmap && !breaks.is_empty() {
            return Err(session::busy(&new.vm, "had a disk restored over meanwhile"));
        }
        let parent = new.parent.as_ref().map(PointId::sequence);
        let session = Session {
            vm: new.vm.clone(),
            parent,
            number: sequence.next(),
            began: Timestamp::now(),
            beat: 0,
            process: Process::this(),
        };
        let session = LiveSession::publish(Arc::clone(&vault), session).await?;
        let (number, tombstone) = (sequence.next(), sequence.tombstone_number);
        let planned = Planned { session: session.id(), parent, number, tombstone };
        match Work::begin(vault, vm, planned, new).await {
            Ok(work) => Ok(Self { session, work }),
            Err(error) => {
                session.end().await;
                Err(error)
            }
        }
    }
}

impl Work {
    /// To be called once the session is published: only now it is known that nobody drops the parent's bytes.
    async fn begin(vault: Arc<Repository>, vm: Folder, mut planned: Planned, new: NewPoint) -> Result<Self> {
        planned.pass(&vault, &new.vm).await?;
        let (parent, parent_hash) = match &new.parent {
            // It counted when it was found to be the newest, and no tombstone since drops it.
            Some(id) => vault.counting_point(id).await.map(|(entry, hash)| (Some(entry), Some(hash)))?,
            None => (None, None),
        };
        let since = planned.parent.map_or(planned.number, |parent| parent + 1);
        let lost = vault.lost_between(vm, since..planned.number).await?;
        if !lost.is_empty() && new.disks.iter().any(|disk| disk.decision == Decision::Incremental) {
            let what = format!("VM {:?} was found to have lost data meanwhile", new.vm.as_str());
            return Err(Error::new(ErrorKind::Busy, what).advise("Nothing was lost by this run: run the backup again."));
        }
        let segments = Arc::new(vault.segments(vm));
        let disks = new.disks.iter().map(|disk| Disk::new(disk, parent.as_ref(), &segments)).collect::<Result<_>>()?;
        let (chunks, nodes) = (Arc::new(Growing::new(Holds::Chunks, &vault)), Growing::new(Holds::Nodes, &vault));
        let uploads = Uploads::new(vault.store.clone(), vault.tenant, vm);
        Ok(Self {
            vault,
            vm,
            planned,
            new,
            parent_hash,
            lost,
            segments,
            disks,
            chunks,
            nodes,
            uploads,
            storing: tokio::sync::Mutex::default(),
        })
    }

    fn disk(&self, disk: DiskIndex, range: ByteRange) -> Result<&Disk> {
        let misused = |what: &str| Error::new(ErrorKind::Failed, format!("disk {}, {range}: {what}", disk.0));
        let found = self.disks.get(disk.0).ok_or_else(|| misused("no such disk"))?;
        let size = found.map.shape().size();
        if range.end > size || range.is_empty() {
            return Err(misused("it is empty or reaches beyond the disk"));
        }
        if !range.start.is_multiple_of(BLOCK_SIZE) || (!range.end.is_multiple_of(BLOCK_SIZE) && range.end != size) {
            return Err(misused("it is not made of whole blocks"));
        }
        Ok(found)
    }

    async fn store_full_segments(&self) -> Result<()> {
        let _storing = self.storing.lock().await;
        for growing in [&*self.chunks, &self.nodes] {
            if let Some(built) = growing.take_full() {
                self.uploads.push(built).await?;
            }
        }
        Ok(())
    }

    async fn fill(&self, disk: &Disk, range: ByteRange, filling: Filling) -> Result<()> {
        let block = range.start / BLOCK_SIZE;
        let count = range.end.div_ceil(BLOCK_SIZE) - block;
        disk.map.fill(&[Filled { block, count, filling }], &self.nodes).await?;
        self.store_full_segments().await
    }

    /// Stores what chunks are left. Nodes of the maps come with the commit, for only then are there all of them.
    async fn settle(&self) -> Result<()> {
        if let Some(built) = self.chunks.take_rest() {
            self.uploads.push(built).await?;
        }
        self.uploads.settle().await
    }

    async fn commit(mut self, reads: &[DiskReads]) -> Result<Point> {
        if reads.len() != self.disks.len() {
            return Err(Error::new(ErrorKind::Failed, "there is not one count of reads a disk"));
        }
        let mut maps = Vec::with_capacity(self.disks.len());
        for disk in &self.disks {
            maps.push(MapEntry { root: disk.map.root(&self.nodes).await? });
        }
        for growing in [&*self.chunks, &self.nodes] {
            if let Some(built) = growing.take_rest() {
                self.uploads.push(built).await?;
            }
        }
        let empty = Uploads::new(self.vault.store.clone(), self.vault.tenant, self.vm);
        let segments = std::mem::replace(&mut self.uploads, empty).finish().await?;
        let mut point = self.point(reads, segments.iter().map(|s| s.len).sum())?;
        let entry = |number| {
            let point = Point { id: PointId::new(self.vm.hex(), number)?, ..point.clone() };
            let (parent_hash, maps, segments) = (self.parent_hash.clone(), maps.clone(), segments.clone());
            Ok(Entry::Point(Box::new(PointEntry { point, parent_hash, block_size: BLOCK_SIZE, maps, segments })))
        };
        self.planned.commit(&self.vault, &self.new.vm, entry).await?;
        point.id = PointId::new(self.vm.hex(), self.planned.number)?;
        Ok(point)
    }

    fn point(&self, reads: &[DiskReads], stored: u64) -> Result<Point> {
        if self.new.disks.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "a point needs at least one disk"));
        }
        let disks = self.disks.iter().map(|disk| disk.stored.load(Ordering::Relaxed));
        let id = PointId::new(self.vm.hex(), self.planned.number)?;
        let point = self.new.point(id, self.vault.descriptor.id, reads.iter().copied().zip(disks));
        // Maps are of the point as a whole.
        Ok(Point { stored, ..point })
    }
}

impl Disk {
    fn new(new: &NewDisk, parent: Option<&PointEntry>, segments: &Arc<Segments>) -> Result<Self> {
        let before = parent.and_then(|p| p.point.disk(&new.name).map(|(n, disk)| (disk.size, p.maps[n].root)));
        let parent = match (new.decision, before) {
            (Decision::Full, _) => None,
            (_, Some((size, root))) => Some(Arc::new(DiskMap::new(Arc::clone(segments), size, root))),
            (_, None) => {
                let what = format!("disk {} has no parent for a point that is {}", new.name, new.decision);
                return Err(Error::new(ErrorKind::Failed, what));
            }
        };
        Ok(Self { map: GrowingMap::new(new.size, parent), decision: new.decision, stored: AtomicU64::new(0) })
    }
}

#[async_trait]
impl PointWriter for Writer {
    async fn write(&self, disk: DiskIndex, at: u64, data: Bytes) -> Result<()> {
        let range = ByteRange::at(at, data.len() as u64);
        let disk = self.work.disk(disk, range)?;
        if range.start / PIECE_SIZE != (range.end - 1) / PIECE_SIZE {
            return Err(Error::new(ErrorKind::Failed, format!("{range} crosses the end of a piece")));
        }
        let known = match (disk.decision, disk.map.parent()) {
            (Decision::Reread, Some(parent)) => {
                Known::but_for(&self.work.lost, parent, &self.work.segments, range).await?
            }
            _ => Known::nothing(),
        };
        drop(self.work.storing.lock().await);
        let (keys, chunks) = (self.work.vault.keys.clone(), Arc::clone(&self.work.chunks));
        let (filled, stored) =
            self.work.vault.workers.run(move || store_piece(&keys, &chunks, at, &data, &known)).await;
        disk.stored.fetch_add(stored, Ordering::Relaxed);
        disk.map.fill(&filled, &self.work.nodes).await?;
        self.work.store_full_segments().await
    }

    async fn zero(&self, disk: DiskIndex, range: ByteRange) -> Result<()> {
        let disk = self.work.disk(disk, range)?;
        self.work.fill(disk, range, Filling::New(Target::Zero)).await
    }

    async fn unchanged(&self, disk: DiskIndex, range: ByteRange) -> Result<()> {
        let disk = self.work.disk(disk, range)?;
        if disk.decision != Decision::Incremental {
            return Err(Error::new(ErrorKind::Failed, "only an increment has ranges that did not change"));
        }
        self.work.fill(disk, range, Filling::Inherited).await
    }

    async fn worth_rewriting(&self, disk: DiskIndex, changed: &[ByteRange], budget: u64) -> Result<Vec<ByteRange>> {
        match self.work.disks.get(disk.0) {
            Some(Disk { map, decision: Decision::Incremental, .. }) => match map.parent() {
                Some(parent) => fragments::worth_rewriting(parent, changed, budget).await,
                None => Ok(Vec::new()),
            },
            _ => Ok(Vec::new()),
        }
    }

    async fn settle(&self) -> Result<()> {
        self.work.settle().await
    }

    async fn commit(self: Box<Self>, reads: &[DiskReads]) -> Result<Point> {
        let Self { session, work } = *self;
        let committed = work.commit(reads).await;
        match &committed {
            // The manifest may still come to be: until a collection ends the session, its number must stay watched.
            Err(error) if error.kind() == ErrorKind::Unavailable => drop(session),
            _ => session.end().await,
        }
        committed
    }

    async fn abandon(self: Box<Self>) {
        self.session.end().await;
    }
}

/// The CPU work of a piece: finds zero and known blocks, and packs, seals and appends the runs of the others. Returns
/// what the blocks became, and the bytes of sealed chunks.
fn store_piece(keys: &TenantKeys, chunks: &Growing, at: u64, data: &[u8], known: &Known) -> (Vec<Filled>, u64) {
    let first_block = at / BLOCK_SIZE;
    let blocks: Vec<&[u8]> = data.chunks(BLOCK_SIZE as usize).collect();
    let fates: Vec<Fate> = blocks.iter().enumerate().map(|(n, block)| Fate::of(keys, block, known, n)).collect();
    let (mut filled, mut stored, mut start) = (Vec::new(), 0, 0);
    for run in fates.chunk_by(Fate::goes_with) {
        let filling = match run[0] {
            Fate::Zero => Filling::New(Target::Zero),
            Fate::Same => Filling::Inherited,
            Fate::Store(_) => {
                let from = start * BLOCK_SIZE as usize;
                let bytes = &data[from..data.len().min(from + run.len() * BLOCK_SIZE as usize)];
                let packed = codec::pack(bytes);
                stored += (packed.bytes.len() + crate::segment::footer::OVERHEAD) as u64;
                let digests: Vec<Digest> = run.iter().filter_map(Fate::digest).collect();
                let id = keys.ids.digest(&digests.iter().flat_map(|d| d.0).collect::<Vec<u8>>());
                let chunk = chunks.lock().append_chunk(packed, id, digests);
                Filling::New(Target::Chunk { chunk, first: 0 })
            }
        };
        filled.push(Filled { block: first_block + start as u64, count: run.len() as u64, filling });
        start += run.len();
    }
    (filled, stored)
}

/// What becomes of a block.
#[derive(Clone, Copy)]
enum Fate {
    Zero,
    /// The parent has the same.
    Same,
    Store(Digest),
}

impl Fate {
    fn of(keys: &TenantKeys, block: &[u8], known: &Known, n: usize) -> Self {
        if is_zero(block) {
            return Self::Zero;
        }
        let digest = keys.digests.digest(block);
        if known.has(n, block.len(), digest) { Self::Same } else { Self::Store(digest) }
    }

    fn digest(&self) -> Option<Digest> {
        match self {
            Self::Store(digest) => Some(*digest),
            Self::Zero | Self::Same => None,
        }
    }

    const fn goes_with(&self, next: &Self) -> bool {
        matches!((self, next), (Self::Zero, Self::Zero) | (Self::Same, Self::Same) | (Self::Store(_), Self::Store(_)))
    }
}
