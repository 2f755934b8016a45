//! Sources of consistent views of the VMs of KubeVirt that run on this node.

mod cluster;

pub use cluster::{
    BackupKind, BackupProgress, BackupWish, ChangedBlockTracking, Cluster, Depth, Freeze, InstanceFacts, JobFacts,
    LatestCheckpoint, LauncherUser, QuiesceFacts, RunningBackup, VmFacts, VolumeFacts, VolumeMode,
};
