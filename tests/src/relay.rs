//! A TCP relay before a server: what passes is not looked at (TLS, HTTP/2), and it is slow, silent or gone as a network is.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::process::Must;

/// The relay. Serves until the process ends.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// How much later answers come, in milliseconds.
    late: AtomicU64,
    /// Nothing passes, and nobody is told.
    silent: AtomicBool,
    /// Nobody is let in.
    gone: AtomicBool,
    /// Both ends of all connections.
    open: Mutex<Vec<(TcpStream, TcpStream)>>,
    connections: AtomicUsize,
}

impl Relay {
    /// Before the server at `server`, which need not listen yet.
    pub fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").must("listen");
        let address = listener.local_addr().must("read a port");
        let shared = Arc::<Shared>::default();
        let relay = Self { address, shared: Arc::clone(&shared) };
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.gone.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(upstream) = TcpStream::connect(server) else { continue };
                shared.connections.fetch_add(1, Ordering::SeqCst);
                pass(client, upstream, &shared).ok();
            }
        });
        relay
    }

    /// Where to reach it.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every answer comes so much later from now on.
    pub fn answers_come_late(&self, by: Duration) {
        self.shared.late.store(by.as_millis().try_into().must("count milliseconds"), Ordering::SeqCst);
    }

    /// Breaks all connections off; new ones are made at once.
    pub fn break_off(&self) {
        for (client, server) in self.shared.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            client.shutdown(Shutdown::Both).ok();
            server.shutdown(Shutdown::Both).ok();
        }
    }

    /// Breaks all connections off, and lets nobody in until [`Relay::come_back`].
    pub fn go(&self) {
        self.shared.gone.store(true, Ordering::SeqCst);
        self.break_off();
    }

    /// Takes what is sent and passes nothing on until [`Relay::come_back`], as a network that has lost its way.
    pub fn fall_silent(&self) {
        self.shared.silent.store(true, Ordering::SeqCst);
    }

    /// All is as before. What was lost in between stays lost: its connections are broken off.
    pub fn come_back(&self) {
        let lost = self.shared.silent.swap(false, Ordering::SeqCst);
        self.shared.gone.store(false, Ordering::SeqCst);
        self.shared.late.store(0, Ordering::SeqCst);
        if lost {
            self.break_off();
        }
    }

    /// How many connections it has made.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

fn pass(client: TcpStream, server: TcpStream, shared: &Arc<Shared>) -> std::io::Result<()> {
    for socket in [&client, &server] {
        socket.set_nodelay(true)?;
    }
    let pair = (client.try_clone()?, server.try_clone()?);
    let mut open = shared.open.lock().unwrap_or_else(PoisonError::into_inner);
    if shared.gone.load(Ordering::SeqCst) {
        // Since it was let in: what breaks all connections off would not see it.
        return Ok(());
    }
    open.push(pair);
    drop(open);
    let (to_server, to_client) = (server.try_clone()?, client.try_clone()?);
    let (asking, answering) = (Arc::clone(shared), Arc::clone(shared));
    thread::spawn(move || copy(client, to_server, &asking, false));
    thread::spawn(move || copy(server, to_client, &answering, true));
    Ok(())
}

/// Passes one direction on, until an end of it is gone.
fn copy(mut from: TcpStream, mut to: TcpStream, shared: &Arc<Shared>, answers: bool) {
    let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
    let writer = thread::spawn(move || {
        for (when, bytes) in receiver {
            // What is late is as late as all that came at its time, and not later for what came before it.
            thread::sleep(when.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        to.shutdown(Shutdown::Both).ok();
    });
    let mut buffer = vec![0; 64 << 10];
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        if shared.silent.load(Ordering::SeqCst) {
            continue;
        }
        let late = if answers { shared.late.load(Ordering::SeqCst) } else { 0 };
        if sender.send((Instant::now() + Duration::from_millis(late), buffer[..len].to_vec())).is_err() {
            break;
        }
    }
    drop(sender);
    writer.join().ok();
    from.shutdown(Shutdown::Both).ok();
}
