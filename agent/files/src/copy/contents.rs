//! Copies the bytes of one file and keeps its holes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::FileStat;
use nix::unistd::{Whence, lseek};
use remora_core::ByteRange;
use remora_core::ports::Progress;

use super::node::{Attempt, source, target};

/// Read at once.
const PIECE: usize = 1024 * 1024;
/// The unit of holes.
const GRAIN: usize = 4096;

/// Whether a file has holes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Sparse,
    Dense,
}

/// Copies what `input` holds; returns how many bytes were read. A file that takes less room than it is long has holes:
/// where the filesystem does not tell them (libguestfs does not), zeros are taken for holes.
pub(super) fn copy(input: &File, output: &File, path: &Path, stat: &FileStat, progress: &dyn Progress) -> Attempt<u64> {
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
    let form = if blocks < size.div_ceil(512) { Form::Sparse } else { Form::Dense };
    let mut buffer = vec![0; PIECE.min(size as usize)];
    let mut read = 0;
    let mut at = 0;
    while let Some(data) = next_data(input, at, size, form) {
        for piece in data.split(PIECE as u64) {
            let bytes = &mut buffer[..piece.len() as usize];
            input.read_exact_at(bytes, piece.start).map_err(source(path))?;
            write(output, bytes, piece.start, form).map_err(target(path))?;
            read += piece.len();
            progress.advance(piece.len());
        }
        at = data.end;
    }
    output.set_len(size).map_err(target(path))?;
    Ok(read)
}

/// The next range at or behind `at` that may hold data.
fn next_data(input: &File, at: u64, size: u64, form: Form) -> Option<ByteRange> {
    if at >= size {
        return None;
    }
    if form == Form::Dense {
        return Some(ByteRange::new(at, size));
    }
    let seek = |from: u64, whence| lseek(input, from.cast_signed(), whence).map(i64::cast_unsigned);
    match seek(at, Whence::SeekData) {
        Ok(start) => {
            let start = start.clamp(at, size);
            // A hole that starts no later than the data would be nonsense: then all of the rest is read.
            let end = seek(start, Whence::SeekHole).ok().filter(|end| (start + 1..=size).contains(end)).unwrap_or(size);
            Some(ByteRange::new(start, end)).filter(|range| !range.is_empty())
        }
        Err(Errno::ENXIO) => None,
        Err(_) => Some(ByteRange::new(at, size)),
    }
}

fn write(output: &File, bytes: &[u8], at: u64, form: Form) -> std::io::Result<()> {
    if form == Form::Dense {
        return output.write_all_at(bytes, at);
    }
    let mut start = 0;
    for end in runs(bytes) {
        if !is_zero(&bytes[start..end]) {
            output.write_all_at(&bytes[start..end], at + start as u64)?;
        }
        start = end;
    }
    Ok(())
}

/// The ends of the runs of grains that are alike: all zero, or all not.
fn runs(bytes: &[u8]) -> Vec<usize> {
    let (mut ends, mut zero) = (Vec::new(), None);
    for (number, grain) in bytes.chunks(GRAIN).enumerate() {
        let now = is_zero(grain);
        if zero.is_some_and(|before| before != now) {
            ends.push(number * GRAIN);
        }
        zero = Some(now);
    }
    ends.push(bytes.len());
    ends
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}
