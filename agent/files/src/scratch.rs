//! The folder for the appliance's small files: its sockets, and overlays that take what journals replay.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;

const PREFIX: &str = "remora-files-";
const LOCK: &str = "lock";
/// A link to a folder that belongs to this one.
const ELSEWHERE: &str = "elsewhere";

/// A folder that is removed when dropped; one that a killed process left behind is removed by the next.
#[derive(Debug)]
pub(crate) struct Scratch {
    folder: TempDir,
    /// Held for as long as somebody uses the folder.
    #[allow(dead_code, reason = "it is held, not read")]
    lock: File,
}

impl Scratch {
    /// A new folder below `parent`.
    pub(crate) fn new(parent: &Path) -> io::Result<Self> {
        remove_abandoned(parent);
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
        let lock = File::create(folder.path().join(LOCK))?;
        lock.try_lock().map_err(io::Error::from)?;
        Ok(Self { folder, lock })
    }

    /// Notes that a folder elsewhere is to go, too, should this process be killed.
    pub(crate) fn belongs(&self, folder: &Path) {
        if let Err(error) = symlink(folder, self.path().join(ELSEWHERE)) {
            tracing::debug!("{} cannot be noted: {error}", folder.display());
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Removes the folders of processes that are gone. One without a lock file may be somebody's who just begins.
fn remove_abandoned(parent: &Path) {
    let Ok(entries) = parent.read_dir() else { return };
    for entry in entries.flatten().filter(|e| e.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes())) {
        let Ok(lock) = File::open(entry.path().join(LOCK)) else { continue };
        match lock.try_lock() {
            Ok(()) => {
                if let Ok(elsewhere) = entry.path().join(ELSEWHERE).read_link() {
                    let _ = std::fs::remove_dir_all(elsewhere);
                }
                let _ = std::fs::remove_dir_all(entry.path());
            }
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_is_removed_and_what_lives_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let living = Scratch::new(parent.path()).unwrap();
        let dead = Scratch::new(parent.path()).unwrap();
        let left = dead.path().to_owned();
        let elsewhere = parent.path().join("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        dead.belongs(&elsewhere);
        let Scratch { folder, lock } = dead;
        // As a kill would: the lock is gone, the folder is not.
        let _ = folder.keep();
        drop(lock);
        let next = Scratch::new(parent.path()).unwrap();
        assert!(!left.exists() && !elsewhere.exists());
        assert!(living.path().exists() && next.path().exists());
    }
}
