//! The port to what policies say.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use prometheus_client::registry::Registry;
use remora_core::VmName;
use remora_core::point::Quiesce;
use remora_core::policy::{Ending, VmFacts, Word};

use crate::resources::{ScratchSpec, Verify};

/// Since when machines are selected that have had no run yet: by policy, then by machine.
pub type Since = BTreeMap<String, BTreeMap<VmName, Timestamp>>;

/// Says which runs are due.
#[async_trait]
pub trait Scheduler: Send {
    /// What puts the metrics of policies into a registry, whenever somebody asks for them.
    fn metrics(&self) -> Box<dyn Fn(&mut Registry) + Send + Sync>;

    /// Whether no policy is in force, so that nothing will be due.
    fn is_idle(&self) -> bool;

    /// Waits until other policies are in force.
    async fn changed(&mut self);

    /// Takes over what a controller before has remembered.
    fn remember(&mut self, since: &Since);

    /// The runs that are due, those that have waited longest first. `machines` are all that there are, and `runs` all
    /// that were made of what was due before, in any order.
    async fn due(&mut self, machines: Vec<VmFacts>, runs: &[ScheduledRun], now: Timestamp) -> Vec<DueRun>;

    /// What a controller after this one has to remember.
    fn since(&self) -> Since;
}

/// A run that a policy asked for, as far as there is anything to learn from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduledRun {
    /// The policy's name.
    pub policy: String,
    /// The machine.
    pub vm: VmName,
    /// When it was made.
    pub begun: Timestamp,
    /// What became of it.
    pub ending: Ending,
    /// Whether its point was verified, or is to be.
    pub verified: Verified,
}

/// Whether a run's point is known to be sound, or it soon will be known what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verified {
    /// It is, or will be.
    Yes,
    /// Nobody asked, it could not be done, or the point is damaged.
    No,
}

/// A run that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueRun {
    /// The policy's name.
    pub policy: String,
    /// The machine.
    pub vm: VmFacts,
    /// What it follows: the run before, or the instant since when the machine is selected. There is one run after each.
    pub after: Timestamp,
    /// When it was to start.
    pub start: Timestamp,
    /// Who said so, and why.
    pub word: Word,
    /// The Repository, one of remora's namespace.
    pub repository: String,
    /// Whether the guest is frozen.
    pub quiesce: Quiesce,
    /// The scratch volume.
    pub scratch: ScratchSpec,
    /// How long it may take, counted from when it is made; four hours if none.
    pub deadline: Option<Duration>,
    /// What is read back of the point.
    pub verify: Verify,
}
