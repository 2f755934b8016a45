//! A server that fails on demand, in front of one that does not.
//!
//! It speaks just enough HTTP/1.1 for the broker, which is the only one that asks it: heads without continuation lines, bodies with
//! a length.

use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use remora_core::{Error, ErrorKind, Result};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use super::plain::Plain;

/// A request's body is at most so long: a buffer, and a little.
const LONGEST: u64 = 80 << 20;

/// A head is at most so long.
const HEAD: u64 = 128 << 10;

/// How long the server behind may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// What the server does with every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// What it is asked.
    None,
    /// It refuses, and does nothing.
    Status(u16, Option<u64>),
    /// It refuses, and sends back the head of the request.
    Echo,
    /// It answers, and ends in the middle of the body.
    Truncate,
    /// It answers as if the object ended earlier.
    Shorten,
    /// It ends the connection and does nothing.
    Break,
    /// It does what it is asked, and ends the connection without an answer.
    Swallow,
    /// It says nothing at all.
    Stall,
}

/// A fault, and to which requests it happens: from one of this number on, and before one of that.
#[derive(Clone, Copy, Debug)]
struct Armed {
    fault: Fault,
    from: usize,
    until: usize,
}

impl Armed {
    const NOTHING: Self = Self { fault: Fault::None, from: 0, until: 0 };

    /// What happens to the request of this number.
    fn at(self, number: usize) -> Fault {
        if (self.from..self.until).contains(&number) { self.fault } else { Fault::None }
    }
}

/// A request.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) method: String,
    /// The path, and the query if there is one.
    pub(super) target: String,
    /// Names in lower case.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Bytes,
    head: Vec<u8>,
}

impl Asked {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Bytes,
}

impl Reply {
    pub(super) fn new(status: u16, body: impl Into<Bytes>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    pub(super) fn with(mut self, name: &str, value: &impl ToString) -> Self {
        self.headers.push((name.into(), value.to_string()));
        self
    }
}

/// The server behind.
pub(super) enum Behind {
    /// The kit's own.
    Plain(Plain),
    /// A real one.
    Upstream { client: reqwest::Client, url: Url },
}

impl Behind {
    pub(super) fn upstream(text: &str) -> Result<Self> {
        let url = Url::parse(text).map_err(|e| super::no_upstream(format!("--upstream: {text:?} is no URL: {e}")))?;
        if url.scheme() != "http" || url.path() != "/" || url.query().is_some() {
            return Err(super::no_upstream(format!("--upstream: {text:?} is not http:// and a host")));
        }
        rustls::crypto::ring::default_provider().install_default().ok();
        let client =
            reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).timeout(PATIENCE);
        let client = client.build().map_err(|e| Error::new(ErrorKind::Failed, "making a client").because(e))?;
        Ok(Self::Upstream { client, url })
    }

    async fn answer(&self, asked: &Asked) -> Reply {
        match self {
            Self::Plain(plain) => plain.answer(asked),
            Self::Upstream { client, url } => forward(client, url, asked)
                .await
                .unwrap_or_else(|why| Reply::new(502, format!("the server behind the kit: {why}"))),
        }
    }
}

/// With its `host` header as it is, which may be signed.
async fn forward(client: &reqwest::Client, url: &Url, asked: &Asked) -> Result<Reply, String> {
    let url = format!("{}{}", url.as_str().trim_end_matches('/'), asked.target);
    let url = Url::parse(&url).map_err(|e| e.to_string())?;
    let method = reqwest::Method::from_bytes(asked.method.as_bytes()).map_err(|e| e.to_string())?;
    let mut headers = HeaderMap::new();
    for (name, value) in &asked.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|e| e.to_string())?;
        headers.append(name, HeaderValue::from_str(value).map_err(|e| e.to_string())?);
    }
    let answer = client.request(method, url).headers(headers).body(asked.body.clone()).send().await;
    let answer = answer.map_err(|e| format!("{e:?}"))?;
    let status = answer.status().as_u16();
    let of_connection = ["connection", "transfer-encoding", "keep-alive"];
    let headers = answer.headers().iter().filter(|(name, _)| !of_connection.contains(&name.as_str()));
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = headers.map(|(name, value)| (name.to_string(), text(value))).collect();
    let body = answer.bytes().await.map_err(|e| format!("{e:?}"))?;
    Ok(Reply { status, headers, body })
}

/// The server. It ends when this is dropped.
pub(super) struct Injector {
    address: SocketAddr,
    armed: watch::Sender<Armed>,
    seen: Arc<AtomicUsize>,
    _serving: AbortOnDropHandle<()>,
}

impl Injector {
    pub(super) async fn start(behind: Behind) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (armed, told) = watch::channel(Armed::NOTHING);
        let seen = Arc::new(AtomicUsize::new(0));
        let (behind, counted) = (Arc::new(behind), Arc::clone(&seen));
        let serving = AbortOnDropHandle::new(tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                // Heads and bodies are sent one after the other: a body is not to wait until its head is acknowledged.
                stream.set_nodelay(true).ok();
                let connection = Connection {
                    stream: BufReader::new(stream),
                    behind: Arc::clone(&behind),
                    armed: told.clone(),
                    seen: Arc::clone(&counted),
                };
                connections.spawn(connection.serve());
                while connections.try_join_next().is_some() {}
            }
        }));
        Ok(Self { address, armed, seen, _serving: serving })
    }

    /// Host and port.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, what becomes of requests; those that are stalled end.
    fn arm(&self, armed: Armed) {
        self.armed.send_replace(armed);
    }

    /// How many requests came.
    pub(super) fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }
}

