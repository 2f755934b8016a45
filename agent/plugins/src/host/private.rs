//! A folder for compiled code, which belongs to this user alone, mode 0700: what lies there is run as native code. A file begins
//! with a digest of the rest: one that a crash cut off, or a failing disk changed, is as good as none.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use remora_core::{Error, ErrorKind, Result};

use super::module::Digest;
use crate::state::{is_forgotten, is_wanted, remove};

const DIGEST: usize = 32;

/// The folder. Its files are whole, and were written by this user.
pub(crate) struct PrivateFolder(PathBuf);

impl PrivateFolder {
    /// Makes the folder if it is not there. Refuses one that anybody else could write.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let named = format!("folder {} for compiled components", folder.display());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|e| Error::io(&named, e))?;
        let about = fs::symlink_metadata(folder).map_err(|e| Error::io(&named, e))?;
        let private = about.is_dir() && about.permissions().mode() & 0o777 == 0o700;
        if !private || about.uid() != nix::unistd::geteuid().as_raw() {
            return Err(Error::new(ErrorKind::Refused, named)
                .because("others can reach it, and what lies there is run")
                .advise("Make it a folder of this user with mode 0700, and empty it."));
        }
        Ok(Self(folder.into()))
    }

    /// What was kept under a name, if it is there and whole.
    pub(crate) fn get(&self, name: &str) -> Option<Vec<u8>> {
        let mut file = fs::read(self.0.join(name)).ok()?;
        let (sum, code) = file.split_at_checked(DIGEST)?;
        if Digest::of(code).as_bytes() != sum {
            tracing::warn!(file = name, "compiled code is damaged and is made anew");
            return None;
        }
        file.drain(..DIGEST);
        self.is_used(name);
        Some(file)
    }

    /// Notes that somebody uses what is kept under a name, if it is there.
    pub(crate) fn is_used(&self, name: &str) {
        let path = self.0.join(name);
        if path.exists() {
            is_wanted(&path, SystemTime::now());
        }
    }

    /// Removes what nobody has used for a month, and what a process that was killed left half-written.
    pub(crate) fn tidy(&self) {
        let now = SystemTime::now();
        self.paths().filter(|path| is_forgotten(path, now)).for_each(|path| remove(&path));
    }

    /// Removes what is kept under names of which `unwanted` says so.
    pub(crate) fn remove(&self, unwanted: impl Fn(&str) -> bool) {
        let named = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(&unwanted);
        self.paths().filter(named).for_each(|path| remove(&path));
    }

    fn paths(&self) -> impl Iterator<Item = PathBuf> {
        fs::read_dir(&self.0).into_iter().flatten().flatten().map(|entry| entry.path())
    }

    /// Keeps something under a name. Failing to costs time only.
    pub(crate) fn put(&self, name: &str, code: &[u8]) {
        if let Err(error) = self.store(name, code) {
            tracing::warn!(file = name, error = error.chain(), "compiled code is not kept");
        }
    }

    fn store(&self, name: &str, code: &[u8]) -> Result<()> {
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&self.0)?;
            file.write_all(Digest::of(code).as_bytes())?;
            file.write_all(code)?;
            file.as_file().sync_all()?;
            file.persist(self.0.join(name))?;
            Ok(())
        };
        write().map_err(|e| Error::io(format!("writing into {}", self.0.display()), e))
    }
}
