//! What libvirt knows of the host's QEMU, kept from one lab to the next: finding it out takes five seconds.
//!
//! libvirt itself looks whether it still holds (versions, and times of the programs), so that nothing here has to.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cache::cache_root;
use crate::process::Must;

/// Files and what is in them.
type Files = Vec<(String, Vec<u8>)>;

/// Gives a new lab what the last one knew.
pub(crate) fn restore(lab: &Path) -> Files {
    let known = read(&kept_dir());
    let dir = lab_dir(lab);
    fs::create_dir_all(&dir).must("make libvirt's cache");
    for (name, bytes) in &known {
        fs::write(dir.join(name), bytes).must("fill libvirt's cache");
    }
    known
}

/// Keeps what the lab knows by now, if that is not what it was given.
pub(crate) fn keep(lab: &Path, known: &Files) {
    let kept = kept_dir();
    for (name, bytes) in read(&lab_dir(lab)).into_iter().filter(|file| !known.contains(file)) {
        let mut new = tempfile::NamedTempFile::new_in(cache_root()).must("make a file in the cache");
        std::io::Write::write_all(&mut new, &bytes).must("fill a file in the cache");
        fs::create_dir_all(&kept).must("make a folder in the cache");
        new.persist(kept.join(name)).must("put a file into the cache");
    }
}

fn read(dir: &Path) -> Files {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let read = |entry: fs::DirEntry| Some((entry.file_name().into_string().ok()?, fs::read(entry.path()).ok()?));
    entries.filter_map(|entry| read(entry.ok()?)).collect()
}

fn kept_dir() -> PathBuf {
    cache_root().join("capabilities")
}

fn lab_dir(lab: &Path) -> PathBuf {
    lab.join("own/cache/qemu/capabilities")
}
