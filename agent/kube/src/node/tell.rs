//! Events on runs and their VMs, for their owners to see.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Reporter};
use kube::{Api, Client, Resource};

use super::Me;
use super::record::REQUEST;
use super::status::WAITING;
use crate::kubevirt::VirtualMachine;
use crate::recorder::Recorder;
use crate::resources::{BackupRun, RestoreRun};

/// Tells of runs. An event that cannot be stored is lost: the status of the run says the same.
#[derive(Clone)]
pub(super) struct Teller {
    client: Client,
    recorder: Recorder,
}

impl Teller {
    pub(super) fn new(client: Client, me: &Me) -> Self {
        let reporter = Reporter { controller: "remora-agent".into(), instance: Some(me.pod.clone()) };
        Self { recorder: Recorder::new(client.clone(), reporter), client }
    }

    pub(super) async fn claimed(&self, run: &BackupRun, note: &str) {
        self.tell(run.object_ref(&()), "Backup", Some(machine(run, None)), (EventType::Normal, "Claimed", note)).await;
    }

    pub(super) async fn waits(&self, run: &BackupRun, note: &str) {
        self.of_both(run, (EventType::Normal, WAITING, note)).await;
    }

    pub(super) async fn stored(&self, run: &BackupRun, note: &str) {
        self.of_both(run, (EventType::Normal, "Stored", note)).await;
    }

    pub(super) async fn verified(&self, run: &BackupRun, note: &str) {
        self.of_both(run, (EventType::Normal, "Verified", note)).await;
    }

    pub(super) async fn failed(&self, run: &BackupRun, reason: &str, note: &str) {
        self.of_both(run, (EventType::Warning, reason, note)).await;
    }

    /// Of a restore only that it was claimed: the rest is the controller's to tell.
    pub(super) async fn of_restore(&self, run: &RestoreRun, reason: &str, note: &str) {
        self.tell(run.object_ref(&()), "Restore", None, (EventType::Normal, reason, note)).await;
    }

    /// On the run, and on its machine: whose owner looks at that one may not know of runs.
    async fn of_both(&self, run: &BackupRun, what: (EventType, &str, &str)) {
        let of_run = run.object_ref(&());
        self.tell(of_run.clone(), "Backup", Some(machine(run, None)), what).await;
        // Whoever describes the machine is shown events that have its UID.
        if let Some(uid) = self.uid_of_machine(run).await {
            self.tell(machine(run, Some(uid)), "Backup", Some(of_run), what).await;
        }
    }

    /// None too if it is not to be had now.
    async fn uid_of_machine(&self, run: &BackupRun) -> Option<String> {
        let machines = Api::<VirtualMachine>::namespaced(self.client.clone(), run.metadata.namespace.as_deref()?);
        let found = tokio::time::timeout(REQUEST, machines.get_metadata_opt(&run.spec.virtual_machine)).await;
        found.ok()?.ok()??.metadata.uid
    }

    async fn tell(
        &self,
        of: ObjectReference,
        action: &str,
        secondary: Option<ObjectReference>,
        what: (EventType, &str, &str),
    ) {
        let (type_, reason, note) = what;
        let event = Event {
            type_,
            reason: shortened(reason, 128),
            note: Some(shortened(note, 1024)),
            action: action.into(),
            secondary,
        };
        match tokio::time::timeout(REQUEST, self.recorder.publish(&event, &of)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, reason, "an event is lost"),
            Err(_) => tracing::debug!(reason, "an event is lost: the API server is silent"),
        }
    }
}

fn machine(run: &BackupRun, uid: Option<String>) -> ObjectReference {
    ObjectReference {
        api_version: Some("kubevirt.io/v1".into()),
        kind: Some("VirtualMachine".into()),
        name: Some(run.spec.virtual_machine.clone()),
        namespace: run.metadata.namespace.clone(),
        uid,
        ..Default::default()
    }
}

/// As much of it as an event takes.
fn shortened(text: &str, bytes: usize) -> String {
    let end = (0..=bytes.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[..end].into()
}
