//! `remora`: backs up and restores the VMs of a libvirt host. `docs/cli.md` is its contract.
//!
//! Composes the crates and holds no logic of theirs. Start reading at [`run`]; each command is a file below
//! `commands/`.

mod args;
mod commands;
mod context;
mod environment;
mod errors;
mod memory;
mod output;
mod progress;
mod run;
mod secret;
mod settings;
mod size;

fn main() {
    remora_source::leave(run::run())
}
