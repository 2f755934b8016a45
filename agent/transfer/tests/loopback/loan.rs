//! What a loan promises: the bytes that lie there and no others, and that it is noticed when somebody writes.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use nix::unistd::{Uid, setfsuid};
use remora_core::ports::DiskView;
use remora_core::{ByteRange, DiskName, ErrorKind, ExtentState, PIECE_SIZE};
use remora_transfer::{BorrowedDisk, Credentials, Loan, Server, Task, Worker};
use tempfile::TempDir;

use crate::device::Loop;

const MIB: u64 = 1 << 20;

struct Lab {
    claim: TempDir,
    worker: Worker,
}

impl Lab {
    fn new() -> Self {
        let claim = tempfile::tempdir().unwrap();
        let path = claim.path().to_owned();
        Self::with(claim, vec![path])
    }

    fn with(claim: TempDir, disks: Vec<PathBuf>) -> Self {
        Self::by(Uid::current(), claim, disks)
    }

    /// The worker has the rights of that user to files.
    fn by(user: Uid, claim: TempDir, disks: Vec<PathBuf>) -> Self {
        let credentials = Credentials::new().unwrap();
        let server = Server::bind(Task::Lend, "127.0.0.1:0".parse().unwrap(), &credentials.worker, disks).unwrap();
        let address = server.address().unwrap();
        std::thread::spawn(move || {
            // Of this thread, and of those that it starts.
            setfsuid(user);
            server.serve()
        });
        Self { claim, worker: Worker { address, identity: credentials.agent } }
    }

    fn image(&self) -> File {
        let path = self.claim.path().join("disk.img");
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
    }

    async fn borrow(&self) -> BorrowedDisk {
        let loan = Loan::connect(&self.worker).await.unwrap();
        loan.open(name(), 0).await.unwrap()
    }
}

fn name() -> DiskName {
    DiskName::new("root").unwrap()
}

