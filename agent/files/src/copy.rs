//! Copies files and trees out of a mounted guest.
//!
//! The tree is hostile, so every step is taken from an open folder and no link is ever followed: neither one of the
//! guest's, nor one that lies in the destination. What is copied: contents with their holes, folders, symbolic links as
//! links, times to the nanosecond, modes and, as root, owners. What is not: extended attributes and ACLs; that two
//! names are one file (the FUSE of libguestfs does not tell); devices, pipes and sockets, which are noted.

mod contents;
mod node;

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::Mode;
use remora_core::ports::Progress;
use remora_core::{Error, ErrorKind, Result};
use serde::Serialize;

use self::node::{Copier, Target};
use crate::skipped::Skipped;

/// How to copy.
#[derive(Clone, Copy, Debug, Default)]
pub struct CopyOptions {
    /// What to do where something exists.
    pub existing: Existing,
}

/// What to do where something exists at the destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// Fail before anything is written.
    #[default]
    Refuse,
    /// Replace files and links, and merge folders. What the guest's tree does not have stays.
    Replace,
}

/// What was copied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Copied {
    /// Where the copy is.
    pub to: PathBuf,
    /// Regular files.
    pub files: u64,
    /// Folders.
    pub folders: u64,
    /// Symbolic links.
    pub links: u64,
    /// Bytes read; holes are not.
    pub bytes: u64,
    /// What no copy can be made of: devices and the like.
    pub skipped: Vec<Skipped>,
    /// What could not be read, because the point is damaged there: the rest was copied.
    pub failed: Vec<Skipped>,
}

/// Copies `from`, a path below `files` with or without a slash in front, to `dest`, as `cp -a` does: into `dest` under
/// its own name if that is a folder, else as `dest`. Blocks; [`Mounted::copy`](crate::Mounted::copy) does not.
///
/// A file of a tree that cannot be read is noted and the rest copied; everything else that fails ends the copy.
/// `progress` is told of bytes as they are written.
///
/// # Errors
/// `NotFound` if there is no such path, `Invalid` if a link is on the way, `Exists` if the destination exists, `NoSpace`
/// if it fills up.
pub fn copy_out(
    files: &Path,
    from: &Path,
    dest: &Path,
    options: CopyOptions,
    progress: &dyn Progress,
) -> Result<Copied> {
    let from = inside(from)?;
    let root = open_folder(files)?;
    let source = open_beneath(root.as_fd(), &from).map_err(|errno| not_opened(root.as_fd(), &from, errno))?;
    let (parent, name) = destination(dest, from.file_name())?;
    let mut copier = Copier::new(options, progress);
    let target = Target { folder: parent.0.as_fd(), name: &name };
    copier.copy_top(source.as_fd(), &from, &target)?;
    copier.copied.to = parent.1.join(&name);
    Ok(copier.copied)
}

/// The path relative to `files`; empty for all of it.
fn inside(from: &Path) -> Result<PathBuf> {
    let mut path = PathBuf::new();
    for component in from.components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(Error::new(ErrorKind::Invalid, format!("{} goes through '..'", from.display()))
                    .advise("Name the path without '..'."));
            }
        }
    }
    Ok(path)
}

fn open_folder(path: &Path) -> Result<std::fs::File> {
    std::fs::File::open(path).map_err(|source| Error::io(format!("opening {}", path.display()), source))
}

/// Opens a path without leaving the folder or following any link; an `O_PATH` handle, whatever it is, a link itself
/// included.
fn open_beneath(folder: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let handle = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let how = OpenHow::new()
        .flags(handle | OFlag::O_DIRECTORY)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let or_here = |path: &Path| if path.as_os_str().is_empty() { PathBuf::from(".") } else { path.to_owned() };
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = openat2(folder, &or_here(parent), how)?;
            openat(&parent, name, handle | OFlag::O_NOFOLLOW, Mode::empty())
        }
        _ => openat2(folder, &or_here(path), how),
    }
}

fn not_opened(root: BorrowedFd<'_>, from: &Path, errno: Errno) -> Error {
    let shown = Path::new("/").join(from);
    match errno {
        Errno::ENOENT | Errno::ENOTDIR => {
            Error::new(ErrorKind::NotFound, format!("the point has no {}", shown.display()))
        }
        Errno::ELOOP => {
            let error = Error::new(ErrorKind::Invalid, format!("{} leads through a symbolic link", shown.display()));
            match first_link(root, from) {
                Some((link, target)) => error.advise(format!(
                    "/{} is a link to {}; name the path that it leads to.",
                    link.display(),
                    target.display()
                )),
                None => error,
            }
        }
        errno => Error::io(format!("opening {} of the point", shown.display()), errno.into()),
    }
}

fn first_link(root: BorrowedFd<'_>, from: &Path) -> Option<(PathBuf, PathBuf)> {
    let mut ancestors: Vec<_> = from.ancestors().filter(|p| !p.as_os_str().is_empty()).collect();
    ancestors.reverse();
    let link = |path: &Path| {
        let opened = open_beneath(root, path).ok()?;
        readlinkat(&opened, "").ok().map(|target| (path.to_owned(), PathBuf::from(target)))
    };
    ancestors.into_iter().find_map(link)
}

/// The folder to write to, with its path, and the name to write there.
fn destination(dest: &Path, own_name: Option<&OsStr>) -> Result<((std::fs::File, PathBuf), OsString)> {
    // A link to a folder is followed here: the person named it.
    if dest.is_dir()
        && let Some(name) = own_name
    {
        return Ok(((open_folder(dest)?, dest.to_owned()), name.to_owned()));
    }
    let (Some(parent), Some(name)) = (dest.parent(), dest.file_name()) else {
        let what = format!("{} cannot be copied to", dest.display());
        return Err(Error::new(ErrorKind::Invalid, what).advise("Name a new file or folder."));
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    Ok(((open_folder(parent)?, parent.to_owned()), name.to_owned()))
}
