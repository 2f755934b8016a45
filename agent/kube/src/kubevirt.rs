//! KubeVirt's objects: only the fields that remora reads or writes. All of them are somebody else's, some a tenant's, so
//! whatever may be left out is optional here, and what is not known is ignored.

mod backup;
mod conditions;
mod installation;
mod machine;
mod names;
mod quantity;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

pub use backup::{
    LatestCheckpoint, Source, VirtualMachineBackup, VirtualMachineBackupSpec, VirtualMachineBackupStatus,
    VirtualMachineBackupTracker, VirtualMachineBackupTrackerSpec, VirtualMachineBackupTrackerStatus,
};
pub(crate) use backup::{PROTECTION, TRACKER};
pub use conditions::{BackupCondition, Stage};
pub use installation::{Configuration, KubeVirt, KubeVirtSpec, TrackingSelectors};
pub use machine::{
    Backing, BackupJob, ChangedBlockTracking, ClaimVolume, DataVolume, Devices, Disk, Domain, HostDisk,
    HotplugVolumeStatus, MigrationState, UtilityVolume, VirtualMachine, VirtualMachineInstance,
    VirtualMachineInstanceSpec, VirtualMachineInstanceStatus, VirtualMachineSpec, VirtualMachineStatus,
    VirtualMachineTemplate, Volume, VolumeName, VolumeStatus, tracking,
};
pub(crate) use names::hashed;
pub use names::{scratch_name, token_name, tracker_name};
pub use quantity::bytes;

/// The label of whatever the controller makes for a run: the run's UID.
pub const RUN_LABEL: &str = "remora.dev/run";

/// Whether an object is of a run: its label says so, and the API server knows the run as its owner. A label alone may be
/// anybody's.
pub fn is_of_run(metadata: &kube::api::ObjectMeta, run: &str) -> bool {
    let labelled = metadata.labels.as_ref().and_then(|labels| labels.get(RUN_LABEL)).is_some_and(|uid| uid == run);
    let owned = |owner: &OwnerReference| matches!(owner.kind.as_str(), "BackupRun" | "RestoreRun") && owner.uid == run;
    labelled && metadata.owner_references.iter().flatten().any(owned)
}

#[cfg(test)]
mod tests;
