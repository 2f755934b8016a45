//! Keeps looking at the `BackupRun`s.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt, future};
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{Action, Config as ControllerConfig};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{Controller, PredicateConfig, WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio_util::sync::CancellationToken;

use super::clocks::Clocks;
use super::events::Events;
use super::{Settings, apply, observe, plan, within};
use crate::kubevirt::{VirtualMachineBackup, VirtualMachineInstance};
use crate::resources::{BackupRun, Repository};

/// How many runs are looked at at once.
const AT_ONCE: u16 = 16;

/// What looking at a run needs.
struct Context {
    client: Client,
    settings: Settings,
    events: Events,
    clocks: Clocks,
}

/// Looks at them until `cancel`.
pub(super) async fn keep(client: Client, settings: Settings, cancel: CancellationToken) {
    let (store, writer) = reflector::store::<BackupRun>();
    let runs: Api<BackupRun> = Api::all(client.clone());
    let changes = watcher(runs, watcher::Config::default())
        .default_backoff()
        .reflect(writer)
        .touched_objects()
        .predicate_filter(what_matters, PredicateConfig::default());
    let (machines, backups, repositories) = (
        touched::<VirtualMachineInstance>(client.clone()),
        touched::<VirtualMachineBackup>(client.clone()),
        touched::<Repository>(client.clone()),
    );
    let of_machines = runs_of(machines, store.clone(), |run, instance| {
        run.namespace() == instance.namespace() && run.spec.virtual_machine == instance.name_any()
    });
    // Whose backup it is stands in it or in its tracker; a namespace has few runs at a time.
    let of_backups = runs_of(backups, store.clone(), |run, backup| run.namespace() == backup.namespace());
    let of_repositories = runs_of(repositories, store.clone(), |run, repository| {
        let reference = &run.spec.repository;
        reference.name == repository.name_any()
            && reference.namespace.clone().or_else(|| run.namespace()) == repository.namespace()
    });
    let context = Arc::new(Context {
        events: Events::new(client.clone(), &settings.instance),
        clocks: Clocks::default(),
        client,
        settings,
    });
    Controller::for_stream(changes, store)
        .with_config(ControllerConfig::default().concurrency(AT_ONCE))
        .reconcile_on(of_machines)
        .reconcile_on(of_backups)
        .reconcile_on(of_repositories)
        .graceful_shutdown_on(cancel.cancelled_owned())
        .run(reconcile, again_after, context)
        .for_each(|_| future::ready(()))
        .await;
}

/// Of a run all but what its agent tells of its progress: that changes every few seconds.
#[allow(clippy::unnecessary_wraps)] // A predicate may have nothing to say.
fn what_matters(run: &BackupRun) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    (run.metadata.generation, run.metadata.deletion_timestamp.is_some(), run.finalizers()).hash(&mut hasher);
    let status = run.status.clone().unwrap_or_default();
    (status.node, status.agent, status.completion_time.is_some()).hash(&mut hasher);
    let attempt = status.attempt.map(|attempt| (attempt.number, attempt.backup, attempt.state as u8));
    attempt.hash(&mut hasher);
    for condition in &status.conditions {
        (&condition.type_, &condition.status).hash(&mut hasher);
    }
    Some(hasher.finish())
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

/// The unfinished runs that changed objects matter to.
fn runs_of<K: Send + 'static>(
    touched: impl Stream<Item = PartialObjectMeta<K>> + Send + 'static,
    store: Store<BackupRun>,
    matters: impl Fn(&BackupRun, &PartialObjectMeta<K>) -> bool + Send + 'static,
) -> impl Stream<Item = ObjectRef<BackupRun>> + Send + 'static
where
    PartialObjectMeta<K>: ResourceExt,
{
    touched.flat_map(move |object| {
        let runs = store.state().into_iter().filter(|run| matters(run, &object));
        let unfinished = runs.filter(|run| !plan::has_ended(run) || plan::has_finalizer(run));
        futures::stream::iter(unfinished.map(|run| ObjectRef::from_obj(&*run)).collect::<Vec<_>>())
    })
}

async fn reconcile(run: Arc<BackupRun>, context: Arc<Context>) -> Result<Action, kube::Error> {
    within(Box::pin(look(run, context))).await
}

async fn look(run: Arc<BackupRun>, context: Arc<Context>) -> Result<Action, kube::Error> {
    let silent = context.clocks.silent(&run, Instant::now());
    let observed = observe::observe(&context.client, &context.settings, (*run).clone(), silent).await?;
    let plan = plan::plan(&observed);
    tracing::debug!(namespace = run.namespace(), run = run.name_any(), ?plan, "looked at a run");
    apply::apply(&context.client, &context.events, &observed, &plan).await?;
    if plan.again.is_none() {
        context.clocks.forget(&run.uid().unwrap_or_default());
    }
    Ok(plan.again.map_or_else(Action::await_change, Action::requeue))
}

/// The API server did not take it, or somebody was faster.
#[allow(clippy::needless_pass_by_value, reason = "the signature is the runtime's")]
fn again_after(run: Arc<BackupRun>, error: &kube::Error, _: Arc<Context>) -> Action {
    let conflict = matches!(error, kube::Error::Api(status) if status.is_conflict() || status.is_already_exists());
    if conflict {
        return Action::requeue(Duration::from_millis(500));
    }
    tracing::warn!(namespace = run.namespace(), run = run.name_any(), %error, "a run could not be looked at");
    Action::requeue(Duration::from_secs(10))
}
