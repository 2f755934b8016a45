//! Collections beside writers, readers and holds.

use std::time::Duration;

use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use remora_core::point::Decision;
use remora_core::ports::{DiskIndex, DiskReads, Mover};
use remora_core::retention::{Fate, Rules};
use remora_core::{BLOCK_SIZE, ByteRange, ErrorKind, PointId, VmName};
use remora_process::Process;

use super::survey::Survey;
use super::{Collected, Mode};
use crate::Vault;
use crate::names::{self, SegmentId, SessionId};
use crate::session::{ENDING, Session};
use crate::testing::{
    Fault, FaultyStore, NOISE, assert_only_what_is_needed, back_up, begin, image, new_vault, over, read,
};
use crate::tombstone::Numbers;
use crate::upkeep::Kept;

const HOUR: Duration = Duration::from_hours(1);

fn vm() -> VmName {
    VmName::new("a VM").unwrap()
}

/// Points of these images, each an increment of the one before that writes `changed`.
async fn points(vault: &Vault, steps: &[(Vec<u8>, Vec<u64>)]) -> Vec<PointId> {
    let mut points = Vec::new();
    for (image, changed) in steps {
        points.push(back_up(vault, &vm(), Decision::Incremental, image, changed).await.unwrap().id);
    }
    points
}

async fn keep_newest(vault: &Vault) -> usize {
    let pruned = vault.prune(None, &Rules::default(), Mode::Run).await.unwrap();
    pruned[0].points.iter().filter(|verdict| verdict.fate == Fate::Drop).count()
}

async fn collect(vault: &Vault, mode: Mode) -> Collected {
    let (mut collected, failed) = vault.collect(None, mode, &[]).await.unwrap();
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(collected.len(), 1);
    collected.pop().unwrap()
}

async fn segments(store: &FaultyStore) -> Vec<String> {
    store.objects().await.into_keys().filter(|name| name.contains("/s/")).collect()
}

#[tokio::test]
async fn a_dropped_point_vanishes_at_once_and_its_bytes_after_three_days() {
    let (vault, store) = new_vault().await;
    let points = points(&vault, &[(image(0..16), vec![]), (image(20..36), (0..16).collect())]).await;
    let before = segments(&store).await;
    assert_eq!(keep_newest(&vault).await, 1);
    assert_eq!(vault.open(&points[0]).await.err().map(|e| e.kind()), Some(ErrorKind::NotFound));
    let listed = vault.list(None).await.unwrap();
    assert_eq!((listed.points.len(), listed.unreadable.len()), (1, 0));
    assert_eq!(vault.history(&vm()).await.unwrap().newest.unwrap().id, points[1]);

    store.advance(71 * HOUR);
    let early = collect(&vault, Mode::Run).await;
    assert_eq!((early.removed.segments, early.later.segments, early.emptied), (0, 2, 0));
    assert_eq!(segments(&store).await, before);

    store.advance(HOUR);
    let told = collect(&vault, Mode::DryRun).await;
    assert_eq!(segments(&store).await, before);
    let done = collect(&vault, Mode::Run).await;
    assert_eq!(told, done, "a dry run tells what happens");
    assert_eq!((done.removed.segments, done.later.segments, done.emptied), (2, 0, 1));
    assert_eq!(read(&vault, &points[1]).await.unwrap(), image(20..36));
    assert_only_what_is_needed(&vault, &store, "after the collection").await;
    assert_eq!(
        collect(&vault, Mode::Run).await,
        Collected { folder: done.folder, vm: done.vm, ..Collected::default() }
    );
}

