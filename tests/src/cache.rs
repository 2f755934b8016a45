//! Things that take long to make and never change: made once, kept outside the checkout, shared by all test runs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::process::Must;

/// A folder that `make` filled, for these `inputs` and no others. `make` runs once, whoever else asks meanwhile; if it
/// fails, nothing is kept.
pub(crate) fn cached(name: &str, inputs: &[&[u8]], make: impl FnOnce(&Path)) -> PathBuf {
    let root = cache_root();
    let dir = root.join(format!("{name}-{}", key(inputs)));
    if dir.exists() {
        return dir;
    }
    let lock = File::create(root.join(format!("{name}.lock"))).must("make a lock of the cache");
    lock.lock().must("take a lock of the cache");
    if !dir.exists() {
        let unfinished = tempfile::tempdir_in(&root).must("make a folder in the cache");
        make(unfinished.path());
        fs::rename(unfinished.keep(), &dir).must(format_args!("put {} into the cache", dir.display()));
    }
    dir
}

/// A program that no package has; the make target `target` installs it.
#[track_caller]
pub fn tool(name: &str, target: &str) -> PathBuf {
    let path = whole_cache().join("tools/bin").join(name);
    assert!(path.is_file(), "{} is missing: run `make {target}`", path.display());
    path
}

/// Where the lab's cache lies.
pub(crate) fn cache_root() -> PathBuf {
    let root = whole_cache().join("lab");
    fs::create_dir_all(&root).must(format_args!("make {}", root.display()));
    root
}

/// In `REMORA_CACHE`, or else where caches of the user's programs lie.
pub(crate) fn whole_cache() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("REMORA_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("remora")))
        .or_else(|| set("HOME").map(|dir| dir.join(".cache/remora")))
        .must("find a place for the cache: set REMORA_CACHE or HOME")
}

/// One short text for all inputs; a different one if any byte of any of them, or its place, is another.
fn key(inputs: &[&[u8]]) -> String {
    let mut hasher = blake3::Hasher::new();
    for input in inputs {
        hasher.update(&(input.len() as u64).to_le_bytes()).update(input);
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_and_its_place_count() {
        let keys = [key(&[b"ab", b"c"]), key(&[b"a", b"bc"]), key(&[b"c", b"ab"]), key(&[b"ab"])];
        for (i, one) in keys.iter().enumerate() {
            assert!(keys[i + 1..].iter().all(|other| other != one), "{keys:?}");
        }
    }
}
