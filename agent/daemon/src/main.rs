//! `remora-agent`: backs VMs up by policy, on a libvirt host; and as `remora-agent node` those of a node of Kubernetes.
//!
//! Start reading at `agent.rs` (the loop), then `plan.rs` (which runs are due, from what policies say and what is written in
//! the ledger) and `work.rs` (one run: backup, retention, verification). `watch.rs` keeps the policies in force.
//! `node.rs` is the agent on Kubernetes, which knows no policies: `BackupRun`s tell it what to do.

mod agent;
mod args;
mod config;
mod ledger;
mod metrics;
mod node;
mod plan;
mod repositories;
mod run;
mod watch;
mod web;
mod work;

fn main() {
    remora_source::leave(run::run())
}
