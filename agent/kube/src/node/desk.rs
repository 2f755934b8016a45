//! What a worker has at hand while it is at work on a run.

use std::sync::Arc;

use kube::Client;
use remora_core::RepositoryId;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::duty::Seen;
use super::record::Lost;
use super::{Me, Meter, Order, RunCluster};
use crate::resources::{Attempt, BackupRun};

/// A run's desk.
#[derive(Clone)]
pub struct Desk {
    pub(super) client: Client,
    pub(super) me: Arc<Me>,
    pub(super) order: Order,
    pub(super) meter: Arc<Meter>,
    pub(super) wishes: mpsc::Sender<Wish>,
    pub(super) run: watch::Receiver<Seen<BackupRun>>,
    /// The run is to end.
    pub(super) cancel: CancellationToken,
    /// The agent is to stop.
    pub(super) stopping: CancellationToken,
}

/// A change of the run's attempt, to be written before the answer.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) change: Change,
    pub(super) written: oneshot::Sender<Result<(), Lost>>,
}

#[derive(Debug)]
pub(super) enum Change {
    /// An attempt of a new name, wanted; its number is given when it is written.
    Want(Attempt),
    /// The attempt of this name is no longer wanted.
    End(String),
}

impl Desk {
    /// Where the worker tells how far it is.
    pub fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.meter)
    }

    /// What the source of KubeVirt asks of the cluster for this run.
    pub fn cluster(&self, repository: RepositoryId) -> RunCluster {
        RunCluster::new(self.clone(), repository)
    }
}
