//! Events on what users look at.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::events::{Event, EventType, Reporter};
use kube::{Client, Resource, ResourceExt};

use crate::recorder::Recorder;
use crate::resources::{BackupRun, Repository, RestoreRun};
use crate::verification::VERIFIED;

/// The most that an event's note may be.
const LONGEST: usize = 1000;

/// What a machine's owner does something about, rather than who asked for the run.
const OF_THE_MACHINE: &[&str] =
    &["TrackingDisabled", "TrackingPendingRestart", "FeatureGateDisabled", "NoEligibleDisk"];

/// Tells of events. One that cannot be told is logged: it is in a condition too.
pub(super) struct Events(Recorder);

impl Events {
    pub(super) fn new(client: Client, instance: &str) -> Self {
        let reporter = Reporter { controller: super::OWNER.into(), instance: Some(instance.into()) };
        Self(Recorder::new(client, reporter))
    }

    /// Of what changed for a run; on its machine too where that is the cause.
    pub(super) async fn of_run(&self, run: &BackupRun, machine: Option<&str>, changed: &[Condition]) {
        for condition in changed.iter().filter(|one| one.type_ != "Complete") {
            // Of a verification the controller tells only that nobody has done it.
            let bad = condition.type_ == VERIFIED || (condition.status == "False") != (condition.type_ == "Failed");
            let kind = if bad { EventType::Warning } else { EventType::Normal };
            let event = event(kind, &condition.reason, &condition.message, action(&condition.type_));
            self.publish(&event, &run.object_ref(&())).await;
            if let Some(uid) = machine.filter(|_| OF_THE_MACHINE.contains(&condition.reason.as_str())) {
                let machine = ObjectReference {
                    api_version: Some("kubevirt.io/v1".into()),
                    kind: Some("VirtualMachine".into()),
                    name: Some(run.spec.virtual_machine.clone()),
                    namespace: run.namespace(),
                    uid: Some(uid.into()),
                    ..ObjectReference::default()
                };
                self.publish(&event, &machine).await;
            }
        }
    }

    /// Of what changed for a restore.
    pub(super) async fn of_restore(&self, run: &RestoreRun, changed: &[Condition]) {
        let ended_well = |one: &&Condition| one.type_ != "Complete" || one.status == "True";
        for condition in changed.iter().filter(ended_well) {
            let bad = (condition.status == "False") != (condition.type_ == "Failed");
            let kind = if bad { EventType::Warning } else { EventType::Normal };
            let event = event(kind, &condition.reason, &condition.message, action(&condition.type_));
            self.publish(&event, &run.object_ref(&())).await;
        }
    }

    /// Of a repository.
    pub(super) async fn of_repository(&self, repository: &Repository, kind: EventType, reason: &str, message: &str) {
        self.publish(&event(kind, reason, message, "Open"), &repository.object_ref(&())).await;
    }

    async fn publish(&self, event: &Event, of: &ObjectReference) {
        if let Err(error) = self.0.publish(event, of).await {
            tracing::warn!(reason = event.reason, %error, "an event could not be told");
        }
    }
}

fn action(condition: &str) -> &'static str {
    match condition {
        "Assigned" => "Assign",
        "Prepared" => "Prepare",
        _ => "End",
    }
}

fn event(type_: EventType, reason: &str, message: &str, action: &str) -> Event {
    let end = (0..=message.len().min(LONGEST)).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
    Event { type_, reason: reason.into(), note: Some(message[..end].into()), action: action.into(), secondary: None }
}
