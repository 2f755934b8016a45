//! Keeping what points need from being deleted, for as long as the points are kept.
//!
//! Whatever is created is kept by the store for the time that is set (`settings.rs`). A point also needs what older
//! points stored, so a *renewal* keeps longer all that the points which count reach, base segments included. It is due
//! when less than half of the time is left of what the last one promised, and comes with the backups and the collections
//! of a VM. Its record says: all that counted then is kept until a time. What is stored later, under the same settings,
//! is kept at least as long, so the record holds for what counts now, too: between two renewals nothing is asked of any
//! segment. Whoever stored under other settings, or a record that is gone, only makes one due. What a backup had stored that
//! was running then is neither: beside one, no record is made, so that the next renewal is due at once.
//!
//! Only the oldest version of an object is renewed: it is the one that was created; others hide it and are not ours.

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use object_store::path::Path;
use remora_core::{Error, ErrorKind, PointId, Result, VmName};
use serde::{Deserialize, Serialize};

use crate::collect::reach::{self, Reach};
use crate::collect::{Reached, replaces_older};
use crate::manifest::{Entry, Manifest, PointEntry};
use crate::names::{self, Folder, SegmentId};
use crate::repository::Repository;
use crate::seal::{Kind, Place};
use crate::sealed_json::Form;
use crate::segment::read::Segments;
use crate::sequence::Sequence;
use crate::store::{Version, What, rounded};
use crate::vault::{MANIFEST_FETCHES, Vault};

const FORM: Form = Form { magic: b"remoraL1", kind: Kind::Kept, what: "record of a renewal" };

/// The most that a record may be.
const LIMIT: u64 = 64 * 1024;

/// What is younger than this part of the time, and was stored under the same settings, is not renewed.
const YOUNG: i32 = 8;

/// Until when what a VM's points need cannot be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Locked {
    /// All of it, at least until then.
    pub until: Timestamp,
    /// How many objects are kept longer than before.
    pub extended: u64,
}

/// The record of a renewal.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    until: Timestamp,
    /// The number of the settings that it was made under.
    settings: u64,
}

impl Vault {
    /// Keeps what the VM's points need for the time that is set, if that is due; none if the repository is not immutable.
    pub async fn renew(&self, vm: &VmName) -> Result<Option<Locked>> {
        if self.0.settings.immutable.is_none() {
            return Ok(None);
        }
        let folder = self.0.folder(vm);
        let sequence = self.0.sequence(folder).await?;
        // A wrong clock of this host costs a renewal too early or, as far as the store accepts it, minutes too late.
        match promised(&self.0, folder, &sequence, Timestamp::now()).await? {
            Some(until) => Ok(Some(Locked { until, extended: 0 })),
            None => renew(&self.0, folder, self.0.now().await?, None).await,
        }
    }
}

/// Renews what a VM's points need, if that is due. What was `reached` a moment ago is not looked for again.
pub(crate) async fn renew(
    vault: &Repository,
    vm: Folder,
    now: Timestamp,
    reached: Option<Reached>,
) -> Result<Option<Locked>> {
    let Some(immutable) = vault.settings.immutable else { return Ok(None) };
    // Before the sequence: a backup that is not among them any more has its point there.
    let backups = vault.store.listed(&names::sessions(vault.tenant, vm)).await?;
    let sequence = vault.sequence(vm).await?;
    vault.trust_settings(vm, &sequence).await?;
    if let Some(until) = promised(vault, vm, &sequence, now).await? {
        return Ok(Some(Locked { until, extended: 0 }));
    }
    let time = immutable.time();
    let mut needs = Needs::of(vault, vm, &sequence, sequence.counting()).await?;
    if needs.points.is_empty() && !needs.unreadable {
        return Ok(None);
    }
    let young = time / YOUNG;
    needs.reached = reached.filter(|reached| reached.next == sequence.next()).map(|reached| reached.reach);
    let versions = needs.versions(vault, vm, Some(now - young)).await?;
    vault.store.keep_all_until(&versions, rounded(now, time)).await?;
    let record = Record { until: now + (time - young), settings: vault.settings.number };
    if backups.is_empty() {
        record.store(vault, vm).await?;
    }
    Ok(Some(Locked { until: record.until, extended: versions.len() as u64 }))
}

