//! Serves HTTP over TLS to anybody who can connect. Whoever is slow or silent holds up nobody else: what is too much is
//! closed at once, and nothing is open for long.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use remora_core::{Error, ErrorKind, Result};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::certificate::Certificate;

/// What connections may take.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// How long a handshake may take, and the head of a request after it.
    silence: Duration,
    /// How long a connection may be there: longer than an agent waits for its answer.
    whole: Duration,
    /// How many there may be at once.
    at_once: usize,
    /// How many of one address: more than an agent has, also where a node's agents share one.
    of_one: usize,
}

const LIMITS: Limits =
    Limits { silence: Duration::from_secs(10), whole: Duration::from_secs(45), at_once: 1024, of_one: 16 };

/// How long those that are being answered are waited for at the end.
const LAST: Duration = Duration::from_secs(5);

/// A bound address.
pub(super) struct Listener {
    socket: TcpListener,
    acceptor: TlsAcceptor,
    limits: Limits,
}

impl Listener {
    /// Binds it.
    pub(super) async fn bind(address: SocketAddr, certificate: &Certificate) -> Result<Self> {
        let acceptor = TlsAcceptor::from(Arc::new(config(certificate)?));
        let listening = |e| Error::io(format!("listening on {address}"), e);
        let socket = TcpListener::bind(address).await.map_err(listening)?;
        Ok(Self { socket, acceptor, limits: LIMITS })
    }

    /// Serves until `cancel`: one request a connection.
    pub(super) async fn serve(self, router: Router, cancel: CancellationToken) {
        let mut connections = JoinSet::new();
        cancel.run_until_cancelled(self.accept(router, &mut connections)).await;
        timeout(LAST, async { while connections.join_next().await.is_some() {} }).await.ok();
    }

    async fn accept(&self, router: Router, connections: &mut JoinSet<()>) {
        let places = Arc::new(Places::default());
        loop {
            let Ok((stream, from)) = self.socket.accept().await else {
                // Such as too many open files: it passes, or does not.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            while connections.try_join_next().is_some() {}
            let Some(place) = Places::take(&places, from.ip().to_canonical(), self.limits) else {
                tracing::debug!(%from, "too many connections to the key service: this one is closed");
                continue;
            };
            let (limits, served) = (self.limits, serve_one(stream, self.acceptor.clone(), router.clone(), self.limits));
            connections.spawn(async move {
                let _place = place;
                match timeout(limits.whole, served).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%from, %error, "a client of the key service was not served"),
                    Err(_) => tracing::debug!(%from, "a client of the key service took too long"),
                }
            });
        }
    }
}

async fn serve_one(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    router: Router,
    limits: Limits,
) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let stream = timeout(limits.silence, acceptor.accept(stream)).await??;
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.silence).keep_alive(false);
    http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).await?;
    Ok(())
}

/// How many connections are open, by the address that they come from.
#[derive(Default)]
struct Places(Mutex<HashMap<IpAddr, usize>>);

/// One of them; gone when it is dropped.
struct Place {
    of: IpAddr,
    places: Arc<Places>,
}

impl Places {
    fn take(places: &Arc<Self>, of: IpAddr, limits: Limits) -> Option<Place> {
        let mut open = places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.values().sum::<usize>() >= limits.at_once || open.get(&of).is_some_and(|own| *own >= limits.of_one) {
            return None;
        }
        *open.entry(of).or_default() += 1;
        Some(Place { of, places: Arc::clone(places) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = open.get_mut(&self.of) {
            *own -= 1;
            if *own == 0 {
                open.remove(&self.of);
            }
        }
    }
}

fn config(certificate: &Certificate) -> Result<ServerConfig> {
    let invalid = || {
        Error::new(ErrorKind::Invalid, "the key service's certificate cannot be used")
            .advise("Delete Secret remora-controller-tls: the controller makes it anew when it starts.")
    };
    let chain =
        CertificateDer::pem_slice_iter(certificate.chain.as_bytes()).collect::<std::result::Result<Vec<_>, _>>();
    let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes());
    let (chain, key) = (chain.map_err(|e| invalid().because(e))?, key.map_err(|e| invalid().because(e))?);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|e| invalid().because(e))?.with_no_client_auth();
    config.with_single_cert(chain, key).map_err(|e| invalid().because(e))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::net::Ipv4Addr;

