//! `remora-agent`: backs VMs up by policy, on a libvirt host; and as `remora-agent node` those of a node of Kubernetes.
//!
//! Start reading at `agent.rs` (the loop over what is due, which `remora-schedule` says), then `work.rs` (one run: backup,
//! retention, verification) and `keepers.rs` (what is kept of a VM's points). `node.rs` is the agent on Kubernetes:
//! `BackupRun`s tell it what to do, and of policies it asks retention alone.

mod agent;
mod answers;
mod args;
mod config;
mod keepers;
mod ledger;
mod metrics;
mod node;
mod repositories;
mod run;
#[cfg(test)]
mod testing;
mod work;

fn main() {
    remora_source::leave(run::run())
}
