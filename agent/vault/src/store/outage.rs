//! A store that was there, and is away for a while: requests wait for it, where its client would give up within seconds.
//!
//! A store that has never answered is not waited for: more likely its endpoint is mistyped.

use std::error::Error;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use http::StatusCode;
use object_store::client::{
    ClientOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use tokio::time::Instant;

/// How often it is tried whether the store is there again.
const PAUSE: Duration = Duration::from_secs(1);

/// Makes clients that wait for a store that is away, for so long.
#[derive(Debug)]
pub(super) struct Waiting<C> {
    pub(super) connector: C,
    pub(super) outage: Duration,
}

impl<C: HttpConnector> HttpConnector for Waiting<C> {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = self.connector.connect(options)?;
        Ok(HttpClient::new(Client { inner: client, outage: self.outage, store: Mutex::default() }))
    }
}

#[derive(Debug)]
struct Client {
    inner: HttpClient,
    outage: Duration,
    store: Mutex<Seen>,
}

/// What is known of the store.
#[derive(Clone, Copy, Debug, Default)]
enum Seen {
    /// It has never answered.
    #[default]
    Never,
    /// It answered last.
    There,
    /// It has not answered since.
    Away(Instant),
}

#[async_trait]
impl HttpService for Client {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let begun = Instant::now();
        loop {
            let answer = self.inner.execute(request.clone()).await;
            if !is_away(&answer) {
                *self.store() = Seen::There;
                return answer;
            }
            // It may be away for some requests only, and answer others all the time.
            let now = Instant::now();
            if !self.waits(now) || now - begun >= self.outage {
                return answer;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Client {
    /// Whether a store that has just not answered is waited for.
    fn waits(&self, now: Instant) -> bool {
        let mut store = self.store();
        match *store {
            Seen::Never => false,
            Seen::There => {
                *store = Seen::Away(now);
                true
            }
            Seen::Away(since) => now - since < self.outage,
        }
    }

    fn store(&self) -> MutexGuard<'_, Seen> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether nothing of the store has done what was asked: then it may be asked again, whatever it was.
fn is_away(answer: &Result<HttpResponse, HttpError>) -> bool {
    const STATUSES: [StatusCode; 3] =
        [StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT];
    match answer {
        Ok(answer) => STATUSES.contains(&answer.status()),
        Err(error) => matches!(error.kind(), HttpErrorKind::Connect | HttpErrorKind::Request) || connecting(error),
    }
}

/// Whether no connection came to be; a timeout of that is told as any other one.
fn connecting(error: &HttpError) -> bool {
    error.source().and_then(|source| source.downcast_ref()).is_some_and(reqwest::Error::is_connect)
}

#[cfg(test)]
mod tests {
    use object_store::client::ReqwestConnector;

    use super::*;

    #[test]
    fn a_store_is_waited_for_once_it_has_answered_and_for_so_long() {
        let client = ReqwestConnector::default().connect(&ClientOptions::new()).unwrap();
        let client = Client { inner: client, outage: Duration::from_secs(100), store: Mutex::default() };
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert!(!client.waits(at(0)), "it has never answered");
        *client.store() = Seen::There;
        assert!(client.waits(at(10)) && client.waits(at(109)));
        assert!(!client.waits(at(110)) && !client.waits(at(500)), "whoever comes later does not wait again");
        *client.store() = Seen::There;
        assert!(client.waits(at(600)), "it was there in between");
    }
}
