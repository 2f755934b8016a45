//! Every byte of every object of a small repository flipped, every object cut off at every length, made longer, and
//! removed: never a wrong byte, never a panic, and the object is named.

use futures::future::join_all;

use super::*;
use crate::Depth;
use crate::names::DESCRIPTOR;

/// A repository of two points that share a chunk: with compressed and raw chunks, zeros, and a short last block.
struct Small {
    objects: BTreeMap<Path, Bytes>,
    points: [(PointId, Vec<u8>); 2],
}

/// What is done to an object.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Flipped(usize),
    Cut(usize),
    Longer,
    Removed,
}

impl Small {
    async fn new() -> Self {
        let bench = Bench::new().await;
        let mut random = Random(1);
        let block = BLOCK_SIZE as usize;
        let mut image = vec![0; 5 * block + 300];
        image[..block].fill(b'a');
        image[2 * block..3 * block].fill(b'b');
        image[5 * block..].fill_with(|| random.below(256) as u8);
        let first = bench.store(Decision::Full, &image, &[], false).await;
        let mut changed = image.clone();
        changed[2 * block..3 * block].fill(b'c');
        let second = bench.store(Decision::Incremental, &changed, &[2], false).await;
        Self { objects: bench.objects().await, points: [(first.id, image), (second.id, changed)] }
    }

    fn harms(&self) -> Vec<(Path, Harm)> {
        let of = |(name, object): (&Path, &Bytes)| {
            let bytes = (0..object.len()).flat_map(|at| [Harm::Flipped(at), Harm::Cut(at)]);
            let harms = bytes.chain([Harm::Longer, Harm::Removed]);
            harms.map(|harm| (name.clone(), harm)).collect::<Vec<_>>()
        };
        self.objects.iter().flat_map(of).collect()
    }

    async fn harmed(&self, name: &Path, harm: Harm) -> Store {
        let store = InMemory::new();
        for (other, object) in &self.objects {
            let mut bytes = object.to_vec();
            match harm {
                _ if other != name => {}
                Harm::Flipped(at) => bytes[at] ^= 1 << (at % 8),
                Harm::Cut(len) => bytes.truncate(len),
                Harm::Longer => bytes.push(b'x'),
                Harm::Removed => continue,
            }
            store.put(other, bytes.into()).await.unwrap();
        }
        Store::over(Arc::new(store))
    }

    /// Checks all that must hold; says whether the damage was noticed.
    async fn survives(&self, name: &Path, harm: Harm) -> bool {
        let store = self.harmed(name, harm).await;
        let vault = match Vault::open_in(store, &secret(), VaultOptions::default()).await {
            Ok(vault) => vault,
            Err(error) => {
                let told = error.chain();
                let last_slot = name.as_ref().starts_with("keys/") && told.contains("no key slot");
                assert!(told.contains(name.as_ref()) || last_slot, "{name}, {harm:?}: {told}");
                return true;
            }
        };
        let listing = vault.list(None).await.unwrap();
        let mut noticed = listing.points.len() < self.points.len();
        for (point, image) in &self.points {
            if listing.points.iter().any(|listed| listed.id == *point) {
                noticed |= self.is_right_or_named(&vault, point, image, name, harm).await;
                continue;
            }
            let error = vault.open(point).await.err().unwrap().chain();
            if !matches!(harm, Harm::Removed) {
                assert_eq!(&listing.unreadable[0].0, point, "{name}, {harm:?}");
                assert!(error.contains(name.as_ref()) && error.contains(&point.to_string()), "{harm:?}: {error}");
            }
        }
        noticed
    }

