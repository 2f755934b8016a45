//! Keeps `Repository`s open, and says of each whether it can be used.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, future};
use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::{Action, Config as ControllerConfig};
use kube::runtime::events::EventType;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::{Controller, PredicateConfig, WatchStreamExt, predicates, reflector, watcher};
use kube::{Api, Client, ResourceExt};
use remora_core::{Error, ErrorKind};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::events::Events;
use super::metrics::{Kind, Metrics};
use super::opened::{IfEmpty, Open, Opened};
use super::tenancy::{self, Trouble};
use super::{OWNER, Settings, within};
use crate::conditions::{self, Says, Truth};
use crate::resources::{Repository, RepositorySpec, SecretKeyReference};

/// How often one that works is looked at again: its Secrets are not watched.
const AGAIN: Duration = Duration::from_mins(10);

/// How often one that does not: whoever repairs it waits.
const SOON: Duration = Duration::from_secs(30);

/// How many are looked at at once: each may wait for its turn to try its passphrase, within its patience.
const AT_ONCE: u16 = 16;

/// How long opening may take.
const PATIENCE: Duration = Duration::from_mins(5);

struct Context {
    client: Client,
    settings: Settings,
    opened: Opened,
    events: Events,
    /// Those that there are.
    store: Store<Repository>,
}

/// Looks at them until `cancel`.
pub(super) async fn keep(
    client: Client,
    settings: Settings,
    opened: Opened,
    metrics: Metrics,
    cancel: CancellationToken,
) {
    let (store, writer) = reflector::store::<Repository>();
    metrics.watch_repositories(store.clone());
    let changes = watcher(Api::<Repository>::all(client.clone()), watcher::Config::default())
        .default_backoff()
        .reflect(writer)
        .touched_objects()
        .predicate_filter(predicates::generation, PredicateConfig::default());
    let events = Events::new(client.clone(), &settings.instance);
    let context = Arc::new(Context { client, settings, opened, events, store: store.clone() });
    Controller::for_stream(changes, store)
        .with_config(ControllerConfig::default().concurrency(AT_ONCE))
        .graceful_shutdown_on(cancel.cancelled_owned())
        .run(reconcile, |_, _, _| Action::requeue(SOON), context)
        .for_each(|done| {
            if let Err(kube::runtime::controller::Error::ReconcilerFailed(error, of)) = done {
                tracing::warn!(%error, repository = %of, "a Repository could not be looked at");
                metrics.failed(Kind::Repository);
            }
            future::ready(())
        })
        .await;
}

async fn reconcile(repository: Arc<Repository>, context: Arc<Context>) -> Result<Action, kube::Error> {
    let (namespace, name) = (repository.namespace().unwrap_or_default(), repository.name_any());
    // Nobody tells of one that is gone: what opened it must not stay for it.
    context.opened.keep(|(namespace, name)| context.store.get(&ObjectRef::new(name).within(namespace)).is_some());
    if repository.metadata.deletion_timestamp.is_some() {
        context.opened.forget(&namespace, &name);
        return Ok(Action::await_change());
    }
    let (says, open) = match open(&repository, &context).await {
        Ok(open) => (Says::yes("Opened", format!("The repository at {} was opened.", open.place)), Some(open)),
        Err(Trouble::Says(says)) => (says, None),
        Err(Trouble::Api(error)) => return Err(error),
    };
    within(tell(&repository, &context, &says, open.as_deref())).await?;
    if open.is_none() {
        context.opened.forget(&namespace, &name);
    }
    Ok(Action::requeue(again_after(&says, &repository, Timestamp::now())))
}

/// When it is looked at again. What costs the processor's time is tried ever more seldom: after as long as it was so already.
fn again_after(says: &Says, repository: &Repository, now: Timestamp) -> Duration {
    match says.reason.as_ref() {
        _ if says.truth == Truth::True => AGAIN,
        "WrongPassphrase" | "Damaged" => {
            let earlier = repository.status.as_ref().and_then(|status| conditions::find(&status.conditions, "Ready"));
            let since = earlier.filter(|one| one.status == "False").map_or(now, |one| one.last_transition_time.0);
            Duration::try_from(now.duration_since(since)).unwrap_or_default().clamp(SOON, AGAIN)
        }
        _ => SOON,
    }
}

/// Opens it, and asks its store for something: it may have gone since it was opened.
async fn open(repository: &Repository, context: &Context) -> Result<Arc<Open>, Trouble> {
    let material = within(tenancy::material(&context.client, &context.settings.namespace, repository)).await?;
    let of = (repository.namespace().unwrap_or_default(), repository.name_any());
    let known = repository.status.as_ref().and_then(|status| status.repository_id.as_deref());
    // An empty place that held a repository before is a loss to tell of, not a place to begin in.
    let if_empty = if known.is_none() { IfEmpty::Make } else { IfEmpty::Fail };
    let opening = async {
        let open = context.opened.get(of.clone(), &material, if_empty).await?;
        // A store that was emptied still answers.
        if !open.keyring.slots().await?.is_empty() {
            return Ok(open);
        }
        context.opened.forget(&of.0, &of.1);
        context.opened.get(of, &material, if_empty).await
    };
    let late =
        || Error::new(ErrorKind::Unavailable, format!("its store did not answer within {} s", PATIENCE.as_secs()));
    let opened = tokio::time::timeout(PATIENCE, opening).await.unwrap_or_else(|_| Err(late()));
    let open = opened.map_err(|error| Trouble::Says(cannot(&error, &repository.spec)))?;
    if let Some(known) = known.filter(|known| *known != open.keyring.repository().to_string()) {
        let message = format!(
            "There is another repository than before: {}, not {known}. Its store was exchanged, or emptied and made anew. Put \
             it back; or delete this Repository and create it again, if the points of before are given up.",
            open.keyring.repository()
        );
        return Err(Trouble::Says(Says::no("AnotherRepository", message)));
    }
    Ok(open)
}

