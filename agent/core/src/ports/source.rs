//! Where the bytes of VMs come from: a VM is claimed, opened at one instant, and its disks are read.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;

use crate::Result;
use crate::extent::Extent;
use crate::name::{CheckpointName, DiskName, RepositoryId, VmName};
use crate::point::{DiskIdentity, Quiesce, Quiesced};
use crate::range::ByteRange;

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
