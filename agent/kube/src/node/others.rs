//! What others do that ends a worker's work, for each loop that stands beside one; and the worker's own death.

use std::time::Duration;

use remora_core::{Error, ErrorKind};
use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::time::sleep;

use super::Failure;
use super::duty::Seen;
use super::record::{Lost, Record, Unwritten};
use super::status::Words;
use crate::resources::Run;

/// How long it waits before it asks an API server again that did not answer.
const LOOK_AGAIN: Duration = Duration::from_secs(20);

/// What others have done to a run that is at work.
pub(super) enum Others {
    Cancelled,
    Lost(Lost),
}

/// Waits for what ends the run before the worker does. May be dropped and called again.
pub(super) async fn ended_by_others<S: Words>(
    seen: &mut watch::Receiver<Seen<S::Run>>,
    record: &mut Record<S>,
) -> Others {
    loop {
        let now = seen.borrow_and_update().clone();
        match now {
            Some(run) => {
                if let Err(lost) = record.saw(&run) {
                    return Others::Lost(lost);
                }
                if run.is_cancelled() {
                    return Others::Cancelled;
                }
            }
            // A watch may lose it for other reasons: only the API server knows.
            None => match record.look().await {
                Ok(_) => {}
                Err(Unwritten::Lost(lost)) => return Others::Lost(lost),
                Err(Unwritten::Later(_)) => {
                    sleep(LOOK_AGAIN).await;
                    continue;
                }
            },
        }
        if seen.changed().await.is_err() {
            // Who watched has ended, and stops the runs too.
            return std::future::pending().await;
        }
    }
}

/// The worker's task has died.
pub(super) fn panicked(died: JoinError) -> Failure {
    Error::new(ErrorKind::Failed, "the run died of a bug of remora").because(died).into()
}
