//! The object store that a vault sees, over a component. It tries again, and believes nothing that it can look at: what was
//! "created" must be there and have the bytes, an answer must be as long as was asked, a listing must be in order and whole.

mod listing;
mod upload;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Extensions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use remora_core::outage::Outage;
use remora_core::{Error, ErrorKind};

use super::broker::{Payload, Sink};
use super::conversation::{Component, Failed, Luggage};
use super::failure;
use super::retry::Patience;
use super::wire::{Call, Done};
use super::words::{Class, Object, Stored};
use upload::Upload;

/// How much of a stored object is read back. One that is no longer is read back whole.
const SAMPLE: u64 = 64 << 10;

/// So much more of a stored object is looked at once more.
const LOOKED_AT_ONCE: u64 = 8 << 20;

/// A key is at most so long.
const LONGEST_KEY: usize = 512;

/// So many keys that were stored are looked for in listings.
const REMEMBERED: usize = 4_096;

/// Objects that one call deletes.
const DELETED_AT_ONCE: usize = 1_000;

/// A store behind a mover. Cheap to clone.
#[derive(Clone)]
pub struct MoverStore(Arc<Inner>);

struct Inner {
    name: String,
    component: Component,
    patience: Patience,
    outage: Outage,
    /// Keys that this process stored and neither removed nor replaced, and how many bytes each has.
    stored: Mutex<BTreeMap<String, u64>>,
    /// How many large objects were looked at in one place: the first one, and every other, at its end.
    looked: AtomicUsize,
}

impl fmt::Debug for MoverStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for MoverStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mover {}", self.0.name)
    }
}

impl MoverStore {
    pub(super) fn new(name: String, component: Component, patience: Patience) -> Self {
        let (outage, stored, looked) = (Outage::default(), Mutex::default(), AtomicUsize::new(0));
        Self(Arc::new(Inner { name, component, patience, outage, stored, looked }))
    }

    /// Starts it and opens the store, as the first call would do: what is wrong with the component, its settings or the way to
    /// the store is told.
    pub async fn probe(&self) -> remora_core::Result<()> {
        self.0
            .component
            .capabilities()
            .await
            .map(drop)
            .map_err(|failed| failure::plain(&self.0.name, "opening it", failed))
    }

    /// The process that runs the component, while there is one.
    pub fn process(&self) -> Option<i32> {
        self.0.component.pid()
    }
}

impl Inner {
    /// Calls the component, and again while that makes sense. The luggage of the call that went well is given back.
    async fn call(&self, doing: &str, key: &str, make: impl Fn() -> (Call, Luggage)) -> Result<(Done, Luggage)> {
        let named = format!("{doing} {key}");
        let called = self.patience.call(&self.component, Some(&self.outage), (&self.name, &named), make).await;
        called.map_err(|failed| failure::of(&self.name, doing, key, failed))
    }

    /// A call that neither sends nor receives data.
    async fn plain_call(&self, doing: &str, key: &str, call: Call) -> Result<Done> {
        Ok(self.call(doing, key, || (call.clone(), Luggage::nothing())).await?.0)
    }

    fn unexpected<T>(&self, doing: &str, key: &str) -> Result<T> {
        Err(failure::of(&self.name, doing, key, Failed::Fault("another function's answer came".into())))
    }

    /// What the mover says is not so.
    fn lie(&self, what: &str) -> object_store::Error {
        let error = Error::new(ErrorKind::Damaged, format!("mover {}: {what}", self.name))
            .advise("Do not rely on this mover: ask who made it, and keep the points in another repository.");
        object_store::Error::Generic { store: "mover", source: Box::new(error) }
    }

