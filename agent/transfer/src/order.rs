//! What is said of a restore; framed as `frame.rs` says.
//!
//! ```text
//! agent:  Begin  u32 version, u32 disk, u64 size, u64 bytes of data     worker: Ready, or Refused
//!         Data   u64 offset, bytes                                      (any number, in order)
//!         End                                                          worker: Digest, or Refused
//! ```
//!
//! `Refused` may come at any time, and ends it. What lies between the data reads as zeros.

use std::io::{self, Read};

use tokio::io::AsyncRead;

use crate::frame::{self, DATA, Fault, frame, refusal, refused, u32_at, u64_at};

/// The version of all this.
const VERSION: u32 = 1;

const BEGIN: u8 = 1;
const DATA_KIND: u8 = 2;
const END: u8 = 3;
const READY: u8 = 16;
const DIGEST: u8 = 17;

/// What an agent says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Begin { disk: u32, size: u64, data: u64 },
    Data { at: u64, bytes: Vec<u8> },
    End,
}

/// What a worker says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Ready,
    Digest([u8; 32]),
    Refused(Fault, String),
}

impl Order {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Begin { disk, size, data } => {
                let parts = [&VERSION.to_le_bytes()[..], &disk.to_le_bytes(), &size.to_le_bytes(), &data.to_le_bytes()];
                frame(BEGIN, &parts)
            }
            Self::Data { at, bytes } => Self::data(*at, bytes),
            Self::End => frame(END, &[]),
        }
    }

    /// A frame of data, without a copy of it before.
    pub(crate) fn data(at: u64, bytes: &[u8]) -> Vec<u8> {
        frame(DATA_KIND, &[&at.to_le_bytes(), bytes])
    }

    /// The next one; none at the end of what is said.
    pub(crate) fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let Some((kind, mut body)) = frame::read(from, Self::fits)? else { return Ok(None) };
        let (small, large) = (|at| u32_at(&body, at), |at| u64_at(&body, at));
        Ok(Some(match kind {
            BEGIN if small(0) != VERSION => {
                let what = format!("version {} of the transfer is not known here, {VERSION} is", small(0));
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            BEGIN => Self::Begin { disk: small(4), size: large(8), data: large(16) },
            DATA_KIND => Self::Data { at: large(0), bytes: body.split_off(8) },
            _ => Self::End,
        }))
    }

    fn fits(kind: u8, length: usize) -> bool {
        match kind {
            BEGIN => length == 24,
            DATA_KIND => (9..=8 + DATA).contains(&length),
            END => length == 0,
            _ => false,
        }
    }
}

impl Answer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Ready => frame(READY, &[]),
            Self::Digest(digest) => frame(DIGEST, &[digest]),
            Self::Refused(fault, why) => refused(*fault, why),
        }
    }

    /// The next one. May not be dropped half-way and called again.
    pub(crate) async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let (kind, body) = frame::read_answer(from, Self::fits).await?;
        Ok(match kind {
            READY => Self::Ready,
            DIGEST => Self::Digest(body.try_into().expect("32 bytes")),
            _ => {
                let (fault, why) = refusal(&body);
                Self::Refused(fault, why)
            }
        })
    }

    fn fits(kind: u8, length: usize) -> bool {
        match kind {
            READY => length == 0,
            DIGEST => length == 32,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{REFUSED, WORDS};

    #[test]
    fn what_is_said_is_read_as_it_was_said() {
        for order in
            [Order::Begin { disk: 7, size: u64::MAX, data: 1 }, Order::Data { at: 9, bytes: vec![5; DATA] }, Order::End]
        {
            assert_eq!(Order::read(&mut order.encode().as_slice()).unwrap(), Some(order));
        }
        assert_eq!(Order::read(&mut [].as_slice()).unwrap(), None);
    }

    #[test]
    fn what_makes_no_sense_is_refused_before_it_is_read() {
        let mut of_another_version = Order::Begin { disk: 0, size: 0, data: 0 }.encode();
        of_another_version[5] = 2;
        for bad in [
            frame(DATA_KIND, &[&[0; 8]]),
            [&[DATA_KIND][..], &u32::MAX.to_le_bytes()].concat(),
            frame(END, &[b"x"]),
            frame(BEGIN, &[b"short"]),
            frame(99, &[]),
            frame(READY, &[]),
            of_another_version,
        ] {
            let error = Order::read(&mut bad.as_slice()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bad:?}");
        }
        let cut = Order::End.encode()[..3].to_vec();
        assert_eq!(Order::read(&mut cut.as_slice()).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_worker_s_words_are_cut_and_made_printable() {
        let long = format!("a\u{1b}[2J\n{}", "ä".repeat(WORDS));
        let said = Answer::Refused(Fault::NoSpace, long).encode();
        let Answer::Refused(Fault::NoSpace, words) = Answer::read(&mut said.as_slice()).await.unwrap() else {
            panic!("not refused");
        };
        assert!(words.starts_with("a [2J ä") && words.len() <= WORDS, "{words}");
        let huge = [&[REFUSED][..], &u32::MAX.to_le_bytes()].concat();
        assert!(Answer::read(&mut huge.as_slice()).await.is_err());
    }
}
