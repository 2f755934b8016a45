//! Actors over one store in memory that take one operation at a time, in an order that a test chooses.

use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};

use crate::store::Store;

/// One actor's way to the store: each operation waits until it is let through.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    inner: Arc<InMemory>,
    open: Arc<AtomicBool>,
}

impl Gate {
    pub(crate) fn before(inner: Arc<InMemory>) -> Self {
        Self { inner, open: Arc::default() }
    }

    /// The store behind it, of which it is known already that it honours create-only PUTs.
    pub(crate) fn proven_store(&self) -> Store {
        let store = Store::over(Arc::new(self.clone()));
        let mut steps = Steps::of(
            self.clone(),
            Box::pin({
                let store = store.clone();
                async move { store.prove_create_only().await }
            }),
        );
        while steps.done().is_none() {
            steps.step();
        }
        drop(steps);
        store
    }

    async fn pass(&self) {
        poll_fn(|_| if self.open.swap(false, Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

/// An actor, step by step.
pub(crate) struct Steps<T> {
    gate: Gate,
    work: Pin<Box<dyn Future<Output = T> + Send>>,
    done: Option<T>,
}

impl<T> Steps<T> {
    pub(crate) fn of(gate: Gate, work: Pin<Box<dyn Future<Output = T> + Send>>) -> Self {
        let mut steps = Self { gate, work, done: None };
        // As far as it comes before its first operation.
        steps.poll();
        steps
    }

    /// Lets one operation through.
    pub(crate) fn step(&mut self) {
        self.gate.open.store(true, Ordering::Relaxed);
        self.poll();
        assert!(!self.gate.open.load(Ordering::Relaxed), "it waits for something else than the store");
    }

    pub(crate) const fn done(&self) -> Option<&T> {
        self.done.as_ref()
    }

    fn poll(&mut self) {
        if let Poll::Ready(done) = self.work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            self.done = Some(done);
        }
    }
}

impl Steps<()> {
    /// What work gives that waits for nothing.
    pub(crate) fn to_the_end<T>(work: impl Future<Output = T>) -> T {
        match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => done,
            Poll::Pending => panic!("it waits"),
        }
    }
}

/// All orders, one after the other: the choices of one run, of which the last one that can be made otherwise is, in the
/// next.
#[derive(Debug, Default)]
pub(crate) struct Choices {
    /// What was chosen, of how many.
    made: Vec<(usize, usize)>,
    at: usize,
    begun: bool,
}

impl Choices {
    /// Begins the next run; false if there is none.
    pub(crate) fn next(&mut self) -> bool {
        self.at = 0;
        if !std::mem::replace(&mut self.begun, true) {
            return true;
        }
        while let Some((choice, of)) = self.made.pop() {
            if choice + 1 < of {
                self.made.push((choice + 1, of));
                return true;
            }
        }
        false
    }

    pub(crate) fn choose(&mut self, of: usize) -> usize {
        if self.at == self.made.len() {
            self.made.push((0, of));
        }
        self.at += 1;
        self.made[self.at - 1].0
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Gate {
    async fn put_opts(&self, name: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.pass().await;
        self.inner.put_opts(name, payload, options).await
    }

    async fn put_multipart_opts(&self, name: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.pass().await;
        self.inner.put_multipart_opts(name, options).await
    }

    async fn get_opts(&self, name: &Path, options: GetOptions) -> Result<GetResult> {
        self.pass().await;
        self.inner.get_opts(name, options).await
    }

    fn delete_stream(&self, names: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        let gone = async move {
            this.pass().await;
            Ok::<_, object_store::Error>(this.inner.delete_stream(names))
        };
        stream::once(gone).try_flatten().boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, prefix) = (self.clone(), prefix.cloned());
        let listed = async move {
            this.pass().await;
            Ok::<_, object_store::Error>(this.inner.list(prefix.as_ref()))
        };
        stream::once(listed).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.pass().await;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.pass().await;
        self.inner.copy_opts(from, to, options).await
    }
}
