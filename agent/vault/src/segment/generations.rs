//! The generations of a segment. A collection stores one again without what nothing needs, and a repair with what was
//! lost of it; the earlier ones may stay for a while. A reader uses the first whose index can be read, which saves it a
//! listing. What that one lacks, or has damaged, is taken from the first of them that has it whole.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use remora_core::{Error, ErrorKind, Result};

use crate::map::node::RecordRef;
use crate::names::SegmentId;
use crate::segment::codec;
use crate::segment::footer::{Details, Holds, Record};
use crate::segment::part::Blocks;
use crate::segment::read::{Segment, Segments, is_missing};
use crate::store::Missing;
use crate::workers::Workers;

/// Generations that are looked for, from 0 on. One that a collection stores is less than half as long as the one before,
/// and a segment is at most 4 GiB.
pub(crate) const GENERATIONS: u32 = 32;

/// A generation that is there.
pub(crate) struct Generation {
    pub(crate) number: u32,
    /// None if its index cannot be read.
    pub(crate) segment: Option<Arc<Segment>>,
}

/// What was left of a damaged record.
pub(crate) struct Rescued {
    pub(crate) bytes: Vec<u8>,
    /// The blocks of a chunk that are there, if not all are.
    pub(crate) there: Option<Blocks>,
}

impl Rescued {
    fn fill(&mut self, there: Blocks, bytes: &[u8]) {
        if let Some(have) = &mut self.there {
            have.fill(&mut self.bytes, there, bytes);
            if have.are_all_of(self.bytes.len()) {
                self.there = None;
            }
        }
    }
}

impl Segments {
    /// The oldest generation whose index can be read.
    pub(super) async fn first_readable(&self, id: SegmentId) -> Result<Arc<Segment>> {
        match self.first_answer(id, |segment| async { Ok(segment) }).await {
            Err(error) if is_missing(&error) => {
                Err(self.store.explain_missing(&self.generation_name(id, 0), error).await)
            }
            found => found,
        }
    }

    /// All generations that are there, from the oldest on.
    pub(crate) async fn generations(&self, id: SegmentId) -> Result<Vec<Generation>> {
        let mut there = Vec::new();
        for number in 0..GENERATIONS {
            match self.load(id, number).await {
                Ok(segment) => there.push(Generation { number, segment: Some(segment) }),
                Err(error) if is_missing(&error) => {}
                Err(error) if error.kind() == ErrorKind::Damaged => there.push(Generation { number, segment: None }),
                Err(error) => return Err(error),
            }
        }
        Ok(there)
    }

    /// A record, as an index has it.
    pub(crate) async fn record(&self, record: RecordRef) -> Result<Record> {
        let ask = |segment: Arc<Segment>| async move {
            let found = segment.index.record(record.number).map(|(_, found)| *found);
            found.ok_or_else(|| self.no_record(&segment, record.number))
        };
        self.ask(record.segment, ask).await
    }

    /// The details of a chunk.
    pub(crate) async fn details(&self, chunk: RecordRef) -> Result<Details> {
        let ask = |segment: Arc<Segment>| async move {
            let (place, _) =
                segment.index.record(chunk.number).ok_or_else(|| self.no_record(&segment, chunk.number))?;
            let all = self.cached_details(&segment).await?.ok_or_else(|| self.damaged_in(&segment, Missing))?;
            all.get(place).cloned().ok_or_else(|| self.damaged_in(&segment, "it holds no chunks"))
        };
        self.ask(chunk.segment, ask).await
    }

    /// Reads and checks what is not needed to read records: the header, and the details. Returns how many bytes.
    pub(crate) async fn check_rest(&self, id: SegmentId) -> Result<u64> {
        let ask = |segment: Arc<Segment>| async move {
            self.check_rest_of(&segment).await?.ok_or_else(|| self.damaged_in(&segment, Missing))
        };
        self.ask(id, ask).await
    }

    /// Fetches and opens nodes of one segment, on this thread: they are small. In the order of `numbers`, which ascend.
    pub(crate) async fn nodes(&self, id: SegmentId, numbers: &[u32]) -> Result<Vec<Vec<u8>>> {
        let ask = |segment: Arc<Segment>| async move {
            if segment.index.holds != Holds::Nodes {
                return Err(self.damaged_in(&segment, "it holds no nodes"));
            }
            let sealed = self.fetch_of(&segment, numbers).await?.ok_or_else(|| self.damaged_in(&segment, Missing))?;
            sealed.iter().map(|node| node.open().map_err(|e| self.damaged_in(&segment, e))).collect()
        };
        match self.ask(id, ask).await {
            Err(error) if error.kind() == ErrorKind::Damaged && numbers.len() > 1 => {
                self.one_by_one(id, numbers, error).await
            }
            nodes => nodes,
        }
    }

