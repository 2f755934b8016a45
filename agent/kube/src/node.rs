//! The agent of one node: it claims the runs of the VMs there, has them done, and tells how they go.
//!
//! What a run does is behind [`Worker`]; this crate knows no vault and no engine. Start reading at `duty.rs` (which runs are
//! begun), then `run.rs` (one run from claim to end), `claim.rs` and `record.rs` (how a status is written so that no two
//! agents ever work on one run). [`RunCluster`] is what the source of KubeVirt asks of the cluster.
//!
//! Who else writes: the controller assigns a run to a node, makes what the agent's attempt wants, and ends runs whose agent
//! is gone. Whoever holds the claim writes the end of a run; without one it is the controller.

mod again;
mod agent;
mod capability;
mod choose;
mod claim;
mod cluster;
mod definition;
mod desk;
mod duty;
mod failure;
mod identity;
mod key_service;
mod lives;
mod meter;
mod others;
mod record;
mod restores;
mod run;
mod status;
mod tell;
mod tend;
mod this_node;
mod verifications;
mod watch;
mod worker;

pub use agent::Agent;
pub use capability::clock;
pub use cluster::RunCluster;
pub use desk::Desk;
pub use duty::{Counts, Pace};
pub use failure::{Failure, reason};
pub use identity::Me;
pub use key_service::KeyService;
pub use meter::Meter;
pub use restores::{RestoreOrder, RestoreWorker, Restores};
pub use verifications::{Verifications, VerifyWorker};
pub use worker::{Done, Order, Worker};
