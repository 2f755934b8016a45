//! Drives fuzz targets on stable: over their committed seeds, and mutations of them that are the same in every run.

use std::path::PathBuf;

use fastrand::Rng;

use crate::process::Must;

/// Where the seeds of a target lie.
pub fn folder(target: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../fuzz/seeds", target].iter().collect()
}

/// The committed seeds of a target.
pub fn committed(target: &str) -> Vec<Vec<u8>> {
    let folder = folder(target);
    let files = std::fs::read_dir(&folder).must("list a target's seeds");
    let mut paths: Vec<_> = files.map(|file| file.must("list a target's seeds").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} has no seeds", folder.display());
    paths.iter().map(|path| std::fs::read(path).must("read a seed")).collect()
}

/// Drives a target over its seeds and `mutations` of each.
pub fn drive(target: &str, mutations: usize, entry: impl Fn(&[u8])) {
    let mut random = Rng::with_seed(1);
    for seed in committed(target) {
        entry(&seed);
        for _ in 0..mutations {
            let mut bytes = seed.clone();
            for _ in 0..random.usize(1..5) {
                mutate(&mut bytes, &mut random);
            }
            entry(&bytes);
        }
    }
}

/// Changes a byte or a stretch.
pub fn mutate(bytes: &mut Vec<u8>, random: &mut Rng) {
    let at = random.usize(0..=bytes.len());
    match random.usize(0..6) {
        0 => bytes.truncate(at),
        1 => bytes.insert(at, random.u8(..)),
        // A stretch again: a reply twice, or in another place.
        2 => bytes.extend_from_within(at..(at + random.usize(0..64)).min(bytes.len())),
        3 if at < bytes.len() => drop(bytes.drain(at..(at + random.usize(0..32)).min(bytes.len()))),
        4 if at < bytes.len() => bytes[at] ^= 1 << random.usize(0..8),
        _ if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.usize(0..5)],
        _ => {}
    }
}
