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

/// Where the data that is at `at` ends, at most at `size`.
pub fn hole_from(file: &File, at: u64, size: u64) -> io::Result<u64> {
    match lseek64(file, at.cast_signed(), Whence::SeekHole) {
        Ok(found) => Ok(found.cast_unsigned().clamp(at + 1, size)),
        Err(Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENXIO) => Ok(size),
        Err(error) => Err(error.into()),
    }
}
