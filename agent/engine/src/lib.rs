//! The runs: a backup as a declared state machine, and restores into files and devices, over the ports of
//! `remora-core`.
//!
//! Knows no libvirt, no store and no format: sources and movers come in as `dyn`. Start reading at [`backup`], whose
//! states are one file each below `backup/`; [`restore`] writes a disk of a point into a [`Target`],
//! [`copy`] brings points into another repository, [`repair`] makes what was lost of points anew from the running VM.

mod backup;
mod breaks;
mod cancel;
mod copy;
mod repair;
mod restore;
mod target;

pub use backup::{BackupReport, BackupRequest, PIECES, SPOT_CHECKS, backup};
pub use breaks::record_breaks;
pub use cancel::or_cancelled;
pub use copy::{Copied, CopyReport, copy};
pub use repair::repair;
pub use restore::restore;
pub use target::{Existing, Target};
