//! A mover that keeps whole disks in memory and checks what its callers promised.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use crate::point::{Decision, Point};
use crate::ports::{
    Damage, DamagedPoint, DiskIndex, DiskReads, History, LineageBreak, Listing, Mended, Mover, NewPoint, Piece,
    PointReader, PointWriter, Progress, Repair, VerifyReport, VmDisks,
};
use crate::{
    BLOCK_SIZE, ByteRange, DiskName, Error, ErrorKind, Extent, ExtentState, PIECE_SIZE, PointId, RepositoryId, Result,
    VmName,
};

/// A repository in memory. Cloning shares it.
#[derive(Clone)]
pub struct FakeMover {
    id: RepositoryId,
    vms: Arc<Mutex<BTreeMap<VmName, Vm>>>,
}

#[derive(Default)]
struct Vm {
    points: Vec<Arc<Stored>>,
    breaks: Vec<LineageBreak>,
}

struct Stored {
    point: Point,
    disks: Vec<Bytes>,
}

impl Default for FakeMover {
    fn default() -> Self {
        Self { id: RepositoryId::random(), vms: Arc::default() }
    }
}

impl FakeMover {
    /// What a point holds of a disk.
    pub fn bytes(&self, point: &PointId, disk: usize) -> Option<Bytes> {
        Some(self.find(point).ok()?.disks.get(disk)?.clone())
    }

    /// Flips the first byte of the newest point of each VM.
    pub fn spoil(&self) {
        for vm in self.lock().values_mut() {
            if let Some(newest) = vm.points.pop() {
                let mut disks = newest.disks.clone();
                let mut bytes = disks[0].to_vec();
                bytes[0] ^= 1;
                disks[0] = bytes.into();
                vm.points.push(Arc::new(Stored { point: newest.point.clone(), disks }));
            }
        }
    }

    fn put(&self, point: &PointId, disk: &DiskName, range: ByteRange, data: &Bytes) -> Repair {
        let mut vms = self.lock();
        let found = vms.values_mut().flat_map(|vm| &mut vm.points).find(|stored| stored.point.id == *point);
        let Some(stored) = found else { return Repair::Not("no such point".into()) };
        let Some((n, _)) = stored.point.disk(disk) else { return Repair::Not("no such disk".into()) };
        let mut disks = stored.disks.clone();
        let mut bytes = disks[n].to_vec();
        bytes[range.start as usize..range.end as usize].copy_from_slice(data);
        disks[n] = bytes.into();
        *stored = Arc::new(Stored { point: stored.point.clone(), disks });
        Repair::Done
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<VmName, Vm>> {
        self.vms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: &PointId) -> Result<Arc<Stored>> {
        let vms = self.lock();
        let found = vms.values().flat_map(|vm| &vm.points).find(|stored| stored.point.id == *id);
        found.cloned().ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no point {id}")))
    }
}

#[async_trait]
impl Mover for FakeMover {
    fn repository(&self) -> RepositoryId {
        self.id
    }

    async fn list(&self, vm: Option<&VmName>) -> Result<Listing> {
        let vms = self.lock();
        let chosen = vms.iter().filter(|(name, _)| vm.is_none_or(|vm| vm == *name));
        let points = chosen.flat_map(|(_, vm)| &vm.points).map(|stored| stored.point.clone());
        Ok(Listing { points: points.collect(), unreadable: Vec::new(), sampled: Vec::new() })
    }

    async fn history(&self, vm: &VmName) -> Result<History> {
        let vms = self.lock();
        let Some(vm) = vms.get(vm) else { return Ok(History::default()) };
        Ok(History {
            newest: vm.points.last().map(|stored| stored.point.clone()),
            breaks: vm.breaks.clone(),
            lost: None,
        })
    }

    async fn record_break(&self, vm: &VmName, broken: LineageBreak) -> Result<()> {
        self.lock().entry(vm.clone()).or_default().breaks.push(broken);
        Ok(())
    }

    async fn begin(&self, point: NewPoint) -> Result<Box<dyn PointWriter>> {
        let parent = point.parent.as_ref().map(|id| self.find(id)).transpose()?;
        let disk = |new: &crate::ports::NewDisk| {
            let parent = parent.as_ref().and_then(|p| Some(p.disks[p.point.disk(&new.name)?.0].clone()));
            let blocks = new.size.div_ceil(BLOCK_SIZE) as usize;
            Mutex::new(Filling { bytes: vec![0; new.size as usize], covered: vec![false; blocks], parent, stored: 0 })
        };
        let disks = point.disks.iter().map(disk).collect();
        Ok(Box::new(Writer { mover: self.clone(), new: point, disks }))
    }

    async fn open(&self, point: &PointId) -> Result<Arc<dyn PointReader>> {
        Ok(Arc::new(Reader(self.find(point)?)))
    }

