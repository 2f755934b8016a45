//! What stands between an agent and the API server: it counts requests, and breaks them when it is told to.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::{Request, Response, StatusCode, Uri};
use kube::client::Body;
use kube::config::AuthInfo;
use kube::{Client, Config};
use remora_tests::ApiServer;
use serde_json::{Value, json};

use crate::deploy::agent_token;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Counts requests, and breaks them.
#[derive(Default)]
pub(super) struct Shim {
    requests: Mutex<Vec<String>>,
    away: AtomicBool,
    /// Watches end by themselves after a second.
    pub(super) short_watches: AtomicBool,
    /// So many watches are told that what they know is too old.
    pub(super) too_old: AtomicUsize,
    /// The next write of a status that is this one loses its answer, though it is done.
    lost_answer: Mutex<Option<IsWrite>>,
}

/// Whether a write of a status is a certain one: by its path, and by what it says.
type IsWrite = fn(&str, &Value) -> bool;

impl Shim {
    /// A client of the API server whose requests go through it, as an agent that may what is deployed.
    pub(super) fn client(self: &Arc<Self>, server: &ApiServer) -> Client {
        let mut config = Config::new(server.url().parse().unwrap());
        config.root_cert_file = Some(server.certificate());
        config.default_retry = false;
        config.auth_info = AuthInfo { token: Some(agent_token(server).into()), ..AuthInfo::default() };
        let inner = Client::try_from(config).unwrap();
        let shim = Arc::clone(self);
        let service = tower::service_fn(move |request| {
            let (shim, inner) = (Arc::clone(&shim), inner.clone());
            async move { shim.pass(inner, request).await }
        });
        Client::new(service, "default")
    }

    async fn pass(&self, inner: Client, mut request: Request<Body>) -> Result<Response<Body>, Error> {
        let uri = request.uri().to_string();
        let watch = uri.contains("watch=true");
        let write = request.method() == http::Method::PATCH && uri.contains("/status");
        let said = if write { said(&mut request).await? } else { Value::Null };
        self.requests.lock().unwrap().push(format!("{} {uri}", request.method()));
        if self.away.load(Ordering::SeqCst) {
            return Err("the API server is away".into());
        }
        if watch && take_one(&self.too_old) {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired",
                "message": "too old resource version", "code": 410});
            let answer = Response::builder().status(StatusCode::GONE).body(status.to_string().into_bytes().into());
            return answer.map_err(Into::into);
        }
        if watch && self.short_watches.load(Ordering::SeqCst) {
            *request.uri_mut() = uri.replace("timeoutSeconds=290", "timeoutSeconds=1").parse::<Uri>()?;
        }
        let answer = inner.send(request).await?;
        if write && answer.status().is_success() && self.loses_answer(&uri, &said) {
            return Err("the answer is lost".into());
        }
        // What was on its way when the server went away does not arrive either.
        if self.away.load(Ordering::SeqCst) && !watch {
            return Err("the API server went away".into());
        }
        Ok(answer)
    }

    /// Whether the API server can be reached from now on.
    pub(super) fn away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    /// Loses the answer to the next write that `is_it`.
    pub(super) fn lose_answer(&self, is_it: IsWrite) {
        *self.lost_answer.lock().unwrap() = Some(is_it);
    }

    /// Whether that is still to come.
    pub(super) fn is_to_lose_answer(&self) -> bool {
        self.lost_answer.lock().unwrap().is_some()
    }

    fn loses_answer(&self, uri: &str, said: &Value) -> bool {
        self.lost_answer.lock().unwrap().take_if(|is_it| is_it(uri, said)).is_some()
    }

    /// The requests so far: method and path.
    pub(super) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    pub(super) fn count(&self, what: &str) -> usize {
        self.requests().iter().filter(|request| request.contains(what)).count()
    }
}

/// What a write says, which stays in it.
async fn said(request: &mut Request<Body>) -> Result<Value, Error> {
    let bytes = std::mem::replace(request.body_mut(), Body::empty()).collect_bytes().await?;
    let said = serde_json::from_slice(&bytes)?;
    *request.body_mut() = bytes.into();
    Ok(said)
}

fn take_one(of: &AtomicUsize) -> bool {
    of.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}
