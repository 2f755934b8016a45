//! Reading a disk's map, a node at a time.

use std::sync::Arc;

use remora_core::{BLOCK_SIZE, Error, Result};
use serde::{Deserialize, Serialize};

use crate::cache::{Cache, Weight};
use crate::map::node::{Child, FANOUT, Inner, LEAF_BLOCKS, LEAF_BYTES, Leaf, RecordRef};
use crate::names::SegmentId;
use crate::segment::read::Segments;

const NODE_CACHE: u64 = 16 * 1024 * 1024;

/// The shape of the tree of a disk: it follows from the disk's size alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    size: u64,
}

impl Shape {
    pub(crate) const fn of(size: u64) -> Self {
        Self { size }
    }

    pub(crate) const fn size(self) -> u64 {
        self.size
    }

    /// How many blocks the disk has; the last may be short.
    pub(crate) const fn blocks(self) -> u64 {
        self.size.div_ceil(BLOCK_SIZE)
    }

    /// How many leaves.
    pub(crate) const fn leaves(self) -> u64 {
        self.size.div_ceil(LEAF_BYTES)
    }

    /// How many blocks leaf `index` covers.
    pub(crate) fn leaf_blocks(self, index: u64) -> u16 {
        (self.blocks() - index * LEAF_BLOCKS).min(LEAF_BLOCKS) as u16
    }

    /// How many nodes stand on `level`; the leaves are level 0.
    pub(crate) fn nodes(self, level: u32) -> u64 {
        (0..level).fold(self.leaves(), |nodes, _| nodes.div_ceil(FANOUT))
    }

    /// The level of the root.
    pub(crate) fn root_level(self) -> u32 {
        (0..u64::BITS).find(|level| self.nodes(*level) <= 1).expect("each level has fewer nodes")
    }

    /// How many children the inner node `index` of `level` has.
    pub(crate) fn children(self, level: u32, index: u64) -> u64 {
        (self.nodes(level - 1) - index * FANOUT).min(FANOUT)
    }
}

/// A tree's root as a manifest names it; none is all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Root {
    #[serde(with = "hex::serde")]
    segment: [u8; 16],
    number: u32,
}

impl From<RecordRef> for Root {
    fn from(node: RecordRef) -> Self {
        Self { segment: node.segment.0, number: node.number }
    }
}

impl From<Root> for Child {
    fn from(root: Root) -> Self {
        Self::Node(RecordRef { segment: SegmentId(root.segment), number: root.number })
    }
}

#[derive(Clone)]
enum Node {
    Leaf(Arc<Leaf>),
    Inner(Arc<Inner>),
}

impl Weight for Node {
    fn weight(&self) -> u64 {
        let bytes = match self {
            Self::Leaf(leaf) => size_of_val(leaf.runs()),
            Self::Inner(inner) => size_of_val(inner.children.as_slice()),
        };
        bytes as u64 + 64
    }
}

/// The map of one disk of one point.
pub(crate) struct DiskMap {
    segments: Arc<Segments>,
    shape: Shape,
    root: Child,
    nodes: Cache<RecordRef, Node>,
}

impl DiskMap {
    pub(crate) fn new(segments: Arc<Segments>, size: u64, root: Option<Root>) -> Self {
        let root = root.map_or(Child::Zero, Child::from);
        Self { segments, shape: Shape::of(size), root, nodes: Cache::new(NODE_CACHE) }
    }

    pub(crate) const fn shape(&self) -> Shape {
        self.shape
    }

    /// What stands at `index` of `level`.
    pub(crate) async fn child(&self, level: u32, index: u64) -> Result<Child> {
        let mut at = self.root;
        for above in (level + 1..=self.shape.root_level()).rev() {
            let Child::Node(node) = at else { return Ok(Child::Zero) };
            let below = FANOUT.pow(above - 1 - level);
            let inner = self.inner(node, above, index / below / FANOUT).await?;
            at = inner.children[(index / below % FANOUT) as usize];
        }
        Ok(at)
    }

