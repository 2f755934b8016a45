//! The vault as a whole against a model: whatever was written, every point reads back as it was, and damage is noticed.

mod damage;
mod frozen;
mod samples;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use object_store::{ObjectStore, ObjectStoreExt};
use remora_core::point::{Decision, Point};
use remora_core::ports::{DiskIndex, DiskReads, Effect, Mover, NewPoint, NoProgress, PointReader};
use remora_core::testing::{new_disk, new_point};
use remora_core::{BLOCK_SIZE, ByteRange, DiskName, ErrorKind, ExtentState, PIECE_SIZE, PointId, VmName};

use crate::store::Store;
use crate::{KeyFile, Keyring, Secret, Tenant, Vault, VaultOptions};

/// What opens the test repositories: a key file, for a passphrase takes a second.
pub(crate) fn secret() -> Secret {
    Secret::KeyFile(KeyFile::new(&[7; 32]).unwrap())
}

const DISK: DiskIndex = DiskIndex(0);

/// A small linear congruential generator: the same sequence for the same seed, everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    /// A block: noise, text-like, or zero.
    fn block(&mut self, len: usize) -> Vec<u8> {
        match self.below(4) {
            0 => vec![0; len],
            1 => (0..len).map(|_| self.below(256) as u8).collect(),
            _ => (0..len).map(|n| b"remora keeps points "[n % 20] ^ (n / 977) as u8).collect(),
        }
    }
}

struct Bench {
    vault: Vault,
    store: Arc<InMemory>,
    vm: VmName,
}

impl Bench {
    async fn new() -> Self {
        let store = Arc::new(InMemory::new());
        let at = || Store::over(Arc::clone(&store) as Arc<dyn ObjectStore>);
        Vault::init_in(&at(), &secret()).await.unwrap();
        let vault = Vault::open_in(at(), &secret(), VaultOptions::default()).await.unwrap();
        Self { vault, store, vm: VmName::new("a VM\nwith a name").unwrap() }
    }

    /// The same repository with empty caches.
    async fn reopen(&self) -> Vault {
        let store = Store::over(Arc::clone(&self.store) as Arc<dyn ObjectStore>);
        Vault::open_in(store, &secret(), VaultOptions::default()).await.unwrap()
    }

    async fn new_point(&self, decision: Decision, size: u64) -> NewPoint {
        let parent = self.vault.history(&self.vm).await.unwrap().newest.map(|p| p.id);
        new_point(&self.vm, parent, vec![new_disk("vda", size, decision)])
    }

    /// Stores `image`: of an increment only the blocks in `changed`, told as zero where `told_zero` and they are.
    async fn store(&self, decision: Decision, image: &[u8], changed: &[u64], told_zero: bool) -> Point {
        let size = image.len() as u64;
        let writer = self.vault.begin(self.new_point(decision, size).await).await.unwrap();
        let mut pieces: Vec<ByteRange> = ByteRange::new(0, size).split(PIECE_SIZE).collect();
        if decision == Decision::Incremental {
            pieces = ByteRange::new(0, size).split(BLOCK_SIZE).collect();
        }
        pieces.reverse();
        for piece in pieces {
            let bytes = &image[piece.start as usize..piece.end as usize];
            if decision == Decision::Incremental && !changed.contains(&(piece.start / BLOCK_SIZE)) {
                writer.unchanged(DISK, piece).await.unwrap();
            } else if told_zero && bytes.iter().all(|b| *b == 0) {
                writer.zero(DISK, piece).await.unwrap();
            } else {
                writer.write(DISK, piece.start, Bytes::copy_from_slice(bytes)).await.unwrap();
            }
        }
        writer.commit(&[DiskReads { read: size, rewritten: 0 }]).await.unwrap()
    }

    /// Those that a reader needs.
    async fn objects(&self) -> BTreeMap<Path, Bytes> {
        let names: Vec<Path> = self.store.list(None).map_ok(|o| o.location).try_collect().await.unwrap();
        let mut objects = BTreeMap::new();
        for name in names.into_iter().filter(|name| !name.as_ref().starts_with("doctor/")) {
            objects.insert(name.clone(), self.store.get(&name).await.unwrap().bytes().await.unwrap());
        }
        objects
    }
}

