//! One restore, from its claim to the agent's last word.

use std::sync::Arc;

use jiff::Timestamp;

use super::said::RestoreSaid;
use super::{RestoreOrder, RestoreWorker};
use crate::node::Failure;
use crate::node::run::Outcome;
use crate::node::tend::{Early, Tended};

/// A claimed restore.
pub(super) struct Restore<W> {
    pub(super) worker: Arc<W>,
    pub(super) order: RestoreOrder,
    pub(super) tended: Tended<RestoreSaid>,
}

impl<W: RestoreWorker> Restore<W> {
    /// Has it done.
    pub(super) async fn drive(mut self) -> Outcome {
        let (worker, order) = (Arc::clone(&self.worker), self.order.clone());
        let work = |meter, cancel| async move { worker.restore(&order, meter, cancel).await };
        let (early, result) = self.tended.done(work).await;
        self.end(early, result).await
    }

    async fn end(mut self, early: Option<Early>, result: Result<(), Failure>) -> Outcome {
        let (now, said) = (Timestamp::now(), &mut self.tended.record.said);
        let outcome = match (early, &result) {
            (Some(Early::Lost(lost)), _) => {
                tracing::warn!(run = self.order.full_name(), "{lost}: nothing is written of it any more");
                return Outcome::Lost;
            }
            // The controller writes that end.
            (Some(Early::Cancelled), Err(_)) => return Outcome::Cancelled,
            (_, Ok(())) => {
                said.written(now);
                Outcome::Stored
            }
            (Some(Early::Stopping), Err(_)) => {
                said.given_back(now);
                Outcome::GivenBack
            }
            (None, Err(failure)) => {
                let (run, reason) = (self.order.full_name(), failure.reason());
                tracing::error!(run, reason, "{}", failure.message());
                said.failed(failure, now);
                Outcome::Failed
            }
        };
        if self.tended.write_all().await { outcome } else { Outcome::Lost }
    }
}
