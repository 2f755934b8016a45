//! A point whose disks are plain files, with damage and slowness on request.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use remora_core::point::{Decision, Point};
use remora_core::ports::{DiskIndex, Piece, PointReader};
use remora_core::testing::{new_disk, point};
use remora_core::{BLOCK_SIZE, ByteRange, Error, ErrorKind, Extent, ExtentState, Result, VmName};
use tokio::sync::Semaphore;

pub(crate) struct FileReader {
    point: Point,
    files: Vec<File>,
    /// Reads that touch it fail.
    pub(crate) damaged: Mutex<Option<(usize, ByteRange)>>,
    /// Every read takes a permit; none left, and reads hang.
    pub(crate) gate: Semaphore,
    pub(crate) waiting: AtomicUsize,
    pub(crate) bytes_read: AtomicU64,
}

impl FileReader {
    /// A point with these raw images as disks of these names.
    pub(crate) fn new(disks: &[(&str, PathBuf)]) -> Self {
        let disk = |(name, path): &(&str, PathBuf)| new_disk(name, path.metadata().unwrap().len(), Decision::Full);
        let point = point(&VmName::new("vm1").unwrap(), disks.iter().map(disk).collect());
        Self {
            // The files of disks show it.
            point: Point { time: "2026-02-03T04:05:06.789Z".parse().unwrap(), ..point },
            files: disks.iter().map(|(_, path)| File::open(path).unwrap()).collect(),
            damaged: Mutex::new(None),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
            waiting: AtomicUsize::new(0),
            bytes_read: AtomicU64::new(0),
        }
    }

    fn bytes(&self, disk: DiskIndex, range: ByteRange) -> Vec<u8> {
        let mut bytes = vec![0; range.len() as usize];
        self.files[disk.0].read_exact_at(&mut bytes, range.start).unwrap();
        bytes
    }
}

#[async_trait]
impl PointReader for FileReader {
    fn point(&self) -> &Point {
        &self.point
    }

    fn extents(&self, disk: DiskIndex, range: ByteRange) -> BoxStream<'_, Result<Extent>> {
        let state = move |range| {
            let zero = self.bytes(disk, range).iter().all(|b| *b == 0);
            Ok(Extent { range, state: if zero { ExtentState::Zero } else { ExtentState::Data } })
        };
        stream::iter(range.split(BLOCK_SIZE).map(state)).boxed()
    }

    async fn read(&self, disk: DiskIndex, range: ByteRange) -> Result<Bytes> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let permit = self.gate.acquire().await.unwrap();
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        drop(permit);
        let damaged =
            self.damaged.lock().unwrap().filter(|(at, lost)| *at == disk.0 && lost.intersect(range).is_some());
        if let Some((_, lost)) = damaged {
            return Err(Error::new(ErrorKind::Damaged, format!("segment x: {lost} is damaged")));
        }
        self.bytes_read.fetch_add(range.len(), Ordering::SeqCst);
        Ok(self.bytes(disk, range).into())
    }

    fn pieces(&self, _: DiskIndex, _: ByteRange) -> BoxStream<'_, Result<Piece>> {
        unimplemented!("files are served by random access")
    }

    async fn differing(&self, _: DiskIndex, _: u64, _: &Bytes) -> Result<Vec<ByteRange>> {
        unimplemented!("files are served by random access")
    }
}

/// A file of `size` bytes with `data` ranges that hold bytes which tell their place.
pub(crate) fn raw_image(path: &Path, size: u64, data: &[ByteRange]) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    for piece in data.iter().flat_map(|range| range.split(1 << 20)) {
        let bytes: Vec<u8> = (piece.start..piece.end).map(|at| (at >> 9) as u8 ^ (at * 31) as u8 | 1).collect();
        file.write_all_at(&bytes, piece.start).unwrap();
    }
}