async fn all_by_pieces(reader: &dyn PointReader, size: u64) -> remora_core::Result<Vec<u8>> {
    let mut out = vec![0; size as usize];
    let mut pieces = reader.pieces(DISK, ByteRange::new(0, size));
    let mut last = 0;
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        assert!(piece.at >= last, "pieces come in order");
        last = piece.at + piece.data.len() as u64;
        out[piece.at as usize..last as usize].copy_from_slice(&piece.data);
    }
    Ok(out)
}

async fn assert_point_is(vault: &Vault, point: &PointId, image: &[u8], random: &mut Random) {
    let size = image.len() as u64;
    let reader = vault.open(point).await.unwrap();
    assert_eq!(reader.point().disks[0].size, size);
    assert!(all_by_pieces(reader.as_ref(), size).await.unwrap() == image, "{point} by pieces");
    for _ in 0..5 {
        let start = random.below(size);
        let range = ByteRange::new(start, (start + random.below(3 * PIECE_SIZE) + 1).min(size));
        let read = reader.read(DISK, range).await.unwrap();
        assert!(read == image[range.start as usize..range.end as usize], "{point} {range}");
    }
    let extents: Vec<_> = reader.extents(DISK, ByteRange::new(0, size)).try_collect().await.unwrap();
    let mut at = 0;
    for extent in extents {
        assert_eq!(extent.range.start, at, "extents have no gaps");
        at = extent.range.end;
        let bytes = &image[extent.range.start as usize..extent.range.end as usize];
        for block in bytes.chunks(BLOCK_SIZE as usize) {
            assert_eq!(block.iter().all(|b| *b == 0), extent.state == ExtentState::Zero, "{point} {extent:?}");
        }
    }
    assert_eq!(at, size, "extents cover the disk");
    let same = Bytes::copy_from_slice(&image[..image.len().min(PIECE_SIZE as usize)]);
    assert_eq!(reader.differing(DISK, 0, &same).await.unwrap(), []);
}

fn differing_blocks(a: &[u8], b: &[u8]) -> Vec<ByteRange> {
    let (short, long) = (a.len().min(b.len()) as u64, a.len().max(b.len()) as u64);
    let mut ranges: Vec<ByteRange> = Vec::new();
    for block in ByteRange::new(0, long).split(BLOCK_SIZE) {
        let inside = ByteRange::new(block.start, block.end.min(short));
        let same = block.end <= short
            && a[block.start as usize..block.end as usize] == b[inside.start as usize..inside.end as usize];
        if !same {
            match ranges.last_mut() {
                Some(last) if last.end == block.start => last.end = block.end,
                _ => ranges.push(block),
            }
        }
    }
    ranges
}

