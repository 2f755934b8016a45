//! What is said while disks are read: questions, and replies in the order of the questions; framed as `frame.rs` says.
//!
//! ```text
//! agent:  Look  u32 version, u32 disk                  worker: Is     u64 size, i64 seconds, i64 nanoseconds
//!         Map   u32 disk, u64 from                             Map    (u64 end, u8 whether it has data), one or more
//!         Read  u32 disk, u64 offset, u32 length               Bytes  bytes
//! ```
//!
//! Or `Refused`, to any of them.

use std::io::{self, Read};

use bytes::Bytes;
use tokio::io::AsyncRead;

use crate::frame::{self, DATA, Fault, frame, nonsense, refusal, refused, u32_at, u64_at};

/// The version of all this.
const VERSION: u32 = 1;

/// The most stretches that one reply has.
pub(crate) const STRETCHES: usize = 4096;

/// The bytes of one.
const STRETCH: usize = 9;

const LOOK: u8 = 32;
const MAP: u8 = 33;
const READ: u8 = 34;
const IS: u8 = 48;
const STRETCHES_KIND: u8 = 49;
const BYTES: u8 = 50;

/// What an agent asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// What the disk is now.
    Look { disk: u32 },
    /// What has data from there on.
    Map { disk: u32, from: u64 },
    /// Bytes of it.
    Read { disk: u32, at: u64, length: u32 },
}

/// What a worker replies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Is(Look),
    Map(Vec<Stretch>),
    Bytes(Bytes),
    Refused(Fault, String),
}

/// What a disk is at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// Bytes.
    pub(crate) size: u64,
    /// When its file was changed last, since 1970: seconds and nanoseconds. Both 0 of a device.
    pub(crate) written: (i64, i64),
}

/// Bytes up to `end` that have data, or that read as zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) end: u64,
    pub(crate) data: bool,
}

impl Question {
    pub(crate) fn encode(self) -> Vec<u8> {
        match self {
            Self::Look { disk } => frame(LOOK, &[&VERSION.to_le_bytes(), &disk.to_le_bytes()]),
            Self::Map { disk, from } => frame(MAP, &[&disk.to_le_bytes(), &from.to_le_bytes()]),
            Self::Read { disk, at, length } => {
                frame(READ, &[&disk.to_le_bytes()[..], &at.to_le_bytes(), &length.to_le_bytes()])
            }
        }
    }

    /// The next one; none at the end of what is asked.
    pub(crate) fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let Some((kind, body)) = frame::read(from, Self::fits)? else { return Ok(None) };
        let (small, large) = (|at| u32_at(&body, at), |at| u64_at(&body, at));
        Ok(Some(match kind {
            LOOK if small(0) != VERSION => {
                let what = format!("version {} of the loan is not known here, {VERSION} is", small(0));
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            LOOK => Self::Look { disk: small(4) },
            MAP => Self::Map { disk: small(0), from: large(4) },
            _ if small(12) as usize > DATA => return Err(nonsense(kind, small(12) as usize)),
            _ => Self::Read { disk: small(0), at: large(4), length: small(12) },
        }))
    }

    fn fits(kind: u8, length: usize) -> bool {
        match kind {
            LOOK => length == 8,
            MAP => length == 12,
            READ => length == 16,
            _ => false,
        }
    }
}

impl Reply {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Is(Look { size, written: (seconds, nanoseconds) }) => {
                frame(IS, &[&size.to_le_bytes()[..], &seconds.to_le_bytes(), &nanoseconds.to_le_bytes()])
            }
            Self::Map(stretches) => {
                let one = |stretch: &Stretch| {
                    let mut bytes = [0; STRETCH];
                    bytes[..8].copy_from_slice(&stretch.end.to_le_bytes());
                    bytes[8] = stretch.data.into();
                    bytes
                };
                frame(STRETCHES_KIND, &[stretches.iter().map(one).collect::<Vec<_>>().as_flattened()])
            }
            Self::Bytes(bytes) => frame(BYTES, &[bytes]),
            Self::Refused(fault, why) => refused(*fault, why),
        }
    }

    /// The next one. May not be dropped half-way and called again.
    pub(crate) async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let (kind, body) = frame::read_answer(from, Self::fits).await?;
        Ok(match kind {
            IS => {
                let written = (u64_at(&body, 8).cast_signed(), u64_at(&body, 16).cast_signed());
                Self::Is(Look { size: u64_at(&body, 0), written })
            }
            STRETCHES_KIND => {
                let one = |bytes: &[u8]| Stretch { end: u64_at(bytes, 0), data: bytes[8] != 0 };
                Self::Map(body.chunks_exact(STRETCH).map(one).collect())
            }
            BYTES => Self::Bytes(body.into()),
            _ => {
                let (fault, why) = refusal(&body);
                Self::Refused(fault, why)
            }
        })
    }

    fn fits(kind: u8, length: usize) -> bool {
        match kind {
            IS => length == 24,
            STRETCHES_KIND => length.is_multiple_of(STRETCH) && (1..=STRETCHES).contains(&(length / STRETCH)),
            BYTES => length <= DATA,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::HEADER;

    #[tokio::test]
    async fn what_is_said_is_read_as_it_was_said() {
        for question in [
            Question::Look { disk: 7 },
            Question::Map { disk: u32::MAX, from: u64::MAX },
            Question::Read { disk: 1, at: 1 << 40, length: DATA as u32 },
        ] {
            assert_eq!(Question::read(&mut question.encode().as_slice()).unwrap(), Some(question));
        }
        assert_eq!(Question::read(&mut [].as_slice()).unwrap(), None);
        for reply in [
            Reply::Is(Look { size: u64::MAX, written: (-1, 999_999_999) }),
            Reply::Map(vec![Stretch { end: 1, data: true }, Stretch { end: u64::MAX, data: false }]),
            Reply::Bytes(vec![3; DATA].into()),
            Reply::Bytes(Bytes::new()),
            Reply::Refused(Fault::Failed, "no".into()),
        ] {
            assert_eq!(Reply::read(&mut reply.encode().as_slice()).await.unwrap(), reply);
        }
    }

    #[tokio::test]
    async fn what_makes_no_sense_is_refused_before_it_is_read() {
        let mut of_another_version = Question::Look { disk: 0 }.encode();
        of_another_version[HEADER] = 2;
        let too_much = Question::Read { disk: 0, at: 0, length: DATA as u32 + 1 }.encode();
        for bad in [of_another_version, too_much, frame(LOOK, &[b"short"]), frame(IS, &[&[0; 24]]), frame(99, &[])] {
            let error = Question::read(&mut bad.as_slice()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bad:?}");
        }
        for (kind, length) in [(IS, 20), (STRETCHES_KIND, 0), (STRETCHES_KIND, 10), (BYTES, DATA as u32 + 1), (LOOK, 8)]
        {
            let bad = [&[kind][..], &length.to_le_bytes()].concat();
            let error = Reply::read(&mut bad.as_slice()).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{kind} {length}");
        }
    }
}
