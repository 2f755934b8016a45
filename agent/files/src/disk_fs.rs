//! The disks of a point as raw files: one read-only folder, `<name>.raw` in it.
//!
//! Nothing is cached here: decoded chunks are cached by the reader, whole pages by the kernel (a point never changes).
//! The dispatching thread only starts tasks, so that many reads are in flight at once.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    Request,
};
use futures::StreamExt;
use remora_core::ports::{DiskIndex, PointReader};
use remora_core::{ByteRange, Error, ErrorKind, ExtentState, PIECE_SIZE, Result};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::read_ahead::ReadAhead;

/// A point never changes, so the kernel may keep what it was told.
const FOREVER: Duration = Duration::from_hours(24);
/// Reads served at once, of at most [`PIECE_SIZE`] each: what bounds this filesystem's memory.
const READS: usize = 24;
/// Of these, fetched ahead of any request.
const READS_AHEAD: usize = 8;
/// Damaged ranges that are remembered as reported.
const REPORTS: usize = 1000;
const BLOCK: u32 = 4096;

/// The filesystem. Its tasks run on the tokio runtime that it was made in.
pub(crate) struct DiskFs {
    disks: Vec<DiskFile>,
    time: SystemTime,
    served: Arc<Served>,
    open: Mutex<HashMap<u64, ReadAhead>>,
    next_handle: AtomicU64,
    runtime: Handle,
    tasks: Tasks,
}

/// What ends the tasks of a filesystem whose session is over.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    cancel: CancellationToken,
}

impl Tasks {
    /// Breaks off what is running, answering `EIO` where somebody still waits; what is asked later gets it at once.
    pub(crate) fn cancel(&self) {
        self.cancel.cancel();
    }

    /// The same, and waits until nothing runs.
    pub(crate) async fn end(&self) {
        self.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

struct DiskFile {
    name: String,
    size: u64,
}

/// What the tasks share.
struct Served {
    reader: Arc<dyn PointReader>,
    reads: Semaphore,
    reads_ahead: Arc<Semaphore>,
    reported: Mutex<HashSet<(DiskIndex, ByteRange)>>,
}

impl DiskFs {
    /// All disks of the point. Must be called within a tokio runtime.
    pub(crate) fn new(reader: Arc<dyn PointReader>) -> Self {
        let point = reader.point();
        let disks = point.disks.iter().map(|d| DiskFile { name: file_name(d.name.as_str()), size: d.size }).collect();
        let time = SystemTime::from(point.time);
        let served = Served {
            reader,
            reads: Semaphore::new(READS),
            reads_ahead: Arc::new(Semaphore::new(READS_AHEAD)),
            reported: Mutex::default(),
        };
        Self {
            disks,
            time,
            served: Arc::new(served),
            open: Mutex::default(),
            next_handle: AtomicU64::new(1),
            runtime: Handle::current(),
            tasks: Tasks::default(),
        }
    }

    /// What must be ended when the session is over.
    pub(crate) fn tasks(&self) -> Tasks {
        self.tasks.clone()
    }

    fn disk(&self, ino: INodeNo) -> Option<(DiskIndex, &DiskFile)> {
        let index = usize::try_from(ino.0.checked_sub(2)?).ok()?;
        self.disks.get(index).map(|disk| (DiskIndex(index), disk))
    }

    fn attributes(&self, ino: INodeNo) -> Option<FileAttr> {
        let (kind, perm, nlink, size) = if ino == INodeNo::ROOT {
            (FileType::Directory, 0o500, 2, 0)
        } else {
            (FileType::RegularFile, 0o400, 1, self.disk(ino)?.1.size)
        };
        Some(FileAttr {
            ino,
            size,
            // How much is allocated is known only after a walk through the whole map. One less than full makes cp and
            // tar ask for holes.
            blocks: (size / 512).saturating_sub(1),
            atime: self.time,
            mtime: self.time,
            ctime: self.time,
            crtime: self.time,
            kind,
            perm,
            nlink,
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            rdev: 0,
            blksize: BLOCK,
            flags: 0,
        })
    }

    /// Runs a task that ends when the filesystem does.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.tracker.spawn_on(task, &self.runtime);
    }

    fn fetch_ahead(&self, disk: DiskIndex, range: ByteRange) {
        for piece in range.split(PIECE_SIZE) {
            let Ok(permit) = Arc::clone(&self.served.reads_ahead).try_acquire_owned() else { return };
            let (served, cancel) = (Arc::clone(&self.served), self.tasks.cancel.clone());
            self.spawn(async move {
                let _permit = permit;
                // Its only purpose is to fill the reader's cache; whoever needs the bytes gets the error.
                let _ = cancel.run_until_cancelled(served.reader.read(disk, piece)).await;
            });
        }
    }
}

/// The name of a disk's file.
pub(crate) fn file_name(disk: &str) -> String {
    format!("{disk}.raw")
}

impl Served {
    async fn read(&self, disk: DiskIndex, range: ByteRange) -> Result<bytes::Bytes, Errno> {
        let Ok(_permit) = self.reads.acquire().await else { return Err(Errno::EIO) };
        match self.reader.read(disk, range).await {
            Ok(data) if data.len() as u64 == range.len() => Ok(data),
            Ok(data) => {
                let what = format!("the reader returned {} bytes for {range}", data.len());
                Err(self.report(disk, range, &Error::new(ErrorKind::Failed, what)))
            }
            Err(error) => Err(self.report(disk, range, &error)),
        }
    }

