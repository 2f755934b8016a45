//! Asking the controller for what opens a run's repository.

use std::path::PathBuf;
use std::time::Duration;

use http::{Request, StatusCode, Uri};
use kube::client::Body;
use kube::{Client, Config};
use remora_core::{Error, ErrorKind, Result};
use tokio::time::{Instant, sleep_until, timeout};
use zeroize::Zeroizing;

use super::again::Backoff;
use super::{Failure, Order, RestoreOrder};
use crate::keys::{Refusal, RunKeys, path, restore_path};

/// A request that takes longer has failed.
const REQUEST: Duration = Duration::from_secs(30);

/// How long a controller that does not answer is asked again: as long as the API server itself. It may have to wait for that one,
/// and if it has ended meanwhile, for Kubernetes to start it again.
const PATIENCE: Duration = Duration::from_mins(30);

/// Between two of these.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(15));

/// The controller's key service. Its certificate's CA and this agent's token are files that Kubernetes renews, and are
/// read for each request.
#[derive(Clone, Debug)]
pub struct KeyService {
    /// Such as `https://remora-controller.remora.svc:8443`.
    pub url: Uri,
    /// The certificates that the service's is signed by, as PEM.
    pub ca: PathBuf,
    /// The token of this agent's `ServiceAccount` for the service.
    pub token: PathBuf,
}

/// What one request came to.
enum Asked {
    Keys(Box<RunKeys>),
    /// Asking again would change nothing.
    No(Failure),
    /// It may yet be answered.
    Later(Error),
}

impl KeyService {
    /// The keys of a run. Waits for a controller that is away, or that does not know yet what the API server knows.
    pub async fn keys(&self, order: &Order) -> Result<RunKeys, Failure> {
        self.of(&path(&order.namespace, &order.name), &order.full_name()).await
    }

    /// The keys of a restore, and the way to its worker.
    pub async fn restore_keys(&self, order: &RestoreOrder) -> Result<RunKeys, Failure> {
        self.of(&restore_path(&order.namespace, &order.name), &order.full_name()).await
    }

    async fn of(&self, path: &str, run: &str) -> Result<RunKeys, Failure> {
        let (began, mut backoff) = (Instant::now(), BACKOFF);
        loop {
            let late = |late| Asked::Later(self.failed(ErrorKind::Unavailable).because(late));
            let error = match timeout(REQUEST, self.ask(path)).await.unwrap_or_else(late) {
                Asked::Keys(keys) => return Ok(*keys),
                Asked::No(failure) => return Err(failure),
                Asked::Later(error) => error,
            };
            if began.elapsed() > PATIENCE {
                return Err(error.into());
            }
            tracing::warn!(run, error = error.chain(), "asked again");
            sleep_until(backoff.next_try()).await;
        }
    }

    async fn ask(&self, path: &str) -> Asked {
        let answer = match self.request(path) {
            Ok((client, request)) => client.send(request).await,
            Err(error) => return Asked::Later(error),
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return Asked::Later(self.failed(ErrorKind::Unavailable).because(error)),
        };
        let status = answer.status();
        let body = match answer.into_body().collect_bytes().await {
            Ok(body) => body,
            Err(error) => return Asked::Later(self.failed(ErrorKind::Unavailable).because(error)),
        };
        if status == StatusCode::OK {
            return match serde_json::from_slice(&body) {
                Ok(keys) => Asked::Keys(Box::new(keys)),
                // Not the parser's words: they may quote a secret.
                Err(_) => Asked::No(self.failed(ErrorKind::Failed).because("it answers with something else").into()),
            };
        }
        self.refused(status, &body)
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> Asked {
        let given: Option<Refusal> = serde_json::from_slice(body).ok();
        let (reason, message) = given.map_or_else(Default::default, |refusal| (refusal.reason, refusal.message));
        let message = if message.is_empty() { format!("it answers {status}") } else { message };
        let kind = match status {
            StatusCode::FORBIDDEN => ErrorKind::Refused,
            StatusCode::NOT_FOUND => ErrorKind::NotFound,
            StatusCode::CONFLICT | StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => ErrorKind::Invalid,
            // A token that has expired is renewed; a controller that is busy, or not the leader, answers later.
            _ => return Asked::Later(self.failed(ErrorKind::Unavailable).because(message)),
        };
        Asked::No(Failure::because(&reason, self.failed(kind).because(message)))
    }

    fn request(&self, path: &str) -> Result<(Client, Request<Body>)> {
        let mut config = Config::new(self.url.clone());
        config.root_cert_file = Some(self.ca.clone());
        config.default_retry = false;
        let client = Client::try_from(config).map_err(|e| self.failed(ErrorKind::Unavailable).because(e))?;
        let read = |e| Error::io(format!("reading this agent's token {}", self.token.display()), e);
        let token = Zeroizing::new(std::fs::read_to_string(&self.token).map_err(read)?);
        let bearer = Zeroizing::new(format!("Bearer {}", token.trim()));
        let mut header =
            http::HeaderValue::from_str(&bearer).map_err(|e| self.failed(ErrorKind::Invalid).because(e))?;
        header.set_sensitive(true);
        let request = Request::get(path).header(http::header::AUTHORIZATION, header);
        let request = request.body(Body::empty()).map_err(|e| self.failed(ErrorKind::Invalid).because(e))?;
        Ok((client, request))
    }

    fn failed(&self, kind: ErrorKind) -> Error {
        Error::new(kind, format!("asking the controller at {} for the repository's keys", self.url))
    }
}