/// Keeps what a point needs until then: it is held.
pub(crate) async fn keep_point(vault: &Repository, point: &PointId, until: Timestamp) -> Result<()> {
    if vault.settings.immutable.is_none() {
        return Ok(());
    }
    let vm = Folder::parse(point.vm()).ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no point {point}")))?;
    let sequence = vault.sequence(vm).await?;
    let mut needs = Needs::of(vault, vm, &sequence, vec![point.sequence(), sequence.tombstone_number]).await?;
    let versions = needs.versions(vault, vm, None).await?;
    vault.store.keep_all_until(&versions, until).await.map_err(|e| e.within(format!("point {point}")))
}

/// Until when all that a VM's points need is kept; none if a renewal is due.
async fn promised(vault: &Repository, vm: Folder, sequence: &Sequence, now: Timestamp) -> Result<Option<Timestamp>> {
    let current = &vault.settings;
    let Some(record) = Record::read(vault, vm).await? else { return Ok(None) };
    let left = record.until.duration_since(now);
    let holds = record.settings == current.number
        && sequence.settings == current.number
        && current.immutable.is_some_and(|immutable| left >= immutable.time() / 2);
    Ok(holds.then_some(record.until))
}

/// The earliest time that any VM's record names; none if a VM has no record.
pub(crate) async fn locked_until(vault: &Repository) -> Result<Option<Timestamp>> {
    let mut earliest = None;
    for vm in vault.vms().await? {
        let Some(record) = Record::read(vault, vm).await? else { return Ok(None) };
        earliest = Some(earliest.map_or(record.until, |time: Timestamp| time.min(record.until)));
    }
    Ok(earliest)
}

impl Record {
    fn place(vault: &Repository, vm: Folder) -> Place {
        Place { repository: *vault.descriptor.id.as_bytes(), tenant: vault.tenant.0, object: vm.as_object(), number: 0 }
    }

    /// One that is not sound is as good as none.
    async fn read(vault: &Repository, vm: Folder) -> Result<Option<Self>> {
        let Some(object) = vault.store.get(&names::kept(vault.tenant, vm), LIMIT).await? else { return Ok(None) };
        Ok(FORM.open(&vault.keys.manifests, &Self::place(vault, vm), &object).ok())
    }

    async fn store(&self, vault: &Repository, vm: Folder) -> Result<()> {
        let object = FORM.seal(&vault.keys.manifests, &Self::place(vault, vm), self)?;
        vault.store.replace(&names::kept(vault.tenant, vm), object.into()).await
    }
}

/// What entries of a VM's sequence need.
struct Needs {
    numbers: Vec<u64>,
    points: Vec<PointEntry>,
    /// The entries, and the segments that they name as their own, whose writers knew the settings of now.
    of_now: (HashSet<u64>, HashSet<SegmentId>),
    /// What the points reach, if that is known.
    reached: Option<Reach>,
    /// Something cannot be read: then every segment is needed.
    unreadable: bool,
}

impl Needs {
    async fn of(vault: &Repository, vm: Folder, sequence: &Sequence, numbers: Vec<u64>) -> Result<Self> {
        let mut needs = Self {
            numbers: Vec::new(),
            points: Vec::new(),
            of_now: Default::default(),
            reached: None,
            unreadable: false,
        };
        needs.numbers = numbers.into_iter().filter(|number| sequence.listed.contains_key(number)).collect();
        let read = |number| async move { (number, vault.manifest(vm, number).await) };
        let mut manifests = stream::iter(needs.numbers.clone()).map(read).buffered(MANIFEST_FETCHES);
        while let Some((number, manifest)) = manifests.next().await {
            match manifest {
                Ok(stored) => stored.into_iter().for_each(|stored| needs.add(vault, number, stored.manifest)),
                Err(error) if error.kind() == ErrorKind::Damaged => needs.unreadable = true,
                Err(error) => return Err(error),
            }
        }
        drop(manifests);
        Ok(needs)
    }

    fn add(&mut self, vault: &Repository, number: u64, manifest: Manifest) {
        let of_now = manifest.settings == vault.settings.number;
        if of_now {
            self.of_now.0.insert(number);
        }
        if let Entry::Point(point) = manifest.entry {
            if of_now {
                self.of_now.1.extend(point.segments.iter().map(|segment| SegmentId(segment.id)));
            }
            self.points.push(*point);
        }
    }

