//! The key service. See [`crate::keys`] for what is asked and answered.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use remora_core::{Error, ErrorKind, Result};
use serde::Serialize;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::observed::RepositoryFacts;
use super::opened::{self, IfEmpty, Opened};
use super::plan::assignment;
use super::tenancy::{self, Trouble};
use super::{Settings, observe, plan, tls, within, worker};
use crate::conditions::Says;
use crate::keys::{AUDIENCE, Refusal, RunKeys};
use crate::resources::{BackupRun, Repository, RepositoryReference, RestoreRun, Run};

/// What a token of a `ServiceAccount` says of the node of its pod.
const NODE: &str = "authentication.kubernetes.io/node-name";

/// How long a store may take. An agent waits for 30 s for an answer, and is to hear why there is none.
const PATIENCE: Duration = Duration::from_secs(20);

/// The key service.
#[derive(Clone)]
pub(super) struct Keys {
    client: Client,
    settings: Arc<Settings>,
    opened: Opened,
}

/// Why no keys are given.
struct No {
    code: StatusCode,
    refusal: Refusal,
}

fn no(code: StatusCode, reason: &str, message: impl Into<String>) -> No {
    No { code, refusal: Refusal { reason: reason.into(), message: message.into() } }
}

fn forbidden(says: Says) -> No {
    no(StatusCode::FORBIDDEN, &says.reason, says.message)
}

impl From<kube::Error> for No {
    fn from(error: kube::Error) -> Self {
        no(StatusCode::SERVICE_UNAVAILABLE, "ApiServer", format!("The API server did not answer: {error}"))
    }
}

impl Keys {
    pub(super) fn new(client: Client, settings: Settings, opened: Opened) -> Self {
        Self { client, settings: Arc::new(settings), opened }
    }

    async fn of_backup(&self, namespace: &str, name: &str, headers: &HeaderMap) -> Result<RunKeys, No> {
        let over = |run: &BackupRun| plan::is_over(run, Timestamp::now());
        let (run, mut keys) = self.of_run(namespace, name, headers, over).await?;
        // Who verifies reads nothing of the machine, and drops no points.
        if run.has_ended() {
            return Ok(keys);
        }
        keys.elsewhere = self.elsewhere(run.repository(), namespace).await?;
        let halted = run.status.as_ref().is_some_and(|status| status.halted);
        if halted { self.with_worker(&run, keys).await } else { Ok(keys) }
    }

    async fn of_restore(&self, namespace: &str, name: &str, headers: &HeaderMap) -> Result<RunKeys, No> {
        let over = |run: &RestoreRun| run.is_over() || run.is_cancelled();
        let (run, keys) = self.of_run(namespace, name, headers, over).await?;
        self.with_worker(&run, keys).await
    }

    async fn with_worker(&self, run: &impl Run, mut keys: RunKeys) -> Result<RunKeys, No> {
        let later = |why| no(StatusCode::SERVICE_UNAVAILABLE, "WorkerNotReady", why);
        keys.worker = Some(worker::access(&self.client, run).await?.map_err(later)?);
        Ok(keys)
    }

    async fn of_run<R: Run>(
        &self,
        namespace: &str,
        name: &str,
        headers: &HeaderMap,
        is_over: impl Fn(&R) -> bool,
    ) -> Result<(R, RunKeys), No> {
        let node = self.node_of(headers).await?;
        let kind = R::kind(&());
        // One of a node's agents learns nothing of runs that are not its node's, not even which there are.
        let denied = || no(StatusCode::FORBIDDEN, "NotThisNode", format!("{kind} {name} is not one of node {node}'s."));
        let runs: Api<R> = Api::namespaced(self.client.clone(), namespace);
        let run = runs.get_opt(name).await?.ok_or_else(denied)?;
        if run.node() != Some(node.as_str()) {
            return Err(denied());
        }
        if is_over(&run) {
            return Err(no(StatusCode::CONFLICT, "RunEnded", "The run has ended, was cancelled, or is late."));
        }
        let repository = self.repository(run.repository(), namespace).await?;
        let keys = self.open(&repository, namespace).await?;
        Ok((run, keys))
    }

