//! Does what was planned for a run.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::events::Events;
use super::objects::{Wanted, with_token};
use super::observed::{Machine, Observed, Orphan};
use super::plan::{Finalizer, Plan, Status, Step};
use super::{FINALIZER, OWNER, worker};
use crate::api_server::is_refusal;
use crate::conditions::{self, Says};
use crate::kubevirt::{VirtualMachineBackup, VirtualMachineBackupTracker};
use crate::resources::{BackupRun, Run};
use crate::verification::VERIFIED;

type Result<T> = std::result::Result<T, kube::Error>;

/// Does it.
pub(super) async fn apply(client: &Client, events: &Events, observed: &Observed, plan: &Plan) -> Result<()> {
    let run = match plan.finalizer {
        Finalizer::Keep => observed.run.clone(),
        to => set_finalizer(client, &observed.run, to).await?,
    };
    let namespace = run.namespace().unwrap_or_default();
    let Some(status) = take_all(client, &namespace, plan).await? else { return Ok(()) };
    let changed = set_status(client, &run, &status).await?;
    let machine = match &observed.machine {
        Machine::Found(found) => Some(found.uid.as_str()),
        _ => None,
    };
    events.of_run(&run, machine, &changed).await;
    Ok(())
}

/// Takes the steps, up to one that the cluster refuses for good; gives what is to be said after that. Where nothing is to be
/// said of the run, such a refusal is an error like any other.
async fn take_all(client: &Client, namespace: &str, plan: &Plan) -> Result<Option<Status>> {
    let mut status = plan.status.clone();
    for step in &plan.steps {
        match (take(client, namespace, step).await, &mut status) {
            (Ok(()), _) => {}
            (Err(kube::Error::Api(refused)), Some(status)) if is_final(&refused) => {
                note_refused(status, step, refusal(step, &refused.message));
                break;
            }
            (Err(error), _) => return Err(error),
        }
    }
    if let Some(status) = &mut status {
        note_made(status, &plan.steps);
    }
    Ok(status)
}

/// A refusal is told of what is prepared; where nothing is, and it is a worker that was refused, of the assignment.
fn note_refused(status: &mut Status, step: &Step, says: Says) {
    match (&mut status.prepared, step) {
        (Some((_, prepared)), _) => *prepared = says,
        (None, Step::Worker(_)) => status.assigned = Some(says),
        (None, _) => {}
    }
}

/// What was being prepared is made, if its backup was among the steps and nothing was refused.
fn note_made(status: &mut Status, steps: &[Step]) {
    let made = steps.iter().any(|step| matches!(step, Step::Make(Wanted::Backup(_))));
    if made
        && let Some((_, prepared)) = &mut status.prepared
        && prepared.reason == "Preparing"
    {
        *prepared = Says::yes("Prepared", "Its VirtualMachineBackup was made.");
    }
}

