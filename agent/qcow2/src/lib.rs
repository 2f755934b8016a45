//! Writes a qcow2 image to anything that takes bytes in order: a file, a pipe, later an upload.
//!
//! qcow2 is usually written with seeks, because its tables point at data that is not placed yet. Here the caller knows
//! the extents of the disk before its data, so that [`Layout`] can place everything: header, refcounts and tables come
//! out first, the data clusters follow in the order of the disk. [`Writer`] does both. Start reading there.
//!
//! Images are version 3, uncompressed, without a backing file, with clusters of 64 KiB: what every QEMU since 1.7
//! opens. Depends on `remora-core` only.

mod bitmap;
mod layout;
mod writer;

pub use layout::{CLUSTER_SIZE, Layout};
pub use writer::Writer;
