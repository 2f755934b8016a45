//! What the controller counts, as Prometheus reads it. docs/metrics.md lists it; a test compares.
//!
//! What there is of runs and repositories is counted when somebody asks, from what is watched anyway: by the one that leads
//! only, for the others watch nothing.

mod run;

use std::fmt;
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use kube::runtime::reflector::Store;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use self::run::RunState;
use crate::conditions;
use crate::resources::{BackupRun, Repository};

/// Of the wait for a node, in seconds: what the machine, the repository and other runs allow, up to the usual deadline.
const WAITS: [f64; 8] = [1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0];

/// All of it; its clones are the same.
#[derive(Clone)]
pub(super) struct Metrics(Arc<Counted>);

struct Counted {
    leads: Gauge,
    waits: Histogram,
    ended: Family<OfRun, Counter>,
    read: Counter,
    stored: Counter,
    errors: Family<OfKind, Counter>,
    runs: OnceLock<Store<BackupRun>>,
    repositories: OnceLock<Store<Repository>>,
    scheduled: Family<OfPolicy, Counter>,
    waiting: Gauge,
    policies: OnceLock<OfPolicies>,
}

/// Puts the metrics of policies into a registry.
type OfPolicies = Box<dyn Fn(&mut Registry) + Send + Sync>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPolicy {
    policy: String,
}

