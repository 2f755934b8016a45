//! `remora-agent`: backs VMs up by policy, on a libvirt host.
//!
//! Start reading at `agent.rs` (the loop), then `plan.rs` (which runs are due, from what policies say and what is written in
//! the ledger) and `work.rs` (one run: backup, retention, verification). `watch.rs` keeps the policies in force.

mod agent;
mod args;
mod config;
mod ledger;
mod metrics;
mod plan;
mod repositories;
mod run;
mod watch;
mod web;
mod work;

fn main() {
    remora_source::leave(run::run())
}
