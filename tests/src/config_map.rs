//! A folder as the kubelet mounts a `ConfigMap`: files behind a link, which an update swaps.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::process::Must;

/// Such a folder.
pub struct MountedConfigMap {
    folder: PathBuf,
    versions: AtomicU32,
}

impl MountedConfigMap {
    /// A new one, without files.
    #[track_caller]
    pub fn make(folder: PathBuf) -> Self {
        fs::create_dir(&folder).must(format_args!("make {}", folder.display()));
        let mounted = Self { folder, versions: AtomicU32::new(0) };
        mounted.put(&[]);
        mounted
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Puts files, by name, in place of all others.
    #[track_caller]
    pub fn put(&self, files: &[(&str, &str)]) {
        let files: Vec<_> = files.iter().map(|(file, text)| (*file, text.as_bytes())).collect();
        self.put_bytes(&files);
    }

    /// Likewise, of files that need not be text.
    #[track_caller]
    pub fn put_bytes(&self, files: &[(&str, &[u8])]) {
        let name = format!("..version-{}", self.versions.fetch_add(1, Ordering::SeqCst));
        let version = self.folder.join(&name);
        fs::create_dir(&version).must("make a version of the files");
        for (file, bytes) in files {
            fs::write(version.join(file), bytes).must("write a file");
        }
        symlink(&name, self.folder.join("..data_tmp")).must("link the version");
        fs::rename(self.folder.join("..data_tmp"), self.folder.join("..data")).must("swap the version");
    }
}
