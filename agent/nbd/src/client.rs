//! The client: connecting, and requests from any number of tasks.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::connection;
use crate::error::NbdError;
use crate::handshake::{Negotiated, negotiate};
use crate::in_flight::{Answer, Registered, Request, Shared, request};
use crate::proto::CMD_DISC;

/// The most that one request reads. Eight of them in flight cost QEMU less than half the processor time of 32 requests of
/// 1 MiB, whose buffers it maps anew for each (measured with `examples/read_speed.rs`).
const REQUEST_SIZE: u32 = 256 * 1024;

/// How to connect.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// The export's name.
    pub export: String,
    /// The metadata contexts to ask for, such as `base:allocation` and `qemu:dirty-bitmap:NAME`. Which were granted,
    /// [`Client::contexts`] tells.
    pub contexts: Vec<String>,
    /// How long the handshake, or one call, may take; a call's time includes its wait for others in flight. A request
    /// that is not answered for so long ends the connection, whether anybody still waits for it or not.
    pub request_timeout: Duration,
    /// How many requests may be on their way at once; more wait. At least one.
    pub max_in_flight: usize,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self { export: String::new(), contexts: Vec::new(), request_timeout: Duration::from_mins(1), max_in_flight: 8 }
    }
}

/// What the server told of a range in one context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextExtents {
    /// The context's name.
    pub context: String,
    /// From the range's start, without gaps; possibly not to its end.
    pub extents: Vec<StatusExtent>,
}

/// A stretch with one status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusExtent {
    /// Bytes, at least one.
    pub length: u64,
    /// What the context says of them, in its own bits.
    pub flags: u32,
}

/// A connection to one export. Cheap to clone; it ends with its last clone. Futures may be dropped at any time.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
    task: JoinHandle<()>,
    negotiated: Negotiated,
    names: Vec<String>,
    limit: Duration,
    peer_pid: Option<u32>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Client").field(&self.0.negotiated).finish()
    }
}

impl Client {
    /// Connects to a unix socket and opens an export.
    pub async fn connect_unix(path: &Path, options: ConnectOptions) -> Result<Self, NbdError> {
        let failed = |source| NbdError::Connect { path: path.into(), source: Arc::new(source) };
        Self::connect_stream(UnixStream::connect(path).await.map_err(failed)?, options).await
    }