/// Random histories of fulls, increments and rereads, with sizes that change: every point stays what it was.
#[tokio::test(flavor = "multi_thread")]
async fn every_point_of_a_random_history_reads_back() {
    for seed in 0..6 {
        let mut random = Random(seed);
        let bench = Bench::new().await;
        // Two leaves and a bit, so that there are inner nodes; most of it zero, to be quick.
        let mut image = vec![0; (128 * PIECE_SIZE + random.below(3) * BLOCK_SIZE + random.below(2) * 777) as usize];
        let mut history: Vec<(PointId, Vec<u8>)> = Vec::new();
        for step in 0..6 {
            let resized = step > 0 && random.below(3) == 0;
            if resized {
                image.resize((127 * PIECE_SIZE + random.below(40) * BLOCK_SIZE + random.below(2) * 512) as usize, 0);
            }
            let blocks = (image.len() as u64).div_ceil(BLOCK_SIZE);
            let mut changed: Vec<u64> = (0..=random.below(40)).map(|_| random.below(blocks)).collect();
            changed.push(blocks - 1);
            changed.extend(0..random.below(20));
            for block in &changed {
                let start = (block * BLOCK_SIZE) as usize;
                let end = (start + BLOCK_SIZE as usize).min(image.len());
                let bytes = random.block(end - start);
                image[start..end].copy_from_slice(&bytes);
            }
            let decision = match (step, resized, random.below(3)) {
                (0, ..) | (_, _, 0) => Decision::Full,
                (_, true, _) | (_, _, 1) => Decision::Reread,
                _ => Decision::Incremental,
            };
            let point = bench.store(decision, &image, &changed, random.below(2) == 0).await;
            assert_eq!(point.decision, decision);
            if let Some((before, old)) = history.last() {
                let diff = bench.vault.diff(before, &point.id, &DiskName::new("vda").unwrap()).await.unwrap();
                assert_eq!(diff, differing_blocks(old, &image), "seed {seed} step {step} {decision}");
            }
            history.push((point.id, image.clone()));
        }
        let vault = bench.reopen().await;
        let listed: Vec<PointId> = vault.list(None).await.unwrap().points.into_iter().map(|p| p.id).collect();
        assert_eq!(listed, history.iter().map(|h| h.0.clone()).collect::<Vec<_>>());
        for (point, image) in &history {
            assert_point_is(&vault, point, image, &mut random).await;
            assert_eq!(vault.verify(point, Arc::new(NoProgress)).await.unwrap().damage, []);
        }
    }
}

#[tokio::test]
async fn a_reread_stores_only_the_blocks_that_differ() {
    let bench = Bench::new().await;
    let mut image: Vec<u8> = (0..4 * PIECE_SIZE).map(|n| ((n * n) >> 7) as u8).collect();
    bench.store(Decision::Full, &image, &[], false).await;
    let same = bench.store(Decision::Reread, &image, &[], false).await;
    assert_eq!(same.disks[0].stored, 0);
    image[5 * BLOCK_SIZE as usize + 3] ^= 1;
    let one = bench.store(Decision::Reread, &image, &[], false).await;
    assert!((1..=BLOCK_SIZE + 16).contains(&one.disks[0].stored), "{}", one.disks[0].stored);
}

/// A leaf at the end of a disk covers what is there: one of another size is never taken over as it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_only_shrank_or_grew_reads_back() {
    let bench = Bench::new().await;
    let mut random = Random(3);
    let whole: Vec<u8> = (0..70 * PIECE_SIZE).map(|n| (n >> 9) as u8 | 1).collect();
    for len in [whole.len(), 66 * PIECE_SIZE as usize, 66 * PIECE_SIZE as usize - 1000, 3, whole.len()] {
        let decision =
            if bench.vault.list(None).await.unwrap().points.is_empty() { Decision::Full } else { Decision::Reread };
        let point = bench.store(decision, &whole[..len], &[], false).await;
        assert_point_is(&bench.reopen().await, &point.id, &whole[..len], &mut random).await;
    }
}

#[tokio::test]
async fn a_point_that_is_not_covered_once_everywhere_is_not_committed() {
    let bench = Bench::new().await;
    let size = 3 * PIECE_SIZE;
    let writer = bench.vault.begin(bench.new_point(Decision::Full, size).await).await.unwrap();
    writer.zero(DISK, ByteRange::new(0, PIECE_SIZE)).await.unwrap();
    assert!(writer.zero(DISK, ByteRange::new(0, BLOCK_SIZE)).await.is_err(), "covered twice");
    assert!(writer.unchanged(DISK, ByteRange::at(PIECE_SIZE, BLOCK_SIZE)).await.is_err(), "a full inherits nothing");
    assert!(writer.write(DISK, PIECE_SIZE + 1, Bytes::from_static(&[1])).await.is_err(), "not a block");
    assert!(writer.zero(DISK, ByteRange::new(size, size + BLOCK_SIZE)).await.is_err(), "beyond the disk");
    let error = writer.commit(&[DiskReads::default()]).await.unwrap_err();
    assert!(error.to_string().contains("did not cover"), "{error}");
    assert_eq!(bench.vault.list(None).await.unwrap().points, []);
}