    async fn diff(&self, from: &PointId, to: &PointId, disk: &DiskName) -> Result<Vec<ByteRange>> {
        let (from, to) = (self.find(from)?, self.find(to)?);
        let bytes = |stored: &Stored| stored.point.disk(disk).map(|(n, _)| stored.disks[n].clone());
        let missing = || Error::new(ErrorKind::NotFound, "no such disk");
        let (from, to) = (bytes(&from).ok_or_else(missing)?, bytes(&to).ok_or_else(missing)?);
        let size = from.len().max(to.len()) as u64;
        let block = |bytes: &Bytes, at: u64| {
            let end = (at + BLOCK_SIZE).min(bytes.len() as u64);
            (at < end).then(|| bytes.slice(at as usize..end as usize))
        };
        let differs = |at: &u64| block(&from, *at) != block(&to, *at);
        let starts = (0..size).step_by(BLOCK_SIZE as usize).filter(differs);
        Ok(merged(starts.map(|at| ByteRange::at(at, BLOCK_SIZE.min(size - at)))))
    }

    async fn verify(&self, point: &PointId, progress: Arc<dyn Progress>) -> Result<VerifyReport> {
        let size = self.find(point)?.point.size();
        progress.expect(size);
        progress.advance(size);
        Ok(VerifyReport { checked: size, damage: Vec::new() })
    }

    /// What the VM's disk holds is taken for what was lost.
    async fn repair(&self, damaged: &[DamagedPoint], disks: VmDisks<'_>) -> Result<Vec<Mended>> {
        let mut mended = Vec::new();
        for DamagedPoint { point, damage } in damaged {
            for Damage { disk, range, effect, .. } in damage {
                let view = match disks {
                    VmDisks::Open(views) => views.iter().find(|view| view.name() == disk).ok_or("no such disk"),
                    VmDisks::NotOpen(why) => Err(why),
                };
                let repair = match view {
                    Ok(view) => view.read(*range).await.map(|data| self.put(point, disk, *range, &data))?,
                    Err(why) => Repair::Not(why.into()),
                };
                let (point, disk) = (point.clone(), disk.clone());
                mended.push(Mended { point, disk, range: *range, effect: *effect, repair });
            }
        }
        Ok(mended)
    }
}

struct Writer {
    mover: FakeMover,
    new: NewPoint,
    disks: Vec<Mutex<Filling>>,
}

struct Filling {
    bytes: Vec<u8>,
    covered: Vec<bool>,
    parent: Option<Bytes>,
    stored: u64,
}

impl Filling {
    /// Marks blocks as covered; twice, or not whole blocks, is an error.
    fn cover(&mut self, range: ByteRange) -> Result<()> {
        let size = self.bytes.len() as u64;
        if range.is_empty() || range.end > size || range.inward(size) != range {
            return Err(Error::new(ErrorKind::Failed, format!("{range} is not whole blocks of {size} bytes")));
        }
        for block in range.start / BLOCK_SIZE..range.end.div_ceil(BLOCK_SIZE) {
            if std::mem::replace(&mut self.covered[block as usize], true) {
                return Err(Error::new(ErrorKind::Failed, format!("block {block} is covered twice")));
            }
        }
        Ok(())
    }

