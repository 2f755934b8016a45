//! What a server sends, as bytes.

use crate::proto::{
    CHUNK_BLOCK_STATUS, CHUNK_DONE, CHUNK_OFFSET_DATA, CHUNK_OFFSET_HOLE, GREETING_MAGIC, INFO_BLOCK_SIZE, INFO_EXPORT,
    OPTION_MAGIC, OPTION_REPLY_MAGIC, REP_ACK, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC,
};

/// Whether more chunks follow for the same request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum More {
    Yes,
    No,
}

pub(crate) fn greeting(flags: u16) -> Vec<u8> {
    [&GREETING_MAGIC.to_be_bytes()[..], &OPTION_MAGIC.to_be_bytes(), &flags.to_be_bytes()].concat()
}

pub(crate) fn option_reply(option: u32, kind: u32, payload: &[u8]) -> Vec<u8> {
    let len = payload.len() as u32;
    let head = [option, kind, len].map(u32::to_be_bytes).concat();
    [&OPTION_REPLY_MAGIC.to_be_bytes()[..], &head, payload].concat()
}

pub(crate) fn ack(option: u32) -> Vec<u8> {
    option_reply(option, REP_ACK, &[])
}

/// Tells the size of the export.
pub(crate) fn info_export(size: u64) -> Vec<u8> {
    [&INFO_EXPORT.to_be_bytes()[..], &size.to_be_bytes(), &[1, 0x83]].concat()
}

/// Tells the least, preferred and largest sizes of requests.
pub(crate) fn info_blocks(sizes: [u32; 3]) -> Vec<u8> {
    [&INFO_BLOCK_SIZE.to_be_bytes()[..], &sizes.map(u32::to_be_bytes).concat()].concat()
}

pub(crate) fn context(id: u32, name: &str) -> Vec<u8> {
    [&id.to_be_bytes()[..], name.as_bytes()].concat()
}

pub(crate) fn simple(handle: u64, error: u32, data: &[u8]) -> Vec<u8> {
    [&SIMPLE_REPLY_MAGIC.to_be_bytes()[..], &error.to_be_bytes(), &handle.to_be_bytes(), data].concat()
}

pub(crate) fn chunk(handle: u64, more: More, kind: u16, payload: &[u8]) -> Vec<u8> {
    let flags = if more == More::No { CHUNK_DONE } else { 0 };
    let head = [&flags.to_be_bytes()[..], &kind.to_be_bytes(), &handle.to_be_bytes()].concat();
    [&STRUCTURED_REPLY_MAGIC.to_be_bytes()[..], &head, &(payload.len() as u32).to_be_bytes(), payload].concat()
}

/// Data of fives.
pub(crate) fn data(handle: u64, more: More, offset: u64, len: usize) -> Vec<u8> {
    chunk(handle, more, CHUNK_OFFSET_DATA, &[&offset.to_be_bytes()[..], &vec![5; len]].concat())
}

pub(crate) fn hole(handle: u64, more: More, offset: u64, len: u32) -> Vec<u8> {
    chunk(handle, more, CHUNK_OFFSET_HOLE, &[&offset.to_be_bytes()[..], &len.to_be_bytes()].concat())
}

/// Extents of a context: lengths and flags.
pub(crate) fn status(handle: u64, more: More, context: u32, extents: &[(u32, u32)]) -> Vec<u8> {
    let pairs = extents.iter().flat_map(|(len, flags)| [len.to_be_bytes(), flags.to_be_bytes()].concat());
    chunk(handle, more, CHUNK_BLOCK_STATUS, &context.to_be_bytes().into_iter().chain(pairs).collect::<Vec<_>>())
}
