//! A VM with one disk that exists only as a rule: what each block holds follows from its number and from how often it
//! was written. As noisy as encrypted data, and free to make.

use std::collections::{BTreeMap, BTreeSet};
use std::iter;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt};
use jiff::Timestamp;
use remora_core::point::{DiskIdentity, Quiesced};
use remora_core::ports::{
    Bitmaps, ClaimedVm, DiskSize, DiskState, DiskView, OpenRequest, OpenVm, Outcome, Patience, Source, VmState,
};
use remora_core::{
    BLOCK_SIZE, ByteRange, CheckpointName, DiskName, Error, ErrorKind, Extent, ExtentState, RepositoryId,
};
use remora_core::{Result, VmName};

/// Noise that blocks are cut from.
const NOISE: u64 = 16 * 1024 * 1024;

static ZEROS: [u8; BLOCK_SIZE as usize] = [0; BLOCK_SIZE as usize];

/// A disk at first: `size` bytes, of which one block in each `data_every` bytes is not zero.
#[derive(Clone, Copy, Debug)]
pub struct Disk {
    /// Its size in bytes.
    pub size: u64,
    /// The distance of its blocks of data, in bytes.
    pub data_every: u64,
}

/// What a guest writes between two points.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    /// So many blocks, one after the other, anywhere.
    Together(u64),
    /// So many blocks, each anywhere on the disk.
    Scattered(u64),
}

/// A VM. Clones share it.
#[derive(Clone)]
pub(crate) struct SimulatedVm(Arc<Mutex<State>>);

struct State {
    name: VmName,
    disk: Disk,
    noise: Bytes,
    random: fastrand::Rng,
    /// How often blocks were written, of those that were.
    written: BTreeMap<u64, u32>,
    checkpoint: Option<CheckpointName>,
    /// The blocks written since.
    changed: BTreeSet<u64>,
}

impl SimulatedVm {
    pub(crate) fn new(name: VmName, disk: Disk, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut noise = vec![0; NOISE as usize];
        random.fill(&mut noise);
        let (noise, written, changed) = (noise.into(), BTreeMap::new(), BTreeSet::new());
        Self(Arc::new(Mutex::new(State { name, disk, noise, random, written, checkpoint: None, changed })))
    }

    /// The guest writes.
    pub(crate) fn write(&self, change: Change) {
        let mut state = self.lock();
        let blocks = state.disk.size / BLOCK_SIZE;
        let State { random, written, changed, .. } = &mut *state;
        let mut put = |block| {
            *written.entry(block).or_default() += 1;
            changed.insert(block);
        };
        match change {
            Change::Together(count) => {
                let first = random.u64(..=blocks - count);
                (first..first + count).for_each(&mut put);
            }
            Change::Scattered(count) => (0..count).for_each(|_| put(random.u64(..blocks))),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What a block holds; none if that is zeros.
    fn block(&self, block: u64) -> Option<Bytes> {
        let writes = self.written.get(&block).copied().unwrap_or_default();
        if writes == 0 && !block.is_multiple_of(self.disk.data_every / BLOCK_SIZE) {
            return None;
        }
        let mixed = (block ^ u64::from(writes) << 48).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        let at = (mixed % (NOISE - BLOCK_SIZE)) as usize;
        Some(self.noise.slice(at..at + BLOCK_SIZE as usize))
    }

    fn state(&self) -> VmState {
        let identity =
            DiskIdentity { vm_uuid: "u".into(), path: "/simulated".into(), inode: Some("1:1".into()), data_file: None };
        let usable = self.checkpoint.iter().cloned().collect();
        let bitmaps = Bitmaps::Able { usable, broken: Vec::new() };
        let disk = DiskState { name: disk_name(), size: DiskSize::Exact(self.disk.size), identity, bitmaps };
        let left_out = Vec::new();
        VmState { vm: self.name.clone(), definition: "<domain/>".into(), disks: vec![disk], left_out }
    }
}

fn disk_name() -> DiskName {
    DiskName::new("vda").expect("it is a name")
}

struct Claimed {
    vm: SimulatedVm,
    state: VmState,
}

struct Opened {
    disks: Vec<Arc<dyn DiskView>>,
    checkpoint: CheckpointName,
    vm: SimulatedVm,
}

struct View {
    name: DiskName,
    vm: SimulatedVm,
    disk: Disk,
    wanted: Wanted,
}

/// Which blocks a view calls data.
enum Wanted {
    /// Those that changed.
    Changed(BTreeSet<u64>),
    /// All that are not zero: those of the disk at first, and those written since.
    All { written: BTreeSet<u64> },
}

impl View {
    /// The blocks that are data, in order.
    fn blocks(&self) -> Box<dyn Iterator<Item = u64> + Send + '_> {
        match &self.wanted {
            Wanted::Changed(changed) => Box::new(changed.iter().copied()),
            Wanted::All { written } => {
                let distance = self.disk.data_every / BLOCK_SIZE;
                Box::new((0..self.disk.size / self.disk.data_every).flat_map(move |n| {
                    let first = n * distance;
                    iter::once(first).chain(written.range(first + 1..first + distance).copied())
                }))
            }
        }
    }
}

#[async_trait]
impl Source for SimulatedVm {
    async fn claim(&self, _: &VmName, _: Patience) -> Result<Box<dyn ClaimedVm>> {
        let state = self.lock().state();
        Ok(Box::new(Claimed { vm: self.clone(), state }))
    }
}

#[async_trait]
impl ClaimedVm for Claimed {
    fn state(&self) -> &VmState {
        &self.state
    }

