//! A short run of the fuzz targets on stable: their seeds, and mutations of them that are the same in every run.

use std::path::Path;

/// The committed seeds of a target.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} has no seeds", folder.display());
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Drives a target over its seeds and `mutations` of each.
fn drive(target: &str, mutations: usize, entry: impl Fn(&[u8])) {
    let mut random = fastrand::Rng::with_seed(1);
    for seed in seeds(target) {
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

fn mutate(bytes: &mut Vec<u8>, random: &mut fastrand::Rng) {
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

#[test]
fn parsers_hold_on_seeds_and_their_mutations() {
    drive("nbd_reply", 20_000, super::parsers);
}

#[test]
fn conversations_hold_on_seeds_and_their_mutations() {
    drive("nbd_conversation", 3000, |bytes| {
        super::conversation(bytes);
    });
}

/// Otherwise their mutations would reach little of the client.
#[test]
fn seeds_of_conversations_reach_to_the_last_reply() {
    let mut answered: Vec<_> = seeds("nbd_conversation").iter().map(|seed| super::conversation(seed)).collect();
    answered.sort_unstable();
    assert_eq!(answered, [0, 2, 3, 4, 4]);
}
