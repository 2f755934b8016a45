//! The simulated store: its objects, its clock, and the requests that wait for the schedule to let them go on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error, Extensions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::oneshot;

/// The store's time when a schedule begins.
pub(super) const EPOCH: Duration = Duration::from_secs(1_700_000_000);

/// What the store is asked.
#[derive(Clone, Debug)]
pub(super) enum Request {
    Create(Path, Bytes),
    Replace(Path, Bytes),
    Get(Path, Option<GetRange>),
    Ranges(Path, Vec<Range<u64>>),
    Delete(Path),
    /// A page of the names below a folder, after a name.
    List(Path, Option<Path>, usize),
}

impl Request {
    pub(super) const fn changes(&self) -> bool {
        matches!(self, Self::Create(..) | Self::Replace(..) | Self::Delete(_))
    }
}

/// What the store says.
#[derive(Debug)]
pub(super) enum Answer {
    Done,
    Object(Bytes, ObjectMeta),
    Parts(Vec<Bytes>),
    Page(Vec<ObjectMeta>),
}

/// The objects, and the store's clock.
#[derive(Clone, Debug)]
pub(super) struct Objects {
    pub(super) now: Duration,
    pub(super) map: BTreeMap<Path, (Bytes, Duration)>,
}

impl Objects {
    /// Does what a request asks, at one instant.
    pub(super) fn apply(&mut self, request: &Request) -> Result<Answer> {
        match request {
            Request::Create(path, _) if self.map.contains_key(path) => {
                Err(Error::AlreadyExists { path: path.to_string(), source: "simulated".into() })
            }
            Request::Create(path, bytes) | Request::Replace(path, bytes) => {
                self.map.insert(path.clone(), (bytes.clone(), self.now));
                Ok(Answer::Done)
            }
            Request::Delete(path) => self.map.remove(path).map(|_| Answer::Done).ok_or_else(|| not_found(path)),
            Request::Get(path, range) => {
                let (bytes, _) = self.map.get(path).ok_or_else(|| not_found(path))?;
                let range = match range {
                    None => 0..bytes.len(),
                    Some(GetRange::Suffix(len)) => bytes.len() - bytes.len().min(*len as usize)..bytes.len(),
                    Some(GetRange::Offset(from)) => *from as usize..bytes.len(),
                    Some(GetRange::Bounded(range)) => range.start as usize..bytes.len().min(range.end as usize),
                };
                Ok(Answer::Object(bytes.slice(range), self.meta(path)))
            }
            Request::Ranges(path, ranges) => {
                let (bytes, _) = self.map.get(path).ok_or_else(|| not_found(path))?;
                Ok(Answer::Parts(ranges.iter().map(|r| bytes.slice(r.start as usize..r.end as usize)).collect()))
            }
            Request::List(folder, after, page) => {
                let from = after.clone().unwrap_or_else(|| folder.clone());
                let names = self.map.range(from.clone()..).map(|(name, _)| name).filter(|name| **name != from);
                let below = names.take_while(|name| name.as_ref().starts_with(folder.as_ref()));
                let below = below.filter(|name| name.prefix_matches(folder));
                Ok(Answer::Page(below.take(*page).map(|name| self.meta(name)).collect()))
            }
        }
    }

    fn meta(&self, path: &Path) -> ObjectMeta {
        let (bytes, stored) = &self.map[path];
        ObjectMeta {
            location: path.clone(),
            last_modified: (SystemTime::UNIX_EPOCH + EPOCH + *stored).into(),
            size: bytes.len() as u64,
            e_tag: None,
            version: None,
        }
    }
}

fn not_found(path: &Path) -> Error {
    Error::NotFound { path: path.to_string(), source: "simulated".into() }
}

pub(super) fn lost() -> Error {
    Error::Generic { store: "simulation", source: "no answer came".into() }
}

/// A request that was sent.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) number: u64,
    pub(super) actor: usize,
    pub(super) request: Request,
    /// What the store did already, and did not tell yet.
    pub(super) done: Option<Result<Answer>>,
    /// Who waits; nobody for a copy of a request that somewhere took its time.
    pub(super) asker: Option<oneshot::Sender<Result<Answer>>>,
}

