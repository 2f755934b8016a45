//! What the guests write: disks of a few small blocks, each known by its version.

use remora_core::BLOCK_SIZE;

/// The lengths of each disk's blocks. Short blocks cost no time, and only a disk's last may be short.
pub(super) const DISKS: [&[u64]; 3] = [&[BLOCK_SIZE, 512], &[512], &[512]];

const BLOCKS: usize = 4;

/// The version of each block; 0 is zeros.
pub(super) type Image = [u8; BLOCKS];

/// So few versions that the same bytes come again.
const VERSIONS: u8 = 4;

/// Some of the blocks are written.
pub(super) fn write(random: &mut fastrand::Rng, image: &mut Image) {
    for _ in 0..random.usize(1..3) {
        image[random.usize(0..BLOCKS)] = random.u8(0..VERSIONS);
    }
}

/// A disk's blocks: where each begins, its length, and its place in the image.
pub(super) fn blocks(disk: usize) -> impl Iterator<Item = (u64, u64, usize)> {
    let first: usize = DISKS[..disk].iter().map(|blocks| blocks.len()).sum();
    DISKS[disk].iter().zip(first..).zip(0..).map(|((len, place), n)| (n * BLOCK_SIZE, *len, place))
}

pub(super) fn size(disk: usize) -> u64 {
    DISKS[disk].iter().sum()
}

/// A disk's bytes.
pub(super) fn bytes(image: Image, disk: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size(disk) as usize);
    for (at, len, place) in blocks(disk) {
        bytes.resize((at + len) as usize, 0);
        if image[place] > 0 {
            let noise = at as usize..at as usize + 256;
            fastrand::Rng::with_seed(u64::from(image[place]) * 100 + place as u64).fill(&mut bytes[noise]);
        }
    }
    bytes
}
