//! The server's bytes as values. Pure: the fuzz targets drive these functions.

use crate::error::NbdError;
use crate::proto::{
    CHUNK_ERROR_OFFSET, EXPORT_HAS_FLAGS, GREETING_MAGIC, INFO_BLOCK_SIZE, INFO_EXPORT, OPTION_MAGIC,
    OPTION_REPLY_MAGIC, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC,
};

/// The most that the payload of an option's reply may be: two names or messages, which have at most 4 KiB each.
const OPTION_PAYLOAD_LIMIT: u32 = 16 * 1024;

/// The most that the payload of a chunk other than data and extents may be: an error with a message of 4 KiB.
pub(crate) const CHUNK_PAYLOAD_LIMIT: u32 = 4096 + 14;

type Parsed<T> = Result<T, NbdError>;

const fn lie<T>(what: &'static str) -> Parsed<T> {
    Err(NbdError::Protocol(what))
}

/// Takes big-endian fields from the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        match self.0.split_first_chunk::<N>() {
            Some((array, rest)) => {
                self.0 = rest;
                Ok(*array)
            }
            None => lie("a field is cut off"),
        }
    }

    fn u16(&mut self) -> Parsed<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Parsed<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Parsed<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn bytes(&mut self, len: usize) -> Parsed<&'a [u8]> {
        match self.0.split_at_checked(len) {
            Some((bytes, rest)) => {
                self.0 = rest;
                Ok(bytes)
            }
            None => lie("a field is cut off"),
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) const GREETING_LEN: usize = 18;

/// The server's first bytes: its handshake flags.
pub(crate) fn greeting(bytes: &[u8; GREETING_LEN]) -> Parsed<u16> {
    let mut fields = Fields(bytes);
    if fields.u64()? != GREETING_MAGIC || fields.u64()? != OPTION_MAGIC {
        return lie("it does not greet as a newstyle server does");
    }
    fields.u16()
}

pub(crate) const OPTION_REPLY_LEN: usize = 20;

/// A reply to an option, without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OptionReply {
    pub(crate) option: u32,
    pub(crate) kind: u32,
    pub(crate) len: u32,
}

pub(crate) fn option_reply(bytes: &[u8; OPTION_REPLY_LEN]) -> Parsed<OptionReply> {
    let mut fields = Fields(bytes);
    if fields.u64()? != OPTION_REPLY_MAGIC {
        return lie("an option's reply has another magic number");
    }
    let reply = OptionReply { option: fields.u32()?, kind: fields.u32()?, len: fields.u32()? };
    if reply.len > OPTION_PAYLOAD_LIMIT {
        return lie("an option's reply is over 16 KiB");
    }
    Ok(reply)
}

/// Which requests the server takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockSizes {
    /// Offsets and lengths are multiples of this.
    pub(crate) min: u32,
    pub(crate) preferred: u32,
    pub(crate) max: u32,
}

impl BlockSizes {
    /// What the protocol's "Block size constraints" demand, for an export of `size` bytes. Besides being the rule it
    /// bounds how many requests a read is split into.
    pub(crate) fn hold_for(self, size: u64) -> bool {
        let Self { min, preferred, max } = self;
        min.is_power_of_two()
            && min <= 64 * 1024
            && preferred.is_power_of_two()
            && preferred >= min.max(512)
            && max >= min
            && u64::from(max) >= size.min(preferred.into())
    }
}

/// What a reply to `NBD_OPT_GO` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Info {
    Export { size: u64 },
    BlockSizes(BlockSizes),
    Other,
}

pub(crate) fn info(payload: &[u8]) -> Parsed<Info> {
    let mut fields = Fields(payload);
    match fields.u16()? {
        // What else the flags promise is for writers.
        INFO_EXPORT => match (fields.u64()?, fields.u16()?) {
            (size, _) if i64::try_from(size).is_err() => lie("the export is larger than any disk"),
            (_, flags) if flags & EXPORT_HAS_FLAGS == 0 => lie("the export's flags say that it has none"),
            (size, _) => Ok(Info::Export { size }),
        },
        INFO_BLOCK_SIZE => {
            let (min, preferred, max) = (fields.u32()?, fields.u32()?, fields.u32()?);
            Ok(Info::BlockSizes(BlockSizes { min, preferred, max }))
        }
        _ => Ok(Info::Other),
    }
}

/// A granted metadata context: its id and name.
pub(crate) fn meta_context(payload: &[u8]) -> Parsed<(u32, String)> {
    let mut fields = Fields(payload);
    Ok((fields.u32()?, text(fields.0)))
}

/// The name of an export in a listing.
pub(crate) fn listed_export(payload: &[u8]) -> Parsed<String> {
    let mut fields = Fields(payload);
    let len = fields.u32()? as usize;
    fields.bytes(len).map(text)
}

/// The head of a reply, after its magic number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplyHead {
    Simple { error: u32 },
    Chunk { flags: u16, kind: u16, len: u32 },
}

impl ReplyHead {
    /// How many bytes follow a magic number.
    pub(crate) const fn len(magic: u32) -> Parsed<usize> {
        match magic {
            SIMPLE_REPLY_MAGIC => Ok(12),
            STRUCTURED_REPLY_MAGIC => Ok(16),
            _ => lie("a reply has another magic number"),
        }
    }

    /// The request that is answered, and the head.
    pub(crate) fn parse(magic: u32, bytes: &[u8]) -> Parsed<(u64, Self)> {
        let mut fields = Fields(bytes);
        if magic == SIMPLE_REPLY_MAGIC {
            let head = Self::Simple { error: fields.u32()? };
            return Ok((fields.u64()?, head));
        }
        let (flags, kind, handle) = (fields.u16()?, fields.u16()?, fields.u64()?);
        Ok((handle, Self::Chunk { flags, kind, len: fields.u32()? }))
    }
}

/// Where a hole is: offset and length.
pub(crate) fn hole(payload: &[u8]) -> Parsed<(u64, u32)> {
    let mut fields = Fields(payload);
    let hole = (fields.u64()?, fields.u32()?);
    if fields.0.is_empty() { Ok(hole) } else { lie("a hole has too many fields") }
}

/// An error: number, message, and where it struck if told.
pub(crate) fn error(kind: u16, payload: &[u8]) -> Parsed<(u32, String, Option<u64>)> {
    let mut fields = Fields(payload);
    let code = fields.u32()?;
    let len = usize::from(fields.u16()?);
    let message = text(fields.bytes(len)?);
    let offset = if kind == CHUNK_ERROR_OFFSET { Some(fields.u64()?) } else { None };
    if code == 0 { lie("an error has the number of success") } else { Ok((code, message, offset)) }
}
