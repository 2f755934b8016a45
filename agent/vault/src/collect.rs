//! Collection: removing what no point needs any more, beside writers, readers and other collections, without a lock.
//!
//! One pass over a VM looks in this order, and the order is the proof:
//!
//! 0. the sequence: what was *dropped* long enough ago (by tombstones older than [`GRACE`]);
//! 1. the segments;
//! 2. the sessions; those of dead writers are ended by a tombstone (see `session.rs` for why they then never commit);
//! 3. the sequence again, and all points in it that were not dropped in step 0.
//!
//! It removes segments of step 1 that are reached neither by a point of step 3 nor by the parent of a live session of
//! step 2. No point can need one of them, now or later:
//!
//! * *It was stored by a writer whose session is unknown to step 2.* The segment was there in step 1, so its session was
//!   published before, and had ended by step 2: committed (then step 3 saw the point) or given up.
//! * *It was stored by a writer whose session lives.* Nobody but that writer knows it, so no point has named it: while a
//!   session lives, only segments that a dropped point named as its own are removed.
//! * *A writer inherits it from its parent.* If the parent was not dropped in step 0, step 3 reached it. If it was, the
//!   tombstone was there before step 2: a session published later finds it, and its writer gives up; one published
//!   before is live in step 2, and its parent pinned, or it has ended and its point was seen in step 3.
//! * *Later.* Points are made of new segments and of what their parents reach. So what nothing reaches is never reached
//!   again, and a collection that slept for a year between step 3 and its deletes harms nothing.
//!
//! A point dropped less than [`GRACE`] ago counts as not dropped: a reader may be at work on it.
//!
//! The same holds record by record, which is why a mostly dead segment may be stored again with less in it. Dropped
//! manifests are emptied last, when nothing that they alone lead to is left; whatever interrupts a pass, the next one
//! does the rest. All of it stops before the first delete if anything that a point needs cannot be read.

mod locked;
pub(crate) mod reach;
mod rewrite;
mod survey;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use futures::{TryStreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use object_store::PutPayload;
use object_store::path::Path;
use remora_core::{Result, VmName};
use serde::Serialize;

use crate::immutable::Locked;
use crate::names::{self, Folder, SegmentId};
use crate::repository::Repository;
use crate::segment::read::Segments;
use crate::store::DamagedObject;
use crate::tombstone::Numbers;

use locked::Obstacles;
use reach::Reach;
use rewrite::Rewrite;
pub(crate) use survey::end_abandoned;
use survey::{Garbage, Survey};

/// How long a dropped point stays readable, by the store's clock.
pub(crate) const GRACE: SignedDuration = SignedDuration::from_hours(72);

/// How long a session lives after its last heartbeat, by the store's clock. On the host of its writer it ends with that.
pub(crate) const DEAD_AFTER: SignedDuration = SignedDuration::from_hours(24);

/// Deletes in flight.
const DELETES: usize = 16;

/// Whether something is done, or only told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It is done.
    Run,
    /// Nothing is changed but the object that tells the store's time.
    DryRun,
}

/// Some segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// How many.
    pub segments: u64,
    /// Their bytes in the store.
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.segments += 1;
        self.bytes += bytes;
    }
}

/// What a collection did for one VM, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// The VM, as the store names it.
    pub folder: String,
    /// The VM; none if nothing is left that tells.
    pub vm: Option<VmName>,
    /// Segments removed.
    pub removed: Amount,
    /// Segments stored again without what nothing needs, and the bytes that this frees.
    pub rewritten: Amount,
    /// Segments that only points need which were dropped less than 72 hours ago.
    pub later: Amount,
    /// Segments that no point has named, which stay while a backup of the VM is running.
    pub waiting: Amount,
    /// What would have been removed, and is locked by the store.
    pub locked: Amount,
    /// Until when the last of that is locked.
    pub locked_until: Option<Timestamp>,
    /// Until when nothing that points need can be deleted; none if the repository is not immutable.
    pub immutable: Option<Locked>,
    /// Dropped points whose manifests were emptied.
    pub emptied: u64,
    /// Sessions of dead writers that were ended.
    pub ended: u64,
    /// Sessions that live.
    pub sessions: u64,
    /// Segments that points need and that are not there: damage. `remora verify` tells what is lost.
    pub missing: Vec<String>,
}

/// What the points of a VM reach, as long as nothing is added to its sequence.
pub(crate) struct Reached {
    /// The first free number then.
    pub(crate) next: u64,
    pub(crate) reach: Reach,
}

