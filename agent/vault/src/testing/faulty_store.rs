//! A store in memory or in a folder whose clock can be set on, and in which one operation goes wrong.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use jiff::{SignedDuration, Timestamp};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tempfile::TempDir;
use tokio::sync::Notify;

use crate::store::Store;

/// How the chosen operation goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails and changes nothing.
    Fails,
    /// It does its work, and its answer is lost.
    AnswerLost,
    /// It does its work, and its answer breaks off in the middle: half an object, or the first half of a listing.
    HalfAnswer,
    /// It does its work, and half of the object comes as if it were all of it.
    ShortAnswer,
    /// It does its work, and half of the object comes, which was as long when its size was asked for.
    CutOff,
    /// The process dies before it takes effect.
    DiesBefore,
    /// The process dies while it writes: what a folder has of it is half a file beside the object's name. In a bucket
    /// there is nothing of it.
    DiesHalfway,
    /// The process dies after it took effect, and before a folder's client has removed the file that it wrote into.
    DiesBeforeTidying,
    /// The process dies after it took effect.
    DiesAfter,
}

impl Fault {
    /// Those that any store can have, and that are told.
    pub(crate) const ALL: [Self; 5] =
        [Self::Fails, Self::AnswerLost, Self::HalfAnswer, Self::DiesBefore, Self::DiesAfter];

    /// Those that only a folder has.
    const IN_A_FOLDER: [Self; 2] = [Self::DiesHalfway, Self::DiesBeforeTidying];

    pub(crate) const fn dies(self) -> bool {
        matches!(self, Self::DiesBefore | Self::DiesHalfway | Self::DiesBeforeTidying | Self::DiesAfter)
    }
}

/// Where the objects are.
#[derive(Clone, Debug)]
enum Medium {
    Memory(Arc<InMemory>),
    Folder(Arc<TempDir>, LocalFileSystem),
}

impl Medium {
    /// An empty folder.
    fn folder() -> Self {
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        let client = LocalFileSystem::new_with_prefix(folder.path()).expect("it is there");
        Self::Folder(Arc::new(folder), client)
    }

    fn client(&self) -> &dyn ObjectStore {
        match self {
            Self::Memory(memory) => memory.as_ref(),
            Self::Folder(_, client) => client,
        }
    }

    /// A copy. No file of a store is ever written to once it is there, so links are copies.
    fn fork(&self) -> Self {
        match self {
            Self::Memory(memory) => Self::Memory(Arc::new(memory.fork())),
            Self::Folder(folder, _) => {
                let fork = Self::folder();
                if let Self::Folder(to, _) = &fork {
                    link_all(folder.path(), to.path()).expect("links within the folder for temporary files");
                }
                fork
            }
        }
    }

    /// The file that a folder's client writes an object into.
    fn staging(&self, location: &Path) -> Option<PathBuf> {
        let Self::Folder(_, client) = self else { return None };
        let path = client.path_to_filesystem(location).expect("it is no name of a staging file");
        std::fs::create_dir_all(path.parent().expect("it is in the folder")).expect("it can be made");
        let named = |n: u32| PathBuf::from(format!("{}#{n}", path.display()));
        (1..1000).map(named).find(|path| !path.exists())
    }
}

fn link_all(from: &FilePath, to: &FilePath) -> std::io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let copy = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            std::fs::create_dir(&copy)?;
            link_all(&entry.path(), &copy)?;
        } else {
            std::fs::hard_link(entry.path(), &copy)?;
        }
    }
    Ok(())
}

/// The store. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct FaultyStore {
    medium: Medium,
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
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Work,
    WorkThen(Fault),
    Fail,
    Die,
}

impl FaultyStore {
    pub(crate) fn new() -> Self {
        Self::over(Medium::Memory(Arc::default()))
    }

    /// One that lies in a folder, which is removed with it.
    pub(crate) fn in_a_folder() -> Self {
        Self::over(Medium::folder())
    }

