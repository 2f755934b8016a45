//! Copies between two repositories, broken off at every operation on the one that is copied from and on the other.

use std::sync::Arc;

use remora_core::ports::{Mover, NoProgress};
use remora_core::{Error, Result};
use tokio_util::sync::CancellationToken;

use super::{DAY, Points, collect, three_points};
use crate::Vault;
use crate::testing::{Fault, FaultyStore, assert_only_what_is_needed, new_vault_in, over, read};

/// Both repositories.
struct Two {
    from: (Vault, FaultyStore),
    to: (Vault, FaultyStore),
    points: Points,
}

impl Two {
    async fn new(empty: &FaultyStore) -> Self {
        let (from, from_store, points) = three_points(empty.fork()).await;
        let to = empty.fork();
        Self { from: (from, from_store), to: (new_vault_in(&to).await, to), points }
    }

    /// The same, with nothing cached, and nothing broken yet.
    fn fork(&self) -> Self {
        let again = |(vault, store): &(Vault, FaultyStore)| {
            let store = store.fork();
            store.count();
            (over(vault, &store), store)
        };
        Self { from: again(&self.from), to: again(&self.to), points: self.points.clone() }
    }

    async fn copy(&self) -> Result<()> {
        let copied =
            remora_engine::copy(&self.from.0, &self.to.0, &[], Arc::new(NoProgress), CancellationToken::new()).await?;
        // A store that does not answer is no damage.
        copied.damaged.into_iter().next().map_or(Ok(()), |(_, error)| Err::<(), Error>(error))
    }

    /// Every copy that is listed is its point, and none is there twice.
    async fn check(&self, complete: bool, context: &str) {
        let ours = self.from.0.list(None).await.unwrap().points;
        let listing = self.to.0.list(None).await.unwrap();
        assert!(listing.unreadable.is_empty(), "{context}: {:?}", listing.unreadable);
        let theirs = listing.points;
        assert!(theirs.len() == ours.len() || !complete && theirs.len() < ours.len(), "{context}: {}", theirs.len());
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(ours.origin(), theirs.origin(), "{context}");
            assert!(read(&self.to.0, &theirs.id).await.unwrap() == self.points[&ours.id], "{context}: {}", ours.id);
            assert!(read(&self.from.0, &ours.id).await.unwrap() == self.points[&ours.id], "{context}: {}", ours.id);
        }
    }

    /// After a copy was broken off.
    async fn goes_on(&self, context: &str) {
        let again = self.fork();
        again.check(false, context).await;
        again.copy().await.unwrap_or_else(|e| panic!("{context}: the same again: {}", e.chain()));
        again.check(true, context).await;
        again.to.1.advance(2 * DAY);
        collect(&again.to.0).await.unwrap();
        assert_only_what_is_needed(&again.to.0, &again.to.1, context).await;
        let names = again.from.1.objects().await;
        assert!(!names.keys().any(|name| name.contains("/w/")), "{context}: nothing is stored where is copied from");
    }
}

async fn broken_off_anywhere(empty: &FaultyStore) {
    let two = Two::new(empty).await;
    let counted = two.fork();
    counted.copy().await.unwrap();
    let operations = [counted.from.1.operations(), counted.to.1.operations()];
    counted.check(true, "undisturbed").await;
    assert!(operations.iter().all(|operations| *operations > 20), "{operations:?}");
    // The one that is copied from is only read.
    let reads: Vec<Fault> = empty
        .faults()
        .iter()
        .copied()
        .filter(|f| matches!(f, Fault::Fails | Fault::HalfAnswer | Fault::DiesBefore))
        .collect();
    for (side, faults) in [("from", &reads[..]), ("to", empty.faults())] {
        let operations = operations[usize::from(side == "to")];
        for n in 0..operations {
            for fault in faults {
                let context = format!("{side}, operation {n} of {operations}: {fault:?}");
                let broken = two.fork();
                let store = if side == "from" { &broken.from.1 } else { &broken.to.1 };
                store.inject(n, *fault);
                store.until_death(broken.copy()).await;
                broken.goes_on(&context).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_can_be_broken_off_at_every_operation() {
    broken_off_anywhere(&FaultyStore::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_can_be_broken_off_in_a_folder() {
    broken_off_anywhere(&FaultyStore::in_a_folder()).await;
}
