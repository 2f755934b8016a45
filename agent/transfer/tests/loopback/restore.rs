//! What a restore's transfer promises: exact bytes, whoever dies or lies.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use nix::fcntl::OFlag;
use nix::unistd::{Uid, setfsuid};
use remora_core::point::{Decision, Point};
use remora_core::ports::{DiskIndex, Piece, PointReader, Progress};
use remora_core::testing::{new_disk, point};
use remora_core::{BLOCK_SIZE, ByteRange, Error, ErrorKind, Extent, ExtentState, Result, VmName};
use remora_transfer::{Credentials, Parcel, SendError, Server, Task, Worker, send};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::device::Loop;

const SIZE: usize = 40 * BLOCK_SIZE as usize + 512;

/// A point of one disk, whose reading can be stopped.
struct Disk {
    point: Point,
    bytes: Bytes,
    /// After so many pieces nothing more comes.
    stalls_after: Option<usize>,
}

impl Disk {
    fn new(bytes: Vec<u8>) -> Self {
        let disk = new_disk("root", bytes.len() as u64, Decision::Full);
        let point = point(&VmName::new("shop/web").unwrap(), vec![disk]);
        Self { point, bytes: bytes.into(), stalls_after: None }
    }

    /// Data at both ends, zeros between and within.
    fn usual() -> Self {
        let mut bytes = vec![0; SIZE];
        fastrand::Rng::with_seed(3).fill(&mut bytes[..7 * BLOCK_SIZE as usize + 100]);
        fastrand::Rng::with_seed(4).fill(&mut bytes[30 * BLOCK_SIZE as usize..]);
        Self::new(bytes)
    }

    fn blocks(&self) -> Vec<(ByteRange, bool)> {
        let blocks = ByteRange::new(0, self.bytes.len() as u64).split(BLOCK_SIZE);
        blocks
            .map(|block| (block, self.bytes[block.start as usize..block.end as usize].iter().any(|b| *b != 0)))
            .collect()
    }
}

#[async_trait]
impl PointReader for Disk {
    fn point(&self) -> &Point {
        &self.point
    }

    fn extents(&self, _: DiskIndex, _: ByteRange) -> BoxStream<'_, Result<Extent>> {
        let state = |data| if data { ExtentState::Data } else { ExtentState::Zero };
        stream::iter(self.blocks()).map(move |(range, data)| Ok(Extent { range, state: state(data) })).boxed()
    }

    async fn read(&self, _: DiskIndex, _: ByteRange) -> Result<Bytes> {
        unreachable!("a transfer reads in order")
    }

    fn pieces(&self, _: DiskIndex, _: ByteRange) -> BoxStream<'_, Result<Piece>> {
        let data = self.blocks().into_iter().filter(|(_, data)| *data).map(|(range, _)| {
            Ok(Piece { at: range.start, data: self.bytes.slice(range.start as usize..range.end as usize) })
        });
        match self.stalls_after {
            Some(pieces) => stream::iter(data.take(pieces)).chain(stream::pending()).boxed(),
            None => stream::iter(data).boxed(),
        }
    }

    async fn differing(&self, _: DiskIndex, _: u64, _: &Bytes) -> Result<Vec<ByteRange>> {
        unreachable!("a transfer compares nothing")
    }
}

#[derive(Default)]
struct Meter(AtomicU64, AtomicU64);

impl Progress for Meter {
    fn expect(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::SeqCst);
    }

    fn advance(&self, bytes: u64) {
        self.1.fetch_add(bytes, Ordering::SeqCst);
    }
}

/// A worker with one claim.
struct Lab {
    claim: TempDir,
    credentials: Credentials,
    address: SocketAddr,
    cancel: CancellationToken,
}

impl Lab {
    fn new() -> Self {
        let claim = tempfile::tempdir().unwrap();
        let path = claim.path().to_owned();
        Self::with(claim, vec![path])
    }

    /// The claim is a device, or whatever is there.
    fn of(path: &Path) -> Self {
        Self::with(tempfile::tempdir().unwrap(), vec![path.to_owned()])
    }

    fn with(claim: TempDir, disks: Vec<PathBuf>) -> Self {
        Self::by(Uid::current(), claim, disks)
    }

