//! A TCP proxy before a server that does to chosen requests what bad networks and bad servers do.

mod fetches;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fetches::{Fetch, Fetches};

use crate::process::Must;

/// How often it is looked whether a request is still to be kept from the server.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What is done to the answer of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The server did what was asked, but the connection ends without a word of it.
    LoseAnswer,
    /// The connection ends after so many bytes of the answer.
    CutAnswer(usize),
    /// No answer ever comes.
    Hang,
    /// The server hears of it so much later, or once [`Meddler::come_back`] is called, on a connection of its own.
    Delay(Duration),
    /// The server hears of it once [`Meddler::come_back`] is called, on a connection of its own.
    Hold,
    /// The server hears nothing of it, nor of anything else until [`Meddler::come_back`]: it is down, just then.
    GoDown,
    /// The server did what was asked, nobody hears of it, and then it is down as with [`Fault::GoDown`].
    LoseAnswerAndGoDown,
}

/// Which requests it is done to, and how often.
#[derive(Clone, Debug)]
struct Rule {
    method: String,
    path_contains: String,
    fault: Fault,
    times: usize,
}

/// The proxy. Serves until the process ends.
#[derive(Clone, Debug)]
pub struct Meddler {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// What its connections have in common.
#[derive(Debug, Default)]
struct Shared {
    /// Whether it is as if there were no server.
    down: AtomicBool,
    /// How many connections were ended at once meanwhile.
    turned_away: AtomicUsize,
    rule: Mutex<Option<Rule>>,
    /// The head lines of all requests that passed.
    seen: Mutex<Vec<String>>,
    fetches: Arc<Fetches>,
}

impl Meddler {
    /// Before the server at `server`.
    pub fn before(server: SocketAddr) -> Self {
        Self::before_at(server, Ipv4Addr::LOCALHOST)
    }

    /// The same, at another address of this host than that of loopback.
    pub fn before_at(server: SocketAddr, address: Ipv4Addr) -> Self {
        let listener = TcpListener::bind((address, 0)).must("listen");
        let address = listener.local_addr().must("read a port");
        let shared = Arc::<Shared>::default();
        let meddler = Self { address, shared: Arc::clone(&shared) };
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.down.load(Ordering::Relaxed) {
                    shared.turned_away.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                relay(client, server, &shared);
            }
        });
        meddler
    }

    /// Where to reach it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Does `fault` to the next `times` requests of a method to a path that contains `path_contains`.
    pub fn meddle(&self, method: &str, path_contains: &str, fault: Fault, times: usize) {
        *lock(&self.shared.rule) =
            Some(Rule { method: method.into(), path_contains: path_contains.into(), fault, times });
    }

    /// Lets everything through again.
    pub fn come_back(&self) {
        *lock(&self.shared.rule) = None;
        self.shared.down.store(false, Ordering::Relaxed);
    }

    /// Whether a request made it go down.
    pub fn is_down(&self) -> bool {
        self.shared.down.load(Ordering::Relaxed)
    }

    /// How many connections it has ended at once because it was down.
    pub fn turned_away(&self) -> usize {
        self.shared.turned_away.load(Ordering::Relaxed)
    }

    /// Ends connections at once from now on, until [`Meddler::come_back`].
    pub fn go_down(&self) {
        self.shared.down.store(true, Ordering::Relaxed);
    }

    /// How often it still would.
    pub fn left(&self) -> usize {
        lock(&self.shared.rule).as_ref().map_or(0, |rule| rule.times)
    }

    /// How many requests of a method to a path that contains this have passed.
    pub fn seen(&self, method: &str, path_contains: &str) -> usize {
        lock(&self.shared.seen).iter().filter(|line| fits(line, method, path_contains)).count()
    }

    /// The most GETs that were under way at once: asked, and not yet answered in full.
    pub fn most_fetches(&self) -> usize {
        self.shared.fetches.most()
    }
}

