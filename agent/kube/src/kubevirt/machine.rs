//! Machines, and the instances of those that run.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::CustomResource;
use serde::{Deserialize, Serialize};

/// A virtual machine, running or not.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "kubevirt.io",
    version = "v1",
    kind = "VirtualMachine",
    namespaced,
    schema = "disabled",
    status = "VirtualMachineStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineSpec {
    /// What its instances are made from.
    #[serde(default)]
    pub template: Option<VirtualMachineTemplate>,
}

/// What instances are made from.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineTemplate {
    /// Their spec.
    #[serde(default)]
    pub spec: VirtualMachineInstanceSpec,
}

/// What is known of a virtual machine.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineStatus {
    /// What KubeVirt tells people, such as `Running` and `Stopped`.
    #[serde(default)]
    pub printable_status: Option<String>,
    /// Whether changes are tracked.
    #[serde(default)]
    pub changed_block_tracking: Option<ChangedBlockTracking>,
}

/// A virtual machine that runs, or is about to.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "kubevirt.io",
    version = "v1",
    kind = "VirtualMachineInstance",
    namespaced,
    schema = "disabled",
    status = "VirtualMachineInstanceStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineInstanceSpec {
    /// Its hardware.
    #[serde(default)]
    pub domain: Domain,
    /// What its disks are made of.
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// What KubeVirt attaches to the pod and not to the guest, such as a backup's scratch.
    #[serde(default)]
    pub utility_volumes: Vec<UtilityVolume>,
}

/// Hardware.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Domain {
    /// Its devices.
    #[serde(default)]
    pub devices: Devices,
}

/// Devices.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Devices {
    /// The disks, CD drives among them.
    #[serde(default)]
    pub disks: Vec<Disk>,
}

/// A disk: its name is its volume's.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    /// The name of the volume that it shows.
    #[serde(default)]
    pub name: String,
    /// Of a CD drive.
    #[serde(default)]
    pub cdrom: Option<serde_json::Value>,
    /// Of a device that is passed through.
    #[serde(default)]
    pub lun: Option<serde_json::Value>,
}

/// What a disk is made of. One of the fields beside the name is there; those of the kinds that are never backed up are
/// not told.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// A claim.
    #[serde(default)]
    pub persistent_volume_claim: Option<ClaimVolume>,
    /// A claim that CDI fills.
    #[serde(default)]
    pub data_volume: Option<DataVolume>,
    /// A file of the node.
    #[serde(default)]
    pub host_disk: Option<HostDisk>,
}

/// A claim.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimVolume {
    /// Its name.
    #[serde(default)]
    pub claim_name: String,
}

/// A claim that CDI fills: of the same name.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DataVolume {
    /// Its name.
    #[serde(default)]
    pub name: String,
}

/// A file of the node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HostDisk {
    /// Its size, as a quantity.
    #[serde(default)]
    pub capacity: Option<Quantity>,
}

/// What KubeVirt attaches to the pod and not to the guest.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UtilityVolume {
    /// Its name, which is its folder's in the launcher.
    #[serde(default)]
    pub name: String,
    /// Its claim.
    #[serde(default)]
    pub claim_name: String,
}

/// What a volume is backed up from.
#[derive(Clone, Debug, PartialEq)]
pub enum Backing<'a> {
    /// The claim of that name.
    Claim(&'a str),
    /// A file of the node, of that size.
    HostDisk(Option<&'a Quantity>),
}

impl Volume {
    /// What KubeVirt can back up of it; none of a volume that it cannot (`IsCBTEligibleVolume`).
    pub fn backing(&self) -> Option<Backing<'_>> {
        let claim = self.persistent_volume_claim.as_ref().map(|claim| Backing::Claim(&claim.claim_name));
        let filled = self.data_volume.as_ref().map(|volume| Backing::Claim(&volume.name));
        let file = self.host_disk.as_ref().map(|file| Backing::HostDisk(file.capacity.as_ref()));
        claim.or(filled).or(file)
    }
}

impl VirtualMachineInstanceSpec {
    /// The volumes that are disks and can be backed up.
    pub fn eligible(&self) -> impl Iterator<Item = (&str, Backing<'_>)> {
        let shown = |volume: &&Volume| self.domain.devices.disks.iter().any(|disk| disk.name == volume.name);
        self.volumes
            .iter()
            .filter(shown)
            .filter_map(|volume| volume.backing().map(|backing| (volume.name.as_str(), backing)))
    }
}

