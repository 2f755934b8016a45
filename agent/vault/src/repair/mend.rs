//! Mending one segment.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use object_store::PutPayload;
use remora_core::ports::{DiskView, VmDisks};
use remora_core::{BLOCK_SIZE, ByteRange, DiskName, ErrorKind, Result};

use super::places::Place;
use crate::keys::TenantKeys;
use crate::map::node::RecordRef;
use crate::names::SegmentId;
use crate::repository::Repository;
use crate::segment::build::{self, Content};
use crate::segment::codec::{self, Packed};
use crate::segment::footer::{Details, Holds, Record};
use crate::segment::generations::{GENERATIONS, Generation};
use crate::segment::part::{Blocks, Part};
use crate::segment::read::{Sealed, Segment, Segments};
use crate::store::Created;

/// How often a segment is looked at anew because somebody else stored its next generation first.
const TRIES: usize = 4;

/// What became of a segment.
pub(super) enum Outcome {
    /// Each of its records is whole but for these; and why what is needed to compare is not.
    Looked { lost: BTreeMap<u32, Loss>, rest: Option<String> },
    /// Nothing tells what it held, and why.
    Gone(String),
}

/// What is lost of a record.
pub(super) struct Loss {
    /// The blocks of a chunk that are there.
    pub(super) there: Blocks,
    /// Why the others are not.
    pub(super) why: String,
}

/// Mends segments of one VM.
pub(super) struct Mender<'a> {
    pub(super) vault: &'a Repository,
    pub(super) segments: &'a Segments,
    pub(super) places: &'a BTreeMap<RecordRef, Place>,
    pub(super) disks: VmDisks<'a>,
}

/// A record as it goes into the next generation.
struct Kept {
    content: Content,
    /// Of a chunk.
    details: Option<Details>,
}

/// A record that no generation has whole.
struct Lost {
    record: Record,
    /// What the blocks of a chunk were.
    proof: Option<Details>,
    /// What earlier repairs left of it.
    parts: Vec<Part>,
}

/// What was made anew.
#[derive(Default)]
struct Remade {
    /// What of the lost records can be stored.
    kept: BTreeMap<u32, Kept>,
    /// What is lost still.
    lost: BTreeMap<u32, Loss>,
    /// Whether the VM had any of it.
    gains: bool,
}

/// A chunk as far as it could be put together.
struct Gathered {
    chunk: Vec<u8>,
    there: Blocks,
    details: Details,
}

/// What all generations of a segment have.
struct Examined {
    holds: Holds,
    whole: BTreeMap<u32, Kept>,
    lost: BTreeMap<u32, Lost>,
    /// Whether one of them has a right header and right details.
    rest_is_right: bool,
    /// Whether one of them went meanwhile: then another one has what it had.
    went: bool,
}

impl Examined {
    /// What was read of a generation; none if it is damaged, or went.
    fn read<T>(&mut self, read: Result<Option<T>>) -> Result<Option<T>> {
        let read = unless_damaged(read)?;
        self.went |= matches!(read, Some(None));
        Ok(read.flatten())
    }
}

