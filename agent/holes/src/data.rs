//! Where a file has data, and where it has none.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek64};

/// Where there is data next, from `at` on and before `size`; none after the last.
pub fn data_from(file: &File, at: u64, size: u64) -> io::Result<Option<u64>> {
    if at >= size {
        return Ok(None);
    }
    match lseek64(file, at.cast_signed(), Whence::SeekData) {
        Ok(found) => Ok(Some(found.cast_unsigned().max(at)).filter(|found| *found < size)),
        Err(Errno::ENXIO) => Ok(None),
        // One that knows no holes.
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(Some(at)),
        Err(error) => Err(error.into()),
    }
}

/// Where the data that is at `at` ends, at most at `size`, which lies behind it.
pub fn hole_from(file: &File, at: u64, size: u64) -> io::Result<u64> {
    match lseek64(file, at.cast_signed(), Whence::SeekHole) {
        Ok(found) => Ok(found.cast_unsigned().clamp(at + 1, size)),
        Err(Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENXIO) => Ok(size),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn all_that_was_written_is_data_and_a_walk_over_it_ends() {
        let (file, size) = (tempfile::tempfile().unwrap(), 8 << 20);
        file.set_len(size).unwrap();
        let written = [0, 3 << 20, size - 1];
        for at in written {
            file.write_all_at(&[7], at).unwrap();
        }
        let (mut at, mut data) = (0, Vec::new());
        while let Some(begin) = data_from(&file, at, size).unwrap() {
            at = hole_from(&file, begin, size).unwrap();
            assert!(begin < at && at <= size, "{begin}..{at}");
            data.push(begin..at);
        }
        for at in written {
            assert!(data.iter().any(|range| range.contains(&at)), "{at}: {data:?}");
        }
        assert_eq!(data_from(&file, size, size).unwrap(), None);
    }
}
