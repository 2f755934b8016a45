//! The worker's side of a connection: it listens, and serves one agent at a time.
//!
//! Plain threads, for it does one thing at a time. An agent that comes while another is served takes its place: both have
//! shown the certificate that only this run's agent has, so the one before is dead, or cut off. Who came last is told by the
//! order of their connections: a handshake may end late whose agent is dead.

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use remora_core::{Error, Result};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use zeroize::Zeroizing;

use crate::credentials::Identity;
use crate::{lend, receive};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How many clients there may be at once, whoever they are.
const AT_ONCE: usize = 16;

/// A connection to an agent.
pub(crate) type Stream = StreamOwned<ServerConnection, TcpStream>;

/// What a worker does with the claims of its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// It writes to them what an agent sends.
    Receive,
    /// It lets an agent read them.
    Lend,
}

/// A worker.
pub struct Server {
    listener: TcpListener,
    config: Arc<ServerConfig>,
    shared: Arc<Shared>,
}

struct Shared {
    task: Task,
    /// By the number that the agent calls them by.
    disks: Vec<PathBuf>,
    clients: AtomicUsize,
    last: Mutex<Last>,
    /// Whoever is at work on the disks.
    working: Mutex<()>,
}

/// Works until the process is ended. `folder` has `ca.crt`, `tls.crt` and `tls.key`; each disk is a folder or a block
/// device.
pub fn serve(task: Task, listen: SocketAddr, folder: &Path, disks: Vec<PathBuf>) -> Result<()> {
    let read = |name: &str| {
        let path = folder.join(name);
        std::fs::read_to_string(&path).map_err(|e| Error::io(format!("reading {}", path.display()), e))
    };
    let (ca, certificate, key) = (read("ca.crt")?, read("tls.crt")?, Zeroizing::new(read("tls.key")?));
    Server::bind(task, listen, &Identity { ca, certificate, key }, disks)?.serve()
}

/// The connection that is served, or was last, so that another can end it.
#[derive(Default)]
struct Last {
    /// Which of all it is, in the order in which they came.
    number: u64,
    stream: Option<TcpStream>,
}

impl Server {
    /// Listens.
    pub fn bind(task: Task, listen: SocketAddr, identity: &Identity, disks: Vec<PathBuf>) -> Result<Self> {
        let config = identity.server()?;
        let listener = TcpListener::bind(listen).map_err(|e| Error::io(format!("listening on {listen}"), e))?;
        let (clients, last, working) = (AtomicUsize::new(0), Mutex::default(), Mutex::default());
        Ok(Self { listener, config, shared: Arc::new(Shared { task, disks, clients, last, working }) })
    }

    /// Where it listens.
    pub fn address(&self) -> Result<SocketAddr> {
        self.listener.local_addr().map_err(|e| Error::io("asking where it listens", e))
    }

    /// Serves whoever comes; ends when it cannot listen any more.
    pub fn serve(self) -> Result<()> {
        let mut number = 0_u64;
        loop {
            let (stream, from) = self.listener.accept().map_err(|e| Error::io("waiting for an agent", e))?;
            number += 1;
            if self.shared.clients.fetch_add(1, Ordering::SeqCst) >= AT_ONCE {
                self.shared.clients.fetch_sub(1, Ordering::SeqCst);
                continue;
            }
            let (config, shared) = (Arc::clone(&self.config), Arc::clone(&self.shared));
            std::thread::spawn(move || {
                match shared.serve(config, number, stream) {
                    Ok(()) => tracing::info!(%from, "an agent has left"),
                    Err(error) => tracing::warn!(%from, %error, "a client is gone"),
                }
                shared.clients.fetch_sub(1, Ordering::SeqCst);
            });
        }
    }
}

impl Shared {
    fn serve(&self, config: Arc<ServerConfig>, number: u64, stream: TcpStream) -> std::io::Result<()> {
        let mut stream = greet(config, stream)?;
        // From here on it is an agent of this run.
        self.take_place(number, stream.sock.try_clone()?)?;
        let _working = self.working.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have waited for another's last write, and lost its place meanwhile. What it has asked for until then can still be
        // read, and would be done to what its successor has written.
        if self.last().number != number {
            return Err(replaced());
        }
        let served = match self.task {
            Task::Receive => receive::serve(&self.disks, &mut stream),
            Task::Lend => lend::serve(&self.disks, &mut stream),
        };
        // It is held for whoever comes next, too, so that it would stay open: an agent that is not answered would wait for ever.
        stream.sock.shutdown(Shutdown::Both).ok();
        served
    }

    /// It is the one that is served, unless another has come since.
    fn take_place(&self, number: u64, stream: TcpStream) -> std::io::Result<()> {
        let mut last = self.last();
        if last.number > number {
            return Err(replaced());
        }
        let before = std::mem::replace(&mut *last, Last { number, stream: Some(stream) });
        if let Some(before) = before.stream {
            // It may be gone already.
            before.shutdown(Shutdown::Both).ok();
        }
        Ok(())
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn replaced() -> std::io::Error {
    std::io::Error::new(ErrorKind::ConnectionAborted, "another agent has come since")
}

/// The handshake. Whoever does not finish it in time, or is no agent, gets no further.
fn greet(config: Arc<ServerConfig>, stream: TcpStream) -> std::io::Result<Stream> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(HANDSHAKE))?;
    stream.set_write_timeout(Some(HANDSHAKE))?;
    let connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut stream = StreamOwned::new(connection, stream);
    shake_hands(&mut stream)?;
    // An agent may wait long for its store. One whose node is gone is noticed by the kernel.
    stream.sock.set_read_timeout(None)?;
    stream.sock.set_write_timeout(None)?;
    setsockopt(&stream.sock, sockopt::KeepAlive, &true)?;
    Ok(stream)
}

