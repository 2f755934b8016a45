//! Exchanges of key slots that are broken off: whoever could open the repository before or should after still can.

use remora_core::{ErrorKind, Result};

use super::{DAY, Points, collect, three_points};
use crate::keyring::SlotId;
use crate::testing::{FaultyStore, read, shape};
use crate::tests::secret;
use crate::{KeyFile, Keyring, Passphrase, Secret, Vault, VaultOptions};

/// What is broken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exchange {
    Add,
    Remove(SlotId),
    Change,
}

fn other() -> Secret {
    Secret::KeyFile(KeyFile::new(&[8; 32]).unwrap())
}

fn passphrase(text: &str) -> Secret {
    Secret::Passphrase(Passphrase::new(text))
}

async fn keyring(store: &FaultyStore, secret: &Secret) -> Result<Keyring> {
    Ok(Keyring::open_in(store.as_store(), secret).await?.without_effort())
}

async fn opens(store: &FaultyStore, secret: &Secret) -> bool {
    match Vault::open_in(store.as_store(), secret, VaultOptions::default()).await {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WrongKey, "{}", error.chain());
            false
        }
    }
}

impl Exchange {
    async fn run(self, store: &FaultyStore) -> Result<()> {
        match self {
            Self::Add => keyring(store, &secret()).await?.add(&other()).await.map(drop),
            Self::Remove(slot) => match keyring(store, &secret()).await?.remove(slot).await {
                // It is gone: an earlier try has got so far.
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                removed => removed,
            },
            Self::Change => {
                let keyring = keyring(store, &passphrase("old")).await?;
                keyring.change_passphrase(Passphrase::new("new")).await.map(drop)
            }
        }
    }

    /// What opens the repository once it is done, and what does not.
    fn after(self) -> (Vec<Secret>, Vec<Secret>) {
        match self {
            Self::Add => (vec![secret(), other()], vec![]),
            Self::Remove(_) => (vec![secret()], vec![other()]),
            Self::Change => (vec![secret(), passphrase("new")], vec![passphrase("old")]),
        }
    }
}

/// A repository with what the exchange needs.
async fn prepared(store: FaultyStore, exchange: &str) -> (FaultyStore, Points, Exchange) {
    let (_, store, points) = three_points(store).await;
    let keys = keyring(&store, &secret()).await.unwrap();
    let exchange = match exchange {
        "add" => Exchange::Add,
        "remove" => Exchange::Remove(keys.add(&other()).await.unwrap()),
        _ => {
            keys.add(&passphrase("old")).await.unwrap();
            Exchange::Change
        }
    };
    (store, points, exchange)
}

async fn assert_reads(store: &FaultyStore, points: &Points, context: &str) {
    let vault = Vault::open_in(store.as_store(), &secret(), VaultOptions::default()).await;
    let vault = vault.unwrap_or_else(|e| panic!("{context}: {}", e.chain()));
    for (point, image) in points {
        assert!(read(&vault, point).await.unwrap() == *image, "{context}: {point}");
    }
}

async fn shape_at_the_end(store: &FaultyStore) -> Vec<String> {
    store.advance(2 * DAY);
    collect(&Vault::open_in(store.as_store(), &secret(), VaultOptions::default()).await.unwrap()).await.unwrap();
    shape(store).await
}

async fn broken_off_anywhere(empty: &FaultyStore) {
    for exchange in ["add", "remove", "change"] {
        let (store, points, exchange) = prepared(empty.fork(), exchange).await;
        let counted = store.fork();
        counted.count();
        exchange.run(&counted).await.unwrap();
        let operations = counted.operations();
        let whole = shape_at_the_end(&counted).await;
        for n in 0..operations {
            for fault in store.faults() {
                let context = format!("{exchange:?}, operation {n} of {operations}: {fault:?}");
                let broken = store.fork();
                broken.inject(n, *fault);
                broken.until_death(exchange.run(&broken)).await;
                let store = broken.fork();
                assert_reads(&store, &points, &context).await;
                let (after, not_after) = exchange.after();
                if exchange == Exchange::Change {
                    let (old, new) = (opens(&store, &passphrase("old")).await, opens(&store, &passphrase("new")).await);
                    assert!(old || new, "{context}: neither passphrase opens it");
                    if old {
                        exchange.run(&store).await.unwrap_or_else(|e| panic!("{context}: {}", e.chain()));
                    }
                } else {
                    exchange.run(&store).await.unwrap_or_else(|e| panic!("{context}: {}", e.chain()));
                }
                for secret in after {
                    assert!(opens(&store, &secret).await, "{context}: {secret:?}");
                }
                for secret in not_after {
                    assert!(!opens(&store, &secret).await, "{context}: {secret:?}");
                }
                assert_eq!(shape_at_the_end(&store).await, whole, "{context}");
                assert_reads(&store, &points, &context).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exchanges_of_key_slots_can_be_broken_off_at_every_operation() {
    broken_off_anywhere(&FaultyStore::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exchanges_of_key_slots_can_be_broken_off_in_a_folder() {
    broken_off_anywhere(&FaultyStore::in_a_folder()).await;
}
