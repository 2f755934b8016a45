//! The running connection: one task writes requests, receives replies and watches over the time.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::error::NbdError;
use crate::in_flight::{Request, Shared};
use crate::replies::receive_replies;

/// Runs the connection until it ends, for whatever reason.
///
/// It must not keep the socket open longer: replies that nobody reads any more would block the server, and QEMU does not
/// end a backup job while it sends.
pub(crate) async fn run<R, W>(reading: R, writing: W, requests: mpsc::Receiver<Request>, shared: Arc<Shared>)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    tokio::select! {
        biased;
        () = ends(&shared, write_requests(writing, requests, &shared)) => {}
        () = ends(&shared, receive_replies(reading, &shared)) => {}
        () = ends(&shared, shared.overdue()) => {}
    }
}

/// Ends the connection when `why` is known, before anything else of it is dropped: nobody is left without the reason.
async fn ends(shared: &Shared, why: impl Future<Output = NbdError>) {
    shared.end(&why.await);
}

/// Writes requests until the connection ended. Callers leave this to the connection's task, so that one who is cancelled
/// never leaves half a request on the wire.
async fn write_requests(
    mut socket: impl AsyncWrite + Unpin,
    mut requests: mpsc::Receiver<Request>,
    shared: &Shared,
) -> NbdError {
    loop {
        // What was asked before the end, the goodbye above all, is still sent if the server takes it at once.
        let request = tokio::select! {
            biased;
            request = requests.recv() => request,
            () = shared.over.notified() => None,
        };
        let Some(request) = request else { return shared.why_ended() };
        let written = tokio::select! {
            biased;
            written = socket.write_all(&request) => written,
            () = shared.over.notified() => return shared.why_ended(),
        };
        if let Err(error) = written {
            return error.into();
        }
    }
}
