//! The restores of one node: what attempts, deadlines and machines are for backups, they have not.

mod run;
mod said;

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use kube::{Client, ResourceExt};
use tokio_util::sync::CancellationToken;

use self::run::Restore;
use self::said::RestoreSaid;
use super::choose::Machine;
use super::duty::{Counts, Duty, Pace, Rounds, Taken};
use super::run::Outcome;
use super::tell::Teller;
use super::tend::Tended;
use super::{Failure, Me, Meter};
use crate::resources::{RestoreRun, RestoreRunSpec, Run};

/// Writes disks of points.
#[async_trait]
pub trait RestoreWorker: Send + Sync + 'static {
    /// Writes all that the order names, verified. Ends soon after `cancel`, with the kind `Cancelled`.
    async fn restore(&self, order: &RestoreOrder, meter: Arc<Meter>, cancel: CancellationToken) -> Result<(), Failure>;
}

/// A restore to be done.
#[derive(Clone, Debug)]
pub struct RestoreOrder {
    /// The run's namespace, which is also the tenant.
    pub namespace: String,
    /// The run's name.
    pub name: String,
    /// What is asked for.
    pub spec: RestoreRunSpec,
}

impl RestoreOrder {
    /// `<namespace>/<name>`, for logs.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// The restores of a node.
pub struct Restores<W: RestoreWorker>(Rounds<Restoring<W>>);

/// What an agent does with them.
struct Restoring<W> {
    me: Arc<Me>,
    worker: Arc<W>,
    pace: Pace,
    teller: Teller,
}

impl<W: RestoreWorker> Restores<W> {
    /// One that has done nothing yet.
    pub fn new(client: Client, me: Me, worker: W, pace: Pace, counts: Arc<Counts>) -> Self {
        let me = Arc::new(me);
        let teller = Teller::new(client.clone(), &me);
        let restoring = Restoring { me: Arc::clone(&me), worker: Arc::new(worker), pace, teller };
        Self(Rounds::new(client, me, restoring, pace, counts))
    }

    /// Works until it is told to stop; then gives back what is not done.
    pub async fn run(self, stop: CancellationToken) {
        self.0.run(stop).await;
    }
}

#[async_trait]
impl<W: RestoreWorker> Duty for Restoring<W> {
    type Run = RestoreRun;
    type Said = RestoreSaid;

    /// Restores are in nobody's way: their claims are their own.
    fn machine(run: &RestoreRun) -> Machine {
        (run.namespace().unwrap_or_default(), run.name_any())
    }

    fn vm(run: &RestoreRun) -> Option<&str> {
        run.spec.virtual_machine.as_ref().map(|machine| machine.name.as_str())
    }

    /// One that is to end is the controller's to end, whoever has claimed it: begun again it would end at once, and again.
    fn is_to_begin(run: &RestoreRun) -> bool {
        !run.is_cancelled()
    }

    fn claiming(&self, run: &RestoreRun, now: Timestamp) -> RestoreSaid {
        RestoreSaid::claiming(run, &self.me, now)
    }

    async fn done(&self, taken: Taken<RestoreRun, RestoreSaid>) -> Outcome {
        let order = order(&taken.object);
        tracing::info!(run = order.full_name(), point = order.spec.point, "a restore begins");
        let note = format!("the agent of node {} works on it", self.me.node);
        self.teller.of_restore(&taken.object, "Claimed", &note).await;
        let tended = Tended::new(order.full_name(), self.pace, taken);
        Restore { worker: Arc::clone(&self.worker), order, tended }.drive().await
    }
}

fn order(run: &RestoreRun) -> RestoreOrder {
    RestoreOrder { namespace: run.namespace().unwrap_or_default(), name: run.name_any(), spec: run.spec.clone() }
}
