//! Events on runs and their VMs, for their owners to see.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};

use super::Me;
use super::record::REQUEST;
use crate::resources::BackupRun;

/// Tells of runs. An event that cannot be stored is lost: the status says the same.
#[derive(Clone)]
pub(super) struct Teller(Recorder);

impl Teller {
    pub(super) fn new(client: Client, me: &Me) -> Self {
        let reporter = Reporter { controller: "remora-agent".into(), instance: Some(me.pod.clone()) };
        Self(Recorder::new(client, reporter))
    }

    pub(super) async fn normal(&self, run: &BackupRun, reason: &str, note: &str) {
        self.tell(run, EventType::Normal, reason, note).await;
    }

    pub(super) async fn warning(&self, run: &BackupRun, reason: &str, note: &str) {
        self.tell(run, EventType::Warning, reason, note).await;
    }

    async fn tell(&self, run: &BackupRun, type_: EventType, reason: &str, note: &str) {
        let machine = ObjectReference {
            api_version: Some("kubevirt.io/v1".into()),
            kind: Some("VirtualMachine".into()),
            name: Some(run.spec.virtual_machine.clone()),
            namespace: run.metadata.namespace.clone(),
            ..Default::default()
        };
        let event = Event {
            type_,
            reason: shortened(reason, 128),
            note: Some(shortened(note, 1024)),
            action: "Backup".into(),
            secondary: Some(machine),
        };
        match tokio::time::timeout(REQUEST, self.0.publish(&event, &run.object_ref(&()))).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, reason, "an event is lost"),
            Err(_) => tracing::debug!(reason, "an event is lost: the API server is silent"),
        }
    }
}

/// As much of it as an event takes.
fn shortened(text: &str, bytes: usize) -> String {
    let end = (0..=bytes.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[..end].into()
}