/// Why it cannot be opened, and what to do.
fn cannot(error: &Error, spec: &RepositorySpec) -> Says {
    let reason = match error.kind() {
        ErrorKind::Invalid => "Invalid",
        ErrorKind::NotFound => "StoreMissing",
        ErrorKind::Exists => "StoreNotEmpty",
        ErrorKind::WrongKey => "WrongPassphrase",
        ErrorKind::Unsupported => "Unsupported",
        ErrorKind::Damaged => "Damaged",
        ErrorKind::Unavailable => "Unavailable",
        ErrorKind::Refused => "Refused",
        _ => "Failed",
    };
    let SecretKeyReference { name, key } = &spec.passphrase_secret;
    let advice = match (error.kind(), error.advice()) {
        // Here nobody has typed it.
        (ErrorKind::WrongKey, _) => format!(" Put that of the repository into key {key} of Secret {name}."),
        // Nor is there a command line.
        (_, Some(advice)) if advice.contains("--ca-file") => untrusted(spec),
        (_, Some(advice)) if advice.contains("credentials") => format!(" {advice}{}", credentials(spec)),
        (_, advice) => advice.map(|advice| format!(" {advice}")).unwrap_or_default(),
    };
    Says::no(reason, format!("{}.{advice}", error.chain().trim_end_matches('.')))
}

/// Where the credentials are that its store is asked with, as a sentence.
fn credentials(spec: &RepositorySpec) -> String {
    match (&spec.credentials_secret, &spec.backup_storage_location) {
        (Some(secret), _) => format!(" They are in Secret {}.", secret.name),
        (None, Some(location)) => format!(" They are those that BackupStorageLocation {location} names."),
        (None, None) => String::new(),
    }
}

/// Where the CA belongs that the certificate of its store's server is from, as a sentence.
fn untrusted(spec: &RepositorySpec) -> String {
    let place = match &spec.backup_storage_location {
        Some(location) => format!("into BackupStorageLocation {location}, as objectStorage.caCert"),
        None => "into a Secret, and name it in caSecret".to_owned(),
    };
    format!(" The server's certificate is not trusted: put that of its CA {place}, and check the endpoint's name.")
}

/// Writes the status where it says something new, and an event with it.
async fn tell(repository: &Repository, context: &Context, says: &Says, open: Option<&Open>) -> Result<(), kube::Error> {
    let earlier = repository.status.clone().unwrap_or_default();
    let generation = repository.metadata.generation;
    let condition = says.condition("Ready", &earlier.conditions, generation, Timestamp::now());
    if !conditions::is_news(&earlier.conditions, &condition) && earlier.observed_generation == generation {
        return Ok(());
    }
    let mut status = json!({"observedGeneration": generation, "conditions": [condition]});
    // Known once, known for good: that another one is found there is noticed by it.
    let id = open.map(|open| open.keyring.repository().to_string()).or(earlier.repository_id);
    let url = open.map(|open| open.place.clone()).or(earlier.url);
    if let (Some(id), Some(url)) = (id, url) {
        status["repositoryId"] = json!(id);
        status["url"] = json!(url);
    }
    let object = json!({
        "apiVersion": "remora.dev/v1alpha1", "kind": "Repository",
        "metadata": {"name": repository.name_any(), "uid": repository.uid(), "resourceVersion": repository.resource_version()},
        "status": status,
    });
    let api: Api<Repository> = Api::namespaced(context.client.clone(), &repository.namespace().unwrap_or_default());
    api.patch_status(&repository.name_any(), &PatchParams::apply(OWNER).force(), &Patch::Apply(object)).await?;
    if open.is_some_and(|open| open.made) && earlier.conditions.iter().all(|one| one.status != "True") {
        let message = "There was no repository in this place: a new one was made.";
        context.events.of_repository(repository, EventType::Normal, "Initialized", message).await;
    }
    let kind = if open.is_some() { EventType::Normal } else { EventType::Warning };
    context.events.of_repository(repository, kind, &says.reason, &says.message).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_passphrase_that_stays_wrong_is_tried_ever_more_seldom() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let repository = |status: &str, seconds: i64| -> Repository {
            let since = Timestamp::from_second(1_000_000 - seconds).unwrap();
            let ready = json!({
                "type": "Ready", "status": status, "reason": "R", "message": "m", "lastTransitionTime": since.to_string(),
            });
            let object = json!({
                "apiVersion": "remora.dev/v1alpha1", "kind": "Repository", "metadata": {"name": "offsite"},
                "spec": {"url": "s3://b/p", "passphraseSecret": {"name": "p"}}, "status": {"conditions": [ready]},
            });
            serde_json::from_value(object).unwrap()
        };
        let (opened, wrong, away) =
            (Says::yes("Opened", "m"), Says::no("WrongPassphrase", "m"), Says::no("Unavailable", "m"));
        for (says, status, seconds, again) in [
            (&wrong, "True", 1000, SOON),
            (&wrong, "False", 10, SOON),
            (&wrong, "False", 200, Duration::from_secs(200)),
            (&wrong, "False", 100_000, AGAIN),
            (&wrong, "False", -10, SOON),
            (&away, "False", 200, SOON),
            (&opened, "False", 200, AGAIN),
        ] {
            let repository = repository(status, seconds);
            assert_eq!(again_after(says, &repository, now), again, "{} {status} {seconds}", says.reason);
        }
    }
}
