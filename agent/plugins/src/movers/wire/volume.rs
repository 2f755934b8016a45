//! What host and child say about points in a mover's own form; each function and record stands in `wit/mover`.

use serde::{Deserialize, Serialize};

/// A function of a store, or of a writer that it resumes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum VolumeCall {
    Begin(NewPoint),
    Write { id: String, token: String, disk: u32, offset: u64, len: u64 },
    Zero { id: String, token: String, disk: u32, offset: u64, len: u64 },
    Unchanged { id: String, token: String, disk: u32, offset: u64, len: u64 },
    Commit { id: String, token: String },
    Abort { id: String, token: String },
    List { vm: Option<String>, token: Option<String> },
    Extents { point: String, disk: u32, offset: u64, len: u64 },
    Read { point: String, disk: u32, offset: u64, len: u64 },
    Delete { point: String },
}

/// What a function gave; `Done` has what both kinds of movers give.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum VolumeDone {
    Opened(VolumeCapabilities),
    Points(PointPage),
    Extents(Vec<VolumeExtent>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VolumeCapabilities {
    pub(crate) incremental: bool,
    pub(crate) granularity: u64,
    pub(crate) max_transfer: u64,
}

/// A disk's name and size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VolumeDisk {
    pub(crate) name: String,
    pub(crate) size: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NewPoint {
    pub(crate) id: String,
    pub(crate) vm_name: String,
    pub(crate) vm_namespace: String,
    pub(crate) vm_uid: String,
    pub(crate) time: i64,
    pub(crate) disks: Vec<VolumeDisk>,
    pub(crate) parent: Option<String>,
    pub(crate) description: Vec<u8>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct VolumePoint {
    pub(crate) id: String,
    pub(crate) vm_name: String,
    pub(crate) disks: Vec<VolumeDisk>,
    pub(crate) description: Vec<u8>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PointPage {
    pub(crate) points: Vec<VolumePoint>,
    pub(crate) next: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VolumeExtent {
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) zero: bool,
}
