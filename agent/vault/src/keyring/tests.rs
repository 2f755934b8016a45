//! Who can open a repository, and what that costs.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};

use super::*;
use crate::secret::KeyFile;
use crate::stretch::Cost;
use crate::{Vault, VaultOptions};

struct Bench(Arc<InMemory>);

impl Bench {
    /// A repository with a key file's slot.
    async fn new() -> (Self, Secret) {
        let bench = Self(Arc::new(InMemory::new()));
        let secret = Secret::KeyFile(KeyFile::random());
        Vault::init_in(&bench.store(), &secret).await.unwrap();
        (bench, secret)
    }

    fn store(&self) -> Store {
        Store::over(Arc::clone(&self.0) as Arc<dyn ObjectStore>)
    }

    async fn keyring(&self, secret: &Secret) -> Result<Keyring> {
        Ok(Keyring::open_in(self.store(), secret).await?.without_effort())
    }

    async fn opens(&self, secret: &Secret) -> Result<(), ErrorKind> {
        Vault::open_in(self.store(), secret, VaultOptions::default()).await.map(drop).map_err(|e| e.kind())
    }

    async fn objects(&self) -> BTreeMap<Path, Bytes> {
        let names: Vec<Path> = self.0.list(None).map_ok(|o| o.location).try_collect().await.unwrap();
        let mut objects = BTreeMap::new();
        for name in names {
            objects.insert(name.clone(), self.0.get(&name).await.unwrap().bytes().await.unwrap());
        }
        objects
    }

    async fn damage(&self, id: SlotId) {
        let mut slot = self.0.get(&id.path()).await.unwrap().bytes().await.unwrap().to_vec();
        let salt = slot.windows(4).position(|w| w == b"salt" || w == b"wrap").unwrap() + 12;
        slot[salt] = if slot[salt] == b'0' { b'1' } else { b'0' };
        self.0.put(&id.path(), slot.into()).await.unwrap();
    }
}

fn passphrase(text: &str) -> Secret {
    Secret::Passphrase(Passphrase::new(text))
}

#[tokio::test]
async fn each_secret_opens_the_repository_until_its_slot_goes() {
    let (bench, file) = Bench::new().await;
    let keyring = bench.keyring(&file).await.unwrap();
    let (one, two) = (passphrase("one"), Secret::KeyFile(KeyFile::random()));
    assert_eq!(bench.opens(&one).await, Err(ErrorKind::WrongKey));
    let slots = [keyring.add(&one).await.unwrap(), keyring.add(&two).await.unwrap()];
    for secret in [&file, &one, &two] {
        bench.opens(secret).await.unwrap();
    }
    let kinds: Vec<_> = keyring.slots().await.unwrap().into_iter().map(|s| (s.kind.unwrap(), s.current)).collect();
    assert_eq!(kinds, [(SlotKind::KeyFile, true), (SlotKind::Passphrase, false), (SlotKind::KeyFile, false)]);
    keyring.remove(slots[0]).await.unwrap();
    assert_eq!(bench.opens(&one).await, Err(ErrorKind::WrongKey));
    assert_eq!(keyring.remove(slots[0]).await.unwrap_err().kind(), ErrorKind::NotFound);
    bench.opens(&two).await.unwrap();
}

#[tokio::test]
async fn changing_who_can_open_it_changes_slots_and_nothing_else() {
    let (bench, file) = Bench::new().await;
    let data = |objects: BTreeMap<Path, Bytes>| -> BTreeMap<Path, Bytes> {
        let of_slots = |name: &Path| name.as_ref().starts_with("keys/") || name.as_ref().starts_with("removals/");
        objects.into_iter().filter(|(name, _)| !of_slots(name)).collect()
    };
    let before = data(bench.objects().await);
    let keyring = bench.keyring(&file).await.unwrap();
    keyring.add(&passphrase("old")).await.unwrap();
    let changed = bench.keyring(&passphrase("old")).await.unwrap();
    changed.change_passphrase(Passphrase::new("new")).await.unwrap();
    bench.opens(&passphrase("new")).await.unwrap();
    assert_eq!(bench.opens(&passphrase("old")).await, Err(ErrorKind::WrongKey));
    assert_eq!(keyring.slots().await.unwrap().len(), 2);
    assert_eq!(data(bench.objects().await), before);
}

#[tokio::test]
async fn the_slot_in_use_and_so_the_last_one_cannot_go() {
    let (bench, file) = Bench::new().await;
    let keyring = bench.keyring(&file).await.unwrap();
    let only = keyring.slots().await.unwrap()[0].id;
    assert_eq!(keyring.remove(only).await.unwrap_err().kind(), ErrorKind::Refused);
    let passphrases = keyring.change_passphrase(Passphrase::new("p")).await;
    assert_eq!(passphrases.unwrap_err().kind(), ErrorKind::Refused, "it was opened with a key file");
    bench.opens(&file).await.unwrap();
}

