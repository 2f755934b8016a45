//! Points, and points as a run begins them, for tests to which most of what is known of a point is all the same.

use std::iter;

use jiff::Timestamp;

use crate::point::{Decision, DiskIdentity, Point, Quiesced};
use crate::ports::{DiskReads, NewDisk, NewPoint};
use crate::{DiskName, LineageId, PointId, RepositoryId, VmName};

/// A point of `vm` after `parent`, at the epoch.
pub fn new_point(vm: &VmName, parent: Option<PointId>, disks: Vec<NewDisk>) -> NewPoint {
    NewPoint {
        vm: vm.clone(),
        time: Timestamp::UNIX_EPOCH,
        parent,
        quiesced: Quiesced::Skipped,
        definition: "<domain/>".into(),
        tool: "test".into(),
        origin: None,
        disks,
    }
}

/// The first point of `vm`, for which nothing was read or stored.
pub fn point(vm: &VmName, disks: Vec<NewDisk>) -> Point {
    let id = PointId::new("0011223344556677", 1).expect("the key and the number are such as points have");
    let nothing = iter::repeat((DiskReads::default(), 0));
    new_point(vm, None, disks).point(id, RepositoryId::from_bytes([7; 16]), nothing)
}

/// A disk whose file is `/d`, of the same lineage in every point.
pub fn new_disk(name: &str, size: u64, decision: Decision) -> NewDisk {
    NewDisk {
        name: DiskName::new(name).expect("a test gives a valid name"),
        size,
        identity: DiskIdentity { vm_uuid: "u".into(), path: "/d".into(), inode: None, data_file: None },
        lineage: LineageId::from_bytes([1; 16]),
        checkpoint: None,
        instance: None,
        read_in_full: Timestamp::UNIX_EPOCH,
        decision,
        reason: "test".into(),
    }
}