    /// The worker has the rights of that user to files.
    fn by(user: Uid, claim: TempDir, disks: Vec<PathBuf>) -> Self {
        let credentials = Credentials::new().unwrap();
        let receiver = Server::bind(Task::Receive, "127.0.0.1:0".parse().unwrap(), &credentials.worker, disks).unwrap();
        let address = receiver.address().unwrap();
        std::thread::spawn(move || {
            // Of this thread, and of those that it starts.
            setfsuid(user);
            receiver.serve()
        });
        Self { claim, credentials, address, cancel: CancellationToken::new() }
    }

    fn image(&self) -> PathBuf {
        self.claim.path().join("disk.img")
    }

    fn worker(&self, address: SocketAddr) -> Worker {
        Worker { address, identity: self.credentials.agent.clone() }
    }

    async fn send(&self, disk: &Disk) -> Result<(), SendError> {
        self.send_to(self.address, disk, &Meter::default()).await
    }

    async fn send_to(&self, address: SocketAddr, disk: &Disk, meter: &Meter) -> Result<(), SendError> {
        let parcel = Parcel { disk: DiskIndex(0), to: 0 };
        send(&self.worker(address), disk, &[parcel], meter, &self.cancel).await
    }
}

/// Waits until something holds; the other side is on a thread of its own.
fn wait_until(mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_mins(5), "waited in vain");
        std::thread::yield_now();
    }
}

