//! A store that was there, and is away for a while: requests wait for it, where its client would give up within seconds.
//!
//! [`remora_core::outage`] tells since when a store is away: one that has never answered is not waited for.
//!
//! What is asked again here never reached the store, or the client itself would ask it again, only for a shorter time.

use std::error::Error;
use std::time::Duration;

use async_trait::async_trait;
use http::{Method, StatusCode};
use object_store::client::{
    ClientOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use remora_core::outage::{Outage, Seen};
use tokio::time::Instant;

use crate::keys::random;

/// About how often it is tried whether the store is there again.
const PAUSE: Duration = Duration::from_secs(1);

/// The same of one that answers that it cannot: it may be asked for too much, so the pauses grow up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Makes clients that wait for a store that is away, for so long.
#[derive(Debug)]
pub(super) struct Waiting<C> {
    pub(super) connector: C,
    /// How the log names the store.
    pub(super) name: String,
    /// How long the store may be away before requests fail.
    pub(super) longest_outage: Duration,
    /// What is known of the store beforehand.
    pub(super) seen: Seen,
}

impl<C: HttpConnector> HttpConnector for Waiting<C> {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = self.connector.connect(options)?;
        let (name, outage) = (self.name.clone(), Outage::new(self.seen));
        Ok(HttpClient::new(Client { inner: client, name, longest_outage: self.longest_outage, outage }))
    }
}

#[derive(Debug)]
struct Client {
    inner: HttpClient,
    name: String,
    longest_outage: Duration,
    outage: Outage,
}

#[async_trait]
impl HttpService for Client {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (begun, mut pause) = (Instant::now(), PAUSE);
        loop {
            let answer = self.inner.execute(request.clone()).await;
            if !is_away(request.method(), &answer) {
                // A connection that breaks off, or a server that is silent, tells nothing of the store.
                if answer.is_ok() {
                    self.outage.is_over();
                }
                return answer;
            }
            // It may be away for some requests only, and answer others all the time.
            let now = Instant::now();
            if !self.waits(now) || now - begun >= self.longest_outage {
                return answer;
            }
            let next = if answer.is_ok() { (pause * 2).min(LONGEST_PAUSE) } else { PAUSE };
            drop(answer);
            tokio::time::sleep(jittered(pause)).await;
            pause = next;
        }
    }
}

impl Client {
    /// Whether a store that has just not answered is waited for.
    fn waits(&self, now: Instant) -> bool {
        let begins = || {
            let seconds = self.longest_outage.as_secs();
            tracing::info!(store = %self.name, seconds, "the store is away, and is waited for");
        };
        self.outage.since(now, begins).is_some_and(|since| now - since < self.longest_outage)
    }
}

/// A pause of about so long: those who wait together must not come back together.
pub(super) fn jittered(pause: Duration) -> Duration {
    let [jitter] = random::<1>();
    pause.mul_f64(0.5 + f64::from(jitter) / 256.0)
}

/// Whether the store could not be reached, or could not do what was asked. A connection that broke, or a gateway, may hide
/// that it was done all the same: nothing of the vault asks for what must not be done twice (`Store::create` looks).
fn is_away(asked: &Method, answer: &Result<HttpResponse, HttpError>) -> bool {
    const STATUSES: [StatusCode; 3] =
        [StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT];
    match answer {
        Ok(answer) => STATUSES.contains(&answer.status()),
        Err(error) => match error.kind() {
            HttpErrorKind::Connect | HttpErrorKind::Request => true,
            // What stands before a store that is away may take a connection and reset it.
            HttpErrorKind::Interrupted => asked.is_safe(),
            _ => connecting(error),
        },
    }
}

