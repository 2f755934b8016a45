//! A run of the command: from the arguments to the exit code.

use std::io::Write;

use clap::{CommandFactory, Parser};
use remora_core::{Error, ErrorKind, Result};
use tokio_util::sync::CancellationToken;

use crate::args::{Cli, Command, Flags, OutputFormat};
use crate::commands;
use crate::context::Context;
use crate::environment::Environment;
use crate::errors::{USAGE, exit_code, render};
use crate::memory;
use crate::output::{LogLines, say, write_out};
use crate::progress::Silence;
use crate::settings::{Settings, output_of};

/// Threads that may block at once: reading and writing files, hashing, compressing.
const BLOCKING_THREADS: usize = 24;

/// Everything; the exit code.
pub(crate) fn run() -> u8 {
    // First of all, while there is one thread only.
    let environment = Environment::take();
    memory::tune_allocator();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error, &environment),
    };
    log_to_stderr(&cli.flags, &environment);
    match cli.command {
        Command::Watchdog => remora_source::watchdog::main(),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "remora", &mut script);
            end(write_out(&String::from_utf8_lossy(&script)), OutputFormat::Text)
        }
        Command::Crds => end(write_out(&remora_kube::crds::yaml()), OutputFormat::Text),
        command => {
            let early = output_of(&cli.flags, &environment).ok().flatten().unwrap_or_default();
            match Settings::gather(&cli.flags, &environment) {
                Ok(settings) => {
                    let format = settings.output;
                    let silent = cli.flags.quiet || format == OutputFormat::Json;
                    let silence = if silent { Silence::Silent } else { Silence::Audible };
                    let cancel = CancellationToken::new();
                    end(in_runtime(Context { settings, environment, silence, cancel }, command), format)
                }
                Err(error) => end(Err(error), early),
            }
        }
    }
}

fn end(result: Result<()>, format: OutputFormat) -> u8 {
    match result {
        Ok(()) => 0,
        Err(error) => {
            say(&render(&error, format));
            exit_code(error.kind())
        }
    }
}

/// Bad usage, or help. clap says it well for people; scripts that ask for JSON get JSON.
fn usage(error: &clap::Error, environment: &Environment) -> u8 {
    let wants_json = std::env::args().any(|arg| matches!(arg.as_str(), "-ojson" | "--output=json"))
        || std::env::args().zip(std::env::args().skip(1)).any(|(a, b)| (a == "-o" || a == "--output") && b == "json")
        || output_of(&Flags::default(), environment).is_ok_and(|format| format == Some(OutputFormat::Json));
    if error.use_stderr() && wants_json {
        let text = error.render().to_string();
        let error = Error::new(ErrorKind::Invalid, text.trim_end().trim_start_matches("error: "));
        say(&render(&error, OutputFormat::Json));
        return USAGE;
    }
    error.print().and_then(|()| std::io::stdout().flush()).ok();
    if error.use_stderr() { USAGE } else { 0 }
}

fn in_runtime(context: Context, command: Command) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.clamp(2, 4))
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .map_err(|e| Error::io("starting threads", e))?;
    let result = runtime.block_on(async {
        let signals = tokio::spawn(cancel_on_signal(context.cancel.clone()));
        // In a task of its own, so that it does not share its thread with the signals' wait.
        let command = tokio::spawn(async move { commands::run(&context, command).await });
        let result =
            command.await.unwrap_or_else(|died| Err(Error::new(ErrorKind::Failed, "the command died").because(died)));
        signals.abort();
        result
    });
    // A blocking call that hangs must not keep the process.
    runtime.shutdown_background();
    result
}

/// The first signal asks for a clean stop; a second one ends the process at once.
async fn cancel_on_signal(cancel: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = kinds.map(signal) else {
        tracing::warn!("signals cannot be caught: a signal will end this process without cleaning up");
        return;
    };
    for first in [true, false] {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        if first {
            cancel.cancel();
        } else {
            remora_source::leave(exit_code(ErrorKind::Cancelled));
        }
    }
}

fn log_to_stderr(flags: &Flags, environment: &Environment) {
    use tracing_subscriber::EnvFilter;
    let level = match flags.verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = environment.get("REMORA_LOG").and_then(|filter| filter.to_str());
    let filter = EnvFilter::builder().parse_lossy(filter.unwrap_or(level));
    let to_stderr = tracing_subscriber::fmt().with_writer(|| LogLines).with_ansi(false).with_env_filter(filter);
    to_stderr.with_target(flags.verbose > 1).init();
}