/// A store that takes nothing: writes stop once a few segments are full, instead of filling the memory. The clock stands still while
/// there is anything to do, so that a limit ends only what waits for the store.
#[tokio::test(start_paused = true)]
async fn a_slow_store_holds_the_writer_up() {
    let bench = Bench::new().await;
    let slow = ThrottledStore::new(Arc::clone(&bench.store), ThrottleConfig::default());
    let slow = Arc::new(slow);
    let store = Store::over(Arc::clone(&slow) as Arc<dyn ObjectStore>);
    let vault = Vault::open_in(store, &secret(), VaultOptions::default()).await.unwrap();
    let pieces = 200;
    let new_point = bench.new_point(Decision::Full, pieces * PIECE_SIZE).await;
    let point = vault.begin(new_point).await.unwrap();
    slow.config_mut(|config| config.wait_put_per_call = Duration::from_hours(1));
    let noise =
        Bytes::from((0..PIECE_SIZE / 32).flat_map(|n| *blake3::hash(&n.to_le_bytes()).as_bytes()).collect::<Vec<_>>());
    let writes = stream::iter(0..pieces).map(|n| point.write(DISK, n * PIECE_SIZE, noise.clone()));
    let mut writes = writes.buffer_unordered(32);
    let mut taken = 0;
    while let Ok(Some(written)) = tokio::time::timeout(Duration::from_secs(2), writes.next()).await {
        written.unwrap();
        taken += 1;
    }
    // Two segments of 16 MiB are being stored, one waits, and the pieces at work filled some of the next.
    assert!((32..=70).contains(&taken), "{taken} MiB were taken");
}

#[tokio::test]
async fn of_two_writers_to_one_vm_one_commits() {
    let bench = Bench::new().await;
    let (one, two) = (bench.new_point(Decision::Full, 10).await, bench.new_point(Decision::Full, 10).await);
    let (one, two) = (bench.vault.begin(one).await.unwrap(), bench.vault.begin(two).await.unwrap());
    for writer in [&one, &two] {
        writer.write(DISK, 0, Bytes::from_static(b"0123456789")).await.unwrap();
    }
    one.commit(&[DiskReads::default()]).await.unwrap();
    assert_eq!(two.commit(&[DiskReads::default()]).await.unwrap_err().kind(), ErrorKind::Busy);
    assert_eq!(bench.vault.list(None).await.unwrap().points.len(), 1);
}

#[tokio::test]
async fn a_missing_segment_is_damage_of_the_points_that_need_it_only() {
    let bench = Bench::new().await;
    let image = vec![5; 3 * BLOCK_SIZE as usize];
    let first = bench.store(Decision::Full, &image, &[], false).await;
    let before = bench.objects().await;
    let second = bench.store(Decision::Full, &image, &[], false).await;
    for name in bench.objects().await.keys().filter(|n| !before.contains_key(n) && n.as_ref().contains("/s/")) {
        bench.store.delete(name).await.unwrap();
    }
    let vault = bench.reopen().await;
    assert_eq!(vault.verify(&first.id, Arc::new(NoProgress)).await.unwrap().damage, []);
    let report = vault.verify(&second.id, Arc::new(NoProgress)).await.unwrap();
    assert_eq!(report.damage.len(), 1);
    assert_eq!(report.damage[0].range, ByteRange::new(0, image.len() as u64));
    let third = bench.store(Decision::Reread, &image, &[], false).await;
    assert_eq!(
        bench.vault.verify(&third.id, Arc::new(NoProgress)).await.unwrap().damage,
        [],
        "a reread stores again what is lost"
    );
}

#[tokio::test]
async fn nothing_of_the_vm_stands_in_the_clear() {
    let bench = Bench::new().await;
    let image = b"a secret of the guest ".repeat(10_000);
    bench.store(Decision::Full, &image, &[], false).await;
    for (name, object) in bench.objects().await {
        for secret in [b"secret".as_slice(), b"a VM", b"vda", b"domain"] {
            assert!(!object.windows(secret.len()).any(|w| w == secret), "{name}");
            assert!(!name.as_ref().as_bytes().windows(secret.len()).any(|w| w == secret), "{name}");
        }
    }
}