/// One step after another, so that a client that sends a byte now and then has no longer than the others.
fn shake_hands(stream: &mut Stream) -> std::io::Result<()> {
    let began = Instant::now();
    while stream.conn.is_handshaking() || stream.conn.wants_write() {
        if began.elapsed() > HANDSHAKE {
            return Err(ErrorKind::TimedOut.into());
        }
        if stream.conn.wants_write() {
            stream.conn.write_tls(&mut stream.sock)?;
            continue;
        }
        if stream.conn.read_tls(&mut stream.sock)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if let Err(refused) = stream.conn.process_new_packets() {
            // It is told why.
            stream.conn.write_tls(&mut stream.sock).ok();
            return Err(std::io::Error::new(ErrorKind::InvalidData, refused));
        }
    }
    Ok(())
}

/// Says it at once.
pub(crate) fn say(stream: &mut Stream, frame: &[u8]) -> std::io::Result<()> {
    stream.write_all(frame)?;
    stream.flush()
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;
    use tokio::io::AsyncWriteExt;
    use tokio::runtime::Builder;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;

    use super::*;
    use crate::connect::{Worker, connect};
    use crate::credentials::{Credentials, name};
    use crate::order::{Answer, Order};
    use crate::target::IMAGE;

    type Line = TlsStream<tokio::net::TcpStream>;

    /// A worker that receives, with two claims.
    struct Lab {
        claims: [TempDir; 2],
        worker: Worker,
        shared: Arc<Shared>,
    }

    impl Lab {
        fn new() -> Self {
            let claims = [(); 2].map(|()| tempfile::tempdir().unwrap());
            let disks = claims.iter().map(|claim| claim.path().to_owned()).collect();
            let Credentials { worker, agent } = Credentials::new().unwrap();
            let server = Server::bind(Task::Receive, "127.0.0.1:0".parse().unwrap(), &worker, disks).unwrap();
            let worker = Worker { address: server.address().unwrap(), identity: agent };
            let shared = Arc::clone(&server.shared);
            std::thread::spawn(move || server.serve());
            Self { claims, worker, shared }
        }

        async fn connect(&self) -> Line {
            connect(&self.worker).await.unwrap().unwrap()
        }

        fn is_begun(&self, disk: usize) -> bool {
            self.claims[disk].path().join(IMAGE).exists()
        }
    }

    async fn ask(line: &mut Line, order: Order) -> std::io::Result<()> {
        line.write_all(&order.encode()).await?;
        line.flush().await
    }

    fn begin(disk: u32) -> Order {
        Order::Begin { disk, size: 512, data: 0 }
    }

    /// Waits until something holds; the worker is on threads of its own.
    fn wait_until(mut holds: impl FnMut() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < Duration::from_mins(5), "waited in vain");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[tokio::test]
    async fn a_handshake_that_ends_late_takes_nobodys_place_who_came_since() {
        let lab = Lab::new();
        let before = tokio::net::TcpStream::connect(lab.worker.address).await.unwrap();
        let mut line = lab.connect().await;
        ask(&mut line, begin(0)).await.unwrap();
        assert_eq!(Answer::read(&mut line).await.unwrap(), Answer::Ready);
        let late = async {
            let connector = TlsConnector::from(lab.worker.identity.client().unwrap());
            let mut late = connector.connect(name(), before).await?;
            ask(&mut late, begin(1)).await?;
            Answer::read(&mut late).await
        };
        assert!(late.await.is_err());
        ask(&mut line, Order::End).await.unwrap();
        assert!(matches!(Answer::read(&mut line).await.unwrap(), Answer::Digest(_)));
        assert!(!lab.is_begun(1));
    }

    #[tokio::test]
    async fn who_says_what_makes_no_sense_is_not_left_to_wait() {
        let lab = Lab::new();
        let mut line = lab.connect().await;
        line.write_all(&[99; 5]).await.unwrap();
        line.flush().await.unwrap();
        let heard = tokio::time::timeout(Duration::from_mins(5), Answer::read(&mut line)).await;
        assert!(heard.expect("its connection stays open").is_err());
    }

    #[test]
    fn who_lost_its_place_while_it_waited_for_the_disks_does_nothing_to_them() {
        let (lab, runtime) = (Lab::new(), Builder::new_current_thread().enable_all().build().unwrap());
        // Somebody before them is in the middle of a long write.
        let writing = lab.shared.working.lock().unwrap();
        let comes = |number: u64, disk: u32| {
            let line = runtime.block_on(async {
                let mut line = lab.connect().await;
                ask(&mut line, begin(disk)).await.unwrap();
                line
            });
            wait_until(|| lab.shared.last().number == number);
            line
        };
        let (_first, mut second) = (comes(1, 1), comes(2, 0));
        drop(writing);
        assert_eq!(runtime.block_on(Answer::read(&mut second)).unwrap(), Answer::Ready);
        drop(second);
        wait_until(|| lab.shared.clients.load(Ordering::SeqCst) == 0);
        assert!(lab.is_begun(0) && !lab.is_begun(1));
    }
}
