//! Bytes for disks, half like text and half like noise: the same in every run.

use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::MIB;
use crate::process::Must;

/// Text and noise take turns in stretches of so many bytes.
const STRETCH: u64 = 16 * MIB;

/// Bytes that do not compress, determined by `number`.
pub fn noise(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(b"remora bench").update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Bytes like a log's or a program's text, determined by `number`.
pub fn text(number: u64, len: usize) -> Vec<u8> {
    let words = words();
    let mut dice = Dice::new(number);
    let mut bytes = Vec::with_capacity(len + 32);
    let mut line = 0;
    while bytes.len() < len {
        // Two dice: some words are much more frequent than others.
        let word = &words[dice.below(words.len()) * dice.below(words.len()) / words.len()];
        bytes.extend_from_slice(word);
        line += word.len();
        match dice.below(12) {
            0 => write!(bytes, " {}", dice.below(100_000)).must("write to memory"),
            1 => bytes.extend_from_slice(b", "),
            _ => bytes.push(b' '),
        }
        if line > 70 {
            bytes.push(b'\n');
            line = 0;
        }
    }
    bytes.truncate(len);
    bytes
}

fn words() -> Vec<Vec<u8>> {
    let mut dice = Dice::new(u64::MAX);
    (0..4096).map(|_| (0..3 + dice.below(9)).map(|_| b"etaoinshrdlucmfwypvbgk"[dice.below(22)]).collect()).collect()
}

/// Numbers that look random: xorshift64*.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        Self((seed ^ 0x9e37_79b9_7f4a_7c15).max(1))
    }

    /// A number from 0 to below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as usize % bound
    }

    /// So many different numbers from 0 to below `bound`, ascending.
    pub fn some(&mut self, count: usize, bound: usize) -> Vec<usize> {
        let mut chosen = std::collections::BTreeSet::new();
        while chosen.len() < count {
            chosen.insert(self.below(bound));
        }
        chosen.into_iter().collect()
    }
}

/// Half text, half noise.
pub fn mixed(number: u64, len: usize) -> Vec<u8> {
    if number.is_multiple_of(2) { text(number, len) } else { noise(number, len) }
}

/// Makes a raw disk of `size` bytes with `data` bytes in stretches of text and noise, spread evenly over all of it.
pub fn make_disk(path: &Path, size: u64, data: u64) {
    let file = File::create(path).must("make a disk");
    file.set_len(size).must("size a disk");
    for (number, stretch) in (0..).zip(stretches(size, data)) {
        let bytes = mixed(number, STRETCH as usize);
        file.write_all_at(&bytes, stretch.start).must("fill a disk");
    }
}

/// Where [`make_disk`] puts the data.
pub fn stretches(size: u64, data: u64) -> impl Iterator<Item = Range<u64>> {
    let stretches = data / STRETCH;
    let distance = size / stretches / MIB * MIB;
    (0..stretches).map(move |number| number * distance..number * distance + STRETCH)
}
