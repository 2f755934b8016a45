//! The documents that administrators write: YAML, one document a file.
//!
//! ```yaml
//! kind: BackupPolicy
//! name: nightly
//! select:    {module: builtin:labels, settings: {matchLabels: {backup: nightly}}}
//! schedule:  {module: builtin:cron,   settings: {cron: "15 2 * * *", timezone: Europe/Prague, jitter: 30m}}
//! retention: {module: builtin:gfs,    settings: {daily: 7, weekly: 4}}
//! ```
//!
//! `docs/policies.md` describes each field. Every error names the file and the line, and says what would be right.

mod at;
mod node;
mod parse;
mod target;

use std::time::Duration;

use remora_core::point::Quiesce;

use crate::reference::ModuleRef;

pub(crate) use at::At;
pub(crate) use node::Node;
pub use node::Settings;
pub use parse::parse;
pub use target::Target;

/// One document.
#[derive(Clone, Debug)]
pub enum Document {
    /// What is backed up, when, and for how long it is kept.
    Backup(Box<BackupDocument>),
    /// Who may read files of points.
    Access(AccessDocument),
}

impl Document {
    /// Its name, which no other document of its kind has.
    pub fn name(&self) -> &str {
        match self {
            Self::Backup(document) => &document.name,
            Self::Access(document) => &document.name,
        }
    }

    /// The modules that it uses, in its order.
    pub fn uses(&self) -> Vec<&Use> {
        match self {
            Self::Backup(document) => [Some(&document.select), Some(&document.schedule), document.retention.as_ref()]
                .into_iter()
                .flatten()
                .collect(),
            Self::Access(document) => document.authorize.iter().map(|binding| &binding.uses).collect(),
        }
    }
}

/// A backup policy.
#[derive(Clone, Debug)]
pub struct BackupDocument {
    /// Its name.
    pub name: String,
    /// Which VMs it is for.
    pub select: Use,
    /// When they are backed up.
    pub schedule: Use,
    /// Which points are kept; all if none.
    pub retention: Option<Use>,
    /// What the points go to; the only repository that there is if none.
    pub target: Option<Target>,
    /// The `StorageClass` of the scratch of runs, which Kubernetes alone has; the cluster's default if none.
    pub scratch_class: Option<String>,
    /// Whether guests are frozen.
    pub quiesce: Quiesce,
    /// How long a run may take; as long as where it runs says if none.
    pub deadline: Option<Duration>,
    /// How often the newest point of each VM is read and verified; never if none.
    pub verify_every: Option<Duration>,
}

/// An access policy.
#[derive(Clone, Debug)]
pub struct AccessDocument {
    /// Its name.
    pub name: String,
    /// The policies that are asked, in the order of the document.
    pub authorize: Vec<Binding>,
    /// For how long its last good version may decide while a newer one is broken; then it denies.
    pub max_staleness: Duration,
}

/// A module and its settings.
#[derive(Clone, Debug)]
pub struct Use {
    /// Which module.
    pub module: ModuleRef,
    /// The line that names it.
    pub line: u64,
    /// The settings.
    pub settings: Settings,
}

/// A policy that is asked about files.
#[derive(Clone, Debug)]
pub struct Binding {
    /// The module and its settings.
    pub uses: Use,
    /// Whether its word counts.
    pub mode: Mode,
}

/// Whether the word of a policy counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It does.
    #[default]
    Enforce,
    /// It is asked and logged, and changes nothing.
    Shadow,
}
