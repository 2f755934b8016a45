//! Backups, and the trackers of machines that increments are made by.

use kube::CustomResource;
use serde::{Deserialize, Serialize};

use super::{BackupCondition, VolumeName};

/// One backup of KubeVirt's.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "backup.kubevirt.io",
    version = "v1alpha1",
    kind = "VirtualMachineBackup",
    namespaced,
    schema = "disabled",
    status = "VirtualMachineBackupStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineBackupSpec {
    /// The machine, or the tracker of one.
    #[serde(default)]
    pub source: Source,
    /// `Pull` or `Push`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Of a Pull: the scratch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pvc_name: Option<String>,
    /// Of a Pull: the Secret with the exporter's token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_secret_ref: Option<String>,
    /// Of a Pull: how long it may be there, in Go's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_duration: Option<String>,
    /// Whether everything is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force_full_backup: Option<bool>,
    /// Whether the guest is not frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip_quiesce: Option<bool>,
}

impl VirtualMachineBackupSpec {
    /// Whether it is a Pull of what changed since that tracker's newest checkpoint. Of another tracker it would begin at
    /// another one, and nothing that its job says tells them apart.
    pub fn is_pull_of(&self, tracker: &str) -> bool {
        self.mode.as_deref() == Some("Pull") && self.source == Source::tracker(tracker)
    }
}

/// The kind of a source that is a tracker.
pub(crate) const TRACKER: &str = "VirtualMachineBackupTracker";

/// KubeVirt's finalizer of a backup.
pub(crate) const PROTECTION: &str = "backup.kubevirt.io/vmbackup-protection";

/// What is backed up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// The group of the kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_group: Option<String>,
    /// `VirtualMachine` or `VirtualMachineBackupTracker`.
    #[serde(default)]
    pub kind: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
}

impl Source {
    /// A machine.
    pub fn machine(name: &str) -> Self {
        Self { api_group: Some("kubevirt.io".into()), kind: "VirtualMachine".into(), name: name.into() }
    }

    /// A tracker.
    pub fn tracker(name: &str) -> Self {
        Self { api_group: Some("backup.kubevirt.io".into()), kind: TRACKER.into(), name: name.into() }
    }
}

/// What is known of a backup.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineBackupStatus {
    /// `Full` or `Incremental`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// As KubeVirt 1.8 or 1.9 have them.
    #[serde(default)]
    pub conditions: Vec<BackupCondition>,
    /// The checkpoint that it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_name: Option<String>,
    /// Its volumes.
    #[serde(default)]
    pub included_volumes: Vec<VolumeName>,
}

/// What KubeVirt knows of a machine's newest checkpoint.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "backup.kubevirt.io",
    version = "v1alpha1",
    kind = "VirtualMachineBackupTracker",
    namespaced,
    schema = "disabled",
    status = "VirtualMachineBackupTrackerStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineBackupTrackerSpec {
    /// The machine.
    #[serde(default)]
    pub source: Source,
}

/// What is known of a tracker.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineBackupTrackerStatus {
    /// The newest checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_checkpoint: Option<LatestCheckpoint>,
    /// Whether libvirt has to be told of it again: the machine was restarted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_redefinition_required: Option<bool>,
}

/// A checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LatestCheckpoint {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// The volumes that it covers.
    #[serde(default)]
    pub volumes: Vec<VolumeName>,
}
