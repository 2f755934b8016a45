//! A short run of the fuzz targets on stable: their seeds, and mutations of them that are the same in every run.

use std::collections::BTreeSet;

use remora_tests::seeds::{drive, folder, mutate};

use super::*;
use crate::descriptor::FORMAT;

type Entry = fn(&[u8]);

const TARGETS: [(&str, Entry, usize); 8] = [
    ("vault_descriptor", descriptor, 20_000),
    ("vault_slot", slot, 10_000),
    ("vault_manifest", manifest, 1_000),
    ("vault_node", node, 50_000),
    ("vault_footer", footer, 20_000),
    ("vault_chunk", chunk, 20_000),
    ("vault_part", part, 20_000),
    ("vault_name", name, 20_000),
];

#[test]
fn parsers_hold_on_seeds_and_their_mutations() {
    for (target, entry, mutations) in TARGETS {
        drive(target, mutations, entry);
    }
}

/// A mutation of texts that are compressed or hashed hits nothing behind that: so the text itself is mutated.
#[test]
fn manifests_hold_on_mutations_of_their_text() {
    let mut random = fastrand::Rng::with_seed(2);
    let mut understood = 0;
    for text in [BREAK, LOST, TOMBSTONE, POINT] {
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
        assert!(folder(target).join(name).exists(), "make fuzz/seeds/{target}/{name} by the example vault_seeds");
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
            "vault_part" => codec::unpack(bytes[7..].to_vec(), bytes[0] == 1, 700).is_ok(),
            _ => true,
        };
        assert!(accepted, "{target} {name} of format {FORMAT}");
    }
}
