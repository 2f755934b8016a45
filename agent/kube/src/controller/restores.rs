//! Restores: their claims, their worker, and the machine that one may end in.
//!
//! As for backups, `plan.rs` is what is decided, a pure function of `observed.rs`; `observe.rs` and `apply.rs` are its
//! hands. `machine.rs` makes a machine of what a point says of one, `claim.rs` the claims; `overlays.rs` says what else the
//! worker has to do, `rivals.rs` which of two restores to one claim is first.

mod apply;
mod claim;
mod machine;
mod observe;
mod observed;
mod overlays;
mod plan;
mod rivals;

use std::sync::Arc;
use std::time::Instant;

use futures::{Stream, StreamExt, future};
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{Action, Config as ControllerConfig};
use kube::runtime::{Controller, PredicateConfig, WatchStreamExt, reflector, watcher};
use kube::{Api, Client, ResourceExt};
use tokio_util::sync::CancellationToken;

use super::clocks::Clocks;
use super::events::Events;
use super::metrics::{Kind, Metrics};
use super::opened::Opened;
use super::plan::has_finalizer;
use super::runs::{AT_ONCE, again, of_repositories, of_workers, runs_of, what_matters};
use super::{Settings, within};
use crate::kubevirt::VirtualMachineInstance;
use crate::resources::{RestoreRun, Run};

type Instance = PartialObjectMeta<VirtualMachineInstance>;

/// What looking at a run needs.
struct Context {
    client: Client,
    settings: Settings,
    opened: Opened,
    events: Events,
    clocks: Clocks,
    metrics: Metrics,
}

/// Looks at them until `cancel`.
pub(super) async fn keep(
    client: Client,
    settings: Settings,
    opened: Opened,
    metrics: Metrics,
    cancel: CancellationToken,
) {
    let (store, writer) = reflector::store::<RestoreRun>();
    let runs: Api<RestoreRun> = Api::all(client.clone());
    let changes = watcher(runs, watcher::Config::default())
        .default_backoff()
        .modify(|run| run.metadata.managed_fields = None)
        .reflect(writer)
        .touched_objects()
        .predicate_filter(|run: &RestoreRun| Some(what_matters(run, &())), PredicateConfig::default());
    let of_repositories = of_repositories(client.clone(), store.clone());
    // One that starts may have a claim that is being written.
    let of_machines = runs_of(started(client.clone()), store.clone(), |run: &RestoreRun, instance| {
        run.node().is_some() && run.namespace() == instance.namespace()
    });
    let of_workers = of_workers(client.clone(), store.clone());
    let context = Arc::new(Context {
        events: Events::new(client.clone(), &settings.instance),
        clocks: Clocks::default(),
        client,
        settings,
        opened,
        metrics,
    });
    Controller::for_stream(changes, store)
        .with_config(ControllerConfig::default().concurrency(AT_ONCE))
        .reconcile_on(of_repositories)
        .reconcile_on(of_machines)
        .reconcile_on(of_workers)
        .graceful_shutdown_on(cancel.cancelled_owned())
        .run(reconcile, again_after, context)
        .for_each(|_| future::ready(()))
        .await;
}

/// What runs of machines, each once: it changes every few seconds.
fn started(client: Client) -> impl Stream<Item = Instance> + Send {
    watcher(Api::<Instance>::all(client), watcher::Config::default())
        .default_backoff()
        .touched_objects()
        // Those of another UID are others to it.
        .predicate_filter(|_: &Instance| Some(0_u64), PredicateConfig::default())
        .filter_map(|touched| future::ready(touched.ok()))
}

async fn reconcile(run: Arc<RestoreRun>, context: Arc<Context>) -> Result<Action, kube::Error> {
    within(Box::pin(look(run, context))).await
}

async fn look(run: Arc<RestoreRun>, context: Arc<Context>) -> Result<Action, kube::Error> {
    if run.has_ended() && !has_finalizer(&*run) {
        // Most runs are such ones, and nothing of theirs is left to look at.
        context.clocks.forget(&run.uid().unwrap_or_default());
        return Ok(Action::await_change());
    }
    let silent = context.clocks.silent(&*run, Instant::now());
    let observed =
        observe::observe(&context.client, &context.settings, &context.opened, (*run).clone(), silent).await?;
    let plan = plan::plan(&observed);
    tracing::debug!(namespace = run.namespace(), run = run.name_any(), ?plan, "looked at a restore");
    apply::apply(&context.client, &context.events, &observed.run, plan.clone()).await?;
    if plan.again.is_none() {
        context.clocks.forget(&run.uid().unwrap_or_default());
    }
    Ok(plan.again.map_or_else(Action::await_change, Action::requeue))
}

#[allow(clippy::needless_pass_by_value, reason = "the signature is the runtime's")]
fn again_after(run: Arc<RestoreRun>, error: &kube::Error, context: Arc<Context>) -> Action {
    again(&*run, error, &context.clocks, &context.metrics, Kind::RestoreRun)
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use http::Uri;
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn a_machine_is_told_of_once_however_often_it_changes_and_so_is_another_of_its_name() {
        let instance = |name: &str, uid: &str| json!({"metadata": {"namespace": "shop", "name": name, "uid": uid, "resourceVersion": "7"}});
        let there = json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": {"resourceVersion": "7"},
            "items": [instance("web", "first"), instance("db", "second")],
        });
        let changes = [("MODIFIED", "first"), ("MODIFIED", "first"), ("DELETED", "first"), ("ADDED", "third")];
        let changes = changes.map(|(kind, uid)| format!("{}\n", json!({"type": kind, "object": instance("web", uid)})));
        let (there, changes) = (there.to_string(), changes.concat());
        let answer = move |uri: Uri| async move {
            let watches = uri.query().is_some_and(|query| query.contains("watch=true"));
            if watches { changes } else { there }
        };
        let server: Router = Router::new().fallback(answer);
        let told = started(Client::new(server, "default")).take(3).map(|instance| instance.uid().unwrap());
        assert_eq!(told.collect::<Vec<_>>().await, ["first", "second", "third"]);
    }
}
