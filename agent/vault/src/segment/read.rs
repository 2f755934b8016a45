//! Finding and fetching records of segments.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use remora_core::{Error, Result};
use ring::aead::LessSafeKey;

use crate::cache::{Cache, Weight};
use crate::keys::TenantKeys;
use crate::names::{self, Folder, SegmentId};
use crate::seal::{self, Kind, Place};
use crate::segment::build::{self, HEADER_LEN};
use crate::segment::codec::{self, Packed};
use crate::segment::footer::{self, Details, Index, Record, Trailer};
use crate::segment::generations::GENERATIONS;
use crate::segment::part::Part;
use crate::store::{DamagedObject, Missing, Store};

/// What is fetched of a segment's end at first: enough for the index of a full backup's segment.
const TAIL_LEN: u64 = 4 * 1024;

/// Records closer than this are fetched together: reading the gap costs less than another request.
const GAP: u64 = 64 * 1024;

/// A fetch is at most this long, unless one record is longer.
const FETCH_LEN: u64 = 2 * 1024 * 1024;

const INDEX_CACHE: u64 = 16 * 1024 * 1024;
const DETAILS_CACHE: u64 = 8 * 1024 * 1024;

/// A segment whose index is known.
pub(crate) struct Segment {
    pub(crate) id: SegmentId,
    /// How often it was stored again; part of the object's name.
    pub(crate) generation: u32,
    key: LessSafeKey,
    kind: Kind,
    trailer: Trailer,
    pub(crate) index: Index,
}

impl Weight for Arc<Segment> {
    fn weight(&self) -> u64 {
        (size_of::<Segment>() + self.index.records.len() * size_of::<Record>()) as u64
    }
}

impl Weight for Arc<Vec<Details>> {
    fn weight(&self) -> u64 {
        self.iter().map(|d| size_of::<Details>() + d.blocks.len() * 16).sum::<usize>() as u64
    }
}

/// The segments of one VM.
pub(crate) struct Segments {
    pub(super) store: Store,
    keys: TenantKeys,
    repository: [u8; 16],
    tenant: Folder,
    vm: Folder,
    indexes: Cache<SegmentId, Arc<Segment>>,
    details: Cache<(SegmentId, u32), Arc<Vec<Details>>>,
}

/// The sealed bytes of a record, and what is needed to open them on another thread.
#[derive(Clone)]
pub(crate) struct Sealed {
    segment: Arc<Segment>,
    record: Record,
    place: Place,
    bytes: Bytes,
}

impl Sealed {
    /// Authenticates and unpacks. The error tells why, without naming the object.
    pub(crate) fn open(&self) -> Result<Vec<u8>, footer::BadFooter> {
        let Packed { bytes, zstd, plain_len } = self.open_packed()?;
        Ok(codec::unpack(bytes, zstd, plain_len)?)
    }

    /// Authenticates only.
    pub(crate) fn open_packed(&self) -> Result<Packed, footer::BadFooter> {
        self.open_as(self.segment.kind)
    }

    /// What is left of a chunk, if it is stored as such.
    pub(crate) fn open_part(&self) -> Result<Part, footer::BadFooter> {
        Ok(Part::decode(self.open_as(Kind::PartOfChunk)?)?)
    }

    fn open_as(&self, kind: Kind) -> Result<Packed, footer::BadFooter> {
        let mut bytes = self.bytes.to_vec();
        let packed_len = seal::open(&self.segment.key, kind, &self.place, &mut bytes)?.len();
        bytes.truncate(packed_len);
        Ok(Packed { bytes, zstd: self.record.zstd, plain_len: self.record.plain_len })
    }

    pub(crate) const fn record(&self) -> &Record {
        &self.record
    }

    /// The bytes as they are stored.
    pub(crate) const fn stored(&self) -> &Bytes {
        &self.bytes
    }

    /// Its length when opened.
    pub(crate) fn plain_len(&self) -> u64 {
        u64::from(self.record.plain_len)
    }
}

