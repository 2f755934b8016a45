//! What the hypervisor holds, and byte-for-byte comparison with it.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use crate::image::Image;
use crate::process::{Must, run};

/// How much is compared at a time.
const PIECE: usize = 1 << 20;

/// Copies what `image` holds to the raw file `into`. Of a running domain's image this is the truth only while it is
/// paused and flushed: [`crate::Domain::truth`] sees to that.
pub fn copy(image: &Image, into: &Path) {
    let mut qemu_img = Command::new("qemu-img");
    qemu_img.args(["convert", "-q", "-U", "-f", image.format.driver(), "-O", "raw"]).arg(&image.path).arg(into);
    run(&mut qemu_img).ok();
}

/// Where two files first differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// At this offset both have a byte, but not the same.
    Byte {
        /// Its offset.
        offset: u64,
        /// The left file's byte.
        left: u8,
        /// The right file's byte.
        right: u8,
    },
    /// One file ends at this offset, the other goes on.
    Length {
        /// The length of the shorter one.
        shorter: u64,
    },
}

/// Where two files (or block devices) first differ.
pub fn first_difference(left: &Path, right: &Path) -> Option<Difference> {
    let mut files = [left, right].map(|path| File::open(path).must(format_args!("open {}", path.display())));
    let [mut a, mut b] = [vec![0; PIECE], vec![0; PIECE]];
    let mut at = 0;
    loop {
        let left_len = read_full(&mut files[0], &mut a);
        let right_len = read_full(&mut files[1], &mut b);
        let common = left_len.min(right_len);
        if a[..common] != b[..common] {
            let place = (0..common).find(|&i| a[i] != b[i]).expect("the pieces differ");
            return Some(Difference::Byte { offset: at + place as u64, left: a[place], right: b[place] });
        }
        if left_len != right_len {
            return Some(Difference::Length { shorter: at + common as u64 });
        }
        if common < PIECE {
            return None;
        }
        at += common as u64;
    }
}

/// Panics if two files (or block devices) do not hold the same bytes.
#[track_caller]
pub fn assert_same(found: &Path, wanted: &Path) {
    if let Some(difference) = first_difference(found, wanted) {
        panic!("{} is not what {} is: {difference:x?}", found.display(), wanted.display());
    }
}

fn read_full(file: &mut File, buffer: &mut [u8]) -> usize {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]).must("read a file to compare") {
            0 => break,
            count => filled += count,
        }
    }
    filled
}
