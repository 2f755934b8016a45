//! One restore of one point.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::RepositoryReference;

/// One restore of a point to `PersistentVolumeClaim`s, or to a new virtual machine, of the same namespace.
#[derive(CustomResource, Clone, Debug, PartialEq, Deserialize, Serialize, KubeSchema)]
#[kube(
    group = "remora.dev",
    version = "v1alpha1",
    kind = "RestoreRun",
    namespaced,
    status = "RestoreRunStatus",
    derive = "PartialEq",
    shortname = "rrun",
    category = "remora",
    doc = "One restore of one recovery point.",
    selectable = ".status.node",
    printcolumn(name = "Point", type_ = "string", json_path = ".spec.point"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.conditions[?(@.type==\"Complete\")].reason"),
    printcolumn(name = "Percent", type_ = "integer", json_path = ".status.percent"),
    printcolumn(name = "Written", type_ = "integer", json_path = ".status.writtenBytes", priority = "1"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.node", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("(has(self.disks) && size(self.disks) > 0) != has(self.virtualMachine)").message("name either disks or virtualMachine as the target"),
    validation = Rule::new("!has(self.disks) || self.disks.all(one, self.disks.exists_one(other, other.claim == one.claim))").message("each disk needs a claim of its own"),
    validation = Rule::new("self.point == oldSelf.point && self.repository == oldSelf.repository && has(self.disks) == has(oldSelf.disks) && (!has(self.disks) || self.disks == oldSelf.disks) && has(self.virtualMachine) == has(oldSelf.virtualMachine) && (!has(self.virtualMachine) || self.virtualMachine == oldSelf.virtualMachine)").message("only cancel can be changed: create another RestoreRun"),
    validation = Rule::new("!(has(oldSelf.cancel) && oldSelf.cancel) || (has(self.cancel) && self.cancel)").message("a cancelled run stays cancelled: create another RestoreRun")
)]
#[serde(rename_all = "camelCase")]
pub struct RestoreRunSpec {
    /// The point's id, as `remora points` and the status of its backup run tell it.
    #[schemars(length(min = 1, max = 512))]
    pub point: String,
    /// Where the point is.
    pub repository: RepositoryReference,
    /// The disks to restore, each to a claim.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["disk".into()]))]
    pub disks: Vec<DiskTarget>,
    /// The virtual machine to make of all disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_machine: Option<VirtualMachineTarget>,
    /// Ends the run. A claim that was made for it goes with it; one that was there before is left half-written, and says
    /// so in the status.
    #[serde(default)]
    pub cancel: bool,
}

/// Where one disk goes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskTarget {
    /// The disk's name in the point.
    #[schemars(length(min = 1, max = 253))]
    pub disk: String,
    /// The `PersistentVolumeClaim` to write. One that is there must not be in use and is overwritten; one that is not is
    /// made as the point tells.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub claim: String,
    /// The `StorageClass` of a claim that is made; the original's where left empty.
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub storage_class_name: String,
}

/// The virtual machine that a restore makes, once all is written. Its claims have its name, a dash and the disk's.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineTarget {
    /// Its name; there must be none of that name.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
    /// Keep the MAC addresses and the firmware's UUID of the original, which then must be gone.
    #[serde(default)]
    pub keep_identity: bool,
    /// Start it when all is written.
    #[serde(default)]
    pub start: bool,
    /// The `StorageClass` of its claims; the originals' where left empty.
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub storage_class_name: String,
}

/// What is known of a run.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreRunStatus {
    /// The generation of the spec that this status tells of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Assigned`: the worker runs that has the claims, or why it does not yet. `Claimed`: the agent of its node works on
    /// it. `Written`: Unknown while it does; True when all was written and read back; False when that failed. `Complete`:
    /// True when the machine, if one is wanted, is made too. `Failed`: True when it ended before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The node of its worker, whose agent claims the run. Written by the controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The UID of the agent's pod that claimed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Changed at least every 30 seconds while it is worked on. Compare it with what was seen before, not with a clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<i64>,
    /// When the work began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When it ended, complete or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// Bytes to write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<i64>,
    /// Bytes written so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_bytes: Option<i64>,
    /// Written of total, 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: Option<i32>,
}
