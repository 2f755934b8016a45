//! What a mover lists, and what of it is a point.
//!
//! What things are called stands in `names.rs`. Disks are a point only once a note says that they were read back.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use remora_core::point::Point;
use remora_core::ports::{History, LineageBreak, Listing};
use remora_core::{Error, ErrorKind, PointId, RepositoryId, Result, VmName};
use serde::{Deserialize, Serialize};

use super::super::wire::{NewPoint, VolumePoint};
use super::Inner;
use super::claim::Begun;
use super::names::{Attempt, Named, break_after, parse, point_id};
use super::windows::Windows;

/// A description is at most so long, see `wit/mover`.
const LONGEST: usize = 1 << 20;

/// What makes a point of what a mover stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Checked {
    version: u32,
    point: Point,
    /// Whether only a part of it was read back, or of a point that something of it was taken from.
    sampled: bool,
    /// Of each disk, what is known of its bytes.
    windows: Vec<Windows>,
}

const VERSION: u32 = 1;

/// A point that can be restored, as far as anybody knows.
pub(super) struct Listed {
    pub(super) point: Point,
    /// What its disks are called.
    pub(super) attempt: Attempt,
    pub(super) windows: Vec<Windows>,
    /// Whether nobody looked at some of what it has.
    pub(super) sampled: bool,
}

/// What there is, of one machine or of all.
#[derive(Default)]
pub(super) struct Catalogue {
    listed: BTreeMap<PointId, Listed>,
    unreadable: Vec<(PointId, Error)>,
    /// Those that have disks.
    disks: BTreeMap<Attempt, VolumePoint>,
    /// Those that were read back.
    checked: BTreeSet<Attempt>,
    /// Those that a run is at, or died at; and what it noted, if that can be read.
    begun: BTreeMap<Attempt, Option<Begun>>,
    breaks: Vec<(PointId, LineageBreak)>,
}

impl Catalogue {
    pub(super) fn of(repository: RepositoryId, all: Vec<VolumePoint>, vm: Option<&VmName>) -> Result<Self> {
        let wanted = vm.map(|vm| point_id(repository, vm, 0)).transpose()?;
        let (mut notes, mut made) = (Vec::new(), Self::default());
        for point in all {
            let Some(named) = parse(&point.id) else { continue };
            if wanted.as_ref().is_some_and(|wanted| wanted.vm() != named.point().vm()) {
                continue;
            }
            match named {
                Named::Disks(attempt) => drop(made.disks.insert(attempt, point)),
                Named::Begun(attempt) => {
                    drop(made.begun.insert(attempt, serde_json::from_slice(&point.description).ok()));
                }
                Named::Checked(attempt) => notes.push((attempt, point)),
                // A break that cannot be read is one all the same; when it was is of no matter.
                Named::Break(id) => made.breaks.push((id, break_in(&point.description))),
            }
        }
        for (attempt, note) in notes {
            made.take(repository, attempt, &note.description);
        }
        Ok(made)
    }

    /// Makes a point of what was noted of it, if it is still there as it was.
    fn take(&mut self, repository: RepositoryId, attempt: Attempt, description: &[u8]) {
        let id = attempt.point.clone();
        let twice = self.checked.iter().any(|other| other.point == id);
        match self.read(repository, &attempt, description) {
            Ok(listed) if !twice => drop(self.listed.insert(id, listed)),
            Ok(_) => {
                self.listed.remove(&id);
                let what = format!("point {id}: there are two of this number");
                let error = Error::new(ErrorKind::Damaged, what);
                self.unreadable
                    .push((id, error.advise("What keeps it listed late. Take the points before or after it.")));
            }
            Err(error) => self.unreadable.push((id, error)),
        }
        self.checked.insert(attempt);
    }

