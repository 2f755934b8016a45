//! In what a program does its work, and how it ends.

use remora_core::{Error, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Does the work in a runtime of its own. SIGINT and SIGTERM ask for a clean stop, by the token; at a second one `leave` ends
/// the process at once, with exit code 1.
pub fn in_runtime<W: Future<Output = Result<()>>>(
    leave: fn(u8) -> !,
    work: impl FnOnce(CancellationToken) -> W,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Error::io("starting threads", e))?;
    let result = runtime.block_on(async {
        let cancel = CancellationToken::new();
        stop_on_signal(&cancel, leave)?;
        work(cancel).await
    });
    // A blocking call that hangs must not keep the process.
    runtime.shutdown_background();
    result
}

/// Fails if signals cannot be caught.
fn stop_on_signal(cancel: &CancellationToken, leave: fn(u8) -> !) -> Result<()> {
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
