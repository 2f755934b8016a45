//! A place that holds points.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::{CaSecretReference, SecretKeyReference, SecretReference};

/// A place that holds points: a bucket, named by its URL or by a `BackupStorageLocation` of Velero.
///
/// One in a tenant's namespace reaches what its own Secrets open and nothing else: no folder of a node, no credentials
/// of the node's, no plugin, no address inside the cluster. One in the namespace of remora belongs to the administrators, and
/// serves the namespaces that it lists.
#[derive(CustomResource, Clone, Debug, PartialEq, Deserialize, Serialize, KubeSchema)]
#[kube(
    group = "remora.dev",
    version = "v1alpha1",
    kind = "Repository",
    namespaced,
    status = "RepositoryStatus",
    derive = "PartialEq",
    plural = "repositories",
    shortname = "rrepo",
    category = "remora",
    doc = "A place that holds recovery points of virtual machines.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.url", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("has(self.url) != has(self.backupStorageLocation)").message("name the place either by url or by backupStorageLocation"),
    validation = Rule::new("!has(self.url) || self.url.matches('^(file:///|(s3|az|gs)://[^/?#]|plugin:[A-Za-z0-9_-][A-Za-z0-9._-]{0,62}(/[A-Za-z0-9._/-]*)?$)')").message("url is s3://bucket/prefix, az://container/prefix, gs://bucket/prefix or, of the administrators, file:///path or plugin:NAME/prefix"),
    validation = Rule::new("!has(self.url) || !(self.url.contains('@') || self.url.matches('(?i)[?&][^=&]*(key|secret|token|sig|sas|pass|cred)'))").message("url holds no credentials: put them into a Secret and name it in credentialsSecret (an @ of the prefix is written %40)"),
    validation = Rule::new("!(has(self.url) && self.url.startsWith('plugin:') && has(self.credentialsSecret))").message("the document of a plugin names its own secrets: leave credentialsSecret out"),
    validation = Rule::new("!(has(self.backupStorageLocation) && has(self.credentialsSecret))").message("a backupStorageLocation names its own credentials: leave credentialsSecret out"),
    validation = Rule::new("!has(self.caSecret) || (has(self.url) && self.url.matches('^(s3|az|gs)://'))").message("a CA is for the server of a bucket that url names: leave caSecret out"),
    validation = Rule::new("has(self.url) == has(oldSelf.url) && (!has(self.url) || self.url == oldSelf.url)").message("a repository stays where it is: create another Repository"),
    validation = Rule::new("has(self.backupStorageLocation) == has(oldSelf.backupStorageLocation) && (!has(self.backupStorageLocation) || self.backupStorageLocation == oldSelf.backupStorageLocation)").message("a repository stays where it is: create another Repository")
)]
#[serde(rename_all = "camelCase")]
pub struct RepositorySpec {
    /// Where it lies, such as `s3://bucket/prefix?endpoint=https://s3.example.org`; `az://` and `gs://` likewise. Or,
    /// in the namespace of remora, `plugin:NAME/prefix`: what the plugin NAME of the `ConfigMap` remora-plugins keeps. Never with
    /// credentials in it: whoever may read this object reads them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub url: Option<String>,
    /// The name of a `BackupStorageLocation` of Velero in this namespace, whose bucket, prefix, region and credentials
    /// are used. remora keeps to a folder of its own beside Velero's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub backup_storage_location: Option<String>,
    /// The Secret with the store's credentials: its keys are those of the vendor's own file formats. Left out for a
    /// `BackupStorageLocation`, which names its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret: Option<SecretReference>,
    /// The Secret with the certificates of the CA that the store's server has its own from, where that is not one that is
    /// trusted everywhere. Left out for a `BackupStorageLocation`, which names its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret: Option<CaSecretReference>,
    /// The passphrase that opens the repository; of 20 characters or more. Whoever loses it loses the points.
    pub passphrase_secret: SecretKeyReference,
    /// The namespaces whose runs may use it; only of a Repository in the namespace of remora. Its own namespace always
    /// may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub allowed_namespaces: Vec<String>,
}

/// What is known of a Repository.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryStatus {
    /// The generation of the spec that this status tells of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: it was opened and its store does what remora needs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Where it lies, without secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Its id: 32 hexadecimal digits, which checkpoints' names begin with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_id: Option<String>,
}
