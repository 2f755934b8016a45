//! `remora-controller` beside a real API server, under its own `ServiceAccount` and its own rules. The tests play KubeVirt
//! and the agents.

mod cluster;
mod keys;
mod metrics;
mod policy;
mod refusals;
mod repositories;
mod restores;
mod runs;