    /// Nodes of which no one generation has all.
    async fn one_by_one(&self, id: SegmentId, numbers: &[u32], error: Error) -> Result<Vec<Vec<u8>>> {
        let mut nodes = self.rescue(id, numbers).await?;
        let nodes: Option<Vec<_>> = numbers.iter().map(|number| Some(nodes.remove(number)?.bytes)).collect();
        nodes.ok_or(error)
    }

    /// Of records that could not be read in one go, what the generations have of them: a slow and careful way, on this
    /// thread, for what is damaged.
    pub(crate) async fn rescue(&self, id: SegmentId, numbers: &[u32]) -> Result<BTreeMap<u32, Rescued>> {
        let (mut wanted, mut found) = (numbers.to_vec(), BTreeMap::new());
        for generation in 0..GENERATIONS {
            if wanted.is_empty() {
                break;
            }
            let looked = match self.load(id, generation).await {
                Ok(segment) => self.look_for(&segment, &wanted, &mut found).await,
                Err(error) => Err(error),
            };
            match looked {
                Err(error) if error.kind() != ErrorKind::Damaged => return Err(error),
                _ => wanted.retain(|number| found.get(number).is_none_or(|found: &Rescued| found.there.is_some())),
            }
        }
        Ok(found)
    }

    async fn look_for(&self, segment: &Arc<Segment>, wanted: &[u32], found: &mut BTreeMap<u32, Rescued>) -> Result<()> {
        let there = wanted.iter().copied().filter(|number| segment.index.record(*number).is_some());
        let there: Vec<u32> = there.collect();
        let sealed = self.fetch_of(segment, &there).await?.unwrap_or_default();
        for (number, sealed) in there.into_iter().zip(sealed) {
            if let Ok(bytes) = sealed.open() {
                found.insert(number, Rescued { bytes, there: None });
            } else if let Ok(part) = sealed.open_part()
                && let Ok(bytes) = codec::unpack(part.packed.bytes, part.packed.zstd, part.packed.plain_len)
            {
                let known = found
                    .entry(number)
                    .or_insert_with(|| Rescued { bytes: vec![0; bytes.len()], there: Some(Blocks::default()) });
                known.fill(part.there, &bytes);
            }
        }
        Ok(())
    }

    /// Whether one generation has all these records whole.
    pub(crate) async fn are_whole(&self, workers: &Workers, segment: &Arc<Segment>, numbers: &[u32]) -> Result<bool> {
        let sealed = match self.fetch_of(segment, numbers).await {
            Ok(sealed) => sealed,
            Err(error) if error.kind() == ErrorKind::Damaged => None,
            Err(error) => return Err(error),
        };
        let Some(sealed) = sealed else { return Ok(false) };
        Ok(workers.run(move || sealed.iter().all(|sealed| sealed.open().is_ok())).await)
    }

    /// Whether one generation has right what is not needed to read records: a reread compares with it, and a repair is
    /// proven by it.
    pub(crate) async fn rest_is_right(&self, segment: &Segment) -> Result<bool> {
        match self.check_rest_of(segment).await {
            Ok(checked) => Ok(checked.is_some()),
            Err(error) if error.kind() == ErrorKind::Damaged => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether one generation can stand in for those before it, if these are the records that are needed.
    pub(crate) async fn can_replace(&self, workers: &Workers, segment: &Arc<Segment>, needed: &[u32]) -> Result<bool> {
        Ok(self.are_whole(workers, segment, needed).await? && self.rest_is_right(segment).await?)
    }

    /// Asks the generation in use, and the others if that one is damaged or went.
    async fn ask<T, F: Future<Output = Result<T>> + Send>(
        &self,
        id: SegmentId,
        ask: impl Fn(Arc<Segment>) -> F + Sync,
    ) -> Result<T> {
        match ask(self.segment(id).await?).await {
            Err(error) if error.kind() == ErrorKind::Damaged => self.first_answer(id, ask).await,
            answer => answer,
        }
    }

    /// The first answer that a generation gives, asked from the oldest on. If none does, the error is the damage of the
    /// first that is there.
    async fn first_answer<T, F: Future<Output = Result<T>> + Send>(
        &self,
        id: SegmentId,
        ask: impl Fn(Arc<Segment>) -> F + Sync,
    ) -> Result<T> {
        let (mut missing, mut damaged) = (None, None);
        for generation in 0..GENERATIONS {
            let answer = match self.load(id, generation).await {
                Ok(segment) => ask(segment).await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(answer) => return Ok(answer),
                Err(error) if is_missing(&error) => missing = missing.or(Some(error)),
                Err(error) if error.kind() == ErrorKind::Damaged => damaged = damaged.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        Err(damaged.or(missing).unwrap_or_else(|| self.damaged(id, Missing)))
    }
}
