//! The client against real servers: qemu-nbd, qemu-storage-daemon, nbdkit with its filters.

#![allow(clippy::unwrap_used, reason = "these are tests throughout")]

mod short;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use remora_nbd::{Client, ConnectOptions, NbdError};
use tempfile::TempDir;

const MIB: usize = 1024 * 1024;
const PIECE: usize = 65536;

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
        let limit = Instant::now() + Duration::from_mins(5);
        while !listens(&server.socket) {
            assert!(server.process.try_wait().unwrap().is_none(), "{program} ended at once");
            assert!(Instant::now() < limit, "{program} does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }

    fn nbdkit(arguments: &[&str]) -> Self {
        Self::nbdkit_of(tempfile::tempdir().unwrap(), arguments)
    }

    /// The same, with files in `dir`.
    fn nbdkit_of(dir: TempDir, arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        Self::start("nbdkit", dir, |socket| {
            [vec!["-f".into(), "-U".into(), socket.display().to_string()], arguments].concat()
        })
    }

    async fn connect(&self, options: ConnectOptions) -> Result<Client, NbdError> {
        Client::connect_unix(&self.socket, options).await
    }
}

/// Whether somebody listens: a socket is there before. Connecting to find out would be a client, after whom servers may end.
fn listens(socket: &Path) -> bool {
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    // Number, references, protocol, flags (of which SO_ACCEPTCON is the only one), type, state, inode, path.
    let mut all = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    all.any(|fields| fields.get(3) == Some(&"00010000") && fields.last().map(Path::new) == Some(socket))
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
    let disk = File::create(&image).unwrap();
    disk.set_len(content.len() as u64).unwrap();
    // Zeros are holes.
    for (n, piece) in content.chunks(PIECE).enumerate().filter(|(_, piece)| piece.iter().any(|byte| *byte != 0)) {
        disk.write_all_at(piece, (n * PIECE) as u64).unwrap();
    }
    Server::start("qemu-nbd", dir, |socket| {
        let path = |p: &Path| p.display().to_string();
        ["-r", "-t", "-f", "raw", "-x", "disk", "-k", &path(socket), &path(&image)].map(Into::into).to_vec()
    })
}

/// With the time that a busy machine needs for an answer.
fn export(name: &str) -> ConnectOptions {
    ConnectOptions { export: name.into(), request_timeout: Duration::from_mins(10), ..ConnectOptions::default() }
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
    let server = Server::nbdkit(&["--filter=delay", "pattern", "8M", "rdelay=600"]);
    // The handshake has no more, for which a busy machine may have no processor: then it is another one.
    let options = ConnectOptions { request_timeout: Duration::from_secs(2), ..export("") };
    let client = loop {
        match server.connect(options.clone()).await {
            Err(NbdError::Timeout { .. }) => {}
            connected => break connected.unwrap(),
        }
    };
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