    /// Opens an export over a connected socket.
    pub async fn connect_stream(stream: UnixStream, options: ConnectOptions) -> Result<Self, NbdError> {
        let peer_pid = stream.peer_cred()?.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0);
        let (reading, writing) = stream.into_split();
        Self::open(reading, writing, peer_pid, options).await
    }

    /// Opens an export over the two directions of anything that carries bytes.
    pub(crate) async fn open<R, W>(
        reading: R,
        writing: W,
        peer_pid: Option<u32>,
        options: ConnectOptions,
    ) -> Result<Self, NbdError>
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let limit = options.request_timeout;
        let mut wire = tokio::io::join(reading, writing);
        let negotiated = timeout(limit, negotiate(&mut wire, &options.export, &options.contexts))
            .await
            .map_err(|_| NbdError::Timeout { what: "the handshake", limit })??;
        let ids = negotiated.contexts.iter().map(|context| context.0).collect();
        let shared = Arc::new(Shared::new(options.max_in_flight, ids, negotiated.structured, limit));
        // One for each place, and one for the goodbye.
        let (requests, to_write) = mpsc::channel(options.max_in_flight.max(1) + 1);
        let (reading, writing) = wire.into_inner();
        let task = tokio::spawn(connection::run(reading, writing, to_write, Arc::clone(&shared)));
        let names = negotiated.contexts.iter().map(|context| context.1.clone()).collect();
        Ok(Self(Arc::new(Inner { shared, requests, task, negotiated, names, limit, peer_pid })))
    }

    /// The export's size in bytes.
    pub fn size(&self) -> u64 {
        self.0.negotiated.size
    }

    /// The contexts that were granted, of those asked for.
    pub fn contexts(&self) -> &[String] {
        &self.0.names
    }

    /// The process at the other end of the socket, if it is in a namespace that we see.
    pub fn peer_pid(&self) -> Option<u32> {
        self.0.peer_pid
    }

    /// Reads exactly `len` bytes, by as many requests as serve the server best.
    pub async fn read(&self, offset: u64, len: u32) -> Result<Bytes, NbdError> {
        self.in_time("a read", self.read_split(offset, len)).await
    }

    async fn read_split(&self, offset: u64, len: u32) -> Result<Bytes, NbdError> {
        let (start, end) = self.aligned(offset, len)?;
        let mut room = BytesMut::with_capacity((end - start) as usize);
        let (mut at, mut answers) = (start, Vec::new());
        while at < end {
            let step = (end - at).min(u64::from(self.request_size())) as u32;
            let rest = room.split_off(step as usize);
            let part = std::mem::replace(&mut room, rest);
            answers.push(self.ask(|place| self.0.shared.read(at, step, part, place)).await?);
            at += u64::from(step);
        }
        let mut whole = BytesMut::new();
        for answer in answers {
            // They are neighbours in memory: nothing is copied.
            whole.unsplit(self.answered(answer).await?);
        }
        let skip = (offset - start) as usize;
        Ok(whole.freeze().slice(skip..skip + len as usize))
    }

    /// What the granted contexts say of the `len` bytes at `offset`, one entry for each. It may be of less, but of at
    /// least one byte: servers tell of a range in parts, and what one reply holds is bounded.
    pub async fn block_status(&self, offset: u64, len: u32) -> Result<Vec<ContextExtents>, NbdError> {
        let (start, end) = self.aligned(offset, len)?;
        let asked = u32::try_from(end - start).unwrap_or(u32::MAX - (self.0.negotiated.min_block - 1));
        let exchange =
            async { self.answered(self.ask(|place| self.0.shared.status(start, asked, place)).await?).await };
        let status = self.in_time("a block status", exchange).await?;
        let of_context = |(id, name): &(u32, String)| {
            let told = status.iter().find(|told| told.0 == *id);
            let extents = told.map(|told| cut(&told.1, offset - start, u64::from(len))).unwrap_or_default();
            if extents.is_empty() {
                return Err(NbdError::Protocol("it tells nothing of a granted context"));
            }
            Ok(ContextExtents { context: name.clone(), extents })
        };
        self.0.negotiated.contexts.iter().map(of_context).collect()
    }

    /// Tells the server that nothing more comes, and ends the connection. What is on its way fails.
    pub async fn disconnect(&self) {
        // A server that takes no more requests learns it from the closed socket.
        let _ = self.0.requests.try_send(request(CMD_DISC, u64::MAX, 0, 0));
        self.0.shared.end(&NbdError::Disconnected(None));
        self.0.requests.closed().await;
    }

    fn request_size(&self) -> u32 {
        let block = self.0.negotiated.min_block;
        self.0.negotiated.max_request.min(REQUEST_SIZE) / block * block
    }

    /// The range rounded outward to what the server takes; the export's end counts as aligned.
    fn aligned(&self, offset: u64, len: u32) -> Result<(u64, u64), NbdError> {
        let size = self.size();
        let end = offset.checked_add(u64::from(len)).filter(|end| *end <= size && len > 0);
        let end = end.ok_or(NbdError::OutOfRange { offset, len, size })?;
        let block = u64::from(self.0.negotiated.min_block);
        Ok((offset / block * block, end.next_multiple_of(block).min(size)))
    }

    /// A call within its time. When that is over its requests stay in flight as those of a cancelled caller do.
    async fn in_time<T>(
        &self,
        what: &'static str,
        call: impl Future<Output = Result<T, NbdError>>,
    ) -> Result<T, NbdError> {
        let late = |_| Err(NbdError::Timeout { what, limit: self.0.limit });
        timeout(self.0.limit, call).await.unwrap_or_else(late)
    }

    /// Sends what `register` notes, as soon as there is a place for it.
    async fn ask<T>(
        &self,
        register: impl FnOnce(OwnedSemaphorePermit) -> Result<Registered<T>, NbdError>,
    ) -> Result<Answer<T>, NbdError> {
        let shared = &self.0.shared;
        let place = Arc::clone(&shared.places).acquire_owned().await.map_err(|_| shared.why_ended())?;
        let (request, answer) = register(place)?;
        // At once, so that no caller is cancelled between noting and sending.
        match self.0.requests.try_send(request) {
            Ok(()) => {}
            Err(TrySendError::Closed(_)) => return Err(shared.why_ended()),
            Err(TrySendError::Full(_)) => shared.end(&NbdError::Protocol("it answers requests that it has not taken")),
        }
        Ok(answer)
    }

    async fn answered<T>(&self, answer: Answer<T>) -> Result<T, NbdError> {
        answer.await.map_err(|_| self.0.shared.why_ended())?
    }
}

/// Extents without their first `skip` bytes, and at most `len` bytes of them.
fn cut(extents: &[(u32, u32)], mut skip: u64, mut len: u64) -> Vec<StatusExtent> {
    let mut out = Vec::with_capacity(extents.len());
    for (length, flags) in extents {
        let length = u64::from(*length);
        let skipped = skip.min(length);
        skip -= skipped;
        let length = (length - skipped).min(len);
        len -= length;
        if length > 0 {
            out.push(StatusExtent { length, flags: *flags });
        }
    }
    out
}

#[cfg(test)]
mod tests;
