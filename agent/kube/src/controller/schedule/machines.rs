//! The machines that there are: their names and labels, watched while a policy is in force.

use std::time::Duration;

use futures::StreamExt;
use kube::api::PartialObjectMeta;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use remora_core::VmName;
use remora_core::policy::VmFacts;
use tokio::task::JoinSet;

use crate::kubevirt::VirtualMachine;

type Meta = PartialObjectMeta<VirtualMachine>;

/// How long a look waits for them: another one follows.
const WAIT: Duration = Duration::from_secs(2);

/// Dropping it ends the watch.
pub(super) struct Machines {
    store: Store<Meta>,
    _watch: JoinSet<()>,
}

impl Machines {
    /// Begins to watch. A kind that the API server does not know may yet come.
    pub(super) fn watch(client: Client) -> Self {
        let (store, writer) = reflector::store::<Meta>();
        let changes = watcher(Api::<Meta>::all(client), watcher::Config::default())
            .default_backoff()
            .modify(|machine| {
                // Only names and labels are of use, and these are most of it.
                machine.metadata.managed_fields = None;
                machine.metadata.annotations = None;
            })
            .reflect(writer);
        let mut watch = JoinSet::new();
        watch.spawn(changes.for_each(|change| async move {
            if let Err(error) = change {
                tracing::warn!(%error, "the VirtualMachines cannot be watched");
            }
        }));
        Self { store, _watch: watch }
    }

    /// Whether all are known.
    pub(super) async fn are_known(&self) -> bool {
        matches!(tokio::time::timeout(WAIT, self.store.wait_until_ready()).await, Ok(Ok(())))
    }

    /// What policies may know of them, in the order of their names. One that is going is not there.
    pub(super) fn facts(&self) -> Vec<VmFacts> {
        let there = self.store.state().into_iter().filter(|machine| machine.metadata.deletion_timestamp.is_none());
        let mut facts: Vec<_> = there.filter_map(|machine| facts(&machine)).collect();
        facts.sort_by(|a, b| a.name.cmp(&b.name));
        facts
    }
}

fn facts(machine: &Meta) -> Option<VmFacts> {
    let namespace = machine.namespace()?;
    Some(VmFacts {
        name: VmName::new(format!("{namespace}/{}", machine.name_any())).ok()?,
        namespace,
        uid: machine.uid().unwrap_or_default(),
        labels: machine.labels().clone(),
    })
}