impl Segments {
    pub(crate) fn new(store: Store, keys: TenantKeys, repository: [u8; 16], tenant: Folder, vm: Folder) -> Self {
        let (indexes, details) = (Cache::new(INDEX_CACHE), Cache::new(DETAILS_CACHE));
        Self { store, keys, repository, tenant, vm, indexes, details }
    }

    /// Damage of a segment, named.
    pub(crate) fn damaged(
        &self,
        segment: SegmentId,
        why: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        self.store.damaged(&self.name(segment), why)
    }

    /// The object that stands for a segment, as far as that is known.
    fn name(&self, segment: SegmentId) -> Path {
        self.generation_name(segment, self.indexes.peek(&segment).map_or(0, |found| found.generation))
    }

    pub(crate) fn generation_name(&self, segment: SegmentId, generation: u32) -> Path {
        names::segment(self.tenant, self.vm, segment, generation)
    }

    pub(crate) fn place(&self, segment: SegmentId) -> Place {
        footer::place(self.repository, self.tenant.0, segment)
    }

    /// A segment with its index: the generation in use.
    pub(crate) async fn segment(&self, id: SegmentId) -> Result<Arc<Segment>> {
        self.indexes.get(id, || self.first_readable(id)).await
    }

    /// One generation of a segment, with its index.
    pub(crate) async fn load(&self, id: SegmentId, generation: u32) -> Result<Arc<Segment>> {
        let name = self.generation_name(id, generation);
        let damaged = |e: footer::BadFooter| self.store.damaged(&name, e);
        let tail = self.store.tail(&name, TAIL_LEN).await?;
        let trailer = Trailer::decode(&tail.bytes, tail.object_len, HEADER_LEN).map_err(|e| damaged(e.into()))?;
        let tail_at = tail.object_len - tail.bytes.len() as u64;
        let sealed = if trailer.index_at >= tail_at {
            tail.bytes.slice((trailer.index_at - tail_at) as usize..(trailer.index_end - tail_at) as usize)
        } else {
            self.one_range(&name, trailer.index_at..trailer.index_end).await?
        };
        let index = trailer.open_index(&self.keys.footers, &self.place(id), &sealed, HEADER_LEN).map_err(damaged)?;
        let (kind, key) = build::kind_and_key(index.holds, &self.keys);
        Ok(Arc::new(Segment { id, generation, key: key.for_object(&index.salt), kind, trailer, index }))
    }

    async fn one_range(&self, name: &Path, range: Range<u64>) -> Result<Bytes> {
        let mut found = self.store.ranges(name, &[range]).await?;
        found.pop().ok_or_else(|| self.store.damaged(name, "the store answered nothing"))
    }

    /// Ranges of a segment's object. If it went since its index was read, a collection has stored the next generation:
    /// `None`, and the index is to be read again.
    async fn ranges(&self, segment: &Segment, ranges: &[Range<u64>]) -> Result<Option<Vec<Bytes>>> {
        match self.store.ranges(&self.generation_name(segment.id, segment.generation), ranges).await {
            Err(error) if is_missing(&error) => {
                self.indexes.forget(&segment.id);
                Ok(None)
            }
            fetched => fetched.map(Some),
        }
    }

    /// The details of all chunks of a segment, through the cache; none if it went since its index was read.
    pub(super) async fn cached_details(&self, segment: &Segment) -> Result<Option<Arc<Vec<Details>>>> {
        let load = || async {
            match self.load_details(segment).await {
                Ok(details) => details.ok_or(None),
                Err(error) => Err(Some(error)),
            }
        };
        match self.details.get((segment.id, segment.generation), load).await {
            Ok(details) => Ok(Some(details)),
            Err(None) => Ok(None),
            Err(Some(error)) => Err(error),
        }
    }

    /// Reads and checks what is not needed to read records: the header, and the details. Returns how many bytes; none
    /// if it went since its index was read.
    pub(crate) async fn check_rest_of(&self, segment: &Segment) -> Result<Option<u64>> {
        let Some(header) = self.ranges(segment, std::slice::from_ref(&(0..HEADER_LEN))).await? else { return Ok(None) };
        if header.concat() != build::header(segment.id) {
            return Err(self.damaged_in(segment, "it does not begin with its own id"));
        }
        let details = self.load_details(segment).await?;
        Ok(details.map(|_| HEADER_LEN + segment.trailer.details_len()))
    }

