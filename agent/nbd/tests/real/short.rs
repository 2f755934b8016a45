//! Reads that give less than was asked for. nbdkit has no filter that makes them, and the protocol no way to tell them
//! but an error; so the storage below a real nbdkit is cut short, and so is what it sends.

use std::io::Read;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// A read failed with EIO, and that is all: nobody made up what was not there.
#[track_caller]
fn assert_io_error(read: Result<bytes::Bytes, NbdError>, at: u64, len: u32) {
    match read {
        // Of the part of it that failed: a large read is made in several.
        Err(NbdError::Remote { code: 5, offset, .. }) => {
            assert!((at..at + u64::from(len)).contains(&offset), "{offset}");
        }
        other => panic!("{:?}", other.map(|bytes| bytes.len())),
    }
}

/// As a disk on a filesystem that lost the file's end.
#[tokio::test]
async fn a_file_that_was_cut_short_is_an_error_where_it_lacks_and_read_where_it_does_not() {
    let (dir, content) = (tempfile::tempdir().unwrap(), pattern(MIB));
    let image = dir.path().join("disk.raw");
    std::fs::write(&image, &content).unwrap();
    let server = Server::nbdkit_of(dir, &["file", image.to_str().unwrap()]);
    let client = server.connect(export("")).await.unwrap();
    assert!(client.read(0, MIB as u32).await.unwrap() == content);
    let kept = MIB as u64 / 2 + 100;
    File::options().write(true).open(&image).unwrap().set_len(kept).unwrap();
    for (at, len) in [(kept - 1, 2), (kept, 1), (0, MIB as u32), (MIB as u64 - 4096, 4096)] {
        assert_io_error(client.read(at, len).await, at, len);
        assert!(client.read(0, kept as u32).await.unwrap() == content[..kept as usize], "the connection goes on");
    }
}

#[tokio::test]
async fn a_plugin_that_gives_fewer_bytes_is_an_error_and_the_connection_goes_on() {
    // Whole below 64 KiB; from there on half of what is asked for, from 128 KiB on nothing.
    let pread = "if [ $4 -lt 65536 ]; then n=$3; elif [ $4 -lt 131072 ]; then n=$(($3 / 2)); else n=0; fi; \
                 yes remora | head -c $n";
    let server = Server::nbdkit(&["eval", "get_size=echo 1M", &format!("pread={pread}")]);
    let client = server.connect(export("")).await.unwrap();
    for at in [65536, 131_072] {
        assert_io_error(client.read(at, 4096).await, at, 4096);
        assert_eq!(client.read(0, 14).await.unwrap()[..], *b"remora\nremora\n");
    }
}

/// A relay before a server, which lets through so much of what it sends and then hangs up on both.
struct Relay {
    socket: PathBuf,
    /// How much of what the server sent was let through.
    passed: Arc<AtomicU64>,
    _dir: TempDir,
}

impl Relay {
    /// For one connection.
    fn before(server: &Server, limit: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (socket, passed) = (dir.path().join("relay.sock"), Arc::new(AtomicU64::new(0)));
        let listener = UnixListener::bind(&socket).unwrap();
        let mut upstream = UnixStream::connect(&server.socket).unwrap();
        let count = Arc::clone(&passed);
        std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let (mut asks, mut asked) = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
            std::thread::spawn(move || {
                std::io::copy(&mut asks, &mut asked).ok();
                asked.shutdown(Shutdown::Both).ok();
            });
            let mut answers = upstream.by_ref().take(limit);
            let mut buffer = vec![0; 65536];
            while let Ok(len @ 1..) = answers.read(&mut buffer) {
                // Counted first: whoever has the bytes finds them counted.
                count.fetch_add(len as u64, Ordering::SeqCst);
                if std::io::Write::write_all(&mut client, &buffer[..len]).is_err() {
                    break;
                }
            }
            for end in [client, upstream] {
                end.shutdown(Shutdown::Both).ok();
            }
        });
        Self { socket, passed, _dir: dir }
    }

    async fn connect(&self) -> Result<Client, NbdError> {
        Client::connect_unix(&self.socket, export("")).await
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_anywhere_ends_the_connection_and_gives_no_data() {
    const AT: u64 = 40960;
    const LEN: u64 = 4096;
    // One thread a connection: with more, nbdkit may abort when one of them has ended a connection that another answers on.
    let server = Server::nbdkit(&["--threads=1", "pattern", "8M"]);
    let relay = Relay::before(&server, u64::MAX);
    let client = relay.connect().await.unwrap();
    let handshake = relay.passed.load(Ordering::SeqCst);
    let whole = client.read(AT, LEN as u32).await.unwrap();
    assert_eq!(whole[..8], AT.to_be_bytes());
    let answer = relay.passed.load(Ordering::SeqCst) - handshake;
    assert!(answer > LEN, "{answer} bytes for {LEN} of data");

    for cut in 0..handshake {
        let connected = Relay::before(&server, cut).connect().await;
        assert!(matches!(connected, Err(NbdError::Disconnected(_))), "{cut} of {handshake} bytes: {connected:?}");
    }
    let header = answer - LEN;
    for cut in (0..=header + 1).chain([header + LEN / 2, answer - 1]) {
        let client = Relay::before(&server, handshake + cut).connect().await.unwrap();
        let read = client.read(AT, LEN as u32).await.map(|bytes| bytes.len());
        assert!(matches!(read, Err(NbdError::Disconnected(_))), "{cut} of {answer} bytes: {read:?}");
        let next = client.read(0, 1).await;
        assert!(matches!(next, Err(NbdError::Disconnected(_))), "{cut} of {answer} bytes: it goes on: {next:?}");
    }
    let relay = Relay::before(&server, handshake + answer);
    assert!(relay.connect().await.unwrap().read(AT, LEN as u32).await.unwrap() == whole);
}

/// QEMU answers a read of data, a hole and data in three chunks. Wherever it hangs up, nothing of it is taken.
#[tokio::test]
async fn an_answer_in_several_chunks_that_breaks_off_gives_no_data() {
    let mut content = pattern(3 * PIECE);
    content[PIECE..2 * PIECE].fill(0);
    let server = qemu_nbd(&content);
    let read = async |relay: &Relay| {
        let client = Client::connect_unix(&relay.socket, export("disk")).await.unwrap();
        let handshake = relay.passed.load(Ordering::SeqCst);
        (handshake, client.read(0, content.len() as u32).await)
    };
    let relay = Relay::before(&server, u64::MAX);
    let (handshake, whole) = read(&relay).await;
    assert!(whole.unwrap() == content);
    let answer = relay.passed.load(Ordering::SeqCst) - handshake;
    assert!(answer < 3 * PIECE as u64, "the hole was sent as data: {answer}");
    let in_last = answer - PIECE as u64 + 1;
    for cut in [1, 40, PIECE as u64, answer - PIECE as u64 - 10, in_last, answer - PIECE as u64 / 2, answer - 1] {
        let (_, read) = read(&Relay::before(&server, handshake + cut)).await;
        assert!(matches!(read, Err(NbdError::Disconnected(_))), "{cut} of {answer} bytes: it was taken");
    }
}
