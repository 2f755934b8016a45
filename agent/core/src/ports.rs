//! The ports: where sources, movers and the engine meet. All are used behind `dyn`.
//!
//! A backup run talks to them in this order: [`Source::claim`] → [`Mover::history`] → [`crate::plan::plan`] →
//! [`ClaimedVm::open`] → [`Mover::begin`] → reads and writes → [`PointWriter::settle`] → [`OpenVm::confirm`] →
//! [`PointWriter::commit`] → [`OpenVm::close`] → [`ClaimedVm::retire`].
//!
//! The port of sources is in `source.rs`, that of movers here.

mod damage;
mod made;
mod source;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::extent::Extent;
use crate::name::{CheckpointName, DiskName, LineageId, PointId, RepositoryId, VmName};
use crate::point::{Decision, DiskIdentity, Origin, Point, Quiesced};
use crate::range::ByteRange;
use crate::{Error, Result};

pub use self::damage::{Damage, DamagedPoint, Effect, Mended, Repair, VerifyReport, VmDisks};
pub use self::source::{
    Bitmaps, ClaimedVm, DiskSize, DiskState, DiskView, OpenDisk, OpenRequest, OpenVm, Outcome, Patience, Source,
    Tracking, VmState,
};

/// The place of a disk in its VM's list of chosen disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskIndex(pub usize);

/// Stores and finds points.
#[async_trait]
pub trait Mover: Send + Sync {
    /// The repository's id.
    fn repository(&self) -> RepositoryId;

    /// All points, or those of one VM. One that cannot be read does not hide the others.
    async fn list(&self, vm: Option<&VmName>) -> Result<Listing>;

    /// What a new point of `vm` would follow.
    async fn history(&self, vm: &VmName) -> Result<History>;

    /// Notes that disks were written behind the hypervisor's back, so that the next point of the VM rereads them.
    async fn record_break(&self, vm: &VmName, broken: LineageBreak) -> Result<()>;

    /// Starts a point. Nothing is visible before its commit.
    async fn begin(&self, point: NewPoint) -> Result<Box<dyn PointWriter>>;

    /// Opens a point for reading.
    async fn open(&self, point: &PointId) -> Result<Arc<dyn PointReader>>;

    /// The block-aligned ranges of a disk whose bytes differ between two points of one VM, in order and merged. Bytes
    /// beyond the end of the shorter disk differ.
    async fn diff(&self, from: &PointId, to: &PointId, disk: &DiskName) -> Result<Vec<ByteRange>>;

    /// Reads and authenticates everything that the point needs. Damage is in the report, not an error.
    async fn verify(&self, point: &PointId, progress: Arc<dyn Progress>) -> Result<VerifyReport>;

    /// Stores again what is damaged of points of a VM, as far as its disks are proven to still hold what was lost. Says of
    /// every stretch in `damaged` what became of it, in order.
    async fn repair(&self, damaged: &[DamagedPoint], disks: VmDisks<'_>) -> Result<Vec<Mended>>;
}

/// The points of a repository.
#[derive(Debug, Default)]
pub struct Listing {
    /// By VM, oldest first.
    pub points: Vec<Point>,
    /// Points that are there but cannot be read, and why.
    pub unreadable: Vec<(PointId, Error)>,
    /// Those among the points of which only a part was read back when they were stored, through a component that somebody
    /// else made.
    pub sampled: Vec<PointId>,
}

/// What the repository holds that a new point of a VM would follow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// The newest point: the highest in the sequence, never the latest by time.
    pub newest: Option<Point>,
    /// The breaks of lineage that were recorded after it.
    pub breaks: Vec<LineageBreak>,
    /// When some of its data was found lost, if that was noted after it. The next point rereads, and stores that again.
    pub lost: Option<Timestamp>,
}

/// Disks were written behind the hypervisor's back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineageBreak {
    /// When.
    pub time: Timestamp,
    /// The file or device that was written.
    pub path: String,
    /// By what, as a sentence for people.
    pub reason: String,
}

/// What is known of a point when its writing starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPoint {
    /// The VM.
    pub vm: VmName,
    /// The instant that it shows.
    pub time: Timestamp,
    /// The newest point when the run was planned; the commit fails with `Busy` if another point came in between.
    pub parent: Option<PointId>,
    /// Whether the guest was frozen.
    pub quiesced: Quiesced,
    /// The VM's definition.
    pub definition: String,
    /// The version of remora.
    pub tool: String,
    /// Of a copy: which point it is a copy of.
    pub origin: Option<Origin>,
    /// The disks.
    pub disks: Vec<NewDisk>,
}

