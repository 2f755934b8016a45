//! The client against real servers (qemu-nbd, qemu-storage-daemon, nbdkit with its filters) and against one that lies.

#![allow(clippy::unwrap_used, reason = "these are tests throughout")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use remora_nbd::{Client, ConnectOptions, NbdError};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const MIB: usize = 1024 * 1024;

/// A real server on a unix socket; ends with the test.
struct Server {
    process: Child,
    socket: PathBuf,
    _dir: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl Server {
    /// Starts a program that will listen on the socket that `arguments` is given.
    fn start(program: &str, dir: TempDir, arguments: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let socket = dir.path().join("nbd.sock");
        let mut command = Command::new(program);
        command.args(arguments(&socket)).stdin(Stdio::null());
        let process = command.spawn().unwrap_or_else(|e| panic!("{program}: {e}; `make setup` installs it"));
        let mut server = Self { process, socket, _dir: dir };
        let limit = Instant::now() + Duration::from_secs(20);
        while !server.socket.exists() {
            assert!(server.process.try_wait().unwrap().is_none(), "{program} ended at once");
            assert!(Instant::now() < limit, "{program} does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }

    fn nbdkit(arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        Self::start("nbdkit", tempfile::tempdir().unwrap(), |socket| {
            [vec!["-f".into(), "-U".into(), socket.display().to_string()], arguments].concat()
        })
    }

    async fn connect(&self, options: ConnectOptions) -> Result<Client, NbdError> {
        Client::connect_unix(&self.socket, options).await
    }
}

fn run(program: &str, arguments: &[&str]) {
    let ran = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(ran.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
}

/// Bytes that tell where they belong.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n / 512 * 7 + n) as u8).collect()
}

fn qemu_nbd(content: &[u8]) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.raw");
    std::fs::write(&image, content).unwrap();
    Server::start("qemu-nbd", dir, |socket| {
        let path = |p: &Path| p.display().to_string();
        ["-r", "-t", "-f", "raw", "-x", "disk", "-k", &path(socket), &path(&image)].map(Into::into).to_vec()
    })
}

fn export(name: &str) -> ConnectOptions {
    ConnectOptions { export: name.into(), ..ConnectOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_reads_at_once_give_the_bytes_of_the_disk() {
    let content = pattern(8 * MIB + 512);
    let server = qemu_nbd(&content);
    let client = server.connect(export("disk")).await.unwrap();
    assert_eq!(client.size(), content.len() as u64);
    assert_eq!(client.peer_pid(), Some(server.process.id()));
    let ranges = [(0, MIB), (MIB + 1, 3), (5 * MIB - 7, 2 * MIB), (8 * MIB, 512), (0, 8 * MIB)];
    let reads = (0..40).map(|n| ranges[n % ranges.len()]).map(|(at, len)| {
        let client = client.clone();
        tokio::spawn(async move { (at, len, client.read(at as u64, len as u32).await.unwrap()) })
    });
    for read in reads.collect::<Vec<_>>() {
        let (at, len, bytes) = read.await.unwrap();
        assert!(bytes == content[at..at + len], "{len} bytes at {at}");
    }
    for (at, len) in [(content.len(), 1), (content.len() - 1, 2), (0, 0)] {
        let error = client.read(at as u64, len).await.unwrap_err();
        assert!(matches!(error, NbdError::OutOfRange { .. }), "{error}");
    }
    client.disconnect().await;
    assert!(matches!(client.read(0, 1).await, Err(NbdError::Disconnected(_))));
}

#[tokio::test]
async fn an_unknown_export_is_told_with_the_known_ones() {
    let server = qemu_nbd(&pattern(512));
    for contexts in [vec![], vec!["base:allocation".to_owned()]] {
        match server.connect(ConnectOptions { contexts, ..export("other") }).await {
            Err(NbdError::ExportNotFound { export, available }) => {
                assert_eq!((export.as_str(), available), ("other", vec!["disk".to_owned()]));
            }
            other => panic!("{other:?}"),
        }
    }
    let missing = Client::connect_unix(Path::new("/nowhere/nbd.sock"), export("disk")).await.unwrap_err();
    assert!(matches!(missing, NbdError::Connect { .. }), "{missing}");
}

/// A qcow2 image with a bitmap, in which QEMU wrote 64 KiB at 1 MiB and zeros at 2 MiB since the bitmap was added.
fn qemu_with_bitmap() -> Server {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.qcow2").display().to_string();
    run("qemu-img", &["create", "-q", "-f", "qcow2", &image, "8M"]);
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 1 0 1M", &image]);
    run("qemu-img", &["bitmap", "--add", &image, "since"]);
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 2 1M 64k", "-c", "write -z 2M 128k", &image]);
    Server::start("qemu-storage-daemon", dir, |socket| {
        let file = format!("driver=qcow2,node-name=d,read-only=on,file.driver=file,file.filename={image}");
        let export = "type=nbd,id=e,node-name=d,name=disk,bitmaps.0=since";
        let listen = format!("addr.type=unix,addr.path={}", socket.display());
        ["--blockdev", &file, "--nbd-server", &listen, "--export", export].map(Into::into).to_vec()
    })
}

#[tokio::test]
async fn several_contexts_tell_what_is_dirty_and_what_is_zero() {
    let server = qemu_with_bitmap();
    let dirty = "qemu:dirty-bitmap:since".to_owned();
    let contexts = vec!["base:allocation".to_owned(), dirty.clone(), "qemu:dirty-bitmap:none".to_owned()];
    let client = server.connect(ConnectOptions { contexts, ..export("disk") }).await.unwrap();
    let mut granted = client.contexts().to_vec();
    granted.sort();
    assert_eq!(granted, ["base:allocation".to_owned(), dirty.clone()]);
    let mut flags = vec![[9_u32; 2]; 8 * 16];
    for (place, context) in ["base:allocation", dirty.as_str()].into_iter().enumerate() {
        let mut at = 0;
        while at < client.size() {
            let told = client.block_status(at, (client.size() - at) as u32).await.unwrap();
            let told = told.into_iter().find(|t| t.context == context).unwrap();
            for extent in told.extents {
                let blocks = (at / 65536) as usize..((at + extent.length) / 65536) as usize;
                flags[blocks].iter_mut().for_each(|f| f[place] = extent.flags);
                at += extent.length;
            }
        }
    }
    let dirty_blocks: Vec<usize> = (0..flags.len()).filter(|n| flags[*n][1] & 1 == 1).collect();
    assert_eq!(dirty_blocks, [16, 32, 33]);
    assert_eq!(flags[16][0] & 2, 0, "data is no zero");
    assert!(flags[32][0] & 2 != 0 && flags[100][0] & 2 != 0, "zeros are told");
    assert_eq!(client.read(MIB as u64 - 1, 2).await.unwrap()[..], [1, 2]);
}

#[tokio::test]
async fn a_failed_read_is_told_and_the_connection_goes_on() {
    let server = Server::nbdkit(&["--filter=error", "pattern", "8M", "error-pread=EIO", "error-pread-rate=50%"]);
    let client = server.connect(export("")).await.unwrap();
    let (mut good, mut bad) = (0, 0);
    for n in 0..100_u64 {
        match client.read(n * 4096, 4096).await {
            Ok(bytes) => {
                assert_eq!(bytes[..8], (n * 4096).to_be_bytes());
                good += 1;
            }
            Err(NbdError::Remote { code, .. }) => {
                assert_eq!(code, 5);
                bad += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(good > 0 && bad > 0, "{good} good, {bad} bad");
}

#[tokio::test]
async fn a_server_that_takes_too_long_ends_the_connection() {
    let server = Server::nbdkit(&["--filter=delay", "pattern", "8M", "rdelay=60"]);
    let options = ConnectOptions { request_timeout: Duration::from_millis(300), ..export("") };
    let client = server.connect(options).await.unwrap();
    let other = tokio::spawn({
        let client = client.clone();
        async move { client.read(4096, 4096).await }
    });
    assert!(matches!(client.read(0, 4096).await, Err(NbdError::Timeout { .. })));
    assert!(matches!(other.await.unwrap(), Err(NbdError::Timeout { .. })));
    assert!(matches!(client.read(0, 4096).await, Err(NbdError::Timeout { .. })), "it stays ended");
}

#[tokio::test]
async fn dropped_reads_leave_the_connection_in_step() {
    let server = Server::nbdkit(&["--filter=delay", "pattern", "64M", "rdelay=20ms"]);
    let client = server.connect(ConnectOptions { max_in_flight: 8, ..export("") }).await.unwrap();
    for round in 0..5_u64 {
        let dropped = (0..20).map(|n| client.read((round * 20 + n) * 65536, 65536));
        drop(tokio::time::timeout(Duration::from_millis(5), futures::future::join_all(dropped)).await);
        let at = round * 4096 + 8;
        let bytes = client.read(at, 4096).await.unwrap();
        assert_eq!(bytes[..8], at.to_be_bytes(), "round {round}");
    }
}

#[tokio::test]
async fn block_sizes_of_the_server_are_kept_to() {
    let policy = ["blocksize-minimum=4096", "blocksize-preferred=4096", "blocksize-maximum=64K"];
    let arguments = ["--filter=blocksize-policy", "pattern", "8M", "blocksize-error-policy=error"];
    let server = Server::nbdkit(&[&arguments[..], &policy[..]].concat());
    let client = server.connect(export("")).await.unwrap();
    for (at, len) in [(8_u64, 16_u32), (4096, 4096), (8 * 511, 1 << 20), ((8 << 20) - 8, 8)] {
        let bytes = client.read(at, len).await.unwrap();
        for (n, word) in bytes.chunks(8).enumerate() {
            assert_eq!(word, (at + 8 * n as u64).to_be_bytes(), "{len} bytes at {at}, word {n}");
        }
    }
}

#[tokio::test]
async fn a_server_that_dies_ends_every_request() {
    let mut server = Server::nbdkit(&["--filter=delay", "pattern", "8M", "rdelay=60"]);
    let client = server.connect(export("")).await.unwrap();
    let reads: Vec<_> = (0..5_u64)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.read(n * 4096, 4096).await })
        })
        .collect();
    server.process.kill().unwrap();
    for read in reads {
        assert!(matches!(read.await.unwrap(), Err(NbdError::Disconnected(_))));
    }
}

// ------------------------------------------------------------------------------------------------ a server that lies

const SIZE: u64 = 1 << 20;

/// Shakes hands as a server of 1 MiB with one context, and gives the handle of the first request.
async fn accept(stream: &mut UnixStream) -> Option<u64> {
    let mut out = b"NBDMAGICIHAVEOPT".to_vec();
    out.extend(3_u16.to_be_bytes());
    stream.write_all(&out).await.ok()?;
    stream.read_u32().await.ok()?;
    loop {
        stream.read_u64().await.ok()?;
        let option = stream.read_u32().await.ok()?;
        let mut payload = vec![0; stream.read_u32().await.ok()? as usize];
        stream.read_exact(&mut payload).await.ok()?;
        let mut replies = Vec::new();
        match option {
            10 => replies.push((4, [7_u32.to_be_bytes().to_vec(), b"base:allocation".to_vec()].concat())),
            7 => replies.push((3, [0_u16.to_be_bytes().to_vec(), SIZE.to_be_bytes().to_vec(), vec![0, 1]].concat())),
            _ => {}
        }
        replies.push((1, Vec::new()));
        for (kind, payload) in replies {
            stream.write_all(&option_reply(option, kind, &payload)).await.ok()?;
        }
        if option == 7 {
            let mut request = [0; 28];
            stream.read_exact(&mut request).await.ok()?;
            return Some(u64::from_be_bytes(request[8..16].try_into().unwrap()));
        }
    }
}

fn option_reply(option: u32, kind: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = 0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec();
    out.extend(option.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend((payload.len() as u32).to_be_bytes());
    out.extend(payload);
    out
}

fn chunk(handle: u64, done: u16, kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = 0x668e_33ef_u32.to_be_bytes().to_vec();
    out.extend(done.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(handle.to_be_bytes());
    out.extend((payload.len() as u32).to_be_bytes());
    out.extend(payload);
    out
}

fn data(handle: u64, done: u16, offset: u64, len: usize) -> Vec<u8> {
    chunk(handle, done, 1, &[offset.to_be_bytes().to_vec(), vec![5; len]].concat())
}

fn status(handle: u64, context: u32, extents: &[(u32, u32)]) -> Vec<u8> {
    let mut payload = context.to_be_bytes().to_vec();
    payload.extend(extents.iter().flat_map(|(len, flags)| [len.to_be_bytes(), flags.to_be_bytes()].concat()));
    chunk(handle, 1, 5, &payload)
}

/// A client of a server that answers the first request with what `lie` makes of its handle, and then keeps the
/// connection open.
async fn client_of(lie: impl FnOnce(u64) -> Vec<u8> + Send + 'static) -> Client {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    tokio::spawn(async move {
        if let Some(handle) = accept(&mut theirs).await {
            theirs.write_all(&lie(handle)).await.ok();
            // Open until the client goes.
            theirs.read_to_end(&mut Vec::new()).await.ok();
        }
    });
    let contexts = vec!["base:allocation".to_owned()];
    let options = ConnectOptions { contexts, request_timeout: Duration::from_secs(2), ..export("") };
    Client::connect_stream(ours, options).await.unwrap()
}

type Lie = (&'static str, fn(u64) -> Vec<u8>);

#[tokio::test]
async fn no_lie_about_a_read_gives_data() {
    let lies: &[Lie] = &[
        ("another handle", |h| data(h + 1, 1, 0, 4096)),
        ("data before the range", |h| data(h, 1, 4095, 4096)),
        ("data beyond the range", |h| data(h, 1, 8192 - 10, 4096)),
        ("only a part", |h| data(h, 1, 4096, 4095)),
        ("nothing", |h| chunk(h, 1, 0, &[])),
        ("a part twice", |h| [data(h, 0, 4096, 2048), data(h, 0, 4096, 2048), data(h, 1, 6144, 2048)].concat()),
        ("a part over another", |h| [data(h, 0, 6144, 2048), data(h, 1, 4096, 2049)].concat()),
        ("too much data", |h| data(h, 1, 4096, 4097)),
        ("no data in a chunk of data", |h| data(h, 1, 4096, 0)),
        ("a chunk of data without an offset", |h| chunk(h, 1, 1, &[1, 2, 3])),
        ("an endless hole", |h| chunk(h, 1, 2, &[4096_u64.to_be_bytes().to_vec(), vec![0xff; 4]].concat())),
        ("a hole that wraps", |h| chunk(h, 1, 2, &[vec![0xff; 8], 4096_u32.to_be_bytes().to_vec()].concat())),
        ("a status", |h| status(h, 7, &[(4096, 0)])),
        ("an unknown kind", |h| chunk(h, 1, 77, &[])),
        ("an error without a number", |h| chunk(h, 1, 0x8001, &[0; 6])),
        ("an error cut off", |h| chunk(h, 1, 0x8001, &[0, 0, 0, 5, 0, 9, b'x'])),
        ("a simple reply", |h| {
            [0x6744_6698_u32.to_be_bytes().to_vec(), vec![0; 4], h.to_be_bytes().to_vec(), vec![5; 4096]].concat()
        }),
        ("a payload of 4 GiB", |h| [&chunk(h, 1, 5, &[])[..16], &[0xff; 4]].concat()),
        ("another magic number", |h| [vec![1, 2, 3, 4], data(h, 1, 4096, 4096)].concat()),
        ("half a reply and then silence", |h| data(h, 1, 4096, 4096)[..3000].to_vec()),
    ];
    for (name, lie) in lies {
        let client = client_of(*lie).await;
        let read = tokio::time::timeout(Duration::from_secs(10), client.read(4096, 4096)).await;
        assert!(read.expect("in bounded time").is_err(), "{name}");
    }
    let client = client_of(|h| [data(h, 0, 6144, 2048), data(h, 1, 4096, 2048)].concat()).await;
    assert_eq!(client.read(4096, 4096).await.unwrap()[..], [5; 4096], "the truth, out of order");
}

#[tokio::test]
async fn no_lie_about_a_status_is_believed() {
    let lies: &[Lie] = &[
        ("another context", |h| status(h, 8, &[(4096, 0)])),
        ("no extent", |h| status(h, 7, &[])),
        ("an empty extent", |h| status(h, 7, &[(0, 0), (4096, 0)])),
        ("extents beyond the range", |h| status(h, 7, &[(4096, 0), (1, 0)])),
        ("half an extent", |h| chunk(h, 1, 5, &[0, 0, 0, 7, 0, 0])),
        ("a context twice", |h| {
            [&chunk(h, 0, 5, &status(h, 7, &[(1, 0)])[20..])[..], &status(h, 7, &[(1, 0)])].concat()
        }),
        ("data", |h| data(h, 1, 4096, 4096)),
        ("nothing", |h| chunk(h, 1, 0, &[])),
    ];
    for (name, lie) in lies {
        let client = client_of(*lie).await;
        assert!(client.block_status(4096, 4096).await.is_err(), "{name}");
    }
    let client = client_of(|h| status(h, 7, &[(1000, 1), (u32::MAX, 2)])).await;
    let told = client.block_status(4096, 4096).await.unwrap();
    let told: Vec<_> = told[0].extents.iter().map(|e| (e.length, e.flags)).collect();
    assert_eq!(told, [(1000, 1), (3096, 2)], "the last extent may reach further and is cut");
}

#[tokio::test]
async fn no_lie_in_the_handshake_connects() {
    let greeting = [b"NBDMAGICIHAVEOPT".as_slice(), &[0, 3]].concat();
    let endless = option_reply(8, 9, &[]).repeat(2000);
    let lies: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("oldstyle", [b"NBDMAGIC".as_slice(), &[0; 200]].concat()),
        ("no fixed newstyle", b"NBDMAGICIHAVEOPT\0\0".to_vec()),
        ("an answer to another option", [greeting.clone(), option_reply(3, 1, &[])].concat()),
        ("an endless payload", [greeting.clone(), option_reply(8, 1, &[])[..16].to_vec(), vec![0xff; 4]].concat()),
        ("endless answers", [greeting.clone(), endless].concat()),
        ("another magic number", [greeting.clone(), vec![7; 40]].concat()),
        ("no size", [greeting, option_reply(8, 1, &[]), option_reply(7, 1, &[])].concat()),
    ];
    for (name, bytes) in lies {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let lying = tokio::spawn(async move {
            theirs.write_all(&bytes).await.ok();
            theirs.read_to_end(&mut Vec::new()).await.ok();
        });
        let options = ConnectOptions { request_timeout: Duration::from_millis(500), ..export("") };
        let connected = tokio::time::timeout(Duration::from_secs(10), Client::connect_stream(ours, options)).await;
        assert!(connected.expect("in bounded time").is_err(), "{name}");
        lying.abort();
    }
}

/// Tens of thousands of mutations of real server bytes: no parser panics or believes more than it was told.
#[test]
fn mutated_replies_never_panic() {
    let seeds = [
        b"NBDMAGICIHAVEOPT\0\x03".to_vec(),
        option_reply(7, 3, &[0_u16.to_be_bytes().to_vec(), SIZE.to_be_bytes().to_vec(), vec![0, 1]].concat()),
        chunk(1, 1, 1, &[0; 20]),
        [4096_u32.to_be_bytes().to_vec(), status(1, 7, &[(4000, 1), (96, 2)])[20..].to_vec()].concat(),
        vec![0, 0, 0, 5, 0, 3, b'b', b'a', b'd', 0, 0, 0, 0, 0, 0, 0, 9],
    ];
    let mut state = 1_u64;
    let mut random = move |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    for round in 0..300_000 {
        let mut bytes = seeds[round % seeds.len()].clone();
        for _ in 0..=random(4) {
            match random(4) {
                0 => bytes.truncate(random(bytes.len() + 1)),
                1 => bytes.push(random(256) as u8),
                _ if bytes.is_empty() => {}
                2 => *bytes.last_mut().unwrap() ^= 0x80,
                _ => {
                    let at = random(bytes.len());
                    bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random(5)];
                }
            }
        }
        remora_nbd::fuzzing::parsers(&bytes);
    }
}
