//! From a point to a tree of files.
//!
//! [`Mount`] makes a folder with two mounts side by side: `disks/<name>.raw`, served by `disk_fs.rs` from a
//! [`PointReader`](remora_core::ports::PointReader) through FUSE, and `files/`, the guest's filesystems, served by
//! libguestfs, whose appliance (a small VM) reads those raw files. [`copy_out`] takes files and trees out of `files/`.
//!
//! Below `files/`:
//! - `<disk>/<partition>/…`, such as `vda/1/etc`; a filesystem on a whole disk without partitions is `<disk>/…`;
//! - `<volume group>/<logical volume>/…`; `md<n>/…` for software RAID;
//! - `root/…`: the guest's own view, put together as its `/etc/fstab` says, if there is one.
//!
//! All of a disk is the guest's, so hostile: names are checked before they become paths, nothing in the tree is
//! followed when it is copied, and only the appliance ever parses a filesystem.
//!
//! Depends on `remora-core`, FUSE and libguestfs (`guestfish`). Start reading at `mount.rs`.

mod appliance;
mod copy;
mod disk_fs;
mod disk_mount;
mod escapes;
mod fstab;
mod guestfish;
mod layout;
mod mount;
mod mountpoint;
mod process;
mod read_ahead;
mod scratch;
mod skipped;
mod views;

pub use appliance::ApplianceOptions;
pub use copy::{Copied, CopyOptions, Existing, copy_out};
pub use mount::{Ended, Files, Mount, MountOptions, Mounted};
pub use skipped::Skipped;
