//! The words of remora as types, the ports that its layers meet at, and planning as pure functions.
//!
//! Depends on `remora-retention` alone, for the words of rules and verdicts; does no I/O, and knows nothing of libvirt,
//! Kubernetes, FUSE or any storage. Start reading at [`ports`] (who talks to whom), then [`point`] (what is stored) and
//! [`plan`] (how a backup run decides between a full, an incremental and a reread).

mod authorities;
mod base32;
pub mod budget;
mod clock;
pub mod error;
pub mod extent;
mod internet;
pub mod name;
pub mod outage;
pub mod plan;
pub mod point;
pub mod policy;
pub mod ports;
pub mod range;
pub mod retention;
mod secret;
#[cfg(feature = "testing")]
pub mod testing;

pub use authorities::{NotAuthorities, check_authorities};
pub use budget::{MemoryBudget, Reserved};
pub use clock::is_ahead;
pub use error::{Error, ErrorKind, Result};
pub use extent::{Extent, ExtentState};
pub use internet::is_internet;
pub use name::{BackupName, CheckpointName, DiskName, InvalidName, LineageId, PointId, RepositoryId, VmName};
pub use range::{BLOCK_SIZE, ByteRange, PIECE_SIZE};
pub use secret::cut_newline;