    fn put(&mut self, at: u64, data: &[u8]) {
        self.bytes[at as usize..at as usize + data.len()].copy_from_slice(data);
    }
}

impl Writer {
    fn disk(&self, disk: DiskIndex) -> MutexGuard<'_, Filling> {
        self.disks[disk.0].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl PointWriter for Writer {
    async fn write(&self, disk: DiskIndex, at: u64, data: Bytes) -> Result<()> {
        let range = ByteRange::at(at, data.len() as u64);
        if range.split(PIECE_SIZE).count() != 1 {
            return Err(Error::new(ErrorKind::Failed, format!("{range} is not one piece")));
        }
        let mut filling = self.disk(disk);
        filling.cover(range)?;
        filling.put(at, &data);
        for (n, block) in data.chunks(BLOCK_SIZE as usize).enumerate() {
            let from = at as usize + n * BLOCK_SIZE as usize;
            let same = self.new.disks[disk.0].decision == Decision::Reread
                && filling.parent.as_ref().is_some_and(|p| p.get(from..from + block.len()) == Some(block));
            filling.stored += if same { 0 } else { block.len() as u64 };
        }
        Ok(())
    }

    async fn zero(&self, disk: DiskIndex, range: ByteRange) -> Result<()> {
        self.disk(disk).cover(range)
    }

    async fn unchanged(&self, disk: DiskIndex, range: ByteRange) -> Result<()> {
        let mut filling = self.disk(disk);
        if self.new.disks[disk.0].decision != Decision::Incremental {
            return Err(Error::new(ErrorKind::Failed, "only an increment has unchanged ranges"));
        }
        filling.cover(range)?;
        let parent = filling.parent.clone().ok_or_else(|| Error::new(ErrorKind::Failed, "there is no parent"))?;
        let bytes = parent.get(range.start as usize..range.end as usize);
        let bytes = bytes.ok_or_else(|| Error::new(ErrorKind::Failed, format!("the parent has no {range}")))?;
        filling.put(range.start, bytes);
        Ok(())
    }

    /// The unchanged blocks right after changed ranges, as far as the budget goes: all stretches are fragmented here.
    async fn worth_rewriting(&self, disk: DiskIndex, changed: &[ByteRange], budget: u64) -> Result<Vec<ByteRange>> {
        let size = self.new.disks[disk.0].size;
        let after = changed.iter().enumerate().filter_map(|(n, range)| {
            let end = changed.get(n + 1).map_or(size, |next| next.start);
            let block = ByteRange::new(range.end, (range.end + BLOCK_SIZE).min(end));
            (!block.is_empty()).then_some(block)
        });
        let mut left = budget;
        let affordable = |block: &ByteRange| {
            let fits = block.len() <= left;
            left -= if fits { block.len() } else { 0 };
            fits
        };
        Ok(after.filter(affordable).collect())
    }

    async fn commit(self: Box<Self>, reads: &[DiskReads]) -> Result<Point> {
        let mut disks = Vec::new();
        let mut stored = Vec::new();
        for n in 0..self.disks.len() {
            let mut filling = self.disk(DiskIndex(n));
            if let Some(block) = filling.covered.iter().position(|covered| !covered) {
                return Err(Error::new(ErrorKind::Failed, format!("block {block} of disk {n} is not covered")));
            }
            disks.push(Bytes::from(std::mem::take(&mut filling.bytes)));
            stored.push(filling.stored);
        }
        let mut vms = self.mover.lock();
        let vm = vms.entry(self.new.vm.clone()).or_default();
        if vm.points.last().map(|stored| &stored.point.id) != self.new.parent.as_ref() {
            return Err(Error::new(ErrorKind::Busy, "another point came in between"));
        }
        let sequence = vm.points.len() as u64 + 1;
        let id = PointId::new("0123456789abcdef", sequence).expect("the digits are right");
        let point = self.new.point(id, self.mover.id, reads.iter().copied().zip(stored));
        vm.points.push(Arc::new(Stored { point: point.clone(), disks }));
        vm.breaks.clear();
        Ok(point)
    }

    async fn abandon(self: Box<Self>) {}
}

struct Reader(Arc<Stored>);

#[async_trait]
impl PointReader for Reader {
    fn point(&self) -> &Point {
        &self.0.point
    }

    fn extents(&self, disk: DiskIndex, range: ByteRange) -> BoxStream<'_, Result<Extent>> {
        let bytes = self.0.disks[disk.0].clone();
        let extents = range.split(BLOCK_SIZE).map(move |range| {
            let zero = bytes[range.start as usize..range.end as usize].iter().all(|byte| *byte == 0);
            Ok(Extent { range, state: if zero { ExtentState::Zero } else { ExtentState::Data } })
        });
        stream::iter(extents).boxed()
    }

    async fn read(&self, disk: DiskIndex, range: ByteRange) -> Result<Bytes> {
        Ok(self.0.disks[disk.0].slice(range.start as usize..range.end as usize))
    }

    fn pieces(&self, disk: DiskIndex, range: ByteRange) -> BoxStream<'_, Result<Piece>> {
        let bytes = self.0.disks[disk.0].clone();
        let pieces = range
            .split(BLOCK_SIZE)
            .map(move |range| Piece { at: range.start, data: bytes.slice(range.start as usize..range.end as usize) });
        stream::iter(pieces.filter(|piece| piece.data.iter().any(|byte| *byte != 0)).map(Ok)).boxed()
    }

    async fn differing(&self, disk: DiskIndex, at: u64, data: &Bytes) -> Result<Vec<ByteRange>> {
        let parent = &self.0.disks[disk.0];
        let blocks = ByteRange::at(at, data.len() as u64).split(BLOCK_SIZE);
        let differs = |range: &ByteRange| {
            let new = &data[(range.start - at) as usize..(range.end - at) as usize];
            parent.get(range.start as usize..range.end as usize) != Some(new)
        };
        Ok(merged(blocks.filter(differs)))
    }
}

fn merged(ranges: impl Iterator<Item = ByteRange>) -> Vec<ByteRange> {
    let mut all: Vec<ByteRange> = Vec::new();
    for range in ranges {
        match all.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => all.push(range),
        }
    }
    all
}
