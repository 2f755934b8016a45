//! Movers that misbehave: each costs its own call, and nothing else.

use std::fs;
use std::time::Duration;

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, Result};
use remora_core::ErrorKind;
use remora_plugins::movers::{MoverStore, Patience};
use tokio::time::timeout;

use super::network::{CANARY, ours};
use super::objects::{create, get};
use super::{Folder, example};
use crate::components::FOR_EVER;

/// A folder whose movers are not tried again.
pub(super) fn folder() -> Folder {
    let mut folder = Folder::new();
    folder.movers.patience = Patience { retries: 0, give_up: Duration::from_mins(10) };
    fs::write(folder.path().join("canary"), CANARY).unwrap();
    folder
}

pub(super) fn hostile(folder: &Folder, misbehave: &str) -> MoverStore {
    let component = fs::read(example("hostile")).unwrap();
    // Those that never answer are not waited for; the others have all the time that a busy machine needs.
    let timeout = if ["loop", "lines"].iter().any(|endless| misbehave.starts_with(endless)) { "1s" } else { "5m" };
    let lines = format!("settings: {{misbehave: '{misbehave}'}}\nsecrets: {{canary: canary}}\ntimeout: {timeout}\n");
    folder.mover("hostile", &component, &lines)
}

/// All that a vault and `doctor` do with a store.
async fn use_all(store: &MoverStore) -> Result<()> {
    let path = Path::from("t/x");
    create(store, "t/x", "0123456789").await?;
    store.put(&Path::from("t/y"), "now".into()).await?;
    get(store, "t/x").await?;
    store.list(Some(&Path::from("t"))).try_collect::<Vec<_>>().await?;
    store.list_with_delimiter(Some(&Path::from("t"))).await?;
    let mut upload = store.put_multipart(&path).await?;
    upload.put_part("0123456789".into()).await?;
    upload.complete().await?;
    upload.abort().await?;
    store.delete(&path).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_behaves_is_used_for_everything() {
    use_all(&hostile(&folder(), "")).await.unwrap();
}

/// Which call, how, and what is said of it.
const FAULTS: &[(&str, &str)] = &[
    ("trap in validate", "`validate` failed: it trapped"),
    ("trap in open", "`open` failed: it trapped"),
    ("trap in put", "`put-if-absent` failed: it trapped"),
    ("trap in replace", "`replace` failed: it trapped"),
    ("trap in get", "`get` failed: it trapped"),
    ("trap in head", "`head` failed: it trapped"),
    ("trap in list", "`list` failed: it trapped"),
    ("trap in delete", "`delete` failed: it trapped"),
    ("trap in multipart", "`multipart` failed: it trapped"),
    ("trap in part", "`part` failed: it trapped"),
    ("trap in complete", "`complete` failed: it trapped"),
    ("trap in abort", "`abort` failed: it trapped"),
    ("loop in validate", "did not answer within 1000 ms"),
    ("loop in open", "did not answer within 1000 ms"),
    ("loop in get", "did not answer within 1000 ms"),
    ("memory in put", "growing memory"),
    ("recursion in put", "it trapped"),
    ("secrets in put", "1000 secrets and wants more"),
    ("long secrets in put", "longer than 64 KiB"),
    ("lines in put", "did not answer within 1000 ms"),
    ("read beyond the buffer", "beyond the buffer"),
    ("list gigantically", "fuel"),
];

/// What it says is not so, and what is said of that.
const LIES: &[(&str, &str)] = &[
    ("say created and store nothing", "does not find it"),
    ("tell another size", "10 bytes as t/x, and 11 are there"),
    ("tell of another object", "asked for t/x, it tells of \"other\""),
    ("give other bytes", "other bytes are there"),
    ("give nothing", "it says that it fetched 10 bytes of t/x, and gave 0"),
    ("list what is elsewhere", "has \"~/elsewhere\" in it"),
    ("list in disorder", "is not in order at \"t/b\""),
    ("list too much", "objects in a page, 1000 at most"),
    ("list for ever", "never ends"),
    ("list strange names", "not in order at \"t/../etc/passwd\""),
    ("leave out", "leaves out t/x, which is there"),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_mover_that_misbehaves_is_contained_while_another_is_used() {
    let folder = folder();
    let good = folder.mover("good", &fs::read(example("hostile")).unwrap(), "");
    create(&good, "t/good", "bytes").await.unwrap();
    for (how, said) in FAULTS {
        let store = hostile(&folder, how);
        let attacked = store.clone();
        let attack = tokio::spawn(async move { use_all(&attacked).await });
        // While it is at work, and after it.
        for _ in 0..2 {
            assert_eq!(get(&good, "t/good").await.unwrap(), "bytes", "{how}");
        }
        let error = timeout(FOR_EVER, attack).await.expect(how).unwrap().expect_err(how);
        let error = ours(&error);
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{how}: {}", error.chain());
        assert!(error.chain().contains(said), "{how}: {}", error.chain());
        // The process outlives it.
        assert!(store.process().is_some(), "{how}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mover_that_lies_is_found_out_before_it_is_believed() {
    let folder = folder();
    for (how, said) in LIES {
        let error = use_all(&hostile(&folder, how)).await.expect_err(how);
        let error = ours(&error);
        assert_eq!(error.kind(), ErrorKind::Damaged, "{how}: {}", error.chain());
        assert!(error.chain().contains(said), "{how}: {}", error.chain());
    }
    for (how, said) in
        [("give too much", "the sink takes no more"), ("forget what to delete", "another function's answer")]
    {
        let error = use_all(&hostile(&folder, how)).await.expect_err(how);
        assert!(ours(&error).chain().contains(said), "{how}: {}", ours(&error).chain());
    }
}

/// In order, each page whole: what nobody would notice but by its length. It is not held here.
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_of_new_keys_without_end_is_given_up() {
    let store = hostile(&folder(), "list new keys for ever");
    let error = store.list(Some(&"t".into())).try_for_each(|_| async { Ok(()) }).await.unwrap_err();
    let error = ours(&error);
    assert_eq!(error.kind(), ErrorKind::Damaged, "{}", error.chain());
    assert!(error.chain().contains("mover hostile: its listing of \"t/\" has more than"), "{}", error.chain());
    assert!(error.advice().is_some());
}

/// Of a large object one stretch is looked at, by turns its end: one that is cut off is found half of the time at least.
#[tokio::test(flavor = "multi_thread")]
async fn a_mover_that_lies_about_large_objects_is_found_out_too() {
    let folder = folder();
    let large = "large ".repeat(50_000);
    for (how, said) in [("say created and store nothing", "does not find it"), ("store half", "other bytes are there")]
    {
        let store = hostile(&folder, how);
        let mut lies = Vec::new();
        for n in 0..40 {
            lies.extend(create(&store, &format!("t/{n}"), large.clone()).await.err());
        }
        assert!(lies.len() >= 20, "{how}: {} of 40 were found", lies.len());
        for lie in lies {
            assert!(ours(&lie).chain().contains(said), "{how}: {}", ours(&lie).chain());
        }
    }
    let store = hostile(&folder, "list what is longer");
    create(&store, "t/x", large).await.unwrap();
    let error = store.list(Some(&"t".into())).try_collect::<Vec<_>>().await.unwrap_err();
    let said = ours(&error).chain();
    assert!(said.contains("it says that it stored 300000 bytes as t/x, and lists 300001"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_fails_again_and_again_is_shut_out() {
    let store = hostile(&folder(), "trap in put");
    for n in 0..10 {
        let error = create(&store, "t/x", "bytes").await.unwrap_err();
        assert!(ours(&error).chain().contains("it trapped"), "{n}: {}", ours(&error).chain());
    }
    let error = create(&store, "t/x", "bytes").await.unwrap_err();
    let error = ours(&error);
    assert!(error.chain().contains("shut out") && error.advice().is_some(), "{}", error.chain());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_trapped_is_gone_and_the_next_call_has_a_new_one() {
    let store = hostile(&folder(), "trap in get");
    create(&store, "t/x", "").await.unwrap();
    store.head(&Path::from("t/x")).await.unwrap();
    create(&store, "t/y", "y").await.unwrap_err();
    // What the old one kept in its memory went with it.
    assert!(matches!(store.head(&Path::from("t/x")).await, Err(object_store::Error::NotFound { .. })));
}
