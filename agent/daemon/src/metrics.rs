//! Metrics, all with the prefix `remora_`. docs/metrics.md lists them; a test compares.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use remora_schedule::PolicyMetrics;

/// A VM under a policy. There are as many as the host has VMs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OfVm {
    pub(crate) policy: String,
    pub(crate) vm: String,
}

/// The end of a run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OfRun {
    pub(crate) policy: String,
    pub(crate) outcome: RunOutcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum RunOutcome {
    Succeeded,
    Failed,
}

/// What follows a backup, under a policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OfStep {
    pub(crate) policy: String,
    pub(crate) step: Step,
}

/// What follows a backup: if it fails, the point is there all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Step {
    /// Locking for longer what the points need.
    Lock,
    /// Dropping what its policies keep no longer.
    Prune,
    /// Reading the point.
    Verify,
}

type Seconds = Gauge<f64, AtomicU64>;

/// All of them.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) registry: Registry,
    pub(crate) runs: Family<OfRun, Counter>,
    pub(crate) problems: Family<OfStep, Counter>,
    pub(crate) last_point: Family<OfVm, Seconds>,
    pub(crate) stored: Family<OfVm, Counter>,
    pub(crate) dropped: Family<OfVm, Counter>,
    pub(crate) damaged: Family<OfVm, Gauge>,
    pub(crate) running: Gauge,
    pub(crate) waiting: Gauge,
    pub(crate) unreadable: Gauge,
    pub(crate) policies: PolicyMetrics,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("remora"),
            runs: Family::default(),
            problems: Family::default(),
            last_point: Family::default(),
            stored: Family::default(),
            dropped: Family::default(),
            damaged: Family::default(),
            running: Gauge::default(),
            waiting: Gauge::default(),
            unreadable: Gauge::default(),
            policies: PolicyMetrics::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let all = &mut self.registry;
        all.register("runs", "Runs that have ended", self.runs.clone());
        let help = "Steps after a backup that failed";
        all.register("run_problems", help, self.problems.clone());
        let help = "The instant that the newest point shows, since 1970";
        all.register_with_unit("last_point_timestamp", help, Unit::Seconds, self.last_point.clone());
        all.register_with_unit("stored", "What runs have added to repositories", Unit::Bytes, self.stored.clone());
        all.register("points_dropped", "Points that retention has dropped", self.dropped.clone());
        all.register("newest_point_damaged", "1 if the last verification found damage", self.damaged.clone());
        all.register("runs_in_progress", "Runs that are at work", self.running.clone());
        all.register("runs_waiting", "Runs that are due and wait for their turn", self.waiting.clone());
        all.register("vms_unreadable", "VMs whose definitions cannot be read", self.unreadable.clone());
        self.policies.register(all);
    }

    /// As Prometheus reads them.
    pub(crate) fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use remora_core::{Error, ErrorKind};

    use super::*;
    use crate::testing::one_file;

    #[test]
    fn the_document_lists_every_metric_and_no_other() {
        let metrics = Metrics::new();
        // A family is told of once it has a member.
        let of_vm = OfVm { policy: "p".into(), vm: "v".into() };
        drop(metrics.runs.get_or_create(&OfRun { policy: "p".into(), outcome: RunOutcome::Failed }));
        drop(metrics.problems.get_or_create(&OfStep { policy: "p".into(), step: Step::Prune }));
        drop(metrics.last_point.get_or_create(&of_vm));
        drop(metrics.stored.get_or_create(&of_vm));
        drop(metrics.dropped.get_or_create(&of_vm));
        drop(metrics.damaged.get_or_create(&of_vm));
        metrics.policies.failed(&("p".into(), remora_plugins::Kind::Select, Error::new(ErrorKind::Failed, "tried")));
        metrics.policies.in_force(&one_file());
        let text = metrics.text().unwrap();
        let document = include_str!("../../../docs/metrics.md");
        let mut names: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        for name in &mut names {
            *name = name.split(' ').next().unwrap();
        }
        assert!(names.len() > 8, "{text}");
        let of_others = |name: &str| ["remora_node_", "remora_controller_"].iter().any(|one| name.starts_with(one));
        let mut listed: Vec<_> = document
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .filter(|name| !of_others(name))
            .collect();
        let bare = |name: &str| name.trim_end_matches("_total").to_owned();
        let (mut names, mut listed): (Vec<_>, Vec<_>) =
            (names.drain(..).map(bare).collect(), listed.drain(..).map(bare).collect());
        names.sort();
        listed.sort();
        assert_eq!(listed, names);
    }
}
