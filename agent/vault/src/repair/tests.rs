//! What a repair promises: every byte that it says is repaired reads back as it was, nothing wrong is ever stored, and
//! what is left is named.

mod beside;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use remora_core::point::{Decision, Quiesce};
use remora_core::ports::{
    DamagedPoint, DiskView, Effect, Mended, Mover, NoProgress, OpenDisk, OpenRequest, Patience, Repair, Source,
    Tracking, VmDisks,
};
use remora_core::testing::FakeHost;
use remora_core::{BLOCK_SIZE, ByteRange, CheckpointName, DiskName, PointId, VmName};

use crate::Vault;
use crate::names::{SegmentId, segment_of};
use crate::segment::footer::Holds;
use crate::segment::read::Segment;
use crate::testing::{FaultyStore, back_up, image, new_vault, over};

const BLOCK: u64 = BLOCK_SIZE;

fn vm() -> VmName {
    VmName::new("a VM").unwrap()
}

/// Three points: a full of three chunks of 16, 16 and 8 blocks, and two increments of a chunk of one block each.
struct Bench {
    vault: Vault,
    store: FaultyStore,
    points: BTreeMap<PointId, Vec<u8>>,
}

/// What a block of the newest point is made of.
fn newest(block: u64) -> u64 {
    match block {
        20 => 120,
        35 => 135,
        block => block,
    }
}

impl Bench {
    async fn new() -> Self {
        let (vault, store) = new_vault().await;
        let mut points = BTreeMap::new();
        let steps = [
            ((0..40).collect::<Vec<_>>(), vec![]),
            ((0..40).map(|n| if n == 20 { 120 } else { n }).collect(), vec![20]),
            ((0..40).map(newest).collect(), vec![35]),
        ];
        for (seeds, changed) in steps {
            let image = image(seeds);
            let point = back_up(&vault, &vm(), Decision::Incremental, &image, &changed).await.unwrap();
            points.insert(point.id, image);
        }
        Self { vault, store, points }
    }

    /// The same in a store of its own, with nothing cached.
    fn fork(&self) -> Self {
        let store = self.store.fork();
        Self { vault: over(&self.vault, &store), store, points: self.points.clone() }
    }

    /// The segments of one kind with their oldest generation that is there, oldest point's first.
    async fn segments(&self, holds: Holds) -> Vec<Arc<Segment>> {
        let segments = self.vault.0.segments(self.vault.0.folder(&vm()));
        let mut found: Vec<Arc<Segment>> = Vec::new();
        for name in self.store.objects().await.into_keys() {
            let Some(id) = segment_of(&name) else { continue };
            let segment = segments.segment(id).await.unwrap();
            if segment.index.holds == holds && found.iter().all(|other| other.id != id) {
                found.push(segment);
            }
        }
        found.sort_by_key(|segment| std::cmp::Reverse(segment.index.records.len()));
        found
    }

    /// The segment of the first point's chunks.
    async fn base(&self) -> Arc<Segment> {
        self.segments(Holds::Chunks).await.remove(0)
    }

    async fn generation(&self, id: SegmentId, generation: u32) -> Arc<Segment> {
        self.vault.0.segments(self.vault.0.folder(&vm())).load(id, generation).await.unwrap()
    }

    fn name(&self, id: SegmentId, generation: u32) -> Path {
        self.vault.0.segments(self.vault.0.folder(&vm())).generation_name(id, generation)
    }

    async fn object(&self, name: &Path) -> Vec<u8> {
        (&self.store as &dyn ObjectStore).get(name).await.unwrap().bytes().await.unwrap().to_vec()
    }

    async fn put(&self, name: &Path, bytes: Vec<u8>) {
        (&self.store as &dyn ObjectStore).put(name, bytes.into()).await.unwrap();
    }

    /// Flips a bit in records of a segment.
    async fn flip(&self, segment: &Segment, numbers: &[u32]) {
        let name = self.name(segment.id, segment.generation);
        let mut bytes = self.object(&name).await;
        for number in numbers {
            bytes[segment.index.record(*number).unwrap().1.offset as usize + 5] ^= 1;
        }
        self.put(&name, bytes).await;
    }

    /// What the vault makes of the store as it is, without a cache.
    fn fresh(&self) -> Vault {
        over(&self.vault, &self.store)
    }

