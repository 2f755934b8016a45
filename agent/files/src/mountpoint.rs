//! The folder that a point is mounted on, and unmounting that works when the mount is busy or its server is dead.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::statvfs::statvfs;
use remora_core::{Error, ErrorKind, Result};

use crate::escapes::Escapes;

/// `DIR`, with `DIR/disks` and `DIR/files` to mount on.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    made: bool,
}

impl Folder {
    /// Makes the folder, or takes an empty one; unmounts first what a killed mount of ours left behind.
    ///
    /// `Invalid` if it is no folder, `Exists` if there is something in it, `Busy` if a mount of ours lives there.
    pub(crate) fn prepare(path: &Path) -> Result<Self> {
        let failed = |source| Error::io(format!("preparing {} for the mount", path.display()), source);
        let made = match fs::metadata(path) {
            Ok(found) if found.is_dir() => false,
            Ok(_) => {
                let what = format!("{} is not a folder", path.display());
                return Err(Error::new(ErrorKind::Invalid, what).advise("Name an empty or a new folder."));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::DirBuilder::new().mode(0o700).create(path).map_err(failed)?;
                true
            }
            Err(error) => return Err(failed(error)),
        };
        let folder = Self { path: path.canonicalize().map_err(failed)?, made };
        folder.clear()?;
        for part in [folder.disks(), folder.files()] {
            match fs::DirBuilder::new().mode(0o700).create(&part) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
                _ => {}
            }
        }
        Ok(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn disks(&self) -> PathBuf {
        self.path.join("disks")
    }

    pub(crate) fn files(&self) -> PathBuf {
        self.path.join("files")
    }

    fn clear(&self) -> Result<()> {
        for part in [self.files(), self.disks()] {
            // Mounts may be stacked.
            for _ in 0..8 {
                if !is_dead(&part) {
                    break;
                }
                tracing::info!(at = %part.display(), "unmounting what a killed mount left behind");
                umount2(&part, MntFlags::MNT_DETACH)
                    .map_err(|e| Error::io(format!("unmounting the dead {}", part.display()), e.into()))?;
            }
            if is_mounted(&part) {
                let what = format!("something is mounted on {} already", part.display());
                return Err(Error::new(ErrorKind::Busy, what).advise("Stop that mount, or name another folder."));
            }
        }
        let failed = |source| Error::io(format!("listing {}", self.path.display()), source);
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let ours = entry.file_name() == "disks" || entry.file_name() == "files";
            let empty = ours && fs::read_dir(entry.path()).is_ok_and(|mut content| content.next().is_none());
            if !empty {
                let what = format!("{} is not empty: it holds {}", self.path.display(), entry.file_name().display());
                return Err(Error::new(ErrorKind::Exists, what).advise("Name an empty or a new folder."));
            }
        }
        Ok(())
    }
}

/// Removes the folders that we made, as far as they are empty.
impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir(self.files());
        let _ = fs::remove_dir(self.disks());
        if self.made {
            let _ = fs::remove_dir(&self.path);
        }
    }
}

/// Whether the server of what is mounted there is gone. Asked by statfs, which the kernel answers from no cache.
fn is_dead(path: &Path) -> bool {
    is_mounted(path) && matches!(statvfs(path), Err(Errno::ENOTCONN | Errno::ECONNABORTED))
}

/// Whether something, dead, hanging or alive, is mounted on `path`, which is absolute and holds no link. Told by the
/// kernel's list, for a look at the folder itself would wait for its server.
pub(crate) fn is_mounted(path: &Path) -> bool {
    device(path).is_some()
}

/// The device, as `major:minor`, of what is mounted on `path`, told in the same way.
pub(crate) fn device(path: &Path) -> Option<String> {
    let list = fs::read("/proc/self/mountinfo").ok()?;
    // `id parent device root mountpoint …`; of mounts on one another the last is seen.
    let fields = list.split(|b| *b == b'\n').map(|line| line.split(|b| *b == b' '));
    let mut mounts = fields.filter_map(|mut fields| Some((fields.nth(2)?, fields.nth(1)?)));
    let here = |point: &[u8]| Escapes::Octal.decode(point) == path.as_os_str().as_bytes();
    let (device, _) = mounts.rfind(|(_, point)| here(point))?;
    String::from_utf8(device.to_vec()).ok()
}

/// Unmounts `path` and removes it as a folder, lazily if somebody uses it: it is gone from sight at once, and whoever
/// uses it keeps a dead thing. Fine if nothing is mounted there.
pub(crate) fn unmount(path: &Path) -> Result<()> {
    let gone = match umount2(path, MntFlags::UMOUNT_NOFOLLOW) {
        Err(Errno::EBUSY) => umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW),
        other => other,
    };
    match gone {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {
            // Removal also detaches the copies of the mount that other mount namespaces took when they were made
            // (containers); their copies would keep the server busy.
            let _ = fs::remove_dir(path);
            Ok(())
        }
        Err(errno) => Err(Error::io(format!("unmounting {}", path.display()), errno.into())
            .advise(format!("Run: umount -l {}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use nix::sys::stat::{major, minor};

    use super::*;

    #[test]
    fn only_an_empty_or_a_new_folder_is_taken() {
        let parent = tempfile::tempdir().unwrap();
        let kind = |path: &Path| Folder::prepare(path).unwrap_err().kind();
        let file = parent.path().join("file");
        fs::write(&file, "x").unwrap();
        assert_eq!(kind(&file), ErrorKind::Invalid);
        assert_eq!(kind(parent.path()), ErrorKind::Exists);
        assert_eq!(kind(&parent.path().join("no/where")), ErrorKind::NotFound);

        let used = parent.path().join("used");
        fs::create_dir_all(used.join("files/precious")).unwrap();
        assert_eq!(kind(&used), ErrorKind::Exists);
        assert!(used.join("files/precious").exists());
    }

    #[test]
    fn the_kernels_list_is_read() {
        assert!(is_mounted(Path::new("/proc")));
        assert!(!is_mounted(Path::new("/proc/self")));
        let number = fs::metadata("/proc").unwrap().dev();
        assert_eq!(device(Path::new("/proc")).unwrap(), format!("{}:{}", major(number), minor(number)));
    }

    #[test]
    fn a_folder_that_we_made_goes_and_one_that_was_there_stays() {
        let parent = tempfile::tempdir().unwrap();
        let (new, old) = (parent.path().join("new"), parent.path().join("old"));
        fs::create_dir(&old).unwrap();
        for path in [&new, &old] {
            let folder = Folder::prepare(path).unwrap();
            assert!(folder.disks().is_dir() && folder.files().is_dir());
            // What stayed from a killed mount is no obstacle.
            std::mem::forget(folder);
            drop(Folder::prepare(path).unwrap());
        }
        assert_eq!(fs::read_dir(&old).unwrap().count(), 0);
        assert!(new.exists(), "it was there already when it was prepared again");
        fs::remove_dir(&new).unwrap();
        drop(Folder::prepare(&new).unwrap());
        assert!(!new.exists());
    }
}
