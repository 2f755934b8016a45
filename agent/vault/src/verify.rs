//! Reading and authenticating what points need.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{StreamExt, stream};
use remora_core::ports::{Damage, DiskIndex, Effect, PointReader, Progress, VerifyReport};
use remora_core::{ByteRange, Error, ErrorKind, PointId, Result};

use crate::map::node::{Child, FANOUT, LEAF_BYTES, RecordRef};
use crate::names::SegmentId;
use crate::reader::{Chunk, ChunkRun, Reader, chunk_runs};
use crate::repository::Repository;
use crate::sample::Depth;
use crate::store::DamagedObject;

/// What is checked at once.
const STEP: u64 = 8 * 1024 * 1024;

/// Steps in flight.
const STEPS: usize = 3;

/// Verifies points, and reads what several of them share once.
pub struct Verifier {
    vault: Arc<Repository>,
    depth: Depth,
    seen: Mutex<Seen>,
}

/// What was checked already: some ten bytes a chunk.
#[derive(Default)]
struct Seen {
    /// The chunks that were read and are sound.
    sound: HashMap<SegmentId, HashSet<u32>>,
    /// Segments whose header and details were read, with what is wrong.
    segments: HashMap<SegmentId, Option<Arc<Error>>>,
}

/// A point that is being verified.
struct Check<'a> {
    verifier: &'a Verifier,
    reader: &'a Reader,
    /// Segments whose damaged header or details this point's report names already.
    told: Mutex<HashSet<SegmentId>>,
}

struct Step {
    range: ByteRange,
    checked: u64,
    damage: Vec<Damage>,
}

impl Verifier {
    pub(crate) fn new(vault: Arc<Repository>, depth: Depth) -> Self {
        Self { vault, depth, seen: Mutex::default() }
    }

    /// Verifies a point. Damage is in the report; an error is that nothing of the point can be read, or that the store
    /// does not answer.
    pub async fn point(&self, id: &PointId, progress: &dyn Progress) -> Result<VerifyReport> {
        let reader = Reader::open(Arc::clone(&self.vault), id).await?;
        let check = Check { verifier: self, reader: &reader, told: Mutex::default() };
        let mut report = VerifyReport::default();
        progress.expect(reader.point().size());
        for index in 0..reader.point().disks.len() {
            let disk = DiskIndex(index);
            let steps = ByteRange::new(0, reader.disk(disk).size).split(STEP);
            let mut steps = stream::iter(steps.map(|range| check.step(disk, range))).buffered(STEPS);
            while let Some(step) = steps.next().await {
                let step = step?;
                progress.advance(step.range.len());
                report.checked += step.checked;
                step.damage.into_iter().for_each(|damage| add(&mut report.damage, damage));
            }
        }
        Ok(report)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a chunk is to be read: it is in the sample, and no other point's check has read it.
    fn wants(&self, chunk: RecordRef) -> bool {
        let chosen = match self.depth {
            Depth::Structure => false,
            Depth::Sample(sample) => sample.has(chunk),
            Depth::All => true,
        };
        chosen && !self.seen().sound.get(&chunk.segment).is_some_and(|sound| sound.contains(&chunk.number))
    }

    fn is_sound(&self, chunk: RecordRef) {
        self.seen().sound.entry(chunk.segment).or_default().insert(chunk.number);
    }
}

impl Check<'_> {
    /// Checks a stretch that lies within one leaf.
    async fn step(&self, disk: DiskIndex, range: ByteRange) -> Result<Step> {
        let mut step = Step { range, checked: 0, damage: Vec::new() };
        let leaf = match self.reader.map(disk).leaf(range.start / LEAF_BYTES).await {
            Ok(leaf) => leaf,
            Err(error) => {
                step.damage.push(damage(self.reader, disk, range, Effect::Lost, &Arc::new(error))?);
                return Ok(step);
            }
        };
        if range.start.is_multiple_of(LEAF_BYTES) {
            for segment in self.node_segments(disk, range.start / LEAF_BYTES).await? {
                self.segment(disk, range, segment, &mut step).await?;
            }
        }
        let runs: Vec<_> = chunk_runs(&leaf, range).collect();
        self.chunks(disk, &runs, &mut step).await?;
        for run in runs {
            self.segment(disk, run.range, run.chunk.segment, &mut step).await?;
        }
        Ok(step)
    }

