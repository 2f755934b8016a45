//! How KubeVirt is set up.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use serde::{Deserialize, Serialize};

/// The installation of KubeVirt.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[kube(group = "kubevirt.io", version = "v1", kind = "KubeVirt", namespaced, schema = "disabled", derive = "PartialEq")]
#[serde(rename_all = "camelCase")]
pub struct KubeVirtSpec {
    /// How it is set up.
    #[serde(default)]
    pub configuration: Configuration,
}

/// How KubeVirt is set up.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Configuration {
    /// Whose changes are tracked.
    #[serde(default)]
    pub changed_block_tracking_label_selectors: Option<TrackingSelectors>,
}

/// Whose changes are tracked: what either selector selects.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TrackingSelectors {
    /// By the namespace's labels.
    #[serde(default)]
    pub namespace_label_selector: Option<LabelSelector>,
    /// By the machine's.
    #[serde(default)]
    pub virtual_machine_label_selector: Option<LabelSelector>,
}
