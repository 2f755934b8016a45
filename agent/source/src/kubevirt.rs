//! Consistent views of the VMs of KubeVirt that run on this node.
//!
//! [`KubevirtSource`] implements the source ports over a Pull `VirtualMachineBackup`, which [`Cluster`] asks for, and the
//! socket in the launcher pod's folder on which QEMU then serves the disks. KubeVirt freezes the guest, and makes the
//! checkpoint and the scratch file. Start reading at `open.rs`.
//!
//! [`HaltedSource`] does so for a VM that is halted, through a port to whoever has its claims.
//!
//! The launcher pod is hostile: `launcher.rs` is the only way into its folder, and `open.rs` believes no size.

mod attempt;
mod checkpoints;
mod cluster;
mod facts;
mod halted;
mod job;
mod launcher;
mod open;
mod options;
mod rights;
mod scratch;
mod source;
mod view;

pub use attempt::{QUEUED, SCRATCH_NOT_ATTACHABLE};
pub use checkpoints::retire_main;
pub use cluster::{
    BackupKind, BackupProgress, BackupWish, ChangedBlockTracking, Cluster, Depth, Freeze, InstanceFacts, JobFacts,
    LatestCheckpoint, QuiesceFacts, RunningBackup, Unattached, VmFacts, VolumeFacts, VolumeMode,
};
pub use halted::{ClaimReader, HaltedSource};
pub use options::KubevirtOptions;
pub use source::KubevirtSource;