    async fn node_bytes(&self, node: RecordRef) -> Result<Vec<u8>> {
        let mut bytes = self.segments.nodes(node.segment, &[node.number]).await?;
        bytes.pop().ok_or_else(|| self.segments.damaged(node.segment, "the store answered nothing"))
    }

    async fn inner(&self, node: RecordRef, level: u32, index: u64) -> Result<Arc<Inner>> {
        let children = self.shape.children(level, index);
        let load = || async {
            let bytes = self.node_bytes(node).await?;
            let inner = Inner::decode(&bytes, children).map_err(|e| self.segments.damaged(node.segment, e))?;
            Ok::<_, Error>(Node::Inner(Arc::new(inner)))
        };
        match self.nodes.get(node, load).await? {
            Node::Inner(inner) if inner.children.len() as u64 == children => Ok(inner),
            _ => Err(self.segments.damaged(node.segment, "a node stands where another kind is wanted")),
        }
    }

    /// The leaf at `index`.
    pub(crate) async fn leaf(&self, index: u64) -> Result<Arc<Leaf>> {
        let blocks = self.shape.leaf_blocks(index);
        let Child::Node(node) = self.child(0, index).await? else { return Ok(Arc::new(Leaf::zero(blocks))) };
        let load = || async { self.decode_leaf(node, &self.node_bytes(node).await?, blocks) };
        match self.nodes.get(node, load).await? {
            Node::Leaf(leaf) if leaf.runs().last().is_some_and(|run| run.end() == blocks) => Ok(leaf),
            _ => Err(self.segments.damaged(node.segment, "a node stands where a leaf of another size is wanted")),
        }
    }

    fn decode_leaf(&self, node: RecordRef, bytes: &[u8], blocks: u16) -> Result<Node> {
        let leaf = Leaf::decode(bytes, blocks).map_err(|e| self.segments.damaged(node.segment, e))?;
        Ok(Node::Leaf(Arc::new(leaf)))
    }

    /// Loads those of the leaves that are not known, several in one fetch. For readers that go on; errors show when the
    /// leaf is asked for.
    pub(crate) async fn read_ahead(&self, leaves: impl IntoIterator<Item = u64, IntoIter: Send> + Send) {
        let mut wanted: Vec<(RecordRef, u16)> = Vec::new();
        for leaf in leaves {
            match self.child(0, leaf).await {
                Ok(Child::Node(node)) if self.nodes.peek(&node).is_none() => {
                    wanted.push((node, self.shape.leaf_blocks(leaf)));
                }
                Ok(_) => {}
                Err(_) => return,
            }
        }
        wanted.sort_unstable();
        wanted.dedup();
        for group in wanted.chunk_by(|a, b| a.0.segment == b.0.segment) {
            let numbers: Vec<u32> = group.iter().map(|(node, _)| node.number).collect();
            let Ok(sealed) = self.segments.fetch(group[0].0.segment, &numbers).await else { continue };
            for ((node, blocks), sealed) in group.iter().zip(sealed) {
                let decoded = sealed.open().ok().and_then(|bytes| self.decode_leaf(*node, &bytes, *blocks).ok());
                if let Some(leaf) = decoded {
                    self.nodes.put(node, leaf);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_follows_from_the_size() {
        let empty = Shape::of(0);
        assert_eq!((empty.leaves(), empty.root_level()), (0, 0));
        let one = Shape::of(1);
        assert_eq!((one.blocks(), one.leaves(), one.leaf_blocks(0), one.root_level()), (1, 1, 1, 0));
        let two = Shape::of(LEAF_BYTES + 1);
        assert_eq!((two.leaves(), two.leaf_blocks(1), two.root_level(), two.children(1, 0)), (2, 1, 1, 2));
        let tib = Shape::of(1 << 40);
        assert_eq!((tib.leaves(), tib.nodes(1), tib.root_level()), (16384, 64, 2));
    }
}