/// A way to the worker on which both directions pass `meddle`, which says whether the connection lives on.
fn relay(to: SocketAddr, limit: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (client, worker) = (client.unwrap(), TcpStream::connect(to).unwrap());
            let (mut from, mut into) = (worker.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut into));
            let mut limited = (&client).take(limit as u64);
            std::io::copy(&mut limited, &mut &worker).ok();
            client.shutdown(std::net::Shutdown::Both).ok();
            worker.shutdown(std::net::Shutdown::Both).ok();
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_is_what_the_point_holds_at_its_exact_size() {
    let lab = Lab::new();
    let (disk, meter) = (Disk::usual(), Meter::default());
    // What was there before, longer and with data in the place of zeros, is gone.
    std::fs::write(lab.image(), vec![7; SIZE + 5000]).unwrap();
    lab.send_to(lab.address, &disk, &meter).await.unwrap();
    assert_eq!(std::fs::read(lab.image()).unwrap(), disk.bytes);
    assert_eq!((meter.0.into_inner(), meter.1.into_inner()), (SIZE as u64, SIZE as u64));
    let nothing = Disk::new(vec![0; SIZE]);
    lab.send(&nothing).await.unwrap();
    assert_eq!(std::fs::read(lab.image()).unwrap(), nothing.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_anywhere_is_said_and_the_next_one_begins_again() {
    let lab = Lab::new();
    let disk = Disk::usual();
    for limit in [0, 100, 3000, 100_000, 500_000] {
        let meter = Meter::default();
        let broken = lab.send_to(relay(lab.address, limit), &disk, &meter);
        // One that ends in the handshake is tried for a minute, and not waited for here.
        let handshake = limit < 100_000;
        let patience = if handshake { Duration::from_secs(2) } else { Duration::from_mins(5) };
        let ended = tokio::time::timeout(patience, broken).await;
        assert!(!matches!(ended, Ok(Ok(()))), "{limit}: {ended:?}");
        if !handshake {
            assert!(matches!(ended, Ok(Err(SendError::Lost(..)))), "{limit}: {ended:?}");
        }
        lab.send(&disk).await.unwrap();
        assert_eq!(std::fs::read(lab.image()).unwrap(), disk.bytes, "{limit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_hangs_is_replaced_by_its_successor() {
    let lab = Arc::new(Lab::new());
    let hanging = Disk { stalls_after: Some(2), ..Disk::usual() };
    let first = {
        let lab = Arc::clone(&lab);
        tokio::spawn(async move { lab.send(&hanging).await })
    };
    let image = lab.image();
    tokio::task::spawn_blocking(move || wait_until(|| image.metadata().is_ok_and(|file| file.len() == SIZE as u64)))
        .await
        .unwrap();
    let disk = Disk::usual();
    lab.send(&disk).await.unwrap();
    assert_eq!(std::fs::read(lab.image()).unwrap(), disk.bytes);
    lab.cancel.cancel();
    let first = first.await.unwrap().unwrap_err();
    assert!(matches!(first, SendError::Lost(..) | SendError::Point(_)), "{first:?}");
    // Cancelled, and not merely lost.
    let cancelled = lab.send(&disk).await.unwrap_err();
    assert!(matches!(&cancelled, SendError::Point(error) if error.kind() == ErrorKind::Cancelled), "{cancelled:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_lies_about_what_it_wrote_is_found_out() {
    let lab = Lab::new();
    let disk = Disk::usual();
    // It writes to the end of one disk what it reads back for the other: what is stored is not what was sent.
    let image = lab.image();
    let spoiler = std::thread::spawn(move || {
        wait_until(|| std::fs::read(&image).is_ok_and(|bytes| bytes.len() == SIZE && bytes[..100] != [0; 100]));
        let file = std::fs::OpenOptions::new().write(true).open(&image).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"spoilt", 20 * BLOCK_SIZE).unwrap();
    });
    let slow = Slow { disk, spoiler: std::sync::Mutex::new(Some(spoiler)) };
    let parcel = Parcel { disk: DiskIndex(0), to: 0 };
    let sent = send(&lab.worker(lab.address), &slow, &[parcel], &Meter::default(), &lab.cancel).await;
    assert!(matches!(&sent, Err(SendError::Differs(disk)) if disk == "root"), "{sent:?}");
}

/// Gives its last piece once the spoiler is done.
struct Slow {
    disk: Disk,
    spoiler: std::sync::Mutex<Option<std::thread::JoinHandle<()>>>,
}

#[async_trait]
impl PointReader for Slow {
    fn point(&self) -> &Point {
        self.disk.point()
    }

    fn extents(&self, disk: DiskIndex, range: ByteRange) -> BoxStream<'_, Result<Extent>> {
        self.disk.extents(disk, range)
    }

    async fn read(&self, disk: DiskIndex, range: ByteRange) -> Result<Bytes> {
        self.disk.read(disk, range).await
    }

    fn pieces(&self, disk: DiskIndex, range: ByteRange) -> BoxStream<'_, Result<Piece>> {
        let last = BLOCK_SIZE * 40;
        let wait = move |piece: Result<Piece>| async move {
            let spoiler = self.spoiler.lock().unwrap().take_if(|_| piece.as_ref().is_ok_and(|one| one.at == last));
            if let Some(spoiler) = spoiler {
                tokio::task::spawn_blocking(move || spoiler.join().unwrap()).await.unwrap();
            }
            piece
        };
        self.disk.pieces(disk, range).then(wait).boxed()
    }

    async fn differing(&self, disk: DiskIndex, at: u64, data: &Bytes) -> Result<Vec<ByteRange>> {
        self.disk.differing(disk, at, data).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_no_certificate_of_this_restore_s_agent_writes_nothing() {
    let lab = Lab::new();
    let other = Credentials::new().unwrap();
    let (ca, ours) = (lab.credentials.agent.ca.clone(), &lab.credentials);
    for (who, certificate, key) in [
        ("an agent of another restore", &other.agent.certificate, &other.agent.key),
        ("this restore's worker", &ours.worker.certificate, &ours.worker.key),
    ] {
        let identity = remora_transfer::Identity { ca: ca.clone(), certificate: certificate.clone(), key: key.clone() };
        let worker = Worker { address: lab.address, identity };
        let parcel = Parcel { disk: DiskIndex(0), to: 0 };
        let sent = send(&worker, &Disk::usual(), &[parcel], &Meter::default(), &lab.cancel).await;
        assert!(matches!(sent, Err(SendError::Lost(..))), "{who}: {sent:?}");
    }
    // Nor does the agent send to whoever listens there.
    let another = Lab::new();
    let sent = another.send_to(lab.address, &Disk::usual(), &Meter::default()).await;
    assert!(matches!(sent, Err(SendError::Lost(..))), "{sent:?}");
    // One that says nothing, or nonsense, holds up nobody.
    let _silent = TcpStream::connect(lab.address).unwrap();
    TcpStream::connect(lab.address).unwrap().write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert!(!lab.image().exists());
    lab.send(&Disk::usual()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_written_is_said_in_the_worker_s_words() {
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("passwd");
    std::fs::write(&target, "theirs").unwrap();
    let lab = Lab::new();
    std::os::unix::fs::symlink(&target, lab.image()).unwrap();
    let refused = lab.send(&Disk::usual()).await.unwrap_err();
    assert!(matches!(&refused, SendError::Refused { no_space: false, .. }), "{refused:?}");
    assert_eq!(std::fs::read(&target).unwrap(), b"theirs");

    let (lab, disk) = (Lab::new(), Disk::usual());
    let parcel = Parcel { disk: DiskIndex(0), to: 9 };
    let refused = send(&lab.worker(lab.address), &disk, &[parcel], &Meter::default(), &lab.cancel).await.unwrap_err();
    assert!(refused.to_string().contains("no disk number 9"), "{refused}");
    let huge = Claims { disk, data: u64::MAX / 2 };
    let parcel = Parcel { disk: DiskIndex(0), to: 0 };
    let refused = send(&lab.worker(lab.address), &huge, &[parcel], &Meter::default(), &lab.cancel).await.unwrap_err();
    assert!(matches!(&refused, SendError::Refused { no_space: true, .. }), "{refused:?}");
    assert!(refused.to_string().contains("has room for"), "{refused}");
    let image = Path::new(&lab.image()).metadata().map(|file| file.len());
    assert!(image.map_or(true, |length| length == 0), "it was written to all the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_gets_the_disk_and_keeps_what_is_beyond_it() {
    for beyond in [0, 9 * BLOCK_SIZE as usize + 512] {
        let device = Loop::new(&vec![0xee; SIZE + beyond]);
        let lab = Lab::of(&device.path);
        // Half of one, then all of it over that, then one of zeros over its data.
        let broken = lab.send_to(relay(lab.address, 500_000), &Disk::usual(), &Meter::default()).await;
        assert!(matches!(broken, Err(SendError::Lost(..))), "{broken:?}");
        for disk in [Disk::usual(), Disk::new(vec![0; SIZE])] {
            lab.send(&disk).await.unwrap();
            let bytes = device.bytes();
            assert!(bytes[..SIZE] == disk.bytes[..], "{beyond}");
            assert!(bytes[SIZE..] == vec![0xee_u8; beyond], "{beyond}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_will_not_do_is_refused_and_nothing_is_written_to_it() {
    let old = vec![0xee; SIZE - 512];
    let small = Loop::new(&old);
    let refused = Lab::of(&small.path).send(&Disk::usual()).await.unwrap_err();
    assert!(matches!(&refused, SendError::Refused { no_space: true, .. }), "{refused:?}");
    let told = format!("the device has {} bytes, and the disk {SIZE}", old.len());
    assert!(refused.to_string().contains(&told), "{refused}");
    assert!(small.bytes() == old);
    drop(small);

    // One that somebody has for himself, as a filesystem that is mounted does.
    let old = vec![0xee; SIZE];
    let device = Loop::new(&old);
    let lab = Lab::of(&device.path);
    let had = std::fs::OpenOptions::new().read(true).custom_flags(OFlag::O_EXCL.bits()).open(&device.path).unwrap();
    let refused = lab.send(&Disk::usual()).await.unwrap_err();
    assert!(matches!(&refused, SendError::Refused { no_space: false, .. }), "{refused:?}");
    assert!(refused.to_string().contains("resource busy"), "{refused}");
    assert!(device.bytes() == old);
    drop(had);
    lab.send(&Disk::usual()).await.unwrap();

    let refused = Lab::of(Path::new("/dev/null")).send(&Disk::usual()).await.unwrap_err();
    assert!(refused.to_string().contains("is neither a folder nor a block device"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_needs_that_is_not_root_is_said_of_a_device_and_nothing_is_written_to_it() {
    let old = vec![0xee; SIZE];
    let device = Loop::new(&old);
    let lab = Lab::by(Uid::from_raw(107), tempfile::tempdir().unwrap(), vec![device.path.clone()]);
    let refused = lab.send(&Disk::usual()).await.unwrap_err();
    assert!(refused.to_string().contains("device_ownership_from_security_context = true"), "{refused}");
    assert!(device.bytes() == old);
}

/// Says that it has more data than any volume has room for.
struct Claims {
    disk: Disk,
    data: u64,
}

#[async_trait]
impl PointReader for Claims {
    fn point(&self) -> &Point {
        self.disk.point()
    }

    fn extents(&self, _: DiskIndex, _: ByteRange) -> BoxStream<'_, Result<Extent>> {
        let range = ByteRange::new(0, self.data);
        stream::once(async move { Ok(Extent { range, state: ExtentState::Data }) }).boxed()
    }

    async fn read(&self, _: DiskIndex, _: ByteRange) -> Result<Bytes> {
        Err(Error::new(ErrorKind::Failed, "not asked for"))
    }

    fn pieces(&self, disk: DiskIndex, range: ByteRange) -> BoxStream<'_, Result<Piece>> {
        self.disk.pieces(disk, range)
    }

    async fn differing(&self, disk: DiskIndex, at: u64, data: &Bytes) -> Result<Vec<ByteRange>> {
        self.disk.differing(disk, at, data).await
    }
}
