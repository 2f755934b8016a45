//! From the arguments to the controller, and to the exit code.

use std::process::ExitCode;

use clap::Parser;
use remora_core::{Error, ErrorKind, Result};
use remora_kube::controller::{self, Settings};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::args::Args;

/// Everything.
pub(crate) fn run() -> ExitCode {
    let args = Args::parse();
    log(&args);
    match in_runtime(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(advice = error.advice().unwrap_or_default(), "{}", error.chain());
            ExitCode::FAILURE
        }
    }
}

fn log(args: &Args) {
    use tracing_subscriber::EnvFilter;
    let level = match args.verbose {
        0 => "info",
        1 => "debug",
        _ => "trace",
    };
    let usual = format!("warn,remora={level},remora_controller={level},remora_kube={level},remora_vault={level}");
    let filter = std::env::var("REMORA_LOG").unwrap_or(usual);
    let lines = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_env_filter(EnvFilter::builder().parse_lossy(filter));
    if args.log_json { lines.json().init() } else { lines.init() }
}

#[tokio::main]
async fn in_runtime(args: Args) -> Result<()> {
    // The one of this process; nobody was first.
    rustls::crypto::ring::default_provider().install_default().ok();
    let cancel = CancellationToken::new();
    stop_on_signal(&cancel)?;
    let client = kube::Client::try_default().await.map_err(|error| {
        Error::new(ErrorKind::Unavailable, "there is no API server to speak with")
            .because(error)
            .advise("The controller runs in a pod, or with KUBECONFIG.")
    })?;
    let settings = Settings {
        namespace: args.namespace,
        instance: args.instance,
        agents: args.agents,
        keys: args.keys,
        health: args.health,
        service: args.service,
        image: args.image,
    };
    controller::run(client, settings, cancel).await
}

/// A signal asks for a clean stop, in which the lease is given back; a second one ends the process at once.
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
                cancel.cancel();
            } else {
                std::process::exit(1);
            }
        }
    });
    Ok(())
}