    /// What was noted of a point, if it is still there as it was.
    fn read(&self, repository: RepositoryId, attempt: &Attempt, description: &[u8]) -> Result<Listed> {
        let id = &attempt.point;
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
        let stored = self.disks.get(attempt).ok_or_else(|| damaged("its disks are gone".into()))?;
        let same = stored.disks.len() == point.disks.len()
            && stored.disks.iter().zip(&point.disks).all(|(a, b)| a.name == b.name.as_str() && a.size == b.size);
        if !same {
            return Err(damaged("it has other disks than it had".into()));
        }
        Ok(Listed { point, attempt: attempt.clone(), windows, sampled })
    }

    pub(super) fn find(&self, point: &PointId) -> Result<&Listed> {
        if let Some((_, error)) = self.unreadable.iter().find(|(id, _)| id == point) {
            return Err(again(error));
        }
        self.listed.get(point).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("no point {point}")).advise("`remora points` lists what there is.")
        })
    }

    pub(super) fn listing(&self) -> Listing {
        let sampled = self.listed.values().filter(|listed| listed.sampled).map(|listed| listed.point.id.clone());
        let unreadable = self.unreadable.iter().map(|(id, error)| (id.clone(), again(error)));
        Listing {
            points: self.points().cloned().collect(),
            unreadable: unreadable.collect(),
            sampled: sampled.collect(),
        }
    }

    /// What can be restored: by machine, oldest first.
    pub(super) fn points(&self) -> impl Iterator<Item = &Point> {
        self.listed.values().map(|listed| &listed.point)
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

    /// What runs are at, or died at, as far as that can be read.
    pub(super) fn begun(&self) -> impl Iterator<Item = (&Attempt, &Begun)> {
        self.begun.iter().filter_map(|(attempt, begun)| Some((attempt, begun.as_ref()?)))
    }

    pub(super) fn has_begun(&self, attempt: &Attempt) -> bool {
        self.begun.contains_key(attempt)
    }

    pub(super) fn has_disks(&self, attempt: &Attempt) -> bool {
        self.disks.contains_key(attempt)
    }

    pub(super) fn has_checked(&self, attempt: &Attempt) -> bool {
        self.checked.contains(attempt)
    }

    /// Whether no other run took its number.
    pub(super) fn is_alone(&self, attempt: &Attempt) -> bool {
        self.attempts().all(|other| other == attempt || other.point != attempt.point)
    }

    fn attempts(&self) -> impl Iterator<Item = &Attempt> {
        self.disks.keys().chain(self.begun.keys()).chain(&self.checked)
    }

    /// A number that none has.
    pub(super) fn next(&self) -> u64 {
        self.attempts().map(|attempt| attempt.point.sequence()).max().unwrap_or_default() + 1
    }

    /// The note of a break after the newest point.
    pub(super) fn break_of(&self, vm: &VmName, broken: &LineageBreak, repository: RepositoryId) -> Result<NewPoint> {
        let id = point_id(repository, vm, self.next() - 1)?;
        note(break_after(&id), vm, broken.time, serde_json::to_vec(broken))
    }
}

/// The note that makes a point of one that was read back.
pub(super) fn checked(attempt: &Attempt, point: &Point, windows: Vec<Windows>, sampled: bool) -> Result<NewPoint> {
    let checked = Checked { version: VERSION, point: point.clone(), sampled, windows };
    note(attempt.checked(), &point.vm, point.time, serde_json::to_vec(&checked))
}

/// A point without disks.
pub(super) fn note(
    id: String,
    vm: &VmName,
    time: Timestamp,
    description: serde_json::Result<Vec<u8>>,
) -> Result<NewPoint> {
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

/// The same error once more.
fn again(error: &Error) -> Error {
    Error::new(error.kind(), error.chain()).advise(error.advice().unwrap_or_default())
}

fn break_in(description: &[u8]) -> LineageBreak {
    serde_json::from_slice(description).unwrap_or_else(|_| LineageBreak {
        time: Timestamp::UNIX_EPOCH,
        path: String::new(),
        reason: "something was written, and the note of it cannot be read".into(),
    })
}
