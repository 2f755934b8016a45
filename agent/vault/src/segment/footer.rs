//! A segment's footer: where its records are, and what the blocks of its chunks looked like.
//!
//! ```text
//! details (sealed) ‖ index (sealed) ‖ salt, 32 bytes ‖ details' length, u32 ‖ index' length, u32 ‖ "remoraF1"
//! ```
//! Lengths are little-endian. The index is needed to read a record; the details (each chunk's id and one digest per
//! block) only to compare, and are fetched only then.

use remora_core::BLOCK_SIZE;

use crate::keys::{Digest, Key};
use crate::map::node::CHUNK_BLOCKS;
use crate::names::SegmentId;
use crate::seal::{self, Kind, NotAuthentic, Place, SALT_LEN, TAG_LEN};
use crate::wire::{Fields, Malformed, put_number};

/// The length of the part in the clear.
pub(crate) const TRAILER_LEN: usize = SALT_LEN + 4 + 4 + 8;

pub(crate) const MAGIC: &[u8; 8] = b"remoraF1";

/// A segment holds records of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holds {
    Chunks,
    Nodes,
}

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) number: u32,
    /// Its first byte in the object.
    pub(crate) offset: u64,
    /// Its sealed length.
    pub(crate) stored_len: u32,
    pub(crate) plain_len: u32,
    pub(crate) zstd: bool,
}

impl Record {
    /// How many blocks a chunk of this length has.
    pub(crate) fn blocks(&self) -> usize {
        u64::from(self.plain_len).div_ceil(BLOCK_SIZE) as usize
    }
}

/// The decoded index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Index {
    pub(crate) holds: Holds,
    /// From which the key of its records is derived.
    pub(crate) salt: [u8; SALT_LEN],
    /// By number.
    pub(crate) records: Vec<Record>,
}

impl Index {
    /// The record of that number.
    pub(crate) fn record(&self, number: u32) -> Option<(usize, &Record)> {
        let place = self.records.binary_search_by_key(&number, |r| r.number).ok()?;
        Some((place, &self.records[place]))
    }

    /// `c` or `n`, the salt, the number of records, then each as the gap to the number before, the sealed length, and
    /// `plain length << 1 | zstd?`. Records lie back to back behind the header.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![if self.holds == Holds::Chunks { b'c' } else { b'n' }];
        out.extend_from_slice(&self.salt);
        put_number(&mut out, self.records.len() as u64);
        let mut next = 0;
        for record in &self.records {
            put_number(&mut out, u64::from(record.number) - next);
            put_number(&mut out, u64::from(record.stored_len));
            put_number(&mut out, u64::from(record.plain_len) << 1 | u64::from(record.zstd));
            // The last possible number has one behind it, too.
            next = u64::from(record.number) + 1;
        }
        out
    }

    /// The inverse; the records must fill the bytes from `header_len` to `records_end` exactly.
    pub(crate) fn decode(bytes: &[u8], header_len: u64, records_end: u64) -> Result<Self, Malformed> {
        let mut fields = Fields::new(bytes);
        let holds = match fields.array()? {
            [b'c'] => Holds::Chunks,
            [b'n'] => Holds::Nodes,
            _ => return Err(Malformed("it holds records of an unknown kind")),
        };
        let salt = fields.array()?;
        let count = fields.below(1 << 32)?;
        if fields.remaining() < count.saturating_mul(3) {
            return Err(Malformed("its index is cut off"));
        }
        let mut records = Vec::with_capacity(count);
        let (mut next, mut offset) = (0_u64, header_len);
        for _ in 0..count {
            let number = next + fields.below(1 << 32)? as u64;
            let stored_len = fields.below(1 << 32)? as u32;
            let length = fields.below(1 << 33)? as u64;
            let number = u32::try_from(number).map_err(|_| Malformed("a record's number is too large"))?;
            records.push(Record { number, offset, stored_len, plain_len: (length >> 1) as u32, zstd: length & 1 == 1 });
            offset += u64::from(stored_len);
            next = u64::from(number) + 1;
        }
        fields.end()?;
        let too_long = |r: &Record| u64::from(r.plain_len) > CHUNK_BLOCKS * BLOCK_SIZE;
        if offset != records_end || (holds == Holds::Chunks && records.iter().any(too_long)) {
            return Err(Malformed("its records do not fit it"));
        }
        Ok(Self { holds, salt, records })
    }
}

/// The details of one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Details {
    pub(crate) id: Digest,
    pub(crate) blocks: Vec<Digest>,
}

/// Seals a footer for the records of `index` and the details of its chunks.
pub(crate) fn seal(key: &Key, place: &Place, index: &Index, details: &[Details]) -> Vec<u8> {
    let salt: [u8; SALT_LEN] = crate::keys::random();
    let key = key.for_object(&salt);
    let mut sealed_details: Vec<u8> =
        details.iter().flat_map(|d| std::iter::once(&d.id).chain(&d.blocks)).flat_map(|digest| digest.0).collect();
    seal::seal(&key, Kind::FooterDetails, &Place { number: 1, ..*place }, &mut sealed_details);
    let mut sealed_index = index.encode();
    seal::seal(&key, Kind::FooterIndex, &Place { number: 0, ..*place }, &mut sealed_index);
    let lengths = [sealed_details.len() as u32, sealed_index.len() as u32];
    let mut out = sealed_details;
    out.append(&mut sealed_index);
    out.extend_from_slice(&salt);
    out.extend(lengths.iter().flat_map(|len| len.to_le_bytes()));
    out.extend_from_slice(MAGIC);
    out
}

