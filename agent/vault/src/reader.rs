//! Reading a point: by random access with a cache of decoded chunks, or all of it with many fetches in flight.

mod windows;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use remora_core::point::{Point, PointDisk};
use remora_core::ports::{DiskIndex, Piece, PointReader};
use remora_core::{BLOCK_SIZE, ByteRange, DiskName, Error, ErrorKind, Extent, ExtentState, PointId, Result};

use crate::cache::{Cache, Weight};
use crate::fragments::merge;
use crate::map::disk::DiskMap;
use crate::map::node::{LEAF_BLOCKS, LEAF_BYTES, Leaf, RecordRef, Run, Target};
use crate::names::{Folder, SegmentId};
use crate::parent::{Known, is_zero};
use crate::repository::Repository;
use crate::segment::generations::Rescued;
use crate::segment::part::Blocks;
use crate::segment::read::{Sealed, Segments};

/// Segments fetched from at the same time for one load.
const FETCHES: usize = 16;

/// Records are opened in batches of about this many bytes, so that small ones do not pay for a thread's wake-up each.
const BATCH: u64 = 1024 * 1024;

/// A chunk's bytes.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    bytes: Bytes,
    /// Of one that was repaired in part, the blocks that are there, and why the others are lost.
    part: Option<(Blocks, Arc<Error>)>,
}

impl Weight for Chunk {
    fn weight(&self) -> u64 {
        self.bytes.len() as u64 + 128
    }
}

impl Chunk {
    /// Its length, if nothing of it is lost.
    pub(crate) fn whole_len(&self) -> Option<u64> {
        self.part.is_none().then_some(self.bytes.len() as u64)
    }
}

/// A chunk, or why it cannot be read.
pub(crate) type Loaded = Result<Chunk, Arc<Error>>;

/// A run of blocks as bytes of the disk, and its chunk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChunkRun {
    pub(crate) range: ByteRange,
    pub(crate) chunk: RecordRef,
    /// Where the range begins in the chunk.
    pub(crate) offset: u64,
}

impl ChunkRun {
    /// The bytes of the run. A chunk shorter than its map says is damage.
    fn slice(&self, chunk: &Chunk) -> Option<Bytes> {
        let end = self.offset + self.range.len();
        (end <= chunk.bytes.len() as u64).then(|| chunk.bytes.slice(self.offset as usize..end as usize))
    }

    /// Its blocks in the chunk.
    fn blocks(&self) -> impl Iterator<Item = usize> + use<> {
        let end = (self.offset + self.range.len()).div_ceil(BLOCK_SIZE);
        (self.offset / BLOCK_SIZE..end).map(|block| block as usize)
    }

    /// The run, cut where blocks of its chunk are lost.
    pub(crate) fn cut_at_losses(self, chunk: &Loaded) -> Vec<Self> {
        match chunk {
            Ok(Chunk { part: Some((there, _)), .. }) => self.cut(|block| there.has(block)),
            _ => vec![self],
        }
    }

    /// The run, cut between blocks of which `is` says another thing.
    pub(crate) fn cut(self, is: impl Fn(usize) -> bool) -> Vec<Self> {
        let mut cut: Vec<Self> = Vec::new();
        for block in self.blocks() {
            let start = (block as u64 * BLOCK_SIZE).max(self.offset);
            let end = ((block as u64 + 1) * BLOCK_SIZE).min(self.offset + self.range.len());
            match cut.last_mut().filter(|last| is(last.first_block()) == is(block)) {
                Some(last) => last.range.end = self.range.start + (end - self.offset),
                None => cut.push(Self {
                    range: ByteRange::at(self.range.start + (start - self.offset), end - start),
                    offset: start,
                    ..self
                }),
            }
        }
        cut
    }

    /// Its first block in the chunk.
    pub(crate) fn first_block(&self) -> usize {
        (self.offset / BLOCK_SIZE) as usize
    }
}

/// A run of a disk's data, or why it cannot be read.
pub(crate) struct Found {
    pub(crate) range: ByteRange,
    pub(crate) data: Result<Bytes>,
}

pub(crate) struct Reader {
    vault: Arc<Repository>,
    point: Point,
    segments: Arc<Segments>,
    maps: Vec<DiskMap>,
    chunks: Cache<RecordRef, Chunk>,
}