#[tokio::test]
async fn a_mostly_dead_segment_is_stored_again_and_an_open_reader_goes_on() {
    let (vault, store) = new_vault().await;
    let later = image((0..2).chain(50..96));
    let points = points(&vault, &[(image(0..48), vec![]), (later.clone(), (2..48).collect())]).await;
    let reader = over(&vault, &store).open(&points[1]).await.unwrap();
    // It knows the first segment's index: the blocks that both share lie there.
    let first = ByteRange::new(0, BLOCK_SIZE);
    assert!(reader.read(DiskIndex(0), first).await.unwrap() == later[..BLOCK_SIZE as usize]);
    let size = store.objects().await.values().sum::<u64>();
    keep_newest(&vault).await;
    store.advance(73 * HOUR);
    let done = collect(&vault, Mode::Run).await;
    // Of three chunks of 16 blocks the first is left, whole.
    assert_eq!(done.rewritten.segments, 1);
    assert!(done.rewritten.bytes > 2 * 16 * NOISE as u64);
    assert!(segments(&store).await.iter().any(|name| name.ends_with(".1")));
    assert!(store.objects().await.values().sum::<u64>() < size - 2 * 16 * NOISE as u64);
    let pieces = reader.pieces(DiskIndex(0), ByteRange::new(0, later.len() as u64));
    let read_on: Vec<u8> = pieces.flat_map(|piece| futures::stream::iter(piece.unwrap().data)).collect().await;
    assert!(read_on == later, "the open reader finds the next generation");
    assert_eq!(read(&over(&vault, &store), &points[1]).await.unwrap(), later);
    // A reread compares with the digests of the segment that was stored again.
    let again = back_up(&vault, &vm(), Decision::Reread, &later, &[]).await.unwrap();
    assert_eq!(again.disks[0].stored, 0);
    assert_only_what_is_needed(&vault, &store, "after the collection").await;
}

/// No restore reads the digests; a reread compares with them, and a repair is proven by them.
#[tokio::test]
async fn a_segment_stays_while_the_one_that_replaces_it_lacks_its_digests() {
    use object_store::{ObjectStore, ObjectStoreExt};
    let (vault, store) = new_vault().await;
    points(&vault, &[(image(0..48), vec![]), (image((0..2).chain(50..96)), (2..48).collect())]).await;
    let before = store.fork();
    keep_newest(&vault).await;
    store.advance(73 * HOUR);
    collect(&vault, Mode::Run).await;
    let (all, folder) = (segments(&store).await, vault.0.folder(&vm()));
    let id = all.iter().find(|name| name.ends_with(".1")).and_then(|name| names::segment_of(name)).unwrap();
    let [first, next] = [0, 1].map(|generation| names::segment(vault.0.tenant, folder, id, generation));
    // As if the collection had died before it removed the first one. Of the next one, the digests are damaged.
    let [before, now]: [&dyn ObjectStore; 2] = [&before, &store];
    now.put(&first, before.get(&first).await.unwrap().bytes().await.unwrap().into()).await.unwrap();
    let records = vault.0.segments(folder).load(id, 1).await.unwrap().index.records.clone();
    let digests_at = records.iter().map(|r| r.offset + u64::from(r.stored_len)).max().unwrap() as usize;
    let mut bytes = now.get(&next).await.unwrap().bytes().await.unwrap().to_vec();
    for stays in [true, false] {
        bytes[digests_at + 3] ^= 1;
        now.put(&next, bytes.clone().into()).await.unwrap();
        collect(&over(&vault, &store), Mode::Run).await;
        assert_eq!(segments(&store).await.contains(&first.to_string()), stays);
    }
}

