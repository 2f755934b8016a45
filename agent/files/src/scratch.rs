//! The folder for the appliance's small files: its sockets, and overlays that take what journals replay.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

const PREFIX: &str = "remora-files-";
const LOCK: &str = "lock";
/// The lock before it is held.
const UNHELD: &str = "unheld";
/// A link to a folder that belongs to this one.
const ELSEWHERE: &str = "elsewhere";

/// How often it is tried to remove a folder into which something is put meanwhile, and the pause between two tries.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(10);

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
        let unheld = folder.path().join(UNHELD);
        let lock = File::create(&unheld)?;
        lock.try_lock().map_err(io::Error::from)?;
        // It gets its name once it is held: whoever removes what is abandoned would find it free before.
        fs::rename(unheld, folder.path().join(LOCK))?;
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

/// Whoever used the folder may have been killed just now: such a process still ends the call that it is in, which may make a file.
impl Drop for Scratch {
    fn drop(&mut self) {
        for _ in 0..TRIES {
            match fs::remove_dir_all(self.path()) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => thread::sleep(PAUSE),
                _ => return,
            }
        }
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
                    let _ = fs::remove_dir_all(elsewhere);
                }
                let _ = fs::remove_dir_all(entry.path());
            }
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn what_a_killed_process_left_is_removed_and_what_lives_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let living = Scratch::new(parent.path()).unwrap();
        let dead = Scratch::new(parent.path()).unwrap();
        let left = dead.path().to_owned();
        let elsewhere = parent.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        dead.belongs(&elsewhere);
        // As a kill would: the lock is gone, the folder is not. To close it would not do: a program that another test starts
        // has a copy until its exec.
        dead.lock.unlock().unwrap();
        std::mem::forget(dead);
        let next = Scratch::new(parent.path()).unwrap();
        assert!(!left.exists() && !elsewhere.exists());
        assert!(living.path().exists() && next.path().exists());
    }

    #[test]
    fn what_a_process_that_is_dying_puts_into_it_goes_too() {
        let parent = tempfile::tempdir().unwrap();
        for _ in 0..100 {
            let scratch = Scratch::new(parent.path()).unwrap();
            let path = scratch.path().to_owned();
            thread::scope(|scope| {
                // As long as the folder is there, and less often than it is tried.
                scope.spawn(|| (0..TRIES / 2).all(|n| File::create(path.join(n.to_string())).is_ok()));
                while !path.join("0").exists() {
                    thread::yield_now();
                }
                drop(scratch);
            });
            assert!(!path.exists());
        }
    }

    #[test]
    fn what_somebody_just_begins_is_not_taken_for_abandoned() {
        let (parent, done) = (tempfile::tempdir().unwrap(), AtomicBool::new(false));
        let whole = |new: io::Result<Scratch>| new.is_ok_and(|new| new.path().join(LOCK).exists());
        let all = thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    remove_abandoned(parent.path());
                }
            });
            let all = (0..1000).all(|_| whole(Scratch::new(parent.path())));
            done.store(true, Ordering::SeqCst);
            all
        });
        assert!(all, "a folder was removed while it was made");
    }
}
