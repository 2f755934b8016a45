//! Building a segment in memory.
//!
//! ```text
//! "remoraS1" ‖ the segment's id, 16 bytes ‖ sealed records, back to back ‖ the footer
//! ```

use bytes::Bytes;
use object_store::PutPayload;
use ring::aead::LessSafeKey;

use crate::keys::{Digest, Key, TenantKeys, random};
use crate::map::node::RecordRef;
use crate::names::SegmentId;
use crate::seal::{self, Kind, Place};
use crate::segment::codec::Packed;
use crate::segment::footer::{self, Details, Holds, Index, Record};
use crate::segment::part::Part;

/// The length of a segment's header.
pub(crate) const HEADER_LEN: u64 = 24;

/// A segment is stored once it holds this much. Four of them may be in memory: one grows, two are being stored, one waits.
/// Behind a mover there are two more: a third that is being stored, and one that is looked at.
pub(crate) const TARGET_LEN: u64 = 16 * 1024 * 1024;

const MAGIC: &[u8; 8] = b"remoraS1";

/// What a segment begins with.
pub(crate) fn header(id: SegmentId) -> Vec<u8> {
    [MAGIC.as_slice(), &id.0].concat()
}

/// What records are sealed as, and the key that theirs are derived from.
pub(crate) fn kind_and_key(holds: Holds, keys: &TenantKeys) -> (Kind, &Key) {
    match holds {
        Holds::Chunks => (Kind::Chunk, &keys.chunks),
        Holds::Nodes => (Kind::Node, &keys.nodes),
    }
}

/// A segment that still grows. Records are numbered as they are appended.
pub(crate) struct Builder {
    id: SegmentId,
    key: LessSafeKey,
    kind: Kind,
    place: Place,
    index: Index,
    details: Vec<Details>,
    parts: Vec<Bytes>,
    len: u64,
}

/// A whole segment.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) id: SegmentId,
    pub(crate) holds: Holds,
    pub(crate) payload: PutPayload,
    pub(crate) len: u64,
}

impl Builder {
    /// A new segment under a fresh id and salt.
    pub(crate) fn new(holds: Holds, keys: &TenantKeys, repository: [u8; 16], tenant: [u8; 8]) -> Self {
        let (id, salt) = (SegmentId(random()), random());
        #[cfg(test)]
        let (id, salt) =
            crate::simulation::named_by_content(holds).map_or((id, salt), |(id, salt)| (SegmentId(id), salt));
        let (kind, key) = kind_and_key(holds, keys);
        let header = header(id);
        Self {
            id,
            key: key.for_object(&salt),
            kind,
            place: footer::place(repository, tenant, id),
            index: Index { holds, salt, records: Vec::new() },
            details: Vec::new(),
            len: header.len() as u64,
            parts: vec![header.into()],
        }
    }

    /// Seals and appends a node.
    pub(crate) fn append_node(&mut self, packed: Packed) -> RecordRef {
        self.append(packed)
    }

    /// Seals and appends a chunk with its id and its blocks' digests.
    pub(crate) fn append_chunk(&mut self, packed: Packed, id: Digest, blocks: Vec<Digest>) -> RecordRef {
        self.details.push(Details { id, blocks });
        self.append(packed)
    }

    fn append(&mut self, Packed { mut bytes, zstd, plain_len }: Packed) -> RecordRef {
        let number = self.index.records.len() as u32;
        seal::seal(&self.key, self.kind, &Place { number: u64::from(number), ..self.place }, &mut bytes);
        let stored_len = bytes.len() as u32;
        self.index.records.push(Record { number, offset: self.len, stored_len, plain_len, zstd });
        self.len += u64::from(stored_len);
        self.parts.push(bytes.into());
        RecordRef { segment: self.id, number }
    }

    /// Whether it holds enough to be stored.
    pub(crate) const fn is_full(&self) -> bool {
        self.len >= TARGET_LEN
    }

    /// Whether it holds nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.index.records.is_empty()
    }

    /// Ends it.
    pub(crate) fn finish(mut self, keys: &TenantKeys) -> Built {
        let footer = footer::seal(&keys.footers, &self.place, &self.index, &self.details);
        self.len += footer.len() as u64;
        self.parts.push(footer.into());
        Built { id: self.id, holds: self.index.holds, payload: self.parts.into_iter().collect(), len: self.len }
    }
}

/// A record of a segment that is sealed anew.
pub(crate) enum Content {
    Whole(Packed),
    /// Of a chunk.
    Part(Part),
}

/// A segment again with records made anew: all of them are sealed under a fresh salt, for under one salt a number seals one
/// text only, and a record that is made anew may be compressed to other bytes than before.
pub(crate) fn seal_anew(
    keys: &TenantKeys,
    place: &Place,
    holds: Holds,
    records: Vec<(u32, Content)>,
    details: &[Details],
) -> PutPayload {
    let header = header(SegmentId(place.object));
    let (kind, key) = kind_and_key(holds, keys);
    let mut index = Index { holds, salt: random(), records: Vec::with_capacity(records.len()) };
    let key = key.for_object(&index.salt);
    let mut len = header.len() as u64;
    let mut parts = vec![Bytes::from(header)];
    for (number, content) in records {
        let (kind, Packed { mut bytes, zstd, plain_len }) = match content {
            Content::Whole(packed) => (kind, packed),
            Content::Part(Part { there, mut packed }) => {
                packed.bytes.splice(..0, there.to_bytes());
                (Kind::PartOfChunk, packed)
            }
        };
        seal::seal(&key, kind, &Place { number: u64::from(number), ..*place }, &mut bytes);
        let stored_len = bytes.len() as u32;
        index.records.push(Record { number, offset: len, stored_len, plain_len, zstd });
        len += u64::from(stored_len);
        parts.push(bytes.into());
    }
    parts.push(footer::seal(&keys.footers, place, &index, details).into());
    parts.into_iter().collect()
}

/// A segment again with some of its records: ciphertext, numbers and salt unchanged, under a footer of its own.
pub(crate) fn rebuild(
    keys: &TenantKeys,
    place: &Place,
    index: &Index,
    records: &[(&Record, &Bytes)],
    details: &[Details],
) -> Vec<u8> {
    let mut object = header(SegmentId(place.object));
    let mut kept = Index { holds: index.holds, salt: index.salt, records: Vec::with_capacity(records.len()) };
    for (record, sealed) in records {
        kept.records.push(Record { offset: object.len() as u64, ..**record });
        object.extend_from_slice(sealed);
    }
    object.append(&mut footer::seal(&keys.footers, place, &kept, details));
    object
}
