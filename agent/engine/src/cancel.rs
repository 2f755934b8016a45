//! Cancellation of waits.

use std::future::Future;

use remora_core::{Error, ErrorKind, Result};
use tokio_util::sync::CancellationToken;

/// Awaits `work`, or drops it as soon as `cancel` is cancelled: `Cancelled` then.
pub async fn or_cancelled<T, E: From<Error>>(
    cancel: &CancellationToken,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(cancelled().into()),
        done = work => done,
    }
}

/// An error if `cancel` is cancelled.
pub(crate) fn check(cancel: &CancellationToken) -> Result<()> {
    if cancel.is_cancelled() { Err(cancelled()) } else { Ok(()) }
}

fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "cancelled")
}
