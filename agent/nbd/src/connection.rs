//! The running connection: one task writes requests, one reads replies and hands them to whoever waits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::assembly::{Assembly, Place};
use crate::error::NbdError;
use crate::parse::{self, CHUNK_PAYLOAD_LIMIT, ReplyHead};
use crate::proto::{
    CHUNK_BLOCK_STATUS, CHUNK_DONE, CHUNK_ERROR_BIT, CHUNK_NONE, CHUNK_OFFSET_DATA, CHUNK_OFFSET_HOLE,
    CMD_BLOCK_STATUS, CMD_READ, REQUEST_MAGIC,
};

/// Replies' heads are read through a buffer; data goes past it.
const READ_BUFFER: usize = 4096;

/// A request's bytes on the wire.
pub(crate) type Request = [u8; 28];

/// A request that is noted but not sent, and its answer to come.
pub(crate) type Registered<T> = (Request, oneshot::Receiver<Result<T, NbdError>>);

/// A granted context's id, and the (length, flags) pairs told of it.
pub(crate) type Status = Vec<(u32, Vec<(u64, u32)>)>;

/// What a request waits for, with what came so far.
enum Wanted {
    Read(Assembly, oneshot::Sender<Result<Bytes, NbdError>>),
    Status(Status, oneshot::Sender<Result<Status, NbdError>>),
}

/// A request in flight.
struct Pending {
    offset: u64,
    len: u32,
    wanted: Wanted,
    /// The first error that the server told of it.
    failed: Option<NbdError>,
    /// Its place among the requests in flight; kept by one that nobody waits for any more until its reply is drained.
    _place: OwnedSemaphorePermit,
}

impl Pending {
    fn finish(self) {
        // Nobody may listen any more: the caller was cancelled.
        match (self.wanted, self.failed) {
            (Wanted::Read(_, reply), Some(error)) => drop(reply.send(Err(error))),
            (Wanted::Status(_, reply), Some(error)) => drop(reply.send(Err(error))),
            (Wanted::Read(assembly, reply), None) => drop(reply.send(assembly.finish())),
            (Wanted::Status(status, reply), None) => drop(reply.send(Ok(status))),
        }
    }
}

/// What the tasks and the callers share.
pub(crate) struct Shared {
    state: Mutex<State>,
    pub(crate) places: Arc<Semaphore>,
    /// The ids of the granted contexts.
    contexts: Vec<u32>,
    structured: bool,
    /// Tells the writer that the connection ended.
    over: Notify,
}

#[derive(Default)]
struct State {
    pending: HashMap<u64, Pending>,
    next_handle: u64,
    /// Why the connection ended.
    ended: Option<NbdError>,
}

