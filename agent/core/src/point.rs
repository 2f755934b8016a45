//! What a recovery point says of itself, whichever mover stored it.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::name::{CheckpointName, DiskName, LineageId, PointId, RepositoryId, VmName};

/// How a disk, and by its costliest disk a point, was read. Ordered by cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// Only what the hypervisor says has changed was read.
    Incremental,
    /// All was read and compared with the parent; what differs was stored.
    Reread,
    /// All was read and stored.
    Full,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Incremental => "incremental",
            Self::Reread => "reread",
            Self::Full => "full",
        })
    }
}

/// Which disk this really is. Two points may be joined by an increment only if all fields are equal: a bitmap tells
/// nothing of a disk whose file was swapped under its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskIdentity {
    /// The VM's UUID, or of a VM of KubeVirt the UID of its `VirtualMachine`.
    pub vm_uuid: String,
    /// Where the top image lies: a path, a block device, or `<namespace>/<name>` of a PVC.
    pub path: String,
    /// Which image lies there: its device and inode number as `dev:inode`, or a PVC's UID; none if the source cannot see
    /// it.
    pub inode: Option<String>,
    /// The raw data file below an overlay, as `path dev:inode`, or as `<volume mode> <PVC's UID>`, where there is one.
    pub data_file: Option<String>,
}

/// Whether the guest's filesystems were frozen when the point was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quiesced {
    /// Frozen by the guest agent.
    Frozen,
    /// The run did not ask.
    Skipped,
    /// Asked, but the guest did not do it; the point is crash-consistent.
    Failed,
}

/// What a run asks of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quiesce {
    /// Fail the run if the guest cannot be frozen.
    Required,
    /// Freeze if the guest can, else go on and say so.
    #[default]
    Preferred,
    /// Do not ask.
    Never,
}

/// One disk of a point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointDisk {
    /// Its target name.
    pub name: DiskName,
    /// Its size in bytes.
    pub size: u64,
    /// Which disk it was.
    pub identity: DiskIdentity,
    /// The points that it was made from, and that are made from it, share this.
    pub lineage: LineageId,
    /// The checkpoint that the next increment of this disk starts from; none if the disk cannot hold one.
    pub checkpoint: Option<CheckpointName>,
    /// The QEMU process that served it, where known: a raw data file may have been written while that was not running.
    pub instance: Option<String>,
    /// When all of it was last read, by a full or a reread.
    pub read_in_full: Timestamp,
    /// How it was read.
    pub decision: Decision,
    /// Why it was read so, as a sentence for people.
    pub reason: String,
    /// Bytes read from the source.
    pub read: u64,
    /// Bytes of sealed chunks stored for it.
    pub stored: u64,
    /// Bytes of `read` that were unchanged and stored again only to keep later reads fast.
    pub rewritten: u64,
}

/// Where a point was made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The repository that it was first stored in.
    pub repository: RepositoryId,
    /// Its id there.
    pub point: PointId,
}

/// A recovery point: all chosen disks of one VM at one instant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// Its id.
    pub id: PointId,
    /// The repository that it was first stored in.
    pub repository: RepositoryId,
    /// In a copy: the point's id in that repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_of: Option<PointId>,
    /// The VM.
    pub vm: VmName,
    /// The instant that it shows.
    pub time: Timestamp,
    /// The point that it was made from, if any.
    pub parent: Option<PointId>,
    /// The costliest decision of its disks.
    pub decision: Decision,
    /// The reason of that disk.
    pub reason: String,
    /// Whether the guest was frozen.
    pub quiesced: Quiesced,
    /// Its disks.
    pub disks: Vec<PointDisk>,
    /// All bytes that it added to the repository.
    pub stored: u64,
    /// The VM's definition (libvirt's XML, or of a VM of KubeVirt a JSON text) when the point was made.
    pub definition: String,
    /// The version of remora that made it.
    pub tool: String,
}

impl Point {
    /// Which point this is, whatever repository holds it: copies have the same origin.
    pub fn origin(&self) -> Origin {
        Origin { repository: self.repository, point: self.copy_of.clone().unwrap_or_else(|| self.id.clone()) }
    }

    /// The sum of its disks' sizes.
    pub fn size(&self) -> u64 {
        self.disks.iter().map(|d| d.size).sum()
    }

    /// The disk of that name and its index.
    pub fn disk(&self, name: &DiskName) -> Option<(usize, &PointDisk)> {
        self.disks.iter().enumerate().find(|(_, d)| d.name == *name)
    }
}
