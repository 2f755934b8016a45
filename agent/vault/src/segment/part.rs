//! A chunk of which some blocks are lost for ever, and the others were made anew.

use remora_core::BLOCK_SIZE;

use crate::map::node::CHUNK_BLOCKS;
use crate::segment::codec::Packed;
use crate::wire::Malformed;

/// Some of a chunk's blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Blocks(u16);

const _: () = assert!(CHUNK_BLOCKS == u16::BITS as u64, "a bit a block");

/// What is left of a chunk. The blocks that are lost are zero in it, and nobody may take them for data.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) there: Blocks,
    /// As long as the whole chunk when unpacked.
    pub(crate) packed: Packed,
}

impl Part {
    /// From the bytes behind the authentication, whose lengths are those of the whole chunk.
    pub(crate) fn decode(mut packed: Packed) -> Result<Self, Malformed> {
        let there = *packed.bytes.first_chunk().ok_or(Malformed("it is cut off"))?;
        packed.bytes.drain(..there.len());
        Ok(Self { there: Blocks::from_bytes(there), packed })
    }
}

impl Blocks {
    pub(crate) const ALL: Self = Self(u16::MAX);

    pub(crate) const fn from_bytes(bytes: [u8; 2]) -> Self {
        Self(u16::from_le_bytes(bytes))
    }

    pub(crate) const fn to_bytes(self) -> [u8; 2] {
        self.0.to_le_bytes()
    }

    pub(crate) const fn add(&mut self, block: usize) {
        self.0 |= 1 << block;
    }

    pub(crate) const fn has(self, block: usize) -> bool {
        self.0 >> block & 1 == 1
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all blocks of a chunk of so many bytes are among them.
    pub(crate) fn are_all_of(self, len: usize) -> bool {
        (0..len.div_ceil(BLOCK_SIZE as usize)).all(|block| self.has(block))
    }

    /// Adds those blocks of a chunk that are missing, from another part of it.
    pub(crate) fn fill(&mut self, chunk: &mut [u8], there: Self, other: &[u8]) {
        for (n, (block, other)) in
            chunk.chunks_mut(BLOCK_SIZE as usize).zip(other.chunks(BLOCK_SIZE as usize)).enumerate()
        {
            if there.has(n) && !self.has(n) && block.len() == other.len() {
                block.copy_from_slice(other);
                self.add(n);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_filled_in_where_they_are_missing_only() {
        let block = BLOCK_SIZE as usize;
        let (mut have, mut chunk) = (Blocks::default(), vec![0; 2 * block + 5]);
        assert!(have.is_empty());
        have.add(0);
        chunk[..block].fill(1);
        let mut there = Blocks::default();
        there.add(0);
        there.add(2);
        have.fill(&mut chunk, there, &vec![2; 2 * block + 5]);
        assert!(have.has(0) && !have.has(1) && have.has(2) && !have.are_all_of(chunk.len()));
        assert!(chunk[..block].iter().all(|b| *b == 1) && chunk[2 * block..].iter().all(|b| *b == 2));
        assert!(chunk[block..2 * block].iter().all(|b| *b == 0));
        assert_eq!(Blocks::from_bytes(have.to_bytes()), have);
        have.add(1);
        assert!(have.are_all_of(chunk.len()) && !have.are_all_of(chunk.len() + block));
    }
}
