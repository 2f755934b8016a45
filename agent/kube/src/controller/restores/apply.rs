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
