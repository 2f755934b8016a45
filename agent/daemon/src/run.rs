//! From the arguments to the loop, and to the exit code.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use remora_core::Result;
use remora_plugins::movers::Movers;
use remora_plugins::set::Kept;
use remora_plugins::{Host, HostOptions, Registries};
use remora_schedule::Policies;
use remora_service::{Health, LogLines, exit_code, in_runtime, log_to_stderr};
use remora_source::{LibvirtOptions, LibvirtSource};
use remora_transfer::Task;
use tokio_util::sync::CancellationToken;

use crate::agent::Agent;
use crate::answers::AnswersFile;
use crate::args::{Args, Command, WorkerArgs};
use crate::config::Config;
use crate::ledger::LedgerFile;
use crate::metrics::Metrics;
use crate::node;
use crate::repositories::Repositories;
use crate::work::Tools;

/// Everything; the exit code.
pub(crate) fn run() -> u8 {
    let args = Args::parse();
    log_to_stderr(args.verbose, if args.log_json { LogLines::Json } else { LogLines::Text });
    let ended = match args.command {
        Some(Command::Watchdog) => return remora_source::watchdog::main(),
        Some(Command::Retire { .. }) => return remora_source::kubevirt::retire_main(),
        Some(Command::Receive { worker, overlays }) => {
            remora_transfer::remove_overlays(&overlays).and_then(|()| serve(Task::Receive, worker))
        }
        Some(Command::Lend(worker)) => serve(Task::Lend, worker),
        // At a second signal the watchdogs clean up.
        Some(Command::Node(node)) => in_runtime(remora_source::leave, |cancel| node::work(node, cancel)),
        None => in_runtime(remora_source::leave, |cancel| work(args.config, cancel)),
    };
    exit_code(ended)
}

/// The work of a pod that has claims.
fn serve(task: Task, args: WorkerArgs) -> Result<()> {
    remora_transfer::serve(task, args.listen, &args.tls, args.disks)
}

async fn work(folder: PathBuf, cancel: CancellationToken) -> Result<()> {
    let config = Config::read(&folder)?;
    let plugins = folder.join("plugins");
    let registries = Registries::new(&plugins, Some(&config.state));
    let host = Host::new(&HostOptions { state: Some(config.state.clone()), registries, ..HostOptions::default() })?;
    let metrics = Arc::new(Metrics::new());
    let kept = Kept::new(config.state.join("policies"));
    let mut policies = Policies::new(folder.join("policies"), host, Some(kept), metrics.policies.clone());
    policies.begin().await?;
    let source = source(&config)?;
    let movers = Movers::new(plugins, Some(&config.state));
    let repositories = Repositories::new(config.repositories, movers, config.state.clone());
    let tools = Arc::new(Tools { source, repositories, policies: policies.subscribe(), cancel: cancel.clone() });
    let ledger = LedgerFile::open(&config.state)?;
    let parallel = usize::try_from(config.parallel.get()).unwrap_or(usize::MAX);
    let answers = AnswersFile::new(&config.state);
    let agent = Agent::new(tools, Arc::clone(&metrics), policies.subscribe(), ledger, answers, parallel);
    let mut beside = tokio::task::JoinSet::new();
    if let Some(address) = config.listen {
        let listener = remora_service::bind(address).await;
        let listener = listener.map_err(|error| error.advise("Choose another address with `listen`."))?;
        // It is ready once its policies are loaded, and they are.
        let health = Health { metrics: Box::new(move || metrics.text()), ready: Box::new(|| Ok(())) };
        beside.spawn(remora_service::serve(listener, health, cancel.clone()));
    }
    beside.spawn(policies.keep(cancel.clone()));
    tracing::info!(config = %folder.display(), "the agent is at work");
    let ended = agent.run().await;
    cancel.cancel();
    beside.join_all().await;
    ended
}

fn source(config: &Config) -> Result<LibvirtSource> {
    let mut options = LibvirtOptions::of_this_program();
    options.connect.clone_from(&config.connect);
    options.scratch.clone_from(&config.scratch);
    if let Some(run_dir) = &config.run_dir {
        options.run_dir.clone_from(run_dir);
    }
    LibvirtSource::new(options)
}
