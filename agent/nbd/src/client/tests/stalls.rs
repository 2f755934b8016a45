//! Servers that stop answering, and callers that go away.

use std::time::Duration;

use futures::future::{Either, join_all, select};
use tokio::time::{Instant, sleep, timeout};

use crate::testing::server::{Server, connected, connected_over, wire};
use crate::testing::wire::{More, data};
use crate::{Client, ConnectOptions, NbdError};

const LIMIT: Duration = Duration::from_mins(1);

fn places(max_in_flight: usize) -> ConnectOptions {
    ConnectOptions { max_in_flight, request_timeout: LIMIT, ..ConnectOptions::default() }
}

/// Reads, and stops waiting for it when the server has the request: its handle.
async fn dropped_read(client: &Client, server: &mut Server) -> u64 {
    let read = Box::pin(client.read(4096, 4096));
    match select(read, Box::pin(server.request())).await {
        Either::Left((read, _)) => panic!("it was answered: {read:?}"),
        Either::Right((handle, _read)) => handle,
    }
}

/// Every later call fails within its deadline, and says why.
async fn ends_late(client: &Client) {
    for call in 0..3 {
        let read = timeout(2 * LIMIT, client.read(0, 512)).await.expect("a call returns within its deadline");
        assert!(matches!(read, Err(NbdError::Timeout { .. })), "call {call}: {read:?}");
    }
    let start = Instant::now();
    client.read(0, 512).await.unwrap_err();
    assert_eq!(start.elapsed(), Duration::ZERO, "the connection has ended");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_nobody_waits_for_ends_the_connection_when_it_is_due() {
    let (client, mut server) = connected(places(1)).await;
    dropped_read(&client, &mut server).await;
    ends_late(&client).await;
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_stops_halfway_ends_the_connection_when_it_is_due() {
    let (client, mut server) = connected(places(1)).await;
    let handle = dropped_read(&client, &mut server).await;
    server.send(&data(handle, More::No, 4096, 4096)[..3000]).await;
    ends_late(&client).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_no_requests_ends_the_connection_when_they_are_due() {
    let (client, _server) = connected_over(wire(64), places(8)).await;
    let reads = join_all((0..8).map(|_| client.read(0, 512)));
    timeout(LIMIT / 2, reads).await.expect_err("nothing is answered");
    ends_late(&client).await;
}

/// The wait for a place counts, and a call that gives up leaves the connection in step.
#[tokio::test(start_paused = true)]
async fn a_deadline_covers_the_wait_for_others_in_flight() {
    let (client, mut server) = connected(places(1)).await;
    let serving = tokio::spawn(async move {
        for at in [0, 512, 1024] {
            let handle = server.request().await;
            sleep(LIMIT * 7 / 12).await;
            server.send(&data(handle, More::No, at, 512)).await;
        }
        server
    });
    let start = Instant::now();
    let (first, second) = tokio::join!(client.read(0, 512), client.read(512, 512));
    assert_eq!(first.unwrap().len(), 512);
    assert!(matches!(second, Err(NbdError::Timeout { .. })), "{second:?}");
    assert_eq!(start.elapsed(), LIMIT, "it is the deadline of the call, not of its request");
    assert_eq!(client.read(1024, 512).await.unwrap()[..], [5; 512], "the late reply was drained");
    serving.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_reply_frees_the_place_of_a_request_that_nobody_waits_for() {
    let (client, mut server) = connected(places(1)).await;
    for _ in 0..3 {
        let handle = dropped_read(&client, &mut server).await;
        server.send(&data(handle, More::No, 4096, 4096)).await;
    }
    let serve = async {
        let handle = server.request().await;
        server.send(&data(handle, More::No, 0, 512)).await;
    };
    let (read, ()) = tokio::join!(client.read(0, 512), serve);
    assert_eq!(read.unwrap()[..], [5; 512]);
}

/// Otherwise what is not yet sent would pile up.
#[tokio::test(start_paused = true)]
async fn a_server_that_answers_what_it_has_not_taken_is_found_out() {
    let (client, mut server) = connected_over(wire(16), places(1)).await;
    for handle in 0..3 {
        // The client asks before the server answers: that is the order in which `join` polls them.
        let answer = data(handle, More::No, 0, 512);
        let (read, ()) = tokio::join!(client.read(0, 512), server.send(&answer));
        assert_eq!(read.unwrap().len(), 512);
    }
    let read = client.read(0, 512).await;
    assert!(matches!(read, Err(NbdError::Protocol(_))), "{read:?}");
}

#[tokio::test(start_paused = true)]
async fn disconnecting_does_not_wait_for_the_server() {
    let (client, _server) = connected_over(wire(16), places(4)).await;
    let start = Instant::now();
    let (read, ()) = tokio::join!(client.read(0, 512), client.disconnect());
    assert!(matches!(read, Err(NbdError::Disconnected(_))), "{read:?}");
    assert_eq!(start.elapsed(), Duration::ZERO);
}
