//! A short run of the fuzz targets on stable: their seeds, and mutations of them that are the same in every run.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::*;
use crate::descriptor::FORMAT;

type Entry = fn(&[u8]);

const TARGETS: [(&str, Entry, usize); 7] = [
    ("vault_descriptor", descriptor, 20_000),
    ("vault_slot", slot, 10_000),
    ("vault_manifest", manifest, 1_000),
    ("vault_node", node, 50_000),
    ("vault_footer", footer, 20_000),
    ("vault_chunk", chunk, 20_000),
    ("vault_name", name, 20_000),
];

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target)
}

/// The committed seeds of a target.
fn committed(target: &str) -> Vec<Vec<u8>> {
    let files = std::fs::read_dir(folder(target)).unwrap_or_else(|e| panic!("{target} has no seeds: {e}"));
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

fn mutate(bytes: &mut Vec<u8>, random: &mut fastrand::Rng) {
    let at = random.usize(0..=bytes.len());
    match random.usize(0..6) {
        0 => bytes.truncate(at),
        1 => bytes.insert(at, random.u8(..)),
        2 => bytes.extend_from_within(at..(at + random.usize(0..64)).min(bytes.len())),
        3 if at < bytes.len() => drop(bytes.drain(at..(at + random.usize(0..32)).min(bytes.len()))),
        4 if at < bytes.len() => bytes[at] ^= 1 << random.usize(0..8),
        _ if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.usize(0..5)],
        _ => {}
    }
}

#[test]
fn parsers_hold_on_seeds_and_their_mutations() {
    for (target, entry, mutations) in TARGETS {
        let mut random = fastrand::Rng::with_seed(1);
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
}

/// A mutation of texts that are compressed or hashed hits nothing behind that: so the text itself is mutated.
#[test]
fn manifests_hold_on_mutations_of_their_text() {
    let mut random = fastrand::Rng::with_seed(2);
    let mut understood = 0;
    for text in [BREAK, TOMBSTONE, POINT] {
        for _ in 0..5_000 {
            let mut bytes = text.as_bytes().to_vec();
            mutate(&mut bytes, &mut random);
            understood += usize::from(serde_json::from_slice::<Manifest>(&bytes).is_ok());
            manifest(&zstd::bulk::compress(&bytes, 1).unwrap());
        }
    }
    assert!(understood > 500, "only {understood} were manifests still");
}

/// What is called an honest writer's bytes is accepted, and there is a seed of each.
#[test]
fn seeds_are_what_this_version_writes_and_reads() {
    let written = seeds();
    let targets: BTreeSet<_> = written.iter().map(|(target, ..)| *target).collect();
    assert_eq!(targets, TARGETS.iter().map(|(target, ..)| *target).collect());
    for (target, name, bytes) in &written {
        assert!(folder(target).join(name).exists(), "make fuzz/seeds/{target}/{name} by the example fuzz_seeds");
        let accepted = match *target {
            "vault_descriptor" => Descriptor::decode(bytes).is_ok(),
            "vault_slot" => Slot::decode(bytes).is_ok() && Slot::forged(bytes).is_some(),
            "vault_manifest" => {
                let text = zstd::bulk::decompress(bytes, 1 << 20).unwrap();
                serde_json::from_slice::<Manifest>(&text).map_err(|e| panic!("{name}: {e}")).is_ok()
            }
            "vault_node" => match *name {
                "leaf" => Leaf::decode(&bytes[2..], 10).is_ok(),
                _ => Inner::decode(&bytes[2..], 4).is_ok(),
            },
            "vault_footer" => match *name {
                "stored" => Trailer::decode(bytes, HEADER_LEN + bytes.len() as u64, HEADER_LEN).is_ok(),
                _ => Index::decode(&bytes[2..bytes.len() - 96], HEADER_LEN, HEADER_LEN + 100).is_ok(),
            },
            "vault_chunk" => codec::unpack(bytes[5..].to_vec(), bytes[0] == 1, 700).is_ok(),
            _ => true,
        };
        assert!(accepted, "{target} {name} of format {FORMAT}");
    }
}
