//! Copies one node of the tree, and what is below it.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, readlinkat, renameat, renameat2};
use nix::sys::stat::{FileStat, Mode, SFlag, UtimensatFlags, fchmod, fstat, fstatat, mkdirat};
use nix::sys::stat::{futimens, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, symlinkat, unlinkat};
use remora_core::ports::Progress;
use remora_core::{Error, ErrorKind, LineageId, Result};

use super::{Copied, CopyOptions, Existing, contents};
use crate::skipped::Skipped;

/// Folders in one another; each costs two open files.
const DEEPEST: usize = 200;

/// A name in an open folder of the destination.
pub(super) struct Target<'a> {
    pub(super) folder: BorrowedFd<'a>,
    pub(super) name: &'a OsStr,
}

/// A run of copying.
pub(super) struct Copier<'a> {
    pub(super) copied: Copied,
    options: CopyOptions,
    progress: &'a dyn Progress,
    /// Only root may give files away.
    owners: bool,
}

/// Which side an error is on: a source that cannot be read costs that file, a destination that cannot be written ends
/// the copy.
pub(super) enum Failed {
    Source(Error),
    Target(Error),
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Source(error) | Failed::Target(error) => error,
        }
    }
}

pub(super) type Attempt<T = ()> = std::result::Result<T, Failed>;

pub(super) fn source(path: &Path) -> impl Fn(std::io::Error) -> Failed {
    move |e| Failed::Source(Error::io(format!("reading /{} of the point", path.display()), e))
}

pub(super) fn target(path: &Path) -> impl Fn(std::io::Error) -> Failed {
    move |e| Failed::Target(Error::io(format!("writing the copy of /{}", path.display()), e))
}

fn os<T>(result: nix::Result<T>) -> std::io::Result<T> {
    result.map_err(Into::into)
}

impl<'a> Copier<'a> {
    pub(super) fn new(options: CopyOptions, progress: &'a dyn Progress) -> Self {
        Self { copied: Copied::default(), options, progress, owners: Uid::effective().is_root() }
    }

    /// Copies what was asked for; here a source that cannot be read is an error.
    pub(super) fn copy_top(&mut self, from: BorrowedFd<'_>, path: &Path, to: &Target<'_>) -> Result<()> {
        if self.options.existing == Existing::Refuse && exists(to) {
            let what = format!("the destination {} exists", Path::new(to.name).display());
            return Err(Error::new(ErrorKind::Exists, what).advise("Name another destination, or use --force."));
        }
        let stat = os(fstat(from)).map_err(source(path))?;
        Ok(self.copy(from, path, &stat, to, 0)?)
    }