impl Mender<'_> {
    pub(super) async fn mend(&self, id: SegmentId) -> Result<Outcome> {
        for _ in 0..TRIES {
            let generations = self.segments.generations(id).await?;
            let Some((newest, mut examined)) = self.examine(&generations).await? else {
                let why = if generations.is_empty() { "its object is gone" } else { "its object's index is damaged" };
                return Ok(Outcome::Gone(format!("{why}, and with it what would prove which bytes were lost")));
            };
            if examined.went {
                continue;
            }
            let Remade { kept, lost, gains } = self.remake(id, &mut examined).await?;
            if !gains && (examined.rest_is_right || !lost.is_empty()) {
                let rest = (!examined.rest_is_right).then(|| "some of its data is lost".to_owned());
                return Ok(Outcome::Looked { lost, rest });
            }
            let numbers: Vec<u32> = kept.keys().copied().collect();
            let mut all = examined.whole;
            all.extend(kept);
            let next = newest + 1;
            let failed = if next >= GENERATIONS {
                "its segment was stored again too often"
            } else {
                match self.store(id, next, examined.holds, all).await? {
                    Stored::AndReadBack => return Ok(Outcome::Looked { lost, rest: None }),
                    Stored::AsSomethingElse => {
                        "what was stored of it reads back as something else: check this machine's memory"
                    }
                    Stored::BySomebodyElse => continue,
                }
            };
            let rest = (!examined.rest_is_right).then(|| failed.to_owned());
            let not_stored = |number| (number, Loss { there: Blocks::default(), why: failed.to_owned() });
            let lost = lost.into_iter().chain(numbers.into_iter().map(not_stored)).collect();
            return Ok(Outcome::Looked { lost, rest });
        }
        Ok(Outcome::Gone("others kept storing its segment again: run this once more".into()))
    }

    /// Reads every record of every generation; none if no index can be read. With it, the number of the newest one.
    async fn examine(&self, generations: &[Generation]) -> Result<Option<(u32, Examined)>> {
        let mut examined: Option<Examined> = None;
        for segment in generations.iter().filter_map(|generation| generation.segment.as_ref()) {
            let all = examined.get_or_insert_with(|| Examined {
                holds: segment.index.holds,
                whole: BTreeMap::new(),
                lost: BTreeMap::new(),
                rest_is_right: false,
                went: false,
            });
            all.rest_is_right |= all.read(self.segments.check_rest_of(segment).await)?.is_some();
            let details = all.read(self.segments.load_details(segment).await)?;
            self.examine_records(segment, details.as_deref(), all).await?;
        }
        Ok(generations.last().zip(examined).map(|(newest, examined)| (newest.number, examined)))
    }

    async fn examine_records(
        &self,
        segment: &Arc<Segment>,
        details: Option<&Vec<Details>>,
        all: &mut Examined,
    ) -> Result<()> {
        let wanted = segment.index.records.iter().enumerate().filter(|(_, r)| !all.whole.contains_key(&r.number));
        let wanted: Vec<(usize, Record)> = wanted.map(|(place, record)| (place, *record)).collect();
        let numbers: Vec<u32> = wanted.iter().map(|(_, record)| record.number).collect();
        let fetched = all.read(self.segments.fetch_of(segment, &numbers).await)?;
        let mut fetched = fetched.unwrap_or_default().into_iter();
        for (place, record) in wanted {
            let proof = details.and_then(|details| details.get(place)).cloned();
            let opened = match fetched.next() {
                Some(sealed) => self.open(sealed, all.holds).await,
                None => Opened::Nothing,
            };
            match opened {
                // What does not fit its own digests is left where it is.
                Opened::Whole(kept) if proof.is_none() || kept.details == proof => {
                    all.lost.remove(&record.number);
                    all.whole.insert(record.number, kept);
                }
                opened => {
                    let new = || Lost { record, proof: None, parts: Vec::new() };
                    let lost = all.lost.entry(record.number).or_insert_with(new);
                    lost.proof = lost.proof.take().or(proof);
                    if let Opened::Part(part) = opened {
                        lost.parts.push(part);
                    }
                }
            }
        }
        Ok(())
    }

    async fn open(&self, sealed: Sealed, holds: Holds) -> Opened {
        let keys = self.vault.keys.clone();
        let open = move || match (sealed.open(), sealed.open_packed()) {
            (Ok(plain), Ok(packed)) => {
                let details = (holds == Holds::Chunks).then(|| details_of(&keys, &plain));
                Opened::Whole(Kept { content: Content::Whole(packed), details })
            }
            _ => sealed.open_part().map_or(Opened::Nothing, Opened::Part),
        };
        self.vault.workers.run(open).await
    }

    /// Makes what is lost anew, as far as it can be proven.
    async fn remake(&self, id: SegmentId, examined: &mut Examined) -> Result<Remade> {
        let mut remade = Remade::default();
        for (number, Lost { record, proof, parts }) in std::mem::take(&mut examined.lost) {
            let proof = match (examined.holds, proof) {
                (Holds::Chunks, Some(proof)) => proof,
                (Holds::Chunks, None) => {
                    let why = "the digests that would prove it are damaged too".into();
                    remade.lost.insert(number, Loss { there: Blocks::default(), why });
                    continue;
                }
                (Holds::Nodes, _) => {
                    let why = "it is the map of a disk, and no VM holds maps".into();
                    remade.lost.insert(number, Loss { there: Blocks::default(), why });
                    continue;
                }
            };
            let gathered = self.gather_parts(record, proof, parts).await;
            let had = gathered.there;
            let (gathered, why) = match self.read(RecordRef { segment: id, number }, record).await {
                Ok(data) => (self.gather_from_vm(gathered, data).await, "the VM has changed it".into()),
                Err(why) => (gathered, why),
            };
            remade.gains |= gathered.there != had;
            if !gathered.there.are_all_of(gathered.chunk.len()) {
                remade.lost.insert(number, Loss { there: gathered.there, why });
            }
            if !gathered.there.is_empty() {
                remade.kept.insert(number, self.vault.workers.run(move || gathered.pack()).await);
            }
        }
        Ok(remade)
    }

    /// What earlier repairs left of a chunk.
    async fn gather_parts(&self, record: Record, details: Details, parts: Vec<Part>) -> Gathered {
        let mut gathered = Gathered { chunk: vec![0; record.plain_len as usize], there: Blocks::default(), details };
        let keys = self.vault.keys.clone();
        let gather = move || {
            for Part { there, packed: Packed { bytes, zstd, plain_len } } in parts {
                if let Ok(chunk) = codec::unpack(bytes, zstd, plain_len) {
                    gathered.take(&keys, there, &chunk);
                }
            }
            gathered
        };
        self.vault.workers.run(gather).await
    }

    /// What the VM's disk has of it still.
    async fn gather_from_vm(&self, mut gathered: Gathered, data: Bytes) -> Gathered {
        let keys = self.vault.keys.clone();
        let gather = move || {
            gathered.take(&keys, Blocks::ALL, &data);
            gathered
        };
        self.vault.workers.run(gather).await
    }

    /// What the VM's disk has where a chunk was.
    async fn read(&self, chunk: RecordRef, record: Record) -> Result<Bytes, String> {
        let Place { disk, at } = self.places.get(&chunk).ok_or("no point tells where on a disk it was")?;
        let view = self.view(disk)?;
        // Of a disk that is shorter now, the blocks that it still has.
        let range = ByteRange::new(*at, (at + u64::from(record.plain_len)).min(view.size()));
        if range.start >= range.end {
            return Err(format!("disk {disk} of the VM is shorter now"));
        }
        view.read(range).await.map_err(|error| error.chain())
    }

    async fn are_parts(&self, segment: &Arc<Segment>, numbers: &[u32]) -> Result<bool> {
        let fetched = unless_damaged(self.segments.fetch_of(segment, numbers).await)?.flatten();
        Ok(fetched.is_some_and(|sealed| sealed.iter().all(|sealed| sealed.open_part().is_ok())))
    }

    fn view(&self, disk: &DiskName) -> Result<&Arc<dyn DiskView>, String> {
        let views = match self.disks {
            VmDisks::Open(views) => views,
            VmDisks::NotOpen(why) => return Err(format!("the VM cannot be read: {why}")),
        };
        let view = views.iter().find(|view| view.name() == disk);
        view.ok_or_else(|| format!("the VM has no disk {disk} any more"))
    }

    /// Stores a generation, and reads it back.
    async fn store(
        &self,
        id: SegmentId,
        generation: u32,
        holds: Holds,
        records: BTreeMap<u32, Kept>,
    ) -> Result<Stored> {
        let (keys, place) = (self.vault.keys.clone(), self.segments.place(id));
        let is_whole = |kept: &Kept| matches!(kept.content, Content::Whole(_));
        let whole: Vec<u32> = records.iter().filter(|(_, kept)| is_whole(kept)).map(|(number, _)| *number).collect();
        let parts: Vec<u32> = records.iter().filter(|(_, kept)| !is_whole(kept)).map(|(number, _)| *number).collect();
        let seal = move || -> PutPayload {
            let details: Vec<Details> = records.values().filter_map(|kept| kept.details.clone()).collect();
            let contents = records.into_iter().map(|(number, kept)| (number, kept.content)).collect();
            build::seal_anew(&keys, &place, holds, contents, &details)
        };
        let payload = self.vault.workers.run(seal).await;
        let name = self.segments.generation_name(id, generation);
        if self.vault.store.create(&name, payload).await? == Created::NameTaken {
            return Ok(Stored::BySomebodyElse);
        }
        let stored = self.segments.load(id, generation).await?;
        let read_back = self.segments.are_whole(&self.vault.workers, &stored, &whole).await?
            && self.are_parts(&stored, &parts).await?
            && self.segments.rest_is_right(&stored).await?;
        Ok(if read_back { Stored::AndReadBack } else { Stored::AsSomethingElse })
    }
}

