//! A mover that is changed while a run uses it: the run ends with the version that it began with.

use std::fs;
use std::sync::Arc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use remora_core::point::Decision;
use remora_core::ports::Mover;
use remora_tests::Transport;

use super::example;
use super::killed::{patient_lab, run};
use super::objects::{create, get};
use super::s3::Bucket;
use super::volumes::{Lab, restored};

#[tokio::test(flavor = "multi_thread")]
async fn a_run_ends_with_the_version_that_it_began_with_whatever_happens_to_its_process() {
    let bucket = Bucket::new(Transport::Http);
    let running = &bucket.store;
    create(running, "before", "bytes").await.unwrap();
    // The new version keeps objects in its memory, so it finds nothing of what is in the bucket; its settings are others too.
    let hostile = fs::read(example("hostile")).unwrap();
    bucket.folder.write("s3", &hostile, "settings: {misbehave: ''}\n");
    for n in 0..3 {
        // A process that is started again for this run runs the old one again, with its old settings and secrets.
        kill(Pid::from_raw(running.process().unwrap()), Signal::SIGKILL).unwrap();
        create(running, &format!("after/{n}"), "bytes").await.unwrap();
        assert_eq!(get(running, "before").await.unwrap(), "bytes");
    }
    let kept = bucket.s3.files("backups").join("a/prefix/after/2");
    assert_eq!(fs::read(kept).unwrap(), b"bytes");
    // The next run has the new one.
    let next = bucket.folder.movers.open("s3", "a/prefix").unwrap();
    create(&next, "new", "bytes").await.unwrap();
    assert!(matches!(next.head(&Path::from("before")).await, Err(object_store::Error::NotFound { .. })));
    assert!(matches!(running.head(&Path::from("new")).await, Err(object_store::Error::NotFound { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_update_costs_the_next_run_and_not_this_one() {
    let bucket = Bucket::new(Transport::Http);
    create(&bucket.store, "before", "bytes").await.unwrap();
    fs::write(bucket.folder.path().join("s3.wasm"), "no component").unwrap();
    fs::write(bucket.folder.path().join("secret"), "another secret").unwrap();
    kill(Pid::from_raw(bucket.store.process().unwrap()), Signal::SIGKILL).unwrap();
    assert_eq!(get(&bucket.store, "before").await.unwrap(), "bytes");
    let error = bucket.folder.movers.open("s3", "a/prefix").unwrap().probe().await.unwrap_err();
    assert!(error.chain().contains("no WebAssembly component"), "{}", error.chain());
}

/// The component of the appliance as another version: what it asks, the appliance does not know.
fn another_version() -> Vec<u8> {
    let mut bytes = fs::read(example("appliance")).unwrap();
    let places: Vec<_> =
        bytes.windows(7).enumerate().filter(|(_, found)| **found == *b"/points").map(|(at, _)| at).collect();
    assert!(!places.is_empty(), "it asks otherwise now");
    for at in places {
        bytes[at..at + 7].copy_from_slice(b"/pointz");
    }
    bytes
}

/// Puts the other version into the folder, with another setting too: it would be given whole points.
fn update(lab: &Lab) -> impl Fn() + Send + Sync + use<> {
    let (document, module) = (lab.folder.path().join("array.yaml"), lab.folder.path().join("array.wasm"));
    let text = fs::read_to_string(&document).unwrap();
    let updated = text.replace("'}\nsecrets", "', clones: false}\nsecrets");
    assert_ne!(updated, text);
    let bytes = another_version();
    move || {
        fs::write(&document, &updated).unwrap();
        fs::write(&module, &bytes).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_ends_with_the_version_that_it_began_with_though_its_process_is_killed() {
    let lab = patient_lab();
    lab.backup().await;
    lab.change_something(3);
    let update = update(&lab);
    // After `history` and one more, when the point is begun or half written; and later once more.
    let updating = move |killed| {
        if killed == 0 {
            update();
        }
    };
    let (report, killed) = run(&lab, 2, 2, Arc::new(updating)).await;
    assert_eq!((killed.len(), report.point.decision), (2, Decision::Incremental), "{killed:?}");
    assert!(lab.appliance.seen("unchanged") > 0, "it had the new settings");
    for (n, bytes) in lab.disks().iter().enumerate() {
        assert!(restored(&lab.mover, &report.point.id, n).await == **bytes, "disk {n}");
    }
    // The next run has the new one.
    let next = lab.folder.movers.open_points("array").unwrap();
    let error = next.list(None).await.unwrap_err();
    assert!(error.chain().contains("the appliance answers 404"), "{}", error.chain());
}
