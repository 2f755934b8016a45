//! What the agent of a node counts, as Prometheus reads it. docs/metrics.md lists it; a test compares.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use remora_kube::node::Counts;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRun {
    outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Outcome {
    Stored,
    Failed,
    GivenBack,
    Lost,
}

/// All of it, as it is now.
pub(super) fn text(counts: &Counts) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("remora");
    let runs: Family<OfRun, Counter> = Family::default();
    let ended = [
        (Outcome::Stored, &counts.stored),
        (Outcome::Failed, &counts.failed),
        (Outcome::GivenBack, &counts.given_back),
        (Outcome::Lost, &counts.lost),
    ];
    for (outcome, count) in ended {
        runs.get_or_create(&OfRun { outcome }).inc_by(count.load(Ordering::Relaxed));
    }
    registry.register("node_runs", "Runs of this node that have ended here", runs);
    registry.register("node_runs_in_progress", "Runs that are at work", gauge(&counts.running));
    registry.register("node_runs_waiting", "Runs of this node that wait for their turn", gauge(&counts.waiting));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

fn gauge(count: &AtomicU64) -> Gauge {
    let gauge = Gauge::default();
    gauge.set(i64::try_from(count.load(Ordering::Relaxed)).unwrap_or(i64::MAX));
    gauge
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_lists_every_metric_and_no_other() {
        let counts = Counts::default();
        counts.given_back.store(3, Ordering::Relaxed);
        let text = text(&counts).unwrap();
        assert!(text.contains("remora_node_runs_total{outcome=\"GivenBack\"} 3"), "{text}");
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