impl Shared {
    /// Whether a request that this is done to, for so long by now, is still kept from the server.
    fn keeps(&self, fault: Fault, time: Duration) -> bool {
        let lasts = match fault {
            Fault::Hold => true,
            Fault::Delay(late) => time < late,
            _ => false,
        };
        lasts && lock(&self.rule).as_ref().is_some_and(|rule| rule.fault == fault)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn fits(line: &str, method: &str, path_contains: &str) -> bool {
    line.split_once(' ').is_some_and(|(found, rest)| found == method && rest.contains(path_contains))
}

/// The first line of a request that begins here, if one does.
fn head_line(bytes: &[u8]) -> Option<String> {
    let line = bytes.split(|byte| *byte == b'\r').next()?;
    let line = std::str::from_utf8(line).ok()?;
    line.ends_with(" HTTP/1.1").then(|| line.to_owned())
}

fn relay(client: TcpStream, server: SocketAddr, shared: &Arc<Shared>) {
    client.set_nodelay(true).ok();
    let Ok(mut from_client) = client.try_clone() else { return };
    let way = Way { client, server, armed: Arc::default(), fetch: Arc::default(), shared: Arc::clone(shared) };
    let Ok(mut upstream) = way.open() else { return };
    thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(len @ 1..) = from_client.read(&mut buffer) {
            let mut rest = Vec::new();
            if let Some(line) = head_line(&buffer[..len]) {
                let fault = take(&mut lock(&way.shared.rule), &line);
                if let Some(fault @ (Fault::Delay(_) | Fault::Hold)) = fault {
                    upstream.give_up();
                    let Ok(sent) = way.keep(fault) else { break };
                    rest = sent;
                }
                if upstream.is_given_up() {
                    let Ok(another) = way.open() else {
                        from_client.shutdown(Shutdown::Both).ok();
                        break;
                    };
                    upstream = another;
                }
                *lock(&way.armed) = fault;
                *lock(&way.fetch) = line.starts_with("GET ").then(|| Fetch::begin(&way.shared.fetches));
                lock(&way.shared.seen).push(line);
                // Only now: whoever finds it down looks for the request that made it so.
                if fault == Some(Fault::GoDown) {
                    way.shared.down.store(true, Ordering::Relaxed);
                }
            }
            // Not what is under way of another connection's request either.
            if way.shared.down.load(Ordering::Relaxed) {
                from_client.shutdown(Shutdown::Both).ok();
                break;
            }
            if upstream.stream.write_all(&buffer[..len]).and_then(|()| upstream.stream.write_all(&rest)).is_err() {
                break;
            }
        }
        upstream.stream.shutdown(Shutdown::Both).ok();
    });
}

/// What a client's connection has, whichever of the server's is behind it.
struct Way {
    client: TcpStream,
    server: SocketAddr,
    /// What is done to the answer that comes next.
    armed: Arc<Mutex<Option<Fault>>>,
    fetch: Arc<Mutex<Option<Fetch>>>,
    shared: Arc<Shared>,
}

/// A connection to the server.
struct Upstream {
    stream: TcpStream,
    given_up: Arc<AtomicBool>,
}

impl Way {
    /// Connects to the server, whose answers are passed on from now on.
    fn open(&self) -> io::Result<Upstream> {
        let stream = TcpStream::connect(self.server)?;
        // Pieces of a message are passed on as they come: one is not to wait until the one before is acknowledged.
        stream.set_nodelay(true).ok();
        let upstream = Upstream { stream: stream.try_clone()?, given_up: Arc::default() };
        let (client, given_up) = (self.client.try_clone()?, Arc::clone(&upstream.given_up));
        let (armed, fetch, shared) = (Arc::clone(&self.armed), Arc::clone(&self.fetch), Arc::clone(&self.shared));
        thread::spawn(move || {
            answer(&client, &stream, &armed, &fetch, &shared.down);
            // Who waits in vain does not hear that the server ends what nothing is asked on any more.
            if !given_up.load(Ordering::Relaxed) && *lock(&armed) != Some(Fault::Hang) {
                client.shutdown(Shutdown::Both).ok();
            }
            stream.shutdown(Shutdown::Both).ok();
        });
        Ok(upstream)
    }

    /// Keeps a request from the server, and gives what its client sends of it meanwhile: a client gives a connection up that takes
    /// nothing of it for half a minute. An error if the client goes.
    fn keep(&self, fault: Fault) -> io::Result<Vec<u8>> {
        let (begun, mut client) = (Instant::now(), &self.client);
        let (mut sent, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
        client.set_read_timeout(Some(LOOK_EVERY))?;
        while self.shared.keeps(fault, begun.elapsed()) {
            match client.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(len) => sent.extend_from_slice(&buffer[..len]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {
                }
                Err(error) => return Err(error),
            }
        }
        client.set_read_timeout(None)?;
        Ok(sent)
    }
}

impl Upstream {
    /// Ends it without its client: while a request is kept from it, the server would do so after some time, as of any
    /// connection on which nothing is asked.
    fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
        self.stream.shutdown(Shutdown::Both).ok();
    }

    fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }
}

fn take(rule: &mut Option<Rule>, line: &str) -> Option<Fault> {
    let rule = rule.as_mut().filter(|rule| rule.times > 0 && fits(line, &rule.method, &rule.path_contains))?;
    rule.times -= 1;
    Some(rule.fault)
}

