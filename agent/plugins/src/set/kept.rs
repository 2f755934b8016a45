//! Last good versions on disk, so that an agent that starts while a document is broken still has one.
//!
//! A folder for each document, named as its file: the document, and beside it the modules that it took from files, under the
//! names that it calls them, with their signatures. Built-in modules come from the agent itself.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use remora_core::{Error, Result};
use tempfile::TempDir;

use crate::documents;
use crate::reference::ModuleRef;
use crate::registry::SIGNATURE;

/// The document's name in its folder; no module is called so, for theirs end in `.wasm`.
const DOCUMENT: &str = "document.yaml";

/// Where last good versions are kept.
#[derive(Clone, Debug)]
pub struct Kept {
    folder: PathBuf,
}

/// One of them.
pub(super) struct KeptVersion {
    pub(super) folder: PathBuf,
    pub(super) text: String,
    /// When it was kept: it was in force then, and may have been later.
    pub(super) time: Timestamp,
}

impl Kept {
    /// In a folder, made with its first version.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// What is kept of a document.
    pub(super) fn get(&self, file: &str) -> Option<KeptVersion> {
        let folder = self.folder.join(file);
        let text = fs::read_to_string(folder.join(DOCUMENT)).ok()?;
        let time = fs::metadata(folder.join(DOCUMENT)).and_then(|about| about.modified()).ok()?;
        Some(KeptVersion { folder, text, time: time.try_into().ok()? })
    }

    /// The documents of which something is kept, in the order of their names.
    pub(super) fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        // One that is being made, or was cut off, has a dot before it.
        let mut files: Vec<_> = names.filter(|name| !name.starts_with('.')).collect();
        files.sort();
        files
    }

    /// Keeps a version that is good, with the modules that it names in `from`.
    pub(super) fn put(&self, file: &str, text: &str, from: &Path) {
        let failed = |error: io::Error| {
            let error =
                Error::io(format!("keeping the last good version of {file} in {}", self.folder.display()), error);
            tracing::warn!(error = error.chain(), "an agent that starts while it is broken will not have it");
        };
        if let Err(error) = self.store(file, text, from) {
            failed(error);
        }
    }

    fn store(&self, file: &str, text: &str, from: &Path) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let new = tempfile::Builder::new().prefix(".new-").tempdir_in(&self.folder)?;
        for module in modules(file, text).unwrap_or_default() {
            fs::copy(from.join(&module), new.path().join(&module))?;
            let signature = format!("{module}{SIGNATURE}");
            if from.join(&signature).exists() {
                fs::copy(from.join(&signature), new.path().join(&signature))?;
            }
        }
        fs::write(new.path().join(DOCUMENT), text)?;
        for entry in fs::read_dir(new.path())? {
            File::open(entry?.path())?.sync_all()?;
        }
        File::open(new.path())?.sync_all()?;
        replace(new, &self.folder.join(file))?;
        File::open(&self.folder)?.sync_all()
    }

    /// The texts of all that is kept.
    pub fn texts(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let read = |entry: io::Result<fs::DirEntry>| match fs::read_to_string(entry?.path().join(DOCUMENT)) {
            // One that is being made, or was cut off.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            text => text.map(Some),
        };
        entries.map(read).filter_map(Result::transpose).collect()
    }

    /// Forgets one document.
    pub(super) fn forget(&self, file: &str) {
        match fs::remove_dir_all(self.folder.join(file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(file, %error, "a version that is in force no longer is still kept");
            }
            _ => {}
        }
    }

    /// Forgets documents that are gone.
    pub(super) fn only<'a>(&self, files: impl Iterator<Item = &'a str>) {
        let files: Vec<_> = files.collect();
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            let gone = entry.file_name().to_str().is_none_or(|name| !files.contains(&name));
            if gone && let Err(error) = fs::remove_dir_all(entry.path()) {
                tracing::warn!(folder = %entry.path().display(), %error, "a policy that is gone is still kept");
            }
        }
    }
}

/// Puts a new version in the place of the one that there is, in one step. The one before goes with the folder that
/// the new one was made in; if the program is killed before that, as what was cut off.
fn replace(new: TempDir, place: &Path) -> io::Result<()> {
    match renameat2(AT_FDCWD, new.path(), AT_FDCWD, place, RenameFlags::RENAME_EXCHANGE) {
        Ok(()) => Ok(()),
        // It is the first one.
        Err(Errno::ENOENT) => fs::rename(new.keep(), place),
        // The file system knows of no exchange, as NFS: for a moment there is none.
        Err(Errno::EINVAL | Errno::ENOSYS) => {
            match fs::remove_dir_all(place) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            fs::rename(new.keep(), place)
        }
        Err(error) => Err(error.into()),
    }
}

/// The modules that a document takes from files.
fn modules(file: &str, text: &str) -> Result<Vec<String>> {
    let document = documents::parse(file, text)?;
    let name = |module: &ModuleRef| match module {
        ModuleRef::File(name) => Some(name.clone()),
        // What was fetched is kept elsewhere.
        ModuleRef::Builtin(_) | ModuleRef::Registry(_) => None,
    };
    Ok(document.uses().into_iter().filter_map(|uses| name(&uses.module)).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;

    /// Whoever looks is as a program that was killed in that instant.
    #[test]
    fn at_every_instant_there_is_a_version_while_newer_ones_are_kept() {
        let (folder, from) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let kept = Kept::new(folder.path());
        kept.store("a.yaml", "first", from.path()).unwrap();
        let (over, place) = (AtomicBool::new(false), folder.path().join("a.yaml"));
        thread::scope(|scope| {
            let looks = scope.spawn(|| {
                let mut always = true;
                while always && !over.load(Ordering::Relaxed) {
                    always = place.symlink_metadata().is_ok();
                }
                always
            });
            for n in 0..50 {
                kept.store("a.yaml", &n.to_string(), from.path()).unwrap();
            }
            over.store(true, Ordering::Relaxed);
            assert!(looks.join().unwrap(), "there was none");
        });
        assert_eq!(kept.get("a.yaml").unwrap().text, "49");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "an older one is left");
    }

    #[test]
    fn what_was_cut_off_is_no_version_and_goes_with_the_next_look() {
        let (folder, from) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let kept = Kept::new(folder.path());
        kept.store("a.yaml", "good", from.path()).unwrap();
        let cut_off = folder.path().join(".new-x");
        fs::create_dir(&cut_off).unwrap();
        fs::write(cut_off.join(DOCUMENT), "older").unwrap();
        assert_eq!(kept.files(), ["a.yaml"]);
        kept.only(["a.yaml"].into_iter());
        assert!(!cut_off.exists());
        assert_eq!(kept.get("a.yaml").unwrap().text, "good");
    }
}
