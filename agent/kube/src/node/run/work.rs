//! What is asked of the worker, on a task of its own.

use std::sync::Arc;
use std::time::Duration;

use remora_core::{BackupName, Error, ErrorKind};
use tokio_util::sync::CancellationToken;

use crate::node::{Desk, Done, Failure, Worker};

/// How long a run that is to end may still look for what was committed before.
const LOOK: Duration = Duration::from_mins(1);

pub(super) struct Work<W> {
    pub(super) worker: Arc<W>,
    pub(super) desk: Desk,
    pub(super) cancel: CancellationToken,
}

impl<W: Worker> Work<W> {
    /// Finds the point that the attempt before has committed, or makes one.
    pub(super) async fn all(self, previous: Option<BackupName>) -> Result<Done, Failure> {
        if let Some(previous) = previous {
            let given_up = async {
                self.cancel.cancelled().await;
                tokio::time::sleep(LOOK).await;
            };
            let found = tokio::select! {
                found = self.worker.committed(&self.desk.order, &previous) => match found {
                    // No keys are given for what is to end.
                    Err(_) if self.cancel.is_cancelled() => None,
                    found => found?,
                },
                () = given_up => None,
            };
            if let Some(point) = found {
                let note = "it was committed by an agent that ended before it could tell";
                return Ok(Done { point, notes: vec![note.into()], left: None });
            }
        }
        if self.cancel.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "cancelled before it began").into());
        }
        self.worker.work(&self.desk.order, &self.desk, self.cancel).await
    }
}
