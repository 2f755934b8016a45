//! What a disk is restored into: a new file that appears only when it is whole, or a block device.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::OFlag;
use remora_core::{Error, ErrorKind, Result};
use tempfile::{NamedTempFile, TempPath};

/// What to do with a target that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Fail with `Exists`.
    Refuse,
    /// Replace it: a file by a new one of the same owner and mode, once that is whole; a block device in place.
    Replace,
}

/// A place to write a disk to. Dropping it without [`Target::finish`] removes a file that was not whole.
#[derive(Debug)]
pub struct Target {
    path: PathBuf,
    file: Arc<File>,
    form: Form,
}

#[derive(Debug)]
enum Form {
    /// Written under a temporary name beside its path.
    File { temporary: TempPath, existing: Existing, replaces: bool },
    /// Written in place.
    Device,
}

impl Target {
    /// Looks at the path and opens what will be written. Changes nothing that is there already.
    ///
    /// A block device always exists, so it takes [`Existing::Replace`]; `NoSpace` if it is smaller than `size` bytes,
    /// `Busy` if it is in use.
    pub fn prepare(path: &Path, existing: Existing, size: u64) -> Result<Self> {
        let there = match path.symlink_metadata() {
            Ok(_) => true,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            Err(error) => return Err(Error::io(format!("looking at {}", path.display()), error)),
        };
        if there && existing == Existing::Refuse {
            return Err(Error::new(ErrorKind::Exists, format!("{} exists already", path.display()))
                .advise("Choose another target, or replace this one with --force."));
        }
        // A link that leads nowhere is itself replaced.
        let path = if there { path.canonicalize().unwrap_or_else(|_| path.into()) } else { path.into() };
        match path.metadata() {
            Ok(there) if there.file_type().is_block_device() => Self::device(path, size),
            Ok(there) if !there.is_file() => {
                let what = format!("{} is neither a file nor a block device", path.display());
                Err(Error::new(ErrorKind::Invalid, what).advise("Give a file's or a block device's path."))
            }
            _ => Self::new_file(path, existing, there),
        }
    }

    fn new_file(path: PathBuf, existing: Existing, replaces: bool) -> Result<Self> {
        let making = |path: &Path| format!("making a file beside {}", path.display());
        let Some(name) = path.file_name() else {
            return Err(Error::new(ErrorKind::Invalid, format!("{} names no file", path.display())));
        };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut prefix = std::ffi::OsString::from(".");
        prefix.push(name);
        prefix.push(".");
        // A guest's disk is nobody else's business: mode 0600, as tempfile makes it.
        let temporary = tempfile::Builder::new().prefix(&prefix).suffix(".partial").tempfile_in(folder);
        let (file, temporary) = temporary.map_err(|e| Error::io(making(&path), e))?.into_parts();
        if let (true, Ok(was)) = (replaces, path.metadata()) {
            let kept = std::os::unix::fs::fchown(&file, Some(was.uid()), Some(was.gid()))
                .and_then(|()| file.set_permissions(was.permissions()));
            if let Err(error) = kept {
                tracing::warn!(%error, "{} will not keep its owner and mode", path.display());
            }
        }
        Ok(Self { path, file: Arc::new(file), form: Form::File { temporary, existing, replaces } })
    }

    fn device(path: PathBuf, size: u64) -> Result<Self> {
        // O_EXCL on a block device: refused while it is mounted or held by somebody else.
        let opened = OpenOptions::new().write(true).custom_flags(OFlag::O_EXCL.bits()).open(&path);
        let mut file = opened.map_err(|error| match error.kind() {
            std::io::ErrorKind::ResourceBusy => Error::new(ErrorKind::Busy, format!("{} is in use", path.display()))
                .because(error)
                .advise("Unmount it, or stop what holds it, first."),
            _ => Error::io(format!("opening {}", path.display()), error),
        })?;
        let room = file.seek(SeekFrom::End(0)).map_err(|e| Error::io(format!("measuring {}", path.display()), e))?;
        if room < size {
            let what = format!("{} has {room} bytes, the disk has {size}", path.display());
            return Err(Error::new(ErrorKind::NoSpace, what).advise("Give a device at least as large as the disk."));
        }
        Ok(Self { path, file: Arc::new(file), form: Form::Device })
    }

