//! What host and child say to each other: frames of a length (32 bits, little endian) and a message.
//!
//! Everything belongs to an instance, which the host numbers. To each the host says one thing at a time: a call, or the answer
//! to what the instance asked during it. So neither side ever has more to keep than one message for an instance.

mod volume;

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub(super) use volume::{
    NewPoint, PointPage, VolumeCall, VolumeCapabilities, VolumeDisk, VolumeDone, VolumeExtent, VolumePoint,
};

use super::words::{Capabilities, Level, MoverError, Object, Page, Request, Response, Stored, WrongField};

/// The longest frame that the host takes from a child: a page of 1,000 objects, a request with 64 KiB in it.
pub(super) const LONGEST_UP: u32 = 4 << 20;

/// The longest frame that a child takes: the component.
pub(super) const LONGEST_DOWN: u32 = 80 << 20;

/// What is kept of a compiled component, at most: fifty times what one in Rust takes.
pub(super) const LARGEST_COMPILED: usize = 32 << 20;

/// The longest first frame of a child: what it compiled.
pub(super) const LONGEST_STARTED: u32 = 33 << 20;

/// From the host.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Down {
    /// The first message: what is to be run, and what was compiled of it before.
    Start { component: Vec<u8>, compiled: Option<Vec<u8>>, world: World },
    /// Makes an instance and has it called; of one that is there already, calls it.
    /// With the SHA-256 of the call's buffer, if the component usually asks for that.
    Call { instance: u32, deadline_ms: u64, sha256: Option<Vec<u8>>, call: Call },
    /// Answers what an instance asked.
    Told { instance: u32, answer: Answer },
    /// Ends an instance, whatever it is doing.
    End { instance: u32 },
}

/// Which world of `wit/mover` a component is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum World {
    Objects,
    Volumes,
}

/// From the child.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Up {
    /// Whether the component can be run, with what was compiled of it now; or why not.
    Started(Result<Option<Vec<u8>>, Unfit>),
    /// An instance needs something from the host.
    Ask { instance: u32, ask: Ask },
    /// A call is over.
    Done { instance: u32, outcome: Result<Done, Fault> },
}

/// Why a component cannot be run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Unfit {
    /// Whether it lies at the component, rather than at the machine.
    pub(super) component: bool,
    pub(super) why: String,
    pub(super) advice: Option<String>,
}

/// A function of the component.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Call {
    Validate {
        settings: String,
    },
    Open {
        settings: String,
        prefix: String,
    },
    Put {
        key: String,
        len: u64,
    },
    Replace {
        key: String,
        len: u64,
    },
    Get {
        key: String,
        offset: u64,
        len: u64,
    },
    Head {
        key: String,
    },
    List {
        prefix: String,
        after: Option<String>,
        token: Option<String>,
    },
    Delete {
        keys: Vec<String>,
    },
    Begin {
        key: String,
    },
    Part {
        key: String,
        token: String,
        number: u32,
        len: u64,
    },
    Complete {
        key: String,
        token: String,
        parts: u32,
    },
    Abort {
        key: String,
        token: String,
    },
    /// Of a mover that keeps points in its own form.
    Volume(VolumeCall),
}

/// What a function gave.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Done {
    Nothing,
    Validated(Vec<WrongField>),
    Opened(Capabilities),
    Stored(Stored),
    Object(Object),
    Page(Page),
    Deleted(Vec<Result<(), MoverError>>),
    /// The token of an upload, or of a point that is written.
    Begun(String),
    Volume(VolumeDone),
}

/// Why a function gave nothing.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Fault {
    /// The mover says so.
    Error(MoverError),
    /// It trapped, took too long, or broke a rule; the instance is gone.
    Died(String),
}

/// What an instance needs from the host.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Ask {
    Digest(DigestKind),
    Read { offset: u64, len: u32 },
    SinkLen,
    SinkWrite(Vec<u8>),
    Secret(String),
    Hmac { secret: u32, data: Vec<u8> },
    Derive { secret: u32, data: Vec<u8> },
    Prefixed { secret: u32, prefix: String },
    ForgetSecret(u32),
    Submit(Request),
    Wait(u32),
    GiveUp(u32),
    Log(Level, String),
}

/// A digest of the call's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum DigestKind {
    Sha256,
    Md5,
}

/// What the host answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Nothing,
    Bytes(Vec<u8>),
    Number(u64),
    /// Of a secret or a request.
    Handle(u32),
    Response {
        response: Response,
        /// The bytes in the call's sink, if no request is under way that may add to them.
        filled: Option<u64>,
    },
    Error(MoverError),
    /// The component broke a rule for which there is no error: it traps.
    Trap(String),
}

/// A message as a frame; none if it is longer than `longest`.
pub(super) fn frame<T: Serialize>(message: &T, longest: u32) -> Option<Vec<u8>> {
    let frame =
        postcard::to_extend(message, vec![0; 4]).expect("a vector takes all, and every type here can be written");
    let len = u32::try_from(frame.len() - 4).ok().filter(|len| *len <= longest)?;
    let mut frame = frame;
    frame[..4].copy_from_slice(&len.to_le_bytes());
    Some(frame)
}

/// The message of a frame's bytes.
pub(super) fn message<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "a message has bytes after its end")),
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    }
}

/// The length that a frame says it has.
pub(super) fn length(head: [u8; 4], longest: u32) -> io::Result<usize> {
    let len = u32::from_le_bytes(head);
    if len > longest {
        let why = format!("a message has {len} bytes, {longest} at most make sense");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(len as usize)
}

/// Reads a message; none at the end.
pub(super) fn read<T: DeserializeOwned>(from: &mut impl Read, longest: u32) -> io::Result<Option<T>> {
    let mut head = [0; 4];
    match from.read_exact(&mut head) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let len = length(head, longest)?;
    let mut bytes = Vec::new();
    // Not reserved at once: whoever announces much must send it.
    if from.take(len as u64).read_to_end(&mut bytes)? < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    message(&bytes).map(Some)
}

/// Writes a frame.
pub(super) fn write(to: &mut impl Write, frame: &[u8]) -> io::Result<()> {
    to.write_all(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_cut_off_too_long_or_nonsense_is_not() {
        let said = Up::Ask { instance: 7, ask: Ask::SinkWrite(vec![1, 2, 3]) };
        let whole = frame(&said, LONGEST_UP).unwrap();
        let heard: Up = read(&mut &whole[..], LONGEST_UP).unwrap().unwrap();
        assert!(matches!(heard, Up::Ask { instance: 7, ask: Ask::SinkWrite(bytes) } if bytes == [1, 2, 3]));
        assert!(read::<Up>(&mut &[][..], LONGEST_UP).unwrap().is_none());
        for cut in 4..whole.len() {
            assert!(read::<Up>(&mut &whole[..cut], LONGEST_UP).is_err(), "{cut}");
        }
        assert!(read::<Up>(&mut &u32::MAX.to_le_bytes()[..], LONGEST_UP).is_err());
        assert!(read::<Up>(&mut &[1, 0, 0, 0, 0xff][..], LONGEST_UP).is_err());
        let mut longer = frame(&said, LONGEST_UP).unwrap();
        longer.push(0);
        longer[0] += 1;
        assert!(read::<Up>(&mut &longer[..], LONGEST_UP).is_err());
        assert!(frame(&said, 4).is_none());
        // A list that says it is long and is not.
        assert!(message::<Up>(&[1, 7, 3, 0xff, 0xff, 0xff, 0xff, 0x0f]).is_err());
    }
}