#[tokio::test]
async fn a_segment_stays_while_what_another_collection_made_of_it_meanwhile_is_damaged() {
    use object_store::{ObjectStore, ObjectStoreExt};
    let (vault, store) = new_vault().await;
    let later = image((0..2).chain(50..96));
    let points = points(&vault, &[(image(0..48), vec![]), (later.clone(), (2..48).collect())]).await;
    keep_newest(&vault).await;
    store.advance(73 * HOUR);
    let (folder, now) = (vault.0.folder(&vm()), vault.0.now().await.unwrap());
    let survey = Survey::take(&vault.0, folder, Mode::Run, now, &Numbers::default()).await.unwrap();
    let readable = vault.0.segments(folder);
    let rewrites = survey.rewrites(&readable).await.unwrap();
    assert_eq!(rewrites.len(), 1);
    let [first, next] = [0, 1].map(|generation| readable.generation_name(rewrites[0].id, generation));
    let other = store.fork();
    collect(&over(&vault, &other), Mode::Run).await;
    let [other, ours]: [&dyn ObjectStore; 2] = [&other, &store];
    let right = other.get(&next).await.unwrap().bytes().await.unwrap();
    let mut damaged = right.to_vec();
    let record = readable.load(rewrites[0].id, 0).await.unwrap().index.records[0];
    damaged[record.offset as usize] ^= 1;
    for (bytes, stays) in [(damaged, true), (right.to_vec(), false)] {
        ours.put(&next, bytes.into()).await.unwrap();
        rewrites[0].run(&vault.0, &readable).await.unwrap();
        assert_eq!(segments(&store).await.contains(&first.to_string()), stays);
        assert_eq!(read(&over(&vault, &store), &points[1]).await.unwrap(), later);
    }
}

#[tokio::test]
async fn a_running_backup_keeps_what_it_stored_and_what_its_parent_reaches() {
    let (vault, store) = new_vault().await;
    let old = image(0..16);
    points(&vault, &[(old.clone(), vec![])]).await;
    let writer = begin(&vault, &vm(), Decision::Incremental, 16 << 16, Timestamp::UNIX_EPOCH).await.unwrap();
    let lost = over(&vault, &store);
    // Its parent is dropped, for good reason or not, while the session still beats.
    let drop_all = Rules { min_count: 0, ..Rules::default() };
    assert_eq!(lost.prune(None, &drop_all, Mode::Run).await.unwrap()[0].points[0].fate, Fate::Drop);
    let before = segments(&store).await;
    for _ in 0..4 {
        store.advance(23 * HOUR);
        beat(&store).await;
        let done = collect(&lost, Mode::Run).await;
        assert_eq!((done.removed.segments, done.sessions, done.ended), (0, 1, 0));
    }
    assert_eq!(segments(&store).await, before);
    let range = ByteRange::new(0, 16 << 16);
    writer.unchanged(DiskIndex(0), range).await.unwrap();
    let error = writer.commit(&[DiskReads::default()]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.chain().contains("pruned"), "{}", error.chain());
    collect(&lost, Mode::Run).await;
    assert_only_what_is_needed(&lost, &store, "the session has ended").await;
    assert_eq!(segments(&store).await.len(), 0);
}

/// What a heartbeat does to the session's object.
async fn beat(store: &FaultyStore) {
    use object_store::{ObjectStore, ObjectStoreExt};
    let store: &dyn ObjectStore = store;
    let all: Vec<_> = store.list(None).collect().await;
    for object in all.into_iter().map(Result::unwrap).filter(|o| o.location.as_ref().contains("/w/")) {
        let bytes = store.get(&object.location).await.unwrap().bytes().await.unwrap();
        store.put(&object.location, bytes.into()).await.unwrap();
    }
}

#[tokio::test]
async fn a_writer_that_was_held_for_dead_never_commits() {
    let (vault, store) = new_vault().await;
    points(&vault, &[(image(0..16), vec![])]).await;
    let sleeping = begin(&vault, &vm(), Decision::Reread, 16 << 16, Timestamp::UNIX_EPOCH).await.unwrap();
    sleeping.write(DiskIndex(0), 0, image(30..46).into()).await.unwrap();
    let awake = over(&vault, &store);
    store.advance(25 * HOUR);
    let done = collect(&awake, Mode::Run).await;
    assert_eq!((done.ended, done.sessions), (1, 0));
    // Others go on, and the numbers that the sleeper might take are taken, dropped and emptied.
    for n in 0..3 {
        back_up(&awake, &vm(), Decision::Reread, &image(40 + n..56 + n), &[]).await.unwrap();
    }
    keep_newest(&awake).await;
    store.advance(73 * HOUR);
    collect(&awake, Mode::Run).await;
    let error = sleeping.commit(&[DiskReads::default()]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.chain().contains("not heard of"), "{}", error.chain());
    assert_eq!(awake.list(None).await.unwrap().points.len(), 1);
    collect(&awake, Mode::Run).await;
    assert_only_what_is_needed(&awake, &store, "after the sleeper").await;
}

