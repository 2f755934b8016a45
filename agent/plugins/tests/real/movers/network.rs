//! What the broker lets a mover reach, and what it keeps from it.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use remora_core::{Error, ErrorKind};
use remora_plugins::movers::{MoverStore, Names, SystemNames};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::hostile::folder;
use super::{Folder, example};
use crate::lines::{Lines, another};

/// The secret that must be seen nowhere.
pub(super) const CANARY: &str = "canary-7f3a9c";

/// The error of ours in one of a store.
pub(super) fn ours(error: &object_store::Error) -> &Error {
    std::error::Error::source(error).and_then(|source| source.downcast_ref()).unwrap_or_else(|| panic!("{error:?}"))
}

/// A server that answers every request alike, and counts them.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Arc<AtomicUsize>,
}

impl Server {
    /// Gives each connection's request to `answer`, and ends the connection after what that says.
    pub(crate) async fn start(at: &str, answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let (address, seen) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let (counted, answer) = (Arc::clone(&seen), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let answer = Arc::clone(&answer);
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\n") {
                        request.push(connection.read_u8().await?);
                    }
                    connection.write_all(&answer(&String::from_utf8_lossy(&request))).await
                });
            }
        });
        Self { address, seen }
    }

    pub(crate) fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }
}

pub(crate) fn answer(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len()).into_bytes()
}

/// Names as a test says, one answer after the other; the last one stays.
struct Scripted(Mutex<Vec<Vec<&'static str>>>);

#[async_trait]
impl Names for Scripted {
    async fn addresses(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        let mut answers = self.0.lock().unwrap();
        let now = if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() };
        Ok(now.into_iter().map(|address| address.parse().unwrap()).collect())
    }
}

