//! The bytes that a call sends, and those that it receives. The component has handles of them only.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use md5::{Digest as _, Md5};
use ring::digest::SHA256;

/// What a call sends. Cheap to clone.
#[derive(Clone, Default)]
pub(in super::super) struct Payload(Arc<Inner>);

#[derive(Default)]
struct Inner {
    pieces: Vec<Bytes>,
    sha256: OnceLock<Vec<u8>>,
}

impl Payload {
    pub(in super::super) fn new(pieces: Vec<Bytes>) -> Self {
        Self(Arc::new(Inner { pieces, sha256: OnceLock::new() }))
    }

    pub(in super::super) fn len(&self) -> u64 {
        self.0.pieces.iter().map(|piece| piece.len() as u64).sum()
    }

    /// Takes as long as hashing takes; asked again, nothing.
    pub(in super::super) fn sha256(&self) -> Vec<u8> {
        let hash = || {
            let mut context = ring::digest::Context::new(&SHA256);
            self.0.pieces.iter().for_each(|piece| context.update(piece));
            context.finish().as_ref().to_vec()
        };
        self.0.sha256.get_or_init(hash).clone()
    }

    pub(in super::super) fn md5(&self) -> Vec<u8> {
        let mut hash = Md5::new();
        self.0.pieces.iter().for_each(|piece| hash.update(piece));
        hash.finalize().to_vec()
    }

    /// A range of it as pieces; none if it has no such range.
    pub(in super::super) fn slice(&self, offset: u64, len: u64) -> Option<Vec<Bytes>> {
        let end = offset.checked_add(len).filter(|end| *end <= self.len())?;
        let mut at = 0;
        let mut found = Vec::new();
        for piece in &self.0.pieces {
            let (begins, ends) = (at, at + piece.len() as u64);
            at = ends;
            let (from, to) = (offset.max(begins), end.min(ends));
            if from < to {
                found.push(piece.slice((from - begins) as usize..(to - begins) as usize));
            }
        }
        Some(found)
    }
}

/// Pieces as the body of a request, of a known length.
pub(super) struct Pieces(VecDeque<Bytes>);

impl Pieces {
    pub(super) fn new(pieces: Vec<Bytes>) -> Self {
        Self(pieces.into())
    }
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|piece| piece.len() as u64).sum())
    }
}

/// Where a call receives bytes. Cheap to clone.
#[derive(Clone)]
pub(in super::super) struct Sink {
    capacity: u64,
    filled: Arc<Mutex<Vec<u8>>>,
    /// Whether a request that is under way fills it.
    lent: Arc<AtomicBool>,
}

impl Sink {
    pub(in super::super) fn new(capacity: u64) -> Self {
        Self { capacity, filled: Arc::default(), lent: Arc::default() }
    }

    fn filled(&self) -> MutexGuard<'_, Vec<u8>> {
        self.filled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in super::super) fn capacity(&self) -> u64 {
        self.capacity
    }

    pub(in super::super) fn len(&self) -> u64 {
        self.filled().len() as u64
    }

    /// Adds bytes; whether there was room for them.
    pub(in super::super) fn write(&self, bytes: &[u8]) -> bool {
        let mut filled = self.filled();
        if (filled.len() as u64).saturating_add(bytes.len() as u64) > self.capacity {
            return false;
        }
        if filled.is_empty() {
            // Whoever made the sink wants so many, and waits for them.
            filled.reserve_exact(self.capacity as usize);
        }
        filled.extend_from_slice(bytes);
        true
    }

    /// What came.
    pub(in super::super) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.filled())
    }

    /// For one request; none while another one has it.
    pub(super) fn lend(&self) -> Option<Lent> {
        (!self.lent.swap(true, Ordering::AcqRel)).then(|| Lent(self.clone()))
    }
}

/// A sink that a request fills, until this is dropped.
pub(super) struct Lent(Sink);

impl Drop for Lent {
    fn drop(&mut self) {
        self.0.lent.store(false, Ordering::Release);
    }
}

impl Deref for Lent {
    type Target = Sink;

    fn deref(&self) -> &Sink {
        &self.0
    }
}
