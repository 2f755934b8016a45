//! Receiving replies: each goes to the request that it answers.

use tokio::io::{AsyncRead, AsyncReadExt, BufReader};

use crate::assembly::Place;
use crate::error::NbdError;
use crate::extents::{EXTENT_LEN, Extents};
use crate::in_flight::{Pending, Shared, Wanted};
use crate::parse::{self, CHUNK_PAYLOAD_LIMIT, ReplyHead};
use crate::proto::{CHUNK_BLOCK_STATUS, CHUNK_DONE, CHUNK_ERROR_BIT, CHUNK_NONE, CHUNK_OFFSET_DATA, CHUNK_OFFSET_HOLE};

/// Replies' heads are read through a buffer; data goes past it.
const READ_BUFFER: usize = 4096;

/// The most extents of one reply: what servers send, and no more work than that.
const EXTENTS_SENT: u32 = 1 << 20;

/// Receives replies until the connection ends.
pub(crate) async fn receive_replies(socket: impl AsyncRead + Unpin, shared: &Shared) -> NbdError {
    let mut replies = Replies { socket: BufReader::with_capacity(READ_BUFFER, socket), shared };
    loop {
        if let Err(error) = replies.next().await {
            return error;
        }
    }
}

struct Replies<'a, R> {
    socket: BufReader<R>,
    shared: &'a Shared,
}

impl<R: AsyncRead + Unpin> Replies<'_, R> {
    async fn next(&mut self) -> Result<(), NbdError> {
        let magic = self.socket.read_u32().await?;
        let mut head = [0; 16];
        let len = ReplyHead::len(magic)?;
        self.socket.read_exact(&mut head[..len]).await?;
        let (handle, head) = ReplyHead::parse(magic, &head[..len])?;
        let mut pending = self.shared.take(handle)?;
        match self.reply(head, &mut pending).await {
            Ok(true) => self.shared.finish(handle, pending),
            Ok(false) => self.shared.put_back(handle, pending),
            Err(error) => {
                pending.failed = Some(error.clone());
                self.shared.finish(handle, pending);
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
        pending.chunks_left =
            pending.chunks_left.checked_sub(1).ok_or(NbdError::Protocol("it answers in endless chunks"))?;
        match kind {
            CHUNK_OFFSET_DATA => self.data(len, pending).await,
            CHUNK_BLOCK_STATUS => self.extents(len, pending).await,
            _ if len > CHUNK_PAYLOAD_LIMIT => Err(NbdError::Protocol("a chunk is over 4 KiB")),
            _ => {
                let mut payload = vec![0; len as usize];
                self.socket.read_exact(&mut payload).await?;
                small_chunk(kind, &payload, pending)
            }
        }
    }

    async fn data(&mut self, len: u32, pending: &mut Pending) -> Result<(), NbdError> {
        let Wanted::Read(assembly, _) = &mut pending.wanted else {
            return Err(NbdError::Protocol("data answers another kind of request"));
        };
        let Some(data_len) = len.checked_sub(8) else {
            return Err(NbdError::Protocol("a chunk of data has no offset"));
        };
        let offset = self.socket.read_u64().await?;
        receive(&mut self.socket, assembly.place(offset, data_len as usize)?).await
    }

    async fn extents(&mut self, len: u32, pending: &mut Pending) -> Result<(), NbdError> {
        let Wanted::Status(status, _) = &mut pending.wanted else {
            return Err(NbdError::Protocol("a map answers another kind of request"));
        };
        let count = match len.checked_sub(4) {
            Some(len) if len % EXTENT_LEN as u32 == 0 => len / EXTENT_LEN as u32,
            _ => return Err(NbdError::Protocol("an extent is cut off")),
        };
        if count > EXTENTS_SENT {
            return Err(NbdError::Protocol("it tells of more than 2^20 extents at once"));
        }
        let context = self.socket.read_u32().await?;
        if !self.shared.contexts.contains(&context) || status.iter().any(|known| known.0 == context) {
            return Err(NbdError::Protocol("it tells of a context that was not granted, or twice"));
        }
        let mut extents = Extents::new(pending.len);
        for _ in 0..count {
            let mut extent = [0; EXTENT_LEN];
            self.socket.read_exact(&mut extent).await?;
            extents.take(extent)?;
        }
        status.push((context, extents.finish()?));
        Ok(())
    }
}

/// Takes a chunk that is neither data nor a map.
fn small_chunk(kind: u16, payload: &[u8], pending: &mut Pending) -> Result<(), NbdError> {
    match (kind, &mut pending.wanted) {
        (CHUNK_NONE, _) if payload.is_empty() => Ok(()),
        (CHUNK_OFFSET_HOLE, Wanted::Read(assembly, _)) => {
            let (offset, len) = parse::hole(payload)?;
            assembly.hole(offset, len as usize)
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

/// Reads data from the socket straight to its place.
async fn receive(socket: &mut (impl AsyncRead + Unpin), place: Place<'_>) -> Result<(), NbdError> {
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
