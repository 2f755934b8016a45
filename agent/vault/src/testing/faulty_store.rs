//! A store in memory whose clock can be set on, and in which one operation goes wrong.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use jiff::{SignedDuration, Timestamp};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::Notify;

/// How the chosen operation goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails and changes nothing.
    Fails,
    /// It does its work, and its answer is lost.
    AnswerLost,
    /// The process dies before it takes effect.
    DiesBefore,
    /// The process dies after it took effect.
    DiesAfter,
}

impl Fault {
    pub(crate) const ALL: [Self; 4] = [Self::Fails, Self::AnswerLost, Self::DiesBefore, Self::DiesAfter];

    pub(crate) const fn dies(self) -> bool {
        matches!(self, Self::DiesBefore | Self::DiesAfter)
    }
}

/// The store. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct FaultyStore {
    inner: Arc<InMemory>,
    state: Arc<Mutex<State>>,
    died: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    /// How far the clock was set on.
    ahead: Duration,
    /// How far it was when each object was stored.
    stored: HashMap<Path, Duration>,
    operations: usize,
    fault: Option<(usize, Fault)>,
    dead: bool,
}

/// What an operation has to do.
enum Turn {
    Work,
    WorkThenFail,
    WorkThenDie,
    Fail,
    Die,
}

impl FaultyStore {
    pub(crate) fn new() -> Self {
        Self { inner: Arc::default(), state: Arc::default(), died: Arc::default() }
    }

    /// A copy with the same objects and clock, in which nothing went wrong.
    pub(crate) fn fork(&self) -> Self {
        let State { ahead, ref stored, .. } = *self.lock();
        let state = State { ahead, stored: stored.clone(), ..State::default() };
        Self { inner: Arc::new(self.inner.fork()), state: Arc::new(Mutex::new(state)), died: Arc::default() }
    }

    /// Sets the store's clock on.
    pub(crate) fn advance(&self, by: Duration) {
        self.lock().ahead += by;
    }

    /// The store's time.
    pub(super) fn now(&self) -> Timestamp {
        Timestamp::now() + SignedDuration::try_from(self.lock().ahead).expect("the tests set it on by days")
    }

    /// From now on, operation `n` (from 0) goes wrong.
    pub(crate) fn inject(&self, n: usize, fault: Fault) {
        let mut state = self.lock();
        (state.operations, state.fault) = (0, Some((n, fault)));
    }

    /// How many operations there were since the last [`Self::inject`].
    pub(crate) fn operations(&self) -> usize {
        self.lock().operations
    }

    /// Runs work until it ends, or until the process dies in it: `None`.
    pub(crate) async fn until_death<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.died.notified() => None,
            done = work => Some(done),
        }
    }

    /// The names of all objects, with their lengths.
    pub(crate) async fn objects(&self) -> std::collections::BTreeMap<String, u64> {
        self.inner.list(None).map_ok(|o| (o.location.to_string(), o.size)).try_collect().await.expect("it is in memory")
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self) -> Turn {
        let mut state = self.lock();
        let n = state.operations;
        state.operations += 1;
        if state.dead {
            return Turn::Die;
        }
        let Some((_, fault)) = state.fault.filter(|(at, _)| *at == n) else { return Turn::Work };
        state.dead = fault.dies();
        match fault {
            Fault::Fails => Turn::Fail,
            Fault::AnswerLost => Turn::WorkThenFail,
            Fault::DiesBefore => Turn::Die,
            Fault::DiesAfter => Turn::WorkThenDie,
        }
    }

    pub(super) async fn take<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let failure = || Error::Generic { store: "test", source: "injected".into() };
        match self.turn() {
            Turn::Work => work.await,
            Turn::Fail => Err(failure()),
            Turn::WorkThenFail => {
                work.await.ok();
                Err(failure())
            }
            Turn::WorkThenDie => {
                work.await.ok();
                self.die().await
            }
            Turn::Die => self.die().await,
        }
    }

    async fn die<T>(&self) -> T {
        self.died.notify_one();
        std::future::pending().await
    }

    fn dated(&self, mut meta: ObjectMeta) -> ObjectMeta {
        meta.last_modified += self.lock().stored.get(&meta.location).copied().unwrap_or_default();
        meta
    }

    /// Stores an object; nothing goes wrong.
    pub(super) async fn put_unharmed(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let stored = self.inner.put_opts(location, payload, options).await?;
        self.note_stored(location);
        Ok(stored)
    }

    fn note_stored(&self, location: &Path) {
        let mut state = self.lock();
        let ahead = state.ahead;
        state.stored.insert(location.clone(), ahead);
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("test store")
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.take(self.put_unharmed(location, payload, options)).await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented { operation: "multipart".into(), implementer: "test".into() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let mut found = self.take(self.inner.get_opts(location, options)).await?;
        found.meta = self.dated(found.meta);
        Ok(found)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.take(self.inner.get_ranges(location, ranges)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        let delete = move |location: Result<Path>| {
            let this = this.clone();
            async move {
                let location = location?;
                let one = stream::iter([Ok(location)]).boxed();
                this.take(this.inner.delete_stream(one).try_collect::<Vec<_>>()).await
            }
        };
        let each = locations.then(delete);
        each.map_ok(|paths| stream::iter(paths.into_iter().map(Ok))).try_flatten().boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, prefix) = (self.clone(), prefix.cloned());
        let listing = async move {
            let all: Vec<_> = this.take(this.inner.list(prefix.as_ref()).try_collect()).await?;
            Ok::<_, Error>(stream::iter(all.into_iter().map(|meta| Ok(this.dated(meta))).collect::<Vec<_>>()))
        };
        stream::once(listing).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut listing = self.take(self.inner.list_with_delimiter(prefix)).await?;
        listing.objects = listing.objects.into_iter().map(|meta| self.dated(meta)).collect();
        Ok(listing)
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(Error::NotImplemented { operation: "copy".into(), implementer: "test".into() })
    }
}