struct Connection {
    stream: BufReader<TcpStream>,
    behind: Arc<Behind>,
    armed: watch::Receiver<Armed>,
    seen: Arc<AtomicUsize>,
}

impl Connection {
    /// One request after another, until one side has enough.
    async fn serve(mut self) {
        while let Ok(Some(asked)) = self.read().await {
            let number = self.seen.fetch_add(1, Ordering::SeqCst);
            let fault = self.armed.borrow_and_update().at(number);
            match self.reply(fault, &asked).await {
                Ok(true) => {}
                _ => return,
            }
        }
    }

    async fn read(&mut self) -> io::Result<Option<Asked>> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let read = (&mut self.stream).take(HEAD - head.len() as u64).read_until(b'\n', &mut head).await?;
            if read == 0 {
                return Ok(None);
            }
        }
        let strange = || io::Error::from(io::ErrorKind::InvalidData);
        let text = String::from_utf8_lossy(&head).into_owned();
        let mut lines = text.split("\r\n");
        let mut first = lines.next().unwrap_or_default().split(' ');
        let (Some(method), Some(target)) = (first.next(), first.next()) else { return Err(strange()) };
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers: Vec<_> = headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())).collect();
        let mut asked = Asked { method: method.into(), target: target.into(), headers, body: Bytes::new(), head };
        let length = asked.header("content-length").map_or(Ok(0), str::parse).map_err(|_| strange())?;
        if length > LONGEST || asked.header("transfer-encoding").is_some() {
            return Err(strange());
        }
        let mut body = Vec::new();
        (&mut self.stream).take(length).read_to_end(&mut body).await?;
        if body.len() as u64 != length {
            return Err(strange());
        }
        asked.body = body.into();
        Ok(Some(asked))
    }

    /// Answers; whether the connection stays.
    async fn reply(&mut self, fault: Fault, asked: &Asked) -> io::Result<bool> {
        match fault {
            Fault::None => {
                let reply = self.behind.answer(asked).await;
                self.write(asked, &reply, reply.body.len()).await?;
                Ok(true)
            }
            Fault::Status(status, after) => {
                let mut reply = Reply::new(status, Bytes::new());
                reply.headers.extend(after.map(|seconds| ("retry-after".to_owned(), seconds.to_string())));
                self.write(asked, &reply, 0).await?;
                Ok(true)
            }
            Fault::Echo => {
                let reply = Reply::new(400, asked.head.clone());
                self.write(asked, &reply, reply.body.len()).await?;
                Ok(true)
            }
            Fault::Truncate => {
                let reply = self.behind.answer(asked).await;
                self.write(asked, &reply, reply.body.len() / 2).await?;
                Ok(false)
            }
            Fault::Shorten => {
                let mut reply = self.behind.answer(asked).await;
                reply.body.truncate(reply.body.len() / 2);
                self.write(asked, &reply, reply.body.len()).await?;
                Ok(true)
            }
            Fault::Break => Ok(false),
            Fault::Swallow => {
                self.behind.answer(asked).await;
                Ok(false)
            }
            Fault::Stall => {
                self.armed.changed().await.ok();
                Ok(false)
            }
        }
    }

    /// The head of an answer, and so much of its body.
    async fn write(&mut self, asked: &Asked, reply: &Reply, body: usize) -> io::Result<()> {
        let mut head = format!("HTTP/1.1 {} .\r\n", reply.status);
        for (name, value) in &reply.headers {
            if asked.method == "HEAD" || name != "content-length" {
                write!(head, "{name}: {value}\r\n").expect("a string takes all");
            }
        }
        let bodiless = asked.method == "HEAD" || matches!(reply.status, 204 | 304);
        if !bodiless {
            write!(head, "content-length: {}\r\n", reply.body.len()).expect("a string takes all");
        }
        head.push_str("\r\n");
        self.stream.write_all(head.as_bytes()).await?;
        if !bodiless {
            self.stream.write_all(&reply.body[..body]).await?;
        }
        self.stream.flush().await
    }
}

/// The fault holds until this is dropped, or over.
pub(super) struct Faulty<'a>(&'a Injector);

impl<'a> Faulty<'a> {
    /// To every request.
    pub(super) fn new(injector: &'a Injector, fault: Fault) -> Self {
        Self::after(injector, fault, 0)
    }

    /// To every request, once so many more went well.
    pub(super) fn after(injector: &'a Injector, fault: Fault, requests: usize) -> Self {
        injector.arm(Armed { fault, from: injector.seen() + requests, until: usize::MAX });
        Self(injector)
    }

    /// To a single request, once so many more went well.
    pub(super) fn once(injector: &'a Injector, fault: Fault, requests: usize) -> Self {
        let from = injector.seen() + requests;
        injector.arm(Armed { fault, from, until: from + 1 });
        Self(injector)
    }
}

impl Drop for Faulty<'_> {
    fn drop(&mut self) {
        self.0.arm(Armed::NOTHING);
    }
}
