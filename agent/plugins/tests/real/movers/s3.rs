//! The mover of `sdk/examples/s3` against a real S3 server.

use std::fs;

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt};
use remora_core::ErrorKind;
use remora_plugins::movers::MoverStore;
use remora_tests::s3::{KEY, SECRET};
use remora_tests::{S3, Transport};

use super::objects::{create, document, get, journey};
use super::{Folder, example};

/// A bucket behind the mover.
pub(crate) struct Bucket {
    pub(crate) s3: S3,
    pub(crate) folder: Folder,
    pub(crate) store: MoverStore,
}

/// The lines of a document for a server.
pub(crate) fn lines(s3: &S3, secret: &str) -> String {
    let endpoint = s3.endpoint();
    let lines = format!(
        "settings: {{endpoint: '{endpoint}', bucket: backups, accessKey: {KEY}}}\nsecrets: {{secret-key: {secret}}}\n"
    );
    document(&lines, &endpoint, &s3.ca_file())
}

impl Bucket {
    pub(crate) fn new(transport: Transport) -> Self {
        Self::by(Folder::new(), transport)
    }

    pub(crate) fn by(folder: Folder, transport: Transport) -> Self {
        let s3 = S3::start_with(transport);
        s3.bucket("backups");
        fs::write(folder.path().join("secret"), format!("{SECRET}\n")).unwrap();
        let store = folder.mover("s3", &fs::read(example("s3")).unwrap(), &lines(&s3, "secret"));
        Self { s3, folder, store }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_goes_over_tls_once_and_is_read_listed_replaced_and_removed() {
    let bucket = Bucket::new(Transport::Https);
    journey(&bucket.store, &bucket.s3.files("backups").join("a/prefix/t/one")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_authority_is_not_named_is_not_trusted() {
    let bucket = Bucket::new(Transport::Https);
    let trusting = lines(&bucket.s3, "secret");
    let distrusting = trusting.replace(&bucket.s3.ca_file().display().to_string(), "null");
    assert_ne!(trusting, distrusting);
    let store = bucket.folder.mover("strange", &fs::read(example("s3")).unwrap(), &distrusting);
    let before = bucket.s3.all_requests();
    let error = create(&store, "x", "y").await.unwrap_err();
    let error = super::network::ours(&error);
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
    assert!(error.chain().contains("the certificate is not trusted of localhost"), "{}", error.chain());
    assert!(error.advice().unwrap().contains("network.caFile"), "{:?}", error.advice());
    assert_eq!(bucket.s3.all_requests(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_of_thousands_of_objects_are_listed_whole_and_in_few_requests() {
    let bucket = Bucket::new(Transport::Http);
    let store = &bucket.store;
    // As the server keeps them: making 2,500 objects one by one is no test of listings.
    let files = bucket.s3.files("backups").join("a/prefix");
    for folder in ["many/a", "many/b", "other"] {
        fs::create_dir_all(files.join(folder)).unwrap();
    }
    for n in 0..2_500 {
        fs::write(files.join(format!("many/a/{n:04}")), "x").unwrap();
    }
    for name in ["many/b/1", "many/c", "other/1"] {
        fs::write(files.join(name), "xy").unwrap();
    }
    let all: Vec<_> = store.list(Some(&Path::from("many"))).try_collect().await.unwrap();
    assert_eq!((all.len(), all[2_501].location.as_ref(), all[2_501].size), (2_502, "many/c", 2));
    let before = bucket.s3.requests("s3_ListObjectsV2");
    let children = store.list_with_delimiter(Some(&Path::from("many"))).await.unwrap();
    let folders: Vec<_> = children.common_prefixes.iter().map(Path::as_ref).collect();
    assert_eq!((folders, children.objects.len()), (vec!["many/a", "many/b"], 1));
    assert!(bucket.s3.requests("s3_ListObjectsV2") - before <= 3, "folders are not skipped");
    let top = store.list_with_delimiter(None).await.unwrap();
    assert_eq!(top.common_prefixes, [Path::from("many"), Path::from("other")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_make_a_whole_once() {
    let bucket = Bucket::new(Transport::Http);
    let store = &bucket.store;
    let path = Path::from("large");
    let parts = [vec![1; 5 << 20], vec![2; 100]];
    for taken in [false, true] {
        let mut upload = store.put_multipart(&path).await.unwrap();
        for part in &parts {
            upload.put_part(part.clone().into()).await.unwrap();
        }
        assert_eq!(matches!(upload.complete().await, Err(Error::AlreadyExists { .. })), taken);
        if taken {
            upload.abort().await.unwrap();
        }
    }
    assert!(get(store, "large").await.unwrap() == parts.concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_and_a_missing_bucket_say_what_to_do() {
    let bucket = Bucket::new(Transport::Http);
    let folder = &bucket.folder;
    fs::write(folder.path().join("wrong"), "not the secret").unwrap();
    let s3 = fs::read(example("s3")).unwrap();
    let wrong = folder.mover("wrong", &s3, &lines(&bucket.s3, "wrong"));
    let elsewhere = lines(&bucket.s3, "secret").replace("bucket: backups", "bucket: nowhere");
    let elsewhere = folder.mover("elsewhere", &s3, &elsewhere);
    for (store, said, advice) in
        [(wrong, "SignatureDoesNotMatch", "secrets"), (elsewhere, "NoSuchBucket", "settings in the mover's document")]
    {
        let error = create(&store, "x", "y").await.unwrap_err();
        let error = super::network::ours(&error);
        assert!(error.chain().contains(said), "{}", error.chain());
        assert!(error.advice().unwrap().contains(advice), "{:?}", error.advice());
    }
}