#[tokio::test]
async fn a_secret_has_one_slot_however_often_it_is_added() {
    let (bench, file) = Bench::new().await;
    let keyring = bench.keyring(&file).await.unwrap();
    for secret in [passphrase("one"), Secret::KeyFile(KeyFile::random())] {
        assert_eq!(keyring.add(&secret).await.unwrap(), keyring.add(&secret).await.unwrap());
    }
    assert_eq!(keyring.add(&file).await.unwrap(), keyring.opened_by());
    assert_eq!(keyring.slots().await.unwrap().len(), 3);
}

/// Also for the same one: its cost is measured anew.
#[tokio::test]
async fn a_passphrase_can_be_changed_for_itself() {
    let (bench, file) = Bench::new().await;
    let old = bench.keyring(&file).await.unwrap().add(&passphrase("same")).await.unwrap();
    let keyring = bench.keyring(&passphrase("same")).await.unwrap();
    assert_ne!(keyring.change_passphrase(Passphrase::new("same")).await.unwrap(), old);
    bench.opens(&passphrase("same")).await.unwrap();
    assert_eq!(bench.keyring(&file).await.unwrap().slots().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_damaged_slot_is_named_and_does_not_stand_in_anothers_way() {
    let (bench, file) = Bench::new().await;
    let keyring = bench.keyring(&file).await.unwrap();
    for secret in [passphrase("one"), passphrase("two")] {
        let damaged = keyring.add(&secret).await.unwrap();
        bench.damage(damaged).await;
        let error = bench.keyring(&secret).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{}", error.chain());
        bench.opens(&file).await.unwrap();
        let listed = keyring.slots().await.unwrap();
        assert!(listed.iter().any(|slot| slot.id == damaged && slot.unusable.is_some()));
    }
    keyring.add(&passphrase("three")).await.unwrap();
    bench.opens(&passphrase("three")).await.unwrap();
    let damaged = keyring.slots().await.unwrap().into_iter().filter(|slot| slot.unusable.is_some());
    for slot in damaged {
        keyring.remove(slot.id).await.unwrap();
    }
    assert_eq!(bench.opens(&passphrase("one")).await, Err(ErrorKind::WrongKey));
}

#[tokio::test]
async fn passphrases_are_stretched_one_at_a_time() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static AT_WORK: AtomicUsize = AtomicUsize::new(0);
    let work = || {
        let others = AT_WORK.fetch_add(1, Ordering::SeqCst);
        Cost { memory_kib: 8 * 1024, passes: 1, lanes: 1 }.stretch(&Passphrase::new("p"), &[0; 16])?;
        AT_WORK.fetch_sub(1, Ordering::SeqCst);
        Ok(others)
    };
    let others = futures::future::try_join_all((0..16).map(|_| blocking(work))).await.unwrap();
    assert_eq!(others, [0; 16]);
}

#[tokio::test]
async fn a_stranger_s_store_costs_little() {
    let (bench, file) = Bench::new().await;
    let keyring = bench.keyring(&file).await.unwrap();
    let of_stranger = async |secret: &Secret| {
        let store = bench.store().reached_to(Reach::Internet);
        Keyring::open_in(store, secret).await.map(drop)
    };
    let (one, other) = (passphrase("one"), passphrase("other"));
    let id = keyring.add(&one).await.unwrap();
    of_stranger(&one).await.unwrap();

    // What would take half a GiB is not tried, but by who trusts whoever chose the place.
    let text = String::from_utf8(bench.objects().await[&id.path()].to_vec()).unwrap();
    let dear = text.replace("\"memory_kib\": 64", "\"memory_kib\": 524288");
    let dear = Slot::forged(dear.as_bytes()).unwrap().encode();
    bench.0.put(&id.path(), dear.into()).await.unwrap();
    let error = of_stranger(&one).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Damaged && error.chain().contains("256 MiB"), "{}", error.chain());
    assert_eq!(bench.opens(&one).await, Err(ErrorKind::WrongKey));
    keyring.remove(id).await.unwrap();

    for n in 0..=MOST_OF_STRANGERS {
        assert!(!of_stranger(&other).await.unwrap_err().chain().contains("first"), "{n} slots");
        keyring.add(&passphrase(&n.to_string())).await.unwrap();
    }
    let error = of_stranger(&other).await.unwrap_err();
    assert!(error.kind() == ErrorKind::WrongKey && error.chain().contains("first 8"), "{}", error.chain());
    assert_eq!(bench.opens(&other).await, Err(ErrorKind::WrongKey));
}

#[tokio::test]
async fn slots_are_bounded_for_whoever_opens() {
    let (bench, file) = Bench::new().await;
    let keyring = bench.keyring(&file).await.unwrap();
    for n in 1..MOST {
        keyring.add(&passphrase(&n.to_string())).await.unwrap();
    }
    assert_eq!(keyring.add(&passphrase("more")).await.unwrap_err().kind(), ErrorKind::Refused);
}