#[tokio::test]
async fn a_backup_that_gives_up_leaves_no_session() {
    let (vault, store) = new_vault().await;
    let writer = begin(&vault, &vm(), Decision::Full, 16 << 16, Timestamp::UNIX_EPOCH).await.unwrap();
    let sessions = async || store.objects().await.into_keys().filter(|name| name.contains("/w/")).count();
    assert_eq!(sessions().await, 1);
    writer.write(DiskIndex(0), 0, image(0..16).into()).await.unwrap();
    writer.abandon().await;
    assert_eq!(sessions().await, 0);
}

/// Its VM's disks are open until it has, and whoever stops it does not wait for long.
#[tokio::test(start_paused = true)]
async fn a_backup_gives_up_though_the_store_is_away() {
    for (since, under_way) in [(Duration::ZERO, "no heartbeat"), (Duration::from_mins(2), "a heartbeat")] {
        let (vault, store) = new_vault().await;
        points(&vault, &[(image(0..16), vec![])]).await;
        let writer = begin(&vault, &vm(), Decision::Reread, 16 << 16, Timestamp::UNIX_EPOCH).await.unwrap();
        // Nothing is answered any more.
        store.inject(0, Fault::DiesBefore);
        tokio::time::sleep(since).await;
        tokio::time::timeout(2 * ENDING, writer.abandon()).await.expect(under_way);
        assert_eq!(store.operations(), 1, "{under_way}");
        // The store is there again.
        let store = store.fork();
        store.advance(25 * HOUR);
        let done = collect(&over(&vault, &store), Mode::Run).await;
        assert_eq!((done.sessions, done.ended), (0, 1), "{under_way}");
    }
}

#[tokio::test]
async fn a_tombstone_or_hold_in_the_way_does_not_stop_a_writer() {
    let (vault, store) = new_vault().await;
    let points = points(&vault, &[(image(0..16), vec![]), (image(1..17), (0..16).collect())]).await;
    let writer = begin(&vault, &vm(), Decision::Reread, 16 << 16, Timestamp::UNIX_EPOCH).await.unwrap();
    vault.hold(&points[1], Kept::Until(Timestamp::MAX)).await.unwrap();
    assert_eq!(keep_newest(&vault).await, 1);
    writer.write(DiskIndex(0), 0, image(2..18).into()).await.unwrap();
    let point = writer.commit(&[DiskReads::default()]).await.unwrap();
    assert_eq!(point.id.sequence(), 5);
    let vault = over(&vault, &store);
    assert_eq!(read(&vault, &point.id).await.unwrap(), image(2..18));
    let listed: Vec<u64> = vault.list(None).await.unwrap().points.iter().map(|p| p.id.sequence()).collect();
    assert_eq!(listed, [2, 5], "the newest entry leads to the tombstone");
}

