//! How a program ends.

use remora_core::{Error, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// From now on SIGINT and SIGTERM ask for a clean stop, by `cancel`; at a second one `leave` ends the process at once, with
/// exit code 1.
///
/// To be called in a runtime of tokio. Fails if signals cannot be caught.
pub fn stop_on_signal(cancel: &CancellationToken, leave: fn(u8) -> !) -> Result<()> {
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
                tracing::info!("stopping: what is at work is ended, and leaves nothing behind");
                cancel.cancel();
            } else {
                leave(1);
            }
        }
    });
    Ok(())
}

/// The exit code of a program that has `ended`, after a log line that says why if it failed.
pub fn exit_code(ended: Result<()>) -> u8 {
    match ended {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!(advice = error.advice().unwrap_or_default(), "{}", error.chain());
            1
        }
    }
}
