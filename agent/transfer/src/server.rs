//! The worker's side of a connection: it listens, and serves one agent at a time.
//!
//! Plain threads, for it does one thing at a time. An agent that comes while another is served takes its place: both have
//! shown the certificate that only this run's agent has, so the one before is dead, or cut off.

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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
    /// The connection that is served, so that another can end it.
    current: Mutex<Option<TcpStream>>,
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

impl Server {
    /// Listens.
    pub fn bind(task: Task, listen: SocketAddr, identity: &Identity, disks: Vec<PathBuf>) -> Result<Self> {
        let config = identity.server()?;
        let listener = TcpListener::bind(listen).map_err(|e| Error::io(format!("listening on {listen}"), e))?;
        let (clients, current, working) = (AtomicUsize::new(0), Mutex::default(), Mutex::default());
        Ok(Self { listener, config, shared: Arc::new(Shared { task, disks, clients, current, working }) })
    }

    /// Where it listens.
    pub fn address(&self) -> Result<SocketAddr> {
        self.listener.local_addr().map_err(|e| Error::io("asking where it listens", e))
    }

    /// Serves whoever comes; ends when it cannot listen any more.
    pub fn serve(self) -> Result<()> {
        loop {
            let (stream, from) = self.listener.accept().map_err(|e| Error::io("waiting for an agent", e))?;
            if self.shared.clients.fetch_add(1, Ordering::SeqCst) >= AT_ONCE {
                self.shared.clients.fetch_sub(1, Ordering::SeqCst);
                continue;
            }
            let (config, shared) = (Arc::clone(&self.config), Arc::clone(&self.shared));
            std::thread::spawn(move || {
                match shared.serve(config, stream) {
                    Ok(()) => tracing::info!(%from, "an agent has left"),
                    Err(error) => tracing::warn!(%from, %error, "a client is gone"),
                }
                shared.clients.fetch_sub(1, Ordering::SeqCst);
            });
        }
    }
}

impl Shared {
    fn serve(&self, config: Arc<ServerConfig>, stream: TcpStream) -> std::io::Result<()> {
        let mut stream = greet(config, stream)?;
        // From here on it is an agent of this run.
        let ours = stream.sock.try_clone()?;
        let before = self.current.lock().unwrap_or_else(PoisonError::into_inner).replace(ours);
        if let Some(before) = before {
            // It may be gone already.
            before.shutdown(Shutdown::Both).ok();
        }
        let _working = self.working.lock().unwrap_or_else(PoisonError::into_inner);
        match self.task {
            Task::Receive => receive::serve(&self.disks, &mut stream),
            Task::Lend => lend::serve(&self.disks, &mut stream),
        }
    }
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
