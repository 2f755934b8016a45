//! The ports: where sources, movers and the engine meet. All are used behind `dyn`.
//!
//! A backup run talks to them in this order: [`Source::claim`] → [`Mover::history`] → [`crate::plan::plan`] →
//! [`ClaimedVm::open`] → [`Mover::begin`] → reads and writes → [`OpenVm::confirm`] → [`PointWriter::commit`] →
//! [`OpenVm::close`] → [`ClaimedVm::retire`].

mod made;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::extent::Extent;
use crate::name::{CheckpointName, DiskName, LineageId, PointId, RepositoryId, VmName};
use crate::point::{Decision, DiskIdentity, Origin, Point, Quiesce, Quiesced};
use crate::range::ByteRange;
use crate::{Error, Result};

/// The place of a disk in its VM's list of chosen disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskIndex(pub usize);

// ---------------------------------------------------------------------------------------------------------- sources

/// Knows VMs and opens consistent instants of them.
#[async_trait]
pub trait Source: Send + Sync {
    /// Makes this process the only one that backs `vm` up on this host, ends what a dead run of ours left behind
    /// (its job, its socket, its checkpoint; known by its checkpoint's name), and looks at the VM.
    ///
    /// `NotFound` without such a VM; `Busy` if another run or a foreign job holds it for longer than `patience`.
    async fn claim(&self, vm: &VmName, patience: Patience) -> Result<Box<dyn ClaimedVm>>;
}

/// How long to wait for somebody else's job on the VM to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Fail at once.
    None,
    /// Wait this long.
    Wait(Duration),
}

/// A VM that no other run of ours touches until this is dropped.
#[async_trait]
pub trait ClaimedVm: Send + Sync {
    /// The VM as it was when it was claimed.
    fn state(&self) -> &VmState;

    /// Opens one consistent instant of the chosen disks and, if asked to, creates the checkpoint that the next increment
    /// starts from.
    ///
    /// On error nothing is left behind: no job, no checkpoint, no frozen guest.
    async fn open(&self, request: &OpenRequest) -> Result<Box<dyn OpenVm>>;

    /// Removes the checkpoints of `repository` that are not in `keep`. Called only after a commit is confirmed.
    async fn retire(&self, repository: RepositoryId, keep: &BTreeSet<CheckpointName>) -> Result<()>;
}

/// What a source tells of a VM before anything is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmState {
    /// Its name.
    pub vm: VmName,
    /// Its definition: libvirt's XML, or of a VM of KubeVirt a JSON text.
    pub definition: String,
    /// Its disks, in the definition's order: only those that can be backed up (no CD-ROM, no empty drive).
    pub disks: Vec<DiskState>,
    /// Its disks that cannot be backed up, and why; for people.
    pub left_out: Vec<String>,
}

/// What a source tells of a disk before it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskState {
    /// Its target name.
    pub name: DiskName,
    /// Its size as the guest sees it, as far as that is known.
    pub size: DiskSize,
    /// Which disk it is.
    pub identity: DiskIdentity,
    /// What its image holds of our checkpoints.
    pub bitmaps: Bitmaps,
}

/// What is known of a disk's size before it is opened, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskSize {
    /// Exactly this.
    Exact(u64),
    /// About this; only [`DiskView::size`] tells.
    About(u64),
}

impl DiskSize {
    /// The best guess.
    pub const fn guess(self) -> u64 {
        match self {
            Self::Exact(size) | Self::About(size) => size,
        }
    }
}

/// What a disk's image holds of checkpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bitmaps {
    /// The image cannot hold any; the text says why ("a raw image holds no bitmaps").
    Unable(String),
    /// It can. Of our names, those that are usable and those that are known but broken, with the reason.
    Able {
        /// Present and consistent.
        usable: BTreeSet<CheckpointName>,
        /// Known to the hypervisor but missing or inconsistent in the image.
        broken: Vec<(CheckpointName, String)>,
    },
}

/// What to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRequest {
    /// The chosen disks.
    pub disks: Vec<OpenDisk>,
    /// The name of the checkpoint to create, and of the run: a later one knows by it what this one left. A source that
    /// does not name checkpoints itself makes its own from it; see [`OpenVm::checkpoint`].
    pub checkpoint: CheckpointName,
    /// Whether the checkpoint is created.
    pub tracking: Tracking,
    /// What to ask of the guest.
    pub quiesce: Quiesce,
}

