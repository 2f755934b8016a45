//! A host with one VM, whose disks are vectors and whose bitmaps are sets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use jiff::Timestamp;

use crate::point::{DiskIdentity, Quiesce, Quiesced};
use crate::ports::{
    Bitmaps, ClaimedVm, DiskSize, DiskState, DiskView, OpenRequest, OpenVm, Outcome, Patience, Source, Tracking,
    VmState,
};
use crate::{ByteRange, CheckpointName, DiskName, Error, ErrorKind, Extent, ExtentState, RepositoryId, Result, VmName};

/// Bytes that one bit of a bitmap stands for: finer than a block, so that rounding matters.
pub const GRANULARITY: u64 = 16 * 1024;

/// A host with one VM. Cloning shares it.
#[derive(Clone)]
pub struct FakeHost(Arc<Mutex<Host>>);

struct Host {
    vm: VmName,
    disks: Vec<Disk>,
    /// Grows with each restart of the VM.
    instance: u64,
    claimed: bool,
    open: Option<CheckpointName>,
    /// Whether it names checkpoints itself and knows sizes only of open disks, as KubeVirt does.
    names_checkpoints: bool,
    /// Why no increment is told though it was asked for.
    no_increment: Option<String>,
}

#[derive(Clone)]
struct Disk {
    name: DiskName,
    bytes: Arc<Vec<u8>>,
    identity: DiskIdentity,
    able: bool,
    /// The grains written since each checkpoint.
    bitmaps: BTreeMap<CheckpointName, BTreeSet<u64>>,
    broken: BTreeSet<CheckpointName>,
}

impl FakeHost {
    /// A host with a VM of that name and no disk.
    pub fn new(vm: &str) -> Self {
        let vm = VmName::new(vm).expect("a test gives a valid name");
        Self(Arc::new(Mutex::new(Host {
            vm,
            disks: Vec::new(),
            instance: 1,
            claimed: false,
            open: None,
            names_checkpoints: false,
            no_increment: None,
        })))
    }

    /// From now on it names checkpoints itself, and knows sizes only of open disks, as KubeVirt does.
    pub fn name_checkpoints(&self) {
        self.lock().names_checkpoints = true;
    }

    /// From now on open disks do not tell what changed, for this reason.
    pub fn tell_no_increment(&self, why: Option<&str>) {
        self.lock().no_increment = why.map(Into::into);
    }

    /// Attaches a disk; `able` is whether its image can hold bitmaps.
    pub fn attach(&self, name: &str, bytes: Vec<u8>, able: bool) {
        let name = DiskName::new(name).expect("a test gives a valid name");
        let identity = DiskIdentity {
            vm_uuid: "a uuid".into(),
            path: format!("/fake/{name}"),
            inode: Some("1:1".into()),
            data_file: None,
        };
        let (bitmaps, broken) = (BTreeMap::new(), BTreeSet::new());
        self.lock().disks.push(Disk { name, bytes: Arc::new(bytes), identity, able, bitmaps, broken });
    }

    /// What a disk holds now.
    pub fn bytes(&self, disk: usize) -> Arc<Vec<u8>> {
        Arc::clone(&self.lock().disks[disk].bytes)
    }

    /// Writes as the guest does: bitmaps see it. Cut at the disk's end.
    pub fn write(&self, disk: usize, at: u64, bytes: &[u8]) {
        let mut host = self.lock();
        let disk = &mut host.disks[disk];
        let range = disk.put(at, bytes);
        for grain in range.start / GRANULARITY..range.end.div_ceil(GRANULARITY) {
            disk.bitmaps.values_mut().for_each(|dirty| _ = dirty.insert(grain));
        }
    }

    /// Writes behind the hypervisor's back: bitmaps do not see it.
    pub fn write_behind(&self, disk: usize, at: u64, bytes: &[u8]) {
        self.lock().disks[disk].put(at, bytes);
    }

    /// Gives a disk another size; what is new is zero.
    pub fn resize(&self, disk: usize, size: u64) {
        let mut host = self.lock();
        let disk = &mut host.disks[disk];
        Arc::make_mut(&mut disk.bytes).resize(size as usize, 0);
    }

    /// Puts a raw data file below a disk, whose writes QEMU sees only while it runs.
    pub fn set_data_file(&self, disk: usize, data_file: &str) {
        self.lock().disks[disk].identity.data_file = Some(data_file.into());
    }

    /// Restarts the VM cleanly.
    pub fn restart(&self) {
        self.lock().instance += 1;
    }

