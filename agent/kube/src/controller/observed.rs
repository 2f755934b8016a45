//! What the controller knows when it decides about a run: plain facts, read by `observe.rs`, judged by `plan.rs`.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use remora_core::RepositoryId;

use super::worker::{Image, Placement, Worker};
use crate::resources::BackupRun;

/// All of it.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    pub(super) run: BackupRun,
    pub(super) now: Timestamp,
    /// Since when its agent has shown no sign of life, by this process's own clock.
    pub(super) silent: Duration,
    /// The agents on the machine's node.
    pub(super) agents: Vec<Agent>,
    /// The other runs of this machine that have not ended.
    pub(super) others: Vec<OtherRun>,
    pub(super) machine: Machine,
    pub(super) repository: RepositoryFacts,
    /// What was made for this run, of any attempt.
    pub(super) made: Made,
    /// Backups of this machine that are in flight and not of this run: their names, and what they are at.
    pub(super) foreign: Vec<(String, String)>,
    /// What the names that this attempt needs stand for.
    pub(super) names: Names,
    pub(super) classes: StorageClasses,
    /// What has the claims of a halted machine.
    pub(super) worker: Worker,
    /// The worker's image; none if nothing tells it.
    pub(super) image: Option<Image>,
}

/// An agent that lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Agent {
    /// Of its pod.
    pub(super) uid: String,
    /// Whether it knows the runs of its node: it takes none before.
    pub(super) is_ready: bool,
}

/// Another run of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OtherRun {
    pub(super) name: String,
    pub(super) created: Option<Timestamp>,
    /// Whether it was given to a node.
    pub(super) assigned: bool,
}

/// What there is of the machine.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Machine {
    /// The API server knows no `VirtualMachine`s.
    NoKubeVirt,
    /// It knows no `VirtualMachineBackup`s.
    NoBackups,
    /// None of that name.
    Missing,
    /// It is there.
    Found(Box<Found>),
}

/// A machine.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found {
    pub(super) uid: String,
    /// In KubeVirt's words for people.
    pub(super) state: String,
    /// The state of its changed-block tracking.
    pub(super) tracking: String,
    /// What KubeVirt tracks the changes of.
    pub(super) selectors: Selectors,
    pub(super) instance: Option<Instance>,
    /// What can be read of it while nothing of it runs and KubeVirt is not about to change that.
    pub(super) halted: Option<Halted>,
}

/// What there is of a machine of which nothing runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Halted {
    /// The claims of its disks.
    pub(super) claims: Vec<Claim>,
    /// Where it may run, and so may who reads them.
    pub(super) placement: Placement,
}

/// The claim of a halted machine's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) name: String,
    /// None if there is no such claim.
    pub(super) block: Option<bool>,
    /// Who uses it, but for this run's worker and the machine itself.
    pub(super) users: Vec<String>,
}

/// What runs of a machine.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Instance {
    pub(super) phase: String,
    pub(super) node: Option<String>,
    pub(super) migrating: bool,
    /// The sizes of its eligible disks in bytes, by volume; none of one that is not known yet.
    pub(super) disks: Vec<(String, Option<u64>)>,
    /// The backup that it says is at work.
    pub(super) job: Option<String>,
}

/// The selectors of KubeVirt's configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Selectors {
    pub(super) machines: Option<LabelSelector>,
    pub(super) namespaces: Option<LabelSelector>,
}

/// What there is of the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RepositoryFacts {
    /// None of that name in that namespace.
    Missing,
    /// It does not serve the run's namespace.
    NotAllowed,
    /// It cannot be used: why.
    NotReady(String),
    /// It can.
    Ready(RepositoryId),
}

/// What was made for a run, by name and UID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Made {
    pub(super) backups: Vec<Thing>,
    pub(super) scratches: Vec<Thing>,
    pub(super) tokens: Vec<Thing>,
    /// Whether the scratch is still attached to the machine, though no backup needs it.
    pub(super) attached: bool,
    /// Those of the backups that are being deleted and whose tracker is gone, as a machine's are that is deleted: KubeVirt
    /// never lets go of such a one.
    pub(super) orphans: Vec<Orphan>,
}

/// A backup that is being deleted and has no tracker any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Orphan {
    pub(super) backup: Thing,
    /// The name of its tracker.
    pub(super) tracker: String,
    /// The finalizers of others than KubeVirt.
    pub(super) others: Vec<String>,
}

impl Made {
    pub(super) fn nothing(&self) -> bool {
        self.backups.is_empty() && self.scratches.is_empty() && self.tokens.is_empty()
    }
}

/// An object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Thing {
    pub(super) name: String,
    pub(super) uid: String,
    /// Whether it is being deleted.
    pub(super) leaving: bool,
}

/// What the names that an attempt needs stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) backup: Taken,
    pub(super) scratch: Taken,
    pub(super) token: Taken,
    pub(super) tracker: TrackerFacts,
}

/// What a name stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Taken {
    /// Nothing.
    #[default]
    Free,
    /// Something of this run.
    Ours {
        /// Whether it is being deleted.
        leaving: bool,
    },
    /// Something of another run: its name.
    OfRun(String),
    /// Something that is not ours.
    Foreign,
}

/// What the name of the tracker stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum TrackerFacts {
    /// Nothing.
    #[default]
    Free,
    /// The machine's tracker.
    Ours,
    /// One of an earlier machine of that name: its UID.
    OfEarlierMachine(String),
    /// One that somebody else made.
    Foreign,
}

/// The cluster's storage classes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct StorageClasses {
    pub(super) names: Vec<String>,
    pub(super) default: Option<String>,
}