    /// Tells people once what was lost; programs get `EIO` each time.
    fn report(&self, disk: DiskIndex, range: ByteRange, error: &Error) -> Errno {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.len() < REPORTS && reported.insert((disk, range)) {
            let name = self.reader.point().disks.get(disk.0).map_or("?", |d| d.name.as_str());
            tracing::warn!(disk = name, %range, kind = ?error.kind(), "cannot be read: {}", error.chain());
        }
        Errno::EIO
    }

    /// Where the next data or hole at or behind `at` starts. The end of the disk counts as a hole.
    async fn seek(&self, disk: DiskIndex, at: u64, size: u64, wanted: ExtentState) -> Result<u64, Errno> {
        let mut extents = self.reader.extents(disk, ByteRange::new(at, size));
        while let Some(extent) = extents.next().await {
            match extent {
                Ok(extent) if (extent.state == ExtentState::Zero) == (wanted == ExtentState::Zero) => {
                    return Ok(extent.range.start.max(at));
                }
                Ok(_) => {}
                Err(error) => return Err(self.report(disk, ByteRange::new(at, size), &error)),
            }
        }
        if wanted == ExtentState::Zero { Ok(size) } else { Err(Errno::ENXIO) }
    }
}

impl Filesystem for DiskFs {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Where the kernel allows less, the call names what it allows.
        if let Err(most) = config.set_max_readahead(PIECE_SIZE as u32) {
            let _ = config.set_max_readahead(most);
        }
        // The kernel derives the largest read from the largest write.
        let _ = config.set_max_write(PIECE_SIZE as u32);
        let _ = config.set_max_background(READS as u16);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let index = self.disks.iter().position(|disk| OsStr::new(&disk.name) == name);
        let found = index.filter(|_| parent == INodeNo::ROOT).and_then(|i| self.attributes(INodeNo(i as u64 + 2)));
        match found {
            Some(attributes) => reply.entry(&FOREVER, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(ino) {
            Some(attributes) => reply.attr(&FOREVER, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if self.disk(ino).is_none() {
            return reply.error(Errno::ENOENT);
        }
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(handle, ReadAhead::default());
        reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some((disk, file)) = self.disk(ino) else { return reply.error(Errno::ENOENT) };
        let Some(range) = ByteRange::at(offset, size.into()).intersect(ByteRange::new(0, file.size)) else {
            return reply.data(&[]);
        };
        let (served, cancel) = (Arc::clone(&self.served), self.tasks.cancel.clone());
        self.spawn(async move {
            match cancel.run_until_cancelled(served.read(disk, range)).await {
                Some(Ok(data)) => reply.data(&data),
                Some(Err(errno)) => reply.error(errno),
                None => reply.error(Errno::EIO),
            }
        });
        let ahead = match self.open.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&handle.0) {
            Some(reading) => reading.read(range, file.size),
            None => return,
        };
        self.fetch_ahead(disk, ahead);
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&handle.0);
        reply.ok();
    }

    fn lseek(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let Some((disk, file)) = self.disk(ino) else { return reply.error(Errno::ENOENT) };
        let wanted = match whence {
            nix::libc::SEEK_DATA => ExtentState::Data,
            nix::libc::SEEK_HOLE => ExtentState::Zero,
            _ => return reply.error(Errno::EINVAL),
        };
        let (size, Ok(at)) = (file.size, u64::try_from(offset)) else { return reply.error(Errno::ENXIO) };
        if at >= size {
            return reply.error(Errno::ENXIO);
        }
        let (served, cancel) = (Arc::clone(&self.served), self.tasks.cancel.clone());
        self.spawn(async move {
            match cancel.run_until_cancelled(served.seek(disk, at, size, wanted)).await {
                Some(Ok(at)) => reply.offset(at.cast_signed()),
                Some(Err(errno)) => reply.error(errno),
                None => reply.error(Errno::EIO),
            }
        });
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        if ino != INodeNo::ROOT {
            return reply.error(Errno::ENOTDIR);
        }
        let dots = [".", ".."].map(|name| (INodeNo::ROOT, FileType::Directory, name));
        let files = self.disks.iter().enumerate();
        let files = files.map(|(i, disk)| (INodeNo(i as u64 + 2), FileType::RegularFile, disk.name.as_str()));
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (next, (ino, kind, name)) in (1_u64..).zip(dots.into_iter().chain(files)).skip(skip) {
            if reply.add(ino, next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks: u64 = self.disks.iter().map(|disk| disk.size.div_ceil(BLOCK.into())).sum();
        reply.statfs(blocks, 0, 0, self.disks.len() as u64 + 1, 0, BLOCK, 255, BLOCK);
    }
}
