//! The reference model: which points there are, what they hold, and what must be in the store because of them. It looks
//! at the store after each change, past the schedule.

use std::collections::BTreeMap;
use std::time::Duration;

use object_store::path::Path;
use remora_core::point::Decision;
use remora_core::ports::{DiskIndex, Mover, PointReader};
use remora_core::{ByteRange, ErrorKind, PointId, VmName};

use super::guest::{self, Image};
use super::store::Request;
use crate::Vault;
use crate::collect::reach::walk;
use crate::manifest::{Entry, Manifest, PointEntry};
use crate::names::{self, Folder, SegmentId};
use crate::repository::Number;
use crate::tombstone::Tombstone;

/// What is wrong.
pub(super) type Checked = Result<(), String>;

const GRACE: Duration = Duration::from_hours(72);

/// What was once tried to be stored.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) image: Image,
    /// Whether its writer was told that nothing was stored.
    pub(super) refused: bool,
    pub(super) committed: Option<u64>,
}

#[derive(Clone, Debug)]
struct KnownPoint {
    image: Image,
    needs: BTreeMap<SegmentId, Vec<u32>>,
    /// When it was dropped, by the store's clock.
    dropped: Option<Duration>,
}

#[derive(Clone, Debug, Default)]
struct KnownVm {
    points: BTreeMap<u64, KnownPoint>,
    tombstone: (u64, Tombstone),
    entries: u64,
    /// The number of the newest break of lineage.
    broken: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) attempts: Vec<Attempt>,
    vms: BTreeMap<Folder, KnownVm>,
    /// Whether somebody prunes without keeping the newest point.
    may_drop_newest: bool,
}

impl KnownPoint {
    /// Whether all of it must be readable.
    fn required(&self, now: Duration) -> bool {
        self.dropped.is_none_or(|dropped| now < dropped + GRACE)
    }
}

impl Model {
    pub(super) fn new(may_drop_newest: bool) -> Self {
        Self { may_drop_newest, ..Self::default() }
    }

    /// What a point must read as; none if nothing is promised of it any more.
    pub(super) fn promised(&self, point: &PointId, now: Duration) -> Option<Image> {
        let vm = Folder::parse(point.vm())?;
        let known = self.vms.get(&vm)?.points.get(&point.sequence())?;
        known.required(now).then_some(known.image)
    }

    /// What a point that was ever stored reads as.
    pub(super) fn image(&self, point: &PointId) -> Option<Image> {
        Some(self.vms.get(&Folder::parse(point.vm())?)?.points.get(&point.sequence())?.image)
    }

    pub(super) fn is_dropped(&self, point: &PointId) -> bool {
        let known = Folder::parse(point.vm()).and_then(|vm| self.vms.get(&vm)?.points.get(&point.sequence()));
        known.is_some_and(|known| known.dropped.is_some())
    }

    /// To be told of each request that changed something, right after it did.
    pub(super) async fn changed(&mut self, vault: &Vault, request: &Request, now: Duration) -> Checked {
        let (Request::Create(path, _) | Request::Replace(path, _) | Request::Delete(path)) = request else {
            return Ok(());
        };
        let parts: Vec<_> = path.parts().map(|part| part.as_ref().to_owned()).collect();
        let [_, _, vm, kind, name] = parts.as_slice() else { return Ok(()) };
        let Some(vm) = Folder::parse(vm) else { return Err(format!("a VM's folder is {path}")) };
        match (kind.as_str(), request) {
            ("m", Request::Create(..)) => {
                let number = names::sequence(name).ok_or_else(|| format!("an entry is {path}"))?;
                self.entry(vault, vm, number, now).await
            }
            ("m", Request::Replace(_, bytes)) if bytes.is_empty() => self.emptied(vm, path, name, now),
            ("m", _) => Err(format!("an entry was changed: {path}")),
            ("s", _) => match names::segment_name(name) {
                Some((id, _)) => self.segment(vault, vm, id, now).await,
                None => Err(format!("a segment is {path}")),
            },
            _ => Ok(()),
        }
    }

    fn emptied(&self, vm: Folder, path: &Path, name: &str, now: Duration) -> Checked {
        let number = names::sequence(name).ok_or_else(|| format!("an entry is {path}"))?;
        match self.vms.get(&vm).and_then(|vm| vm.points.get(&number)) {
            Some(point) if !point.required(now) => Ok(()),
            Some(_) => Err(format!("point {number} was emptied while it may be read")),
            None => Err(format!("entry {number} was emptied and is no point")),
        }
    }

