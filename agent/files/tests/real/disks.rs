//! `disks/`: the bytes of the point, and nothing else.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::unistd::{Whence, lseek};
use remora_core::{ByteRange, ErrorKind};
use remora_files::{Ended, Files, Mount, MountOptions, Mounted};
use tempfile::TempDir;

use crate::guest::mounts_below;
use crate::reader::{FileReader, raw_image};
use crate::{outside, until};

const MIB: u64 = 1 << 20;
/// A size that is no multiple of a page or a block.
const SIZE: u64 = 40 * MIB + 1234;

struct Fixture {
    folder: TempDir,
    reader: Arc<FileReader>,
    mounted: Mounted,
}

impl Fixture {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (vda, vdb) = (folder.path().join("a"), folder.path().join("b"));
        raw_image(&vda, SIZE, &[ByteRange::new(0, 9 * MIB), ByteRange::new(20 * MIB, 21 * MIB)]);
        raw_image(&vdb, MIB, &[]);
        let reader = Arc::new(FileReader::new(&[("vda", vda), ("vdb", vdb)]));
        let mounted = Mount::start(Arc::clone(&reader) as _, &folder.path().join("m"), &disks_only()).await.unwrap();
        Self { folder, reader, mounted }
    }

    fn disk(&self) -> File {
        File::open(self.mounted.folder().join("disks/vda.raw")).unwrap()
    }

    fn truth(&self) -> Vec<u8> {
        fs::read(self.folder.path().join("a")).unwrap()
    }

    async fn stop(self) {
        let at = self.mounted.folder().to_owned();
        self.mounted.stop().await.unwrap();
        assert!(mounts_below(&at).is_empty());
        assert!(!at.exists());
    }
}