impl Reader {
    pub(crate) async fn open(vault: Arc<Repository>, id: &PointId) -> Result<Self> {
        let (entry, _) = vault.point(id).await?;
        let vm = Folder::parse(id.vm()).ok_or_else(|| Error::new(ErrorKind::Invalid, format!("point {id}")))?;
        let segments = Arc::new(vault.segments(vm));
        let disks = entry.point.disks.iter().zip(&entry.maps);
        let maps = disks.map(|(disk, map)| DiskMap::new(Arc::clone(&segments), disk.size, map.root)).collect();
        let chunks = Cache::new(vault.options.cache);
        Ok(Self { vault, point: entry.point, segments, maps, chunks })
    }

    pub(crate) fn segments(&self) -> &Segments {
        &self.segments
    }

    pub(crate) fn map(&self, disk: DiskIndex) -> &DiskMap {
        &self.maps[disk.0]
    }

    pub(crate) fn disk(&self, disk: DiskIndex) -> &PointDisk {
        &self.point.disks[disk.0]
    }

    /// The index of a disk by name.
    pub(crate) fn disk_named(&self, name: &DiskName) -> Result<DiskIndex> {
        let (index, _) = self.point.disk(name).ok_or_else(|| {
            let names: Vec<_> = self.point.disks.iter().map(|d| d.name.as_str()).collect();
            let what = format!("point {} has no disk {name}, but {}", self.point.id, names.join(", "));
            Error::new(ErrorKind::NotFound, what)
        })?;
        Ok(DiskIndex(index))
    }

    /// Names the point, disk and range that an error hit.
    pub(crate) fn error_at(&self, disk: DiskIndex, range: ByteRange, error: &Arc<Error>) -> Error {
        let what = format!("point {}, disk {}, {range}", self.point.id, self.disk(disk).name);
        let named = Error::new(error.kind(), what).because(Arc::clone(error));
        match error.advice() {
            Some(advice) => named.advise(advice),
            None => named,
        }
    }

    /// The leaf over a range that lies within one, and the runs of chunks in it, cut to the range.
    async fn leaf_over(&self, disk: DiskIndex, range: ByteRange) -> Result<Arc<Leaf>> {
        self.map(disk).leaf(range.start / LEAF_BYTES).await.map_err(|e| self.error_at(disk, range, &Arc::new(e)))
    }

    /// Loads chunks: near ones together, many at once, opened on the workers.
    pub(crate) async fn load(&self, chunks: impl IntoIterator<Item = RecordRef>) -> HashMap<RecordRef, Loaded> {
        let mut loaded = self.load_together(chunks).await;
        self.load_damaged_again(&mut loaded).await;
        loaded
    }

    /// Damaged chunks, from other generations of their segments.
    async fn load_damaged_again(&self, loaded: &mut HashMap<RecordRef, Loaded>) {
        let mut damaged: BTreeMap<SegmentId, Vec<u32>> = BTreeMap::new();
        for (chunk, loaded) in &*loaded {
            if loaded.as_ref().is_err_and(|error| error.kind() == ErrorKind::Damaged) {
                damaged.entry(chunk.segment).or_default().push(chunk.number);
            }
        }
        for (segment, mut numbers) in damaged {
            numbers.sort_unstable();
            let chunk = |number| RecordRef { segment, number };
            match self.segments.rescue(segment, &numbers).await {
                Ok(found) => {
                    for (number, Rescued { bytes, there }) in found {
                        let why = loaded.get(&chunk(number)).and_then(|loaded| loaded.as_ref().err().cloned());
                        let part = there.zip(why);
                        loaded.insert(chunk(number), Ok(Chunk { bytes: bytes.into(), part }));
                    }
                }
                // Whether it is lost is not known.
                Err(error) => {
                    let error = Arc::new(error);
                    loaded.extend(numbers.into_iter().map(|number| (chunk(number), Err(Arc::clone(&error)))));
                }
            }
        }
    }

    async fn load_together(&self, chunks: impl IntoIterator<Item = RecordRef>) -> HashMap<RecordRef, Loaded> {
        let (sealed, mut loaded) = self.fetch(chunks).await;
        let opened = in_batches(sealed).into_iter().map(|batch| {
            self.vault.workers.run(move || {
                let whole = |bytes: Vec<u8>| Chunk { bytes: bytes.into(), part: None };
                let open = |(chunk, sealed): (RecordRef, Sealed)| (chunk, sealed.open().map(whole));
                batch.into_iter().map(open).collect::<Vec<_>>()
            })
        });
        for (chunk, opened) in futures::future::join_all(opened).await.into_iter().flatten() {
            let named = |e| self.segments.damaged(chunk.segment, e).within(format!("chunk {}", chunk.number));
            loaded.insert(chunk, opened.map_err(|e| Arc::new(named(e))));
        }
        loaded
    }

