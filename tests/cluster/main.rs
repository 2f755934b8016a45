//! What must hold on a real cluster with a real KubeVirt.

#![allow(clippy::unwrap_used, reason = "these are tests throughout")]

mod backup_runs;
mod lab_works;
mod restore_runs;