    /// Writes into an existing file as into a device.
    #[cfg(test)]
    pub(crate) fn in_place(path: &Path) -> Self {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        Self { path: path.into(), file: Arc::new(file), form: Form::Device }
    }

    /// Where the disk will be: without symbolic links if something is there already.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What to write to, from offset 0.
    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Whether something that is there already will change or go.
    pub fn replaces(&self) -> bool {
        matches!(self.form, Form::Device | Form::File { replaces: true, .. })
    }

    /// Whether what is not written keeps bytes of before, so that zeros must be written too.
    pub(crate) fn keeps_old_bytes(&self) -> bool {
        matches!(self.form, Form::Device)
    }

    /// Syncs what was written, and lets a file appear under its name. Blocks.
    pub fn finish(self) -> Result<()> {
        let failed = |e| write_error(&self.path, e);
        self.file.sync_all().map_err(failed)?;
        let Form::File { temporary, existing, .. } = self.form else { return Ok(()) };
        let folder = temporary.parent().map(Path::to_path_buf);
        let whole = NamedTempFile::from_parts(self.file, temporary);
        let renamed = match existing {
            Existing::Refuse => whole.persist_noclobber(&self.path),
            Existing::Replace => whole.persist(&self.path),
        };
        renamed.map_err(|e| Error::io(format!("naming {}", self.path.display()), e.error))?;
        match folder {
            Some(folder) => File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed),
            None => Ok(()),
        }
    }
}

/// An error while writing `path`.
pub(crate) fn write_error(path: &Path, error: std::io::Error) -> Error {
    let error = Error::io(format!("writing {}", path.display()), error);
    match error.kind() {
        ErrorKind::NoSpace => error.advise("Free some space there, or choose a target with more."),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, PermissionsExt};

    use super::*;

    #[test]
    fn an_unfinished_file_leaves_nothing_and_the_old_one_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vda.raw");
        drop(Target::prepare(&path, Existing::Refuse, 10).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

        std::fs::write(&path, "old").unwrap();
        assert_eq!(Target::prepare(&path, Existing::Refuse, 10).unwrap_err().kind(), ErrorKind::Exists);
        let target = Target::prepare(&path, Existing::Replace, 10).unwrap();
        target.file().write_all_at(b"half", 0).unwrap();
        drop(target);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_replaced_file_keeps_its_mode_and_a_link_keeps_leading_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("vda.raw"), folder.path().join("link"));
        std::fs::write(&path, "old").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let target = Target::prepare(&link, Existing::Replace, 3).unwrap();
        assert!(target.replaces());
        target.file().write_all_at(b"new", 0).unwrap();
        target.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o640);
        assert!(link.symlink_metadata().unwrap().is_symlink());
    }

    #[test]
    fn what_appeared_meanwhile_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vda.raw");
        let target = Target::prepare(&path, Existing::Refuse, 3).unwrap();
        std::fs::write(&path, "somebody else's").unwrap();
        assert_eq!(target.finish().unwrap_err().kind(), ErrorKind::Exists);
        assert_eq!(std::fs::read(&path).unwrap(), b"somebody else's");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn folders_and_missing_folders_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let kind = |path: &Path| Target::prepare(path, Existing::Replace, 1).unwrap_err().kind();
        assert_eq!(kind(folder.path()), ErrorKind::Invalid);
        assert_eq!(kind(Path::new("/dev/null")), ErrorKind::Invalid);
        assert_eq!(kind(&folder.path().join("none/vda.raw")), ErrorKind::NotFound);
    }
}