    /// The sealed bytes of chunks, and the chunks that could not be fetched.
    async fn fetch(
        &self,
        chunks: impl IntoIterator<Item = RecordRef>,
    ) -> (Vec<(RecordRef, Sealed)>, HashMap<RecordRef, Loaded>) {
        let mut by_segment: BTreeMap<SegmentId, BTreeSet<u32>> = BTreeMap::new();
        for chunk in chunks {
            by_segment.entry(chunk.segment).or_default().insert(chunk.number);
        }
        let fetches = by_segment.into_iter().map(|(segment, numbers)| async move {
            let numbers: Vec<u32> = numbers.into_iter().collect();
            let fetched = self.segments.fetch(segment, &numbers).await;
            (segment, numbers, fetched)
        });
        let (mut sealed, mut failed) = (Vec::new(), HashMap::new());
        let mut fetches = stream::iter(fetches).buffer_unordered(FETCHES);
        while let Some((segment, numbers, fetched)) = fetches.next().await {
            let chunks = numbers.into_iter().map(|number| RecordRef { segment, number });
            match fetched {
                Ok(records) => sealed.extend(chunks.zip(records)),
                Err(error) => {
                    let error = Arc::new(error);
                    failed.extend(chunks.map(|chunk| (chunk, Err(Arc::clone(&error)))));
                }
            }
        }
        (sealed, failed)
    }

    /// One chunk, through the cache.
    async fn chunk(&self, disk: DiskIndex, run: &ChunkRun) -> Result<Chunk> {
        let load = || async {
            let mut loaded = self.load([run.chunk]).await;
            loaded.remove(&run.chunk).unwrap_or_else(|| Err(Arc::new(self.short(run))))
        };
        self.chunks.get(run.chunk, load).await.map_err(|e| self.error_at(disk, run.range, &e))
    }

    /// The part of a chunk that a run shows.
    pub(crate) fn part(&self, disk: DiskIndex, run: &ChunkRun, chunk: &Loaded) -> Result<Bytes> {
        let chunk = chunk.as_ref().map_err(|e| self.error_at(disk, run.range, e))?;
        if let Some((there, why)) = &chunk.part
            && !run.blocks().all(|block| there.has(block))
        {
            return Err(self.error_at(disk, run.range, why));
        }
        run.slice(chunk).ok_or_else(|| self.error_at(disk, run.range, &Arc::new(self.short(run))))
    }

    fn short(&self, run: &ChunkRun) -> Error {
        self.segments.damaged(run.chunk.segment, format!("chunk {} is shorter than the map says", run.chunk.number))
    }

    /// Whether a run's chunk is there and as long as it must be, by the footer of its segment.
    pub(crate) async fn expect(&self, run: &ChunkRun) -> Result<()> {
        let record = self.segments.record(run.chunk).await?;
        let end = run.offset + run.range.len();
        if end <= u64::from(record.plain_len) { Ok(()) } else { Err(self.short(run)) }
    }

    fn check_range(&self, disk: DiskIndex, range: ByteRange) -> Result<()> {
        let size = self.point.disks.get(disk.0).map(|d| d.size);
        match size {
            Some(size) if range.end <= size => Ok(()),
            _ => Err(Error::new(
                ErrorKind::Invalid,
                format!("disk {} of point {}: {range} is not on it", disk.0, self.point.id),
            )),
        }
    }
}

/// Batches of about [`BATCH`] bytes when opened.
fn in_batches(sealed: Vec<(RecordRef, Sealed)>) -> Vec<Vec<(RecordRef, Sealed)>> {
    let mut batches: Vec<Vec<_>> = Vec::new();
    let mut room = 0;
    for (chunk, sealed) in sealed {
        if room < sealed.plain_len() {
            batches.push(Vec::new());
            room = BATCH;
        }
        room = room.saturating_sub(sealed.plain_len());
        if let Some(batch) = batches.last_mut() {
            batch.push((chunk, sealed));
        }
    }
    batches
}

