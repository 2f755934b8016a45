//! What a store lacks is found by trying, and told with what is lost.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use object_store::memory::InMemory;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutResult,
};

use super::*;
use crate::store::lenient::Lenient;
use crate::testing::FaultyStore;

/// What a store gets wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weakness {
    /// A range begins a byte too early.
    OtherRange,
    /// Nothing new is listed.
    ListsLate,
    /// Nothing can be stored in parts.
    NoParts,
    /// What was deleted is still there.
    KeepsAll,
}

#[derive(Debug)]
struct Weak(InMemory, Weakness);

impl fmt::Display for Weak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Weak {
    async fn put_opts(&self, name: &Path, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        self.0.put_opts(name, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        name: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        if self.1 == Weakness::NoParts {
            let source = "it stores in one piece only".into();
            return Err(object_store::Error::Generic { store: "weak", source });
        }
        self.0.put_multipart_opts(name, options).await
    }

    async fn get_opts(&self, name: &Path, mut options: GetOptions) -> object_store::Result<GetResult> {
        if let (Weakness::OtherRange, Some(GetRange::Bounded(range))) = (self.1, &mut options.range) {
            let early = range.start.min(1);
            *range = range.start - early..range.end - early;
        }
        self.0.get_opts(name, options).await
    }

    fn delete_stream(
        &self,
        names: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        if self.1 == Weakness::KeepsAll { names } else { self.0.delete_stream(names) }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        if self.1 == Weakness::ListsLate { futures::stream::empty().boxed() } else { self.0.list(prefix) }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        if self.1 == Weakness::ListsLate {
            return Ok(ListResult { common_prefixes: Vec::new(), objects: Vec::new(), extensions: Default::default() });
        }
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}

/// The one ability that is missing of a store, and all that is told of it.
async fn lacking(store: Store) -> (&'static str, Need, String) {
    let findings = store.examine().await.unwrap();
    assert_eq!(findings.len(), 6);
    let mut missing: Vec<_> = findings.into_iter().filter(|finding| finding.outcome.is_err()).collect();
    assert_eq!(missing.len(), 1, "{missing:?}");
    let Finding { name, need, outcome } = missing.remove(0);
    let error = outcome.unwrap_err();
    (name, need, format!("{} {}", error.chain(), error.advice().unwrap()))
}

#[tokio::test]
async fn whatever_a_store_lacks_is_named_with_what_is_lost() {
    let weak = |weakness| Store::over(Arc::new(Weak(InMemory::new(), weakness)));
    let ahead = FaultyStore::in_a_folder();
    ahead.advance(Duration::from_secs(3600));
    let cases = [
        (Store::over(Arc::new(Lenient(Arc::default()))), "create-only PUT", Need::Must, "replace one another's points"),
        (weak(Weakness::OtherRange), "ranged GET", Need::Must, "Nothing can be read"),
        (weak(Weakness::ListsLate), "list after write", Need::Must, "not see the points before it"),
        (weak(Weakness::NoParts), "multipart", Need::May, "streams images"),
        (weak(Weakness::KeepsAll), "delete", Need::May, "never given back"),
    ];
    for (store, ability, needed, lost) in cases {
        let (name, need, told) = lacking(store).await;
        assert_eq!((name, need), (format!("store: {ability}").as_str(), needed), "{told}");
        assert!(told.contains(lost), "{told}");
    }
    let clock = ahead.as_store().examine().await.unwrap().into_iter().find(|finding| finding.name == "store: clock");
    let error = clock.unwrap().outcome.unwrap_err();
    assert!(error.chain().contains("before this host's"), "{}", error.chain());
    assert!(error.advice().unwrap().contains("chrony"), "{:?}", error.advice());
}
