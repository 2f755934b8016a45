//! What a mover lists, and what of it is a point.
//!
//! Three kinds of points are in the store, told apart by their names:
//!
//! * `0123456789abcdef-7` has the disks of the seventh point of a machine. Nobody looked at it yet, so it is none.
//! * `0123456789abcdef-7-checked` has no disks, and a description: what remora knows of the point, and how much of it was read
//!   back. It is stored last, and makes a point of the other one.
//! * `0123456789abcdef-7-break-89abcdef` has no disks either: after that point, somebody wrote to a disk behind the hypervisor's back.
//!
//! Everything else is somebody else's.

use std::collections::BTreeMap;

use jiff::Timestamp;
use remora_core::point::Point;
use remora_core::ports::{History, LineageBreak, Listing};
use remora_core::{Error, ErrorKind, PointId, RepositoryId, Result, VmName};
use serde::{Deserialize, Serialize};

use super::super::document::ReadBack;
use super::super::wire::{NewPoint, VolumePoint};
use super::Inner;
use super::windows::Windows;
use crate::host::Digest;

const CHECKED: &str = "checked";
const BREAK: &str = "break";

/// A description is at most so long, see `wit/mover`.
const LONGEST: usize = 1 << 20;

/// What makes a point of what a mover stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Checked {
    version: u32,
    point: Point,
    /// Whether only a part of it was read back.
    sampled: bool,
    /// Of each disk, what is known of its bytes.
    windows: Vec<Windows>,
}

const VERSION: u32 = 1;

/// A point that can be restored, as far as anybody knows.
pub(super) struct Listed {
    pub(super) point: Point,
    pub(super) windows: Vec<Windows>,
    sampled: bool,
}

/// What there is, of one machine or of all.
pub(super) struct Catalogue {
    listed: BTreeMap<PointId, Listed>,
    unreadable: Vec<(PointId, Error)>,
    /// Those that have disks.
    stored: BTreeMap<PointId, VolumePoint>,
    breaks: Vec<(PointId, LineageBreak)>,
}

impl Catalogue {
    pub(super) fn of(repository: RepositoryId, all: Vec<VolumePoint>, vm: Option<&VmName>) -> Result<Self> {
        let wanted = vm.map(|vm| point_id(repository, vm, 0)).transpose()?;
        let mut notes = Vec::new();
        let mut made =
            Self { listed: BTreeMap::new(), unreadable: Vec::new(), stored: BTreeMap::new(), breaks: Vec::new() };
        for point in all {
            let Some((id, kind)) = parse(&point.id) else { continue };
            if wanted.as_ref().is_some_and(|wanted| wanted.vm() != id.vm()) {
                continue;
            }
            match kind {
                None => drop(made.stored.insert(id, point)),
                Some(CHECKED) => notes.push((id, point)),
                // A break that cannot be read is one all the same; when it was is of no matter.
                Some(_) => made.breaks.push((id, break_in(&point.description))),
            }
        }
        for (id, note) in notes {
            match made.checked(repository, &id, &note.description) {
                Ok(listed) => drop(made.listed.insert(id, listed)),
                Err(error) => made.unreadable.push((id, error)),
            }
        }
        Ok(made)
    }

    /// What was noted of a point, if it is still there as it was.
    fn checked(&self, repository: RepositoryId, id: &PointId, description: &[u8]) -> Result<Listed> {
        let damaged = |why: String| {
            Error::new(ErrorKind::Damaged, format!("point {id}: {why}"))
                .advise("What keeps it lost or changed it. The next backup that rereads everything makes a whole one.")
        };
        let Checked { version, point, sampled, windows } =
            serde_json::from_slice(description).map_err(|e| damaged(format!("its description cannot be read: {e}")))?;
        if version != VERSION
            || windows.len() != point.disks.len()
            || point.id != *id
            || point_id(repository, &point.vm, id.sequence())? != *id
        {
            return Err(damaged("its description is of another one".into()));
        }
        let stored = self.stored.get(id).ok_or_else(|| damaged("its disks are gone".into()))?;
        let same = stored.disks.len() == point.disks.len()
            && stored.disks.iter().zip(&point.disks).all(|(a, b)| a.name == b.name.as_str() && a.size == b.size);
        if !same {
            return Err(damaged("it has other disks than it had".into()));
        }
        Ok(Listed { point, windows, sampled })
    }