    /// The details of all chunks of a segment; none if it went since its index was read.
    pub(crate) async fn load_details(&self, segment: &Segment) -> Result<Option<Arc<Vec<Details>>>> {
        let (id, trailer) = (segment.id, &segment.trailer);
        let range = trailer.details_at..trailer.details_at + trailer.details_len();
        let Some(mut sealed) = self.ranges(segment, &[range]).await? else { return Ok(None) };
        let sealed = sealed.pop().ok_or_else(|| self.damaged_in(segment, "the store answered nothing"))?;
        let opened = trailer.open_details(&self.keys.footers, &self.place(id), &sealed, &segment.index);
        opened.map(|details| Some(Arc::new(details))).map_err(|e| self.damaged_in(segment, e))
    }

    /// Damage of one generation of a segment, named.
    pub(crate) fn damaged_in(
        &self,
        segment: &Segment,
        why: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        self.store.damaged(&self.generation_name(segment.id, segment.generation), why)
    }

    pub(super) fn no_record(&self, segment: &Segment, number: u32) -> Error {
        self.damaged_in(segment, format!("it has no record {number}"))
    }

    /// Fetches records of one segment, near ones together; the result is in the order of `numbers`, which ascend.
    pub(crate) async fn fetch(&self, id: SegmentId, numbers: &[u32]) -> Result<Vec<Sealed>> {
        // Each time that it went there is a later one; but a store may tell the end of one that it has not.
        for _ in 0..GENERATIONS {
            let segment = self.segment(id).await?;
            if let Some(fetched) = self.fetch_of(&segment, numbers).await? {
                return Ok(fetched);
            }
        }
        Err(self.damaged(id, Missing))
    }

    /// Fetches records of one generation of a segment; none if it went since its index was read.
    pub(crate) async fn fetch_of(&self, segment: &Arc<Segment>, numbers: &[u32]) -> Result<Option<Vec<Sealed>>> {
        let id = segment.id;
        let record = |number: &u32| {
            let found = segment.index.record(*number).map(|(_, record)| *record);
            found.ok_or_else(|| self.no_record(segment, *number))
        };
        let records: Vec<Record> = numbers.iter().map(record).collect::<Result<_>>()?;
        let ranges = coalesce(&records);
        let Some(fetched) = self.ranges(segment, &ranges).await? else { return Ok(None) };
        let mut out = Vec::with_capacity(records.len());
        let mut at = 0;
        for record in records {
            while ranges[at].end < record.offset + u64::from(record.stored_len) {
                at += 1;
            }
            let from = (record.offset - ranges[at].start) as usize;
            let bytes = fetched[at].slice(from..from + record.stored_len as usize);
            let place = Place { number: u64::from(record.number), ..self.place(id) };
            out.push(Sealed { segment: Arc::clone(segment), record, place, bytes });
        }
        Ok(Some(out))
    }
}

pub(super) fn is_missing(error: &Error) -> bool {
    DamagedObject::of(error).is_some_and(DamagedObject::is_missing)
}

/// The ranges to fetch for records that ascend.
fn coalesce(records: &[Record]) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for record in records {
        let end = record.offset + u64::from(record.stored_len);
        match ranges.last_mut() {
            Some(last) if record.offset <= last.end + GAP && end - last.start <= FETCH_LEN => {
                last.end = last.end.max(end);
            }
            _ => ranges.push(record.offset..end),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_records_are_fetched_together_and_far_ones_apart() {
        let record = |offset, stored_len| Record { number: 0, offset, stored_len, plain_len: 0, zstd: false };
        let records = [record(24, 100), record(124, 1000), record(200_000, 5), record(200_005, 3_000_000)];
        assert_eq!(coalesce(&records), [24..1124, 200_000..200_005, 200_005..3_200_005]);
    }
}
