//! Repositories of VMs whose disks were never stored, for measuring what their metadata costs: the runs, the maps and
//! the collection are the product's, the disks are simulated, and where chunks would lie the store keeps holes.
//!
//! Depends on the engine and the vault. Start reading at [`Synthetic`]; `vm.rs` is the source, `store.rs` the store. The
//! program is what `bench` talks to.

mod store;
mod synthetic;
mod vm;

pub use store::Traffic;
pub use synthetic::{Made, Synthetic};
pub use vm::{Change, Disk};
