//! Inits that are broken off, and inits at the same time.

use jiff::Timestamp;
use object_store::path::Path;
use remora_core::point::Decision;
use remora_core::ports::Mover;
use remora_core::{ErrorKind, RepositoryId};

use super::{DAY, collect, vm};
use crate::collect::Mode;
use crate::descriptor::Descriptor;
use crate::init::clear_others;
use crate::names::{DESCRIPTOR, INITS, SLOTS};
use crate::testing::{FaultyStore, back_up, image, new_vault, read, shape};
use crate::tests::secret;
use crate::{Vault, VaultOptions};

/// What an init leaves that nobody disturbed, after a collection.
const WHOLE: [&str; 5] = ["clock", "doctor/create-only", "keys/slot", "remora.json", "t/tenant/key"];

async fn init(store: &FaultyStore) -> remora_core::Result<RepositoryId> {
    Vault::init_in(&store.as_store(), &secret()).await
}

/// The repository can be opened, is empty, and after a day nothing of a broken init is left.
async fn assert_whole(store: &FaultyStore, context: &str) {
    let vault = Vault::open_in(store.as_store(), &secret(), VaultOptions::default()).await;
    let vault = vault.unwrap_or_else(|e| panic!("{context}: {}", e.chain()));
    assert!(vault.list(None).await.unwrap().points.is_empty(), "{context}");
    // What can open the repository is right at once; what was announced, and files of killed writes, wait for a day.
    let slots = shape(store).await.into_iter().filter(|name| name == "keys/slot").count();
    store.advance(2 * DAY);
    collect(&vault).await.unwrap_or_else(|e| panic!("{context}: {}", e.chain()));
    assert_eq!(shape(store).await, WHOLE, "{context}");
    assert_eq!(slots, 1, "{context}: what opens nothing is gone at once");
    Vault::open_in(store.as_store(), &secret(), VaultOptions::default()).await.unwrap();
}

/// No init is made over a repository whose descriptor was lost, and nobody clears away its slot and data key, though its
/// init had been killed right after its last request but one: with its descriptor it is there again.
#[tokio::test]
async fn a_repository_without_descriptor_is_left_as_it_is() {
    let (vault, store) = new_vault().await;
    let point = back_up(&vault, &vm(), Decision::Full, &image(0..16), &[]).await.unwrap();
    let at = store.as_store();
    let descriptor = Path::from(DESCRIPTOR);
    let old = at.get(&descriptor, 1 << 20).await.unwrap().unwrap();
    let slot = at.children(&Path::from(SLOTS)).await.unwrap()[0].replace(".json", "");
    let announced = format!("{INITS}/{}-{slot}-{}", vault.0.descriptor.id, vault.0.tenant.hex());
    at.create(&Path::from(announced), object_store::PutPayload::default()).await.unwrap();
    at.remove(&descriptor).await.unwrap();
    let refused = init(&store).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Exists);
    assert!(refused.chain().contains("remora.json is missing"), "{}", refused.chain());
    let other = Descriptor::new(RepositoryId::random(), Timestamp::now());
    clear_others(&at, &other, Timestamp::MAX, Mode::Run).await.unwrap();
    at.replace(&descriptor, old.into()).await.unwrap();
    let again = Vault::open_in(store.as_store(), &secret(), VaultOptions::default()).await.unwrap();
    assert_eq!(read(&again, &point.id).await.unwrap(), image(0..16));
}

async fn broken_off_anywhere(empty: &FaultyStore) {
    let counted = empty.fork();
    init(&counted).await.unwrap();
    assert_whole(&counted.fork(), "undisturbed").await;
    let operations = counted.operations();
    assert!(operations > 6, "{operations}");
    for n in 0..operations {
        for fault in empty.faults() {
            let context = format!("operation {n}: {fault:?}");
            let broken = empty.fork();
            broken.inject(n, *fault);
            let ended = broken.until_death(init(&broken)).await;
            let store = broken.fork();
            match (ended, init(&store).await) {
                (Some(Ok(_)), Err(error)) => assert_eq!(error.kind(), ErrorKind::Exists),
                // Its answer was lost, or it died after its last operation: the repository is there and whole.
                (_, Err(error)) if error.kind() == ErrorKind::Exists => {}
                (_, again) => drop(again.unwrap_or_else(|e| panic!("{context}: {}", e.chain()))),
            }
            assert_whole(&store, &context).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn init_can_be_broken_off_at_every_operation() {
    broken_off_anywhere(&FaultyStore::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn init_can_be_broken_off_in_a_folder() {
    broken_off_anywhere(&FaultyStore::in_a_folder()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_inits_at_the_same_time_one_wins_and_nothing_is_left_of_the_others() {
    for round in 0..20 {
        let store = FaultyStore::new();
        let inits = (0..4).map(|_| {
            let store = store.clone();
            tokio::spawn(async move { init(&store).await })
        });
        let ended: Vec<_> = futures::future::join_all(inits).await.into_iter().map(Result::unwrap).collect();
        let won: Vec<_> = ended.iter().filter_map(|end| end.as_ref().ok()).collect();
        assert_eq!(won.len(), 1, "round {round}: {ended:?}");
        let lost = ended.iter().filter_map(|end| end.as_ref().err());
        assert!(lost.map(remora_core::Error::kind).all(|kind| kind == ErrorKind::Exists), "round {round}: {ended:?}");
        assert_whole(&store, &format!("round {round}")).await;
    }
}