/// The bytes that a run covers, cut to a range within the same leaf.
fn run_range(run: &Run, within: ByteRange) -> ByteRange {
    let leaf_block = within.start / LEAF_BYTES * LEAF_BLOCKS;
    let start = (leaf_block + u64::from(run.start)) * BLOCK_SIZE;
    let end = (leaf_block + u64::from(run.end())) * BLOCK_SIZE;
    ByteRange::new(start.max(within.start), end.min(within.end))
}

fn runs_over(leaf: &Leaf, range: ByteRange) -> impl Iterator<Item = Run> {
    let first = range.start % LEAF_BYTES / BLOCK_SIZE;
    let last = first + (range.end - range.start / BLOCK_SIZE * BLOCK_SIZE).div_ceil(BLOCK_SIZE);
    leaf.within(first as u16, last as u16)
}

/// The runs of chunks of a leaf in a range.
pub(crate) fn chunk_runs(leaf: &Leaf, range: ByteRange) -> impl Iterator<Item = ChunkRun> {
    runs_over(leaf, range).filter_map(move |run| {
        let Target::Chunk { chunk, first } = run.target else { return None };
        let cut = run_range(&run, range);
        let run_start = (range.start / LEAF_BYTES * LEAF_BLOCKS + u64::from(run.start)) * BLOCK_SIZE;
        Some(ChunkRun { range: cut, chunk, offset: u64::from(first) * BLOCK_SIZE + (cut.start - run_start) })
    })
}

#[async_trait]
impl PointReader for Reader {
    fn point(&self) -> &Point {
        &self.point
    }

    fn extents(&self, disk: DiskIndex, range: ByteRange) -> BoxStream<'_, Result<Extent>> {
        if let Err(error) = self.check_range(disk, range) {
            return stream::iter([Err(error)]).boxed();
        }
        let leaves = stream::iter(range.split(LEAF_BYTES)).then(move |range| async move {
            let leaf = self.leaf_over(disk, range).await?;
            let extents = runs_over(&leaf, range).map(|run| {
                let state = if run.target == Target::Zero { ExtentState::Zero } else { ExtentState::Data };
                Extent { range: run_range(&run, range), state }
            });
            Ok::<_, Error>(stream::iter(extents.map(Ok).collect::<Vec<_>>()))
        });
        leaves.try_flatten().boxed()
    }

    async fn read(&self, disk: DiskIndex, range: ByteRange) -> Result<Bytes> {
        self.check_range(disk, range)?;
        let mut out = BytesMut::zeroed(range.len() as usize);
        for part in range.split(LEAF_BYTES) {
            let leaf = self.leaf_over(disk, part).await?;
            let runs: Vec<ChunkRun> = chunk_runs(&leaf, part).collect();
            let chunks =
                runs.into_iter().map(|run| async move { Ok::<_, Error>((run, self.chunk(disk, &run).await?)) });
            let mut chunks = stream::iter(chunks).buffer_unordered(FETCHES);
            while let Some((run, chunk)) = chunks.try_next().await? {
                let bytes = self.part(disk, &run, &Ok(chunk))?;
                let at = (run.range.start - range.start) as usize;
                out[at..at + bytes.len()].copy_from_slice(&bytes);
            }
        }
        Ok(out.freeze())
    }

    fn pieces(&self, disk: DiskIndex, range: ByteRange) -> BoxStream<'_, Result<Piece>> {
        self.windows(disk, range).map(|found| found.data.map(|data| Piece { at: found.range.start, data })).boxed()
    }

    async fn differing(&self, disk: DiskIndex, at: u64, data: &Bytes) -> Result<Vec<ByteRange>> {
        let range = ByteRange::at(at, data.len() as u64);
        self.check_range(disk, range)?;
        let known = Known::of(self.map(disk), &self.segments, range).await?;
        let (keys, data) = (self.vault.keys.clone(), data.clone());
        let differing = self.vault.workers.run(move || {
            let blocks = data.chunks(BLOCK_SIZE as usize).enumerate();
            let same = |n: usize, block: &[u8]| {
                if is_zero(block) {
                    known.is_zero(n, block.len())
                } else {
                    known.has(n, block.len(), keys.digests.digest(block))
                }
            };
            let differing = blocks.filter(|(n, block)| !same(*n, block));
            differing
                .map(|(n, block)| ByteRange::at(at + n as u64 * BLOCK_SIZE, block.len() as u64))
                .collect::<Vec<_>>()
        });
        Ok(merge(&differing.await))
    }
}