    /// A new entry of a sequence.
    async fn entry(&mut self, vault: &Vault, vm: Folder, number: u64, now: Duration) -> Checked {
        let stored = vault.0.number(vm, number).await.map_err(|e| e.chain())?;
        let Number::Taken(stored) = stored else { return Err(format!("entry {number} cannot be read")) };
        let known = self.vms.entry(vm).or_default();
        if number != known.entries + 1 {
            return Err(format!("entry {number} follows {}", known.entries));
        }
        known.entries = number;
        let Manifest { tombstone, entry, .. } = stored.manifest;
        if tombstone != known.tombstone.0 {
            return Err(format!("entry {number} names tombstone {tombstone}, but the newest is {}", known.tombstone.0));
        }
        match entry {
            Entry::Point(point) => self.committed(vault, vm, number, &point).await,
            Entry::Tombstone(tombstone) => self.dropped(vm, number, *tombstone, now),
            Entry::Lost(_) => Ok(()),
            Entry::Break(_) => {
                known.broken = number;
                Ok(())
            }
        }
    }

    async fn committed(&mut self, vault: &Vault, vm: Folder, number: u64, entry: &PointEntry) -> Checked {
        let known = self.vms.entry(vm).or_default();
        let newest = known.points.iter().rev().find(|(_, point)| point.dropped.is_none()).map(|(number, _)| *number);
        let parent = entry.point.parent.as_ref().map(PointId::sequence);
        if parent != newest {
            return Err(format!("point {number} follows {parent:?}, but the newest was {newest:?}"));
        }
        if entry.point.decision == Decision::Incremental && parent.is_some_and(|parent| parent < known.broken) {
            return Err(format!("point {number} is an increment over the break of lineage {}", known.broken));
        }
        let attempt = entry.point.definition.parse().ok().and_then(|n: usize| self.attempts.get_mut(n));
        let attempt = attempt.ok_or_else(|| format!("nobody tried to store point {number}"))?;
        if attempt.refused || attempt.committed.is_some() {
            return Err(format!("point {number} was stored after its writer had given up or committed: {attempt:?}"));
        }
        attempt.committed = Some(number);
        let image = attempt.image;
        restores(vault, &entry.point.id, image).await.map_err(|e| format!("when it was committed: {e}"))?;
        let (segments, mut needs) = (vault.0.segments(vm), BTreeMap::<_, Vec<_>>::new());
        for (disk, map) in entry.point.disks.iter().zip(&entry.maps) {
            let mut need = |record: crate::map::node::RecordRef| {
                needs.entry(record.segment).or_default().push(record.number);
                true
            };
            walk(&segments, disk.size, map.root, &mut need).await.map_err(|e| e.chain())?;
        }
        known.points.insert(number, KnownPoint { image, needs, dropped: None });
        Ok(())
    }

    fn dropped(&mut self, vm: Folder, number: u64, tombstone: Tombstone, now: Duration) -> Checked {
        let known = self.vms.entry(vm).or_default();
        let newest = known.points.iter().rev().find(|(_, point)| point.dropped.is_none()).map(|(number, _)| *number);
        for (dropped, point) in &mut known.points {
            let was_dropped = point.dropped.is_some();
            match tombstone.dropped.contains(*dropped) {
                false if was_dropped => return Err(format!("tombstone {number} brings point {dropped} back")),
                true if !was_dropped => {
                    let held = known.tombstone.1.holds.get(dropped);
                    if held.is_some_and(|until| until.as_second() > (super::store::EPOCH + now).as_secs().cast_signed())
                    {
                        return Err(format!("tombstone {number} drops point {dropped}, which is held"));
                    }
                    if Some(*dropped) == newest && !self.may_drop_newest {
                        return Err(format!("tombstone {number} drops the newest point {dropped}"));
                    }
                    point.dropped = Some(now);
                }
                _ => {}
            }
        }
        known.tombstone = (number, tombstone);
        Ok(())
    }

    /// A segment was removed, or stored again: each of its objects must hold what points need of it.
    async fn segment(&self, vault: &Vault, vm: Folder, id: SegmentId, now: Duration) -> Checked {
        let Some(known) = self.vms.get(&vm) else { return Ok(()) };
        let needing = known.points.iter().filter(|(_, point)| point.required(now) && point.needs.contains_key(&id));
        let needing: Vec<_> = needing.collect();
        if needing.is_empty() {
            return Ok(());
        }
        let segments = vault.0.segments(vm);
        let listed = vault.0.store.listed(&names::segments(vault.0.tenant, vm)).await.map_err(|e| e.chain())?;
        let generations: Vec<u32> = listed
            .iter()
            .filter_map(|o| names::segment_name(&o.name))
            .filter(|(i, _)| *i == id)
            .map(|(_, g)| g)
            .collect();
        if generations.is_empty() {
            let points: Vec<_> = needing.iter().map(|(number, _)| number).collect();
            return Err(format!("segment {id:?} is gone, and points {points:?} need it"));
        }
        for generation in generations {
            let segment = segments.load(id, generation).await.map_err(|e| e.chain())?;
            for (number, point) in &needing {
                if let Some(lost) = point.needs[&id].iter().find(|record| segment.index.record(**record).is_none()) {
                    return Err(format!("segment {id:?}.{generation} lacks record {lost}, which point {number} needs"));
                }
            }
        }
        Ok(())
    }