    async fn damaged(&self) -> Vec<DamagedPoint> {
        let vault = self.fresh();
        let mut damaged = Vec::new();
        for point in self.points.keys() {
            let damage = vault.verify(point, Arc::new(NoProgress)).await.unwrap().damage;
            if !damage.is_empty() {
                damaged.push(DamagedPoint { point: point.clone(), damage });
            }
        }
        damaged
    }

    async fn repair(&self, disk: Vec<u8>) -> Vec<Mended> {
        let views = views(disk).await;
        self.fresh().repair(&self.damaged().await, VmDisks::Open(&views)).await.unwrap()
    }

    /// Each byte of each point is what was stored or, if it is said to be lost, cannot be read.
    async fn assert_right_but_for(&self, lost: &[Stretch]) {
        let vault = self.fresh();
        for (point, image) in &self.points {
            let reader = vault.open(point).await.unwrap();
            for block in ByteRange::new(0, image.len() as u64).split(BLOCK) {
                let is_lost = lost.iter().any(|(of, range)| *of == point.sequence() && range.contains(block));
                match reader.read(remora_core::ports::DiskIndex(0), block).await {
                    Ok(bytes) => {
                        assert!(!is_lost, "{point} {block}");
                        assert!(bytes == image[block.start as usize..block.end as usize], "{point} {block}: wrong");
                    }
                    Err(error) => assert!(is_lost, "{point} {block}: {}", error.chain()),
                }
            }
            let salvage = vault.salvage(point).await.unwrap();
            let pieces: Vec<_> = remora_core::ports::PointReader::pieces(
                &salvage,
                remora_core::ports::DiskIndex(0),
                ByteRange::new(0, image.len() as u64),
            )
            .try_collect()
            .await
            .unwrap();
            let mut salvaged = vec![0; image.len()];
            for piece in pieces {
                salvaged[piece.at as usize..piece.at as usize + piece.data.len()].copy_from_slice(&piece.data);
            }
            let mut expected = image.clone();
            for (_, range) in lost.iter().filter(|(of, _)| *of == point.sequence()) {
                expected[range.start as usize..range.end as usize].fill(0);
            }
            assert!(salvaged == expected, "{point}: salvaged");
        }
        let told: Vec<_> = self
            .damaged()
            .await
            .into_iter()
            .flat_map(|damaged| {
                let number = damaged.point.sequence();
                damaged
                    .damage
                    .into_iter()
                    .filter(|damage| damage.effect == Effect::Lost)
                    .map(move |damage| (number, damage.range))
            })
            .collect();
        assert_eq!(told, lost, "what verify calls lost");
    }
}

/// A running VM's disk `vda`.
async fn views(bytes: Vec<u8>) -> Vec<Arc<dyn DiskView>> {
    let host = FakeHost::new("a VM");
    host.attach("vda", bytes, true);
    let claimed = host.claim(&vm(), Patience::None).await.unwrap();
    let request = OpenRequest {
        disks: vec![OpenDisk { name: DiskName::new("vda").unwrap(), since: None }],
        checkpoint: CheckpointName::random(remora_core::RepositoryId::random()),
        tracking: Tracking::AsBefore,
        quiesce: Quiesce::Never,
    };
    claimed.open(&request).await.unwrap().disks().to_vec()
}

fn blocks(first: u64, end: u64) -> ByteRange {
    ByteRange::new(first * BLOCK, end * BLOCK)
}

/// A stretch of the point of that number.
type Stretch = (u64, ByteRange);

/// What was repaired and what was not, as points, blocks and reasons.
fn told(mended: &[Mended]) -> (Vec<Stretch>, Vec<(u64, ByteRange, &str)>) {
    let (mut done, mut left) = (Vec::new(), Vec::new());
    for Mended { point, range, repair, .. } in mended {
        match repair {
            Repair::Done => done.push((point.sequence(), *range)),
            Repair::Not(why) => left.push((point.sequence(), *range, why.as_str())),
        }
    }
    (done, left)
}

