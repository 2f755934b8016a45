//! What the fuzz targets drive: everything that looks at a server's bytes.

use crate::extents::Extents;
use crate::parse::{self, ReplyHead};

/// Runs every parser over the same bytes. Must not panic, whatever they are.
pub fn parsers(bytes: &[u8]) {
    if let Some(greeting) = bytes.first_chunk() {
        drop(parse::greeting(greeting));
    }
    if let Some(reply) = bytes.first_chunk() {
        drop(parse::option_reply(reply));
    }
    drop(parse::info(bytes));
    drop(parse::meta_context(bytes));
    drop(parse::listed_export(bytes));
    if let Some((magic, rest)) = bytes.split_first_chunk() {
        let magic = u32::from_be_bytes(*magic);
        if let Ok(len) = ReplyHead::len(magic)
            && rest.len() >= len
        {
            drop(ReplyHead::parse(magic, &rest[..len]));
        }
    }
    drop(parse::hole(bytes));
    drop(parse::error(1 << 15 | 1, bytes));
    drop(parse::error(1 << 15 | 2, bytes));
    if let Some((len, rest)) = bytes.split_first_chunk() {
        extents(u32::from_be_bytes(*len), rest);
    }
}

fn extents(len: u32, bytes: &[u8]) {
    let mut extents = Extents::new(len);
    if bytes.as_chunks().0.iter().any(|extent| extents.take(*extent).is_err()) {
        return;
    }
    let Ok(told) = extents.finish() else { return };
    assert!(
        told.iter().map(|extent| u64::from(extent.0)).sum::<u64>() <= u64::from(len),
        "more was told than asked for"
    );
    assert!(told.windows(2).all(|two| two[0].1 != two[1].1), "neighbours with equal flags");
}

#[cfg(test)]
mod tests;
