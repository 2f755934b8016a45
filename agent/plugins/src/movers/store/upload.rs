//! An upload in parts. The vault makes none; `doctor` tries it, and what streams images needs it.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt;
use object_store::{Extensions, MultipartUpload, PutPayload, PutResult, Result, UploadPart};

use super::super::broker::Sink;
use super::super::conversation::{Failed, Luggage};
use super::super::failure;
use super::super::wire::{Call, Done};
use super::super::words::Stored;
use super::{Inner, not_implemented};

pub(super) struct Upload {
    inner: Arc<Inner>,
    key: String,
    token: String,
    parts: u32,
    most: u32,
    len: u64,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").field("key", &self.key).field("parts", &self.parts).finish_non_exhaustive()
    }
}

impl Upload {
    pub(super) async fn begin(inner: Arc<Inner>, key: String) -> Result<Self> {
        let can = inner.component.capabilities().await;
        let can = can.map_err(|failed| failure::of(&inner.name, "storing", &key, failed))?;
        if !can.multipart {
            return not_implemented("an upload in parts");
        }
        match inner.plain_call("beginning", &key, Call::Begin { key: key.clone() }).await? {
            Done::Begun(token) => Ok(Self { inner, key, token, parts: 0, most: can.max_parts, len: 0 }),
            _ => inner.unexpected("beginning", &key),
        }
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        self.parts += 1;
        let (inner, key, token, number) = (Arc::clone(&self.inner), self.key.clone(), self.token.clone(), self.parts);
        if number > self.most {
            let why = format!("it has more than {} parts", self.most);
            return async move { Err(failure::of(&inner.name, "storing", &key, Failed::Fault(why))) }.boxed();
        }
        let (call, data) =
            Inner::sent(&key, &payload, |key, len| Call::Part { key, token: token.clone(), number, len });
        self.len += data.len();
        async move {
            let make = || (call.clone(), Luggage { data: data.clone(), sink: Sink::new(0) });
            inner.call("storing a part of", &key, make).await.map(drop)
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let Self { inner, key, token, parts, .. } = self;
        let call = Call::Complete { key: key.clone(), token: token.clone(), parts: *parts };
        match inner.plain_call("completing", key, call).await? {
            Done::Stored(Stored::Created) => {}
            Done::Stored(Stored::Exists) => return Err(failure::exists(key)),
            _ => return inner.unexpected("completing", key),
        }
        inner.has_size(key, self.len).await?;
        inner.remember(key, self.len);
        Ok(PutResult { e_tag: None, version: None, extensions: Extensions::default() })
    }

    async fn abort(&mut self) -> Result<()> {
        let call = Call::Abort { key: self.key.clone(), token: self.token.clone() };
        self.inner.plain_call("giving up", &self.key, call).await.map(drop)
    }
}
