//! The mover of `sdk/examples/webdav` against a real WebDAV server.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, SystemTime};

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt};
use remora_plugins::movers::{MoverStore, Patience};
use remora_tests::webdav::{PASSWORD, USER};
use remora_tests::{Transport, WebDav};

use super::network::ours;
use super::objects::{create, document, get, journey, keys};
use super::{Folder, example};

/// A collection behind the mover.
struct Collection {
    server: WebDav,
    folder: Folder,
    store: MoverStore,
}

/// The lines of a document for a server.
fn lines(server: &WebDav, collection: &str, secret: &str) -> String {
    let endpoint = server.endpoint();
    let lines =
        format!("settings: {{url: '{endpoint}/{collection}', user: {USER}}}\nsecrets: {{password: {secret}}}\n");
    document(&lines, &endpoint, &server.ca_file())
}

impl Collection {
    fn new(transport: Transport) -> Self {
        let server = WebDav::start(transport);
        let folder = Folder::new();
        fs::write(folder.path().join("secret"), format!("{PASSWORD}\n")).unwrap();
        let component = fs::read(example("webdav")).unwrap();
        let store = folder.mover("webdav", &component, &lines(&server, "backups", "secret"));
        Self { server, folder, store }
    }

    /// The same objects, through a mover that knows nothing of this one.
    fn another(&self) -> MoverStore {
        self.folder.movers.open("webdav", "a/prefix").unwrap_or_else(|e| panic!("{}", e.chain()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_goes_over_tls_once_and_is_read_listed_replaced_and_removed() {
    let collection = Collection::new(Transport::Https);
    let store = &collection.store;
    journey(store, &collection.server.files().join("a/prefix/t/o~/one")).await;
    assert_eq!(fs::read_dir(collection.server.files().join("a/prefix/~new")).unwrap().count(), 0);
    // By the same clock: the server is on this machine.
    let stored = SystemTime::from(store.head(&Path::from("t/empty")).await.unwrap().last_modified);
    let apart = SystemTime::now().duration_since(stored).unwrap_or_default();
    assert!(apart.as_secs() < 600 && stored <= SystemTime::now(), "{stored:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_come_in_order_whatever_collections_they_lie_in() {
    let collection = Collection::new(Transport::Http);
    let store = &collection.store;
    // Names that begin alike, numbers among them; an object and a folder of one name; and what sorts before a slash.
    let mut all = [
        "a",
        "a-b/x",
        "a.b",
        "a/b",
        "a/b/c",
        "ab",
        "n/000000000001",
        "n/000000001000",
        "n/0000a",
        "n/12",
        "n/123",
        "n/123456",
        "n/1234",
        "n/12a",
        "n/1b",
        "z",
    ];
    for key in all {
        create(store, key, key).await.unwrap();
    }
    all.sort_unstable();
    let other = collection.another();
    assert_eq!(keys(&other, None).await, all);
    assert_eq!(
        keys(&other, Some("n")).await,
        all.iter().copied().filter(|key| key.starts_with("n/")).collect::<Vec<_>>()
    );
    for key in all {
        assert_eq!(get(&other, key).await.unwrap(), key);
    }
    let top = other.list_with_delimiter(None).await.unwrap();
    let objects: Vec<_> = top.objects.iter().map(|object| object.location.as_ref()).collect();
    let folders: Vec<_> = top.common_prefixes.iter().map(Path::as_ref).collect();
    assert_eq!((objects, folders), (vec!["a", "a.b", "ab", "z"], vec!["a", "a-b", "n"]));
    // Removing an object spares the folder of its name.
    let removed = store.delete_stream(Box::pin(futures::stream::iter([Ok(Path::from("a"))])));
    removed.try_collect::<Vec<_>>().await.unwrap();
    assert_eq!(keys(&other, Some("a")).await, ["a/b", "a/b/c"]);
}

/// As it is for a moment on every server, and for longer on one that was killed then.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_being_replaced_is_there_all_the_time() {
    let collection = Collection::new(Transport::Http);
    let folder = collection.server.files().join("a/prefix/w/s~");
    fs::create_dir_all(&folder).unwrap();
    // The old one was removed, and what comes in its place is not there yet, but for its spare.
    fs::write(folder.join("sign~"), "new").unwrap();
    let store = &collection.store;
    assert_eq!(get(store, "w/sign").await.unwrap(), "new");
    assert_eq!(keys(store, None).await, ["w/sign"]);
    // It is not created once more.
    assert!(matches!(create(store, "w/sign", "another's").await, Err(Error::AlreadyExists { .. })));
    assert_eq!(get(store, "w/sign").await.unwrap(), "new");
    store.put(&Path::from("w/sign"), "newer".into()).await.unwrap();
    assert_eq!(get(store, "w/sign").await.unwrap(), "newer");
    assert_eq!(keys(store, None).await, ["w/sign"]);
    // Nobody touched the spare while it was all that there was.
    let files = || ["sign", "sign~"].map(|name| fs::read_to_string(folder.join(name)).unwrap());
    assert_eq!(files(), ["newer", "new"]);
    store.put(&Path::from("w/sign"), "newest".into()).await.unwrap();
    assert_eq!(files(), ["newest", "newest"]);
    // Nor does the spare bring back what is removed.
    store.delete(&Path::from("w/sign")).await.unwrap();
    assert_eq!(keys(store, None).await, [] as [&str; 0]);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_replace_an_object_all_succeed_and_one_of_theirs_is_there() {
    let mut collection = Collection::new(Transport::Http);
    // They are in each other's way, and the server says so.
    collection.folder.movers.patience = Patience { retries: 100, give_up: Duration::from_mins(10) };
    let path = Path::from("w/sign");
    let others = [collection.another(), collection.another(), collection.another()];
    let replacing = others.iter().zip(["1", "2", "3"]).map(|(other, text)| {
        let path = &path;
        async move {
            for _ in 0..10 {
                other.put(path, text.into()).await.unwrap();
            }
        }
    });
    futures::future::join_all(replacing).await;
    let left = get(&collection.store, "w/sign").await.unwrap();
    assert!(["1", "2", "3"].iter().any(|text| left == *text), "{left:?}");
    let files = collection.server.files().join("a/prefix");
    let names: BTreeSet<_> =
        fs::read_dir(files.join("w/s~")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["sign", "sign~"].map(Into::into).into());
    assert_eq!(fs::read_dir(files.join("~new")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_and_a_missing_collection_say_what_to_do() {
    let collection = Collection::new(Transport::Http);
    let folder = &collection.folder;
    fs::write(folder.path().join("wrong"), "not the password").unwrap();
    let component = fs::read(example("webdav")).unwrap();
    let wrong = folder.mover("wrong", &component, &lines(&collection.server, "backups", "wrong"));
    let error = create(&wrong, "x", "y").await.unwrap_err();
    let error = ours(&error);
    assert!(error.chain().contains("401") && error.advice().unwrap().contains("secrets"), "{}", error.chain());
    let elsewhere = folder.mover("elsewhere", &component, &lines(&collection.server, "nowhere", "secret"));
    let listed: Result<Vec<_>, _> = elsewhere.list(None).try_collect().await;
    let error = listed.unwrap_err();
    let error = ours(&error);
    assert!(error.chain().contains("(url) is not there"), "{}", error.chain());
    assert!(error.advice().unwrap().contains("settings in the mover's document"), "{:?}", error.advice());
}
