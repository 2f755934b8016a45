//! What the tests of crashes and collections share: a store with a clock and faults, and VMs to back up.

mod bench;
mod faulty_store;
mod gate;
mod locking_store;

pub(crate) use bench::{
    NOISE, assert_only_what_is_needed, back_up, begin, image, new_vault, new_vault_in, over, over_store, read, shape,
    write,
};
pub(crate) use faulty_store::{Fault, FaultyStore};
pub(crate) use gate::{Choices, Gate, Steps};
pub(crate) use locking_store::LockingStore;
