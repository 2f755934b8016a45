//! What is counted of policies, whoever follows them: each program has these under a prefix of its own. docs/metrics.md lists
//! them.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use remora_plugins::set::Generation;

use crate::plan::Failure;

/// A call of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPolicy {
    policy: String,
    decides: String,
}

/// A file of the policy folder.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfFile {
    file: String,
}

/// All of them; its clones are the same.
#[derive(Clone, Debug, Default)]
pub struct PolicyMetrics {
    failures: Family<OfPolicy, Counter>,
    generation: Gauge,
    broken: Family<OfFile, Gauge>,
    stale_since: Family<OfFile, Gauge<f64, AtomicU64>>,
}

impl PolicyMetrics {
    /// Puts them into a registry.
    pub fn register(&self, all: &mut Registry) {
        all.register("policy_failures", "Calls of policies that failed", self.failures.clone());
        all.register("policy_generation", "The generation of policies in force", self.generation.clone());
        all.register("policy_broken", "1 if the file on disk is not in force", self.broken.clone());
        let help = "Since when another version than the one on disk is in force, since 1970; 0 if none is";
        all.register_with_unit("policy_stale_since_timestamp", help, Unit::Seconds, self.stale_since.clone());
    }

    /// A policy failed; what it last answered stays.
    pub fn failed(&self, failure: &Failure) {
        let (policy, decides, error) = failure;
        tracing::error!(policy, error = error.chain(), "{decides} failed; what it last answered stays");
        self.failures.get_or_create(&OfPolicy { policy: policy.clone(), decides: decides.to_string() }).inc();
    }

    /// Notes what is in force.
    pub fn in_force(&self, generation: &Generation) {
        self.generation.set(i64::try_from(generation.number).unwrap_or(i64::MAX));
        self.broken.clear();
        self.stale_since.clear();
        for file in &generation.files {
            let of = OfFile { file: file.file.clone() };
            self.broken.get_or_create(&of).set(i64::from(file.broken.is_some()));
            let since = file.stale_since().filter(|_| file.active.is_some());
            self.stale_since.get_or_create(&of).set(since.map_or(0.0, |since| since.as_duration().as_secs_f64()));
        }
    }
}
