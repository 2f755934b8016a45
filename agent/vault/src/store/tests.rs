//! What the vault needs of a store, over every kind of store.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use remora_core::ports::{LineageBreak, Mover};
use remora_core::{ErrorKind, VmName};
use remora_plugins::movers::Movers;
use remora_tests::{Fault as Meddling, Meddler, Plugin, S3, Transport, WebDav};

use super::lenient::Lenient;
use super::open::{Patience, keeping_client};
use super::{Access, Created, Plugins, Store};
use crate::location::{Location, Place};
use crate::testing::{Fault, FaultyStore};
use crate::{Passphrase, Secret, Vault, VaultOptions};

/// As seldom as the tests need it, and for as long as a busy machine does: a server that breaks off is not waited for.
const PATIENT: Patience = Patience {
    connect: Duration::from_mins(5),
    silence: Duration::from_mins(5),
    retries: 2,
    give_up: Duration::from_mins(10),
    outage: Duration::ZERO,
};

/// For a server that hangs.
const HASTY: Patience = Patience { silence: Duration::from_secs(2), ..PATIENT };

/// For one that hangs, and that then answers to a test which may have no processor for a while.
const STUBBORN: Patience = Patience { retries: 20, ..HASTY };

/// More than a segment, of which the parts are not one buffer.
fn large(first: u8) -> PutPayload {
    let part = |n: u8| Bytes::from(vec![n; 3_000_000]);
    (0..6).map(|n| part(first.wrapping_add(n))).collect()
}

fn location(s3: &S3, url: &str) -> Location {
    let access = Access { credentials: Some(s3.credentials()), ..Access::default() };
    url.parse::<Location>().unwrap().reached_by(access)
}

fn open(s3: &S3, bucket: &str) -> Store {
    Store::open(&location(s3, &s3.url(bucket))).unwrap()
}

/// A store behind a proxy that meddles with it.
struct Meddled {
    s3: S3,
    meddler: Meddler,
    store: Store,
}

impl Meddled {
    fn new(patience: Patience) -> Self {
        let s3 = S3::start();
        s3.bucket("meddled");
        let meddler = Meddler::before(s3.address());
        let store = meddled(&s3, &meddler, patience);
        Self { s3, meddler, store }
    }

    /// The same bucket, reached through the proxy by another client.
    fn another(&self, patience: Patience) -> Store {
        meddled(&self.s3, &self.meddler, patience)
    }

    /// The same bucket, reached without the proxy.
    fn direct(&self) -> Store {
        open(&self.s3, "meddled")
    }
}

fn meddled(s3: &S3, meddler: &Meddler, patience: Patience) -> Store {
    Store::open_with(&location(s3, &s3.url_at("meddled", meddler.address())), patience).unwrap()
}

/// A server behind a mover of the SDK's examples.
fn open_plugin(plugin: &Plugin) -> Store {
    let mut movers = Movers::new(plugin.folder(), None);
    movers.program = Some(Plugin::host());
    let plugins = Plugins::new(movers.opener());
    let access = Access { plugins: Some(plugins), ..Access::default() };
    Store::open(&plugin.url("a/repository").parse::<Location>().unwrap().reached_by(access)).unwrap()
}