#[tokio::test]
async fn what_the_vm_still_has_is_sound_again_in_all_points() {
    let bench = Bench::new().await;
    let base = bench.base().await;
    bench.flip(&base, &[0]).await;
    let whole = blocks(0, 16);
    bench.assert_right_but_for(&[(1, whole), (2, whole), (3, whole)]).await;
    // The guest has written elsewhere since.
    let mended = bench.repair(image((0..40).map(|n| if n == 38 { 238 } else { newest(n) }))).await;
    assert_eq!(told(&mended), (vec![(1, whole), (2, whole), (3, whole)], vec![]));
    bench.assert_right_but_for(&[]).await;
    let names = bench.store.objects().await;
    assert!(names.contains_key(bench.name(base.id, 0).as_ref()), "nothing is removed");
    assert!(names.contains_key(bench.name(base.id, 1).as_ref()));
    assert_eq!(bench.repair(image(0..40)).await, [], "there is nothing left to repair");
    assert_eq!(bench.store.objects().await, names);
}

/// Of a chunk, the blocks that the guest has changed since stay lost, in those points that have them.
#[tokio::test]
async fn a_chunk_that_was_changed_in_part_is_repaired_in_part() {
    let bench = Bench::new().await;
    bench.flip(bench.base().await.as_ref(), &[1]).await;
    // Blocks 16..32; block 20 is another one since the second point, block 30 since the last one.
    let mended = bench.repair(image((0..40).map(|n| if n == 30 { 230 } else { newest(n) }))).await;
    let why = "the VM has changed it";
    let left = [(1, blocks(20, 21)), (1, blocks(30, 31)), (2, blocks(30, 31)), (3, blocks(30, 31))];
    let (done, not) = told(&mended);
    assert_eq!(not, left.map(|(point, range)| (point, range, why)));
    let first = [(1, blocks(16, 20)), (1, blocks(21, 30)), (1, blocks(31, 32))];
    let later = |point| [(point, blocks(16, 20)), (point, blocks(21, 30)), (point, blocks(31, 32))];
    assert_eq!(done, [first, later(2), later(3)].concat());
    bench.assert_right_but_for(&left).await;

    // What comes back is taken too: the digests of what is lost are kept.
    let bench = bench.fork();
    assert!(told(&bench.repair(image((0..40).map(|n| newest(n) + 1000))).await).0.is_empty(), "nothing new");
    let mended = bench.repair(image(0..40)).await;
    assert_eq!(told(&mended), (left.to_vec(), vec![]));
    bench.assert_right_but_for(&[]).await;
}

/// Whatever is not proven is not stored: nothing in the store changes, and the reason is told.
async fn assert_left(bench: &Bench, disks: VmDisks<'_>, why: &str) {
    let before = bench.store.objects().await;
    let damaged = bench.damaged().await;
    let mended = bench.fresh().repair(&damaged, disks).await.unwrap();
    let (done, left) = told(&mended);
    assert!(done.is_empty() && !left.is_empty(), "{mended:?}");
    assert!(left.iter().all(|(.., told)| told.contains(why)), "{why:?}: {left:?}");
    assert_eq!(bench.store.objects().await, before);
    assert_eq!(bench.damaged().await, damaged);
}

#[tokio::test]
async fn what_cannot_be_proven_is_left_and_said_why() {
    let bench = Bench::new().await;
    let base = bench.base().await;
    let same = views(image((0..40).map(newest))).await;
    let name = bench.name(base.id, 0);
    let whole = bench.object(&name).await;
    let details_at = base.index.records.iter().map(|r| r.offset + u64::from(r.stored_len)).max().unwrap() as usize;
    let with = |damage: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = whole.clone();
        damage(&mut bytes);
        bytes
    };

    bench.flip(&base, &[0]).await;
    assert_left(&bench, VmDisks::NotOpen("it is shut off"), "cannot be read: it is shut off").await;
    assert_left(&bench, VmDisks::Open(&[]), "no disk vda").await;
    assert_left(&bench, VmDisks::Open(&views(image(1000..1040)).await), "changed").await;
    assert_left(&bench, VmDisks::Open(&views(Vec::new()).await), "shorter").await;
    let too_often = bench.fork();
    too_often.put(&bench.name(base.id, 31), b"anything".to_vec()).await;
    assert_left(&too_often, VmDisks::Open(&same), "too often").await;

    bench.put(&name, with(&|bytes| bytes.truncate(whole.len() - 1))).await;
    assert_left(&bench, VmDisks::Open(&same), "its object's index is damaged").await;
    bench
        .put(
            &name,
            with(&|bytes| {
                bytes[details_at + 3] ^= 1;
                bytes[30] ^= 1;
            }),
        )
        .await;
    let before = bench.store.objects().await;
    let mended = bench.repair(image((0..40).map(newest))).await;
    assert!(told(&mended).0.is_empty() && told(&mended).1[0].2.contains("digests"), "{mended:?}");
    assert_eq!(bench.store.objects().await, before);
    (&bench.store as &dyn ObjectStore).delete(&name).await.unwrap();
    assert_left(&bench, VmDisks::Open(&same), "its object is gone").await;

    bench.put(&name, whole).await;
    let nodes = bench.segments(Holds::Nodes).await;
    bench.flip(&nodes[0], &[0]).await;
    assert_left(&bench, VmDisks::Open(&same), "no VM holds maps").await;
}

