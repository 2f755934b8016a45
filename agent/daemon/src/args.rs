//! The command line.
#![allow(clippy::doc_markdown, rustdoc::bare_urls)]

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Backs VMs up by policy: what is backed up, when, and for how long it is kept is in the documents of DIR/policies.
/// DIR/agent.toml names the repositories. docs/policies.md describes both.
#[derive(Debug, Parser)]
#[command(name = "remora-agent", version, max_term_width = 100, args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    /// The folder of agent.toml and policies/
    #[arg(long, value_name = "DIR", default_value = "/etc/remora")]
    pub(crate) config: PathBuf,
    /// Tell more of what is done (-vv: still more); REMORA_LOG takes filters such as `remora_vault=debug`
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Write log lines as JSON
    #[arg(long)]
    pub(crate) log_json: bool,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Watches over a backup; started by the agent itself
    #[command(hide = true)]
    Watchdog,
}
