//! Every interleaving of two who remove each other's slot, and many of three. As one slot must be there after each
//! step, whoever takes no step any more may as well have been killed.

use std::pin::pin;
use std::sync::Arc;

use object_store::memory::InMemory;

use super::*;
use crate::testing::{Choices, Gate, Steps};

/// A store with so many slots. What is in them is no matter here.
fn slots(count: usize) -> (Arc<InMemory>, Vec<SlotId>) {
    let memory = Arc::new(InMemory::new());
    let slots: Vec<_> = (0..count).map(|_| SlotId::random()).collect();
    let store = Store::over(Arc::clone(&memory) as Arc<dyn object_store::ObjectStore>);
    for slot in &slots {
        let path = slot.path();
        let stored = store.create(&path, Bytes::from_static(b"slot").into());
        assert_eq!(Steps::to_the_end(stored).unwrap(), Created::Yes);
    }
    (memory, slots)
}

/// Lets removals `(removes, keeps)` take steps in the order that is chosen, and looks after each.
fn interleave(count: usize, removals: &[(usize, usize)], mut choose: impl FnMut(usize) -> usize) {
    let (memory, slots) = slots(count);
    let left = || slots.iter().filter(|slot| memory_has(&memory, **slot)).count();
    let mut order = Vec::new();
    let gates: Vec<_> = removals.iter().map(|_| Gate::before(Arc::clone(&memory))).collect();
    let mut actors: Vec<_> = removals
        .iter()
        .zip(&gates)
        .map(|((removes, keeps), gate)| {
            let store = gate.proven_store();
            let (removes, keeps) = (slots[*removes], slots[*keeps]);
            Steps::of(gate.clone(), Box::pin(async move { remove(&store, removes, keeps).await }))
        })
        .collect();
    loop {
        let ready: Vec<usize> = (0..actors.len()).filter(|n| actors[*n].done().is_none()).collect();
        if ready.is_empty() {
            break;
        }
        let next = ready[choose(ready.len())];
        order.push(next);
        actors[next].step();
        assert!(left() > 0, "no slot is left after the steps of {order:?}");
    }
    for (actor, (removes, _)) in actors.iter().zip(removals) {
        match actor.done().expect("all are done") {
            Ok(()) => {
                assert!(!memory_has(&memory, slots[*removes]), "{order:?}: it was told that slot {removes} is gone");
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Refused, "{order:?}: {}", error.chain()),
        }
    }
    assert!(actors.iter().any(|actor| matches!(actor.done(), Some(Ok(())))), "{order:?}: nobody got through");
}

fn memory_has(memory: &Arc<InMemory>, slot: SlotId) -> bool {
    let store = Store::over(Arc::clone(memory) as Arc<dyn object_store::ObjectStore>);
    Steps::to_the_end(pin!(store.exists(&slot.path()))).unwrap()
}

#[test]
fn two_who_remove_each_others_slot_leave_one_in_every_order() {
    let mut choices = Choices::default();
    let mut orders = 0;
    while choices.next() {
        interleave(2, &[(1, 0), (0, 1)], |of| choices.choose(of));
        orders += 1;
    }
    assert!(orders > 300, "{orders} orders");
}

#[test]
fn three_who_remove_one_anothers_slots_leave_one() {
    for removals in [[(1, 0), (2, 1), (0, 2)], [(1, 0), (0, 1), (0, 2)], [(1, 0), (2, 0), (0, 1)]] {
        for seed in 0..5_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            interleave(3, &removals, |of| random.usize(..of));
        }
    }
}

/// Whoever is killed between its decision and the removal: the next one, whoever that is, carries it out.
#[test]
fn a_removal_that_was_decided_is_carried_out_by_the_next_one() {
    let (memory, slots) = slots(4);
    let [a, b, c, d] = slots[..] else { unreachable!("there are four") };
    let store = Store::over(Arc::clone(&memory) as Arc<dyn object_store::ObjectStore>);
    let entry = Removal::new(b, a).encode();
    assert_eq!(Steps::to_the_end(store.create(&names::removal(1), entry.into())).unwrap(), Created::Yes);
    let refused = Steps::to_the_end(remove(&store, a, b)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused, "its own slot was the one to go: {}", refused.chain());
    assert!([a, b].iter().all(|slot| memory_has(&memory, *slot)), "b may have been put back, and be all that opens");
    Steps::to_the_end(remove(&store, c, d)).unwrap();
    assert_eq!([a, b, c, d].map(|slot| memory_has(&memory, slot)), [true, false, false, true]);
}

/// A flipped bit of an entry must not remove another slot.
#[test]
fn a_damaged_entry_removes_nothing() {
    let (memory, slots) = slots(3);
    let store = Store::over(Arc::clone(&memory) as Arc<dyn object_store::ObjectStore>);
    let entry = Removal::new(slots[0], slots[1]).encode();
    let other = String::from_utf8(entry.to_vec()).unwrap().replace(&slots[0].to_string(), &slots[2].to_string());
    Steps::to_the_end(store.create(&names::removal(1), Bytes::from(other).into())).unwrap();
    let error = Steps::to_the_end(remove(&store, slots[0], slots[1])).unwrap_err();
    assert!(error.kind() == ErrorKind::Damaged && error.chain().contains("removals/"), "{}", error.chain());
    assert!(slots.iter().all(|slot| memory_has(&memory, *slot)));
}
