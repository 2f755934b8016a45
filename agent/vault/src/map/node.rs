//! Leaves and inner nodes, and their binary form.
//!
//! A leaf covers 1,024 blocks (64 MiB) of a disk, an inner node has 256 children. Both begin with a table of the ids of
//! the segments that they refer to; entries then name a segment by its place in the table. Nothing physical is in a
//! node, so that segments can be rewritten without touching maps.

use std::collections::HashMap;

use remora_core::BLOCK_SIZE;

use crate::names::SegmentId;
use crate::wire::{Fields, Malformed, put_number};

/// Blocks of a leaf.
pub(crate) const LEAF_BLOCKS: u64 = 1024;

/// Bytes of a disk that a leaf covers.
pub(crate) const LEAF_BYTES: u64 = LEAF_BLOCKS * BLOCK_SIZE;

/// Children of an inner node.
pub(crate) const FANOUT: u64 = 256;

/// Blocks of a chunk, at most.
pub(crate) const CHUNK_BLOCKS: u64 = 16;

const LEAF: u8 = b'L';
const INNER: u8 = b'I';

/// A record of a segment: a chunk or a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RecordRef {
    pub(crate) segment: SegmentId,
    pub(crate) number: u32,
}

/// What a run of blocks is mapped to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Zero,
    /// The run's first block is block `first` of the chunk, and so on.
    Chunk {
        chunk: RecordRef,
        first: u8,
    },
}

/// A run of blocks of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// The first block, counted from the leaf's start.
    pub(crate) start: u16,
    /// How many blocks, at least one.
    pub(crate) count: u16,
    pub(crate) target: Target,
}

impl Run {
    pub(crate) const fn end(&self) -> u16 {
        self.start + self.count
    }

    /// The part of it that lies in `start..end`, if any.
    pub(crate) fn cut(&self, start: u16, end: u16) -> Option<Self> {
        let (from, to) = (self.start.max(start), self.end().min(end));
        if from >= to {
            return None;
        }
        let target = match self.target {
            Target::Zero => Target::Zero,
            Target::Chunk { chunk, first } => Target::Chunk { chunk, first: first + (from - self.start) as u8 },
        };
        Some(Self { start: from, count: to - from, target })
    }

    /// Whether `next` only goes on where this ends.
    fn joins(&self, next: &Self) -> bool {
        self.end() == next.start
            && match (self.target, next.target) {
                (Target::Zero, Target::Zero) => true,
                (Target::Chunk { chunk, first }, Target::Chunk { chunk: other, first: second }) => {
                    chunk == other && u16::from(first) + self.count == u16::from(second)
                }
                _ => false,
            }
    }
}

/// A leaf: runs in order that cover each of its blocks once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    runs: Vec<Run>,
}

impl Leaf {
    /// All zero.
    pub(crate) fn zero(blocks: u16) -> Self {
        Self { runs: vec![Run { start: 0, count: blocks, target: Target::Zero }] }
    }

    /// From runs in order that cover it; neighbours that belong together are joined.
    pub(crate) fn from_runs(runs: impl IntoIterator<Item = Run>) -> Self {
        let mut joined: Vec<Run> = Vec::new();
        for run in runs {
            match joined.last_mut() {
                Some(last) if last.joins(&run) => last.count += run.count,
                _ => joined.push(run),
            }
        }
        Self { runs: joined }
    }

    /// The runs, in order.
    pub(crate) fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The runs of blocks `start..end`, cut to it.
    pub(crate) fn within(&self, start: u16, end: u16) -> impl Iterator<Item = Run> {
        let from = self.runs.partition_point(|run| run.end() <= start);
        self.runs[from..].iter().map_while(move |run| run.cut(start, end))
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.runs.iter().all(|run| run.target == Target::Zero)
    }

    /// Its binary form: `L`, the table, then for each run `count << 1 | chunk?` and, for a chunk, the segment's place
    /// in the table, the chunk's number and the first block in it.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut table = Table::default();
        let mut entries = Vec::with_capacity(self.runs.len() * 5);
        for run in &self.runs {
            let is_chunk = u64::from(run.target != Target::Zero);
            put_number(&mut entries, u64::from(run.count) << 1 | is_chunk);
            if let Target::Chunk { chunk, first } = run.target {
                put_number(&mut entries, table.place(chunk.segment));
                put_number(&mut entries, u64::from(chunk.number));
                entries.push(first);
            }
        }
        table.encode(LEAF, entries)
    }

    /// From its binary form. It must cover exactly `blocks` blocks.
    pub(crate) fn decode(bytes: &[u8], blocks: u16) -> Result<Self, Malformed> {
        let mut fields = Fields::new(bytes);
        let table = decode_table(&mut fields, LEAF)?;
        let mut runs = Vec::new();
        let mut start = 0_u16;
        while start < blocks {
            let head = fields.number()?;
            let count = u16::try_from(head >> 1).ok().filter(|count| *count > 0 && *count <= blocks - start);
            let count = count.ok_or(Malformed("a run is empty or reaches beyond the leaf"))?;
            let target = if head & 1 == 0 { Target::Zero } else { decode_chunk(&mut fields, &table, count)? };
            runs.push(Run { start, count, target });
            start += count;
        }
        fields.end()?;
        Ok(Self { runs })
    }
}

