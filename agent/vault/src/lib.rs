//! The vault: points, cut into chunks, compressed and sealed, in an object store. The format is in `docs/format.md`.
//!
//! Depends on `remora-core`, on `remora-process` (whether the writer of a session is gone) and on the store's and codecs'
//! libraries; the keys live here and nowhere else. Start reading at `vault.rs` (the port) and `sequence.rs` (the entries of a
//! VM's sequence), then `writer.rs` and `reader.rs`; below them lie `map/` (from blocks to chunks), `segment/` (from chunks
//! to objects) and `seal.rs`.

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

mod cache;
mod collect;
mod descriptor;
mod diff;
mod fragments;
pub mod fuzzing;
mod grant;
mod immutable;
mod init;
mod keyring;
mod keys;
mod leftovers;
mod location;
mod manifest;
mod map;
mod names;
mod parent;
mod reader;
mod removals;
mod repair;
mod repository;
mod salvage;
mod sample;
mod seal;
mod sealed_json;
mod secret;
mod seen;
mod segment;
mod sequence;
mod session;
mod settings;
mod slot;
mod store;
mod stretch;
mod tenant;
mod tombstone;
mod undelete;
mod upkeep;
mod uploads;
mod vault;
mod verify;
mod wire;
mod workers;
mod writer;

pub use collect::{Amount, Collected, Mode};
pub use grant::Grant;
pub use immutable::Locked;
pub use keyring::{Keyring, SlotId, SlotInfo, SlotKind};
pub use leftovers::Leftovers;
pub use location::Location;
pub use repository::VaultOptions;
pub use salvage::Salvage;
pub use sample::{Depth, Sample, Share};
pub use secret::{KeyFile, Passphrase, Secret};
pub use settings::Immutable;
pub use store::{Access, Finding, Limits, Need, Plugins, Reach, client_of, examine};
pub use tenant::Tenant;
pub use undelete::{Undeleted, undelete};
pub use upkeep::{Kept, Pruned};
pub use vault::{Status, Vault};
pub use verify::Verifier;
