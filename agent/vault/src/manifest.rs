//! Manifests: the entries of a VM's sequence. A point is listed once its manifest is stored, and it is stored last.
//!
//! ```text
//! "remoraM1" ‖ salt, 32 bytes ‖ sealed zstd of a JSON text
//! ```

use jiff::Timestamp;
use remora_core::point::Point;
use remora_core::ports::LineageBreak;
use remora_core::{Error, PointId, RepositoryId, Result, VmName};
use serde::{Deserialize, Serialize};

use crate::keys::Key;
use crate::map::disk::Root;
use crate::names::{Folder, SegmentId, SessionId};
use crate::seal::{Kind, NotAuthentic, Place, open_object, seal_object};
use crate::segment::footer::Holds;
use crate::tombstone::Tombstone;
use crate::wire::Malformed;

pub(crate) const MAGIC: &[u8; 8] = b"remoraM1";

/// The most that a manifest's text may be; a VM with a hundred disks has a tenth of it.
const TEXT_LIMIT: usize = 16 * 1024 * 1024;

/// The most that a manifest object may be.
pub(crate) const LIMIT: u64 = TEXT_LIMIT as u64 + 1024;

/// An entry of a VM's sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// The VM whose sequence this is.
    pub(crate) vm: VmName,
    /// When it was written.
    pub(crate) written: Timestamp,
    /// The session that wrote it; zeros for entries that need none.
    pub(crate) session: SessionId,
    /// The number of the newest tombstone below it; 0 if there is none. So the newest entry leads to the newest
    /// tombstone.
    pub(crate) tombstone: u64,
    /// The number of the repository's settings that its writer knew; 0 if nothing was ever set.
    #[serde(default, skip_serializing_if = "is_none_yet")]
    pub(crate) settings: u64,
    pub(crate) entry: Entry,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_none_yet(number: &u64) -> bool {
    *number == 0
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Entry {
    /// A recovery point.
    Point(Box<PointEntry>),
    /// The next point must reread.
    Break(LineageBreak),
    /// Data of the newest point was found lost.
    Lost(Lost),
    /// What no longer counts.
    Tombstone(Box<Tombstone>),
}

/// What a verification found lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lost {
    /// When.
    pub(crate) time: Timestamp,
    /// The segments that are damaged or gone: the next point rereads, and stores again what lies in them.
    pub(crate) segments: Vec<SegmentId>,
}

/// A recovery point and where its bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PointEntry {
    pub(crate) point: Point,
    /// The BLAKE3 of the parent's manifest object, in hexadecimal.
    pub(crate) parent_hash: Option<String>,
    /// The unit of the maps, in bytes.
    pub(crate) block_size: u64,
    /// One map a disk, in the point's order.
    pub(crate) maps: Vec<MapEntry>,
    /// The segments that this point added.
    pub(crate) segments: Vec<SegmentEntry>,
}

/// The map of a disk; its shape follows from the disk's size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MapEntry {
    /// None if all of the disk reads as zero.
    pub(crate) root: Option<Root>,
}

/// A segment of this point's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SegmentEntry {
    #[serde(with = "hex::serde")]
    pub(crate) id: [u8; 16],
    pub(crate) holds: HoldsName,
    /// The object's length.
    pub(crate) len: u64,
}

/// What a segment holds, as a manifest says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum HoldsName {
    Chunks,
    Nodes,
}

impl From<Holds> for HoldsName {
    fn from(holds: Holds) -> Self {
        match holds {
            Holds::Chunks => Self::Chunks,
            Holds::Nodes => Self::Nodes,
        }
    }
}

/// Why a manifest cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error(transparent)]
    NotAuthentic(#[from] NotAuthentic),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("its text is not understood")]
    Json(#[from] serde_json::Error),
}

/// Where a manifest belongs.
pub(crate) fn place(repository: RepositoryId, tenant: Folder, vm: Folder, sequence: u64) -> Place {
    Place { repository: *repository.as_bytes(), tenant: tenant.0, object: vm.as_object(), number: sequence }
}

impl Manifest {
    /// Its sealed form.
    pub(crate) fn seal(&self, key: &Key, place: &Place) -> Result<Vec<u8>> {
        let failed = |what: &str| Error::new(remora_core::ErrorKind::Failed, format!("writing a manifest: {what}"));
        let text = serde_json::to_vec(self).map_err(|e| failed("encoding").because(e))?;
        if text.len() > TEXT_LIMIT {
            return Err(failed("it would be over 16 MiB"));
        }
        let packed = zstd::bulk::compress(&text, 3).map_err(|e| failed("compressing").because(e))?;
        Ok([MAGIC.as_slice(), &seal_object(key, Kind::Manifest, place, packed)].concat())
    }

    /// The inverse.
    pub(crate) fn open(key: &Key, place: &Place, object: &[u8]) -> Result<Self, Unreadable> {
        let sealed = object.strip_prefix(MAGIC).ok_or(Malformed("it does not begin as a manifest does"))?;
        let packed = open_object(key, Kind::Manifest, place, sealed)?;
        let text = zstd::bulk::decompress(&packed, TEXT_LIMIT).map_err(|_| Malformed("it does not decompress"))?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// The point, if it is one.
    pub(crate) fn into_point(self) -> Option<PointEntry> {
        match self.entry {
            Entry::Point(point) => Some(*point),
            Entry::Break(_) | Entry::Lost(_) | Entry::Tombstone(_) => None,
        }
    }
}

impl PointEntry {
    /// Whether it is what its place says, and hangs together.
    pub(crate) fn check(&self, id: &PointId) -> Result<(), Malformed> {
        if self.point.id != *id {
            return Err(Malformed("it is another point's"));
        }
        if self.block_size != remora_core::BLOCK_SIZE {
            return Err(Malformed("it has another block size"));
        }
        if self.maps.len() != self.point.disks.len() {
            return Err(Malformed("it has not one map a disk"));
        }
        Ok(())
    }
}
