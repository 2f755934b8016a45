//! Which records of which segments points reach.

use std::collections::HashMap;

use futures::{StreamExt, TryStreamExt, stream};
use remora_core::Result;

use crate::map::disk::{Root, Shape};
use crate::map::node::{Child, FANOUT, Inner, Leaf, RecordRef, Target};
use crate::names::SegmentId;
use crate::segment::read::Segments;
use crate::wire::Malformed;

/// Nodes fetched at once, and fetches in flight: some 20 MiB, if every block of a disk were mapped alone.
const NODES: usize = 1024;
const FETCHES: usize = 4;

/// A set of records: a bit each, so that a thousand points of 1 TiB fit into a few MiB.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    segments: HashMap<SegmentId, Vec<u64>>,
}

impl Reach {
    /// Adds a record; tells whether it is new.
    pub(crate) fn mark(&mut self, record: RecordRef) -> bool {
        let words = self.segments.entry(record.segment).or_default();
        let (word, bit) = (record.number as usize / 64, 1_u64 << (record.number % 64));
        if words.len() <= word {
            words.resize(word + 1, 0);
        }
        let new = words[word] & bit == 0;
        words[word] |= bit;
        new
    }

    pub(crate) fn has(&self, record: RecordRef) -> bool {
        let word = self.segments.get(&record.segment).and_then(|words| words.get(record.number as usize / 64));
        word.is_some_and(|word| word & 1 << (record.number % 64) != 0)
    }

    pub(crate) fn has_segment(&self, segment: SegmentId) -> bool {
        self.segments.contains_key(&segment)
    }

    /// The numbers of a segment's records that are in it, ascending.
    pub(crate) fn numbers(&self, segment: SegmentId) -> impl Iterator<Item = u32> {
        let words = self.segments.get(&segment).into_iter().flatten().zip(0_u32..);
        words.flat_map(|(word, n)| (0..64).filter(move |bit| word & 1 << bit != 0).map(move |bit| n * 64 + bit))
    }

    /// In order, so that a pass asks the store the same each time.
    pub(crate) fn segments(&self) -> impl Iterator<Item = SegmentId> {
        let mut segments: Vec<_> = self.segments.keys().copied().collect();
        segments.sort_unstable();
        segments.into_iter()
    }
}

/// Visits what a disk's map reaches, a level at a time. `visit` is told of each node and each chunk, and says whether
/// it is new; what is below a node that is not new is passed over, so that points which share nodes cost once.
pub(crate) async fn walk(
    segments: &Segments,
    size: u64,
    root: Option<Root>,
    visit: &mut (dyn FnMut(RecordRef) -> bool + Send),
) -> Result<()> {
    let (shape, mut level_nodes) = (Shape::of(size), Vec::new());
    if let Some(Child::Node(root)) = root.map(Child::from)
        && visit(root)
    {
        level_nodes.push((root, 0));
    }
    for level in (0..=shape.root_level()).rev() {
        level_nodes = below(segments, shape, level, level_nodes, visit).await?;
    }
    Ok(())
}

/// Visits what the nodes of a level hold, and returns the new nodes among it; each node comes with its index.
async fn below(
    segments: &Segments,
    shape: Shape,
    level: u32,
    mut nodes: Vec<(RecordRef, u64)>,
    visit: &mut (dyn FnMut(RecordRef) -> bool + Send),
) -> Result<Vec<(RecordRef, u64)>> {
    nodes.sort_unstable();
    let groups = nodes.chunk_by(|a, b| a.0.segment == b.0.segment).flat_map(|group| group.chunks(NODES));
    let fetches = groups.map(|group| fetch(segments, group)).collect::<Vec<_>>();
    let mut fetches = stream::iter(fetches).buffered(FETCHES);
    let mut below = Vec::new();
    while let Some(fetched) = fetches.try_next().await? {
        for (node, index, bytes) in fetched {
            let damaged = |e: Malformed| segments.damaged(node.segment, e);
            if level == 0 {
                let leaf = Leaf::decode(&bytes, shape.leaf_blocks(index)).map_err(damaged)?;
                for run in leaf.runs() {
                    if let Target::Chunk { chunk, .. } = run.target {
                        visit(chunk);
                    }
                }
            } else {
                let inner = Inner::decode(&bytes, shape.children(level, index)).map_err(damaged)?;
                let children = inner.children.into_iter().zip(index * FANOUT..);
                below.extend(children.filter_map(|(child, index)| match child {
                    Child::Node(node) => visit(node).then_some((node, index)),
                    Child::Zero => None,
                }));
            }
        }
    }
    Ok(below)
}

/// Fetches nodes of one segment.
async fn fetch(segments: &Segments, group: &[(RecordRef, u64)]) -> Result<Vec<(RecordRef, u64, Vec<u8>)>> {
    let numbers: Vec<u32> = group.iter().map(|(node, _)| node.number).collect();
    let nodes = segments.nodes(group[0].0.segment, &numbers).await?;
    Ok(group.iter().zip(nodes).map(|((node, index), bytes)| (*node, *index, bytes)).collect())
}