/// What is known of an instance.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineInstanceStatus {
    /// `Pending`, `Scheduling`, `Scheduled`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    #[serde(default)]
    pub phase: Option<String>,
    /// Where it runs.
    #[serde(default)]
    pub node_name: Option<String>,
    /// The nodes of its launcher pods, by their UIDs: also of those that a migration has ended, as long as they are there.
    #[serde(default)]
    pub active_pods: BTreeMap<String, String>,
    /// Its migration, if there is or was one.
    #[serde(default)]
    pub migration_state: Option<MigrationState>,
    /// Whether changes are tracked, and its backup.
    #[serde(default)]
    pub changed_block_tracking: Option<ChangedBlockTracking>,
    /// How far its volumes are, those too that are attached to the pod only.
    #[serde(default)]
    pub volume_status: Vec<VolumeStatus>,
}

/// How far a volume is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeStatus {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Of one that is attached later: `Pending`, `Bound`, `AttachedToNode` (the pod that attaches it was made), `MountedToPod`,
    /// `Ready` or `Detaching`.
    #[serde(default)]
    pub phase: Option<String>,
    /// For people.
    #[serde(default)]
    pub message: Option<String>,
    /// Of one that is attached later: by what.
    #[serde(default)]
    pub hotplug_volume: Option<HotplugVolumeStatus>,
}

impl VolumeStatus {
    /// Whether it is in the launcher's pod: KubeVirt begins a backup then (`backupTargetPVCAttached`).
    pub fn is_attached(&self) -> bool {
        matches!(self.phase.as_deref(), Some("MountedToPod" | "Ready"))
    }
}

/// What attaches a volume.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HotplugVolumeStatus {
    /// The pod that has it on the node.
    #[serde(default)]
    pub attach_pod_name: Option<String>,
}

/// A migration.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MigrationState {
    /// Where it goes.
    #[serde(default)]
    pub target_node: Option<String>,
    /// The name of the pod that it goes to.
    #[serde(default)]
    pub target_pod: Option<String>,
    /// Whether it has ended, however.
    #[serde(default)]
    pub completed: bool,
    /// Whether it has failed.
    #[serde(default)]
    pub failed: bool,
}

/// Whether changes are tracked.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangedBlockTracking {
    /// In KubeVirt's words.
    #[serde(default)]
    pub state: String,
    /// The backup that runs or has run last; on the instance only.
    #[serde(default)]
    pub backup_status: Option<BackupJob>,
}

/// The states of changed-block tracking that are spoken of by name.
pub mod tracking {
    /// Backups can be made.
    pub const ENABLED: &str = "Enabled";
    /// Wanted, and on with the next start.
    pub const PENDING_RESTART: &str = "PendingRestart";
    /// About to be on.
    pub const INITIALIZING: &str = "Initializing";
    /// Wanted, but KubeVirt does not know of it.
    pub const GATE_OFF: &str = "IncrementalBackupFeatureGateDisabled";

    /// The state of a machine that runs: what its instance says, if that is tracked or soon will be, else what the machine
    /// says of its next start. Of one that was switched off and on again the instance says "Disabled" until then, and one
    /// that is to be tracked no more is tracked still.
    pub fn state<'a>(of_instance: Option<&'a str>, of_machine: Option<&'a str>) -> &'a str {
        let tracks = of_instance.filter(|state| [ENABLED, INITIALIZING].contains(state));
        tracks.or(of_machine.filter(|state| !state.is_empty())).or(of_instance).unwrap_or_default()
    }
}

/// What an instance says of its backup.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupJob {
    /// The name of the `VirtualMachineBackup`.
    #[serde(default)]
    pub backup_name: Option<String>,
    /// Whether it has ended.
    #[serde(default)]
    pub completed: bool,
    /// Whether it has failed.
    #[serde(default)]
    pub failed: bool,
    /// Why.
    #[serde(default)]
    pub backup_msg: Option<String>,
    /// The checkpoint that it made.
    #[serde(default)]
    pub checkpoint_name: Option<String>,
    /// Its volumes.
    #[serde(default)]
    pub volumes: Vec<VolumeName>,
    /// What became of freezing the guest.
    #[serde(default)]
    pub quiesce_status: Option<String>,
}

/// A volume's name.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeName {
    /// In the instance.
    #[serde(default)]
    pub volume_name: String,
}
