//! Zeros in place of what was there.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::fcntl::{FallocateFlags, fallocate};
use remora_core::ByteRange;

/// Makes a range of a file or device read as zeros, without writing them where the kernel can do that. Blocks.
pub fn write_zeros(file: &File, range: ByteRange) -> io::Result<()> {
    let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let (at, len) = (range.start.cast_signed(), range.len().cast_signed());
    for how in [FallocateFlags::FALLOC_FL_PUNCH_HOLE, FallocateFlags::FALLOC_FL_ZERO_RANGE] {
        if fallocate(file, how | keep, at, len).is_ok() {
            return Ok(());
        }
    }
    let zeros = vec![0; 1024 * 1024];
    for piece in range.split(zeros.len() as u64) {
        file.write_all_at(&zeros[..piece.len() as usize], piece.start)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_replace_what_was_there() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&vec![7; 300_000], 0).unwrap();
        write_zeros(&file, ByteRange::new(1, 200_000)).unwrap();
        let mut bytes = vec![1; 300_000];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes[1..200_000].iter().all(|b| *b == 0));
        assert!(bytes[0] == 7 && bytes[200_000..].iter().all(|b| *b == 7));
    }
}