/// All of it, by its extents: what is not data reads as zeros.
async fn all(disk: &BorrowedDisk) -> (Vec<u8>, u64) {
    let (mut bytes, mut read, mut at) = (vec![0; disk.size() as usize], 0, 0);
    let extents: Vec<_> = disk.extents().try_collect().await.unwrap();
    for extent in extents {
        assert_eq!(extent.range.start, at);
        at = extent.range.end;
        if extent.state == ExtentState::Data {
            for part in extent.range.split(PIECE_SIZE) {
                let data = disk.read(part).await.unwrap();
                bytes[part.start as usize..part.end as usize].copy_from_slice(&data);
                read += part.len();
            }
        }
    }
    assert_eq!(at, disk.size());
    (bytes, read)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_borrowed_disk_is_what_lies_there_and_its_holes_are_not_read() {
    let lab = Lab::new();
    let image = lab.image();
    // Bytes at both ends and between, a size that is no multiple of anything.
    let size = 40 * MIB + 512;
    image.set_len(size).unwrap();
    let mut random = vec![0; 3 * MIB as usize];
    fastrand::Rng::with_seed(1).fill(&mut random);
    for at in [0, 17 * MIB, size - random.len() as u64] {
        image.write_all_at(&random, at).unwrap();
    }
    let disk = lab.borrow().await;
    let (bytes, read) = all(&disk).await;
    assert!(bytes == fs::read(lab.claim.path().join("disk.img")).unwrap());
    assert!(read < 12 * MIB, "{read}");
    assert!(disk.is_unchanged().await.unwrap());
}

/// A device does not tell where it has no data, nor that somebody wrote.
#[tokio::test(flavor = "multi_thread")]
async fn a_borrowed_device_is_read_to_its_last_byte() {
    let mut held = vec![0; 5 * MIB as usize + 512];
    fastrand::Rng::with_seed(2).fill(&mut held[..MIB as usize]);
    fastrand::Rng::with_seed(3).fill(&mut held[4 * MIB as usize..]);
    let device = Loop::new(&held);
    let lab = Lab::with(tempfile::tempdir().unwrap(), vec![device.path.clone()]);
    let disk = lab.borrow().await;
    let (bytes, read) = all(&disk).await;
    assert!(bytes == held);
    assert_eq!(read, held.len() as u64);
    assert!(disk.read(ByteRange::at(read - 10, 20)).await.is_err(), "beyond its end");
    assert!(disk.is_unchanged().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_needs_that_is_not_root_is_said_of_a_device() {
    let device = Loop::new(&[0xee; 512]);
    let lab = Lab::by(Uid::from_raw(107), tempfile::tempdir().unwrap(), vec![device.path.clone()]);
    let refused = Loan::connect(&lab.worker).await.unwrap().open(name(), 0).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{}", refused.chain());
    assert!(refused.chain().contains("device_ownership_from_security_context = true"), "{}", refused.chain());
}

/// More stretches than one reply has.
#[tokio::test(flavor = "multi_thread")]
async fn a_map_of_many_stretches_is_whole() {
    let lab = Lab::new();
    let image = lab.image();
    let (stretches, step) = (6000_u64, 8192);
    image.set_len(stretches * step).unwrap();
    for number in 0..stretches {
        image.write_all_at(&number.to_le_bytes(), number * step).unwrap();
    }
    let disk = lab.borrow().await;
    let (bytes, _) = all(&disk).await;
    assert!(bytes == fs::read(lab.claim.path().join("disk.img")).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_reads_at_once_get_their_own_bytes() {
    let lab = Lab::new();
    let image = lab.image();
    image.set_len(64 * MIB).unwrap();
    for number in 0..64_u64 {
        image.write_all_at(&number.to_le_bytes(), number * MIB + number).unwrap();
    }
    let disk = Arc::new(lab.borrow().await);
    let mut reads = tokio::task::JoinSet::new();
    for number in 0..64_u64 {
        let disk = Arc::clone(&disk);
        reads.spawn(async move {
            let read = disk.read(ByteRange::at(number * MIB, MIB));
            if number % 3 == 0 {
                // Whoever does not wait for its bytes leaves others theirs.
                drop(tokio::time::timeout(std::time::Duration::ZERO, read).await);
            } else {
                let bytes = read.await.unwrap();
                assert_eq!(bytes[number as usize..number as usize + 8], number.to_le_bytes());
            }
        });
    }
    while let Some(done) = reads.join_next().await {
        done.unwrap();
    }
}

/// Waits until what is written now has a later time than the image: the times of files are as coarse as the kernel's ticks.
async fn later(lab: &Lab) {
    let modified = |file: &File| file.metadata().unwrap().modified().unwrap();
    let beside = lab.claim.path().join("beside");
    let written = || {
        fs::write(&beside, "now").unwrap();
        modified(&File::open(&beside).unwrap())
    };
    while written() <= modified(&lab.image()) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_or_another_file_in_its_place_is_noticed() {
    type Change = fn(&Path);
    let changes: [Change; 4] = [
        |image| OpenOptions::new().write(true).open(image).unwrap().write_all_at(b"x", 5).unwrap(),
        |image| OpenOptions::new().write(true).open(image).unwrap().set_len(MIB + 1).unwrap(),
        |image| {
            // With the time of the one before.
            let time = image.metadata().unwrap().modified().unwrap();
            let other = image.with_extension("other");
            fs::write(&other, vec![0; MIB as usize]).unwrap();
            File::open(&other).unwrap().set_modified(time).unwrap();
            fs::rename(other, image).unwrap();
        },
        |image| fs::remove_file(image).unwrap(),
    ];
    for (number, change) in changes.iter().enumerate() {
        let lab = Lab::new();
        lab.image().write_all_at(&vec![1; MIB as usize], 0).unwrap();
        let disk = lab.borrow().await;
        assert!(disk.is_unchanged().await.unwrap());
        later(&lab).await;
        change(&lab.claim.path().join("disk.img"));
        assert!(!matches!(disk.is_unchanged().await, Ok(true)), "{number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_said_and_the_loan_goes_on() {
    let lab = Lab::new();
    lab.image().set_len(MIB).unwrap();
    let loan = Loan::connect(&lab.worker).await.unwrap();
    let missing = loan.open(name(), 7).await.unwrap_err();
    assert!(missing.chain().contains("no disk number 7"), "{missing:?}");
    let disk = loan.open(name(), 0).await.unwrap();
    assert!(disk.read(ByteRange::at(MIB - 10, 20)).await.is_err(), "beyond its end");
    assert_eq!(disk.read(ByteRange::at(MIB - 10, 10)).await.unwrap(), vec![0; 10]);
    // A link in its place leads nowhere.
    let image = lab.claim.path().join("disk.img");
    fs::remove_file(&image).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &image).unwrap();
    assert!(loan.open(name(), 0).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_this_run_s_agent_reads_nothing() {
    let lab = Lab::new();
    lab.image().set_len(MIB).unwrap();
    let other = Credentials::new().unwrap().agent;
    let mut identity = other.clone();
    identity.ca.clone_from(&lab.worker.identity.ca);
    let loan = Loan::connect(&Worker { identity, ..lab.worker.clone() }).await;
    // TLS 1.3 tells a client with the first answer only.
    let refused = match loan {
        Ok(loan) => loan.open(name(), 0).await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    let own = Loan::connect(&Worker { identity: other, ..lab.worker }).await.unwrap_err();
    assert_eq!(own.kind(), ErrorKind::Unavailable, "it is no worker of ours");
}

/// The worker is gone, as when the VM is started.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_goes_is_an_error_that_says_so_for_whoever_reads() {
    let lab = Lab::new();
    lab.image().set_len(MIB).unwrap();
    let disk = lab.borrow().await;
    // Another agent takes the first one's place.
    let second = lab.borrow().await;
    let lost = disk.read(ByteRange::at(0, 10)).await.unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::Unavailable);
    assert!(lost.advice().unwrap().contains("BackupRun"), "{lost:?}");
    assert_eq!(second.read(ByteRange::at(0, 10)).await.unwrap(), vec![0; 10]);
}
