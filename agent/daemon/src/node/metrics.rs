//! What the agent of a node counts, as Prometheus reads it. docs/metrics.md lists it; a test compares.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use remora_kube::node::Counts;
use remora_schedule::PolicyMetrics;

/// What it counts of each kind of runs.
#[derive(Clone, Default)]
pub(super) struct OfKinds {
    pub(super) backups: Arc<Counts>,
    pub(super) restores: Arc<Counts>,
    pub(super) verifications: Arc<Counts>,
    pub(super) policies: PolicyMetrics,
    /// Points that retention has dropped.
    pub(super) dropped: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRun {
    kind: Kind,
    outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Kind {
    BackupRun,
    RestoreRun,
    /// Of the point of a `BackupRun`.
    Verification,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Outcome {
    Stored,
    Failed,
    Cancelled,
    GivenBack,
    Lost,
}

impl OfKinds {
    /// Whether the runs of all kinds are known; if they are not, what keeps them from it.
    pub(super) fn are_known(&self) -> Result<(), String> {
        let kinds = [&self.backups, &self.restores, &self.verifications];
        if kinds.iter().all(|counts| counts.ready.load(Ordering::Relaxed)) {
            return Ok(());
        }
        Err(kinds.iter().find_map(|counts| counts.trouble()).unwrap_or_default())
    }

    /// All of it, as it is now.
    pub(super) fn text(&self) -> Result<String, fmt::Error> {
        let runs: Family<OfRun, Counter> = Family::default();
        let (running, waiting): (Family<OfKind, Gauge>, Family<OfKind, Gauge>) = Default::default();
        let kinds = [
            (Kind::BackupRun, &self.backups),
            (Kind::RestoreRun, &self.restores),
            (Kind::Verification, &self.verifications),
        ];
        for (kind, counts) in kinds {
            let ended = [
                (Outcome::Stored, &counts.stored),
                (Outcome::Failed, &counts.failed),
                (Outcome::Cancelled, &counts.cancelled),
                (Outcome::GivenBack, &counts.given_back),
                (Outcome::Lost, &counts.lost),
            ];
            for (outcome, count) in ended {
                runs.get_or_create(&OfRun { kind, outcome }).inc_by(count.load(Ordering::Relaxed));
            }
            for (gauge, count) in [(&running, &counts.running), (&waiting, &counts.waiting)] {
                let count = i64::try_from(count.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
                gauge.get_or_create(&OfKind { kind }).set(count);
            }
        }
        let mut registry = Registry::with_prefix("remora");
        registry.register("node_runs", "Runs of this node that have ended here", runs);
        registry.register("node_runs_in_progress", "Runs that are at work", running);
        registry.register("node_runs_waiting", "Runs of this node that wait for their turn", waiting);
        registry.register("node_points_dropped", "Points that retention has dropped", self.dropped.clone());
        self.policies.register(registry.sub_registry_with_prefix("node"));
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use remora_core::{Error, ErrorKind};

    use super::*;
    use crate::testing::one_file;

    #[test]
    fn who_does_not_know_all_runs_tells_what_keeps_it_from_that() {
        let counts = OfKinds::default();
        assert_eq!(counts.are_known(), Err(String::new()), "it has only just begun");
        for known in [&counts.backups, &counts.restores] {
            known.ready.store(true, Ordering::Relaxed);
        }
        counts.verifications.set_trouble(Some("field label not supported".into()));
        assert_eq!(counts.are_known(), Err("field label not supported".into()));
        counts.verifications.set_trouble(None);
        counts.verifications.ready.store(true, Ordering::Relaxed);
        assert_eq!(counts.are_known(), Ok(()));
    }

    #[test]
    fn the_document_lists_every_metric_and_no_other() {
        let counts = OfKinds::default();
        counts.restores.given_back.store(3, Ordering::Relaxed);
        counts.backups.cancelled.store(2, Ordering::Relaxed);
        counts.policies.in_force(&one_file());
        counts.policies.failed(&("p".into(), remora_plugins::Kind::Select, Error::new(ErrorKind::Failed, "tried")));
        let text = counts.text().unwrap();
        assert!(text.contains("remora_node_runs_total{kind=\"RestoreRun\",outcome=\"GivenBack\"} 3"), "{text}");
        assert!(text.contains("remora_node_runs_total{kind=\"BackupRun\",outcome=\"GivenBack\"} 0"), "{text}");
        assert!(text.contains("remora_node_runs_total{kind=\"BackupRun\",outcome=\"Cancelled\"} 2"), "{text}");
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let mut names: Vec<_> = types.filter_map(|line| line.split(' ').next()).collect();
        let document = include_str!("../../../../docs/metrics.md");
        let rows = document.lines().filter_map(|line| line.strip_prefix("| `remora_node_")?.split('`').next());
        let mut listed: Vec<_> = rows.map(|name| format!("remora_node_{}", name.trim_end_matches("_total"))).collect();
        names.sort_unstable();
        listed.sort();
        assert_eq!(listed, names);
    }
}