/// Runs a check over a folder, memory, a real S3 server, the same behind a plugin, and a WebDAV server behind another.
async fn over_every_store(check: impl AsyncFn(Store)) {
    let folder = tempfile::tempdir().unwrap();
    let location: Location = folder.path().to_str().unwrap().parse().unwrap();
    check(Store::open(&location).unwrap()).await;
    check(Store::over(Arc::new(InMemory::new()))).await;
    let s3 = S3::start();
    s3.bucket("bucket");
    check(open(&s3, "bucket")).await;
    s3.bucket("behind-a-plugin");
    let plugin = Plugin::of_bucket(s3.address(), "behind-a-plugin");
    check(open_plugin(&plugin)).await;
    let webdav = WebDav::start(Transport::Http);
    check(open_plugin(&Plugin::of_webdav(&webdav))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_sixteen_creators_one_wins_and_its_bytes_stay() {
    over_every_store(async |store| {
        for round in 0..5 {
            let name = Path::from(format!("race/{round}"));
            let racers = (0..16_u8).map(|n| {
                let (store, name) = (store.clone(), name.clone());
                tokio::spawn(async move { (n, store.create(&name, vec![n; 100_000].into()).await.unwrap()) })
            });
            let ended = futures::future::join_all(racers).await.into_iter().map(Result::unwrap);
            let winners: Vec<u8> = ended.filter(|(_, end)| *end == Created::Yes).map(|(n, _)| n).collect();
            assert_eq!(winners.len(), 1, "{store:?}: {winners:?}");
            assert_eq!(store.get(&name, 1 << 20).await.unwrap().unwrap(), vec![winners[0]; 100_000], "{store:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_object_is_created_once_and_read_by_ranges() {
    over_every_store(async |store| {
        let name = Path::from("large");
        assert_eq!(store.create(&name, large(1)).await.unwrap(), Created::Yes);
        assert_eq!(store.create(&name, large(2)).await.unwrap(), Created::NameTaken);
        // The same bytes are as good as stored: it may have been an earlier try of ours.
        assert_eq!(store.create(&name, large(1)).await.unwrap(), Created::Yes);
        let whole: Vec<u8> = large(1).iter().flatten().copied().collect();
        assert!(store.get(&name, u64::MAX).await.unwrap().unwrap() == whole);
        let ranges = [2_999_990..3_000_010, 0..1, 17_999_999..18_000_000, 5_000_000..9_000_000];
        for (range, bytes) in ranges.iter().zip(store.ranges(&name, &ranges).await.unwrap()) {
            assert!(bytes == whole[range.start as usize..range.end as usize], "{store:?} {range:?}");
        }
        let tail = store.tail(&name, 100).await.unwrap();
        assert_eq!((tail.object_len, &tail.bytes[..]), (18_000_000, &whole[17_999_900..]));
        assert_eq!(
            store.ranges(&name, std::slice::from_ref(&(17_999_999..18_000_001))).await.unwrap_err().kind(),
            ErrorKind::Damaged
        );
        assert_eq!(store.get(&name, 17_999_999).await.unwrap_err().kind(), ErrorKind::Damaged);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_is_listed_and_what_was_not_is_missing() {
    over_every_store(async |store| {
        for n in 0..30 {
            let name = Path::from(format!("folder/{n:02}"));
            assert_eq!(store.create(&name, PutPayload::from_static(b"x")).await.unwrap(), Created::Yes);
            let mut listed = store.children(&Path::from("folder")).await.unwrap();
            listed.sort();
            assert_eq!(listed, (0..=n).map(|n| format!("{n:02}")).collect::<Vec<_>>(), "{store:?}");
        }
        let missing = Path::from("folder/missing");
        assert!(!store.exists(&missing).await.unwrap() && store.exists(&Path::from("folder/00")).await.unwrap());
        assert_eq!(store.get(&missing, 10).await.unwrap(), None);
        assert_eq!(store.tail(&missing, 10).await.unwrap_err().kind(), ErrorKind::Damaged);
        assert_eq!(store.ranges(&missing, &[0..1, 5..6]).await.unwrap_err().kind(), ErrorKind::Damaged);
        assert_eq!(store.children(&Path::from("nothing")).await.unwrap(), Vec::<String>::new());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_whose_answer_is_lost_is_found_out_by_reading() {
    let meddled = Meddled::new(PATIENT);
    let Meddled { meddler, store, .. } = &meddled;
    let name = Path::from("ours");
    store.create(&Path::from("proven"), PutPayload::from_static(b"")).await.unwrap();
    // Once: the client's own repetition meets the object that its first try stored. More often: it gives up.
    for (n, times) in [1, 2, 20].into_iter().enumerate() {
        let name = Path::from(format!("{name}-{n}"));
        meddler.meddle("PUT", name.as_ref(), Meddling::LoseAnswer, times);
        assert_eq!(store.create(&name, PutPayload::from_static(b"mine")).await.unwrap(), Created::Yes, "{times}");
        assert!(meddler.left() < times, "the proxy did nothing");
        assert_eq!(meddled.direct().get(&name, 10).await.unwrap().unwrap(), "mine");
    }
    // Another's object is not taken for ours.
    let name = Path::from("theirs");
    meddled.direct().create(&name, PutPayload::from_static(b"their")).await.unwrap();
    meddler.meddle("PUT", name.as_ref(), Meddling::LoseAnswer, 20);
    assert_eq!(store.create(&name, PutPayload::from_static(b"mine")).await.unwrap(), Created::NameTaken);
    assert_eq!(meddled.direct().get(&name, 10).await.unwrap().unwrap(), "their");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_an_answer_is_asked_for_again_and_never_taken_for_the_object() {
    let meddled = Meddled::new(PATIENT);
    let Meddled { meddler, store, .. } = &meddled;
    let name = Path::from("object");
    store.create(&name, large(7)).await.unwrap();
    let whole: Vec<u8> = large(7).iter().flatten().copied().collect();
    meddler.meddle("GET", "object", Meddling::CutAnswer(5_000_000), 1);
    assert!(store.get(&name, u64::MAX).await.unwrap().unwrap() == whole);
    assert_eq!((meddler.left(), meddler.seen("GET", "object")), (0, 2));
    meddler.meddle("GET", "object", Meddling::CutAnswer(2_000), 100);
    for result in [
        store.get(&name, u64::MAX).await.map(|_| ()),
        store.tail(&name, 10_000).await.map(|_| ()),
        store.ranges(&name, &[0..1, 3_000_000..3_100_000]).await.map(|_| ()),
    ] {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
        assert!(error.chain().contains("object object of repository s3://meddled"), "{}", error.chain());
        assert!(error.advice().is_some(), "{}", error.chain());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_not_waited_for_without_end() {
    let meddled = Meddled::new(STUBBORN);
    let Meddled { meddler, store, .. } = &meddled;
    let name = Path::from("object");
    store.create(&name, PutPayload::from_static(b"x")).await.unwrap();
    meddler.meddle("GET", "object", Meddling::Hang, 1);
    assert_eq!(store.get(&name, 10).await.unwrap().unwrap(), "x", "asked for again");
    meddler.meddle("GET", "object", Meddling::Hang, 100);
    let error = meddled.another(HASTY).get(&name, 10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.advice().unwrap().contains("endpoint"), "{}", error.chain());
    // A PUT that hangs after it took effect.
    let name = Path::from("put");
    meddler.meddle("PUT", "put", Meddling::Hang, 1);
    assert_eq!(store.create(&name, PutPayload::from_static(b"x")).await.unwrap(), Created::Yes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_there_is_waited_for_and_one_that_never_answered_is_not() {
    let Meddled { meddler, store, s3: _s3 } = Meddled::new(Patience { outage: Duration::from_mins(10), ..PATIENT });
    meddler.go_down();
    let name = Path::from("object");
    let error = store.create(&name, PutPayload::from_static(b"x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
    let tried = meddler.turned_away();
    // As often as the client repeats a request of its own, and once more to look whether it took effect.
    assert!(tried <= 2 * (1 + PATIENT.retries), "{tried}");
    meddler.come_back();
    store.create(&Path::from("proven"), PutPayload::from_static(b"")).await.unwrap();
    meddler.meddle("PUT", "object", Meddling::LoseAnswerAndGoDown, 1);
    let creating = tokio::spawn({
        let (store, name) = (store.clone(), name.clone());
        async move { store.create(&name, PutPayload::from_static(b"x")).await }
    });
    let longer = tried + 2 * (2 + PATIENT.retries);
    let waits = || meddler.turned_away() > longer || creating.is_finished();
    tokio::task::block_in_place(|| remora_tests::wait_until("nobody waits for it", Duration::from_mins(5), waits));
    meddler.come_back();
    assert_eq!(creating.await.unwrap().unwrap(), Created::Yes);
    assert_eq!(store.get(&name, 10).await.unwrap().unwrap(), "x");
}

/// It is made anew when objects are to be kept until another time, and then has never been answered itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_keeps_what_it_stores_waits_from_its_first_object_on() {
    let s3 = S3::start();
    s3.locking_bucket("kept");
    let meddler = Meddler::before(s3.address());
    let location = location(&s3, &s3.url_at("kept", meddler.address()));
    let Place::Bucket(bucket) = &location.place else { panic!("it is a bucket") };
    let patience = Patience { outage: Duration::from_mins(10), ..PATIENT };
    let until = Timestamp::now() + Duration::from_hours(1);
    let client = keeping_client(&location, bucket, patience, None, until).unwrap();
    meddler.go_down();
    // Not a PUT: of that it is a matter of timing whether it breaks before or after it was sent.
    let asking = tokio::spawn(async move { client.head(&Path::from("object")).await });
    let longer = 2 * (1 + PATIENT.retries);
    let waits = || meddler.turned_away() > longer || asking.is_finished();
    tokio::task::block_in_place(|| remora_tests::wait_until("nobody waits for it", Duration::from_mins(5), waits));
    meddler.come_back();
    let answer = asking.await.unwrap();
    assert!(matches!(answer, Err(object_store::Error::NotFound { .. })), "{answer:?}");
}

#[tokio::test]
async fn a_store_that_replaces_objects_is_never_written_to() {
    let memory = Arc::new(InMemory::new());
    let lenient = || Store::over(Arc::new(Lenient(Arc::clone(&memory))));
    let secret = Secret::Passphrase(Passphrase::new(*b"p"));
    let refused = |error: remora_core::Error| {
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", error.chain());
        assert!(error.chain().contains("create-only") && error.advice().is_some(), "{}", error.chain());
    };
    refused(Vault::init_in(&lenient(), &secret).await.unwrap_err());
    assert_eq!(lenient().children(&Path::from("keys")).await.unwrap(), Vec::<String>::new());
    // A repository that came there by other means is read, and nothing is written to it.
    Vault::init_in(&Store::over(Arc::clone(&memory) as Arc<dyn ObjectStore>), &secret).await.unwrap();
    let objects = lenient().usage().await.unwrap();
    let vault = Vault::open_in(lenient(), &secret, VaultOptions::default()).await.unwrap();
    assert_eq!(vault.status().await.unwrap().points, 0);
    let vm = VmName::new("vm").unwrap();
    let broken = LineageBreak { time: Timestamp::now(), path: "/d".into(), reason: "test".into() };
    refused(vault.record_break(&vm, broken).await.unwrap_err());
    assert_eq!(lenient().usage().await.unwrap(), objects);
}

/// A client that gives the beginning of a body for all of it: a proxy that cuts and a server that names no length.
#[tokio::test]
async fn a_body_that_is_too_short_is_never_taken_for_the_object() {
    let faulty = FaultyStore::new();
    let store = faulty.as_store();
    let name = Path::from("object");
    let object = PutPayload::from(vec![7; 1000]);
    store.create(&name, object.clone()).await.unwrap();
    let told = |result: remora_core::Result<()>| {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "it is not damaged: {}", error.chain());
        assert!(error.chain().contains("the store sent"), "{}", error.chain());
    };
    faulty.inject(0, Fault::ShortAnswer);
    told(store.get(&name, 1000).await.map(drop));
    faulty.inject(0, Fault::ShortAnswer);
    told(store.tail(&name, 100).await.map(drop));
    faulty.inject(1, Fault::ShortAnswer);
    told(store.ranges(&name, &[0..10, 500..600]).await.map(drop));
    // The one object that is there is this one, whatever half of it looks like.
    faulty.inject(1, Fault::ShortAnswer);
    assert_eq!(store.create(&name, object.clone()).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(store.create(&name, object).await.unwrap(), Created::Yes);
}