/// What a record is when it is opened.
enum Opened {
    Whole(Kept),
    Part(Part),
    Nothing,
}

impl Gathered {
    /// Takes those blocks of `chunk` that are missing, and are what they were.
    fn take(&mut self, keys: &TenantKeys, there: Blocks, chunk: &[u8]) {
        let mut right = Blocks::default();
        let blocks = chunk.chunks(BLOCK_SIZE as usize).zip(&self.details.blocks).enumerate();
        for (n, (block, was)) in blocks {
            if there.has(n) && !self.there.has(n) && keys.digests.digest(block) == *was {
                right.add(n);
            }
        }
        self.there.fill(&mut self.chunk, right, chunk);
    }

    fn pack(self) -> Kept {
        let (packed, details) = (codec::pack(&self.chunk), Some(self.details));
        let content = if self.there.are_all_of(self.chunk.len()) {
            Content::Whole(packed)
        } else {
            Content::Part(Part { there: self.there, packed })
        };
        Kept { content, details }
    }
}

/// What became of a generation that was to be stored.
enum Stored {
    AndReadBack,
    AsSomethingElse,
    /// Another generation has that number.
    BySomebodyElse,
}

/// The details of a chunk.
fn details_of(keys: &TenantKeys, chunk: &[u8]) -> Details {
    let blocks: Vec<_> = chunk.chunks(BLOCK_SIZE as usize).map(|block| keys.digests.digest(block)).collect();
    let id = keys.ids.digest(&blocks.iter().flat_map(|digest| digest.0).collect::<Vec<u8>>());
    Details { id, blocks }
}

fn unless_damaged<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::Damaged => Ok(None),
        Err(error) => Err(error),
    }
}