    use rustls::ClientConfig;
    use rustls::RootCertStore;
    use rustls::pki_types::ServerName;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpSocket;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;

    use super::super::certificate;
    use super::*;

    /// Longer than anything here takes; a test that waits so long has failed.
    const PATIENCE: Duration = Duration::from_mins(5);

    struct Served {
        address: SocketAddr,
        tls: TlsConnector,
        cancel: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    impl Served {
        async fn start(limits: Limits) -> Self {
            let certificate = certificate::make("keys", "remora").unwrap();
            let mut listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into(), &certificate).await.unwrap();
            listener.limits = limits;
            let address = listener.socket.local_addr().unwrap();
            let cancel = CancellationToken::new();
            let router = Router::new().route("/", axum::routing::get(|| async { "here" }));
            let task = tokio::spawn(listener.serve(router, cancel.clone()));
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(certificate.ca.as_bytes()).unwrap()).unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
            let config = config.with_root_certificates(roots).with_no_client_auth();
            Self { address, tls: TlsConnector::from(Arc::new(config)), cancel, task }
        }

        async fn connect(&self, from: u8) -> TcpStream {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(([127, 0, 0, from], 0).into()).unwrap();
            socket.connect(self.address).await.unwrap()
        }

        async fn shake_hands(&self, from: u8) -> std::io::Result<TlsStream<TcpStream>> {
            self.tls.connect(ServerName::try_from("keys").unwrap(), self.connect(from).await).await
        }

        /// The same, again and again: a machine may have no processor for a handshake in the time that there is for it.
        async fn shake_hands_in_time(&self, from: u8) -> TlsStream<TcpStream> {
            let shaken = async {
                loop {
                    if let Ok(stream) = self.shake_hands(from).await {
                        return stream;
                    }
                }
            };
            timeout(PATIENCE, shaken).await.expect("no handshake is in time")
        }

        async fn ask(&self, from: u8) -> String {
            let mut stream = self.shake_hands(from).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nhost: keys\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
            answer
        }
    }

    async fn is_closed(stream: &mut (impl AsyncReadExt + Unpin)) {
        let read = timeout(PATIENCE, stream.read(&mut [0; 1])).await.expect("it is still open");
        assert!(!matches!(read, Ok(1..)));
    }

    #[tokio::test]
    async fn who_is_silent_holds_up_nobody_else() {
        let forever = Limits { silence: 2 * PATIENCE, whole: 3 * PATIENCE, ..LIMITS };
        let served = Served::start(forever).await;
        let (mut silent, mut from_two) = (Vec::new(), 0);
        for from in 2..22 {
            for _ in 0..forever.of_one {
                silent.push(served.connect(from).await);
                from_two += usize::from(from == 2);
            }
        }
        assert_eq!(from_two, forever.of_one);
        // One more of these addresses is too much; others are answered.
        is_closed(&mut served.connect(2).await).await;
        assert!(timeout(PATIENCE, served.ask(1)).await.unwrap().ends_with("here"));
        // And when they go, their places are free.
        drop(silent);
        let free = async { while served.shake_hands(2).await.is_err() {} };
        timeout(PATIENCE, free).await.unwrap();
    }

    #[tokio::test]
    async fn there_are_so_many_and_no_more() {
        let few = Limits { silence: 2 * PATIENCE, whole: 3 * PATIENCE, at_once: 3, ..LIMITS };
        let served = Served::start(few).await;
        let mut open = Vec::new();
        for from in 2..5 {
            open.push(served.shake_hands(from).await.unwrap());
        }
        is_closed(&mut served.connect(5).await).await;
    }

    #[tokio::test]
    async fn nobody_stays_for_long() {
        let short = Duration::from_secs(1);
        let silent = Served::start(Limits { silence: short, whole: 2 * PATIENCE, ..LIMITS }).await;
        is_closed(&mut silent.connect(2).await).await;
        is_closed(&mut silent.shake_hands_in_time(2).await).await;
        let slow = Served::start(Limits { silence: 2 * PATIENCE, whole: short, ..LIMITS }).await;
        let mut stream = slow.shake_hands_in_time(2).await;
        // It may be over by now.
        stream.write_all(b"GET / HTTP/1.1\r\n").await.ok();
        is_closed(&mut stream).await;
        slow.cancel.cancel();
        timeout(PATIENCE, slow.task).await.unwrap().unwrap();
    }
}