#[tokio::test]
async fn a_hold_keeps_a_point_until_it_ends() {
    let (vault, store) = new_vault().await;
    let points = points(&vault, &[(image(0..16), vec![]), (image(1..17), (0..16).collect())]).await;
    let now = vault.0.now().await.unwrap();
    vault.hold(&points[0], Kept::Until(now + SignedDuration::from_hours(2))).await.unwrap();
    assert_eq!(keep_newest(&vault).await, 0);
    store.advance(3 * HOUR);
    assert_eq!(keep_newest(&vault).await, 1);
    let gone = vault.hold(&points[0], Kept::Until(Timestamp::MAX)).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    vault.hold(&points[1], Kept::Until(Timestamp::MAX)).await.unwrap();
    let drop_all = Rules { min_count: 0, ..Rules::default() };
    assert_eq!(vault.prune(None, &drop_all, Mode::Run).await.unwrap()[0].points[0].fate, Fate::Keep);
    vault.hold(&points[1], Kept::AsRulesSay).await.unwrap();
    assert_eq!(vault.prune(None, &drop_all, Mode::Run).await.unwrap()[0].points[0].fate, Fate::Drop);
}

#[tokio::test]
async fn nothing_is_removed_while_something_needed_cannot_be_read() {
    use object_store::{ObjectStore, ObjectStoreExt};
    let (vault, store) = new_vault().await;
    let points =
        points(&vault, &[(image(0..16), vec![]), (image(20..36), (0..16).collect()), (image(20..36), vec![])]).await;
    keep_newest(&vault).await;
    store.advance(73 * HOUR);
    let newest = crate::names::manifest(vault.0.tenant, vault.0.folder(&vm()), points[2].sequence());
    let nodes = segments(&store).await.into_iter().map(object_store::path::Path::from);
    let needed = [newest].into_iter().chain(nodes);
    let mut refused = 0;
    for name in needed {
        let store = store.fork();
        (&store as &dyn ObjectStore).delete(&name).await.unwrap();
        let vault = over(&vault, &store);
        let before = segments(&store).await;
        let (_, failed) = vault.collect(None, Mode::Run, &[]).await.unwrap();
        if let Some(error) = failed.first() {
            assert_eq!(error.kind(), ErrorKind::Damaged);
            assert_eq!(segments(&store).await, before, "{name} is missing, and something was removed");
            refused += 1;
        }
    }
    // Without the manifest, and without the one segment of nodes that the newest point needs.
    assert_eq!(refused, 2);
}

#[tokio::test]
async fn a_gap_in_the_sequence_is_damage() {
    use object_store::{ObjectStore, ObjectStoreExt};
    let (vault, store) = new_vault().await;
    let points = points(&vault, &[(image(0..16), vec![]), (image(0..16), vec![])]).await;
    let first = crate::names::manifest(vault.0.tenant, vault.0.folder(&vm()), 1);
    (&store as &dyn ObjectStore).delete(&first).await.unwrap();
    let listing = vault.list(None).await.unwrap();
    assert_eq!(listing.points.len(), 1);
    assert_eq!(listing.unreadable[0].0, points[0]);
    assert!(listing.unreadable[0].1.chain().contains("missing"));
}

#[tokio::test]
async fn a_session_that_is_replaced_while_it_is_read_is_read_again() {
    let (vault, store) = new_vault().await;
    let writer = begin(&vault, &vm(), Decision::Full, 16 << 16, Timestamp::UNIX_EPOCH).await.unwrap();
    let vault = &vault.0;
    let folder = vault.folder(&vm());
    let sessions = vault.store.listed(&names::sessions(vault.tenant, folder)).await.unwrap();
    let id = SessionId::parse(&sessions[0].name).unwrap();
    store.inject(0, Fault::CutOff);
    let read = vault.session(folder, id).await.unwrap();
    assert!(read.is_some_and(|session| session.vm == vm()));
    assert_eq!(store.operations(), 2);
    // One that stays damaged is.
    let name = names::session(vault.tenant, folder, id);
    vault.store.replace(&name, bytes::Bytes::from_static(b"half a session").into()).await.unwrap();
    assert_eq!(vault.session(folder, id).await.err().map(|error| error.kind()), Some(ErrorKind::Damaged));
    writer.abandon().await;
}

