//! The controller: gives runs to nodes, makes what their attempts want of KubeVirt, opens repositories, and gives agents
//! the keys of the tenants whose machines they hold.
//!
//! Start reading at `plan.rs`: what is decided about a run, a pure function of `observed.rs`. `observe.rs` and `apply.rs`
//! are its hands. `restores.rs` and what is below it are the same for restores. `unverified.rs` ends verifications that no agent
//! ends. `repositories.rs` opens repositories, by the rules of `tenancy.rs`; `schedule.rs` makes the runs that policies ask for;
//! `key_service.rs` gives keys to agents, `metrics.rs` has what is counted.

mod apply;
mod certificate;
mod clocks;
mod events;
mod index;
mod key_service;
mod leader;
mod metrics;
mod objects;
mod observe;
mod observed;
mod opened;
mod plan;
mod repositories;
mod restores;
mod runs;
mod schedule;
mod tenancy;
#[cfg(test)]
mod testing;
mod tls;
mod unverified;
mod users;
mod worker;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kube::Client;
use kube::runtime::reflector;
use remora_core::{Error, ErrorKind, Result};
use remora_service::Health;
use remora_vault::Plugins;
use tokio_util::sync::CancellationToken;

use crate::resources::BackupRun;

pub use self::schedule::{DueRun, ScheduledRun, Scheduler, Since, Verified};

/// The controller's finalizer on a run: while there is something to remove.
const FINALIZER: &str = "remora.dev/run";

/// The controller's name as the owner of fields, and in events.
const OWNER: &str = "remora-controller";

/// How long what is asked of the API server for one object may take in all: the client itself waits without end for a
/// server that took a request and is silent.
const PATIENCE: Duration = Duration::from_mins(1);

/// How it runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The namespace of remora: of its pods, and of the administrators' repositories.
    pub namespace: String,
    /// The name of this process among the controllers: its pod's.
    pub instance: String,
    /// The name of the agents' `ServiceAccount`, in the same namespace.
    pub agents: String,
    /// Where the key service listens.
    pub keys: SocketAddr,
    /// Where health is served.
    pub health: SocketAddr,
    /// The name of the key service's Service, which its certificate is for.
    pub service: String,
    /// The image of workers; that of this controller's own pod where none is given.
    pub image: Option<String>,
    /// How many runs that policies ask for may be at work at once.
    pub scheduled_runs: usize,
    /// What opens the administrators' repositories of plugins; nothing does if none.
    pub plugins: Option<Plugins>,
}

/// Runs until `cancel`, or until the lease is lost. What policies ask for is scheduled if there is who says what that is.
pub async fn run(
    client: Client,
    settings: Settings,
    scheduler: Option<Box<dyn Scheduler>>,
    cancel: CancellationToken,
) -> Result<()> {
    let opened = opened::Opened::new(settings.plugins.clone(), &settings.instance)?;
    let at_work = Arc::new(AtomicBool::new(false));
    let metrics = metrics::Metrics::default();
    if let Some(scheduler) = &scheduler {
        metrics.of_policies(scheduler.metrics());
    }
    let mut beside = tokio::task::JoinSet::new();
    let listener = remora_service::bind(settings.health).await?;
    beside.spawn(remora_service::serve(listener, health(&metrics, &at_work), cancel.clone()));
    let certificate = at_start("reading its certificate", certificate::ready(&client, &settings)).await?;
    let keys = key_service::Keys::new(client.clone(), settings.clone(), opened.clone());
    let listener = tls::Listener::bind(settings.keys, &certificate).await?;
    beside.spawn(key_service::serve(listener, keys, cancel.clone()));
    at_work.store(true, Ordering::Relaxed);
    let led = leader::lead(client.clone(), &settings, &cancel, || {
        metrics.leads();
        let (store, writer) = reflector::store::<BackupRun>();
        let context = schedule::Context {
            client: client.clone(),
            settings: settings.clone(),
            runs: store.clone(),
            metrics: metrics.clone(),
        };
        let by_policy = scheduler.map(|one| Box::pin(schedule::keep(context, one, cancel.clone())));
        let by_policy = futures::future::OptionFuture::from(by_policy);
        let runs = runs::keep((store, writer), client.clone(), settings.clone(), metrics.clone(), cancel.clone());
        let restores =
            restores::keep(client.clone(), settings.clone(), opened.clone(), metrics.clone(), cancel.clone());
        let repositories =
            repositories::keep(client.clone(), settings.clone(), opened.clone(), metrics.clone(), cancel.clone());
        async {
            futures::future::join4(runs, restores, repositories, by_policy).await;
        }
    })
    .await;
    cancel.cancel();
    beside.join_all().await;
    led
}

/// The controller is ready once its key service is, whether it leads or not.
fn health(metrics: &metrics::Metrics, at_work: &Arc<AtomicBool>) -> Health {
    let (metrics, at_work) = (metrics.clone(), Arc::clone(at_work));
    let ready = move || {
        if at_work.load(Ordering::Relaxed) { Ok(()) } else { Err("its key service does not answer".to_owned()) }
    };
    Health { metrics: Box::new(move || metrics.text()), ready: Box::new(ready) }
}

/// What the API server has answered within [`PATIENCE`].
async fn within<T, E: From<kube::Error>>(
    requests: impl Future<Output = std::result::Result<T, E>>,
) -> std::result::Result<T, E> {
    let late = |late: tokio::time::error::Elapsed| Err(kube::Error::Service(late.into()).into());
    tokio::time::timeout(PATIENCE, requests).await.unwrap_or_else(late)
}

/// What a controller that starts asks for, answered within [`PATIENCE`]: without it there is nothing to wait with.
async fn at_start<T>(what: &str, asked: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| {
        let late = format!("{what}: the API server did not answer within {} s", PATIENCE.as_secs());
        Err(Error::new(ErrorKind::Unavailable, late))
    })
}

/// An error of the API server's.
fn api(what: &str, error: kube::Error) -> Error {
    let kind = match &error {
        kube::Error::Api(status) if status.is_not_found() => ErrorKind::NotFound,
        kube::Error::Api(status) if status.is_forbidden() => ErrorKind::Refused,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, what).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_took_a_request_and_is_silent_is_not_waited_for() {
        let began = tokio::time::Instant::now();
        let error = within::<(), kube::Error>(std::future::pending()).await.expect_err("there is no answer");
        assert!(matches!(error, kube::Error::Service(_)) && began.elapsed() == PATIENCE, "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_controller_does_not_wait_for_ever_to_start() {
        let began = tokio::time::Instant::now();
        let error = at_start::<()>("reading it", std::future::pending()).await.expect_err("there is no answer");
        assert_eq!((error.kind(), began.elapsed()), (ErrorKind::Unavailable, PATIENCE));
        assert!(error.to_string().starts_with("reading it: the API server did not answer"), "{error}");
    }
}
