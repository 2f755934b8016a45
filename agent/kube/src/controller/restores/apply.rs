//! Does what was planned for a restore.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{ApiResource, DeleteParams, DynamicObject, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::objects::with_certificates;
use super::plan::{Ended, Plan, Status, Step, kept};
use crate::conditions::{self, Says};
use crate::controller::OWNER;
use crate::controller::apply::{differs, is_final, make, remove, set_finalizer, write_status};
use crate::controller::events::Events;
use crate::controller::plan::Finalizer;
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
    for step in &plan.steps {
        match take(client, &namespace, step).await {
            Ok(()) => {}
            // What was made before goes with the end.
            Err(kube::Error::Api(refused))
                if is_final(&refused) && status.as_ref().is_some_and(|one| one.ended.is_none()) =>
            {
                if let Some(status) = &mut status {
                    status.ended = Some(Ended::Badly(refusal(step, &refused.message)));
                }
                break;
            }
            Err(error) => return Err(error),
        }
    }
    if let Some(status) = status {
        let changed = set_status(client, &run, &status).await?;
        events.of_restore(&run, &changed).await;
    }
    Ok(())
}

async fn take(client: &Client, namespace: &str, step: &Step) -> Result<()> {
    match step {
        Step::RemoveWorker(thing) => remove::<Pod>(client, namespace, &thing.name, &thing.uid).await,
        // Its name has the run's UID: there is no other of that name.
        Step::RemoveSecret(thing) => {
            let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
            match secrets.delete(&thing.name, &DeleteParams::default()).await {
                Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
                deleted => deleted.map(drop),
            }
        }
        Step::RemoveClaim(thing) => remove::<PersistentVolumeClaim>(client, namespace, &thing.name, &thing.uid).await,
        Step::MakeClaim(claim) => make(client, namespace, &**claim).await,
        Step::MakeSecret(secret) => {
            let secret = with_certificates((**secret).clone()).map_err(|error| kube::Error::Service(error.into()))?;
            make(client, namespace, &secret).await
        }
        Step::MakeWorker(pod) => make(client, namespace, &**pod).await,
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
        Step::MakeSecret(_) => ("SecretRefused", "Secret of the worker's certificates"),
        Step::MakeWorker(_) => ("WorkerRefused", "pod that writes the claims"),
        Step::MakeMachine(_) => ("MachineRefused", "VirtualMachine"),
        Step::RemoveWorker(_) | Step::RemoveSecret(_) | Step::RemoveClaim(_) => {
            ("RemovalRefused", "removal of the worker")
        }
    };
    let message = format!(
        "The cluster refused the {what}: {message}. Remove the cause (a quota, a policy, a name), and create another \
         RestoreRun."
    );
    let says = Says::no(reason, message);
    if matches!(step, Step::MakeMachine(_)) { kept(says) } else { says }
}

/// Applies the controller's part, if it says something else than before; gives the conditions that are new.
async fn set_status(client: &Client, run: &RestoreRun, status: &Status) -> Result<Vec<Condition>> {
    let now = Timestamp::now();
    let conditions = conditions_of(run, status, now);
    let changed = conditions.iter().filter(|one| differs(conditions::find(run.conditions(), &one.type_), one));
    let changed: Vec<_> = changed.cloned().collect();
    let node = status.node.as_deref().or(run.node());
    if changed.is_empty() && run.node() == node && run.observed_generation() == run.metadata.generation {
        return Ok(Vec::new());
    }
    let mut fields = json!({"observedGeneration": run.metadata.generation, "conditions": conditions});
    if let Some(node) = node {
        fields["node"] = json!(node);
    }
    if status.ended.is_some() {
        fields["completionTime"] = json!(now.to_string());
    }
    write_status(client, run, &fields).await?;
    Ok(changed)
}

/// The controller's conditions: those that it does not change now are told again, or they would go.
fn conditions_of(run: &RestoreRun, status: &Status, now: Timestamp) -> Vec<Condition> {
    let (earlier, generation) = (run.conditions(), run.metadata.generation);
    let mut all = Vec::new();
    let mut tell = |kind: &str, says: Option<&Says>| {
        let kept = conditions::find(earlier, kind).cloned();
        all.extend(says.map(|says| says.condition(kind, earlier, generation, now)).or(kept));
    };
    tell("Assigned", status.assigned.as_ref());
    match &status.ended {
        Some(Ended::Well(message)) => tell("Complete", Some(&Says::yes("Restored", message.clone()))),
        Some(Ended::Badly(says)) => {
            tell("Complete", Some(says));
            tell("Failed", Some(&Says::yes(says.reason.clone(), says.message.clone())));
        }
        None => {}
    }
    all
}
