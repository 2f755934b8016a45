//! Does what was planned for a restore.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{ApiResource, DynamicObject, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::plan::{Ended, Plan, Status, Step, kept};
use crate::conditions::Says;
use crate::controller::OWNER;
use crate::controller::apply::{failed, is_final, make, refused_by_cluster, remove, set_finalizer, tell};
use crate::controller::events::Events;
use crate::controller::plan::Finalizer;
use crate::controller::worker;
use crate::resources::{RestoreRun, Run};

type Result<T> = std::result::Result<T, kube::Error>;

/// Does it.
pub(super) async fn apply(client: &Client, events: &Events, run: &RestoreRun, plan: Plan) -> Result<()> {
    let mut run = run.clone();
    let namespace = run.namespace().unwrap_or_default();
    if plan.finalizer != Finalizer::Keep {
        run = set_finalizer(client, &run, plan.finalizer).await?;
    }
    let mut status = plan.status;
    // Nothing is removed before an end is written: who sees the past would remove what a living agent writes to, or the claims of a
    // restore that has ended well.
    if let Some(end) = status.take_if(|status| status.ended.is_some()) {
        say(client, events, &run, &end).await?;
    }
    for step in &plan.steps {
        match (take(client, &namespace, step).await, &mut status) {
            (Ok(()), _) => {}
            // What was made before goes with the end.
            (Err(kube::Error::Api(refused)), Some(status)) if is_final(&refused) => {
                status.ended = Some(Ended::Badly(refusal(step, &refused.message)));
                break;
            }
            (Err(error), _) => return Err(error),
        }
    }
    match status {
        Some(status) => say(client, events, &run, &status).await,
        None => Ok(()),
    }
}

/// Writes what is to be said, and tells of what is new of it.
async fn say(client: &Client, events: &Events, run: &RestoreRun, status: &Status) -> Result<()> {
    let changed = set_status(client, run, status).await?;
    events.of_restore(run, &changed).await;
    Ok(())
}

async fn take(client: &Client, namespace: &str, step: &Step) -> Result<()> {
    match step {
        Step::Worker(step) => worker::take(client, namespace, step).await,
        Step::RemoveClaim(thing) => remove::<PersistentVolumeClaim>(client, namespace, &thing.name, &thing.uid).await,
        Step::MakeClaim(claim) => make(client, namespace, &**claim).await,
        Step::MakeMachine(machine) => make_machine(client, namespace, machine).await,
    }
}

async fn make_machine(client: &Client, namespace: &str, machine: &Value) -> Result<()> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("kubevirt.io", "v1", "VirtualMachine"));
    let machines: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind);
    let machine = serde_json::from_value(machine.clone()).map_err(kube::Error::SerdeError)?;
    let params = PostParams { field_manager: Some(OWNER.into()), ..PostParams::default() };
    machines.create(&params, &machine).await.map(drop)
}

fn refusal(step: &Step, message: &str) -> Says {
    let (reason, what) = match step {
        Step::MakeClaim(_) => ("ClaimRefused", "PersistentVolumeClaim"),
        Step::Worker(step) => worker::refused(step),
        Step::MakeMachine(_) => ("MachineRefused", "VirtualMachine"),
        Step::RemoveClaim(_) => ("RemovalRefused", "removal of a claim that the restore had made"),
    };
    let says = refused_by_cluster::<RestoreRun>(reason, what, message);
    if matches!(step, Step::MakeMachine(_)) { kept(says) } else { says }
}

/// Applies the controller's part, if it says something else than before; gives the conditions that are new.
async fn set_status(client: &Client, run: &RestoreRun, status: &Status) -> Result<Vec<Condition>> {
    let mut said = vec![("Assigned", status.assigned.clone())];
    match &status.ended {
        Some(Ended::Well(message)) => said.push(("Complete", Some(Says::yes("Restored", message.clone())))),
        Some(Ended::Badly(says)) => said.extend(failed(says)),
        None => {}
    }
    let node = status.node.as_deref().or(run.node());
    tell(client, run, &said, json!({"node": node})).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::sync::{Arc, Mutex};

    use axum::Router;
    use http::{Method, StatusCode, Uri};

    use super::*;
    use crate::controller::FINALIZER;
    use crate::controller::observed::Thing;

    /// What is asked of the API server for a restore that is to end, and to lose a claim; events aside. Whether that is done.
    async fn ending(code: StatusCode) -> (Vec<String>, bool) {
        let run = json!({
            "apiVersion": "remora.dev/v1alpha1", "kind": "RestoreRun",
            "metadata": {
                "name": "run", "namespace": "shop", "uid": "run-uid", "resourceVersion": "7", "finalizers": [FINALIZER],
            },
            "spec": {"point": "0011223344556677-1", "repository": {"name": "r"}},
        });
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (noted, object) = (Arc::clone(&asked), run.to_string());
        let answer = move |method: Method, uri: Uri| async move {
            let (method, path) = (method.as_str(), uri.path());
            noted.lock().unwrap().push(format!("{method} {path}"));
            let done = json!({"apiVersion": "v1", "kind": "Status", "status": "Success"});
            let other =
                json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "Conflict", "code": 409});
            match (path.ends_with("/status"), code) {
                (true, StatusCode::CONFLICT) => (code, other.to_string()),
                (true, _) => (code, object),
                (false, _) => (StatusCode::OK, done.to_string()),
            }
        };
        let server: Router = Router::new().fallback(answer);
        let client = Client::new(server, "default");
        let claim = Thing { name: "copy".into(), uid: "claim-uid".into(), leaving: false };
        let ended = Ended::Badly(Says::no("AgentLost", "It has shown no sign of life."));
        let status = Status { ended: Some(ended), ..Status::default() };
        let plan = Plan { steps: vec![Step::RemoveClaim(claim)], status: Some(status), ..Plan::default() };
        let run = serde_json::from_value(run).unwrap();
        let done = apply(&client, &Events::new(client.clone(), "one"), &run, plan).await;
        let asked = asked.lock().unwrap().iter().filter(|asked| !asked.contains("/events")).cloned().collect();
        (asked, done.is_ok())
    }

    #[tokio::test]
    async fn nothing_is_removed_of_a_restore_that_has_become_another_one_since_it_was_seen() {
        let written = "PATCH /apis/remora.dev/v1alpha1/namespaces/shop/restoreruns/run/status";
        let removed = "DELETE /api/v1/namespaces/shop/persistentvolumeclaims/copy";
        assert_eq!(ending(StatusCode::CONFLICT).await, (vec![written.to_owned()], false));
        assert_eq!(ending(StatusCode::OK).await, (vec![written.to_owned(), removed.to_owned()], true));
    }
}
