//! The resources of the group `remora.dev`: what users ask for and what the agents and the controller answer.
//!
//! All have conditions in the usual form. Times are RFC 3339, sizes are bytes.

#![allow(clippy::duplicated_attributes, reason = "the derive takes a list of columns and rules as one attribute each")]

mod agent_node;
mod backup_run;
mod references;
mod repository;
mod restore_run;
mod run;

pub use agent_node::{AgentNode, AgentNodeSpec, AgentNodeStatus, Capability, PolicyStanding, PolicyState};
pub use backup_run::{
    Attempt, AttemptState, BackupRun, BackupRunSpec, BackupRunStatus, DiskResult, Mode, Quiesce, ScratchSpec, Verify,
};
pub use references::{CaSecretReference, RepositoryReference, SecretKeyReference, SecretReference};
pub use repository::{Repository, RepositorySpec, RepositoryStatus};
pub use restore_run::{DiskTarget, RestoreRun, RestoreRunSpec, RestoreRunStatus, VirtualMachineTarget};
pub use run::Run;
