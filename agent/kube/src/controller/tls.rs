//! Connections of TLS for axum. A client that does not finish its handshake holds up nobody else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use remora_core::{Error, ErrorKind, Result};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::certificate::Certificate;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How many there may be at once.
const AT_ONCE: usize = 256;

/// Connections whose handshake is done.
pub(super) struct Listener {
    done: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: SocketAddr,
}

impl Listener {
    /// Listens until `cancel`.
    pub(super) async fn bind(
        address: SocketAddr,
        certificate: &Certificate,
        cancel: CancellationToken,
    ) -> Result<Self> {
        let acceptor = TlsAcceptor::from(Arc::new(config(certificate)?));
        let listening = |e| Error::io(format!("listening on {address}"), e);
        let listener = TcpListener::bind(address).await.map_err(listening)?;
        let address = listener.local_addr().map_err(listening)?;
        let (sender, done) = mpsc::channel(AT_ONCE);
        // It ends with `cancel`, and the handshakes that it began with it.
        tokio::spawn(async move {
            let _ = cancel.run_until_cancelled(accept(listener, acceptor, sender)).await;
        });
        Ok(Self { done, address })
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, done: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut handshakes = tokio::task::JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        while handshakes.try_join_next().is_some() {}
        let Ok((stream, from)) = listener.accept().await else {
            // Such as too many open files: it passes, or does not.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (acceptor, done) = (acceptor.clone(), done.clone());
        handshakes.spawn(async move {
            let _place = place;
            match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => drop(done.send((stream, from)).await),
                Ok(Err(error)) => tracing::debug!(%from, %error, "no TLS with a client of the key service"),
                Err(_) => tracing::debug!(%from, "a client of the key service did not finish its handshake"),
            }
        });
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

impl axum::serve::Listener for Listener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.done.recv().await {
            Some(connection) => connection,
            // Cancelled: axum ends by the same token.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        Ok(self.address)
    }
}