/// Whether no connection came to be; a timeout of that is told as any other one.
fn connecting(error: &HttpError) -> bool {
    error.source().and_then(|source| source.downcast_ref()).is_some_and(reqwest::Error::is_connect)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::Response;
    use object_store::client::{HttpRequestBody, HttpResponseBody};

    use super::*;

    const OUTAGE: Duration = Duration::from_secs(100);

    /// What each request comes to.
    #[derive(Clone, Copy, Debug)]
    enum Played {
        IsBusy,
        BreaksOff,
    }

    #[derive(Debug)]
    struct Server {
        played: Played,
        asked: Arc<AtomicUsize>,
    }

    #[async_trait]
    impl HttpService for Server {
        async fn call(&self, _: HttpRequest) -> Result<HttpResponse, HttpError> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            match self.played {
                Played::IsBusy => {
                    let mut answer = Response::new(HttpResponseBody::from(String::from("SlowDown")));
                    *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                    Ok(answer)
                }
                Played::BreaksOff => {
                    let reset = io::Error::from(io::ErrorKind::ConnectionReset);
                    Err(HttpError::new(HttpErrorKind::Interrupted, reset))
                }
            }
        }
    }

    /// A client of such a server, and how often that was asked.
    fn client(played: Played, seen: Seen) -> (Client, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let inner = HttpClient::new(Server { played, asked: Arc::clone(&asked) });
        let name = "s3://bucket/vms at https://store.example".into();
        (Client { inner, name, longest_outage: OUTAGE, outage: Outage::new(seen) }, asked)
    }

    fn request(method: Method) -> HttpRequest {
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = method;
        request
    }

    #[test]
    fn a_store_is_waited_for_once_it_has_answered_and_for_so_long() {
        let (client, _) = client(Played::IsBusy, Seen::Never);
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert!(!client.waits(at(0)), "it has never answered");
        client.outage.is_over();
        assert!(client.waits(at(10)) && client.waits(at(109)));
        assert!(!client.waits(at(110)) && !client.waits(at(500)), "whoever comes later does not wait again");
        client.outage.is_over();
        assert!(client.waits(at(600)), "it was there in between");
    }

    /// On one thread, so that the log of this test is this test's.
    #[test]
    fn the_log_names_the_store_that_is_away() {
        let log = tempfile::NamedTempFile::new().unwrap();
        // Where there is one log alone, a callsite asks that of the thread that comes by first, which may be another test's, for
        // all.
        let off = tracing::level_filters::LevelFilter::OFF;
        let _another = tracing::Dispatch::new(tracing_subscriber::fmt().with_max_level(off).finish());
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(log.reopen().unwrap()).finish();
        let (client, _) = client(Played::IsBusy, Seen::There);
        tracing::subscriber::with_default(subscriber, || assert!(client.waits(Instant::now())));
        let text = std::fs::read_to_string(log.path()).unwrap();
        assert!(text.contains("store=s3://bucket/vms at https://store.example"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_says_that_it_cannot_is_asked_ever_more_seldom_and_its_answer_is_given_in_the_end() {
        let (client, asked) = client(Played::IsBusy, Seen::There);
        let begun = Instant::now();
        assert_eq!(client.call(request(Method::GET)).await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(begun.elapsed() >= OUTAGE);
        let asked = asked.load(Ordering::Relaxed);
        // Once a second it would be a hundred times.
        assert!((2..40).contains(&asked), "{asked}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_breaks_off_is_waited_for_where_nothing_can_have_been_done() {
        for (method, waits) in [(Method::GET, true), (Method::PUT, false)] {
            let (client, asked) = client(Played::BreaksOff, Seen::There);
            client.call(request(method.clone())).await.unwrap_err();
            assert_eq!(asked.load(Ordering::Relaxed) > 1, waits, "{method}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_breaks_off_does_not_show_that_there_is_a_store() {
        for method in [Method::GET, Method::PUT] {
            let (client, asked) = client(Played::BreaksOff, Seen::Never);
            client.call(request(method)).await.unwrap_err();
            assert_eq!(asked.load(Ordering::Relaxed), 1);
            assert!(!client.waits(Instant::now()));
        }
    }
}
