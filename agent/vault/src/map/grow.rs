//! Writing the map of a new point over its parent's: leaves are finished as soon as all their blocks are known, so that
//! memory does not grow with the disk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use remora_core::{BLOCK_SIZE, ByteRange, Error, ErrorKind, Result};

use crate::map::disk::{DiskMap, Root, Shape};
use crate::map::node::{Child, FANOUT, Inner, LEAF_BLOCKS, Leaf, RecordRef, Run, Target};

/// What a run of blocks becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filling {
    /// Mapped anew.
    New(Target),
    /// As in the parent.
    Inherited,
}

/// A run of blocks of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Filled {
    /// The first block of the disk.
    pub(crate) block: u64,
    /// How many.
    pub(crate) count: u64,
    pub(crate) filling: Filling,
}

/// What became of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Out {
    Zero,
    /// The parent's node stays.
    Inherited,
    New(RecordRef),
}

/// A leaf of which some blocks are known.
#[derive(Default)]
struct Pending {
    known: u16,
    seen: Vec<u64>,
    runs: Vec<(u16, u16, Filling)>,
}

/// Takes a node's binary form and gives back where it will be stored.
pub(crate) trait AppendNode: Sync {
    /// Appends a node.
    fn append_node(&self, bytes: &[u8]) -> RecordRef;
}

/// The growing map of one disk.
pub(crate) struct GrowingMap {
    shape: Shape,
    parent: Option<Arc<DiskMap>>,
    state: Mutex<State>,
}

struct State {
    pending: HashMap<u64, Pending>,
    leaves: Vec<Option<Out>>,
}

impl GrowingMap {
    pub(crate) fn new(size: u64, parent: Option<Arc<DiskMap>>) -> Self {
        let shape = Shape::of(size);
        let leaves = vec![None; shape.leaves() as usize];
        Self { shape, parent, state: Mutex::new(State { pending: HashMap::new(), leaves }) }
    }

    pub(crate) const fn shape(&self) -> Shape {
        self.shape
    }

    pub(crate) fn parent(&self) -> Option<&Arc<DiskMap>> {
        self.parent.as_ref()
    }

    /// Notes what runs became, and finishes the leaves that are now known in full.
    pub(crate) async fn fill(&self, runs: &[Filled], append: &dyn AppendNode) -> Result<()> {
        for run in runs {
            let mut block = run.block;
            let end = run.block + run.count;
            while block < end {
                let leaf = block / LEAF_BLOCKS;
                let upto = end.min((leaf + 1) * LEAF_BLOCKS);
                let start = (block % LEAF_BLOCKS) as u16;
                let filling = advanced(run.filling, (block - run.block) as u8);
                if let Some(complete) = self.note(leaf, start, (upto - block) as u16, filling)? {
                    let out = self.finish(leaf, complete, append).await?;
                    self.lock().leaves[leaf as usize] = Some(out);
                }
                block = upto;
            }
        }
        Ok(())
    }

    /// Notes a run of a leaf; gives the leaf back once it is complete.
    fn note(&self, leaf: u64, start: u16, count: u16, filling: Filling) -> Result<Option<Pending>> {
        let blocks = self.shape.leaf_blocks(leaf);
        let mut state = self.lock();
        let twice = || {
            let at = (leaf * LEAF_BLOCKS + u64::from(start)) * BLOCK_SIZE;
            Error::new(ErrorKind::Failed, format!("the run covered the bytes around {at} twice"))
        };
        if state.leaves[leaf as usize].is_some() {
            return Err(twice());
        }
        let pending = state.pending.entry(leaf).or_default();
        pending.seen.resize(LEAF_BLOCKS as usize / 64, 0);
        for block in start..start + count {
            let (word, bit) = (usize::from(block / 64), 1_u64 << (block % 64));
            if pending.seen[word] & bit != 0 {
                return Err(twice());
            }
            pending.seen[word] |= bit;
        }
        pending.known += count;
        pending.runs.push((start, count, filling));
        if pending.known < blocks {
            return Ok(None);
        }
        Ok(state.pending.remove(&leaf))
    }

