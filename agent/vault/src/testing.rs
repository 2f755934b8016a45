//! What the tests of crashes and collections share: a store with a clock and faults, and VMs to back up.

mod bench;
mod faulty_store;
mod locking_store;

use bench::over_store;
pub(crate) use bench::{NOISE, assert_only_what_is_needed, back_up, begin, image, new_vault, over, read};
pub(crate) use faulty_store::{Fault, FaultyStore};
pub(crate) use locking_store::LockingStore;