/// Why a footer cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadFooter {
    #[error(transparent)]
    NotAuthentic(#[from] NotAuthentic),
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// The part in the clear, checked against the object's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trailer {
    salt: [u8; SALT_LEN],
    /// Where the details begin; also where the records end.
    pub(crate) details_at: u64,
    /// Where the index begins.
    pub(crate) index_at: u64,
    /// Where the index ends.
    pub(crate) index_end: u64,
}

impl Trailer {
    /// From the last bytes of an object of `object_len` bytes.
    pub(crate) fn decode(tail: &[u8], object_len: u64, header_len: u64) -> Result<Self, Malformed> {
        let trailer = tail.last_chunk::<TRAILER_LEN>().ok_or(Malformed("it is too short for a segment"))?;
        let mut fields = Fields::new(trailer);
        let salt = fields.array()?;
        let details_len = u64::from(u32::from_le_bytes(fields.array()?));
        let index_len = u64::from(u32::from_le_bytes(fields.array()?));
        if &fields.array()? != MAGIC {
            return Err(Malformed("it does not end as a segment does"));
        }
        let index_end = object_len - TRAILER_LEN as u64;
        let index_at = index_end.checked_sub(index_len);
        let details_at = index_at.and_then(|at| at.checked_sub(details_len)).filter(|at| *at >= header_len);
        match (index_at, details_at) {
            (Some(index_at), Some(details_at)) => Ok(Self { salt, details_at, index_at, index_end }),
            _ => Err(Malformed("its footer is longer than itself")),
        }
    }

    /// Opens the index.
    pub(crate) fn open_index(
        &self,
        key: &Key,
        place: &Place,
        sealed: &[u8],
        header_len: u64,
    ) -> Result<Index, BadFooter> {
        let mut bytes = sealed.to_vec();
        let key = key.for_object(&self.salt);
        let plain = seal::open(&key, Kind::FooterIndex, &Place { number: 0, ..*place }, &mut bytes)?;
        Ok(Index::decode(plain, header_len, self.details_at)?)
    }

    /// Opens the details of the records of `index`.
    pub(crate) fn open_details(
        &self,
        key: &Key,
        place: &Place,
        sealed: &[u8],
        index: &Index,
    ) -> Result<Vec<Details>, BadFooter> {
        let mut bytes = sealed.to_vec();
        let key = key.for_object(&self.salt);
        let plain = seal::open(&key, Kind::FooterDetails, &Place { number: 1, ..*place }, &mut bytes)?;
        let mut fields = Fields::new(plain);
        let mut digest = || fields.array().map(Digest);
        let mut details = Vec::with_capacity(index.records.len());
        if index.holds == Holds::Chunks {
            for record in &index.records {
                let id = digest()?;
                let blocks = (0..record.blocks()).map(|_| digest()).collect::<Result<_, _>>()?;
                details.push(Details { id, blocks });
            }
        }
        fields.end()?;
        Ok(details)
    }

    /// The bytes that the sealed details take.
    pub(crate) const fn details_len(&self) -> u64 {
        self.index_at - self.details_at
    }
}

/// Where a segment's parts belong.
pub(crate) fn place(repository: [u8; 16], tenant: [u8; 8], segment: SegmentId) -> Place {
    Place { repository, tenant, object: segment.0, number: 0 }
}

/// A sealed record is longer than its packed bytes by this.
pub(crate) const OVERHEAD: usize = TAG_LEN;

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Index, Vec<Details>) {
        let record = |number, offset, stored_len, blocks: u32| Record {
            number,
            offset,
            stored_len,
            plain_len: blocks * BLOCK_SIZE as u32,
            zstd: number == 0,
        };
        let index =
            Index { holds: Holds::Chunks, salt: [5; 32], records: vec![record(0, 24, 100, 2), record(3, 124, 50, 1)] };
        let digest = |n| Digest([n; 16]);
        let details = vec![
            Details { id: digest(1), blocks: vec![digest(2), digest(3)] },
            Details { id: digest(4), blocks: vec![digest(5)] },
        ];
        (index, details)
    }

    #[test]
    fn a_footer_comes_back_even_with_numbers_left_out() {
        let (index, details) = sample();
        let (key, place) = (Key::random(), place([1; 16], [2; 8], SegmentId([3; 16])));
        let footer = seal(&key, &place, &index, &details);
        let object_len = 174 + footer.len() as u64;
        let trailer = Trailer::decode(&footer, object_len, 24).unwrap();
        let part = |from: u64, to: u64| &footer[(from - 174) as usize..(to - 174) as usize];
        let opened = trailer.open_index(&key, &place, part(trailer.index_at, trailer.index_end), 24).unwrap();
        assert_eq!(opened, index);
        assert_eq!(opened.record(3).unwrap().0, 1);
        assert!(opened.record(1).is_none());
        let sealed = part(trailer.details_at, trailer.index_at);
        assert_eq!(trailer.open_details(&key, &place, sealed, &opened).unwrap(), details);
    }

    #[test]
    fn a_trailer_that_points_outside_is_refused() {
        let (index, details) = sample();
        let footer = seal(&Key::random(), &place([1; 16], [2; 8], SegmentId([3; 16])), &index, &details);
        assert!(Trailer::decode(&footer, footer.len() as u64, 24).is_err());
        assert!(Trailer::decode(&footer[..footer.len() - 1], 1000, 24).is_err());
        assert!(Trailer::decode(&[], 0, 24).is_err());
    }
}