    /// What a writer was told.
    pub(super) fn told(&mut self, attempt: usize, told: &remora_core::Result<remora_core::point::Point>) -> Checked {
        let tried = &mut self.attempts[attempt];
        match told {
            Ok(point) if tried.committed == Some(point.id.sequence()) => Ok(()),
            Ok(point) => Err(format!("its writer was told of point {}, but: {tried:?}", point.id)),
            Err(error) if error.kind() == ErrorKind::Unavailable => Ok(()),
            Err(error) if tried.committed.is_some() => {
                Err(format!("its writer was told that nothing was stored ({}), but: {tried:?}", error.chain()))
            }
            Err(_) => {
                tried.refused = true;
                Ok(())
            }
        }
    }

    /// All that is promised, read through the product with nothing cached; and nothing else is listed.
    pub(super) async fn all_restores(&self, vault: &Vault) -> Checked {
        for (vm, known) in &self.vms {
            let counting: Vec<u64> =
                known.points.iter().filter(|(_, p)| p.dropped.is_none()).map(|(number, _)| *number).collect();
            for number in &counting {
                let id = PointId::new(vm.hex(), *number).map_err(|e| e.to_string())?;
                restores(vault, &id, known.points[number].image).await?;
            }
        }
        let listing = vault.list(None).await.map_err(|e| e.chain())?;
        if let Some((point, error)) = listing.unreadable.first() {
            return Err(format!("{point} is listed as damaged: {}", error.chain()));
        }
        let listed: Vec<String> = listing.points.iter().map(|point| point.id.to_string()).collect();
        let counting = self.vms.iter().flat_map(|(vm, known)| {
            let counting = known.points.iter().filter(|(_, point)| point.dropped.is_none());
            counting.map(|(number, _)| format!("{}-{number}", vm.hex()))
        });
        let (mut expected, mut found) = (counting.collect::<Vec<_>>(), listed);
        expected.sort_unstable();
        found.sort_unstable();
        if expected == found { Ok(()) } else { Err(format!("{found:?} are listed, not {expected:?}")) }
    }

    /// That nothing is below the VMs but entries, and the segments that points which count need, once each.
    pub(super) fn nothing_leaks(&self, there: &[Path]) -> Checked {
        for (vm, known) in &self.vms {
            let counting = known.points.values().filter(|point| point.dropped.is_none());
            let mut needed: BTreeMap<SegmentId, usize> =
                counting.flat_map(|point| point.needs.keys()).map(|id| (*id, 0)).collect();
            for path in there.iter().filter(|path| path.as_ref().contains(&vm.hex())) {
                if path.as_ref().contains("/m/") {
                    continue;
                }
                let id = path.filename().and_then(names::segment_name).map(|(id, _)| id);
                match id.and_then(|id| needed.get_mut(&id)).filter(|_| path.as_ref().contains("/s/")) {
                    Some(found) => *found += 1,
                    None => return Err(format!("{path} stays for ever")),
                }
            }
            if let Some((id, found)) = needed.iter().find(|(_, found)| **found != 1) {
                return Err(format!("segment {id:?} is there {found} times"));
            }
        }
        Ok(())
    }
}

/// That a point reads as it must.
pub(super) async fn restores(vault: &Vault, point: &PointId, image: Image) -> Checked {
    let reader = vault.open(point).await.map_err(|e| format!("point {point}: {}", e.chain()))?;
    for disk in 0..guest::DISKS.len() {
        let read = read(reader.as_ref(), disk).await.map_err(|e| format!("point {point}: {}", e.chain()))?;
        if read != guest::bytes(image, disk) {
            return Err(format!("point {point}, disk {disk}: other bytes were read than written"));
        }
    }
    Ok(())
}

pub(super) async fn read(reader: &dyn PointReader, disk: usize) -> remora_core::Result<Vec<u8>> {
    let range = ByteRange::new(0, guest::size(disk));
    reader.read(DiskIndex(disk), range).await.map(|bytes| bytes.to_vec())
}

/// The VMs' names.
pub(super) fn vm(n: usize) -> VmName {
    VmName::new(format!("VM {n}")).expect("it is a name")
}
