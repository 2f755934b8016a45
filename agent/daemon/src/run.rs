//! From the arguments to the loop, and to the exit code.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use remora_core::{Error, Result};
use remora_plugins::movers::Movers;
use remora_plugins::set::Kept;
use remora_plugins::{Host, HostOptions, Registries};
use remora_schedule::Policies;
use remora_source::{LibvirtOptions, LibvirtSource};
use remora_transfer::Task;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::agent::Agent;
use crate::answers::AnswersFile;
use crate::args::{Args, Command, WorkerArgs};
use crate::config::Config;
use crate::ledger::LedgerFile;
use crate::metrics::Metrics;
use crate::node;
use crate::repositories::Repositories;
use crate::web::{self, Health};
use crate::work::Tools;

/// Everything; the exit code.
pub(crate) fn run() -> u8 {
    let args = Args::parse();
    log(&args);
    let ended = match args.command {
        Some(Command::Watchdog) => return remora_source::watchdog::main(),
        Some(Command::Retire { .. }) => return remora_source::kubevirt::retire_main(),
        Some(Command::Receive { worker, overlays }) => {
            remora_transfer::remove_overlays(&overlays).and_then(|()| serve(Task::Receive, worker))
        }
        Some(Command::Lend(worker)) => serve(Task::Lend, worker),
        Some(Command::Node(node)) => in_runtime(|cancel| node::work(node, cancel)),
        None => in_runtime(|cancel| work(args.config, cancel)),
    };
    match ended {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!(advice = error.advice().unwrap_or_default(), "{}", error.chain());
            1
        }
    }
}

/// The work of a pod that has claims.
fn serve(task: Task, args: WorkerArgs) -> Result<()> {
    remora_transfer::serve(task, args.listen, &args.tls, args.disks)
}

fn log(args: &Args) {
    use tracing_subscriber::EnvFilter;
    let level = match args.verbose {
        0 => "info",
        1 => "debug",
        _ => "trace",
    };
    // wasmtime's compiler tells much.
    let usual = format!(
        "warn,remora={level},remora_agent={level},remora_engine={level},remora_kube={level},remora_source={level},remora_transfer={level},remora_vault={level},remora_plugins={level},remora_schedule={level}"
    );
    let filter = std::env::var("REMORA_LOG").unwrap_or(usual);
    let lines = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_env_filter(EnvFilter::builder().parse_lossy(filter));
    if args.log_json { lines.json().init() } else { lines.init() }
}

fn in_runtime<W: Future<Output = Result<()>>>(work: impl FnOnce(CancellationToken) -> W) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Error::io("starting threads", e))?;
    let result = runtime.block_on(async {
        let cancel = CancellationToken::new();
        stop_on_signal(&cancel)?;
        work(cancel).await
    });
    // A blocking call that hangs must not keep the process.
    runtime.shutdown_background();
    result
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
        let listener = web::bind(address).await?;
        // It is ready once its policies are loaded, and they are.
        let health = Health { metrics: Box::new(move || metrics.text()), ready: Box::new(|| true) };
        beside.spawn(web::serve(listener, health, cancel.clone()));
    }
    beside.spawn(policies.keep(cancel.clone()));
    tracing::info!(config = %folder.display(), "the agent is at work");
    let ended = agent.run().await;
    cancel.cancel();
    beside.join_all().await;
    ended
}

fn source(config: &Config) -> Result<LibvirtSource> {
    let watchdog: Vec<OsString> = vec!["/proc/self/exe".into(), "watchdog".into()];
    let mut options = LibvirtOptions::new(watchdog);
    options.connect.clone_from(&config.connect);
    options.scratch.clone_from(&config.scratch);
    if let Some(run_dir) = &config.run_dir {
        options.run_dir.clone_from(run_dir);
    }
    LibvirtSource::new(options)
}

/// The first signal asks for a clean stop; a second one ends the process at once, and the watchdogs clean up.
fn stop_on_signal(cancel: &CancellationToken) -> Result<()> {
    let failed = |e| Error::io("catching signals", e);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let cancel = cancel.clone();
    tokio::spawn(async move {
        for first in [true, false] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if first {
                tracing::info!("stopping: runs are ended, and leave nothing behind");
                cancel.cancel();
            } else {
                remora_source::leave(1);
            }
        }
    });
    Ok(())
}
