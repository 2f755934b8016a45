//! What the agent of a node can do.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One node's agent, named as the node. Written by that agent alone.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, KubeSchema)]
#[kube(
    group = "remora.dev",
    version = "v1alpha1",
    kind = "AgentNode",
    status = "AgentNodeStatus",
    derive = "PartialEq",
    shortname = "anode",
    category = "remora",
    doc = "The agent of one node: its version, what it can do, and what keeps it from more.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Policy", type_ = "string", json_path = ".status.policies[?(@.state!=\"Active\")].state"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct AgentNodeSpec {}

/// What is known of a node's agent.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentNodeStatus {
    /// `Ready`: backups can run on this node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The version of remora.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// When the agent wrote this last: every 20 minutes or more often. One that did not for an hour is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew_time: Option<Time>,
    /// What was tried on this node, as `remora doctor` does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub capabilities: Vec<Capability>,
    /// The documents of the `ConfigMap` `remora-policies`, as this agent has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["file".into()]))]
    pub policies: Vec<PolicyState>,
    /// How many more documents there are than `policies` tells of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policies_left_out: Option<i64>,
}

/// What an agent has of one document of policies.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyState {
    /// The document's key in the `ConfigMap`.
    pub file: String,
    /// The policy's name; none if no version of it was ever good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The SHA-256 of the document as it is now.
    pub desired_digest: String,
    /// That of the version that is in force, if one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_digest: Option<String>,
    /// Counts the changes of the folder that this agent has seen since it started.
    pub generation: i64,
    /// Whether the document as it is now is in force.
    pub state: PolicyStanding,
    /// Why not, and what to do; empty if there is nothing to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Since when it has been so.
    pub since: Time,
}

/// Whether a document of policies is in force; what is worse is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
pub enum PolicyStanding {
    /// It is, as it is now.
    Active,
    /// It is, but says not all that Kubernetes needs: nothing is backed up by it.
    Incomplete,
    /// Its last good version is: it is broken as it is now.
    Stale,
    /// Nothing of it is: it never was good.
    Broken,
}

/// One thing that an agent needs of its node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Capability {
    /// Its name, such as `fuse` or `changed-block-tracking`.
    pub name: String,
    /// Whether it is there.
    pub available: bool,
    /// What was found, and what to do where it is missing.
    pub message: String,
}
