//! From the arguments to the controller, and to the exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use remora_core::Result;
use remora_kube::controller::{self, Scheduler, Settings};
use remora_plugins::movers::Movers;
use remora_plugins::set::Kept;
use remora_plugins::{Host, HostOptions, Registries};
use remora_schedule::{Policies, PolicyMetrics};
use remora_service::{LogLines, exit_code, in_runtime, log_to_stderr};
use remora_vault::Plugins;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::args::Args;
use crate::schedule::ByPolicy;

/// Everything.
pub(crate) fn run() -> ExitCode {
    let args = Args::parse();
    log_to_stderr(args.verbose, if args.log_json { LogLines::Json } else { LogLines::Text });
    exit_code(in_runtime(leave, |cancel| work(args, cancel))).into()
}

async fn work(args: Args, cancel: CancellationToken) -> Result<()> {
    let client = remora_kube::client("The controller runs in a pod, or with KUBECONFIG.").await?;
    let mut beside = JoinSet::new();
    let registries = args.plugins.as_ref().map(|folder| Registries::new(folder, args.state.as_deref()));
    let host = HostOptions { registries: registries.unwrap_or_default(), ..HostOptions::default() };
    let scheduler =
        args.policies.map(|folder| scheduler(folder, &host, args.kept, &mut beside, &cancel)).transpose()?;
    let plugins = args.plugins.map(|folder| Plugins::new(Movers::new(folder, args.state.as_deref()).opener()));
    let settings = Settings {
        namespace: args.namespace,
        instance: args.instance,
        agents: args.agents,
        keys: args.keys,
        health: args.health,
        service: args.service,
        image: args.image,
        scheduled_runs: args.scheduled_runs.get(),
        plugins,
    };
    let ended = controller::run(client, settings, scheduler, cancel.clone()).await;
    cancel.cancel();
    beside.join_all().await;
    ended
}

/// Follows the policies, whether this controller acts or not: one that comes to act has the last good version of each.
fn scheduler(
    folder: PathBuf,
    options: &HostOptions,
    kept: Option<PathBuf>,
    beside: &mut JoinSet<()>,
    cancel: &CancellationToken,
) -> Result<Box<dyn Scheduler>> {
    let host = Host::new(options)?;
    let metrics = PolicyMetrics::default();
    let policies = Policies::new(folder, host, kept.map(Kept::new), metrics.clone());
    let scheduler = ByPolicy::new(policies.subscribe(), metrics);
    beside.spawn(policies.keep(cancel.clone()));
    Ok(Box::new(scheduler))
}

/// At a second signal: the lease is not given back.
fn leave(code: u8) -> ! {
    std::process::exit(code.into())
}
