//! A repair beside others, and broken off: collections, other repairs, a store that fails at any operation.

use std::time::Duration;

use remora_core::retention::Rules;

use super::*;
use crate::testing::{Fault, assert_only_what_is_needed};
use crate::{Mode, Vault};

const DAY: Duration = Duration::from_hours(24);

async fn collect(vault: &Vault) {
    let (_, failed) = vault.collect(None, Mode::Run, &[]).await.unwrap();
    assert!(failed.is_empty(), "{failed:?}");
}

async fn generations(bench: &Bench, id: SegmentId) -> Vec<u32> {
    let objects = bench.store.objects().await;
    (0..32).filter(|generation| objects.contains_key(bench.name(id, *generation).as_ref())).collect()
}

fn disk() -> Vec<u8> {
    image((0..40).map(newest))
}

#[tokio::test]
async fn it_can_be_broken_off_at_every_operation() {
    let bench = Bench::new().await;
    bench.flip(bench.base().await.as_ref(), &[0]).await;
    let (damaged, views) = (bench.damaged().await, views(disk()).await);
    let counted = bench.fork();
    counted.store.inject(usize::MAX, Fault::Fails);
    counted.vault.repair(&damaged, VmDisks::Open(&views)).await.unwrap();
    let operations = counted.store.operations();
    assert!(operations > 40, "{operations}");
    for n in 0..operations {
        for fault in Fault::ALL {
            let context = format!("operation {n}: {fault:?}");
            let broken = bench.fork();
            broken.store.inject(n, fault);
            let ended = broken.store.until_death(broken.vault.repair(&damaged, VmDisks::Open(&views))).await;
            let bench = broken.fork();
            let left = bench.damaged().await;
            assert!(left == damaged || left.is_empty(), "{context}: {left:?}");
            if let Some(Ok(mended)) = ended {
                assert!(told(&mended).1.is_empty() == left.is_empty(), "{context}: it was told {mended:?}");
            }
            let again = bench.repair(disk()).await;
            assert!(told(&again).1.is_empty(), "{context}: {again:?}");
            bench.assert_right_but_for(&[]).await;
            collect(&bench.fresh()).await;
            bench.assert_right_but_for(&[]).await;
            assert_only_what_is_needed(&bench.fresh(), &bench.store, &context).await;
        }
    }
}

#[tokio::test]
async fn a_collection_removes_what_was_replaced_and_nothing_that_is_needed() {
    let bench = Bench::new().await;
    let base = bench.base().await;
    bench.flip(&base, &[0]).await;
    bench.repair(disk()).await;
    // What was stored last is itself damaged, where the first one is sound: both are needed.
    let worse = bench.fork();
    let segments = worse.vault.0.segments(worse.vault.0.folder(&vm()));
    let next = segments.load(base.id, 1).await.unwrap();
    worse.flip(&next, &[1]).await;
    worse.assert_right_but_for(&[]).await;
    collect(&worse.fresh()).await;
    assert_eq!(generations(&worse, base.id).await, [0, 1]);
    worse.assert_right_but_for(&[]).await;

    collect(&bench.fresh()).await;
    assert_eq!(generations(&bench, base.id).await, [1]);
    bench.assert_right_but_for(&[]).await;
    // It becomes mostly dead, and is stored again: readers of all generations find the same.
    let last = image((0..40).map(|n| if n < 16 { n } else { n + 500 }));
    let changed: Vec<u64> = (16..40).collect();
    back_up(&bench.fresh(), &vm(), Decision::Incremental, &last, &changed).await.unwrap();
    bench.fresh().prune(None, &Rules { last: 1, ..Rules::default() }, Mode::Run).await.unwrap();
    bench.store.advance(4 * DAY);
    collect(&bench.fresh()).await;
    assert_eq!(generations(&bench, base.id).await, [2]);
    let newest = bench.fresh().list(None).await.unwrap().points.pop().unwrap().id;
    assert!(crate::testing::read(&bench.fresh(), &newest).await.unwrap() == last);
}

/// A part of a chunk counts as damage: what is damaged stays beside it.
#[tokio::test]
async fn a_collection_keeps_every_generation_of_what_is_lost_in_part() {
    let bench = Bench::new().await;
    let base = bench.base().await;
    bench.flip(&base, &[1]).await;
    let mended = bench.repair(disk()).await;
    let lost = [(1, blocks(20, 21))];
    assert_eq!(told(&mended).1.len(), 1);
    collect(&bench.fresh()).await;
    assert_eq!(generations(&bench, base.id).await, [0, 1]);
    bench.assert_right_but_for(&lost).await;
    // Of another chunk first one part comes back, then the other one.
    let segments = bench.vault.0.segments(bench.vault.0.folder(&vm()));
    bench.flip(&base, &[0]).await;
    bench.flip(segments.load(base.id, 1).await.unwrap().as_ref(), &[0]).await;
    bench.repair(image((0..40).map(|n| if n < 3 { n + 700 } else { newest(n) }))).await;
    bench.assert_right_but_for(&[(1, blocks(0, 3)), lost[0], (2, blocks(0, 3)), (3, blocks(0, 3))]).await;
    bench.repair(image((0..40).map(|n| if n > 2 { n + 700 } else { newest(n) }))).await;
    bench.assert_right_but_for(&lost).await;
}

#[tokio::test]
async fn two_repairs_and_a_collection_at_once_do_one_anothers_work() {
    let bench = Bench::new().await;
    let base = bench.base().await;
    bench.flip(&base, &[0]).await;
    let (damaged, views) = (bench.damaged().await, views(disk()).await);
    let vaults = [bench.fresh(), bench.fresh(), bench.fresh()];
    let (one, other, collected) = tokio::join!(
        vaults[0].repair(&damaged, VmDisks::Open(&views)),
        vaults[1].repair(&damaged, VmDisks::Open(&views)),
        vaults[2].collect(None, Mode::Run, &[]),
    );
    for mended in [one.unwrap(), other.unwrap()] {
        assert!(told(&mended).1.is_empty(), "{mended:?}");
    }
    assert!(collected.unwrap().1.is_empty());
    assert!(generations(&bench, base.id).await.len() <= 2, "the second one finds nothing left to do");
    bench.assert_right_but_for(&[]).await;
}

/// A repair that slept until others had repaired, collected and gone on brings an old generation back: it holds what is
/// needed, and goes again.
#[tokio::test]
async fn a_generation_that_comes_late_harms_nobody() {
    let bench = Bench::new().await;
    let base = bench.base().await;
    bench.flip(&base, &[1]).await;
    // What a sleeper has in its hands: a generation of which a part is lost.
    let asleep = bench.fork();
    asleep.repair(image((0..40).map(|n| if n == 30 { 230 } else { newest(n) }))).await;
    let late = asleep.object(&bench.name(base.id, 1)).await;
    // Others repair all but what is lost for good, and so twice.
    bench.repair(image(0..40)).await;
    bench.assert_right_but_for(&[]).await;
    collect(&bench.fresh()).await;
    assert_eq!(generations(&bench, base.id).await, [1]);
    let whole = bench.object(&bench.name(base.id, 1)).await;
    bench.put(&bench.name(base.id, 2), whole).await;
    bench.put(&bench.name(base.id, 1), late).await;
    bench.assert_right_but_for(&[]).await;
    collect(&bench.fresh()).await;
    assert_eq!(generations(&bench, base.id).await, [2]);
    bench.assert_right_but_for(&[]).await;
}
