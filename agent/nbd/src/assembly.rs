//! Putting the chunks of a read together: every byte exactly once, in whatever order they come.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::BytesMut;

use crate::error::NbdError;

/// The bytes of one read.
pub(crate) struct Assembly {
    offset: u64,
    len: usize,
    /// Filled from the front as long as chunks come in order: then nothing is zeroed before it is written.
    bytes: BytesMut,
    /// The filled ranges, ends by starts, once a chunk came out of order; `bytes` then has its full length.
    scattered: Option<BTreeMap<usize, usize>>,
}

/// Where the next data goes.
pub(crate) enum Place<'a> {
    /// Append this many bytes.
    Append(&'a mut BytesMut, usize),
    /// Fill this slice.
    Slice(&'a mut [u8]),
}

impl Assembly {
    /// Reads `len` bytes at `offset` of the disk into `bytes`, which is empty and has room for them.
    pub(crate) fn new(offset: u64, len: u32, bytes: BytesMut) -> Self {
        Self { offset, len: len as usize, bytes, scattered: None }
    }

    /// The place of `len` bytes of data at `offset` of the disk.
    pub(crate) fn place(&mut self, offset: u64, len: usize) -> Result<Place<'_>, NbdError> {
        let range = self.range(offset, len)?;
        if self.scattered.is_none() && range.start == self.bytes.len() {
            return Ok(Place::Append(&mut self.bytes, len));
        }
        self.scatter(range.clone())?;
        Ok(Place::Slice(&mut self.bytes[range]))
    }

    /// Notes a hole.
    pub(crate) fn hole(&mut self, offset: u64, len: usize) -> Result<(), NbdError> {
        match self.place(offset, len)? {
            Place::Append(bytes, len) => bytes.resize(bytes.len() + len, 0),
            Place::Slice(slice) => slice.fill(0),
        }
        Ok(())
    }

    fn range(&self, offset: u64, len: usize) -> Result<Range<usize>, NbdError> {
        let start = offset.checked_sub(self.offset).and_then(|start| usize::try_from(start).ok());
        match start.and_then(|start| start.checked_add(len).map(|end| start..end)) {
            Some(range) if range.end <= self.len && len > 0 => Ok(range),
            _ => Err(NbdError::Protocol("a chunk lies outside of what was asked for")),
        }
    }

    fn scatter(&mut self, range: Range<usize>) -> Result<(), NbdError> {
        let filled = self.bytes.len();
        let ranges = self.scattered.get_or_insert_with(|| (filled > 0).then_some((0, filled)).into_iter().collect());
        // Of those that begin before its end the last one reaches furthest.
        if ranges.range(..range.end).next_back().is_some_and(|(_, end)| *end > range.start) {
            return Err(NbdError::Protocol("two chunks overlap"));
        }
        ranges.insert(range.start, range.end);
        self.bytes.resize(self.len, 0);
        Ok(())
    }

    /// The bytes, if all came.
    pub(crate) fn finish(self) -> Result<BytesMut, NbdError> {
        let filled =
            self.scattered.map_or(self.bytes.len(), |ranges| ranges.iter().map(|(start, end)| end - start).sum());
        if filled == self.len { Ok(self.bytes) } else { Err(NbdError::Protocol("a read was answered in part")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(assembly: &mut Assembly, offset: u64, bytes: &[u8]) -> Result<(), NbdError> {
        match assembly.place(offset, bytes.len())? {
            Place::Append(out, _) => out.extend_from_slice(bytes),
            Place::Slice(slice) => slice.copy_from_slice(bytes),
        }
        Ok(())
    }

    #[test]
    fn chunks_come_together_in_any_order() {
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 2, 1]] {
            let mut assembly = Assembly::new(100, 9, BytesMut::new());
            for n in order {
                match n {
                    0 => put(&mut assembly, 100, b"abc").unwrap(),
                    1 => assembly.hole(103, 2).unwrap(),
                    _ => put(&mut assembly, 105, b"defg").unwrap(),
                }
            }
            assert_eq!(&assembly.finish().unwrap()[..], b"abc\0\0defg", "{order:?}");
        }
    }

    #[test]
    fn what_overlaps_lies_outside_or_is_missing_is_refused() {
        let fresh = || {
            let mut assembly = Assembly::new(100, 9, BytesMut::new());
            put(&mut assembly, 102, b"xy").unwrap();
            assembly
        };
        for (offset, len) in [(102, 1), (101, 2), (103, 5), (99, 1), (108, 2), (u64::MAX, 1), (100, 0)] {
            assert!(fresh().hole(offset, len).is_err(), "{offset} {len}");
        }
        assert!(fresh().finish().is_err());
        let mut in_order = Assembly::new(0, 4, BytesMut::new());
        put(&mut in_order, 0, b"ab").unwrap();
        assert!(put(&mut in_order, 1, b"b").is_err());
        assert!(in_order.finish().is_err());
    }
}