impl Sent {
    /// Whoever was killed hears nothing.
    pub(super) fn tell(self, done: Result<Answer>) {
        if let Some(asker) = self.asker {
            let _ = asker.send(done);
        }
    }
}

/// The store and what is on its way to it.
#[derive(Debug)]
pub(super) struct State {
    pub(super) objects: Objects,
    pub(super) sent: Vec<Sent>,
    pub(super) numbers: u64,
    /// How many names a listing tells at once.
    pub(super) page: usize,
}

/// The store as one actor sees it.
#[derive(Clone, Debug)]
pub(super) struct SimStore {
    pub(super) state: Arc<Mutex<State>>,
    /// Whose requests wait for the schedule; the model's do not.
    pub(super) actor: Option<usize>,
}

impl SimStore {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, request: Request) -> Result<Answer> {
        let Some(actor) = self.actor else { return self.lock().objects.apply(&request) };
        let (asker, answer) = oneshot::channel();
        {
            let mut state = self.lock();
            state.numbers += 1;
            let number = state.numbers;
            state.sent.push(Sent { number, actor, request, done: None, asker: Some(asker) });
        }
        answer.await.unwrap_or_else(|_| Err(lost()))
    }

    async fn page(self, folder: Path, after: Option<Path>) -> Result<(Vec<ObjectMeta>, Option<Path>)> {
        let page = if self.actor.is_some() { self.lock().page } else { usize::MAX };
        let Answer::Page(found) = self.ask(Request::List(folder, after, page)).await? else { return Err(lost()) };
        let next = found.last().filter(|_| found.len() == page).map(|last| last.location.clone());
        Ok((found, next))
    }
}

impl fmt::Display for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated store")
    }
}

#[async_trait]
impl ObjectStore for SimStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let request = match options.mode {
            PutMode::Create => Request::Create(location.clone(), payload.into()),
            PutMode::Overwrite => Request::Replace(location.clone(), payload.into()),
            PutMode::Update(_) => return Err(not_simulated("update")),
        };
        self.ask(request).await?;
        Ok(PutResult { e_tag: None, version: None, extensions: Extensions::default() })
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(not_simulated("multipart"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let asked = self.ask(Request::Get(location.clone(), options.range)).await?;
        let Answer::Object(bytes, meta) = asked else { return Err(lost()) };
        let range = 0..bytes.len() as u64;
        let payload = GetResultPayload::Stream(stream::once(async { Ok(bytes) }).boxed());
        Ok(GetResult { payload, meta, range, attributes: Attributes::default(), extensions: Extensions::default() })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        match self.ask(Request::Ranges(location.clone(), ranges.to_vec())).await? {
            Answer::Parts(parts) => Ok(parts),
            _ => Err(lost()),
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        let delete = move |location: Result<Path>| {
            let this = this.clone();
            async move {
                let location = location?;
                this.ask(Request::Delete(location.clone())).await.map(|_| location)
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, folder) = (self.clone(), prefix.cloned().unwrap_or_default());
        let pages = stream::try_unfold(Some(None), move |after: Option<Option<Path>>| {
            let (this, folder) = (this.clone(), folder.clone());
            async move {
                let Some(after) = after else { return Ok::<_, Error>(None) };
                let (found, next) = this.page(folder, after).await?;
                Ok(Some((stream::iter(found.into_iter().map(Ok)), next.map(Some))))
            }
        });
        pages.try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let folder = prefix.cloned().unwrap_or_default();
        let asked = self.ask(Request::List(folder.clone(), None, usize::MAX)).await?;
        let Answer::Page(found) = asked else { return Err(lost()) };
        let depth = folder.parts().count() + 1;
        let (objects, below): (Vec<_>, Vec<_>) = found.into_iter().partition(|o| o.location.parts().count() == depth);
        let folders: BTreeSet<Path> =
            below.iter().map(|object| object.location.parts().take(depth).collect()).collect();
        Ok(ListResult { objects, common_prefixes: folders.into_iter().collect(), extensions: Extensions::default() })
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(not_simulated("copy"))
    }
}

fn not_simulated(operation: &str) -> Error {
    Error::NotImplemented { operation: operation.into(), implementer: "simulation".into() }
}
