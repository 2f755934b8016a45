//! What every mover of objects is tried with.

use std::path::Path as File;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use remora_plugins::movers::MoverStore;

/// The lines of a document for a server of this host: what is particular to the mover, then the way there.
pub(crate) fn document(lines: &str, endpoint: &str, ca_file: &File) -> String {
    let (_, server) = endpoint.split_once("://").unwrap();
    let plain = endpoint.starts_with("http:");
    let ca_file = if plain { "null".into() } else { ca_file.display().to_string() };
    format!(
        "{lines}network: {{allow: ['{server}'], addresses: [127.0.0.1, '::1'], plainHttp: {plain}, caFile: {ca_file}}}\n"
    )
}

pub(crate) async fn create(store: &MoverStore, key: &str, payload: impl Into<PutPayload>) -> Result<(), Error> {
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    store.put_opts(&Path::from(key), payload.into(), options).await.map(drop)
}

pub(crate) async fn get(store: &MoverStore, key: &str) -> Result<Bytes, Error> {
    store.get(&Path::from(key)).await?.bytes().await
}

pub(crate) async fn keys(store: &MoverStore, prefix: Option<&str>) -> Vec<String> {
    let prefix = prefix.map(Path::from);
    store.list(prefix.as_ref()).map_ok(|object| object.location.to_string()).try_collect().await.unwrap()
}

/// An object is stored once, read, listed, replaced and removed; `file` is where the server keeps it.
pub(crate) async fn journey(store: &MoverStore, file: &File) {
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let pieces: PutPayload = bytes.chunks(1_000_000).map(Bytes::copy_from_slice).collect();
    create(store, "t/one", pieces).await.unwrap();
    assert!(matches!(create(store, "t/one", "other").await, Err(Error::AlreadyExists { .. })));
    assert!(get(store, "t/one").await.unwrap() == bytes);
    assert!(std::fs::read(file).unwrap() == bytes);
    let ranges = store.get_ranges(&Path::from("t/one"), &[5..6, 2_999_990..3_000_000]).await.unwrap();
    assert_eq!(ranges, [&bytes[5..6], &bytes[2_999_990..]]);
    assert!(matches!(get(store, "t/none").await, Err(Error::NotFound { .. })));
    create(store, "t/empty", "").await.unwrap();
    store.put(&Path::from("t/empty"), "now full".into()).await.unwrap();
    assert_eq!(get(store, "t/empty").await.unwrap(), "now full");
    let removed = [Path::from("t/one"), Path::from("t/never")].map(Ok);
    let removed: Vec<_> = store.delete_stream(Box::pin(futures::stream::iter(removed))).try_collect().await.unwrap();
    assert_eq!(removed.len(), 2);
    assert_eq!(keys(store, None).await, ["t/empty"]);
}