fn decode_chunk(fields: &mut Fields<'_>, table: &[SegmentId], count: u16) -> Result<Target, Malformed> {
    let segment = table[fields.below(table.len() as u64)?];
    let number = fields.below(1 << 32)? as u32;
    let [first] = fields.array()?;
    if u64::from(first) + u64::from(count) > CHUNK_BLOCKS {
        return Err(Malformed("a run reaches beyond its chunk"));
    }
    Ok(Target::Chunk { chunk: RecordRef { segment, number }, first })
}

/// What a tree has below an inner node, or as its root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Child {
    /// All of it reads as zero.
    Zero,
    Node(RecordRef),
}

/// An inner node: its children in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inner {
    pub(crate) children: Vec<Child>,
}

impl Inner {
    /// Its binary form: `I`, the table, the number of children, then each child as zero or the segment's place in the
    /// table plus one and the node's number.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut table = Table::default();
        let mut entries = Vec::new();
        put_number(&mut entries, self.children.len() as u64);
        for child in &self.children {
            match child {
                Child::Zero => entries.push(0),
                Child::Node(node) => {
                    put_number(&mut entries, table.place(node.segment) + 1);
                    put_number(&mut entries, u64::from(node.number));
                }
            }
        }
        table.encode(INNER, entries)
    }

    /// From its binary form. It must have exactly `children` children.
    pub(crate) fn decode(bytes: &[u8], children: u64) -> Result<Self, Malformed> {
        let mut fields = Fields::new(bytes);
        let table = decode_table(&mut fields, INNER)?;
        if fields.number()? != children {
            return Err(Malformed("it has another number of children"));
        }
        let child = |fields: &mut Fields<'_>| match fields.below(table.len() as u64 + 1)? {
            0 => Ok(Child::Zero),
            place => {
                let number = fields.below(1 << 32)? as u32;
                Ok(Child::Node(RecordRef { segment: table[place - 1], number }))
            }
        };
        let children = (0..children).map(|_| child(&mut fields)).collect::<Result<_, Malformed>>()?;
        fields.end()?;
        Ok(Self { children })
    }
}

/// The ids of the segments that a node refers to, each once.
#[derive(Default)]
struct Table {
    ids: Vec<SegmentId>,
    places: HashMap<SegmentId, u64>,
}

impl Table {
    fn place(&mut self, segment: SegmentId) -> u64 {
        *self.places.entry(segment).or_insert_with(|| {
            self.ids.push(segment);
            self.ids.len() as u64 - 1
        })
    }

    fn encode(self, tag: u8, mut entries: Vec<u8>) -> Vec<u8> {
        let mut out = vec![tag];
        put_number(&mut out, self.ids.len() as u64);
        for id in &self.ids {
            out.extend_from_slice(&id.0);
        }
        out.append(&mut entries);
        out
    }
}

fn decode_table(fields: &mut Fields<'_>, tag: u8) -> Result<Vec<SegmentId>, Malformed> {
    if fields.array()? != [tag] {
        return Err(Malformed("it is another kind of node"));
    }
    let count = fields.below(LEAF_BLOCKS + 1)?;
    if fields.remaining() < count * 16 {
        return Err(Malformed("its table is cut off"));
    }
    (0..count).map(|_| fields.array().map(SegmentId)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(segment: u8, number: u32, first: u8) -> Target {
        Target::Chunk { chunk: RecordRef { segment: SegmentId([segment; 16]), number }, first }
    }

    fn leaf() -> Leaf {
        Leaf::from_runs([
            Run { start: 0, count: 4, target: Target::Zero },
            Run { start: 4, count: 2, target: chunk(1, 7, 0) },
            Run { start: 6, count: 3, target: chunk(1, 7, 2) },
            Run { start: 9, count: 1, target: chunk(2, 900, 15) },
        ])
    }

    #[test]
    fn a_leaf_comes_back_with_neighbours_joined() {
        assert_eq!(leaf().runs().len(), 3);
        assert_eq!(Leaf::decode(&leaf().encode(), 10).unwrap(), leaf());
    }

    #[test]
    fn within_cuts_runs_and_moves_their_first_block() {
        let cut: Vec<_> = leaf().within(5, 10).collect();
        assert_eq!(cut[0], Run { start: 5, count: 4, target: chunk(1, 7, 1) });
        assert_eq!(cut[1], Run { start: 9, count: 1, target: chunk(2, 900, 15) });
    }

    #[test]
    fn an_inner_node_comes_back() {
        let node = |n| Child::Node(RecordRef { segment: SegmentId([n; 16]), number: u32::from(n) });
        let inner = Inner { children: vec![node(1), Child::Zero, node(2), node(1)] };
        assert_eq!(Inner::decode(&inner.encode(), 4).unwrap(), inner);
        assert!(Inner::decode(&inner.encode(), 5).is_err());
    }

    #[test]
    fn malformed_nodes_are_refused() {
        let good = leaf().encode();
        for cut in 0..good.len() {
            assert!(Leaf::decode(&good[..cut], 10).is_err(), "cut at {cut}");
        }
        assert!(Leaf::decode(&good, 9).is_err());
        assert!(Leaf::decode(&good, 11).is_err());
        let beyond = Leaf { runs: vec![Run { start: 0, count: 2, target: chunk(1, 1, 15) }] };
        assert!(Leaf::decode(&beyond.encode(), 2).is_err());
    }
}