/// Whether the source keeps track of what changes from the opened instant on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// The checkpoint is created on every disk that can hold it.
    Begins,
    /// The disks are only read: no checkpoint is created, and none touched.
    AsBefore,
}

/// A disk to open, and since when its changes are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenDisk {
    /// Its target name.
    pub name: DiskName,
    /// Everything if none.
    pub since: Option<CheckpointName>,
}

/// One consistent instant of a VM. Dropping it without [`OpenVm::close`] only logs; the next claim cleans up.
#[async_trait]
pub trait OpenVm: Send + Sync {
    /// The disks, in the order of the request.
    fn disks(&self) -> &[Arc<dyn DiskView>];

    /// The name of the checkpoint that was created, of the repository of the one that was asked for.
    fn checkpoint(&self) -> CheckpointName;

    /// Why what changed since the checkpoints that were asked for cannot be told after all; none if it can, or if none
    /// was asked for. The disks can be read all the same, and nothing of them is `Unchanged`.
    fn no_increment(&self) -> Option<&str>;

    /// The instant that the disks show.
    fn time(&self) -> Timestamp;

    /// What became of the wish to freeze the guest.
    fn quiesced(&self) -> Quiesced;

    /// The hypervisor process that serves the disks, where known; equal only for the same process. On KubeVirt with the
    /// VMI that it belongs to.
    fn instance(&self) -> Option<String>;

    /// Asks whether what was read is still this instant: the job is ours and was not broken off. Called before commit.
    async fn confirm(&self) -> Result<()>;

    /// Ends the job. After `Stored` the new checkpoint stays, after `Abandoned` it is removed.
    async fn close(self: Box<Self>, outcome: Outcome) -> Result<()>;
}

/// How a run ended, for the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The point is committed, or may be (unknown outcome): keep the new checkpoint.
    Stored,
    /// Nothing was committed.
    Abandoned,
}

/// One disk at one instant.
#[async_trait]
pub trait DiskView: Send + Sync {
    /// Its target name.
    fn name(&self) -> &DiskName;

    /// Its size in bytes at this instant.
    fn size(&self) -> u64;

    /// Whether the new checkpoint covers it, so that the next run can be incremental.
    fn checkpointed(&self) -> bool;

    /// The extents of the whole disk: in order, without gaps, as the source reports them (not rounded to blocks).
    /// `Unchanged` occurs only if the disk was opened with a checkpoint to start from.
    fn extents(&self) -> BoxStream<'_, Result<Extent>>;

    /// Reads a range, at most [`crate::PIECE_SIZE`] long. Many reads may be in flight.
    async fn read(&self, range: ByteRange) -> Result<Bytes>;
}

// ----------------------------------------------------------------------------------------------------------- movers

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
    /// Those among the points of which only a part was read back when they were stored, through a component that somebody else made.
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

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Bytes of sealed objects read and authenticated.
    pub checked: u64,
    /// What is damaged; empty for a sound point.
    pub damage: Vec<Damage>,
}

/// What damage means for the bytes of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// They cannot be read.
    Lost,
    /// They restore as they were: only what is used to compare, or to know an object by itself, is not what was written.
    Readable,
}

/// A stretch of a point that rests on a damaged object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The disk.
    pub disk: DiskName,
    /// Which stretch of it.
    pub range: ByteRange,
    /// Whether it is lost.
    pub effect: Effect,
    /// The object in the store that is missing or damaged.
    pub object: String,
    /// How it was noticed.
    pub why: String,
}

/// A point that a verification found damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedPoint {
    /// The point.
    pub point: PointId,
    /// What is wrong with it.
    pub damage: Vec<Damage>,
}

/// The disks of a VM as they are now.
#[derive(Clone, Copy)]
pub enum VmDisks<'a> {
    /// Those that it has and that are wanted.
    Open(&'a [Arc<dyn DiskView>]),
    /// They cannot be read; the text says why.
    NotOpen(&'a str),
}

/// A stretch of a point that was damaged, and what a repair made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mended {
    /// The point.
    pub point: PointId,
    /// The disk.
    pub disk: DiskName,
    /// Which stretch of it.
    pub range: ByteRange,
    /// What it was.
    pub effect: Effect,
    /// What it is now.
    pub repair: Repair,
}

/// What a repair made of a stretch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repair {
    /// It is sound.
    Done,
    /// It is as it was, and why.
    Not(String),
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
