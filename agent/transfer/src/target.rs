//! What a worker writes to: a file in a claim's folder, or a claim's device.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, PosixFadviseAdvice, posix_fadvise};
use nix::sys::statvfs::statvfs;
use remora_core::ByteRange;
use remora_holes::{data_from, write_zeros};

use crate::digest::Digest;
use crate::explain::explained;
use crate::frame::Fault;

/// The name of a disk's image in a claim's folder, as KubeVirt wants it.
pub(crate) const IMAGE: &str = "disk.img";

/// Bytes read back at once.
const READ: usize = 1024 * 1024;

/// The most that is zeroed at once.
const ZEROS: u64 = 64 * 1024 * 1024;

/// Why it cannot be written.
pub(crate) struct Refusal(pub(crate) Fault, pub(crate) String);

/// Something to write one disk to, in order.
pub(crate) struct Target {
    path: PathBuf,
    file: File,
    size: u64,
    /// Whether what is not written keeps old bytes.
    keeps: bool,
    /// What is written up to.
    at: u64,
}

impl Target {
    /// Opens it, if there is room: for so many bytes of a file's data, or for the whole of a device's disk.
    pub(crate) fn open(path: &Path, size: u64, data: u64) -> Result<Self, Refusal> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error: io::Error| refusal(&path, &error)
        };
        let kind = path.metadata().map_err(failed(path))?.file_type();
        if kind.is_dir() {
            let image = path.join(IMAGE);
            let file = Self::file(path, &image, size, data)?;
            return Ok(Self { path: image, file, size, keeps: false, at: 0 });
        }
        if !kind.is_block_device() {
            return Err(Refusal(Fault::Failed, format!("{} is neither a folder nor a block device", path.display())));
        }
        let device = OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_EXCL.bits()).open(path);
        let mut device = device.map_err(failed(path))?;
        let room = device.seek(SeekFrom::End(0)).map_err(failed(path))?;
        if room < size {
            return Err(Refusal(Fault::NoSpace, format!("the device has {room} bytes, and the disk {size}")));
        }
        Ok(Self { path: path.into(), file: device, size, keeps: true, at: 0 })
    }

    fn file(folder: &Path, image: &Path, size: u64, data: u64) -> Result<File, Refusal> {
        // Not through a link that lies there, nor into a pipe.
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o660).custom_flags(flags);
        let file = options.open(image).map_err(|error| refusal(image, &error))?;
        let is = file.metadata().map_err(|error| refusal(image, &error))?;
        if !is.is_file() {
            return Err(Refusal(Fault::Failed, format!("{} is not a file", image.display())));
        }
        let room = statvfs(folder).map_err(|error| refusal(folder, &error.into()))?;
        // What is there already goes.
        let room = room.blocks_available().saturating_mul(room.fragment_size()).saturating_add(is.blocks() * 512);
        if room < data {
            let what = format!("the volume has room for {room} bytes, and the disk has {data} bytes of data");
            return Err(Refusal(Fault::NoSpace, what));
        }
        file.set_len(0).and_then(|()| file.set_len(size)).map_err(|error| refusal(image, &error))?;
        Ok(file)
    }

    /// Writes what comes next; zeros before it.
    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), Refusal> {
        let end = at.checked_add(bytes.len() as u64).filter(|end| *end <= self.size && at >= self.at);
        let Some(end) = end else {
            return Err(Refusal(Fault::Invalid, format!("{} bytes at {at} are not what comes next", bytes.len())));
        };
        self.zero(at)?;
        self.file.write_all_at(bytes, at).map_err(|error| refusal(&self.path, &error))?;
        self.at = end;
        Ok(())
    }

    /// Everything is written. Reads it back from where it is stored.
    pub(crate) fn finish(mut self) -> Result<[u8; 32], Refusal> {
        self.zero(self.size)?;
        self.read_back().map_err(|error| refusal(&self.path, &error))
    }

    fn zero(&mut self, until: u64) -> Result<(), Refusal> {
        if self.keeps {
            for part in ByteRange::new(self.at, until).split(ZEROS) {
                write_zeros(&self.file, part).map_err(|error| refusal(&self.path, &error))?;
            }
        }
        self.at = until;
        Ok(())
    }

    fn read_back(&self) -> io::Result<[u8; 32]> {
        self.file.sync_all()?;
        // From the disk, and not from what the kernel remembers having written.
        posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        let length = if self.keeps { self.size } else { self.file.metadata()?.len() };
        if length != self.size {
            return Err(io::Error::other(format!("it has {length} bytes, not {}", self.size)));
        }
        let (mut digest, mut buffer, mut at) = (Digest::new(self.size), vec![0; READ], 0);
        while let Some(begin) = data_from(&self.file, at, self.size)? {
            let length = (self.size - begin).min(READ as u64) as usize;
            self.file.read_exact_at(&mut buffer[..length], begin)?;
            digest.data(begin, &buffer[..length]);
            at = begin + length as u64;
        }
        Ok(digest.finish())
    }
}

fn refusal(path: &Path, error: &io::Error) -> Refusal {
    let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let fault = if full { Fault::NoSpace } else { Fault::Failed };
    Refusal(fault, explained(path, error))
}
