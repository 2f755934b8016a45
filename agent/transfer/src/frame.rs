//! The frames of all that is said between an agent and a worker: a kind, a length (both little-endian), and so many bytes.
//! `Refused`, of a worker, ends what it is said in.

use std::io::{self, Read};

use tokio::io::{AsyncRead, AsyncReadExt};

/// The most that one frame of data holds.
pub(crate) const DATA: usize = remora_core::PIECE_SIZE as usize;

/// The most that a refusal says.
pub(crate) const WORDS: usize = 4096;

/// Before the bytes.
pub(crate) const HEADER: usize = 5;

pub(crate) const REFUSED: u8 = 18;

/// Why a worker refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// There is not enough room.
    NoSpace,
    /// The agent said something that makes no sense.
    Invalid,
    /// Something else.
    Failed,
}

impl Fault {
    const fn code(self) -> u8 {
        match self {
            Self::NoSpace => 1,
            Self::Invalid => 2,
            Self::Failed => 3,
        }
    }

    const fn of(code: u8) -> Self {
        match code {
            1 => Self::NoSpace,
            2 => Self::Invalid,
            _ => Self::Failed,
        }
    }
}

/// Whether a frame of that kind may have so many bytes.
pub(crate) type Fits = fn(kind: u8, length: usize) -> bool;

/// The kind and the bytes of the next frame, which are read only if they fit; none at the end of what is said.
pub(crate) fn read(from: &mut impl Read, fits: Fits) -> io::Result<Option<(u8, Vec<u8>)>> {
    let mut header = [0; HEADER];
    if from.read(&mut header[..1])? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut header[1..])?;
    let (kind, mut body) = begun(header, fits)?;
    from.read_exact(&mut body)?;
    Ok(Some((kind, body)))
}

/// As [`read`], of a worker: a refusal fits too. May not be dropped half-way and called again.
pub(crate) async fn read_answer(from: &mut (impl AsyncRead + Unpin), fits: Fits) -> io::Result<(u8, Vec<u8>)> {
    let mut header = [0; HEADER];
    from.read_exact(&mut header).await?;
    let fits: Fits = if header[0] == REFUSED { refusal_fits } else { fits };
    let (kind, mut body) = begun(header, fits)?;
    from.read_exact(&mut body).await?;
    Ok((kind, body))
}

fn refusal_fits(_: u8, length: usize) -> bool {
    (1..=1 + WORDS).contains(&length)
}

/// What a header tells of: a kind, and room for the bytes.
fn begun(header: [u8; HEADER], fits: Fits) -> io::Result<(u8, Vec<u8>)> {
    let [kind, length @ ..] = header;
    let length = u32::from_le_bytes(length) as usize;
    if fits(kind, length) { Ok((kind, vec![0; length])) } else { Err(nonsense(kind, length)) }
}

/// A frame, of `parts` one after the other.
pub(crate) fn frame(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut frame = Vec::with_capacity(HEADER + length);
    frame.push(kind);
    frame.extend_from_slice(&(length as u32).to_le_bytes());
    for part in parts {
        frame.extend_from_slice(part);
    }
    frame
}

/// A refusal, cut to what is read of one.
pub(crate) fn refused(fault: Fault, why: &str) -> Vec<u8> {
    let end = (0..=why.len().min(WORDS)).rev().find(|at| why.is_char_boundary(*at)).unwrap_or(0);
    frame(REFUSED, &[&[fault.code()], &why.as_bytes()[..end]])
}

/// What the bytes of a refusal say.
pub(crate) fn refusal(body: &[u8]) -> (Fault, String) {
    (Fault::of(body[0]), printable(&body[1..]))
}

/// A number of a body that fits.
pub(crate) fn u32_at(body: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(body[at..at + 4].try_into().expect("four bytes"))
}

/// The same, of eight bytes.
pub(crate) fn u64_at(body: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(body[at..at + 8].try_into().expect("eight bytes"))
}

pub(crate) fn nonsense(kind: u8, length: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a frame of kind {kind} and {length} bytes makes no sense"))
}

/// Somebody else's words, for a log and a condition.
fn printable(words: &[u8]) -> String {
    String::from_utf8_lossy(words).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
