//! Servers that break the protocol: an error, never wrong data.

use std::time::Duration;

use tokio::time::timeout;

use crate::extents::EXTENTS_LIMIT;
use crate::proto::CHUNK_OFFSET_DATA;
use crate::testing::server::{CONTEXT_ID, SIZE, connected, open, wire};
use crate::testing::wire::More::{No, Yes};
use crate::testing::wire::{
    ack, chunk, context, data, greeting, hole, info_blocks, info_export, option_reply, simple, status,
};
use crate::{Client, ConnectOptions, NbdError};

/// A client of a server that answers the first request with what `lie` makes of its handle, and then stays.
async fn client_of(lie: impl FnOnce(u64) -> Vec<u8> + Send + 'static) -> Client {
    let (client, mut server) = connected(ConnectOptions::default()).await;
    tokio::spawn(async move {
        let handle = server.request().await;
        server.send(&lie(handle)).await;
        server.gone().await;
    });
    client
}

type Lie = (&'static str, fn(u64) -> Vec<u8>);

#[tokio::test(start_paused = true)]
async fn no_lie_about_a_read_gives_data() {
    let lies: &[Lie] = &[
        ("another handle", |h| data(h + 1, No, 0, 4096)),
        ("data before the range", |h| data(h, No, 4095, 4096)),
        ("data beyond the range", |h| data(h, No, 8192 - 10, 4096)),
        ("only a part", |h| data(h, No, 4096, 4095)),
        ("nothing", |h| chunk(h, No, 0, &[])),
        ("a part twice", |h| [data(h, Yes, 4096, 2048), data(h, Yes, 4096, 2048), data(h, No, 6144, 2048)].concat()),
        ("a part over another", |h| [data(h, Yes, 6144, 2048), data(h, No, 4096, 2049)].concat()),
        ("too much data", |h| data(h, No, 4096, 4097)),
        ("no data in a chunk of data", |h| data(h, No, 4096, 0)),
        ("a chunk of data without an offset", |h| chunk(h, No, 1, &[1, 2, 3])),
        ("an endless hole", |h| hole(h, No, 4096, u32::MAX)),
        ("a hole that wraps", |h| hole(h, No, u64::MAX, 4096)),
        ("a status", |h| status(h, No, CONTEXT_ID, &[(4096, 0)])),
        ("an unknown kind", |h| chunk(h, No, 77, &[])),
        ("an error without a number", |h| chunk(h, No, 0x8001, &[0; 6])),
        ("an error cut off", |h| chunk(h, No, 0x8001, &[0, 0, 0, 5, 0, 9, b'x'])),
        ("a simple reply", |h| simple(h, 0, &[5; 4096])),
        ("a payload of 4 GiB", |h| [&chunk(h, No, 5, &[])[..16], &[0xff; 4]].concat()),
        ("endless chunks of a byte, from the end", |h| {
            (0..4096).rev().flat_map(|n| data(h, Yes, 4096 + n, 1)).collect()
        }),
        ("endless chunks of nothing", |h| chunk(h, Yes, 0, &[]).repeat(1000)),
        ("an endless message", |h| {
            chunk(h, No, 0x8001, &[&[0, 0, 0, 5, 0x7f, 0xff][..], &vec![b'x'; 0x7fff]].concat())
        }),
        ("another magic number", |h| [vec![1, 2, 3, 4], data(h, No, 4096, 4096)].concat()),
    ];
    for (name, lie) in lies {
        let read = client_of(*lie).await.read(4096, 4096).await.map(|bytes| bytes.len());
        assert!(matches!(read, Err(NbdError::Protocol(_))), "{name}: {read:?}");
    }
    let silent = client_of(|h| data(h, No, 4096, 4096)[..3000].to_vec()).await;
    assert!(matches!(silent.read(4096, 4096).await, Err(NbdError::Timeout { .. })));
    let client = client_of(|h| [data(h, Yes, 6144, 2048), data(h, No, 4096, 2048)].concat()).await;
    assert_eq!(client.read(4096, 4096).await.unwrap()[..], [5; 4096], "the truth, out of order");
}

/// Whoever hangs up in the middle of the last chunk has sent its head, which says that the answer is whole.
#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_off_gives_no_data_in_whatever_order_it_came() {
    for [first, last] in [[4096, 6144], [6144, 4096]] {
        for missing in [1, 1000, 2048] {
            let (client, mut server) = connected(ConnectOptions::default()).await;
            let answer = async move {
                let handle = server.request().await;
                let whole = [data(handle, Yes, first, 2048), data(handle, No, last, 2048)].concat();
                server.send(&whole[..whole.len() - missing]).await;
            };
            let (read, ()) = tokio::join!(client.read(4096, 4096), answer);
            let read = read.map(|bytes| bytes.len());
            assert!(matches!(read, Err(NbdError::Disconnected(_))), "{first} first, without {missing}: {read:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_truth_in_sectors_is_believed_in_any_order() {
    let client = client_of(|h| {
        let sectors = (0..256).rev().flat_map(|n| data(h, Yes, n * 512, 512));
        sectors.chain(chunk(h, No, 0, &[])).collect()
    })
    .await;
    assert!(client.read(0, 256 * 512).await.unwrap().iter().all(|byte| *byte == 5));
}

#[tokio::test(start_paused = true)]
async fn no_lie_about_a_status_is_believed() {
    let lies: &[Lie] = &[
        ("another context", |h| status(h, No, CONTEXT_ID + 1, &[(4096, 0)])),
        ("no extent", |h| status(h, No, CONTEXT_ID, &[])),
        ("an empty extent", |h| status(h, No, CONTEXT_ID, &[(0, 0), (4096, 0)])),
        ("extents beyond the range", |h| status(h, No, CONTEXT_ID, &[(4096, 0), (1, 0)])),
        ("half an extent", |h| chunk(h, No, 5, &[0, 0, 0, 7, 0, 0])),
        ("a context twice", |h| [status(h, Yes, CONTEXT_ID, &[(1, 0)]), status(h, No, CONTEXT_ID, &[(1, 0)])].concat()),
        ("data", |h| data(h, No, 4096, 4096)),
        ("nothing", |h| chunk(h, No, 0, &[])),
        ("endless chunks of nothing", |h| chunk(h, Yes, 0, &[]).repeat(1000)),
        ("more extents than anybody sends", |h| {
            [&chunk(h, No, 5, &[])[..16], &((8_u32 << 20) + 12).to_be_bytes(), &CONTEXT_ID.to_be_bytes()].concat()
        }),
    ];
    for (name, lie) in lies {
        let told = client_of(*lie).await.block_status(4096, 4096).await;
        assert!(matches!(told, Err(NbdError::Protocol(_))), "{name}: {told:?}");
    }
    let client = client_of(|h| status(h, No, CONTEXT_ID, &[(1000, 1), (u32::MAX, 2)])).await;
    let told = client.block_status(4096, 4096).await.unwrap();
    let told: Vec<_> = told[0].extents.iter().map(|e| (e.length, e.flags)).collect();
    assert_eq!(told, [(1000, 1), (3096, 2)], "the last extent may reach further and is cut");
}

const QUARTER: u64 = SIZE / 4;

#[tokio::test(start_paused = true)]
async fn the_parts_of_a_large_read_are_answered_in_any_order() {
    let (client, mut server) = connected(ConnectOptions::default()).await;
    let serve = async {
        let mut handles = Vec::new();
        for _ in 0..4 {
            handles.push(server.request().await);
        }
        for (n, handle) in handles.into_iter().enumerate().rev() {
            let part = [&(n as u64 * QUARTER).to_be_bytes()[..], &vec![n as u8; QUARTER as usize]].concat();
            server.send(&chunk(handle, No, CHUNK_OFFSET_DATA, &part)).await;
        }
    };
    let (read, ()) = tokio::join!(client.read(0, SIZE as u32), serve);
    let read = read.unwrap();
    assert_eq!(read.len() as u64, SIZE);
    assert!((0..SIZE).all(|at| u64::from(read[at as usize]) == at / QUARTER));
}

/// What many replies cost is bounded by what is kept of each.
#[tokio::test(start_paused = true)]
async fn a_map_in_endless_pieces_is_told_in_part() {
    let client = client_of(|h| status(h, No, CONTEXT_ID, &[(1, 0), (1, 1)].repeat(SIZE as usize / 2))).await;
    let told = client.block_status(0, SIZE as u32).await.unwrap();
    let extents = &told[0].extents;
    assert_eq!(extents.len(), EXTENTS_LIMIT);
    assert!(extents.iter().enumerate().all(|(n, e)| (e.length, e.flags) == (1, n as u32 % 2)));
}

#[tokio::test(start_paused = true)]
async fn block_sizes_that_make_no_sense_do_not_connect() {
    let sizes = [
        ([0, 4096, 1 << 20], false),
        ([3, 4096, 1 << 20], false),
        ([1, 4097, 1 << 20], false),
        ([1, 256, 1 << 20], false),
        ([1, 512, 1], false),
        ([1, 4096, 512], false),
        ([8192, 4096, 1 << 20], false),
        ([4096, 4096, 2048], false),
        ([1 << 17, 1 << 17, 1 << 20], false),
        ([1, 1, 1], false),
        ([1, 4096, 1 << 20], true),
        ([1, 512, 512], true),
        ([65536, 65536, u32::MAX], true),
    ];
    for (sizes, honest) in sizes {
        let (ours, mut server) = wire(64 * 1024);
        let info = [info_blocks(sizes), info_export(SIZE)];
        let (opened, ()) = tokio::join!(open(ours, ConnectOptions::default()), server.shake_hands(&info));
        match opened {
            Ok(_) => assert!(honest, "{sizes:?}"),
            Err(NbdError::Protocol(_)) => assert!(!honest, "{sizes:?}"),
            Err(other) => panic!("{sizes:?}: {other}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_lie_in_the_handshake_connects() {
    let after_greeting = |replies: &[Vec<u8>]| [greeting(3), replies.concat()].concat();
    let lies: Vec<(&str, Vec<u8>)> = vec![
        ("oldstyle", [b"NBDMAGIC".as_slice(), &[0; 200]].concat()),
        ("no fixed newstyle", greeting(0)),
        ("an answer to another option", after_greeting(&[ack(3)])),
        ("an endless payload", after_greeting(&[ack(8)[..16].to_vec(), vec![0xff; 4]])),
        ("endless answers", after_greeting(&[option_reply(8, 9, &[]).repeat(2000)])),
        ("another magic number", after_greeting(&[vec![7; 40]])),
        ("no size", after_greeting(&[ack(8), ack(7)])),
        ("a size without flags", after_greeting(&[ack(8), option_reply(7, 3, &info_export(SIZE)[..10]), ack(7)])),
        ("flags that say there are none", after_greeting(&[ack(8), option_reply(7, 3, &with_flags(0xfffe)), ack(7)])),
        ("a size beyond any disk", after_greeting(&[ack(8), option_reply(7, 3, &info_export(1 << 63)), ack(7)])),
    ];
    for (name, bytes) in lies {
        let opened = opened(bytes, ConnectOptions::default()).await;
        assert!(matches!(opened, Err(NbdError::Protocol(_))), "{name}: {opened:?}");
    }
    let silent = opened(Vec::new(), ConnectOptions::default()).await;
    assert!(matches!(silent, Err(NbdError::Timeout { .. })), "{silent:?}");
    let contexts = vec!["base:allocation".to_owned()];
    let other = after_greeting(&[ack(8), option_reply(10, 4, &context(1, "base:other"))]);
    let granted = opened(other, ConnectOptions { contexts, ..ConnectOptions::default() }).await;
    assert!(matches!(granted, Err(NbdError::Protocol(_))), "{granted:?}");
}

/// The size of an export, with other transmission flags.
fn with_flags(flags: u16) -> Vec<u8> {
    [&info_export(SIZE)[..10], &flags.to_be_bytes()].concat()
}

/// Read-only or not, with a cache to flush or none: that is for writers.
#[tokio::test(start_paused = true)]
async fn what_the_flags_promise_changes_no_request() {
    for flags in [1, 3, 0xffff] {
        let (ours, mut server) = wire(64 * 1024);
        let info = [with_flags(flags)];
        let (client, ()) = tokio::join!(open(ours, ConnectOptions::default()), server.shake_hands(&info));
        let client = client.unwrap();
        let answer = async {
            let handle = server.request().await;
            server.send(&data(handle, No, 4096, 4096)).await;
        };
        let (read, ()) = tokio::join!(client.read(4096, 4096), answer);
        assert_eq!(read.unwrap()[..], [5; 4096], "{flags:#x}");
    }
}

/// What becomes of a handshake in which the server sends `bytes` and then nothing.
async fn opened(bytes: Vec<u8>, options: ConnectOptions) -> Result<Client, NbdError> {
    let (stream, mut server) = wire(bytes.len().max(64 * 1024));
    server.send(&bytes).await;
    let opened = timeout(Duration::from_hours(1), open(stream, options)).await;
    drop(server);
    opened.expect("in bounded time")
}
