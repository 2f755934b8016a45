//! What keeps the points: runs of backups into it, as the port of production makes them, and the mover's calls one by one.

use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use jiff::Timestamp;
use remora_core::point::{Decision, DiskIdentity, Quiesced};
use remora_core::ports::{DiskIndex, DiskReads, Mover as _, NewDisk, NewPoint, PointWriter};
use remora_core::{BLOCK_SIZE, ByteRange, DiskName, LineageId, PIECE_SIZE, PointId, Result, VmName};

use super::super::super::broker::{Payload, Sink};
use super::super::super::conversation::{Component, Failed, Luggage};
use super::super::super::document::{Grant, ReadBack};
use super::super::super::retry::Patience;
use super::super::super::volume::VolumeMover;
use super::super::super::wire::{self, Call, Done, VolumeCall, VolumeDone, VolumePoint};
use super::super::DEADLINE;
use super::super::subject::{Subject, ensure, ready, strange};

/// Pages of a listing: more than a test of it has, however small they are.
const PAGES: usize = 5_000;

/// The names of disks.
const NAMES: [&str; 2] = ["vda", "vdb"];

/// The bytes of each disk of a machine; there are one or two.
pub(super) type Disks = Vec<Vec<u8>>;

/// A process with a mover of points, and the port in front of it.
pub(in super::super) struct Array {
    pub(super) port: VolumeMover,
    /// What the names of machines and of points that are none of remora's begin with.
    pub(super) prefix: String,
}

/// What becomes of a stretch of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Data,
    Zero,
    Unchanged,
}

impl Array {
    /// Its calls have so long each, and are made again three times: so an answer that is lost, or a process, costs nothing.
    pub(in super::super) fn start(subject: &Subject, deadline: Duration) -> Result<Self> {
        Self::with(subject, deadline, Patience { retries: 3, give_up: DEADLINE })
    }

    pub(super) fn with(subject: &Subject, deadline: Duration, patience: Patience) -> Result<Self> {
        let prefix = subject.prefix.clone();
        // Whatever else the store has is none of the trials' business.
        let grant = Grant { machines: vec![format!("{prefix}-*")], read_back: ReadBack::Full };
        let port = VolumeMover::new("under trial".into(), subject.component(deadline)?, patience, grant);
        Ok(Self { port, prefix })
    }

    pub(in super::super) fn component(&self) -> &Component {
        self.port.component()
    }

    /// The name of a machine that no other run of the kit has.
    pub(in super::super) fn vm(&self, name: &str) -> VmName {
        VmName::new(format!("{}-{name}", self.prefix)).expect("it is not empty, and has no NUL byte")
    }

    // ------------------------------------------------------------------------------------------------------------ runs

    /// Begins a point of a machine, which follows another one.
    pub(super) async fn begin_run(
        &self,
        vm: &VmName,
        after: Option<&PointId>,
        decision: Decision,
        disks: &Disks,
    ) -> Result<Box<dyn PointWriter>> {
        let disk = |(bytes, name): (&Vec<u8>, &str)| NewDisk {
            name: DiskName::new(name).expect("it has letters only"),
            size: bytes.len() as u64,
            identity: DiskIdentity { vm_uuid: "0".into(), path: name.into(), inode: None, data_file: None },
            lineage: LineageId::from_bytes([1; 16]),
            checkpoint: None,
            instance: None,
            read_in_full: Timestamp::UNIX_EPOCH,
            decision,
            reason: "a trial of the mover".into(),
        };
        let point = NewPoint {
            vm: vm.clone(),
            time: Timestamp::now(),
            parent: after.cloned(),
            quiesced: Quiesced::Skipped,
            definition: "<domain/>".into(),
            tool: "remora plugin".into(),
            origin: None,
            disks: disks.iter().zip(NAMES).map(disk).collect(),
        };
        self.port.begin(point).await
    }

    /// Makes a point of a machine that has these disks, after another one. If that had others, what did not change is taken from
    /// it.
    pub(in super::super) async fn run(
        &self,
        vm: &VmName,
        after: Option<&PointId>,
        before: Option<&Disks>,
        now: &Disks,
    ) -> Result<PointId> {
        let decision = if before.is_some() { Decision::Incremental } else { Decision::Full };
        let writer = self.begin_run(vm, after, decision, now).await?;
        if let Err(error) = fill(&*writer, before, now).await {
            writer.abandon().await;
            return Err(error);
        }
        commit(writer, now).await
    }

    /// The points of a machine, oldest first: all of them can be read, as far as the store says.
    pub(in super::super) async fn listed(&self, vm: &VmName) -> Result<Vec<PointId>, String> {
        let listing = self.port.list(Some(vm)).await.map_err(|error| format!("listing points: {}", error.chain()))?;
        match listing.unreadable.first() {
            Some((point, error)) => Err(format!("point {point} is listed, and cannot be read: {}", error.chain())),
            None => Ok(listing.points.into_iter().map(|point| point.id).collect()),
        }
    }

    /// Whether a point has these bytes, as a restore reads them.
    pub(in super::super) async fn is(&self, point: &PointId, disks: &Disks) -> Result<(), String> {
        let told = |error: remora_core::Error| format!("reading point {point}: {}", error.chain());
        let reader = self.port.open(point).await.map_err(told)?;
        for (n, wanted) in disks.iter().enumerate() {
            let (disk, mut found) = (DiskIndex(n), vec![0; wanted.len()]);
            let mut pieces = reader.pieces(disk, ByteRange::new(0, wanted.len() as u64));
            while let Some(piece) = pieces.try_next().await.map_err(told)? {
                let at = piece.at as usize;
                found[at..at + piece.data.len()].copy_from_slice(&piece.data);
            }
            ensure(found == *wanted, format!("point {point}, disk {n}: other bytes are read than were stored"))?;
            let len = wanted.len() as u64;
            for range in [ByteRange::new(0, 1), ByteRange::new(len - 1, len), ByteRange::new(len / 3, len / 3 + 1_000)]
            {
                let part = reader.read(disk, range).await.map_err(told)?;
                ensure(part == *of(wanted, range), format!("point {point}, disk {n}, {range}: other bytes are read"))?;
            }
        }
        Ok(())
    }

