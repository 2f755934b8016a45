//! Does what was planned for a run.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::events::Events;
use super::objects::{Wanted, with_token};
use super::observed::{Machine, Observed};
use super::plan::{Finalizer, Plan, Status, Step};
use super::{FINALIZER, OWNER};
use crate::conditions::{self, Says};
use crate::kubevirt::{VirtualMachineBackup, VirtualMachineBackupTracker};
use crate::resources::{BackupRun, Run};

type Result<T> = std::result::Result<T, kube::Error>;

/// Does it.
pub(super) async fn apply(client: &Client, events: &Events, observed: &Observed, plan: &Plan) -> Result<()> {
    let mut run = observed.run.clone();
    let namespace = run.namespace().unwrap_or_default();
    if plan.finalizer != Finalizer::Keep {
        run = set_finalizer(client, &run, plan.finalizer).await?;
    }
    let mut status = plan.status.clone();
    for step in &plan.steps {
        match take(client, &namespace, step).await {
            Ok(()) => {}
            Err(kube::Error::Api(refused)) if is_final(&refused) && status.is_some() => {
                let says = refusal(step, &refused.message);
                if let Some((_, prepared)) = status.as_mut().and_then(|status| status.prepared.as_mut()) {
                    *prepared = says;
                }
                break;
            }
            Err(error) => return Err(error),
        }
    }
    let made = plan.steps.iter().any(|step| matches!(step, Step::Make(Wanted::Backup(_))));
    if let Some((_, prepared)) = status.as_mut().and_then(|status| status.prepared.as_mut()).filter(|_| made)
        && prepared.reason == "Preparing"
    {
        *prepared = Says::yes("Prepared", "Its VirtualMachineBackup was made.");
    }
    if let Some(status) = status {
        let changed = set_status(client, &run, &status).await?;
        let machine = match &observed.machine {
            Machine::Found(found) => Some(found.uid.as_str()),
            _ => None,
        };
        events.of_run(&run, machine, &changed).await;
    }
    Ok(())
}

async fn take(client: &Client, namespace: &str, step: &Step) -> Result<()> {
    match step {
        Step::RemoveBackup(thing) => remove::<VirtualMachineBackup>(client, namespace, &thing.name, &thing.uid).await,
        Step::RemoveScratch(thing) => remove::<PersistentVolumeClaim>(client, namespace, &thing.name, &thing.uid).await,
        Step::RemoveToken(thing) => remove::<Secret>(client, namespace, &thing.name, &thing.uid).await,
        Step::RemoveTracker(name, uid) => remove::<VirtualMachineBackupTracker>(client, namespace, name, uid).await,
        Step::Make(Wanted::Tracker(tracker)) => make(client, namespace, &**tracker).await,
        Step::Make(Wanted::Scratch(claim)) => make(client, namespace, &**claim).await,
        Step::Make(Wanted::Token(secret)) => make(client, namespace, &with_token((**secret).clone())).await,
        Step::Make(Wanted::Backup(backup)) => make(client, namespace, &**backup).await,
    }
}

/// Removes that very object; one of the same name that came after it stays.
pub(super) async fn remove<K>(client: &Client, namespace: &str, name: &str, uid: &str) -> Result<()>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let preconditions = Preconditions { uid: Some(uid.into()), ..Preconditions::default() };
    match api.delete(name, &DeleteParams::default().preconditions(preconditions)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes an object. One that is there already was not when it was looked for: what it is, is looked at anew.
pub(super) async fn make<K>(client: &Client, namespace: &str, object: &K) -> Result<()>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::Serialize
        + serde::de::DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let params = PostParams { field_manager: Some(OWNER.into()), ..PostParams::default() };
    api.create(&params, object).await.map(drop)
}

/// Whether the same request would be refused again: forbidden, invalid, over a quota, by a webhook.
pub(super) fn is_final(status: &kube::core::Status) -> bool {
    (400..500).contains(&status.code) && !status.is_already_exists() && !status.is_conflict() && status.code != 429
}