    /// The chunks that are wanted are read; of the others the footer must know.
    async fn chunks(&self, disk: DiskIndex, runs: &[ChunkRun], step: &mut Step) -> Result<()> {
        let wanted = runs.iter().map(|run| run.chunk).filter(|chunk| self.verifier.wants(*chunk));
        let loaded = self.reader.load(wanted).await;
        for run in runs {
            let Some(chunk) = loaded.get(&run.chunk) else {
                if let Err(error) = self.reader.expect(run).await {
                    step.damage.push(damage(self.reader, disk, run.range, Effect::Lost, &Arc::new(error))?);
                }
                continue;
            };
            for run in run.cut_at_losses(chunk) {
                if let Err(error) = self.reader.part(disk, &run, chunk) {
                    step.damage.push(damage(self.reader, disk, run.range, Effect::Lost, &Arc::new(error))?);
                } else if let Some(len) = chunk.as_ref().ok().and_then(Chunk::whole_len)
                    && self.verifier.wants(run.chunk)
                {
                    self.verifier.is_sound(run.chunk);
                    step.checked += len;
                }
            }
        }
        Ok(())
    }

    /// The segments of the nodes above a leaf, and of itself. They were all read to find it.
    async fn node_segments(&self, disk: DiskIndex, leaf: u64) -> Result<HashSet<SegmentId>> {
        let map = self.reader.map(disk);
        let mut segments = HashSet::new();
        for level in 0..=map.shape().root_level() {
            if let Child::Node(node) = map.child(level, leaf / FANOUT.pow(level)).await? {
                segments.insert(node.segment);
            }
        }
        Ok(segments)
    }

    /// What of a segment no reader of data looks at: its header, and the digests of its chunks. Once for all points;
    /// told once a point.
    async fn segment(&self, disk: DiskIndex, range: ByteRange, id: SegmentId, step: &mut Step) -> Result<()> {
        let known = self.verifier.seen().segments.get(&id).cloned();
        let wrong = if let Some(wrong) = known {
            wrong
        } else {
            let wrong = match self.reader.segments().check_rest(id).await {
                Ok(checked) => {
                    step.checked += checked;
                    None
                }
                Err(error) if error.kind() == ErrorKind::Damaged => Some(Arc::new(error)),
                Err(error) => return Err(error),
            };
            self.verifier.seen().segments.insert(id, wrong.clone());
            wrong
        };
        let Some(error) = wrong else { return Ok(()) };
        let first = self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        // If its index is gone too, its chunks are told of as lost.
        let lost = step.damage.iter().any(|d| d.object == damage_object(&error));
        if first && !lost {
            step.damage.push(damage(self.reader, disk, range, Effect::Readable, &error)?);
        }
        Ok(())
    }
}

fn damage_object(error: &Error) -> String {
    DamagedObject::of(error).map_or_else(|| "unknown".into(), |damaged| damaged.name.clone())
}

/// The entry for damage; any other error ends the verification.
pub(crate) fn damage(
    reader: &Reader,
    disk: DiskIndex,
    range: ByteRange,
    effect: Effect,
    error: &Arc<Error>,
) -> Result<Damage> {
    if error.kind() != ErrorKind::Damaged {
        return Err(reader.error_at(disk, range, error));
    }
    let why = DamagedObject::of(error).map_or_else(|| error.chain(), ToString::to_string);
    Ok(Damage { disk: reader.disk(disk).name.clone(), range, effect, object: damage_object(error), why })
}

/// Appends, joining neighbours of one object.
pub(crate) fn add(all: &mut Vec<Damage>, next: Damage) {
    match all.last_mut() {
        Some(last)
            if last.object == next.object
                && last.effect == next.effect
                && last.disk == next.disk
                && last.range.end == next.range.start =>
        {
            last.range.end = next.range.end;
        }
        _ => all.push(next),
    }
}
