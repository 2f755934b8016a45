//! A block device.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::NamedTempFile;

/// Whose turn it is to have a device. A `losetup` that another test starts has copies of all that is open here until its
/// exec: a device that one worker had for itself would not be free yet when the next one comes.
static TURN: Mutex<()> = Mutex::new(());

/// One over a file, detached when dropped. There is one at a time: a test that makes a second one waits for ever.
pub(crate) struct Loop {
    pub(crate) path: PathBuf,
    _file: NamedTempFile,
    _turn: MutexGuard<'static, ()>,
}

impl Loop {
    /// With these bytes: a multiple of 512.
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let file = NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        let made = Command::new("losetup").args(["--find", "--show"]).arg(file.path()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let path = String::from_utf8(made.stdout).unwrap().trim().into();
        Self { path, _file: file, _turn: turn }
    }

    /// What it holds.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let detached = Command::new("losetup").arg("--detach").arg(&self.path).status();
        assert!(std::thread::panicking() || detached.is_ok_and(|status| status.success()), "{}", self.path.display());
    }
}
