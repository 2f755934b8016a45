//! One backup of one VM.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::RepositoryReference;

/// One backup of one virtual machine of the same namespace. The agent on the node where the machine runs claims it.
#[derive(CustomResource, Clone, Debug, PartialEq, Deserialize, Serialize, KubeSchema)]
#[kube(
    group = "remora.dev",
    version = "v1alpha1",
    kind = "BackupRun",
    namespaced,
    status = "BackupRunStatus",
    derive = "PartialEq",
    shortname = "brun",
    category = "remora",
    doc = "One backup of one virtual machine.",
    selectable = ".spec.virtualMachine",
    selectable = ".status.node",
    selectable = ".spec.verify",
    printcolumn(name = "VM", type_ = "string", json_path = ".spec.virtualMachine"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.conditions[?(@.type==\"Complete\")].reason"),
    printcolumn(name = "Decision", type_ = "string", json_path = ".status.decision"),
    printcolumn(name = "Percent", type_ = "integer", json_path = ".status.percent"),
    printcolumn(name = "Verified", type_ = "string", json_path = ".status.conditions[?(@.type==\"Verified\")].reason"),
    printcolumn(name = "Read", type_ = "integer", json_path = ".status.readBytes", priority = "1"),
    printcolumn(name = "Stored", type_ = "integer", json_path = ".status.storedBytes", priority = "1"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.node", priority = "1"),
    printcolumn(name = "Point", type_ = "string", json_path = ".status.point", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("self.virtualMachine == oldSelf.virtualMachine && self.repository == oldSelf.repository && self.mode == oldSelf.mode && self.quiesce == oldSelf.quiesce && self.scratch == oldSelf.scratch && self.deadline == oldSelf.deadline && self.verify == oldSelf.verify").message("only cancel can be changed: create another BackupRun"),
    validation = Rule::new("!(has(oldSelf.cancel) && oldSelf.cancel) || (has(self.cancel) && self.cancel)").message("a cancelled run stays cancelled: create another BackupRun")
)]
#[serde(rename_all = "camelCase")]
pub struct BackupRunSpec {
    /// The name of the `VirtualMachine` of KubeVirt.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub virtual_machine: String,
    /// Where the point goes.
    pub repository: RepositoryReference,
    /// How much to read.
    #[serde(default)]
    pub mode: Mode,
    /// What to ask of the guest agent.
    #[serde(default)]
    pub quiesce: Quiesce,
    /// The volume that keeps the old bytes of what the guest overwrites meanwhile.
    #[serde(default)]
    pub scratch: ScratchSpec,
    /// The run fails after this long, counted from its creation; such as `90m` or `4h`, and at most `72h`: one that hangs
    /// holds up others of its node until then.
    #[serde(default = "four_hours")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]{1,5}(s|m|h))+$"))]
    #[x_kube(validation = Rule::new("!self.matches('^([0-9]+[smh])+$') || duration(self) <= duration('72h')").message("a run has 72h at the most"))]
    pub deadline: String,
    /// What is read back of the point once it is stored: `None` of it; `Structure`, what tells where its data are; or `All`. The
    /// run is `Complete` before, and `Verified` tells of it. It has until 72h after the deadline, for it takes turns with the
    /// others of its node.
    #[serde(default)]
    pub verify: Verify,
    /// Ends the run without a point, or its verification if there is one. So does deleting it.
    #[serde(default)]
    pub cancel: bool,
}

fn four_hours() -> String {
    "4h".into()
}

/// How much of the disks to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Mode {
    /// The cheapest that is safe: what changed since the newest point, or more where there is any doubt.
    #[default]
    Auto,
    /// Read all, and store what differs from the newest point.
    Reread,
    /// Read and store all.
    Full,
}

/// Whether the guest's filesystems are frozen for the instant of the backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Quiesce {
    /// Frozen where the guest agent does it; else the point is crash-consistent and says so.
    #[default]
    Preferred,
    /// Frozen, or the run fails.
    Required,
    /// Not asked for.
    Never,
}

/// What is read back of a point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Verify {
    /// Nothing.
    #[default]
    None,
    /// What tells where its data are, and what segments say of themselves; none of the data.
    Structure,
    /// All of it.
    All,
}

/// The scratch volume of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScratchSpec {
    /// The `StorageClass` of the volume, which is as large as the disks together; the cluster's default where left
    /// empty. Choose one that allocates thinly.
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub storage_class_name: String,
}

/// What is known of a run.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupRunStatus {
    /// The generation of the spec that this status tells of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Assigned`: the controller found the machine's node, or says why not yet. `Claimed`: that node's agent works on it.
    /// `Prepared`: what the attempt needs of KubeVirt was made; Unknown while that waits; False when it cannot be.
    /// `Complete`: True with the point listed; False with the reason while it runs or when it failed. `Failed`: True when
    /// it ended without a point. `Verified`, where `spec.verify` asks for it: Unknown while the point is read, or why that could
    /// not be done; True if it is sound; False with what of it is damaged. `CheckpointsStay`: True when the point is stored, and
    /// checkpoints that no point needs may have stayed; the next run removes them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The node on which the machine runs, or its claims are read. Written by the controller; that node's agent claims the
    /// run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Whether the machine was halted when the run began: its disks are read through a pod of its namespace that has its
    /// claims, and `node` is where that pod runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub halted: bool,
    /// The UID of the agent's pod that claimed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Changed by the agent at least every 30 seconds while it works. Compare it with what was seen before, not with a
    /// clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<i64>,
    /// What the agent wants of KubeVirt. The controller makes it, and removes what is no longer wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<Attempt>,
    /// The number of the attempt that `Prepared` tells of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepared_attempt: Option<i32>,
    /// When the work began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When it ended, with a point or without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// The point's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point: Option<String>,
    /// `full`, `incremental` or `reread`: the costliest of the disks'.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
    /// Why that much was read, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Bytes to read, as far as known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<i64>,
    /// Bytes read so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_bytes: Option<i64>,
    /// Bytes stored so far, compressed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<i64>,
    /// Read of total, 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: Option<i32>,
    /// How much of the point its verification has read, 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub verified_percent: Option<i32>,
    /// The disks of the point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub disks: Vec<DiskResult>,
}

/// One `VirtualMachineBackup` of KubeVirt, as the agent wants it. A run has several, one after another, where an increment
/// cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// Counted from 1; a higher one replaces those before.
    #[schemars(range(min = 1, max = 1000))]
    pub number: i32,
    /// The name of the `VirtualMachineBackup`: one that nothing else has, of the repository's id and random bits.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub backup: String,
    /// Whether KubeVirt is to forget what it knows of changes: the disks are read whole.
    #[serde(default)]
    pub force_full: bool,
    /// Whether the guest's filesystems are not to be frozen.
    #[serde(default)]
    pub skip_quiesce: bool,
    /// Whether it is still wanted.
    pub state: AttemptState,
}

/// Whether an attempt is still wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum AttemptState {
    /// The controller makes it, and keeps it.
    Wanted,
    /// The agent has read what it needs, or has given up: the controller removes it.
    Ended,
}

/// What became of one disk.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskResult {
    /// The volume's name in the virtual machine.
    pub name: String,
    /// The disk's size in bytes.
    pub size_bytes: i64,
    /// `full`, `incremental` or `reread`.
    pub decision: String,
    /// Why that much of the disk was read, in words.
    pub reason: String,
    /// Bytes read of the disk.
    pub read_bytes: i64,
    /// Bytes stored of the disk, compressed.
    pub stored_bytes: i64,
}