/// One pass over a VM, and what its points reach. `now` is the store's time at or before its beginning; `as_if_dropped` are
/// points that are taken for dropped a moment ago.
pub(crate) async fn collect(
    vault: &Repository,
    vm: Folder,
    mode: Mode,
    now: Timestamp,
    as_if_dropped: &Numbers,
) -> Result<(Collected, Reached)> {
    let survey = Survey::take(vault, vm, mode, now, as_if_dropped).await?;
    let segments = vault.segments(vm);
    let mut done = Collected {
        folder: vm.hex(),
        vm: survey.name.clone(),
        ended: survey.ended,
        sessions: survey.live_sessions,
        missing: survey.missing(&segments).await?,
        ..Collected::default()
    };
    for rewrite in survey.rewrites(&segments).await? {
        done.rewritten.segments += 1;
        done.rewritten.bytes += rewrite.dead_bytes;
        if mode == Mode::Run {
            rewrite.run(vault, &segments).await?;
        }
    }
    let (dead, mut names) = judge(vault, &survey, &segments, &mut done).await?;
    let keeps_versions = vault.keeps_versions();
    let obstacles = if keeps_versions { Obstacles::of(vault, vm, &names, now).await? } else { Obstacles::default() };
    for (objects, bytes) in dead {
        let locked = objects.iter().any(|name| obstacles.locked(name).is_some());
        if locked { &mut done.locked } else { &mut done.removed }.add(bytes);
    }
    done.locked_until = names.iter().filter_map(|name| obstacles.locked(name)).max();
    names.retain(|name| obstacles.locked(name).is_none());
    done.emptied = survey.emptied.len() as u64;
    if mode == Mode::Run {
        remove(vault, vm, &names, &obstacles).await?;
        empty_manifests(vault, vm, &survey).await?;
    }
    Ok((done, Reached { next: survey.next, reach: survey.live }))
}

/// The objects of a segment that nothing needs, and their bytes.
type Dead = (Vec<Path>, u64);

/// Judges each segment. Gives the dead ones, and the names of all objects that are to go: theirs, and those that a newer
/// generation replaces. Notes in `done` what stays for now.
async fn judge(
    vault: &Repository,
    survey: &Survey,
    segments: &Segments,
    done: &mut Collected,
) -> Result<(Vec<Dead>, Vec<Path>)> {
    let (mut dead, mut names) = (Vec::new(), Vec::new());
    for (id, generations) in &survey.segments {
        let bytes = generations.iter().map(|(_, bytes)| bytes).sum();
        match survey.judge(*id) {
            Garbage::Dead => {
                let objects = generations.iter().map(|(generation, _)| segments.generation_name(*id, *generation));
                let objects: Vec<_> = objects.collect();
                names.extend(objects.iter().cloned());
                dead.push((objects, bytes));
            }
            Garbage::Later => done.later.add(bytes),
            Garbage::Waiting => done.waiting.add(bytes),
            Garbage::Needed => names.extend(older_generations(vault, survey, segments, *id, generations).await?),
        }
    }
    Ok((dead, names))
}

/// Removes objects that nothing locks, in a store that keeps versions with all of theirs.
async fn remove(vault: &Repository, vm: Folder, names: &[Path], obstacles: &Obstacles) -> Result<()> {
    if vault.keeps_versions() {
        vault.store.remove_versions(&obstacles.versions(names)).await?;
        return locked::sweep_hidden(vault, vm).await;
    }
    stream::iter(names.iter().map(Ok)).try_for_each_concurrent(DELETES, |name| vault.store.remove(name)).await
}

async fn empty_manifests(vault: &Repository, vm: Folder, survey: &Survey) -> Result<()> {
    for number in &survey.emptied {
        let name = names::manifest(vault.tenant, vm, *number);
        vault.store.replace(&name, PutPayload::default()).await?;
    }
    Ok(())
}

/// The objects that a newer generation of a segment replaces.
async fn older_generations(
    vault: &Repository,
    survey: &Survey,
    segments: &Segments,
    id: SegmentId,
    generations: &[(u32, u64)],
) -> Result<Vec<Path>> {
    let Some(((newest, _), older)) = generations.split_last() else { return Ok(Vec::new()) };
    let needed = survey.live.numbers(id).chain(survey.recent.numbers(id)).collect();
    if older.is_empty() || !replaces_older(vault, segments, id, *newest, needed).await? {
        return Ok(Vec::new());
    }
    Ok(older.iter().map(|(generation, _)| segments.generation_name(id, *generation)).collect())
}

/// Whether a generation of a segment has right all that is needed of it. It is read, for an older one may have right what is
/// damaged in it.
pub(crate) async fn replaces_older(
    vault: &Repository,
    segments: &Segments,
    id: SegmentId,
    generation: u32,
    needed: BTreeSet<u32>,
) -> Result<bool> {
    let segment = match segments.load(id, generation).await {
        Ok(segment) => segment,
        // Removed by another collection, or damaged.
        Err(error) if DamagedObject::of(&error).is_some() => return Ok(false),
        Err(error) => return Err(error),
    };
    let needed: Vec<u32> = needed.into_iter().collect();
    segments.can_replace(&vault.workers, &segment, &needed).await
}