/// Makes a backup's session that of a process, as if that had begun it and been stopped.
async fn belongs_to(vault: &Vault, process: Option<&Process>) {
    let vault = &vault.0;
    let folder = vault.folder(&vm());
    for object in vault.store.listed(&names::sessions(vault.tenant, folder)).await.unwrap() {
        let id = SessionId::parse(&object.name).unwrap();
        let session = vault.session(folder, id).await.unwrap().unwrap();
        Session { process: process.cloned(), ..session }.store_again(vault, id).await.unwrap();
    }
}

/// What is left of a backup that stored a segment: its session is that of `process`.
async fn broken_off(vault: &Vault, process: Option<&Process>) {
    let writer = begin(vault, &vm(), Decision::Full, 16 << 16, Timestamp::UNIX_EPOCH).await.unwrap();
    drop(writer);
    belongs_to(vault, process).await;
    let name = names::segment(vault.0.tenant, vault.0.folder(&vm()), SegmentId([9; 16]), 0);
    vault.0.store.create(&name, bytes::Bytes::from_static(b"a segment").into()).await.unwrap();
}

/// The next backup on the host of one that was killed ends its session, and a collection then takes what it stored.
#[tokio::test]
async fn the_session_of_a_killed_backup_ends_with_the_next_one_on_its_host() {
    for next in ["backup", "collection"] {
        let (vault, store) = new_vault().await;
        points(&vault, &[(image(0..16), vec![])]).await;
        let before = segments(&store).await;
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        broken_off(&vault, Process::of(&child.id().to_string()).as_ref()).await;
        assert!(segments(&store).await.len() > before.len(), "it has stored something");
        // While it runs, nobody ends it: no backup and no collection.
        let beside = back_up(&vault, &vm(), Decision::Incremental, &image(0..16), &[]).await.unwrap();
        let done = collect(&vault, Mode::Run).await;
        assert_eq!((done.sessions, done.ended, done.removed.segments), (1, 0, 0));
        assert!(done.waiting.segments > 0);
        child.kill().unwrap();
        child.wait().unwrap();
        if next == "backup" {
            back_up(&vault, &vm(), Decision::Incremental, &image(0..16), &[]).await.unwrap();
            assert!(!store.objects().await.keys().any(|name| name.contains("/w/")));
        }
        let done = collect(&vault, Mode::Run).await;
        assert_eq!((done.sessions, done.ended), (0, u64::from(next == "collection")));
        assert!(done.removed.segments > 0 && done.waiting.segments == 0, "{done:?}");
        assert_eq!(read(&vault, &beside.id).await.unwrap(), image(0..16));
        assert_only_what_is_needed(&vault, &store, next).await;
    }
}

/// Of a process of another host or container, and of one that told nothing of itself, nobody knows that it is gone.
#[tokio::test]
async fn the_session_of_another_hosts_backup_is_never_ended_before_its_time() {
    let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let gone = Process::of(&child.id().to_string()).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let others = [
        Some(Process { boot: "3b2f6f3e-0000-4000-8000-000000000000".into(), ..gone.clone() }),
        Some(Process { namespaces: "pid:[4026532999] time:[4026531834]".into(), ..gone }),
        None,
    ];
    for process in others {
        let (vault, store) = new_vault().await;
        points(&vault, &[(image(0..16), vec![])]).await;
        broken_off(&vault, process.as_ref()).await;
        let held = segments(&store).await;
        back_up(&vault, &vm(), Decision::Incremental, &image(0..16), &[]).await.unwrap();
        store.advance(23 * HOUR);
        let done = collect(&vault, Mode::Run).await;
        assert_eq!((done.sessions, done.ended, done.removed.segments), (1, 0, 0), "{process:?}");
        let there = segments(&store).await;
        assert!(held.iter().all(|name| there.contains(name)), "{process:?}");
        store.advance(2 * HOUR);
        assert_eq!(collect(&vault, Mode::Run).await.ended, 1, "{process:?}");
    }
}