#[tokio::test]
async fn what_is_only_needed_to_compare_is_stored_again_without_the_vm() {
    let bench = Bench::new().await;
    let base = bench.base().await;
    let whole = bench.object(&bench.name(base.id, 0)).await;
    let details_at = base.index.records.iter().map(|r| r.offset + u64::from(r.stored_len)).max().unwrap() as usize;
    for at in [10, details_at + 3] {
        let bench = bench.fork();
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bench.put(&bench.name(base.id, 0), bytes).await;
        let damaged = bench.damaged().await;
        assert!(damaged.iter().flat_map(|point| &point.damage).all(|damage| damage.effect == Effect::Readable));
        let mended = bench.fresh().repair(&damaged, VmDisks::NotOpen("it is off")).await.unwrap();
        assert_eq!((told(&mended).0.len(), told(&mended).1), (3, vec![]));
        bench.assert_right_but_for(&[]).await;
        assert_eq!(bench.damaged().await, []);
        // A reread finds every digest.
        let image = image((0..40).map(newest));
        let again = back_up(&bench.fresh(), &vm(), Decision::Reread, &image, &[]).await.unwrap();
        assert_eq!(again.disks[0].stored, 0);
    }
}

/// Under one salt a number seals one text: what is made anew may be compressed to other bytes. So no two generations share
/// a salt, be they made one after the other or, where the first one came to nothing, in the same place.
#[tokio::test]
async fn each_repair_seals_under_a_salt_of_its_own() {
    let bench = Bench::new().await;
    let base = bench.base().await;
    bench.flip(&base, &[2]).await;
    let again = bench.fork();
    // The disk has again what the first point has, so all of the segment can be made anew.
    let disk = || image(0..40);
    let mut made = vec![Sealed::of(&bench, &base).await];
    for bench in [&bench, &again] {
        bench.repair(disk()).await;
        made.push(Sealed::of(bench, bench.generation(base.id, 1).await.as_ref()).await);
    }
    // No generation has it whole now, so a second repair is needed.
    bench.flip(bench.generation(base.id, 1).await.as_ref(), &[2]).await;
    bench.repair(disk()).await;
    made.push(Sealed::of(&bench, bench.generation(base.id, 2).await.as_ref()).await);
    bench.assert_right_but_for(&[]).await;
    for (n, one) in made.iter().enumerate() {
        for other in &made[..n] {
            assert_ne!(one.salt, other.salt);
            assert_eq!(one.numbers, other.numbers);
            // Record 0 is sound throughout.
            assert_ne!(one.first, other.first, "sound records are sealed anew too");
        }
    }
}

/// What a generation is sealed under, and what came of it.
struct Sealed {
    salt: [u8; 32],
    numbers: Vec<u32>,
    /// The first record's bytes as they are stored.
    first: Vec<u8>,
}

impl Sealed {
    async fn of(bench: &Bench, segment: &Segment) -> Self {
        let object = bench.object(&bench.name(segment.id, segment.generation)).await;
        let record = segment.index.record(0).unwrap().1;
        let first = object[record.offset as usize..][..record.stored_len as usize].to_vec();
        let numbers = segment.index.records.iter().map(|record| record.number).collect();
        Self { salt: segment.index.salt, numbers, first }
    }
}