fn names(answers: &[&[&'static str]]) -> Arc<dyn Names> {
    Arc::new(Scripted(Mutex::new(answers.iter().map(|answer| answer.to_vec()).collect())))
}

/// A mover whose `head` fetches `url`; the loopback address 127.0.0.1 is granted.
fn fetcher(folder: &Folder, url: &str, allow: &str, misbehave: &str) -> MoverStore {
    fetcher_within(folder, url, allow, misbehave, "5m")
}

/// The same, of one that has no more time than that for a call.
fn fetcher_within(folder: &Folder, url: &str, allow: &str, misbehave: &str, timeout: &str) -> MoverStore {
    let lines = format!(
        "settings: {{url: '{url}', misbehave: '{misbehave}'}}\nsecrets: {{canary: canary}}\ntimeout: {timeout}\n\
         network: {{allow: ['{allow}'], addresses: [127.0.0.1], plainHttp: true}}\n"
    );
    folder.mover("fetcher", &fs::read(example("hostile")).unwrap(), &lines)
}

/// What became of a fetch: an error always, of which `fetched` is the mover's own.
async fn fetch(store: &MoverStore) -> Error {
    let error = store.head(&Path::from("x")).await.unwrap_err();
    let error = ours(&error);
    Error::new(error.kind(), error.chain()).advise(error.advice().unwrap_or_default())
}

#[track_caller]
fn assert_refused(error: &Error, code: &str) {
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.to_string().contains(code) && error.advice().unwrap().contains("network"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_on_the_list_is_not_asked() {
    let server = Server::start("127.0.0.1:0", |_| answer("200 OK", "hello")).await;
    let folder = folder();
    let url = format!("http://{}/", server.address);
    assert_refused(&fetch(&fetcher(&folder, &url, "example.com:443", "")).await, "broker-not-allowed");
    assert_eq!(server.seen(), 0);
    let fetched = fetch(&fetcher(&folder, &url, &server.address.to_string(), "")).await;
    assert!(fetched.to_string().contains("status 200: hello"), "{fetched}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_turns_to_another_address_is_not_followed_there() {
    let server = Server::start("127.0.0.1:0", |_| answer("200 OK", "hello")).await;
    let port = server.address.port();
    let inside = Server::start(&format!("127.0.0.2:{port}"), |_| answer("200 OK", "secrets of the node")).await;
    let mut folder = folder();
    folder.movers.names = names(&[&["127.0.0.1"], &["127.0.0.2"], &["169.254.169.254"], &["127.0.0.1", "127.0.0.2"]]);
    let store = fetcher(&folder, &format!("http://rebind.test:{port}/"), &format!("rebind.test:{port}"), "");
    let fetched = fetch(&store).await;
    assert!(fetched.to_string().contains("status 200: hello"), "{fetched}");
    for address in ["127.0.0.2", "169.254.169.254", "127.0.0.2"] {
        let error = fetch(&store).await;
        assert_refused(&error, "broker-address");
        assert!(error.to_string().contains(address), "{error}");
    }
    assert_eq!((server.seen(), inside.seen()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_inside_are_refused_however_they_are_written() {
    let server = Server::start("127.0.0.1:0", |_| answer("200 OK", "hello")).await;
    let folder = folder();
    let port = server.address.port();
    for host in ["169.254.169.254", "[::ffff:169.254.169.254]", "[fd00:ec2::254]", "127.0.0.2", "2130706434", "[::1]"] {
        let url = format!("http://{host}:{port}/");
        assert_refused(&fetch(&fetcher(&folder, &url, &format!("{host}:{port}"), "")).await, "broker-address");
    }
    assert_eq!(server.seen(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_an_answer_and_not_followed() {
    let inside = Server::start("127.0.0.1:0", |_| answer("200 OK", "secrets of the node")).await;
    let to = format!("HTTP/1.1 307 Moved\r\nlocation: http://{}/latest/\r\ncontent-length: 0\r\n\r\n", inside.address);
    let server = Server::start("127.0.0.1:0", move |_| to.clone().into_bytes()).await;
    let store = fetcher(&folder(), &format!("http://{}/", server.address), &server.address.to_string(), "");
    let fetched = fetch(&store).await;
    assert!(fetched.to_string().contains("status 307"), "{fetched}");
    assert_eq!(inside.seen(), 0);
}

/// Neither is the mover let there itself, be the address on the list of servers or not.
#[tokio::test(flavor = "multi_thread")]
async fn a_mover_that_follows_a_redirect_to_metadata_is_refused() {
    let server = Server::start("127.0.0.1:0", |_| {
        let to = "location: http://169.254.169.254/latest/meta-data/";
        format!("HTTP/1.1 307 Moved\r\n{to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").into_bytes()
    })
    .await;
    let (url, folder) = (format!("http://{}/", server.address), folder());
    let both = format!("{}', '169.254.169.254:80", server.address);
    for (allow, code) in [(server.address.to_string(), "broker-not-allowed"), (both, "broker-address")] {
        let error = fetch(&fetcher(&folder, &url, &allow, "follow")).await;
        assert_refused(&error, code);
        assert!(error.to_string().contains("169.254.169.254"), "{error}");
    }
    assert_eq!(server.seen(), 2);
}

/// Whoever stands behind a server may tell who asks by the connection.
#[tokio::test(flavor = "multi_thread")]
async fn movers_share_no_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    tokio::spawn(async move {
        let mut number = 0;
        while let Ok((mut connection, _)) = listener.accept().await {
            let noted = Arc::clone(&noted);
            number += 1;
            tokio::spawn(async move {
                let mut request = Vec::new();
                while let Ok(byte) = connection.read_u8().await {
                    request.push(byte);
                    if !request.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    let path = String::from_utf8_lossy(&request).split(' ').nth(1).unwrap_or_default().to_owned();
                    noted.lock().unwrap().push((path, number));
                    request.clear();
                    // It stays open for the next one.
                    connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.ok();
                }
            });
        }
    });
    let folders = [folder(), folder()];
    let mover = |n: usize| fetcher(&folders[n], &format!("http://{address}/{n}"), &address.to_string(), "");
    let movers = [mover(0), mover(1)];
    let of = |path: &str| {
        let seen = seen.lock().unwrap();
        seen.iter().filter(|(asked, _)| asked == path).map(|(_, n)| *n).collect::<Vec<u32>>()
    };
    let keeps = |connections: &[u32]| connections.windows(2).any(|two| two[0] == two[1]);
    let both_keep = || ["/0", "/1"].iter().all(|path| keeps(&of(path)));
    let mut rounds = 0;
    // On a busy machine a connection is sometimes not back yet when the next one is wanted.
    while rounds < 3 || (rounds < 100 && !both_keep()) {
        for mover in &movers {
            let fetched = fetch(mover).await;
            assert!(fetched.to_string().contains("status 200"), "{fetched}");
        }
        rounds += 1;
    }
    let (first, second) = (of("/0"), of("/1"));
    assert_eq!((first.len(), second.len()), (rounds, rounds));
    // Each keeps its own: there is something to share.
    assert!(keeps(&first) && keeps(&second), "{first:?} and {second:?}");
    assert!(first.iter().all(|connection| !second.contains(connection)), "{first:?} and {second:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_never_comes_or_never_ends_costs_its_own_call() {
    const SHORT: &str = "20s";
    let folder = folder();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endless = Server::start("127.0.0.1:0", |_| {
        let mut answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec();
        answer.resize(1 << 20, b'x');
        answer
    })
    .await;
    let headers =
        Server::start("127.0.0.1:0", |_| format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(100_000)).into_bytes())
            .await;
    let silent = silent.local_addr().unwrap();
    // All but the first have the time that a busy machine needs.
    for (address, how, timeout, said) in [
        (silent, "", SHORT, "broker-timeout"),
        (silent, "pending", "5m", "16 requests under way and wants more"),
        (endless.address, "", "5m", "broker-too-large"),
        (headers.address, "", "5m", "broker-"),
    ] {
        let url = format!("http://{address}/");
        let store = fetcher_within(&folder, &url, &address.to_string(), how, timeout);
        let mut error = fetch(&store).await;
        // It has five seconds for all but the wait for the answer, which are not enough on a busy machine: it is asked again
        // then, less often than a mover must fail to be shut out.
        let mut tries = if timeout == SHORT { 8 } else { 0 };
        while tries > 0 && error.to_string().contains("it did not answer within") {
            error = fetch(&store).await;
            tries -= 1;
        }
        assert!(error.to_string().contains(said), "{said}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_under_way_when_its_caller_goes_is_given_up() {
    let (sent, mut closed) = tokio::sync::mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        sent.send(()).unwrap();
        let mut all = Vec::new();
        connection.read_to_end(&mut all).await.ok();
        sent.send(()).unwrap();
    });
    let lines = format!(
        "settings: {{url: 'http://{address}/'}}\nsecrets: {{canary: canary}}\n\
         network: {{allow: ['{address}'], addresses: [127.0.0.1], plainHttp: true}}\n"
    );
    let store = folder().mover("patient", &fs::read(example("hostile")).unwrap(), &lines);
    let running = store.clone();
    let call = tokio::spawn(async move { fetch(&running).await });
    closed.recv().await.unwrap();
    call.abort();
    let closed = tokio::time::timeout(crate::components::FOR_EVER, closed.recv()).await;
    closed.expect("the connection stays open").unwrap();
}

/// On one thread, so that the log of this test is this test's.
#[tokio::test]
async fn a_secret_that_a_server_sends_back_stands_neither_in_a_log_nor_in_an_error() {
    let lines = Lines::default();
    let _another = another();
    let subscriber =
        tracing_subscriber::fmt().with_writer(lines.clone()).with_ansi(false).with_max_level(tracing::Level::DEBUG);
    let _guard = tracing::subscriber::set_default(subscriber.finish());
    let server = Server::start("127.0.0.1:0", |request| answer("200 OK", request)).await;
    let store = fetcher(&folder(), &format!("http://{}/", server.address), &server.address.to_string(), "");
    let error = fetch(&store).await.to_string();
    let log = lines.text();
    for text in [&error, &log] {
        assert!(text.to_lowercase().contains("authorization: bearer [secret]"), "{text}");
        assert!(!text.contains(CANARY), "{text}");
    }
    assert!(log.contains("it said GET / HTTP/1.1"), "{log}");
}

/// A mover that says it backwards, in which nobody knows it: what it never had it cannot say.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_a_server_sends_back_does_not_come_to_the_mover() {
    let server = Server::start("127.0.0.1:0", |request| {
        let sent = request.lines().find(|line| line.to_lowercase().starts_with("authorization")).unwrap_or_default();
        let length = sent.len();
        let answer =
            format!("HTTP/1.1 200 OK\r\nx-echo: {sent}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{sent}");
        answer.into_bytes()
    })
    .await;
    let store = fetcher(&folder(), &format!("http://{}/", server.address), &server.address.to_string(), "steal");
    let said: String = fetch(&store).await.to_string().chars().rev().collect();
    assert_eq!(said.matches("Bearer [secret]").count(), 2, "{said}");
    assert!(!said.contains(CANARY), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_this_machines_unless_a_test_says_otherwise() {
    let found =
        tokio::time::timeout(crate::components::FOR_EVER, SystemNames.addresses("localhost")).await.unwrap().unwrap();
    assert!(found.iter().all(IpAddr::is_loopback) && !found.is_empty(), "{found:?}");
}