    fn stored(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn head(&self, key: &str) -> Result<Object> {
        match self.plain_call("looking at", key, Call::Head { key: key.into() }).await? {
            Done::Object(object) if object.key == key => Ok(object),
            Done::Object(object) => Err(self.lie(&format!("asked for {key}, it tells of {:?}", object.key))),
            _ => self.unexpected("looking at", key),
        }
    }

    async fn get(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let (offset, len) = (range.start, range.end - range.start);
        if len == 0 {
            return Ok(Bytes::new());
        }
        let call = Call::Get { key: key.into(), offset, len };
        let make = || (call.clone(), Luggage { data: Payload::default(), sink: Sink::new(len) });
        let (_, luggage) = self.call("reading", key, make).await?;
        let bytes = luggage.sink.take();
        if bytes.len() as u64 != len {
            return Err(self.lie(&format!("it says that it fetched {len} bytes of {key}, and gave {}", bytes.len())));
        }
        Ok(bytes.into())
    }

    /// Has an object stored; what was sent.
    async fn create(&self, key: &str, payload: PutPayload) -> Result<Payload> {
        let (call, data) = Self::sent(key, &payload, |key, len| Call::Put { key, len });
        let make = || (call.clone(), Luggage { data: data.clone(), sink: Sink::new(0) });
        match self.call("storing", key, make).await?.0 {
            Done::Stored(Stored::Created) => Ok(data),
            Done::Stored(Stored::Exists) => Err(failure::exists(key)),
            _ => self.unexpected("storing", key),
        }
    }

    async fn replace(&self, key: &str, payload: PutPayload) -> Result<()> {
        let (call, data) = Self::sent(key, &payload, |key, len| Call::Replace { key, len });
        let make = || (call.clone(), Luggage { data: data.clone(), sink: Sink::new(0) });
        self.stored().remove(key);
        self.call("storing", key, make).await.map(drop)
    }

    fn sent(key: &str, payload: &PutPayload, call: impl Fn(String, u64) -> Call) -> (Call, Payload) {
        let data = Payload::new(payload.iter().cloned().collect());
        (call(key.into(), data.len()), data)
    }

    /// Whether what was "created" is there. A small one is read back whole. A large one is looked at in a place for every 8 MiB of
    /// it: at its end, so that it is as long as it must be (whether it is longer the next listing tells), and anywhere. Where there
    /// is but one look, these two take turns.
    async fn look_after(&self, key: &str, data: &Payload) -> Result<()> {
        let len = data.len();
        if len <= SAMPLE {
            self.has_size(key, len).await?;
            return self.is_there(key, data, 0..len).await;
        }
        let (end, more) = (len - SAMPLE, len / LOOKED_AT_ONCE);
        let at_end = more > 0 || self.looked.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        let first = if at_end { end } else { fastrand::u64(0..=end) };
        self.is_there(key, data, first..first + SAMPLE).await?;
        for _ in 0..more {
            let offset = fastrand::u64(0..=end);
            self.is_there(key, data, offset..offset + SAMPLE).await?;
        }
        Ok(())
    }

    /// Whether a range of an object is what was sent.
    async fn is_there(&self, key: &str, data: &Payload, range: Range<u64>) -> Result<()> {
        let there = match self.get(key, range.clone()).await {
            Err(object_store::Error::NotFound { .. }) => return Err(self.gone(key)),
            there => there?,
        };
        let sent = data.slice(range.start, range.end - range.start).unwrap_or_default().concat();
        if there != sent {
            return Err(self.lie(&format!("it says that it stored {key}, and other bytes are there")));
        }
        Ok(())
    }

    async fn has_size(&self, key: &str, len: u64) -> Result<()> {
        match self.head(key).await {
            Ok(object) if object.size == len => Ok(()),
            Ok(object) => {
                Err(self.lie(&format!("it says that it stored {len} bytes as {key}, and {} are there", object.size)))
            }
            Err(object_store::Error::NotFound { .. }) => Err(self.gone(key)),
            Err(error) => Err(error),
        }
    }

    fn gone(&self, key: &str) -> object_store::Error {
        self.lie(&format!("it says that it stored {key}, and does not find it"))
    }

    /// Listings must have it from now on.
    fn remember(&self, key: &str, len: u64) {
        let mut stored = self.stored();
        if stored.len() >= REMEMBERED {
            // Any: which ones are left is of no matter.
            stored.pop_first();
        }
        stored.insert(key.to_owned(), len);
    }

    async fn delete(&self, keys: Vec<Path>) -> Vec<Result<Path>> {
        let names: Vec<String> = keys.iter().map(ToString::to_string).collect();
        self.stored().retain(|key, _| !names.contains(key));
        let first = names.first().cloned().unwrap_or_default();
        let outcome = match self.plain_call("removing", &first, Call::Delete { keys: names }).await {
            Ok(Done::Deleted(each)) if each.len() == keys.len() => each,
            Ok(_) => return vec![self.unexpected("removing", &first)],
            Err(error) => return vec![Err(error)],
        };
        let outcome = keys.into_iter().zip(outcome).map(|(key, one)| match one {
            Ok(()) => Ok(key),
            // One that is not there is as good.
            Err(error) if error.class == Class::NotFound => Ok(key),
            Err(error) => Err(failure::of(&self.name, "removing", key.as_ref(), Failed::Error(error))),
        });
        outcome.collect()
    }

    fn meta(&self, object: Object) -> Result<ObjectMeta> {
        let wrong = |what| self.lie(&format!("it tells of an object whose {what} makes no sense: {:?}", object.key));
        let location = Path::parse(&object.key).map_err(|_| wrong("key"))?;
        let last_modified = chrono::DateTime::from_timestamp(object.modified, 0).ok_or_else(|| wrong("time"))?;
        Ok(ObjectMeta { location, last_modified, size: object.size, e_tag: object.etag, version: None })
    }
}

/// A key as `wit/` has it; no vault names objects otherwise.
fn key(path: &Path) -> Result<String> {
    let key = path.to_string();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-/".contains(&b);
    if key.is_empty() || key.len() > LONGEST_KEY || !key.bytes().all(plain) {
        let why = format!("{key:?} is no key for a mover: letters, digits, '.', '_' and '-', at most {LONGEST_KEY}");
        return Err(object_store::Error::Generic {
            store: "mover",
            source: Box::new(Error::new(ErrorKind::Invalid, why)),
        });
    }
    Ok(key)
}

fn not_implemented<T>(operation: &str) -> Result<T> {
    Err(object_store::Error::NotImplemented { operation: operation.into(), implementer: "mover".into() })
}

#[async_trait]
impl ObjectStore for MoverStore {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let key = key(path)?;
        let PutOptions { mode, extensions, .. } = options;
        match mode {
            PutMode::Create => {
                let sent = self.0.create(&key, payload).await?;
                // Whoever waits for what goes with it sends the next object while this one is looked at.
                drop(extensions);
                self.0.look_after(&key, &sent).await?;
                self.0.remember(&key, sent.len());
            }
            PutMode::Overwrite => self.0.replace(&key, payload).await?,
            PutMode::Update(_) => return not_implemented("an update of a version"),
        }
        Ok(PutResult { e_tag: None, version: None, extensions: Extensions::default() })
    }