fn refusal(step: &Step, message: &str) -> Says {
    let (reason, what) = match step {
        Step::Make(Wanted::Tracker(_)) => ("TrackerRefused", "VirtualMachineBackupTracker"),
        Step::Make(Wanted::Scratch(_)) => ("ScratchRefused", "PersistentVolumeClaim for the scratch"),
        Step::Make(Wanted::Token(_)) => ("TokenRefused", "Secret for KubeVirt's exporter"),
        Step::Make(Wanted::Backup(_)) => ("BackupRefused", "VirtualMachineBackup"),
        _ => ("RemovalRefused", "removal of what an earlier attempt left"),
    };
    let message = format!(
        "The cluster refused the {what}: {message}. Remove the cause (a quota, a policy, a name), and create another BackupRun."
    );
    Says::no(reason, message)
}

pub(super) async fn set_finalizer<R: Run>(client: &Client, run: &R, to: Finalizer) -> Result<R> {
    let mut finalizers: Vec<_> = run.finalizers().to_vec();
    finalizers.retain(|one| one != FINALIZER);
    if to == Finalizer::Add {
        finalizers.push(FINALIZER.into());
    }
    let api: Api<R> = Api::namespaced(client.clone(), &run.namespace().unwrap_or_default());
    // Of this version of this very object: others' finalizers are in the list too.
    let metadata = json!({"uid": run.uid(), "resourceVersion": run.resource_version(), "finalizers": finalizers});
    let patch = Patch::Merge(json!({"metadata": metadata}));
    let params = PatchParams { field_manager: Some(OWNER.into()), ..PatchParams::default() };
    api.patch(&run.name_any(), &params, &patch).await
}

/// Applies the controller's part, if it says something else than before; gives the conditions that are new.
async fn set_status(client: &Client, run: &BackupRun, status: &Status) -> Result<Vec<Condition>> {
    let now = Timestamp::now();
    let earlier = run.status.clone().unwrap_or_default();
    let conditions = conditions_of(run, status, now);
    let changed = conditions.iter().filter(|one| differs(conditions::find(&earlier.conditions, &one.type_), one));
    let changed: Vec<_> = changed.cloned().collect();
    let mut fields = json!({"observedGeneration": run.metadata.generation, "conditions": conditions});
    if let Some(node) = &status.node {
        fields["node"] = json!(node);
    }
    let number = status.prepared.as_ref().map(|(number, _)| *number).or(earlier.prepared_attempt);
    if let Some(number) = number {
        fields["preparedAttempt"] = json!(number);
    }
    if status.ended.is_some() {
        fields["completionTime"] = json!(now.to_string());
    }
    let same = changed.is_empty()
        && earlier.node == status.node
        && earlier.prepared_attempt == number
        && earlier.observed_generation == run.metadata.generation;
    if same {
        return Ok(Vec::new());
    }
    write_status(client, run, &fields).await?;
    Ok(changed)
}

/// Writes the controller's fields of a status. Guarded: what an agent wrote meanwhile, a point above all, is never
/// overwritten unseen.
pub(super) async fn write_status<R: Run>(client: &Client, run: &R, fields: &serde_json::Value) -> Result<()> {
    let object = json!({
        "apiVersion": R::api_version(&()), "kind": R::kind(&()),
        "metadata": {"name": run.name_any(), "uid": run.uid(), "resourceVersion": run.resource_version()},
        "status": fields,
    });
    let api: Api<R> = Api::namespaced(client.clone(), &run.namespace().unwrap_or_default());
    api.patch_status(&run.name_any(), &PatchParams::apply(OWNER).force(), &Patch::Apply(object)).await?;
    Ok(())
}

pub(super) fn differs(earlier: Option<&Condition>, now: &Condition) -> bool {
    earlier.is_none_or(|earlier| {
        (&earlier.status, &earlier.reason, &earlier.message) != (&now.status, &now.reason, &now.message)
    })
}

/// The controller's conditions: those that it does not change now are told again, or they would go.
fn conditions_of(run: &BackupRun, status: &Status, now: Timestamp) -> Vec<Condition> {
    let earlier = run.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
    let generation = run.metadata.generation;
    let mut all = Vec::new();
    let mut tell = |kind: &str, says: Option<&Says>| {
        let kept = conditions::find(&earlier, kind).cloned();
        all.extend(says.map(|says| says.condition(kind, &earlier, generation, now)).or(kept));
    };
    tell("Assigned", status.assigned.as_ref());
    tell("Prepared", status.prepared.as_ref().map(|(_, says)| says));
    if let Some(ended) = &status.ended {
        tell("Complete", Some(&Says::no(ended.reason, ended.message.clone())));
        tell("Failed", Some(&Says::yes(ended.reason, ended.message.clone())));
    }
    all
}
