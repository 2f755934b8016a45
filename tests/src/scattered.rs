//! Scattered writes of whole blocks whose number and compressed size are known: what an increment has to store.

use crate::content::{self, Dice};
use crate::domain::{Domain, WRITE_FILE};
use crate::process::Must;

/// What was written to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// All of it, in bytes.
    pub bytes: u64,
    /// What zstd makes of each block at level 1, or the block if that is no shorter; in bytes.
    pub compressed: u64,
}

/// Writes `dirty` bytes in blocks of 64 KiB, half of them text and half noise, scattered over a disk as the guest would;
/// other bytes and other blocks for each `round`.
pub fn write(domain: &Domain<'_>, target: &str, round: u64, dirty: u64) -> Written {
    let all = domain.image(target).size() / WRITE_FILE;
    let blocks = Dice::new(round).some((dirty / WRITE_FILE) as usize, all as usize);
    let dir = domain.lab().scratch("written");
    let mut zstd = zstd::bulk::Compressor::new(1).must("make a zstd context");
    let (mut writes, mut written) = (Vec::new(), Written { bytes: 0, compressed: 0 });
    for (number, block) in blocks.into_iter().enumerate() {
        let bytes = content::mixed(round << 32 | number as u64, WRITE_FILE as usize);
        written.bytes += WRITE_FILE;
        written.compressed += zstd.compress(&bytes).must("compress").len().min(bytes.len()) as u64;
        let path = dir.join(number.to_string());
        std::fs::write(&path, &bytes).must("fill a file for QEMU's use");
        writes.push((path, block as u64 * WRITE_FILE));
    }
    domain.write_files(target, &writes);
    std::fs::remove_dir_all(&dir).must("remove the files for QEMU's use");
    written
}
