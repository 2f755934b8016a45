//! What the fuzz targets drive: everything that looks at a server's bytes.

use std::time::Duration;

use tokio::io::{AsyncWriteExt, duplex, split};

use crate::client::{Client, ConnectOptions};
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

/// Room for all that the client sends in a conversation.
const SENT: usize = 64 * 1024;

/// Runs a whole conversation with a server that sends `bytes`, whatever it is asked, and then closes: the handshake, and
/// replies to the requests that `converse` makes, in any order. How many calls were answered.
///
/// # Panics
/// If more or less is given than was asked for.
pub fn conversation(bytes: &[u8]) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime without I/O needs nothing of the system").block_on(converse(bytes))
}

/// The requests: handles 0 and 1 for a read each, 2 and 3 for the parts of another, 4 for a status.
async fn converse(bytes: &[u8]) -> usize {
    let (ours, mut theirs) = duplex(bytes.len() + SENT);
    // Neither fails: there is room, and the other end is open.
    let _ = theirs.write_all(bytes).await;
    let _ = theirs.shutdown().await;
    let contexts = vec!["base:allocation".into()];
    let options = ConnectOptions { contexts, request_timeout: Duration::from_secs(10), ..ConnectOptions::default() };
    let (reading, writing) = split(ours);
    let Ok(client) = Client::open(reading, writing, None, options).await else { return 0 };
    // All are asked before the connection's task reads on: this runtime has one thread.
    let (first, second, parts, status) = tokio::join!(
        client.read(0, 1024),
        client.read(4096, 512),
        client.read(8192, 262_656),
        client.block_status(0, 65536),
    );
    let lens = [(first, 1024), (second, 512), (parts, 262_656)];
    let read = lens.iter().filter_map(|(read, len)| Some((read.as_ref().ok()?.len(), *len)));
    let told = status.ok();
    for context in told.iter().flatten() {
        let sum: u64 = context.extents.iter().map(|extent| extent.length).sum();
        assert!((1..=65536).contains(&sum), "{sum} bytes were told of 64 KiB");
    }
    read.inspect(|(given, asked)| assert_eq!(given, asked, "a read of another length")).count() + told.iter().count()
}

#[cfg(test)]
mod tests;