impl Shared {
    pub(crate) fn new(max_in_flight: usize, contexts: Vec<u32>, structured: bool) -> Self {
        let places = Arc::new(Semaphore::new(max_in_flight.max(1)));
        Self { state: Mutex::default(), places, contexts, structured, over: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection for everybody; the first reason is the one that counts.
    pub(crate) fn end(&self, why: &NbdError) {
        let mut state = self.lock();
        let why = state.ended.get_or_insert_with(|| why.clone()).clone();
        for (_, mut pending) in state.pending.drain() {
            pending.failed = Some(why.clone());
            pending.finish();
        }
        self.over.notify_one();
    }

    /// Why the connection ended, once it has.
    pub(crate) fn why_ended(&self) -> NbdError {
        self.lock().ended.clone().unwrap_or(NbdError::Disconnected(None))
    }

    pub(crate) fn read(
        &self,
        offset: u64,
        len: u32,
        place: OwnedSemaphorePermit,
    ) -> Result<Registered<Bytes>, NbdError> {
        let (reply, answer) = oneshot::channel();
        let wanted = Wanted::Read(Assembly::new(offset, len), reply);
        let pending = Pending { offset, len, wanted, failed: None, _place: place };
        Ok((self.register(CMD_READ, pending)?, answer))
    }

    pub(crate) fn status(
        &self,
        offset: u64,
        len: u32,
        place: OwnedSemaphorePermit,
    ) -> Result<Registered<Status>, NbdError> {
        let (reply, answer) = oneshot::channel();
        let wanted = Wanted::Status(Vec::new(), reply);
        let pending = Pending { offset, len, wanted, failed: None, _place: place };
        Ok((self.register(CMD_BLOCK_STATUS, pending)?, answer))
    }

    /// Notes a request and gives its bytes for the wire.
    fn register(&self, command: u16, pending: Pending) -> Result<Request, NbdError> {
        let mut state = self.lock();
        if let Some(why) = &state.ended {
            return Err(why.clone());
        }
        let handle = state.next_handle;
        state.next_handle += 1;
        let request = request(command, handle, pending.offset, pending.len);
        state.pending.insert(handle, pending);
        Ok(request)
    }

    fn take(&self, handle: u64) -> Result<Pending, NbdError> {
        self.lock().pending.remove(&handle).ok_or(NbdError::Protocol("it answers a request that was not made"))
    }

    fn put_back(&self, handle: u64, mut pending: Pending) {
        let mut state = self.lock();
        if let Some(why) = &state.ended {
            pending.failed = Some(why.clone());
            pending.finish();
        } else {
            state.pending.insert(handle, pending);
        }
    }
}

/// A request's bytes.
pub(crate) fn request(command: u16, handle: u64, offset: u64, len: u32) -> Request {
    let mut bytes = [0; 28];
    bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
    bytes[6..8].copy_from_slice(&command.to_be_bytes());
    bytes[8..16].copy_from_slice(&handle.to_be_bytes());
    bytes[16..24].copy_from_slice(&offset.to_be_bytes());
    bytes[24..].copy_from_slice(&len.to_be_bytes());
    bytes
}

/// Writes requests until all clients are gone or the connection ended. A task of its own, so that a cancelled caller
/// never leaves half a request on the wire.
///
/// It must not keep the socket open longer: replies that nobody reads any more would block the server, and QEMU does not
/// end a backup job while it sends.
pub(crate) async fn write_requests(
    mut socket: OwnedWriteHalf,
    mut requests: mpsc::Receiver<Request>,
    shared: Arc<Shared>,
) {
    loop {
        // What was asked before the end, the goodbye above all, is still sent if the server takes it at once.
        let request = tokio::select! {
            biased;
            request = requests.recv() => request,
            () = shared.over.notified() => return,
        };
        let Some(request) = request else { return };
        let written = tokio::select! {
            biased;
            written = socket.write_all(&request) => written,
            () = shared.over.notified() => return,
        };
        if let Err(error) = written {
            shared.end(&error.into());
            return;
        }
    }
}

/// Reads replies until the connection ends.
pub(crate) async fn read_replies(socket: OwnedReadHalf, shared: Arc<Shared>) {
    let mut replies = Replies { socket: BufReader::with_capacity(READ_BUFFER, socket), shared: Arc::clone(&shared) };
    loop {
        if let Err(error) = replies.next().await {
            shared.end(&error);
            return;
        }
    }
}

struct Replies {
    socket: BufReader<OwnedReadHalf>,
    shared: Arc<Shared>,
}

impl Replies {
    async fn next(&mut self) -> Result<(), NbdError> {
        let magic = self.socket.read_u32().await?;
        let mut head = [0; 16];
        let len = ReplyHead::len(magic)?;
        self.socket.read_exact(&mut head[..len]).await?;
        let (handle, head) = ReplyHead::parse(magic, &head[..len])?;
        let mut pending = self.shared.take(handle)?;
        match self.reply(head, &mut pending).await {
            Ok(true) => pending.finish(),
            Ok(false) => self.shared.put_back(handle, pending),
            Err(error) => {
                pending.failed = Some(error.clone());
                pending.finish();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Takes one reply or chunk; true after a request's last.
    async fn reply(&mut self, head: ReplyHead, pending: &mut Pending) -> Result<bool, NbdError> {
        match head {
            ReplyHead::Simple { error } => self.simple(error, pending).await.map(|()| true),
            ReplyHead::Chunk { .. } if !self.shared.structured => {
                Err(NbdError::Protocol("a structured reply was not agreed on"))
            }
            ReplyHead::Chunk { flags, kind, len } => {
                self.chunk(kind, len, pending).await?;
                Ok(flags & CHUNK_DONE != 0)
            }
        }
    }

    async fn simple(&mut self, error: u32, pending: &mut Pending) -> Result<(), NbdError> {
        if error != 0 {
            pending.failed = Some(NbdError::Remote { code: error, offset: pending.offset, message: String::new() });
            return Ok(());
        }
        match &mut pending.wanted {
            Wanted::Read(assembly, _) if !self.shared.structured => {
                receive(&mut self.socket, assembly.place(pending.offset, pending.len as usize)?).await
            }
            _ => Err(NbdError::Protocol("a simple reply was not agreed on")),
        }
    }

    async fn chunk(&mut self, kind: u16, len: u32, pending: &mut Pending) -> Result<(), NbdError> {
        if kind == CHUNK_OFFSET_DATA {
            let Wanted::Read(assembly, _) = &mut pending.wanted else {
                return Err(NbdError::Protocol("data answers another kind of request"));
            };
            let Some(data_len) = len.checked_sub(8) else {
                return Err(NbdError::Protocol("a chunk of data has no offset"));
            };
            let offset = self.socket.read_u64().await?;
            return receive(&mut self.socket, assembly.place(offset, data_len as usize)?).await;
        }
        if len > CHUNK_PAYLOAD_LIMIT {
            return Err(NbdError::Protocol("a chunk is over 8 MiB"));
        }
        let mut payload = vec![0; len as usize];
        self.socket.read_exact(&mut payload).await?;
        self.small_chunk(kind, &payload, pending)
    }

    fn small_chunk(&self, kind: u16, payload: &[u8], pending: &mut Pending) -> Result<(), NbdError> {
        match (kind, &mut pending.wanted) {
            (CHUNK_NONE, _) if payload.is_empty() => Ok(()),
            (CHUNK_OFFSET_HOLE, Wanted::Read(assembly, _)) => {
                let (offset, len) = parse::hole(payload)?;
                assembly.hole(offset, len as usize)
            }
            (CHUNK_BLOCK_STATUS, Wanted::Status(status, _)) => {
                let (context, extents) = parse::block_status(payload, pending.len)?;
                if !self.shared.contexts.contains(&context) || status.iter().any(|known| known.0 == context) {
                    return Err(NbdError::Protocol("it tells of a context that was not granted, or twice"));
                }
                status.push((context, extents));
                Ok(())
            }
            (kind, _) if kind & CHUNK_ERROR_BIT != 0 => {
                let (code, message, offset) = parse::error(kind, payload)?;
                let offset = offset.unwrap_or(pending.offset);
                pending.failed.get_or_insert(NbdError::Remote { code, offset, message });
                Ok(())
            }
            _ => Err(NbdError::Protocol("a chunk is of another kind than was asked for")),
        }
    }
}

/// Reads data from the socket straight to its place.
async fn receive(socket: &mut BufReader<OwnedReadHalf>, place: Place<'_>) -> Result<(), NbdError> {
    match place {
        Place::Slice(slice) => {
            socket.read_exact(slice).await?;
        }
        Place::Append(bytes, len) => {
            let mut data = socket.take(len as u64);
            while data.limit() > 0 {
                if data.read_buf(bytes).await? == 0 {
                    return Err(NbdError::Disconnected(None));
                }
            }
        }
    }
    Ok(())
}