    /// Kills the VM: all bitmaps become inconsistent.
    pub fn crash(&self) {
        let mut host = self.lock();
        host.instance += 1;
        for disk in &mut host.disks {
            disk.broken.extend(std::mem::take(&mut disk.bitmaps).into_keys());
        }
    }

    /// Makes bitmaps unusable in a way that only opening shows: they are listed, but opening with them is `Damaged`.
    pub fn spoil(&self) {
        for disk in &mut self.lock().disks {
            disk.broken.extend(disk.bitmaps.keys().cloned());
        }
    }

    /// Whether a view is open.
    pub fn is_open(&self) -> bool {
        self.lock().open.is_some()
    }

    /// Whether the VM is claimed.
    pub fn is_claimed(&self) -> bool {
        self.lock().claimed
    }

    /// The checkpoints that a disk's image holds, usable or not.
    pub fn checkpoints(&self, disk: usize) -> BTreeSet<CheckpointName> {
        let disk = &self.lock().disks[disk];
        disk.bitmaps.keys().chain(&disk.broken).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Host> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk {
    fn put(&mut self, at: u64, bytes: &[u8]) -> ByteRange {
        let all = Arc::make_mut(&mut self.bytes);
        let at = at.min(all.len() as u64);
        let range = ByteRange::new(at, (at + bytes.len() as u64).min(all.len() as u64));
        all[range.start as usize..range.end as usize].copy_from_slice(&bytes[..range.len() as usize]);
        range
    }

    fn forget(&mut self, checkpoint: &CheckpointName) {
        self.bitmaps.remove(checkpoint);
        self.broken.remove(checkpoint);
    }

    fn state(&self, size: fn(u64) -> DiskSize) -> DiskState {
        let bitmaps = if self.able {
            let broken = self.broken.iter().filter(|name| !self.bitmaps.contains_key(name));
            Bitmaps::Able {
                usable: self.bitmaps.keys().cloned().collect(),
                broken: broken.map(|name| (name.clone(), "inconsistent".into())).collect(),
            }
        } else {
            Bitmaps::Unable("a raw image holds no bitmaps".into())
        };
        let (name, identity) = (self.name.clone(), self.identity.clone());
        DiskState { name, size: size(self.bytes.len() as u64), identity, bitmaps }
    }

    /// The state of each grain.
    fn extents(&self, since: Option<&CheckpointName>) -> Vec<Extent> {
        let dirty = since.and_then(|since| self.bitmaps.get(since));
        let grains = self.bytes.chunks(GRANULARITY as usize).enumerate();
        let extent = |(n, bytes): (usize, &[u8])| {
            let state = match dirty {
                Some(dirty) if !dirty.contains(&(n as u64)) => ExtentState::Unchanged,
                _ if bytes.iter().all(|byte| *byte == 0) => ExtentState::Zero,
                _ => ExtentState::Data,
            };
            Extent { range: ByteRange::at(n as u64 * GRANULARITY, bytes.len() as u64), state }
        };
        grains.map(extent).collect()
    }
}

struct Claimed {
    host: FakeHost,
    state: VmState,
}

impl Drop for Claimed {
    fn drop(&mut self) {
        self.host.lock().claimed = false;
    }
}

struct Open {
    host: FakeHost,
    checkpoint: CheckpointName,
    no_increment: Option<String>,
    disks: Vec<Arc<dyn DiskView>>,
    instance: u64,
    quiesced: Quiesced,
    time: Timestamp,
}

struct View {
    name: DiskName,
    bytes: Bytes,
    extents: Vec<Extent>,
    checkpointed: bool,
}

#[async_trait]
impl Source for FakeHost {
    async fn claim(&self, vm: &VmName, _patience: Patience) -> Result<Box<dyn ClaimedVm>> {
        let mut host = self.lock();
        if host.vm != *vm {
            return Err(Error::new(ErrorKind::NotFound, "no such VM"));
        }
        if host.claimed {
            return Err(Error::new(ErrorKind::Busy, "claimed already"));
        }
        host.claimed = true;
        let size = if host.names_checkpoints { |size| DiskSize::About(size + 100) } else { DiskSize::Exact };
        // What a dead run left.
        if let Some(checkpoint) = host.open.take() {
            host.disks.iter_mut().for_each(|disk| disk.forget(&checkpoint));
        }
        let disks = host.disks.iter().map(|disk| disk.state(size)).collect();
        let state = VmState { vm: vm.clone(), definition: "<domain/>".into(), disks, left_out: Vec::new() };
        Ok(Box::new(Claimed { host: self.clone(), state }))
    }
}

#[async_trait]
impl ClaimedVm for Claimed {
    fn state(&self) -> &VmState {
        &self.state
    }

    async fn open(&self, request: &OpenRequest) -> Result<Box<dyn OpenVm>> {
        let mut host = self.host.lock();
        let mut views: Vec<Arc<dyn DiskView>> = Vec::new();
        let checkpoint = if host.names_checkpoints {
            let made = format!("{}-2026-03-01_00-00-00", request.checkpoint.as_backup());
            made.parse().expect("it is in KubeVirt's form")
        } else {
            request.checkpoint.clone()
        };
        let no_increment = host.no_increment.clone();
        for wanted in &request.disks {
            let disk = host.disks.iter().find(|disk| disk.name == wanted.name);
            let disk = disk.ok_or_else(|| Error::new(ErrorKind::NotFound, "no such disk"))?;
            if let Some(since) = &wanted.since
                && (!disk.bitmaps.contains_key(since) || disk.broken.contains(since))
            {
                return Err(Error::new(ErrorKind::Damaged, format!("checkpoint {since} inconsistent")));
            }
            views.push(Arc::new(View {
                name: disk.name.clone(),
                bytes: Bytes::copy_from_slice(&disk.bytes),
                extents: disk.extents(wanted.since.as_ref().filter(|_| no_increment.is_none())),
                checkpointed: disk.able && request.tracking == Tracking::Begins,
            }));
        }
        for disk in host.disks.iter_mut().filter(|disk| disk.able && request.tracking == Tracking::Begins) {
            if request.disks.iter().any(|wanted| wanted.name == disk.name) {
                disk.bitmaps.insert(checkpoint.clone(), BTreeSet::new());
            }
        }
        host.open = Some(checkpoint.clone());
        let quiesced = if request.quiesce == Quiesce::Never { Quiesced::Skipped } else { Quiesced::Frozen };
        Ok(Box::new(Open {
            host: self.host.clone(),
            checkpoint,
            no_increment,
            disks: views,
            instance: host.instance,
            quiesced,
            time: Timestamp::now(),
        }))
    }

    async fn retire(&self, repository: RepositoryId, keep: &BTreeSet<CheckpointName>) -> Result<()> {
        let goes = |name: &CheckpointName| name.repository() == repository && !keep.contains(name);
        for disk in &mut self.host.lock().disks {
            disk.bitmaps.retain(|name, _| !goes(name));
            disk.broken.retain(|name| !goes(name));
        }
        Ok(())
    }
}

#[async_trait]
impl OpenVm for Open {
    fn disks(&self) -> &[Arc<dyn DiskView>] {
        &self.disks
    }

    fn checkpoint(&self) -> CheckpointName {
        self.checkpoint.clone()
    }

    fn no_increment(&self) -> Option<&str> {
        self.no_increment.as_deref()
    }

    fn time(&self) -> Timestamp {
        self.time
    }

    fn quiesced(&self) -> Quiesced {
        self.quiesced
    }

    fn instance(&self) -> Option<String> {
        Some(format!("fake {}", self.instance))
    }

    async fn confirm(&self) -> Result<()> {
        let host = self.host.lock();
        if host.open.as_ref() == Some(&self.checkpoint) && host.instance == self.instance {
            Ok(())
        } else {
            Err(Error::new(ErrorKind::Unavailable, "the job was broken off"))
        }
    }

    async fn close(self: Box<Self>, outcome: Outcome) -> Result<()> {
        let mut host = self.host.lock();
        host.open = None;
        if outcome == Outcome::Abandoned {
            host.disks.iter_mut().for_each(|disk| disk.forget(&self.checkpoint));
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
        self.bytes.len() as u64
    }

    fn checkpointed(&self) -> bool {
        self.checkpointed
    }

    fn extents(&self) -> BoxStream<'_, Result<Extent>> {
        stream::iter(self.extents.iter().copied().map(Ok)).boxed()
    }

    async fn read(&self, range: ByteRange) -> Result<Bytes> {
        if range.end > self.size() || range.len() > crate::PIECE_SIZE {
            return Err(Error::new(ErrorKind::Invalid, format!("{range} cannot be read")));
        }
        Ok(self.bytes.slice(range.start as usize..range.end as usize))
    }
}
