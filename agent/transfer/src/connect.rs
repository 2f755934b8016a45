//! The agent's way to a worker.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use remora_core::Result;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::credentials::{Identity, name};

/// How long connecting may take, and one try of it.
const CONNECT: (Duration, Duration) = (Duration::from_mins(1), Duration::from_secs(10));

/// Between two tries.
const AGAIN: Duration = Duration::from_millis(500);

/// A worker.
#[derive(Clone)]
pub struct Worker {
    /// Where it listens.
    pub address: SocketAddr,
    /// What the agent shows, and what the worker's certificate is signed by.
    pub identity: Identity,
}

/// Of one that does not even refuse: as a network does it that lets nobody through.
fn silent(address: SocketAddr) -> io::Error {
    let what = format!(
        "nothing answers at {address}. Should a NetworkPolicy of the namespace close its pods, it has to let remora's agents to port \
         {} of those labelled app.kubernetes.io/name=remora-worker",
        address.port()
    );
    io::Error::new(io::ErrorKind::TimedOut, what)
}

/// Connects; a worker that was just started may not listen yet. The outer error is of the certificates.
pub(crate) async fn connect(worker: &Worker) -> Result<io::Result<TlsStream<TcpStream>>> {
    let connector = TlsConnector::from(worker.identity.client()?);
    let began = Instant::now();
    loop {
        let one = async {
            let stream = TcpStream::connect(worker.address).await?;
            stream.set_nodelay(true)?;
            setsockopt(&stream, sockopt::KeepAlive, &true)?;
            connector.connect(name(), stream).await
        };
        let error = match timeout(CONNECT.1, one).await {
            Ok(Ok(stream)) => return Ok(Ok(stream)),
            Ok(Err(error)) => error,
            Err(_) => silent(worker.address),
        };
        // Another certificate is none that a worker gets later.
        if error.kind() == io::ErrorKind::InvalidData || began.elapsed() > CONNECT.0 {
            return Ok(Err(error));
        }
        sleep(AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::Credentials;

    #[tokio::test(start_paused = true)]
    async fn who_never_answers_may_be_behind_a_policy_of_the_network() {
        // What the kernel accepts for it, it never looks at.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let worker = Worker { address, identity: Credentials::new().unwrap().agent };
        let error = connect(&worker).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let said = format!(
            "NetworkPolicy of the namespace close its pods, it has to let remora's agents to port {}",
            address.port()
        );
        assert!(error.to_string().contains(&said), "{error}");
    }
}