    fn copy(&mut self, from: BorrowedFd<'_>, path: &Path, stat: &FileStat, to: &Target<'_>, depth: usize) -> Attempt {
        match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFREG => self.copy_file(from, path, stat, to),
            SFlag::S_IFDIR if depth < DEEPEST => self.copy_folder(from, path, stat, to, depth),
            SFlag::S_IFDIR => {
                self.skip(path, format!("it lies {DEEPEST} folders deep"));
                Ok(())
            }
            SFlag::S_IFLNK => self.copy_link(from, path, stat, to),
            kind => {
                self.skip(path, format!("it is a {}", kind_name(kind)));
                Ok(())
            }
        }
    }

    fn skip(&mut self, path: &Path, why: String) {
        self.copied.skipped.push(Skipped { what: format!("/{}", path.display()), why });
    }

    fn copy_file(&mut self, from: BorrowedFd<'_>, path: &Path, stat: &FileStat, to: &Target<'_>) -> Attempt {
        // Not blocking, should it have become a pipe since it was looked at.
        let input = reopen(from, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOATIME)
            .or_else(|_| reopen(from, OFlag::O_RDONLY | OFlag::O_NONBLOCK));
        let input = File::from(os(input).map_err(source(path))?);
        if !input.metadata().map_err(source(path))?.is_file() {
            return Err(source(path)(std::io::Error::other("it is no file any more")));
        }
        let copy = self.in_place(path, to, |copier, name| {
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let output = os(openat(to.folder, name, flags, Mode::from_bits_truncate(0o600))).map_err(target(path))?;
            let output = File::from(output);
            let bytes = contents::copy(&input, &output, path, stat, copier.progress)?;
            copier.dress(&output, path, stat)?;
            Ok(bytes)
        });
        self.copied.bytes += copy?;
        self.copied.files += 1;
        Ok(())
    }

    fn copy_link(&mut self, from: BorrowedFd<'_>, path: &Path, stat: &FileStat, to: &Target<'_>) -> Attempt {
        let leads_to = os(readlinkat(from, "")).map_err(source(path))?;
        self.in_place(path, to, |copier, name| {
            os(symlinkat(leads_to.as_os_str(), to.folder, name)).map_err(target(path))?;
            if copier.owners {
                let (uid, gid) = owner(stat);
                os(fchownat(to.folder, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW))
                    .map_err(target(path))?;
            }
            let (accessed, modified) = times(stat);
            os(utimensat(to.folder, name, &accessed, &modified, UtimensatFlags::NoFollowSymlink)).map_err(target(path))
        })?;
        self.copied.links += 1;
        Ok(())
    }

    /// Makes something under a passing name and gives it its own at the end, so that no half copy is ever seen under
    /// it, and what is replaced is there until then.
    fn in_place<T>(
        &mut self,
        path: &Path,
        to: &Target<'_>,
        make: impl FnOnce(&mut Self, &OsStr) -> Attempt<T>,
    ) -> Attempt<T> {
        let passing = format!(".remora-{}", LineageId::random());
        let passing = OsStr::new(&passing);
        let named = make(self, passing).and_then(|made| {
            let renamed = match self.options.existing {
                Existing::Refuse => rename_new(to.folder, passing, to.name),
                Existing::Replace => renameat(to.folder, passing, to.folder, to.name),
            };
            os(renamed).map_err(target(path)).map(|()| made)
        });
        if named.is_err() {
            let _ = unlinkat(to.folder, passing, UnlinkatFlags::NoRemoveDir);
        }
        named
    }

    fn copy_folder(
        &mut self,
        from: BorrowedFd<'_>,
        path: &Path,
        stat: &FileStat,
        to: &Target<'_>,
        depth: usize,
    ) -> Attempt {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let input = os(reopen(from, flags)).map_err(source(path))?;
        match mkdirat(to.folder, to.name, Mode::from_bits_truncate(0o700)) {
            Err(Errno::EEXIST) if self.options.existing == Existing::Replace => {}
            other => os(other).map_err(target(path))?,
        }
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let output = os(openat(to.folder, to.name, flags, Mode::empty())).map_err(target(path))?;
        self.copied.folders += 1;
        self.copy_entries(&input, path, output.as_fd(), depth)?;
        // Last, for every entry changes the folder's time, and its mode may forbid writing.
        self.dress(&File::from(output), path, stat)
    }

    fn copy_entries(&mut self, input: &OwnedFd, path: &Path, output: BorrowedFd<'_>, depth: usize) -> Attempt {
        let listed = os(input.try_clone().map_err(|_| Errno::EMFILE)).map_err(source(path))?;
        let mut folder = os(Dir::from_fd(listed)).map_err(source(path))?;
        for entry in folder.iter() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(errno) => {
                    self.note(path, source(path)(errno.into()))?;
                    break;
                }
            };
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let below = path.join(name);
            let to = Target { folder: output, name };
            let copied = self.copy_entry(input.as_fd(), name, &below, &to, depth + 1);
            copied.or_else(|failed| self.note(&below, failed))?;
        }
        Ok(())
    }

    fn copy_entry(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        to: &Target<'_>,
        depth: usize,
    ) -> Attempt {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let node = os(openat(folder, name, flags, Mode::empty())).map_err(source(path))?;
        let stat = os(fstat(&node)).map_err(source(path))?;
        self.copy(node.as_fd(), path, &stat, to, depth)
    }

    /// Goes on without what cannot be read.
    fn note(&mut self, path: &Path, failed: Failed) -> Attempt {
        match failed {
            Failed::Source(error) => {
                let why = error.chain();
                tracing::warn!("not copied: {why}");
                self.copied.failed.push(Skipped { what: format!("/{}", path.display()), why });
                Ok(())
            }
            Failed::Target(_) => Err(failed),
        }
    }

    /// Owner, mode and times, in this order: a change of owner clears the set-id bits.
    fn dress(&self, output: &File, path: &Path, stat: &FileStat) -> Attempt {
        let mut mode = Mode::from_bits_truncate(stat.st_mode);
        if self.owners {
            let (uid, gid) = owner(stat);
            os(nix::unistd::fchown(output, Some(uid), Some(gid))).map_err(target(path))?;
        } else {
            // Set-id bits are the owner's to give.
            mode.remove(Mode::S_ISUID | Mode::S_ISGID);
        }
        os(fchmod(output, mode)).map_err(target(path))?;
        let (accessed, modified) = times(stat);
        os(futimens(output, &accessed, &modified)).map_err(target(path))
    }
}

/// Opens what an `O_PATH` handle stands for.
fn reopen(handle: BorrowedFd<'_>, flags: OFlag) -> nix::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    // The kernel's own link to exactly this node, not a link of the guest's.
    let link = format!("/proc/self/fd/{}", handle.as_raw_fd());
    nix::fcntl::open(link.as_str(), flags | OFlag::O_CLOEXEC, Mode::empty())
}

fn exists(to: &Target<'_>) -> bool {
    !matches!(fstatat(to.folder, to.name, AtFlags::AT_SYMLINK_NOFOLLOW), Err(Errno::ENOENT))
}

/// Renames unless something has the new name. Some filesystems cannot promise that in one step.
fn rename_new(folder: BorrowedFd<'_>, from: &OsStr, to: &OsStr) -> nix::Result<()> {
    match renameat2(folder, from, folder, to, RenameFlags::RENAME_NOREPLACE) {
        Err(Errno::EINVAL | Errno::ENOSYS) if exists(&Target { folder, name: to }) => Err(Errno::EEXIST),
        Err(Errno::EINVAL | Errno::ENOSYS) => renameat(folder, from, folder, to),
        other => other,
    }
}

fn owner(stat: &FileStat) -> (Uid, Gid) {
    (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid))
}

fn times(stat: &FileStat) -> (TimeSpec, TimeSpec) {
    (TimeSpec::new(stat.st_atime, stat.st_atime_nsec), TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec))
}

fn kind_name(kind: SFlag) -> &'static str {
    match kind {
        SFlag::S_IFBLK | SFlag::S_IFCHR => "device",
        SFlag::S_IFIFO => "pipe",
        SFlag::S_IFSOCK => "socket",
        _ => "thing of an unknown kind",
    }
}