    fn over(medium: Medium) -> Self {
        Self { medium, state: Arc::default(), died: Arc::default() }
    }

    /// As the vault has it.
    pub(crate) fn as_store(&self) -> Store {
        let client = Arc::new(self.clone());
        match &self.medium {
            Medium::Memory(_) => Store::over(client),
            Medium::Folder(folder, _) => Store::over_folder(client, folder.path().into()),
        }
    }

    /// How an operation of it is to go wrong: in a folder only as it cannot in memory.
    pub(crate) const fn faults(&self) -> &'static [Fault] {
        match self.medium {
            Medium::Memory(_) => &Fault::ALL,
            Medium::Folder(..) => &Fault::IN_A_FOLDER,
        }
    }

    /// A copy with the same objects and clock, in which nothing went wrong.
    pub(crate) fn fork(&self) -> Self {
        let State { ahead, ref stored, .. } = *self.lock();
        let state = State { ahead, stored: stored.clone(), ..State::default() };
        Self { medium: self.medium.fork(), state: Arc::new(Mutex::new(state)), died: Arc::default() }
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

    /// From now on, operations are counted.
    pub(crate) fn count(&self) {
        let mut state = self.lock();
        (state.operations, state.fault) = (0, None);
    }

    /// How many operations there were since the last [`Self::inject`] or [`Self::count`].
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

    /// The names of all objects, with their lengths; of a folder all files, and those that no client lists, too.
    pub(crate) async fn objects(&self) -> std::collections::BTreeMap<String, u64> {
        let all = self.medium.client().list(None).map_ok(|o| (o.location.to_string(), o.size));
        let mut all: std::collections::BTreeMap<_, _> = all.try_collect().await.expect("it is there");
        for staged in self.as_store().staged().await.expect("the folder can be read") {
            all.insert(format!("{} unfinished: {staged:?}", staged.object), staged.bytes);
        }
        all
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
            Fault::DiesBefore => Turn::Die,
            fault => Turn::WorkThen(fault),
        }
    }

    /// An operation of which there is nothing halfway.
    pub(super) async fn take<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        match self.turn() {
            Turn::Work | Turn::WorkThen(Fault::ShortAnswer | Fault::CutOff) => work.await,
            Turn::Fail => Err(failure()),
            Turn::WorkThen(Fault::AnswerLost | Fault::HalfAnswer) => {
                work.await.ok();
                Err(failure())
            }
            Turn::WorkThen(Fault::DiesHalfway) | Turn::Die => self.die().await,
            Turn::WorkThen(_) => {
                work.await.ok();
                self.die().await
            }
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
        let stored = self.medium.client().put_opts(location, payload, options).await?;
        let mut state = self.lock();
        let ahead = state.ahead;
        state.stored.insert(location.clone(), ahead);
        Ok(stored)
    }
}