    // ----------------------------------------------------------------------------------------------------------- calls

    /// Calls the mover once; what it gives, and the bytes that it read.
    pub(super) async fn ask(&self, call: VolumeCall, data: &Bytes, sink: u64) -> Result<(Done, Vec<u8>), Failed> {
        let luggage = Luggage { data: Payload::new(vec![data.clone()]), sink: Sink::new(sink) };
        let done = self.component().call(Call::Volume(call), luggage.clone()).await?;
        Ok((done, luggage.sink.take()))
    }

    async fn plain(&self, call: VolumeCall) -> Result<Done, Failed> {
        Ok(self.ask(call, &Bytes::new(), 0).await?.0)
    }

    /// Begins a point that is none of remora's, with a disk if that has a size; and gives what goes on with it.
    pub(super) async fn begin(
        &self,
        (vm, id): (&VmName, &str),
        time: i64,
        size: u64,
        parent: Option<&str>,
    ) -> Result<String, Failed> {
        let disk = (size > 0).then(|| wire::VolumeDisk { name: NAMES[0].into(), size });
        let point = wire::NewPoint {
            id: id.into(),
            vm_name: vm.as_str().into(),
            vm_namespace: String::new(),
            vm_uid: String::new(),
            time,
            disks: disk.into_iter().collect(),
            parent: parent.map(Into::into),
            description: id.as_bytes().to_vec(),
        };
        match self.plain(VolumeCall::Begin(point)).await? {
            Done::Begun(token) => Ok(token),
            other => strange(&other),
        }
    }

    pub(super) async fn commit(&self, id: &str, token: &str) -> Result<(), Failed> {
        self.plain(VolumeCall::Commit { id: id.into(), token: token.into() }).await.map(drop)
    }

    pub(super) async fn abort(&self, id: &str, token: &str) -> Result<(), Failed> {
        self.plain(VolumeCall::Abort { id: id.into(), token: token.into() }).await.map(drop)
    }

    pub(super) async fn delete(&self, point: &str) -> Result<(), Failed> {
        self.plain(VolumeCall::Delete { point: point.into() }).await.map(drop)
    }

    /// What the store has of a machine of the trials, or of all of them: points as the mover knows them, notes too.
    pub(super) async fn kept(&self, vm: Option<&VmName>) -> Result<Vec<VolumePoint>, Failed> {
        let (mut points, mut token) = (Vec::new(), None);
        for _ in 0..PAGES {
            let call = VolumeCall::List { vm: vm.map(|vm| vm.as_str().into()), token: token.take() };
            match self.plain(call).await? {
                Done::Volume(VolumeDone::Points(page)) => {
                    points.extend(page.points.into_iter().filter(|point| point.vm_name.starts_with(&self.prefix)));
                    token = page.next;
                }
                other => return strange(&other),
            }
            if token.is_none() {
                return Ok(points);
            }
        }
        Err(Failed::Fault("its listing never ends".into()))
    }

    /// Removes what the store has of a machine of the trials, or of all of them, as far as the mover can.
    pub(in super::super) async fn remove(&self, vm: Option<&VmName>) {
        ready(self.component());
        for point in self.kept(vm).await.unwrap_or_default() {
            self.delete(&point.id).await.ok();
        }
    }
}

/// The bytes of a range.
fn of(disk: &[u8], range: ByteRange) -> &[u8] {
    &disk[range.start as usize..range.end as usize]
}

/// What becomes of each stretch of a disk, which may have had other bytes before.
fn laid(before: Option<&[u8]>, now: &[u8]) -> Vec<(ByteRange, Kind)> {
    let mut all: Vec<(ByteRange, Kind)> = Vec::new();
    for block in ByteRange::new(0, now.len() as u64).split(BLOCK_SIZE) {
        let bytes = of(now, block);
        let kind = if before.is_some_and(|before| of(before, block) == bytes) {
            Kind::Unchanged
        } else if bytes.iter().all(|byte| *byte == 0) {
            Kind::Zero
        } else {
            Kind::Data
        };
        match all.last_mut() {
            Some((last, same)) if *same == kind => last.end = block.end,
            _ => all.push((block, kind)),
        }
    }
    all
}

/// Writes all of a point, but what is as it was before.
pub(super) async fn fill(writer: &dyn PointWriter, before: Option<&Disks>, now: &Disks) -> Result<()> {
    for (n, bytes) in now.iter().enumerate() {
        let disk = DiskIndex(n);
        for (range, kind) in laid(before.map(|before| before[n].as_slice()), bytes) {
            match kind {
                Kind::Unchanged => writer.unchanged(disk, range).await?,
                Kind::Zero => writer.zero(disk, range).await?,
                Kind::Data => {
                    for piece in range.split(PIECE_SIZE) {
                        writer.write(disk, piece.start, Bytes::copy_from_slice(of(bytes, piece))).await?;
                    }
                }
            }
        }
    }
    Ok(())
}

pub(super) async fn commit(writer: Box<dyn PointWriter>, disks: &Disks) -> Result<PointId> {
    let reads = vec![DiskReads::default(); disks.len()];
    Ok(writer.commit(&reads).await?.id)
}
