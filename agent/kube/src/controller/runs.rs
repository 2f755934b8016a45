//! Keeps looking at the `BackupRun`s.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::channel::mpsc;
use futures::{Stream, StreamExt, future, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{Action, Config as ControllerConfig};
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::{Controller, PredicateConfig, WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio_util::sync::CancellationToken;

use super::clocks::Clocks;
use super::events::Events;
use super::index::Index;
use super::metrics::{Kind, Metrics};
use super::{Settings, apply, observe, plan, unverified, within};
use crate::kubevirt::{RUN_LABEL, VirtualMachineBackup, VirtualMachineInstance};
use crate::resources::{BackupRun, Repository, Run};
use crate::verification;

/// How many runs are looked at at once.
pub(super) const AT_ONCE: u16 = 16;

/// What looking at a run needs.
struct Context {
    client: Client,
    settings: Settings,
    events: Events,
    clocks: Clocks,
    metrics: Metrics,
}

/// Looks at them until `cancel`.
pub(super) async fn keep(
    (store, writer): (Store<BackupRun>, Writer<BackupRun>),
    client: Client,
    settings: Settings,
    metrics: Metrics,
    cancel: CancellationToken,
) {
    metrics.watch_runs(store.clone());
    let runs: Api<BackupRun> = Api::all(client.clone());
    let changes = watcher(runs, watcher::Config::default())
        .default_backoff()
        // Nobody asks for them, and they are most of a run's size.
        .modify(|run| run.metadata.managed_fields = None)
        .reflect(writer)
        .touched_objects()
        .predicate_filter(|run: &BackupRun| Some(what_matters(run, &attempt_of(run))), PredicateConfig::default());
    let index = Arc::new(Index::new(store.clone()));
    let (noted, (end, ended)) = (Arc::clone(&index), mpsc::unbounded());
    let changes = changes.inspect(move |run| {
        if let Ok(run) = run
            && noted.note(run)
        {
            end.unbounded_send(run.clone()).ok();
        }
    });
    let of_machines = of_machines(client.clone(), Arc::clone(&index));
    let of_backups = of_backups(client.clone(), Arc::clone(&index));
    let of_others = of_others(ended, index);
    let of_repositories = of_repositories(client.clone(), store.clone());
    let of_workers = of_workers(client.clone(), store.clone());
    let context = Arc::new(Context {
        events: Events::new(client.clone(), &settings.instance),
        clocks: Clocks::default(),
        client,
        settings,
        metrics,
    });
    Controller::for_stream(changes, store)
        .with_config(ControllerConfig::default().concurrency(AT_ONCE))
        .reconcile_on(of_machines)
        .reconcile_on(of_backups)
        .reconcile_on(of_others)
        .reconcile_on(of_repositories)
        .reconcile_on(of_workers)
        .graceful_shutdown_on(cancel.cancelled_owned())
        .run(reconcile, again_after, context)
        .for_each(|_| future::ready(()))
        .await;
}

/// Of a run all but what its agent tells of its progress, which changes every few seconds; and what else matters of its kind.
pub(super) fn what_matters(run: &impl Run, of_its_kind: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    (run.meta().generation, run.is_leaving(), run.finalizers(), run.node(), run.agent()).hash(&mut hasher);
    for condition in run.conditions() {
        (&condition.type_, &condition.status).hash(&mut hasher);
    }
    of_its_kind.hash(&mut hasher);
    hasher.finish()
}

/// What matters of a backup alone: whether it is complete, and its attempt.
fn attempt_of(run: &BackupRun) -> impl Hash {
    let status = run.status.as_ref();
    let attempt = status.and_then(|status| status.attempt.as_ref());
    let attempt = attempt.map(|attempt| (attempt.number, &attempt.backup, attempt.state as u8));
    (status.is_some_and(|status| status.completion_time.is_some()), attempt)
}

/// Objects that changed. A kind that the API server does not know may yet come: asked again, ever more seldom.
fn touched<K>(client: Client) -> impl Stream<Item = PartialObjectMeta<K>> + Send
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    watcher(Api::<PartialObjectMeta<K>>::all(client), watcher::Config::default())
        .default_backoff()
        .touched_objects()
        .filter_map(|touched| future::ready(touched.ok()))
}

/// The unfinished runs of machines that changed. Not all runs are looked through for each: there are thousands of both.
fn of_machines(client: Client, index: Arc<Index>) -> impl Stream<Item = ObjectRef<BackupRun>> + Send + 'static {
    touched::<VirtualMachineInstance>(client).flat_map(move |instance| {
        let namespace = instance.namespace().unwrap_or_default();
        stream::iter(index.of_machine(&namespace, &instance.name_any()))
    })
}

/// The unfinished runs that a backup which changed matters to.
fn of_backups(client: Client, index: Arc<Index>) -> impl Stream<Item = ObjectRef<BackupRun>> + Send + 'static {
    touched::<VirtualMachineBackup>(client).flat_map(move |backup| stream::iter(index.of_backup(&backup.metadata)))
}