    /// The versions to keep. Those stored after `young_since` by a writer who knew the settings of now are kept already.
    async fn versions(
        &mut self,
        vault: &Repository,
        vm: Folder,
        young_since: Option<Timestamp>,
    ) -> Result<Vec<Version>> {
        let is_young = |version: &Version| young_since.is_some_and(|since| version.stored >= since);
        let mut versions = of_repository(vault).await?;
        let entries = created(vault.store.versions(&names::manifests(vault.tenant, vm)).await?);
        for number in &self.numbers {
            let version = entries.get(&names::manifest(vault.tenant, vm, *number));
            versions.extend(version.filter(|v| !(self.of_now.0.contains(number) && is_young(v))).cloned());
        }
        let mut old: BTreeMap<SegmentId, Vec<(u32, Version)>> = BTreeMap::new();
        for (name, version) in created(vault.store.versions(&names::segments(vault.tenant, vm)).await?) {
            let Some((id, generation)) = name.filename().and_then(names::segment_name) else { continue };
            if !(self.of_now.1.contains(&id) && is_young(&version)) {
                old.entry(id).or_default().push((generation, version));
            }
        }
        // Of a VM without a past no map is read.
        let segments = vault.segments(vm);
        let reach = match self.reached.take() {
            Some(reach) => reach,
            None if old.is_empty() => Reach::default(),
            None => self.reach(&segments).await?,
        };
        for (id, generations) in old {
            if self.unreadable {
                versions.extend(generations.into_iter().map(|(_, version)| version));
            } else if reach.has_segment(id) {
                versions.extend(worth_keeping(vault, &segments, id, generations, &reach).await?);
            }
        }
        Ok(versions)
    }

    async fn reach(&mut self, segments: &Segments) -> Result<Reach> {
        let mut reach = Reach::default();
        for point in &self.points {
            for (disk, map) in point.point.disks.iter().zip(&point.maps) {
                match reach::walk(segments, disk.size, map.root, &mut |record| reach.mark(record)).await {
                    Err(error) if error.kind() == ErrorKind::Damaged => {
                        tracing::warn!(
                            error = error.chain(),
                            "a map cannot be read, so all segments of the VM are kept"
                        );
                        self.unreadable = true;
                    }
                    walked => walked?,
                }
            }
        }
        Ok(reach)
    }
}

/// The newest generation, if it replaces those before: they go one day.
async fn worth_keeping(
    vault: &Repository,
    segments: &Segments,
    id: SegmentId,
    mut generations: Vec<(u32, Version)>,
    reach: &Reach,
) -> Result<Vec<Version>> {
    generations.sort_unstable_by_key(|(generation, _)| *generation);
    if let [_, .., (newest, _)] = generations[..]
        && replaces_older(vault, segments, id, newest, reach.numbers(id).collect()).await?
    {
        generations.drain(..generations.len() - 1);
    }
    Ok(generations.into_iter().map(|(_, version)| version).collect())
}

/// What the whole repository needs to be opened: the descriptor, the slots that are there, the data key, the settings.
async fn of_repository(vault: &Repository) -> Result<Vec<Version>> {
    let store = &vault.store;
    let mut versions = Vec::new();
    for name in [Path::from(names::DESCRIPTOR), names::tenant_key(vault.tenant)] {
        versions.extend(created(store.versions_of(&name).await?).into_values());
    }
    versions.extend(created(store.versions(&names::settings(vault.descriptor.id)).await?).into_values());
    let slots = store.versions(&Path::from(names::SLOTS)).await?;
    let removed: HashSet<Path> =
        slots.iter().filter(|v| v.latest && v.what == What::DeleteMarker).map(|v| v.name.clone()).collect();
    // A slot may have been put back: then each version is one.
    versions.extend(slots.into_iter().filter(|v| v.what != What::DeleteMarker && !removed.contains(&v.name)));
    Ok(versions)
}

/// The oldest version of each object, by its name.
fn created(versions: Vec<Version>) -> BTreeMap<Path, Version> {
    // The newest of each name comes first, so the oldest one stays.
    versions.into_iter().filter(|v| v.what != What::DeleteMarker).map(|v| (v.name.clone(), v)).collect()
}