#[tokio::test]
async fn wrong_keys_and_missing_repositories_have_their_kinds() {
    let bench = Bench::new().await;
    let open = |store: Arc<InMemory>, secret: Secret| async move {
        let store = Store::over(store as Arc<dyn ObjectStore>);
        Vault::open_in(store, &secret, VaultOptions::default()).await.err().map(|e| e.kind())
    };
    let other = Secret::KeyFile(KeyFile::random());
    assert_eq!(open(Arc::clone(&bench.store), other).await, Some(ErrorKind::WrongKey));
    assert_eq!(open(Arc::new(InMemory::new()), secret()).await, Some(ErrorKind::NotFound));
    let unknown: PointId = "0011223344556677-1".parse().unwrap();
    assert_eq!(bench.vault.open(&unknown).await.err().map(|e| e.kind()), Some(ErrorKind::NotFound));
    let again = Vault::init_in(&Store::over(Arc::clone(&bench.store) as Arc<dyn ObjectStore>), &secret()).await;
    assert_eq!(again.unwrap_err().kind(), ErrorKind::Exists);
}

/// The same disk of the same VM for two tenants: not one name and no stretch of bytes in common.
#[tokio::test]
async fn tenants_share_nothing_that_the_store_can_see() {
    let bench = Bench::new().await;
    let store = || Store::over(Arc::clone(&bench.store) as Arc<dyn ObjectStore>);
    let keyring = Keyring::open_in(store(), &secret()).await.unwrap();
    let mut random = Random(4);
    let image: Vec<u8> = (0..20).flat_map(|_| random.block(BLOCK_SIZE as usize)).collect();
    let (mut names, mut parts, mut points) = (Vec::new(), Vec::new(), Vec::new());
    for tenant in ["default", "shop", "Shop"] {
        let tenant: Tenant = tenant.parse().unwrap();
        if tenant != Tenant::default() {
            keyring.add_tenant(&tenant).await.unwrap();
        }
        let before = bench.objects().await;
        let vault = keyring.vault(&tenant, VaultOptions::default()).await.unwrap();
        let of_tenant = Bench { vault, store: Arc::clone(&bench.store), vm: bench.vm.clone() };
        let point = of_tenant.store(Decision::Full, &image, &[], false).await;
        assert_point_is(&of_tenant.vault, &point.id, &image, &mut random).await;
        let (mut its_names, mut its_parts) = (BTreeSet::new(), BTreeSet::new());
        for (name, object) in bench.objects().await.into_iter().filter(|(name, _)| !before.contains_key(name)) {
            // The folders `t`, `m` and `s`, and a sequence number, are no secret.
            its_names.extend(name.parts().map(|part| part.as_ref().to_owned()).filter(|part| part.len() > 12));
            // Behind what segments and manifests begin and before what segments end with: 8 bytes do not meet by chance.
            its_parts.extend(object[8..object.len() - 16].windows(8).map(|w| <[u8; 8]>::try_from(w).unwrap()));
        }
        names.push(its_names);
        parts.push(its_parts);
        points.push((of_tenant.vault, point.id));
    }
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        assert!(names[a].is_disjoint(&names[b]) && parts[a].is_disjoint(&parts[b]), "tenants {a} and {b}");
    }
    for (n, (vault, _)) in points.iter().enumerate() {
        for (m, (_, point)) in points.iter().enumerate() {
            assert_eq!(vault.open(point).await.is_ok(), n == m, "tenant {n} and the point of {m}");
        }
    }
    let unknown = keyring.vault(&"unknown".parse().unwrap(), VaultOptions::default()).await;
    assert_eq!(unknown.err().map(|e| e.kind()), Some(ErrorKind::NotFound));
    assert_eq!(keyring.add_tenant(&Tenant::default()).await.unwrap_err().kind(), ErrorKind::Exists);
}
