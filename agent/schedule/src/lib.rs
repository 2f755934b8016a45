//! What policies make of time: which runs are due, and which policies are in force.
//!
//! Depends on `remora-core` and on `remora-plugins`, whose policies it asks; knows nothing of libvirt, Kubernetes or the
//! vault. Start reading at `plan.rs` (which runs are due, a function of what policies say, what the ledger remembers, and
//! the time), then `ledger.rs` and `follow.rs` (the folder of policies, followed).

mod answers;
mod follow;
mod ledger;
mod metrics;
mod plan;

pub use answers::{Answered, LastAnswers, LastDue};
pub use follow::Policies;
pub use ledger::{Charge, Entry, Ledger};
pub use metrics::PolicyMetrics;
pub use plan::{Failure, Job, Planner, Power, Selects, Vm};