fn failure() -> Error {
    Error::Generic { store: "test", source: "injected".into() }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("test store")
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let turn = self.turn();
        let keep = match turn {
            Turn::Work | Turn::WorkThen(Fault::ShortAnswer | Fault::CutOff) => {
                return self.put_unharmed(location, payload, options).await;
            }
            Turn::Fail => return Err(failure()),
            Turn::Die => return self.die().await,
            Turn::WorkThen(Fault::AnswerLost | Fault::HalfAnswer) => {
                self.put_unharmed(location, payload, options).await.ok();
                return Err(failure());
            }
            Turn::WorkThen(Fault::DiesHalfway) => payload.content_length() / 2,
            Turn::WorkThen(_) => payload.content_length(),
        };
        if let (Turn::WorkThen(Fault::DiesHalfway | Fault::DiesBeforeTidying), Some(staging)) =
            (turn, self.medium.staging(location))
        {
            let bytes: Vec<u8> = payload.iter().flatten().copied().take(keep).collect();
            std::fs::write(staging, bytes).expect("the folder can be written to");
        }
        if turn != Turn::WorkThen(Fault::DiesHalfway) {
            self.put_unharmed(location, payload, options).await.ok();
        }
        self.die().await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented { operation: "multipart".into(), implementer: "test".into() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let get = async || -> Result<GetResult> {
            let found = self.medium.client().get_opts(location, options.clone()).await?;
            Ok(GetResult { meta: self.dated(found.meta.clone()), ..found })
        };
        match self.turn() {
            Turn::WorkThen(fault @ (Fault::HalfAnswer | Fault::ShortAnswer)) if !options.head => {
                let found = get().await?;
                let (meta, range, attributes) = (found.meta.clone(), found.range.clone(), found.attributes.clone());
                let extensions = found.extensions.clone();
                let whole = found.bytes().await?;
                let half = [Ok(whole.slice(..whole.len() / 2)), Err(failure())];
                let parts = if fault == Fault::HalfAnswer { 2 } else { 1 };
                let payload = GetResultPayload::Stream(stream::iter(half).take(parts).boxed());
                Ok(GetResult { payload, meta, range, attributes, extensions })
            }
            Turn::WorkThen(Fault::CutOff) if !options.head => {
                let found = get().await?;
                let (mut meta, attributes, extensions) =
                    (found.meta.clone(), found.attributes.clone(), found.extensions.clone());
                let half = found.bytes().await?;
                let half = half.slice(..half.len() / 2);
                meta.size = half.len() as u64;
                let range = 0..meta.size;
                let payload = GetResultPayload::Stream(stream::iter([Ok(half)]).boxed());
                Ok(GetResult { payload, meta, range, attributes, extensions })
            }
            Turn::Work | Turn::WorkThen(Fault::ShortAnswer | Fault::CutOff) => get().await,
            Turn::Fail | Turn::WorkThen(Fault::AnswerLost | Fault::HalfAnswer) => Err(failure()),
            Turn::Die | Turn::WorkThen(_) => self.die().await,
        }
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        // As its clients do: of one range it is `get_range`, whose answer can be cut off.
        if let [range] = ranges {
            return Ok(vec![self.get_range(location, range.clone()).await?]);
        }
        self.take(self.medium.client().get_ranges(location, ranges)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        let delete = move |location: Result<Path>| {
            let this = this.clone();
            async move {
                let location = location?;
                let one = stream::iter([Ok(location)]).boxed();
                this.take(this.medium.client().delete_stream(one).try_collect::<Vec<_>>()).await
            }
        };
        let each = locations.then(delete);
        each.map_ok(|paths| stream::iter(paths.into_iter().map(Ok))).try_flatten().boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, prefix) = (self.clone(), prefix.cloned());
        let listing = async move {
            let turn = this.turn();
            match turn {
                Turn::Work | Turn::WorkThen(Fault::HalfAnswer | Fault::ShortAnswer | Fault::CutOff) => {}
                Turn::Fail | Turn::WorkThen(Fault::AnswerLost) => return Err(failure()),
                Turn::Die | Turn::WorkThen(_) => return this.die().await,
            }
            let all: Vec<_> = this.medium.client().list(prefix.as_ref()).try_collect().await?;
            let mut all: Vec<_> = all.into_iter().map(|meta| Ok(this.dated(meta))).collect();
            if turn == Turn::WorkThen(Fault::HalfAnswer) {
                all.truncate(all.len() / 2);
                all.push(Err(failure()));
            }
            Ok::<_, Error>(stream::iter(all))
        };
        stream::once(listing).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut listing = self.take(self.medium.client().list_with_delimiter(prefix)).await?;
        listing.objects = listing.objects.into_iter().map(|meta| self.dated(meta)).collect();
        Ok(listing)
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(Error::NotImplemented { operation: "copy".into(), implementer: "test".into() })
    }
}
