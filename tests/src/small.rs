//! Small filesystems: ones that fill up, and ones whose writes can be made to wait.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;

use crate::MIB;
use crate::process::{Must, run};

/// A filesystem of some MiB in memory, unmounted when dropped. A lab sees it surely only if it is started later.
pub struct Small {
    root: PathBuf,
    _made: Option<TempDir>,
}

impl Small {
    /// A new one, on a folder of its own.
    #[track_caller]
    pub fn new(mib: u64) -> Self {
        let folder = tempfile::tempdir().must("make a folder to mount on");
        Self::mounted(folder.path().to_owned(), mib, Some(folder))
    }

    /// A new one on this folder, which is made if it is missing, and stays.
    #[track_caller]
    pub fn at(root: PathBuf, mib: u64) -> Self {
        fs::create_dir_all(&root).must("make a folder to mount on");
        Self::mounted(root, mib, None)
    }

    #[track_caller]
    fn mounted(root: PathBuf, mib: u64, made: Option<TempDir>) -> Self {
        mount(&["-t", "tmpfs", "-o", &format!("size={mib}m"), "none"], &root);
        Self { root, _made: made }
    }

    /// Its root.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Gives it another size.
    #[track_caller]
    pub fn grow(&self, mib: u64) {
        mount(&["-o", &format!("remount,size={mib}m")], self.path());
    }

    /// The bytes that the files in its root take.
    pub fn used(&self) -> u64 {
        let files = fs::read_dir(self.path()).must("list a filesystem");
        files.map(|file| file.and_then(|file| file.metadata()).map_or(0, |it| it.blocks() * 512)).sum()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        unmount(self.path());
    }
}

/// A filesystem on which every write waits while it is held, as on a server that does not answer; reads go on.
/// Unmounted when dropped.
pub struct Holding {
    folder: TempDir,
    held: AtomicBool,
}

impl Holding {
    /// A new one of so many MiB.
    #[track_caller]
    pub fn new(mib: u64) -> Self {
        let folder = tempfile::tempdir().must("make folders for a filesystem");
        let held = Self { folder, held: AtomicBool::new(false) };
        fs::create_dir(held.path()).must("make a folder to mount on");
        let image = held.folder.path().join("image");
        File::create(&image).and_then(|file| file.set_len(mib * MIB)).must("make a filesystem's image");
        run(Command::new("mke2fs").args(["-q", "-t", "ext4"]).arg(&image)).ok();
        mount(&["-o", "loop", &image.to_string_lossy()], &held.path());
        held
    }

    /// Its root.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// From now on writes wait.
    #[track_caller]
    pub fn hold(&self) {
        run(Command::new("fsfreeze").arg("--freeze").arg(self.path())).ok();
        self.held.store(true, Ordering::Relaxed);
    }

    /// Writes go on.
    #[track_caller]
    pub fn release(&self) {
        if self.held.swap(false, Ordering::Relaxed) {
            run(Command::new("fsfreeze").arg("--unfreeze").arg(self.path())).ok();
        }
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        if self.held.swap(false, Ordering::Relaxed) {
            run(Command::new("fsfreeze").arg("--unfreeze").arg(self.path()));
        }
        unmount(&self.path());
    }
}

#[track_caller]
fn mount(options: &[&str], on: &Path) {
    run(Command::new("mount").args(options).arg(on)).ok();
}

// Lazily: a program that another test starts has all that is open here, until its exec.
fn unmount(path: &Path) {
    run(Command::new("umount").arg("--lazy").arg(path));
}