fn disks_only() -> MountOptions {
    MountOptions { files: Files::DisksOnly, ..MountOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_are_the_points_bytes_and_read_only() {
    let fixture = Fixture::new().await;
    let (folder, truth) = (fixture.mounted.folder().join("disks"), fixture.truth());
    outside(move || {
        let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["vda.raw", "vdb.raw"]);
        let vda = folder.join("vda.raw");
        assert!(fs::read(&vda).unwrap() == truth);
        assert_eq!(fs::metadata(folder.join("vdb.raw")).unwrap().len(), MIB);
        let found = fs::metadata(&vda).unwrap();
        assert_eq!((found.mode() & 0o7777, found.mtime(), found.mtime_nsec()), (0o400, 1_770_091_506, 789_000_000));
        for refused in [File::options().write(true).open(&vda).err(), File::create(folder.join("new")).err()] {
            assert_eq!(refused.unwrap().raw_os_error(), Some(nix::libc::EROFS));
        }
        assert!(fs::metadata(folder.join("vdz.raw")).is_err());
        let end = File::open(&vda).unwrap();
        assert_eq!(end.read_at(&mut [0; 100], SIZE - 10).unwrap(), 10);
        for beyond in [SIZE, SIZE + 1, i64::MAX as u64 - 200] {
            assert_eq!(end.read_at(&mut [0; 100], beyond).unwrap(), 0);
        }
        let space = nix::sys::statvfs::statvfs(&folder).unwrap();
        assert!(space.blocks() * space.fragment_size() >= SIZE + MIB);
    })
    .await;
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_at_random_places_get_the_right_bytes() {
    let fixture = Fixture::new().await;
    let truth = Arc::new(fixture.truth());
    let readers: Vec<_> = (0..8_u64)
        .map(|seed| {
            let (disk, truth) = (fixture.disk(), Arc::clone(&truth));
            outside(move || {
                let mut state = seed + 1;
                for _ in 0..150 {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let at = (state >> 20) % SIZE;
                    let len = ((state >> 8) % 300_000).min(SIZE - at) as usize;
                    let mut bytes = vec![0; len];
                    disk.read_exact_at(&mut bytes, at).unwrap();
                    assert!(bytes == truth[at as usize..at as usize + len], "{at}+{len}");
                }
            })
        })
        .collect();
    for reader in readers {
        reader.await;
    }
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_in_flight_together() {
    let fixture = Fixture::new().await;
    fixture.reader.gate.forget_permits(usize::MAX);
    let readers: Vec<_> = (0..4_u64)
        .map(|n| {
            let disk = fixture.disk();
            outside(move || disk.read_exact_at(&mut [0; 512], n * 5 * MIB).unwrap())
        })
        .collect();
    let reader = Arc::clone(&fixture.reader);
    until("four reads wait at once", || reader.waiting.load(Ordering::SeqCst) >= 4).await;
    fixture.reader.gate.add_permits(1000);
    for reader in readers {
        reader.await;
    }
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn holes_are_told_and_survive_a_copy() {
    let fixture = Fixture::new().await;
    let (disk, copy) = (fixture.disk(), fixture.folder.path().join("copy"));
    let (from, truth) = (fixture.mounted.folder().join("disks/vda.raw"), fixture.truth());
    outside(move || {
        let seek = |at: u64, whence| lseek(&disk, at.cast_signed(), whence).map(i64::cast_unsigned);
        assert_eq!(seek(0, Whence::SeekData), Ok(0));
        assert_eq!(seek(0, Whence::SeekHole), Ok(9 * MIB));
        assert_eq!(seek(10 * MIB, Whence::SeekData), Ok(20 * MIB));
        assert_eq!(seek(10 * MIB + 5, Whence::SeekHole), Ok(10 * MIB + 5));
        assert_eq!(seek(20 * MIB + 5, Whence::SeekData), Ok(20 * MIB + 5));
        assert_eq!(seek(30 * MIB, Whence::SeekData), Err(nix::errno::Errno::ENXIO));
        assert_eq!(seek(SIZE, Whence::SeekHole), Err(nix::errno::Errno::ENXIO));
        assert!(Command::new("cp").arg(&from).arg(&copy).status().unwrap().success());
        assert!(fs::read(&copy).unwrap() == truth);
        assert!(fs::metadata(&copy).unwrap().blocks() * 512 <= 10 * MIB + 65536);
    })
    .await;
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_an_error_there_and_nowhere_else() {
    let fixture = Fixture::new().await;
    *fixture.reader.damaged.lock().unwrap() = Some((0, ByteRange::new(5 * MIB, 6 * MIB)));
    let (disk, truth) = (fixture.disk(), fixture.truth());
    outside(move || {
        let mut bytes = vec![0; MIB as usize];
        let error = disk.read_exact_at(&mut bytes, 5 * MIB + 77).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::EIO));
        for sound in [4 * MIB - 7, 8 * MIB] {
            bytes.truncate(1000);
            disk.read_exact_at(&mut bytes, sound).unwrap();
            assert!(bytes == truth[sound as usize..sound as usize + 1000]);
        }
    })
    .await;
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_read_costs_little_and_a_sequential_one_reads_ahead() {
    let fixture = Fixture::new().await;
    let (disk, reader) = (fixture.disk(), Arc::clone(&fixture.reader));
    let disk = outside(move || {
        disk.read_exact_at(&mut [0; 4096], 12 * MIB).unwrap();
        disk
    })
    .await;
    let small = reader.bytes_read.swap(0, Ordering::SeqCst);
    assert!(small <= MIB, "4096 bytes cost {small}");
    // Without anybody asking for it: what is read ahead is more than what was read, kernel's read-ahead included.
    outside(move || disk.read_exact_at(&mut vec![0; 4 * MIB as usize], 0).unwrap()).await;
    until("something is read ahead", || reader.bytes_read.load(Ordering::SeqCst) >= 7 * MIB).await;
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_works_while_somebody_reads_and_holds_files_open() {
    let fixture = Fixture::new().await;
    let (disk, waiter) = (fixture.disk(), fixture.disk());
    fixture.reader.gate.forget_permits(usize::MAX);
    let hanging = outside(move || waiter.read_exact_at(&mut [0; 512], 7 * MIB));
    let hanging = tokio::spawn(hanging);
    let reader = Arc::clone(&fixture.reader);
    until("the read hangs", || reader.waiting.load(Ordering::SeqCst) >= 1).await;
    fixture.stop().await;
    assert_eq!(hanging.await.unwrap().unwrap_err().raw_os_error(), Some(nix::libc::EIO));
    let late = outside(move || disk.read_exact_at(&mut [0; 512], 8 * MIB)).await;
    assert!(late.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unmount_by_somebody_else_is_noticed() {
    let mut fixture = Fixture::new().await;
    let disks = fixture.mounted.folder().join("disks");
    assert!(Command::new("umount").arg("--lazy").arg(&disks).status().unwrap().success());
    let ended = tokio::time::timeout(Duration::from_mins(5), fixture.mounted.wait()).await.unwrap();
    assert_eq!(ended, Ended::Disks);
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_mount_leaves_nothing() {
    let Fixture { folder, reader, mounted } = Fixture::new().await;
    let at = mounted.folder().to_owned();
    outside(move || drop(mounted)).await;
    assert!(mounts_below(&at).is_empty());
    let again = Mount::start(reader, &at, &disks_only()).await.unwrap();
    again.stop().await.unwrap();
    drop(folder);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_in_use_is_refused_and_keeps_its_mount() {
    let fixture = Fixture::new().await;
    let reader = Arc::clone(&fixture.reader);
    let error = Mount::start(reader as _, fixture.mounted.folder(), &disks_only()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Busy);
    let folder = fixture.mounted.folder().to_owned();
    outside(move || assert!(Path::exists(&folder.join("disks/vda.raw")))).await;
    fixture.stop().await;
}