    /// The node whose agent asks.
    async fn node_of(&self, headers: &HeaderMap) -> Result<String, No> {
        let token = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let unknown =
            || no(StatusCode::UNAUTHORIZED, "Unauthorized", "A token of an agent's ServiceAccount is wanted.");
        let spec =
            TokenReviewSpec { audiences: Some(vec![AUDIENCE.into()]), token: Some(token.ok_or_else(unknown)?.into()) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let status = reviews.create(&PostParams::default(), &review).await?.status.unwrap_or_default();
        let for_us = status.audiences.iter().flatten().any(|audience| audience == AUDIENCE);
        if status.authenticated != Some(true) || !for_us {
            return Err(unknown());
        }
        node_of_agent(&status.user.unwrap_or_default(), &self.settings).ok_or_else(unknown)
    }

    async fn repository(&self, reference: &RepositoryReference, tenant: &str) -> Result<Repository, No> {
        let namespace = reference.namespace_or(tenant);
        let repositories: Api<Repository> = Api::namespaced(self.client.clone(), namespace);
        let repository = repositories.get_opt(&reference.name).await?;
        match observe::repository_facts(repository.as_ref(), &self.settings.namespace, namespace, tenant) {
            RepositoryFacts::Ready(_) => {}
            RepositoryFacts::Missing => return Err(forbidden(assignment::missing(reference, tenant))),
            RepositoryFacts::NotAllowed => return Err(forbidden(assignment::not_allowed(reference, tenant))),
            RepositoryFacts::NotReady(why) => {
                return Err(no(StatusCode::SERVICE_UNAVAILABLE, "RepositoryNotReady", why));
            }
        }
        repository.ok_or_else(|| no(StatusCode::FORBIDDEN, "RepositoryNotAllowed", "There is none."))
    }

    /// The administrators' Repositories that are not the one of a run, if that is one of them.
    async fn elsewhere(&self, reference: &RepositoryReference, tenant: &str) -> Result<Vec<String>, No> {
        if reference.namespace_or(tenant) != self.settings.namespace {
            return Ok(Vec::new());
        }
        let repositories: Api<Repository> = Api::namespaced(self.client.clone(), &self.settings.namespace);
        Ok(others(&repositories.list(&ListParams::default()).await?.items, &reference.name))
    }

    async fn open(&self, repository: &Repository, tenant: &str) -> Result<RunKeys, No> {
        let material = tenancy::material(&self.client, &self.settings.namespace, repository).await;
        let material = material.map_err(|trouble| match trouble {
            Trouble::Says(says) => forbidden(says),
            Trouble::Api(error) => error.into(),
        })?;
        let unavailable = |error: Error| no(StatusCode::SERVICE_UNAVAILABLE, "RepositoryNotReady", error.chain());
        let metadata = &repository.metadata;
        let of = (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default());
        let granting = async {
            let open = self.opened.get(of, &material, IfEmpty::Fail).await?;
            // The one that was found Ready, and no other that has taken its place.
            let known = repository.status.as_ref().and_then(|status| status.repository_id.as_deref());
            if known != Some(open.keyring.repository().to_string().as_str()) {
                return Err(Error::new(ErrorKind::Unavailable, "Its store holds another repository."));
            }
            opened::grant(&open, &tenant.parse()?).await
        };
        let late =
            || Error::new(ErrorKind::Unavailable, format!("Its store did not answer within {} s.", PATIENCE.as_secs()));
        let grant = timeout(PATIENCE, granting).await.unwrap_or_else(|_| Err(late())).map_err(unavailable)?;
        Ok(RunKeys {
            tenant: tenant.into(),
            store: material.store.clone(),
            grant: grant.to_text().to_string(),
            worker: None,
            elsewhere: Vec::new(),
        })
    }
}

/// The names of those that are certainly another repository than the one of this name: both were opened, and have other ids.
/// Two URLs may be one place, or a URL and a `BackupStorageLocation`: their ids tell.
fn others(all: &[Repository], name: &str) -> Vec<String> {
    let id = |one: &Repository| one.status.as_ref().and_then(|status| status.repository_id.clone());
    let Some(this) = all.iter().find(|one| one.name_any() == name).and_then(id) else { return Vec::new() };
    let is_other = |one: &&Repository| id(one).is_some_and(|id| id != this);
    all.iter().filter(is_other).map(ResourceExt::name_any).collect()
}

/// The node of a pod of the agents' `ServiceAccount`; none of anybody else.
fn node_of_agent(user: &UserInfo, settings: &Settings) -> Option<String> {
    let wanted = format!("system:serviceaccount:{}:{}", settings.namespace, settings.agents);
    if user.username.as_deref() != Some(wanted.as_str()) {
        return None;
    }
    match user.extra.as_ref()?.get(NODE)?.as_slice() {
        [node] if !node.is_empty() => Some(node.clone()),
        _ => None,
    }
}

impl IntoResponse for No {
    fn into_response(self) -> Response {
        let body = serde_json::to_string(&self.refusal).unwrap_or_default();
        (self.code, [(CONTENT_TYPE, "application/json")], body).into_response()
    }
}

async fn keys(
    State(keys): State<Keys>,
    Path((namespace, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    answer(&namespace, &name, within(keys.of_backup(&namespace, &name, &headers)).await)
}

async fn restore_keys(
    State(keys): State<Keys>,
    Path((namespace, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    answer(&namespace, &name, within(keys.of_restore(&namespace, &name, &headers)).await)
}

fn answer(namespace: &str, name: &str, keys: Result<impl Serialize, No>) -> Response {
    match keys {
        Ok(found) => {
            tracing::info!(namespace, run = name, "keys were given");
            let body = serde_json::to_string(&found).unwrap_or_default();
            ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], body).into_response()
        }
        Err(no) => {
            tracing::warn!(
                namespace,
                run = name,
                reason = no.refusal.reason,
                "keys were refused: {}",
                no.refusal.message
            );
            no.into_response()
        }
    }
}

/// Serves keys until `cancel`.
pub(super) async fn serve(listener: tls::Listener, keys_of: Keys, cancel: CancellationToken) {
    let router = Router::new()
        .route("/v1/runs/{namespace}/{name}", get(keys))
        .route("/v1/restores/{namespace}/{name}", get(restore_keys))
        .with_state(keys_of);
    listener.serve(router, cancel).await;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_repository_is_another_one_only_if_the_ids_of_both_are_known() {
        let repository = |name: &str, id: Option<&str>| -> Repository {
            let object = json!({
                "apiVersion": "remora.dev/v1alpha1", "kind": "Repository", "metadata": {"name": name},
                "spec": {"url": "s3://b/p", "passphraseSecret": {"name": "p"}}, "status": {"repositoryId": id},
            });
            serde_json::from_value(object).unwrap()
        };
        let all = [
            repository("offsite", Some("a")),
            repository("same-place", Some("a")),
            repository("other", Some("b")),
            repository("never-opened", None),
        ];
        assert_eq!(others(&all, "offsite"), ["other"]);
        assert_eq!(others(&all, "other"), ["offsite", "same-place"]);
        assert!(others(&all, "never-opened").is_empty());
        assert!(others(&all, "gone").is_empty());
    }
}