/// What is known of a disk when the writing of its point starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDisk {
    /// Its target name.
    pub name: DiskName,
    /// Its size in bytes.
    pub size: u64,
    /// Which disk it is.
    pub identity: DiskIdentity,
    /// A new one for a full, the parent's otherwise.
    pub lineage: LineageId,
    /// The checkpoint that the next increment starts from.
    pub checkpoint: Option<CheckpointName>,
    /// The hypervisor process that serves it, where known.
    pub instance: Option<String>,
    /// When all of it was last read.
    pub read_in_full: Timestamp,
    /// How it is read: tells the mover what to do with the bytes. `Full` stores all; `Reread` compares each block
    /// with the parent's and stores what differs; `Incremental` stores what is written and keeps the rest.
    pub decision: Decision,
    /// Why.
    pub reason: String,
}

/// What a run read of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskReads {
    /// Bytes read from the source.
    pub read: u64,
    /// Those among them that were unchanged, read only to store a fragmented stretch whole.
    pub rewritten: u64,
}

/// Takes the bytes of a new point. Every byte of every disk must be covered exactly once, by `write`, `zero` or
/// `unchanged`, in any order and from many tasks at once; the commit fails otherwise.
#[async_trait]
pub trait PointWriter: Send + Sync {
    /// Stores data: block-aligned (but for a disk's short last block), not across a multiple of [`crate::PIECE_SIZE`].
    /// Waits while too much is in flight. Zero blocks within it are found and not stored.
    async fn write(&self, disk: DiskIndex, at: u64, data: Bytes) -> Result<()>;

    /// Notes a block-aligned range of zeros.
    async fn zero(&self, disk: DiskIndex, range: ByteRange) -> Result<()>;

    /// Notes a block-aligned range that is as in the parent. Only for `Incremental` disks.
    async fn unchanged(&self, disk: DiskIndex, range: ByteRange) -> Result<()>;

    /// Of the ranges that did not change near those that did, the ones worth storing again because the parent keeps
    /// the stretch in too many pieces; block-aligned, in order, together at most `budget` bytes. Only for
    /// `Incremental` disks. `changed` is in order and block-aligned.
    async fn worth_rewriting(&self, disk: DiskIndex, changed: &[ByteRange], budget: u64) -> Result<Vec<ByteRange>>;

    /// Stores what was handed over and is still on its way, once all of it was: so that little is left for the commit, which
    /// is not interrupted. If it fails or is dropped, there will be no commit.
    async fn settle(&self) -> Result<()> {
        Ok(())
    }

    /// Makes the point visible: everything is stored and synced before. `reads` has one entry a disk.
    async fn commit(self: Box<Self>, reads: &[DiskReads]) -> Result<Point>;

    /// Gives up: there will be no commit. One that is dropped instead leaves the mover to find out.
    async fn abandon(self: Box<Self>);
}

/// Reads a point.
#[async_trait]
pub trait PointReader: Send + Sync {
    /// What it is.
    fn point(&self) -> &Point;

    /// The extents of a range: in order, without gaps, `Data` or `Zero`.
    fn extents(&self, disk: DiskIndex, range: ByteRange) -> BoxStream<'_, Result<Extent>>;

    /// Reads any range, verified. For random access: decoded chunks are cached within the budget.
    async fn read(&self, disk: DiskIndex, range: ByteRange) -> Result<Bytes>;

    /// The data of a range, verified, in order, zeros left out, with many fetches in flight. For reading it all.
    fn pieces(&self, disk: DiskIndex, range: ByteRange) -> BoxStream<'_, Result<Piece>>;

    /// The blocks of `data`, which starts at the block-aligned `at`, that differ from the point's, by their digests;
    /// merged. Fetches no data.
    async fn differing(&self, disk: DiskIndex, at: u64, data: &Bytes) -> Result<Vec<ByteRange>>;
}

/// Some data of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The offset on the disk.
    pub at: u64,
    /// The bytes.
    pub data: Bytes,
}

/// Told how far a run is. Implementations are cheap and never block.
pub trait Progress: Send + Sync {
    /// So many more bytes are expected.
    fn expect(&self, bytes: u64);

    /// So many bytes are done.
    fn advance(&self, bytes: u64);
}

/// A [`Progress`] that tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn expect(&self, _bytes: u64) {}
    fn advance(&self, _bytes: u64) {}
}
