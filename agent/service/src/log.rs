//! Log lines.

use tracing_subscriber::EnvFilter;

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLines {
    /// For people.
    Text,
    /// An object a line.
    Json,
}

/// Writes log lines to stderr from now on; once in a process. Of remora's crates `verbose` says how much: 0 is `info`, 1
/// `debug`, more `trace`; of others come warnings. The variable `REMORA_LOG` has filters to use instead.
pub fn log_to_stderr(verbose: u8, lines: LogLines) {
    let filter = std::env::var("REMORA_LOG").unwrap_or_else(|_| usual(verbose));
    let subscriber = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_env_filter(EnvFilter::builder().parse_lossy(filter));
    match lines {
        LogLines::Text => subscriber.init(),
        LogLines::Json => subscriber.json().init(),
    }
}

/// A filter's target is what the names of modules begin with, so that `remora` means all crates of remora. wasmtime's
/// compiler would tell much.
fn usual(verbose: u8) -> String {
    let level = match verbose {
        0 => "info",
        1 => "debug",
        _ => "trace",
    };
    format!("warn,remora={level}")
}

#[cfg(test)]
mod tests {
    use tracing::{Level, enabled, subscriber};

    use super::*;

    #[test]
    fn verbosity_is_for_each_crate_of_ours_and_for_no_other() {
        let filter = EnvFilter::builder().parse_lossy(usual(1));
        subscriber::with_default(tracing_subscriber::fmt().with_env_filter(filter).finish(), || {
            assert!(enabled!(target: "remora_agent::run", Level::DEBUG));
            assert!(enabled!(target: "remora_vault", Level::DEBUG));
            assert!(!enabled!(target: "remora_vault", Level::TRACE));
            assert!(enabled!(target: "wasmtime", Level::WARN));
            assert!(!enabled!(target: "wasmtime", Level::INFO));
        });
    }
}
