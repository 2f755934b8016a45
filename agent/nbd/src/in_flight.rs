//! The requests in flight: what the callers and the connection's task share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::assembly::Assembly;
use crate::error::NbdError;
use crate::proto::{CMD_BLOCK_STATUS, CMD_READ, REQUEST_MAGIC};

/// A request's bytes on the wire.
pub(crate) type Request = [u8; 28];

/// The answer to come of a request.
pub(crate) type Answer<T> = oneshot::Receiver<Result<T, NbdError>>;

/// A request that is noted but not sent, and its answer to come.
pub(crate) type Registered<T> = (Request, Answer<T>);

/// A granted context's id, and the (length, flags) pairs told of it.
pub(crate) type Status = Vec<(u32, Vec<(u32, u32)>)>;

/// An honest server's chunks of a read hold at least a sector each, but for a few at the ends.
const SECTOR: u32 = 512;
const CHUNKS_BESIDES: u32 = 16;

/// What a request waits for, with what came so far.
pub(crate) enum Wanted {
    Read(Assembly, oneshot::Sender<Result<BytesMut, NbdError>>),
    Status(Status, oneshot::Sender<Result<Status, NbdError>>),
}

impl Wanted {
    const fn command(&self) -> u16 {
        match self {
            Self::Read(..) => CMD_READ,
            Self::Status(..) => CMD_BLOCK_STATUS,
        }
    }
}

/// A request in flight.
pub(crate) struct Pending {
    pub(crate) offset: u64,
    pub(crate) len: u32,
    pub(crate) wanted: Wanted,
    /// How many chunks may still answer it.
    pub(crate) chunks_left: u32,
    /// The first error that the server told of it.
    pub(crate) failed: Option<NbdError>,
    /// Its place among the requests in flight; kept by one that nobody waits for any more until its reply is drained.
    _place: OwnedSemaphorePermit,
}

impl Pending {
    fn new(offset: u64, len: u32, wanted: Wanted, place: OwnedSemaphorePermit) -> Self {
        let chunks = match wanted {
            Wanted::Read(..) => len / SECTOR,
            // One for each context.
            Wanted::Status(..) => 0,
        };
        Self { offset, len, wanted, chunks_left: chunks + CHUNKS_BESIDES, failed: None, _place: place }
    }

    fn finish(self) {
        // Nobody may listen any more: the caller was cancelled.
        match (self.wanted, self.failed) {
            (Wanted::Read(_, reply), Some(error)) => drop(reply.send(Err(error))),
            (Wanted::Status(_, reply), Some(error)) => drop(reply.send(Err(error))),
            (Wanted::Read(assembly, reply), None) => drop(reply.send(assembly.finish())),
            (Wanted::Status(status, reply), None) => drop(reply.send(Ok(status))),
        }
    }

    fn fail(mut self, why: NbdError) {
        self.failed = Some(why);
        self.finish();
    }
}

/// What the connection's task and the callers share.
pub(crate) struct Shared {
    state: Mutex<State>,
    pub(crate) places: Arc<Semaphore>,
    /// The ids of the granted contexts.
    pub(crate) contexts: Vec<u32>,
    pub(crate) structured: bool,
    /// How long a request may go unanswered.
    limit: Duration,
    /// Tells the connection's task that it ended.
    pub(crate) over: Notify,
}

#[derive(Default)]
struct State {
    /// By their handles, which rise with time: the first is due first.
    slots: BTreeMap<u64, Slot>,
    next_handle: u64,
    /// Why the connection ended.
    ended: Option<NbdError>,
}

struct Slot {
    due: Instant,
    /// None while a reply to it is being received.
    pending: Option<Pending>,
}

impl Shared {
    pub(crate) fn new(max_in_flight: usize, contexts: Vec<u32>, structured: bool, limit: Duration) -> Self {
        let places = Arc::new(Semaphore::new(max_in_flight.max(1)));
        Self { state: Mutex::default(), places, contexts, structured, limit, over: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection for everybody; the first reason is the one that counts.
    pub(crate) fn end(&self, why: &NbdError) {
        let mut state = self.lock();
        let why = state.ended.get_or_insert_with(|| why.clone()).clone();
        for pending in std::mem::take(&mut state.slots).into_values().filter_map(|slot| slot.pending) {
            pending.fail(why.clone());
        }
        self.over.notify_one();
    }

    /// Why the connection ended, once it has.
    pub(crate) fn why_ended(&self) -> NbdError {
        self.lock().ended.clone().unwrap_or(NbdError::Disconnected(None))
    }

    /// Waits until a request has gone unanswered for too long, whether anybody still waits for it or not.
    pub(crate) async fn overdue(&self) -> NbdError {
        loop {
            let now = Instant::now();
            let due = self.lock().slots.first_key_value().map(|(_, slot)| slot.due);
            if due.is_some_and(|due| due <= now) {
                return NbdError::Timeout { what: "a request", limit: self.limit };
            }
            // What is asked from now on is not due before a whole limit from now.
            sleep_until(due.unwrap_or(now + self.limit)).await;
        }
    }

    pub(crate) fn read(
        &self,
        offset: u64,
        len: u32,
        room: BytesMut,
        place: OwnedSemaphorePermit,
    ) -> Result<Registered<BytesMut>, NbdError> {
        let (reply, answer) = oneshot::channel();
        let wanted = Wanted::Read(Assembly::new(offset, len, room), reply);
        Ok((self.register(Pending::new(offset, len, wanted, place))?, answer))
    }

    pub(crate) fn status(
        &self,
        offset: u64,
        len: u32,
        place: OwnedSemaphorePermit,
    ) -> Result<Registered<Status>, NbdError> {
        let (reply, answer) = oneshot::channel();
        let wanted = Wanted::Status(Vec::new(), reply);
        Ok((self.register(Pending::new(offset, len, wanted, place))?, answer))
    }

    /// Notes a request and gives its bytes for the wire.
    fn register(&self, pending: Pending) -> Result<Request, NbdError> {
        let mut state = self.lock();
        if let Some(why) = &state.ended {
            return Err(why.clone());
        }
        let handle = state.next_handle;
        state.next_handle += 1;
        let request = request(pending.wanted.command(), handle, pending.offset, pending.len);
        state.slots.insert(handle, Slot { due: Instant::now() + self.limit, pending: Some(pending) });
        Ok(request)
    }

    /// Takes a request out to receive a reply to it. It stays in flight.
    pub(crate) fn take(&self, handle: u64) -> Result<Pending, NbdError> {
        let mut state = self.lock();
        let pending = state.slots.get_mut(&handle).and_then(|slot| slot.pending.take());
        pending.ok_or(NbdError::Protocol("it answers a request that was not made"))
    }

    /// More replies will come.
    pub(crate) fn put_back(&self, handle: u64, pending: Pending) {
        if let Some(slot) = self.lock().slots.get_mut(&handle) {
            slot.pending = Some(pending);
            return;
        }
        pending.fail(self.why_ended());
    }

    /// That was its last reply.
    pub(crate) fn finish(&self, handle: u64, pending: Pending) {
        self.lock().slots.remove(&handle);
        pending.finish();
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