    async fn finish(&self, index: u64, mut pending: Pending, append: &dyn AppendNode) -> Result<Out> {
        if pending.runs.iter().all(|run| run.2 == Filling::New(Target::Zero)) {
            return Ok(Out::Zero);
        }
        let parent = self.parent.as_deref();
        let same_leaf = parent
            .filter(|p| index < p.shape().leaves() && p.shape().leaf_blocks(index) == self.shape.leaf_blocks(index));
        if same_leaf.is_some() && pending.runs.iter().all(|run| run.2 == Filling::Inherited) {
            return Ok(Out::Inherited);
        }
        pending.runs.sort_unstable_by_key(|run| run.0);
        let mut runs = Vec::new();
        let mut inherited = None;
        for (start, count, filling) in pending.runs {
            match filling {
                Filling::New(target) => runs.push(Run { start, count, target }),
                Filling::Inherited => {
                    if inherited.is_none() {
                        let parent = parent.ok_or_else(|| Error::new(ErrorKind::Failed, "nothing to inherit from"))?;
                        inherited = Some(parent.leaf(index).await?);
                    }
                    runs.extend(inherited.iter().flat_map(|leaf| leaf.within(start, start + count)));
                }
            }
        }
        let leaf = Leaf::from_runs(runs);
        if leaf.is_zero() {
            return Ok(Out::Zero);
        }
        Ok(Out::New(append.append_node(&leaf.encode())))
    }

    /// Ends the map: every block must be known. The inner nodes above changed leaves are appended; the root is returned.
    pub(crate) async fn root(&self, append: &dyn AppendNode) -> Result<Option<Root>> {
        let mut outs = self.all_leaves()?;
        if outs.is_empty() {
            return Ok(None);
        }
        let same_shape = self.parent.as_ref().is_some_and(|p| p.shape().leaves() == self.shape.leaves());
        for level in 1..=self.shape.root_level() {
            let mut above = Vec::with_capacity(outs.len().div_ceil(FANOUT as usize));
            for (index, children) in outs.chunks(FANOUT as usize).enumerate() {
                above.push(self.inner(level, index as u64, children, same_shape, append).await?);
            }
            outs = above;
        }
        let root = self.resolve(self.shape.root_level(), 0, outs[0]).await?;
        Ok(match root {
            Child::Zero => None,
            Child::Node(node) => Some(node.into()),
        })
    }

    fn all_leaves(&self) -> Result<Vec<Out>> {
        let state = self.lock();
        let missing = state.leaves.iter().position(Option::is_none);
        if let Some(leaf) = missing {
            let range = ByteRange::at(leaf as u64 * LEAF_BLOCKS * BLOCK_SIZE, LEAF_BLOCKS * BLOCK_SIZE);
            return Err(Error::new(ErrorKind::Failed, format!("the run did not cover all of {range}")));
        }
        Ok(state.leaves.iter().flatten().copied().collect())
    }

    async fn inner(
        &self,
        level: u32,
        index: u64,
        children: &[Out],
        same_shape: bool,
        append: &dyn AppendNode,
    ) -> Result<Out> {
        if children.iter().all(|out| *out == Out::Zero) {
            return Ok(Out::Zero);
        }
        if same_shape && children.iter().all(|out| *out == Out::Inherited) {
            return Ok(Out::Inherited);
        }
        let mut resolved = Vec::with_capacity(children.len());
        for (n, out) in children.iter().enumerate() {
            resolved.push(self.resolve(level - 1, index * FANOUT + n as u64, *out).await?);
        }
        Ok(Out::New(append.append_node(&Inner { children: resolved }.encode())))
    }

    async fn resolve(&self, level: u32, index: u64, out: Out) -> Result<Child> {
        match (out, &self.parent) {
            (Out::New(node), _) => Ok(Child::Node(node)),
            (Out::Inherited, Some(parent)) => parent.child(level, index).await,
            (Out::Zero | Out::Inherited, _) => Ok(Child::Zero),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The filling of a run's rest, `blocks` further on. Only runs of a chunk depend on it, and those are short.
fn advanced(filling: Filling, blocks: u8) -> Filling {
    match filling {
        Filling::New(Target::Chunk { chunk, first }) => Filling::New(Target::Chunk { chunk, first: first + blocks }),
        other => other,
    }
}