/// Of which kind an object is that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(super) enum Kind {
    BackupRun,
    RestoreRun,
    Repository,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRun {
    state: RunState,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRepository {
    state: RepositoryState,
}

/// A machine with a point, as `NAMESPACE/NAME`. There are as many as the cluster has, and only an agent makes one of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfVm {
    vm: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum RepositoryState {
    Ready,
    NotReady,
    Unknown,
}

impl Default for Metrics {
    fn default() -> Self {
        let counted = Counted {
            leads: Gauge::default(),
            waits: Histogram::new(WAITS),
            ended: Family::default(),
            read: Counter::default(),
            stored: Counter::default(),
            errors: Family::default(),
            runs: OnceLock::new(),
            repositories: OnceLock::new(),
            scheduled: Family::default(),
            waiting: Gauge::default(),
            policies: OnceLock::new(),
        };
        // From 0 on: who sees a counter at 1 first does not know that it was 0 before.
        for state in [RunState::Complete, RunState::Failed, RunState::Cancelled] {
            drop(counted.ended.get_or_create(&OfRun { state }));
        }
        for kind in [Kind::BackupRun, Kind::RestoreRun, Kind::Repository] {
            drop(counted.errors.get_or_create(&OfKind { kind }));
        }
        Self(Arc::new(counted))
    }
}

impl Metrics {
    /// It leads, until the process ends.
    pub(super) fn leads(&self) {
        self.0.leads.set(1);
    }

    /// Where the runs are seen.
    pub(super) fn watch_runs(&self, runs: Store<BackupRun>) {
        self.0.runs.set(runs).ok();
    }

    /// Where the repositories are seen.
    pub(super) fn watch_repositories(&self, repositories: Store<Repository>) {
        self.0.repositories.set(repositories).ok();
    }

    /// A run was given to a node.
    pub(super) fn assigned(&self, run: &BackupRun, now: Timestamp) {
        if let Some(created) = &run.metadata.creation_timestamp {
            self.0.waits.observe(created.0.duration_until(now).as_secs_f64().max(0.0));
        }
    }

    /// Nothing is left of a run but its object; told once of each.
    pub(super) fn ended(&self, run: &BackupRun) {
        self.0.ended.get_or_create(&OfRun { state: RunState::of(run) }).inc();
        let (read, stored) = run::bytes(run);
        self.0.read.inc_by(read);
        self.0.stored.inc_by(stored);
    }

    /// An object could not be looked at.
    pub(super) fn failed(&self, kind: Kind) {
        self.0.errors.get_or_create(&OfKind { kind }).inc();
    }

    /// What tells of policies.
    pub(super) fn of_policies(&self, register: OfPolicies) {
        self.0.policies.set(register).ok();
    }

    /// A run was made that a policy asked for.
    pub(super) fn scheduled(&self, policy: &str) {
        self.0.scheduled.get_or_create(&OfPolicy { policy: policy.to_owned() }).inc();
    }

    /// So many runs are due and not made.
    pub(super) fn waiting(&self, count: usize) {
        self.0.waiting.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// All of them, as they are now.
    pub(super) fn text(&self) -> Result<String, fmt::Error> {
        let mut all = Registry::with_prefix("remora_controller");
        let counted = &self.0;
        all.register("leads", "1 if this controller acts", counted.leads.clone());
        let help = "From the creation of runs to their assignment to a node";
        all.register_with_unit("assignment_wait", help, Unit::Seconds, counted.waits.clone());
        all.register("runs_ended", "Runs that have ended, by how", counted.ended.clone());
        let help = "What runs that have ended have read of disks";
        all.register_with_unit("read", help, Unit::Bytes, counted.read.clone());
        let help = "What runs that have ended have stored, compressed";
        all.register_with_unit("stored", help, Unit::Bytes, counted.stored.clone());
        all.register("reconcile_errors", "Objects that could not be looked at", counted.errors.clone());
        all.register("scheduled_runs", "Runs made that policies asked for", counted.scheduled.clone());
        all.register("scheduled_runs_waiting", "Runs that are due and wait for their turn", counted.waiting.clone());
        if let Some(register) = counted.policies.get() {
            register(&mut all);
        }
        if let Some(runs) = counted.runs.get() {
            register_runs(&mut all, &runs.state());
        }
        if let Some(repositories) = counted.repositories.get() {
            register_repositories(&mut all, &repositories.state());
        }
        let mut text = String::new();
        encode(&mut text, &all)?;
        Ok(text)
    }
}

fn register_runs(all: &mut Registry, runs: &[Arc<BackupRun>]) {
    let states: Family<OfRun, Gauge> = Family::default();
    for state in RunState::ALL {
        states.get_or_create(&OfRun { state }).set(0);
    }
    for run in runs {
        states.get_or_create(&OfRun { state: RunState::of(run) }).inc();
    }
    all.register("runs", "BackupRuns that there are", states);
    let points: Family<OfVm, Gauge> = Family::default();
    for (vm, seconds) in run::newest_points(runs) {
        points.get_or_create(&OfVm { vm }).set(seconds);
    }
    let help = "When the newest backup that has a point was begun, since 1970";
    all.register_with_unit("last_point_timestamp", help, Unit::Seconds, points);
    let damaged: Family<OfVm, Gauge> = Family::default();
    for (vm, is_damaged) in run::damaged_points(runs) {
        damaged.get_or_create(&OfVm { vm }).set(is_damaged);
    }
    all.register("verified_point_damaged", "1 if the newest point that was verified is damaged", damaged);
    let checkpoints: Family<OfVm, Gauge> = Family::default();
    for (vm, left) in run::left_checkpoints(runs) {
        checkpoints.get_or_create(&OfVm { vm }).set(left);
    }
    all.register("checkpoints_left", "The newest runs in a row after which checkpoints may have stayed", checkpoints);
}

fn register_repositories(all: &mut Registry, repositories: &[Arc<Repository>]) {
    let states: Family<OfRepository, Gauge> = Family::default();
    for state in [RepositoryState::Ready, RepositoryState::NotReady, RepositoryState::Unknown] {
        states.get_or_create(&OfRepository { state }).set(0);
    }
    for repository in repositories {
        states.get_or_create(&OfRepository { state: RepositoryState::of(repository) }).inc();
    }
    all.register("repositories", "Repositories that there are", states);
}

impl RepositoryState {
    fn of(repository: &Repository) -> Self {
        let conditions = repository.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        match conditions::find(conditions, "Ready").map(|ready| ready.status.as_str()) {
            Some("True") => Self::Ready,
            Some("False") => Self::NotReady,
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests;