    async fn open(&self, request: &OpenRequest) -> Result<Box<dyn OpenVm>> {
        let state = self.vm.lock();
        let wanted = request.disks.first().ok_or_else(|| Error::new(ErrorKind::Invalid, "no disk is wanted"))?;
        let wanted = match wanted.since {
            Some(_) => Wanted::Changed(state.changed.clone()),
            None => Wanted::All { written: state.written.keys().copied().collect() },
        };
        let view = View { name: disk_name(), vm: self.vm.clone(), disk: state.disk, wanted };
        let (disks, checkpoint) = (vec![Arc::new(view) as Arc<dyn DiskView>], request.checkpoint.clone());
        Ok(Box::new(Opened { disks, checkpoint, vm: self.vm.clone() }))
    }

    async fn retire(&self, _: RepositoryId, _: &BTreeSet<CheckpointName>) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl OpenVm for Opened {
    fn disks(&self) -> &[Arc<dyn DiskView>] {
        &self.disks
    }

    fn checkpoint(&self) -> CheckpointName {
        self.checkpoint.clone()
    }

    fn no_increment(&self) -> Option<&str> {
        None
    }

    fn time(&self) -> Timestamp {
        Timestamp::now()
    }

    fn quiesced(&self) -> Quiesced {
        Quiesced::Skipped
    }

    fn instance(&self) -> Option<String> {
        None
    }

    async fn confirm(&self) -> Result<()> {
        Ok(())
    }

    async fn close(self: Box<Self>, outcome: Outcome) -> Result<()> {
        if outcome == Outcome::Stored {
            let mut state = self.vm.lock();
            state.checkpoint = Some(self.checkpoint);
            state.changed.clear();
        }
        Ok(())
    }
}

#[async_trait]
impl DiskView for View {
    fn name(&self) -> &DiskName {
        &self.name
    }

    fn size(&self) -> u64 {
        self.disk.size
    }

    fn checkpointed(&self) -> bool {
        true
    }

    fn extents(&self) -> BoxStream<'_, Result<Extent>> {
        let size = self.disk.size;
        let between = match self.wanted {
            Wanted::Changed(_) => ExtentState::Unchanged,
            Wanted::All { .. } => ExtentState::Zero,
        };
        let mut at = 0;
        let pieces = self.blocks().chain([size / BLOCK_SIZE]).flat_map(move |block| {
            let start = block * BLOCK_SIZE;
            let gap = Extent { range: ByteRange::new(at, start), state: between };
            at = (start + BLOCK_SIZE).min(size);
            let data = Extent { range: ByteRange::new(start, at), state: ExtentState::Data };
            [gap, data].into_iter().filter(|extent| !extent.range.is_empty()).map(Ok)
        });
        stream::iter(pieces).boxed()
    }

    async fn read(&self, range: ByteRange) -> Result<Bytes> {
        let state = self.vm.lock();
        let block = |n| state.block(n).unwrap_or_else(|| Bytes::from_static(&ZEROS));
        let blocks = range.start / BLOCK_SIZE..range.end / BLOCK_SIZE;
        if blocks.end - blocks.start == 1 {
            return Ok(block(blocks.start));
        }
        let mut bytes = BytesMut::with_capacity(range.len() as usize);
        blocks.for_each(|n| bytes.extend_from_slice(&block(n)));
        Ok(bytes.freeze())
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;

    use super::*;

    #[tokio::test]
    async fn a_full_map_calls_zero_what_is_zero_and_nothing_else() {
        let disk = Disk { size: 64 << 20, data_every: 4 << 20 };
        let vm = SimulatedVm::new(VmName::new("vm").unwrap(), disk, 7);
        vm.write(Change::Together(20));
        vm.write(Change::Scattered(20));
        let written = vm.lock().written.keys().copied().collect();
        let view = View { name: disk_name(), vm, disk, wanted: Wanted::All { written } };
        let extents: Vec<Extent> = view.extents().try_collect().await.unwrap();
        let mut at = 0;
        for Extent { range, state } in extents {
            assert_eq!(range.start, at);
            for block in range.split(BLOCK_SIZE) {
                let zero = view.read(block).await.unwrap().iter().all(|byte| *byte == 0);
                assert_eq!(zero, state == ExtentState::Zero, "{block}");
            }
            at = range.end;
        }
        assert_eq!(at, disk.size);
    }
}
