//! What a collection must know before it removes anything; the steps are those of `collect.rs`.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use remora_core::{ErrorKind, Result, VmName};

use super::{DEAD_AFTER, GRACE, Mode, Reach, Rewrite, reach};
use crate::manifest::{Entry, Manifest, PointEntry};
use crate::names::{self, Folder, SegmentId, SessionId};
use crate::repository::{Number, Repository};
use crate::segment::read::Segments;
use crate::sequence::{Appended, Sequence, Tries};
use crate::session::Session;
use crate::store::DamagedObject;
use crate::tombstone::{Numbers, Tombstone};

/// How many manifests are read at once.
const FETCHES: usize = 16;

/// What becomes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Garbage {
    /// A point needs it, or the parent of a live session.
    Needed,
    /// Only points need it that were dropped a short time ago.
    Later,
    /// A live session may have stored it.
    Waiting,
    /// Nothing will ever need it.
    Dead,
}

/// What was found.
pub(super) struct Survey {
    pub(super) name: Option<VmName>,
    /// The generations of each segment, ascending, with their bytes.
    pub(super) segments: BTreeMap<SegmentId, Vec<(u32, u64)>>,
    pub(super) live_sessions: u64,
    pub(super) ended: u64,
    /// The first free number of the VM's sequence.
    pub(super) next: u64,
    /// What points and the parents of live sessions reach.
    pub(super) live: Reach,
    /// What only points reach that were dropped a short time ago.
    pub(super) recent: Reach,
    /// What only points reach whose manifests are to be emptied.
    dead: Reach,
    /// The segments that those points named as their own.
    owned: HashSet<SegmentId>,
    /// The numbers whose manifests are to be emptied.
    pub(super) emptied: Vec<u64>,
}

impl Survey {
    pub(super) async fn take(
        vault: &Repository,
        vm: Folder,
        mode: Mode,
        now: Timestamp,
        as_if_dropped: &Numbers,
    ) -> Result<Self> {
        // Step 0.
        let sequence = whole_sequence(vault, vm).await?;
        let dropped = dropped_before(vault, vm, &sequence, now - GRACE).await?;
        // Step 1.
        let segments = list_segments(vault, vm).await?;
        // Step 2.
        let sessions = look_at_sessions(vault, vm, mode, now).await?;
        #[cfg(test)]
        let segments = if crate::simulation::has(crate::simulation::Bug::SessionsNotLookedAtAgain) {
            list_segments(vault, vm).await?
        } else {
            segments
        };
        // Step 3.
        let sequence = whole_sequence(vault, vm).await?;
        let mut survey = Self {
            name: sessions.name,
            segments,
            live_sessions: sessions.live,
            ended: sessions.ended,
            next: sequence.next(),
            live: Reach::default(),
            recent: Reach::default(),
            dead: Reach::default(),
            owned: HashSet::new(),
            emptied: Vec::new(),
        };
        let readable = vault.segments(vm);
        let emptied = |number: &u64| sequence.listed[number].size == 0 && !sequence.counts(*number);
        let full = sequence.listed.keys().copied().filter(|number| !emptied(number));
        let (kept, gone): (Vec<u64>, Vec<u64>) =
            full.partition(|number| !dropped.contains(*number) || sessions.parents.contains(number));
        let counts = |number| sequence.counts(number) && !as_if_dropped.contains(number);
        survey.reach_kept(vault, vm, &readable, &counts, kept).await?;
        survey.reach_gone(vault, vm, &readable, gone).await?;
        Ok(survey)
    }

    /// What becomes of a segment that is there.
    pub(super) fn judge(&self, id: SegmentId) -> Garbage {
        if self.live.has_segment(id) {
            Garbage::Needed
        } else if self.recent.has_segment(id) {
            Garbage::Later
        } else if self.live_sessions == 0 || self.owned.contains(&id) {
            Garbage::Dead
        } else {
            Garbage::Waiting
        }
    }

    /// The segments that are needed and not there. One that was stored after step 1 is looked for again.
    pub(super) async fn missing(&self, segments: &Segments) -> Result<Vec<String>> {
        let mut missing = Vec::new();
        for id in self.live.segments().filter(|id| !self.segments.contains_key(id)) {
            match segments.segment(id).await {
                Err(error) if DamagedObject::of(&error).is_some_and(DamagedObject::is_missing) => {
                    missing.push(segments.generation_name(id, 0).to_string());
                }
                Err(error) if error.kind() != ErrorKind::Damaged => return Err(error),
                _ => {}
            }
        }
        missing.sort_unstable();
        Ok(missing)
    }

