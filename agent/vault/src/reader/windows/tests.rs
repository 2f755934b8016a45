//! How many fetches are in flight, over a store whose answers take their time.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use remora_core::point::Decision;
use remora_core::ports::{DiskIndex, Mover};
use remora_core::{BLOCK_SIZE, ByteRange, ErrorKind, PIECE_SIZE, VmName};

use crate::store::Store;
use crate::testing::{back_up, image, read};
use crate::tests::secret;
use crate::{Vault, VaultOptions};

/// What a store that is far away needs.
const IN_FLIGHT: usize = 16;

/// How long it takes to answer.
const ANSWER: Duration = Duration::from_millis(30);

/// A store that answers each GET after a while, and counts those that it has not answered.
#[derive(Clone, Debug, Default)]
struct FarAway {
    inner: Arc<InMemory>,
    asked: Arc<AtomicUsize>,
    answered: Arc<AtomicUsize>,
    /// Whether it has nothing of an object but its end.
    has_ends_only: Arc<AtomicBool>,
}

impl FarAway {
    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    fn in_flight(&self) -> usize {
        self.asked() - self.answered.load(Ordering::Relaxed)
    }

    /// Notes again and again how many were asked and how many are in flight, never in the instant of an answer: those come
    /// after an even number of milliseconds.
    async fn watch(&self, seen: &mut Vec<(usize, usize)>) {
        tokio::time::sleep(Duration::from_millis(1)).await;
        loop {
            seen.push((self.asked(), self.in_flight()));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

impl fmt::Display for FarAway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for FarAway {
    async fn put_opts(&self, name: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(name, payload, options).await
    }

    async fn put_multipart_opts(&self, name: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(name, options).await
    }

    async fn get_opts(&self, name: &Path, options: GetOptions) -> Result<GetResult> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(ANSWER).await;
        self.answered.fetch_add(1, Ordering::Relaxed);
        if self.has_ends_only.load(Ordering::Relaxed) && matches!(options.range, Some(GetRange::Bounded(_))) {
            return Err(Error::NotFound { path: name.to_string(), source: "it has its end only".into() });
        }
        self.inner.get_opts(name, options).await
    }

    fn delete_stream(&self, names: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(names)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// The clock stands still while there is anything to do: when it goes on, all that is wanted by then has been asked for.
#[tokio::test(start_paused = true)]
async fn sixteen_fetches_are_in_flight_while_there_is_enough_left_to_fetch() {
    let store = FarAway::default();
    let at = || Store::over(Arc::new(store.clone()));
    Vault::init_in(&at(), &secret()).await.unwrap();
    let vault = Vault::open_in(at(), &secret(), VaultOptions::default()).await.unwrap();
    // It compresses to a thirtieth, and has a hole of more than a leaf: so there is little to fetch of each part.
    let mut disk = image(0..90 * 16);
    disk.extend(vec![0; 70 * PIECE_SIZE as usize]);
    disk.extend(image(2000..2000 + 40 * 16));
    let vm = VmName::new("vm").unwrap();
    let point = back_up(&vault, &vm, Decision::Full, &disk, &[]).await.unwrap();

    let mut seen = Vec::new();
    let restored = tokio::select! {
        restored = read(&vault, &point.id) => restored.unwrap(),
        () = store.watch(&mut seen) => unreachable!("it ends when the disk is read"),
    };
    assert!(restored == disk, "other bytes were read");
    let all = store.asked();
    let on_the_way = seen.iter().skip_while(|(_, in_flight)| *in_flight < IN_FLIGHT);
    let few: Vec<_> = on_the_way.clone().filter(|(asked, in_flight)| *asked < all && *in_flight < IN_FLIGHT).collect();
    assert!(on_the_way.count() > 0, "never were {IN_FLIGHT} in flight: {seen:?}");
    assert!(few.is_empty(), "of {all} fetches were asked and in flight: {few:?}");
}

#[tokio::test(start_paused = true)]
async fn a_segment_of_which_the_store_has_the_end_only_is_not_asked_for_for_ever() {
    let store = FarAway::default();
    let at = || Store::over(Arc::new(store.clone()));
    Vault::init_in(&at(), &secret()).await.unwrap();
    let vault = Vault::open_in(at(), &secret(), VaultOptions::default()).await.unwrap();
    let (vm, disk) = (VmName::new("vm").unwrap(), image(0..32));
    let point = back_up(&vault, &vm, Decision::Full, &disk, &[]).await.unwrap();
    let reader = vault.open(&point.id).await.unwrap();
    let block = |at| ByteRange::at(at, BLOCK_SIZE);
    // With it comes the map, which tells of the next chunk too.
    assert!(reader.read(DiskIndex(0), block(0)).await.unwrap() == disk[..BLOCK_SIZE as usize]);
    store.has_ends_only.store(true, Ordering::Relaxed);
    let error = reader.read(DiskIndex(0), block(PIECE_SIZE)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged, "{}", error.chain());
}