    async fn put_multipart_opts(&self, path: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Ok(Box::new(Upload::begin(Arc::clone(&self.0), key(path)?).await?))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let conditions = [&options.if_match, &options.if_none_match, &options.version].into_iter().any(Option::is_some);
        if conditions || options.if_modified_since.is_some() || options.if_unmodified_since.is_some() {
            return not_implemented("a conditional read");
        }
        let key = key(path)?;
        let object = self.0.head(&key).await?;
        let size = object.size;
        let range = match options.range {
            None => 0..size,
            Some(GetRange::Bounded(range)) => range.start.min(size)..range.end.min(size),
            Some(GetRange::Offset(offset)) => offset.min(size)..size,
            Some(GetRange::Suffix(len)) => size.saturating_sub(len)..size,
        };
        let bytes = if options.head { Bytes::new() } else { self.0.get(&key, range.clone()).await? };
        let payload = GetResultPayload::Stream(stream::once(async { Ok(bytes) }).boxed());
        let (attributes, extensions) = (Attributes::default(), Extensions::default());
        Ok(GetResult { payload, meta: self.0.meta(object)?, range, attributes, extensions })
    }

    /// Without a look at the object first, and each range for itself: whoever asks has joined what lies together.
    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let key = key(path)?;
        let fetches = ranges.iter().map(|range| self.0.get(&key, range.clone()));
        futures::future::try_join_all(fetches).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let inner = Arc::clone(&self.0);
        let deleted = paths.try_chunks(DELETED_AT_ONCE).then(move |paths| {
            let inner = Arc::clone(&inner);
            async move {
                match paths {
                    Ok(paths) => inner.delete(paths).await,
                    Err(broken) => vec![Err(broken.1)],
                }
            }
        });
        deleted.flat_map(stream::iter).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        listing::all(Arc::clone(&self.0), prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        listing::children(&self.0, prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        not_implemented("a copy")
    }
}
