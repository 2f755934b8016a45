//! A store of which no more than so much is used each second.

use std::fmt;
use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use tokio::time::Instant;

use crate::store::access::Limits;

/// Lets through so many of something each second: whoever takes much makes the next one wait.
#[derive(Debug)]
struct Pace {
    per_second: NonZeroU64,
    free_at: Mutex<Instant>,
}

impl Pace {
    fn of(per_second: NonZeroU64) -> Self {
        Self { per_second, free_at: Mutex::new(Instant::now()) }
    }

    /// When somebody who comes now with so much may go on.
    fn turn(&self, now: Instant, amount: u64) -> Instant {
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = (*free_at).max(now);
        let nanoseconds = u128::from(amount) * 1_000_000_000 / u128::from(self.per_second.get());
        *free_at = turn + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        turn
    }

    async fn take(&self, amount: u64) {
        tokio::time::sleep_until(self.turn(Instant::now(), amount)).await;
    }
}

/// The limits that there are.
#[derive(Debug)]
pub(super) struct Paces {
    upload: Option<Pace>,
    download: Option<Pace>,
    requests: Option<Pace>,
}

impl Paces {
    /// Those of `limits`, to be shared by all clients of a store; none if there is no limit.
    pub(super) fn of(limits: Limits) -> Option<Arc<Self>> {
        let paces = Self {
            upload: limits.upload.map(Pace::of),
            download: limits.download.map(Pace::of),
            requests: limits.requests.map(Pace::of),
        };
        (limits != Limits::default()).then(|| Arc::new(paces))
    }

    pub(super) async fn request(&self) {
        if let Some(pace) = &self.requests {
            pace.take(1).await;
        }
    }

    async fn upload(&self, bytes: u64) {
        self.request().await;
        if let Some(pace) = &self.upload {
            pace.take(bytes).await;
        }
    }

    async fn download(&self, bytes: u64) {
        if let Some(pace) = &self.download {
            pace.take(bytes).await;
        }
    }
}

/// The decorator. An object is sent at full speed, and the next one waits until the mean is right again.
#[derive(Debug)]
pub(super) struct Limited {
    inner: Arc<dyn ObjectStore>,
    paces: Arc<Paces>,
}

impl Limited {
    /// `inner`, limited if there is any limit.
    pub(super) fn over(inner: Arc<dyn ObjectStore>, paces: Option<Arc<Paces>>) -> Arc<dyn ObjectStore> {
        match paces {
            Some(paces) => Arc::new(Self { inner, paces }),
            None => inner,
        }
    }

    /// A stream that begins once a request may be made.
    fn after_request<T: Send + 'static>(
        &self,
        stream: impl FnOnce(Arc<dyn ObjectStore>) -> BoxStream<'static, Result<T>> + Send + 'static,
    ) -> BoxStream<'static, Result<T>> {
        let (inner, paces) = (Arc::clone(&self.inner), Arc::clone(&self.paces));
        let begun = async move {
            paces.request().await;
            Ok::<_, object_store::Error>(stream(inner))
        };
        futures::stream::once(begun).try_flatten().boxed()
    }
}

impl fmt::Display for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Limited {
    async fn put_opts(&self, name: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.paces.upload(payload.content_length() as u64).await;
        self.inner.put_opts(name, payload, options).await
    }

    /// Not limited: nothing of the vault is stored in parts.
    async fn put_multipart_opts(&self, name: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.paces.request().await;
        self.inner.put_multipart_opts(name, options).await
    }

    async fn get_opts(&self, name: &Path, options: GetOptions) -> Result<GetResult> {
        self.paces.request().await;
        let head = options.head;
        let found = self.inner.get_opts(name, options).await?;
        if !head {
            self.paces.download(found.range.end - found.range.start).await;
        }
        Ok(found)
    }

    async fn get_ranges(&self, name: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.paces.request().await;
        self.paces.download(ranges.iter().map(|range| range.end - range.start).sum()).await;
        self.inner.get_ranges(name, ranges).await
    }

    fn delete_stream(&self, names: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.after_request(move |inner| inner.delete_stream(names))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix = prefix.cloned();
        self.after_request(move |inner| inner.list(prefix.as_ref()))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.paces.request().await;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.paces.request().await;
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.paces.request().await;
        self.inner.rename_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    use super::*;

    fn per_second(n: u64) -> Option<NonZeroU64> {
        NonZeroU64::new(n)
    }

    #[test]
    fn whoever_takes_much_makes_the_next_one_wait_and_idle_time_is_not_saved_up() {
        let start = Instant::now();
        let pace = Pace { per_second: NonZeroU64::new(100).unwrap(), free_at: Mutex::new(start) };
        let after = |seconds: f64| start + Duration::from_secs_f64(seconds);
        assert_eq!(pace.turn(start, 250), start);
        assert_eq!(pace.turn(after(1.0), 100), after(2.5));
        assert_eq!(pace.turn(after(60.0), 100), after(60.0));
        assert_eq!(pace.turn(after(60.5), 1), after(61.0));
    }

    #[tokio::test(start_paused = true)]
    async fn each_limit_holds_for_what_it_is_of() {
        let all = Limits { upload: per_second(50_000), download: per_second(50_000), requests: per_second(50) };
        for (limits, milliseconds) in [
            // The first one of each kind goes at once, the other four wait.
            (Limits { requests: None, download: None, ..all }, 80),
            (Limits { requests: None, upload: None, ..all }, 80),
            (Limits { upload: None, download: None, ..all }, 180),
        ] {
            let store = Limited::over(Arc::new(InMemory::new()), Paces::of(limits));
            let start = Instant::now();
            for n in 0..5 {
                store.put(&Path::from(format!("{n}")), vec![0; 1000].into()).await.unwrap();
            }
            for n in 0..4 {
                store.get(&Path::from(format!("{n}"))).await.unwrap().bytes().await.unwrap();
            }
            store.get_ranges(&Path::from("4"), &[0..400, 400..1000]).await.unwrap();
            assert!(start.elapsed() >= Duration::from_millis(milliseconds), "{limits:?}: {:?}", start.elapsed());
        }
    }
}
