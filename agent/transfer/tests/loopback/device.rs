//! A block device.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::NamedTempFile;

/// One over a file, detached when dropped.
pub(crate) struct Loop {
    pub(crate) path: PathBuf,
    _file: NamedTempFile,
}

impl Loop {
    /// With these bytes: a multiple of 512.
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let file = NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        let made = Command::new("losetup").args(["--find", "--show"]).arg(file.path()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let path = String::from_utf8(made.stdout).unwrap().trim().into();
        Self { path, _file: file }
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