    /// The segments that lose records in this pass and are mostly dead now. Others were looked at when they lost some.
    pub(super) async fn rewrites(&self, segments: &Segments) -> Result<Vec<Rewrite>> {
        let losing = self.dead.segments().filter(|id| self.judge(*id) == Garbage::Needed);
        let newest = losing.filter_map(|id| Some((id, self.segments.get(&id)?.last()?.0)));
        let plans = newest.map(|(id, generation)| async move {
            match Rewrite::plan(segments, id, generation, [&self.live, &self.recent]).await {
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    tracing::warn!(error = error.chain(), "a segment that is mostly dead cannot be read");
                    Ok(None)
                }
                plan => plan,
            }
        });
        stream::iter(plans).buffer_unordered(FETCHES).try_filter_map(|plan| async { Ok(plan) }).try_collect().await
    }

    /// Reaches from the points that count, those that readers may have open, and the parents of live sessions.
    async fn reach_kept(
        &mut self,
        vault: &Repository,
        vm: Folder,
        segments: &Segments,
        counts: &(dyn Fn(u64) -> bool + Sync),
        kept: Vec<u64>,
    ) -> Result<()> {
        let mut recent = Vec::new();
        let mut manifests = read_all(vault, vm, kept);
        while let Some((number, manifest)) = manifests.next().await {
            let Some(manifest) = manifest? else { continue };
            self.name.get_or_insert(manifest.vm);
            let Entry::Point(point) = manifest.entry else { continue };
            if counts(number) {
                let live = &mut self.live;
                each_map(segments, &point, &mut |record| live.mark(record)).await?;
            } else {
                recent.push(point);
            }
        }
        drop(manifests);
        for point in recent {
            let (live, recent) = (&self.live, &mut self.recent);
            each_map(segments, &point, &mut |record| !live.has(record) && recent.mark(record)).await?;
        }
        Ok(())
    }

    /// Reaches from the points that are to be emptied. What of them cannot be read matters to nobody.
    async fn reach_gone(&mut self, vault: &Repository, vm: Folder, segments: &Segments, gone: Vec<u64>) -> Result<()> {
        let mut manifests = read_all(vault, vm, gone);
        while let Some((number, manifest)) = manifests.next().await {
            let point = match manifest {
                Ok(Some(Manifest { entry: Entry::Point(point), .. })) => point,
                // Tombstones stay: a writer that slept for long must meet the one that ended it.
                Ok(_) => continue,
                Err(error) if error.kind() == ErrorKind::Damaged => continue,
                Err(error) => return Err(error),
            };
            self.emptied.push(number);
            self.owned.extend(point.segments.iter().map(|segment| SegmentId(segment.id)));
            let (live, recent, dead) = (&self.live, &self.recent, &mut self.dead);
            let mut visit = |record| !live.has(record) && !recent.has(record) && dead.mark(record);
            match each_map(segments, &point, &mut visit).await {
                Err(error) if error.kind() != ErrorKind::Damaged => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// A VM's sequence, if it is known in full.
async fn whole_sequence(vault: &Repository, vm: Folder) -> Result<Sequence> {
    let sequence = vault.sequence(vm).await?;
    sequence.certain()?;
    let gap = sequence.gaps().next();
    match gap {
        None => Ok(sequence),
        Some(gap) => {
            let what = "what a missing entry of a VM's sequence needs is unknown, so nothing is removed";
            Err(vault.gap(vm, &sequence, gap).within(what))
        }
    }
}

/// What was dropped by tombstones that were stored before `time`. Each tells all that earlier ones told, so the newest
/// of them tells all.
async fn dropped_before(vault: &Repository, vm: Folder, sequence: &Sequence, time: Timestamp) -> Result<Numbers> {
    let mut number = sequence.tombstone_number;
    while number > 0 {
        let name = names::manifest(vault.tenant, vm, number);
        let stored = vault.manifest(vm, number).await?.ok_or_else(|| vault.store.damaged(&name, "it is missing"))?;
        let Manifest { entry: Entry::Tombstone(tombstone), tombstone: previous, .. } = stored.manifest else {
            return Err(vault.store.damaged(&name, "it is no tombstone"));
        };
        if sequence.listed.get(&number).is_some_and(|listed| listed.stored <= time) {
            return Ok(tombstone.dropped);
        }
        number = previous;
    }
    Ok(Numbers::default())
}

async fn list_segments(vault: &Repository, vm: Folder) -> Result<BTreeMap<SegmentId, Vec<(u32, u64)>>> {
    let mut segments: BTreeMap<SegmentId, Vec<(u32, u64)>> = BTreeMap::new();
    for object in vault.store.listed(&names::segments(vault.tenant, vm)).await? {
        if let Some((id, generation)) = names::segment_name(&object.name) {
            segments.entry(id).or_default().push((generation, object.size));
        }
    }
    for generations in segments.values_mut() {
        generations.sort_unstable();
    }
    Ok(segments)
}

/// What step 2 found.
#[derive(Default)]
struct Sessions {
    name: Option<VmName>,
    live: u64,
    ended: u64,
    /// The numbers of the points that live sessions follow.
    parents: BTreeSet<u64>,
}

/// Looks at the sessions, and ends those of dead writers.
async fn look_at_sessions(vault: &Repository, vm: Folder, mode: Mode, now: Timestamp) -> Result<Sessions> {
    let mut sessions = Sessions::default();
    for object in vault.store.listed(&names::sessions(vault.tenant, vm)).await? {
        let Some(id) = SessionId::parse(&object.name) else { continue };
        let Some(session) = vault.session(vm, id).await? else { continue };
        sessions.name.get_or_insert(session.vm.clone());
        if !is_over(vault, vm, id, &session).await? {
            if now.duration_since(object.stored) < DEAD_AFTER && !session.is_abandoned() {
                sessions.live += 1;
                sessions.parents.extend(session.parent);
                continue;
            }
            sessions.ended += 1;
            if mode == Mode::Run {
                end_session(vault, vm, id, &session).await?;
            }
        }
        if mode == Mode::Run {
            vault.store.remove(&names::session(vault.tenant, vm, id)).await?;
        }
    }
    Ok(sessions)
}

/// Ends the sessions of writers that were killed on this host: what they stored need not wait for a day.
pub(crate) async fn end_abandoned(vault: &Repository, vm: Folder) -> Result<()> {
    for object in vault.store.listed(&names::sessions(vault.tenant, vm)).await? {
        let Some(id) = SessionId::parse(&object.name) else { continue };
        let Some(session) = vault.session(vm, id).await?.filter(Session::is_abandoned) else { continue };
        if !is_over(vault, vm, id, &session).await? {
            end_session(vault, vm, id, &session).await?;
        }
        vault.store.remove(&names::session(vault.tenant, vm, id)).await?;
    }
    Ok(())
}

/// Whether a session's writer has committed, or was ended before: a late heartbeat may have brought the object back.
async fn is_over(vault: &Repository, vm: Folder, id: SessionId, session: &Session) -> Result<bool> {
    for number in session.number.. {
        let manifest = match vault.number(vm, number).await? {
            Number::Free => return Ok(false),
            Number::Emptied => continue,
            Number::Taken(stored) => stored.manifest,
        };
        let over = match &manifest.entry {
            Entry::Tombstone(tombstone) => tombstone.ended.contains(&id),
            Entry::Point(_) | Entry::Break(_) | Entry::Lost(_) => manifest.session == id,
        };
        if over {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Writes the tombstone that ends a session, unless its writer commits first.
async fn end_session(vault: &Repository, vm: Folder, id: SessionId, session: &Session) -> Result<()> {
    let mut tries = Tries::new();
    loop {
        let sequence = vault.sequence(vm).await?;
        let tombstone = Tombstone { ended: vec![id], ..sequence.next_tombstone() };
        if vault.append_tombstone(&session.vm, &sequence, tombstone).await? == Appended::Yes {
            return Ok(());
        }
        if is_over(vault, vm, id, session).await? {
            return Ok(());
        }
        tries.again(&session.vm)?;
    }
}

/// The manifests of numbers, in order; none for one that is empty.
fn read_all(
    vault: &Repository,
    vm: Folder,
    numbers: Vec<u64>,
) -> impl stream::Stream<Item = (u64, Result<Option<Manifest>>)> + Send + Unpin {
    let read = move |number| async move {
        let manifest = vault.manifest(vm, number).await;
        (number, manifest.map(|stored| stored.map(|stored| stored.manifest)))
    };
    Box::pin(stream::iter(numbers).map(read).buffered(FETCHES))
}

/// Visits what the maps of a point reach.
async fn each_map(
    segments: &Segments,
    point: &PointEntry,
    visit: &mut (dyn FnMut(crate::map::node::RecordRef) -> bool + Send),
) -> Result<()> {
    for (disk, map) in point.point.disks.iter().zip(&point.maps) {
        reach::walk(segments, disk.size, map.root, visit).await?;
    }
    Ok(())
}
