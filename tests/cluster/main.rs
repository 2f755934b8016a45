//! What must hold on a real cluster with a real KubeVirt.

#![allow(clippy::unwrap_used, reason = "these are tests throughout")]

mod agents;
mod backup_runs;
mod devices;
mod increments;
mod lab_works;
mod machines;
mod nodes;
mod others;
mod policies;
mod restore_runs;
mod scene;
mod scratch;
