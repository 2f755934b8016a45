//! Sources of consistent views of a VM: libvirt domains, and VMs of KubeVirt.
//!
//! [`LibvirtSource`] implements the source ports of `remora-core` over libvirt's backup jobs in pull mode; the disks are
//! read through `remora-nbd`. Depends on `core` and `nbd` only.
//!
//! Start reading at `source.rs` (claim), then `open.rs`, `own_job.rs` (freeze, begin, thaw) and `view.rs` (read, confirm,
//! close). Beside every open view runs a [`watchdog`], a process of its own that thaws the guest and ends the job if ours
//! dies.
//! `unsafe` stands in `raw.rs` alone: the calls of libvirt that the `virt` crate does not wrap, and two of the kernel.

mod backup_xml;
mod bitmaps;
mod checkpoints;
mod claim;
mod connection;
mod definition;
mod disk;
mod doctor;
mod extents;
mod files;
mod guard;
mod identity;
mod inventory;
mod job;
pub mod kubevirt;
mod lock;
mod open;
mod options;
mod own_job;
mod process;
mod qemu;
mod quiesce;
mod raw;
mod scratch;
mod source;
mod state;
mod view;
mod vm;
pub mod watchdog;

pub use doctor::Check;
pub use inventory::{Found, Inventory};
pub use options::LibvirtOptions;
pub use raw::leave;
pub use source::LibvirtSource;