fn answer(
    mut client: &TcpStream,
    mut upstream: &TcpStream,
    armed: &Mutex<Option<Fault>>,
    fetch: &Mutex<Option<Fetch>>,
    down: &AtomicBool,
) {
    let mut buffer = vec![0; 64 << 10];
    let mut passed = 0;
    while let Ok(len @ 1..) = upstream.read(&mut buffer) {
        lock(fetch).take_if(|fetch| fetch.answered(&buffer[..len]));
        let fault = *lock(armed);
        if fault == Some(Fault::LoseAnswerAndGoDown) {
            down.store(true, Ordering::Relaxed);
        }
        let (len, goes_on) = match fault {
            _ if down.load(Ordering::Relaxed) => (0, false),
            None | Some(Fault::Delay(_) | Fault::Hold | Fault::GoDown) => (len, true),
            Some(Fault::LoseAnswer | Fault::LoseAnswerAndGoDown) => (0, false),
            Some(Fault::CutAnswer(at)) => (len.min(at - passed), passed + len < at),
            Some(Fault::Hang) => (0, true),
        };
        passed = if fault.is_some() { passed + len } else { 0 };
        if client.write_all(&buffer[..len]).is_err() || !goes_on {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::wait_until;

    /// How long anything may take on a busy machine.
    const LIMIT: Duration = Duration::from_mins(10);

    #[test]
    fn what_is_held_or_late_goes_on_once_it_comes_back() {
        for fault in [Fault::Hold, Fault::Delay(Duration::from_hours(1))] {
            goes_on_once_it_comes_back(fault);
        }
    }

    fn goes_on_once_it_comes_back(fault: Fault) {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let meddler = Meddler::before(server.local_addr().unwrap());
        meddler.meddle("PUT", "/s/", fault, usize::MAX);
        let mut client = TcpStream::connect(meddler.address()).unwrap();
        client.write_all(b"PUT /s/1 HTTP/1.1\r\n\r\n").unwrap();
        let (mut given_up, _) = server.accept().unwrap();
        wait_until("it is not held", LIMIT, || meddler.left() < usize::MAX);
        let mut first = [0];
        assert_eq!(given_up.read(&mut first).unwrap(), 0, "a server would not wait for what is held");
        server.set_nonblocking(true).unwrap();
        assert_eq!(server.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        meddler.come_back();
        server.set_nonblocking(false).unwrap();
        let (mut passed, _) = server.accept().unwrap();
        passed.set_read_timeout(Some(LIMIT)).unwrap();
        passed.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"P");
        passed.write_all(b"H").unwrap();
        client.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"H");
    }

    #[test]
    fn what_is_held_is_taken_from_its_client() {
        const HEAD: &[u8] = b"PUT /s/1 HTTP/1.1\r\n\r\n";
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let meddler = Meddler::before(server.local_addr().unwrap());
        meddler.meddle("PUT", "/s/", Fault::Hold, usize::MAX);
        let mut client = TcpStream::connect(meddler.address()).unwrap();
        client.set_write_timeout(Some(LIMIT)).unwrap();
        client.write_all(HEAD).unwrap();
        // More than lies between two ends of a connection.
        let body = vec![7; 32 << 20];
        client.write_all(&body).unwrap();
        assert!(meddler.left() < usize::MAX, "it is not held");
        let (_given_up, _) = server.accept().unwrap();
        meddler.come_back();
        let (mut passed, _) = server.accept().unwrap();
        passed.set_read_timeout(Some(LIMIT)).unwrap();
        let mut all = vec![0; HEAD.len() + body.len()];
        passed.read_exact(&mut all).unwrap();
        assert!(all.starts_with(HEAD) && all.ends_with(&body), "it is not what was sent");
    }

    #[test]
    fn who_waits_in_vain_is_not_told_that_the_server_has_gone() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let meddler = Meddler::before(server.local_addr().unwrap());
        meddler.meddle("GET", "/s/", Fault::Hang, 1);
        let mut client = TcpStream::connect(meddler.address()).unwrap();
        client.write_all(b"GET /s/1 HTTP/1.1\r\n\r\n").unwrap();
        let (mut asked, _) = server.accept().unwrap();
        asked.read_exact(&mut [0]).unwrap();
        asked.shutdown(Shutdown::Write).unwrap();
        // By the time that it is closed in turn, the client would have been told.
        while let Ok(1..) = asked.read(&mut [0; 64]) {}
        client.set_nonblocking(true).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}
