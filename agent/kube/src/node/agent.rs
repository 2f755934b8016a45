//! The agent of a node: it makes points as `BackupRun`s ask for them, and tells what its node can do.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use kube::{Client, ResourceExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::choose::{Machine, machine};
use super::duty::{Counts, Duty, Pace, Rounds, Taken};
use super::run::{Outcome, Run};
use super::status::Said;
use super::tell::Teller;
use super::this_node::ThisNode;
use super::{Desk, Me, Meter, Order, Worker};
use crate::resources::BackupRun;

/// The agent of a node.
pub struct Agent<W: Worker> {
    node: ThisNode<W>,
    backups: Rounds<Backups<W>>,
}

/// What it does with backups.
struct Backups<W> {
    client: Client,
    me: Arc<Me>,
    worker: Arc<W>,
    pace: Pace,
    teller: Teller,
}

impl<W: Worker> Agent<W> {
    /// An agent that has done nothing yet.
    pub fn new(client: Client, me: Me, worker: W, pace: Pace, counts: Arc<Counts>) -> Self {
        let (me, worker) = (Arc::new(me), Arc::new(worker));
        let teller = Teller::new(client.clone(), &me);
        let node = ThisNode::new(client.clone(), Arc::clone(&me), Arc::clone(&worker), pace);
        let backups = Backups { client: client.clone(), me: Arc::clone(&me), worker, pace, teller };
        Self { node, backups: Rounds::new(client, me, backups, pace, counts) }
    }

    /// Works until it is told to stop; then gives back what is not done.
    pub async fn run(self, stop: CancellationToken) {
        let node = tokio::spawn(self.node.keep(stop.clone()));
        self.backups.run(stop).await;
        if let Err(died) = node.await {
            tracing::error!(%died, "who tells of this node has died");
        }
    }
}

#[async_trait]
impl<W: Worker> Duty for Backups<W> {
    type Run = BackupRun;
    type Said = Said;

    fn machine(run: &BackupRun) -> Machine {
        machine(run)
    }

    fn vm(run: &BackupRun) -> Option<&str> {
        Some(&run.spec.virtual_machine)
    }

    fn is_to_begin(_: &BackupRun) -> bool {
        true
    }

    fn claiming(&self, run: &BackupRun, now: Timestamp) -> Said {
        Said::claiming(run, &self.me, now)
    }

    async fn done(&self, taken: Taken<BackupRun, Said>) -> Outcome {
        let (sender, wishes) = mpsc::channel(4);
        let desk = Desk {
            client: self.client.clone(),
            me: Arc::clone(&self.me),
            order: order(&taken.object),
            meter: Arc::new(Meter::default()),
            wishes: sender,
            run: taken.seen,
            cancel: CancellationToken::new(),
            stopping: taken.stopping,
        };
        tracing::info!(run = desk.order.full_name(), vm = desk.order.spec.virtual_machine, "a run begins");
        let note = format!("the agent of node {} works on it", self.me.node);
        self.teller.claimed(&taken.object, &note).await;
        let (worker, teller, pace) = (Arc::clone(&self.worker), self.teller.clone(), self.pace);
        let run = Run { worker, teller, pace, object: taken.object, record: taken.record, desk, wishes };
        Box::pin(run.drive()).await
    }
}

pub(super) fn order(run: &BackupRun) -> Order {
    Order {
        namespace: run.namespace().unwrap_or_default(),
        name: run.name_any(),
        uid: run.uid().unwrap_or_default(),
        spec: run.spec.clone(),
    }
}
