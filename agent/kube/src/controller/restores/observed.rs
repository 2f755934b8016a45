//! What the controller knows when it decides about a restore.

use std::collections::BTreeMap;
use std::time::Duration;

use remora_core::point::Point;

use crate::controller::observed::{Agent, RepositoryFacts, StorageClasses, Taken};
use crate::controller::worker::{Image, Overlay, Worker};
use crate::resources::RestoreRun;

/// All of it.
#[derive(Clone, Debug)]
pub(in crate::controller) struct Observed {
    pub(super) run: RestoreRun,
    /// For how long there is the run.
    pub(super) age: Duration,
    /// Since when its agent has shown no sign of life, by this process's own clock.
    pub(super) silent: Duration,
    /// The agents on the worker's node.
    pub(super) agents: Vec<Agent>,
    pub(super) repository: RepositoryFacts,
    pub(super) point: PointFacts,
    /// A claim that another restore writes first, and the name of that.
    pub(super) first: Option<(String, String)>,
    /// The claims that it names, or has had made, by name.
    pub(super) claims: BTreeMap<String, ClaimFacts>,
    pub(super) worker: Worker,
    pub(super) machine: MachineFacts,
    pub(super) classes: StorageClasses,
    /// The image of the worker; none if nothing tells it.
    pub(super) image: Option<Image>,
}

/// What there is of the point.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum PointFacts {
    /// It was not asked for.
    Unread,
    /// There is none, or it cannot be used: why.
    Unusable(&'static str, String),
    /// It cannot be read now: why.
    Later(String),
    Found(Box<Point>),
}

/// A claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ClaimFacts {
    pub(super) taken: Taken,
    pub(super) uid: String,
    /// What it has, or asks for if that is more; in bytes.
    pub(super) capacity: Option<u64>,
    pub(super) block: bool,
    /// Who uses it, but for this run's worker, and for those of restores that end.
    pub(super) users: Vec<String>,
    /// A restore that ends, or has ended, and has not let go of it.
    pub(super) left_by: Option<String>,
    /// What would hide what is written to it.
    pub(super) overlays: Vec<Overlay>,
}

/// The machine that is wanted, and the one that the point is of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MachineFacts {
    /// Whether the API server knows of no machines: there is no KubeVirt.
    pub(super) unknown: bool,
    /// What its name stands for.
    pub(super) taken: Taken,
    /// Whether the original is there.
    pub(super) original: bool,
}