    pub(super) fn find(&self, point: &PointId) -> Result<&Listed> {
        if let Some((_, error)) = self.unreadable.iter().find(|(id, _)| id == point) {
            return Err(Error::new(error.kind(), error.chain()).advise(error.advice().unwrap_or_default()));
        }
        self.listed.get(point).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("no point {point}")).advise("`remora points` lists what there is.")
        })
    }

    pub(super) fn listing(self) -> Listing {
        let sampled = self.listed.values().filter(|listed| listed.sampled).map(|listed| listed.point.id.clone());
        let sampled = sampled.collect();
        let points = self.listed.into_values().map(|listed| listed.point).collect();
        Listing { points, unreadable: self.unreadable, sampled }
    }

    /// Of a catalogue of one machine.
    pub(super) fn history(self) -> History {
        let newest = self.listed.into_values().next_back().map(|listed| listed.point);
        let since = newest.as_ref().map_or(0, |point| point.id.sequence());
        // A newer one that cannot be read says nothing of what changed since the newest that can.
        let breaks = self.breaks.into_iter().filter(|(id, _)| id.sequence() >= since).map(|(_, broken)| broken);
        History { breaks: breaks.collect(), newest, lost: None }
    }

    /// The newest point that is listed.
    pub(super) fn newest(&self) -> Option<&PointId> {
        self.listed.keys().next_back()
    }

    /// Those that were stored, and never looked at: runs that died.
    pub(super) fn left_behind(&self) -> impl Iterator<Item = String> {
        let known =
            |id: &&PointId| !self.listed.contains_key(*id) && !self.unreadable.iter().any(|(other, _)| other == *id);
        self.stored.keys().filter(known).map(ToString::to_string)
    }

    /// A number that none has.
    pub(super) fn next(&self) -> u64 {
        let all = self.stored.keys().chain(self.listed.keys()).chain(self.unreadable.iter().map(|(id, _)| id));
        all.map(PointId::sequence).max().unwrap_or_default() + 1
    }

    /// The note of a break after the newest point.
    pub(super) fn break_of(&self, vm: &VmName, broken: &LineageBreak, repository: RepositoryId) -> Result<NewPoint> {
        let id = point_id(repository, vm, self.next() - 1)?;
        let id = format!("{id}-{BREAK}-{:08x}", fastrand::u32(..));
        note(id, vm, broken.time, serde_json::to_vec(broken))
    }
}

/// The note that makes a point of one that was read back.
pub(super) fn checked(point: &Point, windows: Vec<Windows>, how: ReadBack) -> Result<NewPoint> {
    let checked = Checked { version: VERSION, point: point.clone(), sampled: how != ReadBack::Full, windows };
    note(note_of(&point.id), &point.vm, point.time, serde_json::to_vec(&checked))
}

/// The name of the note that makes a point of one.
pub(super) fn note_of(point: &PointId) -> String {
    format!("{point}-{CHECKED}")
}

fn note(id: String, vm: &VmName, time: Timestamp, description: serde_json::Result<Vec<u8>>) -> Result<NewPoint> {
    let description =
        description.map_err(|e| Error::new(ErrorKind::Failed, format!("describing point {id}")).because(e))?;
    if description.len() > LONGEST {
        let what = format!("the description of point {id} has {} bytes, and 1 MiB is allowed", description.len());
        return Err(Error::new(ErrorKind::Unsupported, what));
    }
    Ok(NewPoint {
        id,
        vm_name: vm.as_str().into(),
        vm_namespace: String::new(),
        vm_uid: String::new(),
        time: time.as_second(),
        disks: Vec::new(),
        parent: None,
        description,
    })
}

impl Inner {
    /// Stores a point without disks.
    pub(super) async fn note(&self, note: NewPoint) -> Result<()> {
        let begun = self.calls.begin(note).await?;
        self.calls.commit(&begun).await
    }
}

/// The id of a machine's point: the same whenever it is asked for, in this repository.
pub(super) fn point_id(repository: RepositoryId, vm: &VmName, sequence: u64) -> Result<PointId> {
    let digest = Digest::of(format!("{repository} {}", vm.as_str()).as_bytes());
    Ok(PointId::new(hex::encode(&digest.as_bytes()[..8]), sequence)?)
}

/// What a name says: of which point it is, and whether it is a note of something.
fn parse(name: &str) -> Option<(PointId, Option<&str>)> {
    let mut parts = name.splitn(4, '-');
    let id = format!("{}-{}", parts.next()?, parts.next()?).parse().ok()?;
    match (parts.next(), parts.next()) {
        (None, None) => Some((id, None)),
        (Some(kind @ CHECKED), None) | (Some(kind @ BREAK), Some(_)) => Some((id, Some(kind))),
        _ => None,
    }
}

fn break_in(description: &[u8]) -> LineageBreak {
    serde_json::from_slice(description).unwrap_or_else(|_| LineageBreak {
        time: Timestamp::UNIX_EPOCH,
        path: String::new(),
        reason: "something was written, and the note of it cannot be read".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_points_from_notes_and_from_what_is_somebody_elses() {
        let id: PointId = "0123456789abcdef-7".parse().unwrap();
        assert_eq!(parse("0123456789abcdef-7"), Some((id.clone(), None)));
        assert_eq!(parse("0123456789abcdef-7-checked"), Some((id.clone(), Some(CHECKED))));
        assert_eq!(parse("0123456789abcdef-7-break-89abcdef"), Some((id, Some(BREAK))));
        for foreign in
            ["", "nightly", "0123456789abcdef", "0123456789abcdef-7-checked-x", "0123456789abcdef-7-break", "x-7"]
        {
            assert_eq!(parse(foreign), None, "{foreign}");
        }
    }
}