    /// A point reads back, or the error names everything; what verify and a salvage call lost is what cannot be read.
    async fn is_right_or_named(&self, vault: &Vault, point: &PointId, image: &[u8], name: &Path, harm: Harm) -> bool {
        let case = format!("{name}, {harm:?}, point {point}");
        let size = image.len() as u64;
        let report = vault.verifier(Depth::All).point(point, &NoProgress).await.unwrap();
        assert!(report.damage.iter().all(|damage| damage.object == name.as_ref()), "{case}: {report:?}");
        let lost: Vec<_> = report.damage.iter().filter(|damage| damage.effect == Effect::Lost).cloned().collect();

        let reader = vault.open(point).await.unwrap();
        match all_by_pieces(reader.as_ref(), size).await {
            Ok(read) => assert!(read == image && lost.is_empty(), "{case}: a wrong byte, or {lost:?}"),
            Err(error) => {
                let told = error.chain();
                assert!(error.kind() == ErrorKind::Damaged && !lost.is_empty(), "{case}: {told}");
                for part in [name.as_ref(), &point.to_string(), "vda", ".."] {
                    assert!(told.contains(part), "{case}: {part} is not in {told}");
                }
            }
        }
        for block in ByteRange::new(0, size).split(BLOCK_SIZE) {
            let is_lost = lost.iter().any(|damage| damage.range.start < block.end && block.start < damage.range.end);
            match reader.read(DISK, block).await {
                Ok(read) => assert!(!is_lost && read == image[block.start as usize..block.end as usize], "{case}"),
                Err(error) => assert!(is_lost, "{case}: {}", error.chain()),
            }
        }

        let salvage = vault.salvage(point).await.unwrap();
        let mut expected = image.to_vec();
        for damage in &lost {
            expected[damage.range.start as usize..damage.range.end as usize].fill(0);
        }
        assert!(all_by_pieces(&salvage, size).await.unwrap() == expected, "{case}: salvaged");
        assert_eq!(salvage.lost(DISK), lost, "{case}");
        let extents: Vec<_> = salvage.extents(DISK, ByteRange::new(0, size)).try_collect().await.unwrap();
        assert_eq!(extents.iter().map(|extent| extent.range.len()).sum::<u64>(), size, "{case}");
        !report.damage.is_empty()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_anywhere_is_named_and_never_a_wrong_byte() {
    let small = Arc::new(Small::new().await);
    let harms = small.harms();
    assert!((3_000..60_000).contains(&harms.len()), "{} cases", harms.len());
    let mut unnoticed = Vec::new();
    for batch in harms.chunks(64) {
        let cases = batch.iter().map(|(name, harm)| {
            let (small, name, harm) = (Arc::clone(&small), name.clone(), *harm);
            tokio::spawn(async move { small.survives(&name, harm).await })
        });
        for ((name, harm), noticed) in batch.iter().zip(join_all(cases).await) {
            if !noticed.unwrap_or_else(|died| panic!("{name}, {harm:?}: {died}")) {
                unnoticed.push((name, harm));
            }
        }
    }
    // All else restored in these: blanks and the case of hexadecimal digits in the two objects that are texts. (Every
    // byte of what is sealed, or says where that is, is noticed.)
    for (name, harm) in unnoticed {
        let is_text = name.as_ref() == DESCRIPTOR || name.as_ref().starts_with("keys/");
        let object = &small.objects[name];
        let matters = match harm {
            Harm::Flipped(at) => {
                let (was, is) = (object[*at], object[*at] ^ 1 << (at % 8));
                !(was.is_ascii_whitespace() && is.is_ascii_whitespace() || was.eq_ignore_ascii_case(&is))
            }
            Harm::Cut(len) => len + 1 != object.len(),
            Harm::Longer | Harm::Removed => true,
        };
        assert!(is_text && !matters, "{name}, {harm:?} was not noticed");
    }
}

/// A sound segment in another's place, an older point's manifest in a newer one's: each is sealed for its own.
#[tokio::test(flavor = "multi_thread")]
async fn objects_in_one_anothers_place_are_noticed() {
    let small = Small::new().await;
    let names: Vec<_> = small.objects.keys().filter(|name| name.parts().count() > 3).collect();
    assert_eq!(names.len(), 6);
    for name in &names {
        for other in names.iter().filter(|other| other != &name) {
            let mut objects = small.objects.clone();
            objects.insert((*name).clone(), small.objects[*other].clone());
            let swapped = Small { objects, points: small.points.clone() };
            assert!(swapped.survives(name, Harm::Cut(usize::MAX)).await, "{other} as {name}");
        }
    }
}

/// Damage of a chunk whose digest is sound: a backup that compares by digest would keep it. Once that is noted, the next
/// one stores it again.
#[tokio::test]
async fn what_was_noted_as_lost_is_stored_again() {
    let bench = Bench::new().await;
    let mut random = Random(5);
    let image: Vec<u8> = (0..3 * BLOCK_SIZE).map(|_| random.below(256) as u8).collect();
    let first = bench.store(Decision::Full, &image, &[], false).await;
    let (name, object) = bench.objects().await.into_iter().max_by_key(|(_, object)| object.len()).unwrap();
    let mut damaged = object.to_vec();
    damaged[1000] ^= 1;
    bench.store.put(&name, damaged.into()).await.unwrap();
    let verify = async |point: &Point| bench.vault.verify(&point.id, Arc::new(NoProgress)).await.unwrap().damage;
    assert!(!bench.vault.note_lost(&first.id, &[]).await.unwrap(), "nothing is lost");

    let kept = bench.store(Decision::Reread, &image, &[], false).await;
    let damage = verify(&kept).await;
    assert_eq!(damage, verify(&first).await);
    assert!(!bench.vault.note_lost(&first.id, &damage).await.unwrap(), "it is not the newest");
    assert_eq!(bench.vault.history(&bench.vm).await.unwrap().lost, None);
    let late = bench.vault.begin(bench.new_point(Decision::Incremental, image.len() as u64).await).await.unwrap();
    late.unchanged(DISK, ByteRange::new(0, image.len() as u64)).await.unwrap();
    assert!(bench.vault.note_lost(&kept.id, &damage).await.unwrap());
    let error = late.commit(&[DiskReads::default()]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "it began before, and would hide what was noted");
    assert!(bench.vault.history(&bench.vm).await.unwrap().lost.is_some());

    let healed = bench.store(Decision::Reread, &image, &[], false).await;
    assert_eq!(verify(&healed).await, []);
    assert_point_is(&bench.reopen().await, &healed.id, &image, &mut random).await;
    assert_eq!(verify(&kept).await, damage, "older points stay as they are");
    assert_eq!(bench.vault.history(&bench.vm).await.unwrap().lost, None);
}

/// What several points share is read once, and damage in it is told of each of them.
#[tokio::test]
async fn points_that_share_chunks_share_their_verification() {
    let small = Small::new().await;
    let vault = |store| async { Vault::open_in(store, &secret(), VaultOptions::default()).await.unwrap() };
    let whole = vault(small.harmed(&Path::from("none"), Harm::Removed).await).await;
    let verifier = whole.verifier(Depth::All);
    let [(first, _), (second, _)] = &small.points;
    let alone = whole.verify(second, Arc::new(NoProgress)).await.unwrap().checked;
    verifier.point(first, &NoProgress).await.unwrap();
    let shared = verifier.point(second, &NoProgress).await.unwrap();
    assert!(shared.damage.is_empty() && shared.checked < alone / 2, "{} of {alone}", shared.checked);
    assert_eq!(verifier.point(second, &NoProgress).await.unwrap().checked, 0);

    let structure = whole.verifier(Depth::Structure).point(first, &NoProgress).await.unwrap();
    assert!(structure.damage.is_empty() && structure.checked < BLOCK_SIZE, "{structure:?}");
    // The first record of the first point's chunks is shared by both points: structure alone does not see it.
    let chunks = small.objects.iter().filter(|(name, _)| name.as_ref().contains("/s/")).map(|(name, _)| name);
    let mut hurt = 0;
    for name in chunks {
        let damaged = vault(small.harmed(name, Harm::Flipped(24)).await).await;
        let verifier = damaged.verifier(Depth::All);
        let reports =
            [verifier.point(first, &NoProgress).await.unwrap(), verifier.point(second, &NoProgress).await.unwrap()];
        if reports.iter().all(|report| !report.damage.is_empty()) {
            hurt += 1;
            let structure = damaged.verifier(Depth::Structure);
            assert_eq!(structure.point(first, &NoProgress).await.unwrap().damage, [], "data is not read");
        }
        let missing = vault(small.harmed(name, Harm::Removed).await).await.verifier(Depth::Structure);
        let reports =
            [missing.point(first, &NoProgress).await.unwrap(), missing.point(second, &NoProgress).await.unwrap()];
        assert!(reports.iter().any(|report| !report.damage.is_empty()), "{name} is missing");
    }
    assert_eq!(hurt, 1, "one segment of chunks is shared");
}