/// The unfinished runs of the machines of those that have ended: they were perhaps waited for.
fn of_others(
    ended: mpsc::UnboundedReceiver<BackupRun>,
    index: Arc<Index>,
) -> impl Stream<Item = ObjectRef<BackupRun>> + Send + 'static {
    ended.flat_map(move |run| {
        let namespace = run.namespace().unwrap_or_default();
        stream::iter(index.of_machine(&namespace, &run.spec.virtual_machine))
    })
}

/// The unfinished runs that changed objects matter to.
pub(super) fn runs_of<R: Run, K: Send + 'static>(
    touched: impl Stream<Item = PartialObjectMeta<K>> + Send + 'static,
    store: Store<R>,
    matters: impl Fn(&R, &PartialObjectMeta<K>) -> bool + Send + 'static,
) -> impl Stream<Item = ObjectRef<R>> + Send + 'static
where
    PartialObjectMeta<K>: ResourceExt,
{
    touched.flat_map(move |object| {
        let runs = store.state().into_iter().filter(|run| matters(run, &object));
        let unfinished = runs.filter(|run| !run.has_ended() || plan::has_finalizer(&**run));
        stream::iter(unfinished.map(|run| ObjectRef::from_obj(&*run)).collect::<Vec<_>>())
    })
}

/// The unfinished runs whose repository changed.
pub(super) fn of_repositories<R: Run>(
    client: Client,
    store: Store<R>,
) -> impl Stream<Item = ObjectRef<R>> + Send + 'static {
    runs_of(touched::<Repository>(client), store, |run: &R, repository| {
        let reference = run.repository();
        reference.name == repository.name_any()
            && reference.namespace.clone().or_else(|| run.namespace()) == repository.namespace()
    })
}

/// The unfinished runs whose worker changed.
pub(super) fn of_workers<R: Run>(client: Client, store: Store<R>) -> impl Stream<Item = ObjectRef<R>> + Send + 'static {
    // Workers, and no other pod of the cluster.
    let of_runs = watcher::Config::default().labels(RUN_LABEL);
    let workers = watcher(Api::<PartialObjectMeta<Pod>>::all(client), of_runs)
        .default_backoff()
        .touched_objects()
        .filter_map(|touched| future::ready(touched.ok()));
    runs_of(workers, store, |run: &R, pod| {
        run.meta().namespace == pod.namespace() && run.meta().uid.as_ref() == pod.labels().get(RUN_LABEL)
    })
}

async fn reconcile(run: Arc<BackupRun>, context: Arc<Context>) -> Result<Action, kube::Error> {
    within(Box::pin(look(run, context))).await
}

async fn look(run: Arc<BackupRun>, context: Arc<Context>) -> Result<Action, kube::Error> {
    if run.has_ended() && !plan::has_finalizer(&*run) {
        return after_its_end(&run, &context).await;
    }
    let silent = context.clocks.silent(&*run, Instant::now());
    let observed = observe::observe(&context.client, &context.settings, (*run).clone(), silent).await?;
    let plan = plan::plan(&observed);
    tracing::debug!(namespace = run.namespace(), run = run.name_any(), ?plan, "looked at a run");
    apply::apply(&context.client, &context.events, &observed, &plan).await?;
    count(&context.metrics, &run, &plan);
    if plan.again.is_none() {
        context.clocks.forget(&run.uid().unwrap_or_default());
    }
    Ok(plan.again.map_or_else(Action::await_change, Action::requeue))
}

/// Of most runs nothing is left to look at then. Of others it is whether their points are verified.
async fn after_its_end(run: &BackupRun, context: &Context) -> Result<Action, kube::Error> {
    let again = if verification::is_open(run) {
        let silent = context.clocks.silent(run, Instant::now());
        unverified::look(&context.client, &context.settings, &context.events, run, silent).await?
    } else {
        None
    };
    if again.is_none() {
        context.clocks.forget(&run.uid().unwrap_or_default());
    }
    Ok(again.map_or_else(Action::await_change, Action::requeue))
}

/// What was written was guarded by the version that was looked at: each of these is counted once.
fn count(metrics: &Metrics, run: &BackupRun, plan: &plan::Plan) {
    let known = run.status.as_ref().is_some_and(|status| status.node.is_some());
    let given = plan.status.as_ref().is_some_and(|status| status.node.is_some());
    if given && !known {
        metrics.assigned(run, jiff::Timestamp::now());
    }
    if plan.finalizer == plan::Finalizer::Remove {
        metrics.ended(run);
    }
}

#[allow(clippy::needless_pass_by_value, reason = "the signature is the runtime's")]
fn again_after(run: Arc<BackupRun>, error: &kube::Error, context: Arc<Context>) -> Action {
    again(&*run, error, &context.clocks, &context.metrics, Kind::BackupRun)
}

/// The API server did not take it, or somebody was faster.
pub(super) fn again(run: &impl Run, error: &kube::Error, clocks: &Clocks, metrics: &Metrics, kind: Kind) -> Action {
    let conflict = matches!(error, kube::Error::Api(status) if status.is_conflict() || status.is_already_exists());
    if conflict {
        return Action::requeue(Duration::from_millis(500));
    }
    tracing::warn!(namespace = run.namespace(), run = run.name_any(), %error, "a run could not be looked at");
    metrics.failed(kind);
    clocks.forget(&run.meta().uid.clone().unwrap_or_default());
    Action::requeue(Duration::from_secs(10))
}