async fn take(client: &Client, namespace: &str, step: &Step) -> Result<()> {
    match step {
        Step::RemoveBackup(thing) => remove::<VirtualMachineBackup>(client, namespace, &thing.name, &thing.uid).await,
        Step::RemoveScratch(thing) => remove::<PersistentVolumeClaim>(client, namespace, &thing.name, &thing.uid).await,
        Step::RemoveToken(thing) => remove::<Secret>(client, namespace, &thing.name, &thing.uid).await,
        Step::RemoveTracker(name, uid) => remove::<VirtualMachineBackupTracker>(client, namespace, name, uid).await,
        Step::LetGo(tracker, orphan) => let_go(client, namespace, tracker, orphan).await,
        Step::Worker(step) => worker::take(client, namespace, step).await,
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

/// Has KubeVirt let go of a backup, for which it wants a tracker. Where the namespace is being deleted none can be made any more,
/// and the backup would keep the namespace for ever: there KubeVirt's finalizer is taken away. The job ends with its machine.
async fn let_go(
    client: &Client,
    namespace: &str,
    tracker: &VirtualMachineBackupTracker,
    orphan: &Orphan,
) -> Result<()> {
    match make(client, namespace, tracker).await {
        Err(kube::Error::Api(refused)) if is_of_a_going_namespace(&refused) => {}
        made => return made,
    }
    let Orphan { backup, others, .. } = orphan;
    tracing::info!(
        namespace,
        backup = backup.name,
        "the namespace is being deleted: its VirtualMachineBackup is let go"
    );
    let patch = Patch::Merge(json!({"metadata": {"uid": backup.uid, "finalizers": others}}));
    let params = PatchParams { field_manager: Some(OWNER.into()), ..PatchParams::default() };
    let api: Api<VirtualMachineBackup> = Api::namespaced(client.clone(), namespace);
    match api.patch(&backup.name, &params, &patch).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        patched => patched.map(drop),
    }
}

/// Whether nothing can be made any more in the namespace, for it is being deleted.
fn is_of_a_going_namespace(refused: &kube::core::Status) -> bool {
    let mut causes = refused.details.iter().flat_map(|details| &details.causes);
    causes.any(|cause| cause.reason == "NamespaceTerminating")
}

/// What admission says of any request, as if it were forbidden, in an API server that has just started and has not read yet
/// what it decides by (`WaitForReady`, Kubernetes 1.34).
const STARTING: &str = "not yet ready to handle request";

/// Whether the same request would be refused again: forbidden, invalid, over a quota, by a webhook.
pub(super) fn is_final(status: &kube::core::Status) -> bool {
    let later = status.is_already_exists() || status.is_conflict() || status.message.contains(STARTING);
    is_refusal(status) && !later
}

fn refusal(step: &Step, message: &str) -> Says {
    let (reason, what) = match step {
        Step::Make(Wanted::Tracker(_)) => ("TrackerRefused", "VirtualMachineBackupTracker"),
        Step::Make(Wanted::Scratch(_)) => ("ScratchRefused", "PersistentVolumeClaim for the scratch"),
        Step::Make(Wanted::Token(_)) => ("TokenRefused", "Secret for KubeVirt's exporter"),
        Step::Make(Wanted::Backup(_)) => ("BackupRefused", "VirtualMachineBackup"),
        Step::Worker(step) => worker::refused(step),
        _ => ("RemovalRefused", "removal of what an earlier attempt left"),
    };
    refused_by_cluster::<BackupRun>(reason, what, message)
}

/// What is said of a run for which the cluster refused something.
pub(super) fn refused_by_cluster<R: Run>(reason: &'static str, what: &str, message: &str) -> Says {
    let another = R::kind(&());
    let message = format!(
        "The cluster refused the {what}: {message}. Remove the cause (a quota, a policy, a name), and create another {another}."
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
    let mut said = vec![
        ("Assigned", status.assigned.clone()),
        ("Prepared", status.prepared.as_ref().map(|(_, says)| says.clone())),
    ];
    if let Some(ended) = &status.ended {
        said.extend(failed(&Says::no(ended.reason, ended.message.clone())));
    }
    let earlier = run.status.as_ref().and_then(|status| status.prepared_attempt);
    let fields = json!({
        "node": status.node,
        "halted": status.halted.then_some(true),
        "preparedAttempt": status.prepared.as_ref().map(|(number, _)| *number).or(earlier),
    });
    tell(client, run, &said, fields).await
}

/// Ends the verification of a run's point in the place of its agent; gives the conditions that are new.
pub(super) async fn end_verification(client: &Client, run: &BackupRun, says: Says) -> Result<Vec<Condition>> {
    let said = [("Assigned", None), ("Prepared", None), (VERIFIED, Some(says))];
    let status = run.status.as_ref();
    let fields = json!({
        "node": run.node(),
        "halted": status.is_some_and(|status| status.halted).then_some(true),
        "preparedAttempt": status.and_then(|status| status.prepared_attempt),
    });
    tell(client, run, &said, fields).await
}

/// The conditions of a run that has failed.
pub(super) fn failed(why: &Says) -> [(&'static str, Option<Says>); 2] {
    [("Complete", Some(why.clone())), ("Failed", Some(Says::yes(why.reason.clone(), why.message.clone())))]
}

/// Applies conditions and fields of the controller's part, if they say something else than before; gives the conditions that
/// are new. A condition of which nothing is said is told as it was, or it would go; so would a field that is null.
pub(super) async fn tell<R: Run>(
    client: &Client,
    run: &R,
    said: &[(&str, Option<Says>)],
    fields: serde_json::Value,
) -> Result<Vec<Condition>> {
    let (now, earlier, generation) = (Timestamp::now(), run.conditions(), run.meta().generation);
    let condition = |(kind, says): &(&str, Option<Says>)| match says {
        Some(says) => Some(says.condition(kind, earlier, generation, now)),
        None => conditions::find(earlier, kind).cloned(),
    };
    let conditions: Vec<_> = said.iter().filter_map(condition).collect();
    let changed: Vec<_> = conditions.iter().filter(|one| conditions::is_news(earlier, one)).cloned().collect();
    let before = serde_json::to_value(run).map_err(kube::Error::SerdeError)?["status"].take();
    let mut fields = fields;
    fields["observedGeneration"] = json!(generation);
    let fields: serde_json::Map<_, _> = fields.as_object().cloned().unwrap_or_default();
    if changed.is_empty() && fields.iter().all(|(name, value)| before[name] == *value) {
        return Ok(Vec::new());
    }
    let mut fields: serde_json::Map<_, _> = fields.into_iter().filter(|(_, value)| !value.is_null()).collect();
    if conditions.iter().any(|one| one.type_ == "Complete") {
        fields.insert("completionTime".into(), json!(now.to_string()));
    }
    fields.insert("conditions".into(), json!(conditions));
    write_status(client, run, &fields.into()).await?;
    Ok(changed)
}

/// Writes the controller's fields of a status. Guarded: what an agent wrote meanwhile, a point above all, is never
/// overwritten unseen.
async fn write_status<R: Run>(client: &Client, run: &R, fields: &serde_json::Value) -> Result<()> {
    let object = json!({
        "apiVersion": R::api_version(&()), "kind": R::kind(&()),
        "metadata": {"name": run.name_any(), "uid": run.uid(), "resourceVersion": run.resource_version()},
        "status": fields,
    });
    let api: Api<R> = Api::namespaced(client.clone(), &run.namespace().unwrap_or_default());
    api.patch_status(&run.name_any(), &PatchParams::apply(OWNER).force(), &Patch::Apply(object)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_not_refused_for_what_passes() {
        let status = |code: u16, reason: &str| kube::core::Status::failure("no", reason).with_code(code);
        for (code, reason) in [(403, "Forbidden"), (422, "Invalid"), (400, "BadRequest"), (404, "NotFound")] {
            assert!(is_final(&status(code, reason)), "{reason}");
        }
        for (code, reason) in [
            (401, "Unauthorized"),
            (408, "Timeout"),
            (409, "Conflict"),
            (409, "AlreadyExists"),
            (429, "TooManyRequests"),
            (500, "InternalError"),
            (503, "ServiceUnavailable"),
        ] {
            assert!(!is_final(&status(code, reason)), "{reason}");
        }
        let starts = "virtualmachinebackups.backup.kubevirt.io \"x\" is forbidden: not yet ready to handle request";
        assert!(!is_final(&kube::core::Status::failure(starts, "Forbidden").with_code(403)));
    }
}
