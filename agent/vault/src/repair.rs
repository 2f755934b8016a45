//! Repair: what was lost of a segment is made anew from the VM's disks as they are now, and the segment is stored again
//! with it as its next generation. All points that reach it are then sound, old ones too.
//!
//! *Nothing wrong is stored.* A block is taken from the VM only if it has the digest that the segment's own details,
//! sealed when it was written, keep of it. Without them, none is. A chunk of which some blocks cannot be had is stored as
//! what it is, a part (`segment/part.rs`), in which nobody takes the rest for data.
//!
//! *No key and nonce seal two texts.* The bytes of a chunk that is made anew may be compressed to others than before, so
//! the whole generation is sealed under a fresh salt.
//!
//! *It is safe beside all others.* It removes nothing and replaces nothing: one create-only PUT of a name that is free,
//! above all generations that are there. The new generation holds every record that any earlier one has whole; so
//! whichever of them a collection then removes, however long ago it looked, nothing is lost that could be read. If
//! somebody else stores that generation first, all is looked at again. If the segment goes meanwhile, for no point needs
//! it any more, a later collection removes what was stored. A repair needs no session: it makes nothing reachable.

mod mend;
mod places;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use remora_core::ports::{Damage, DamagedPoint, DiskIndex, Effect, Mended, Repair, VmDisks};
use remora_core::{ByteRange, ErrorKind, PointId, Result};

use crate::map::node::LEAF_BYTES;
use crate::names::{self, Folder, SegmentId};
use crate::reader::{ChunkRun, Reader, chunk_runs};
use crate::vault::Vault;

use mend::{Loss, Mender, Outcome};

/// See [`remora_core::ports::Mover::repair`].
pub(crate) async fn repair(vault: &Vault, damaged: &[DamagedPoint], disks: VmDisks<'_>) -> Result<Vec<Mended>> {
    let mut suspects: BTreeMap<Folder, BTreeSet<SegmentId>> = BTreeMap::new();
    for point in damaged {
        let Some(vm) = Folder::parse(point.point.vm()) else { continue };
        let segments = point.damage.iter().filter_map(|damage| names::segment_of(&damage.object));
        suspects.entry(vm).or_default().extend(segments);
    }
    let mut outcomes = BTreeMap::new();
    for (vm, suspects) in suspects {
        let points = damaged.iter().map(|damaged| &damaged.point).find(|point| point.vm() == vm.hex());
        let Some(point) = points else { continue };
        let places = places::of(vault, point, &suspects).await?;
        let segments = vault.0.segments(vm);
        let mender = Mender { vault: &vault.0, segments: &segments, places: &places, disks };
        for segment in suspects {
            outcomes.insert(segment, mender.mend(segment).await?);
        }
    }
    let mut all = Vec::new();
    for point in damaged {
        tell(vault, point, &outcomes, &mut all).await?;
    }
    Ok(all)
}

/// Tells what became of each stretch of a point.
async fn tell(
    vault: &Vault,
    damaged: &DamagedPoint,
    outcomes: &BTreeMap<SegmentId, Outcome>,
    all: &mut Vec<Mended>,
) -> Result<()> {
    let reader = Reader::open(Arc::clone(&vault.0), &damaged.point).await?;
    for damage in &damaged.damage {
        let mut push = |range, repair| push(all, &damaged.point, damage, range, repair);
        let segment = names::segment_of(&damage.object);
        let outcome = segment.and_then(|segment| Some((segment, outcomes.get(&segment)?)));
        match (damage.effect, outcome) {
            (_, None) => push(damage.range, Repair::Not("no VM holds what the damaged object held".into())),
            (_, Some((_, Outcome::Gone(why)))) => push(damage.range, Repair::Not(why.clone())),
            (Effect::Readable, Some((_, Outcome::Looked { rest, .. }))) => {
                push(damage.range, done_unless(rest.as_ref()));
            }
            (Effect::Lost, Some((segment, Outcome::Looked { lost, .. }))) => {
                for part in damage.range.split(LEAF_BYTES) {
                    for (range, repair) in tell_lost(&reader, damage, part, segment, lost).await? {
                        push(range, repair);
                    }
                }
            }
        }
    }
    Ok(())
}

fn done_unless(why: Option<&String>) -> Repair {
    why.map_or(Repair::Done, |why| Repair::Not(why.clone()))
}

/// What became of a stretch of lost bytes within one leaf.
async fn tell_lost(
    reader: &Reader,
    damage: &Damage,
    range: ByteRange,
    segment: SegmentId,
    lost: &BTreeMap<u32, Loss>,
) -> Result<Vec<(ByteRange, Repair)>> {
    let disk: DiskIndex = reader.disk_named(&damage.disk)?;
    let leaf = match reader.map(disk).leaf(range.start / LEAF_BYTES).await {
        Ok(leaf) => leaf,
        Err(error) if error.kind() == ErrorKind::Damaged => {
            return Ok(vec![(range, Repair::Not("the map of this stretch is lost, and no VM holds maps".into()))]);
        }
        Err(error) => return Err(error),
    };
    let runs = chunk_runs(&leaf, range).filter(|run| run.chunk.segment == segment);
    let told = runs.flat_map(|run| match lost.get(&run.chunk.number) {
        None => vec![(run.range, Repair::Done)],
        Some(Loss { there, why }) => {
            let repair = |run: ChunkRun| {
                let is_there = there.has(run.first_block());
                (run.range, if is_there { Repair::Done } else { Repair::Not(why.clone()) })
            };
            run.cut(|block| there.has(block)).into_iter().map(repair).collect()
        }
    });
    Ok(told.collect())
}

/// Appends, joining neighbours that fared alike.
fn push(all: &mut Vec<Mended>, point: &PointId, damage: &Damage, range: ByteRange, repair: Repair) {
    let next = Mended { point: point.clone(), disk: damage.disk.clone(), range, effect: damage.effect, repair };
    match all.last_mut() {
        Some(last)
            if last.range.end == range.start
                && (&last.point, &last.disk, last.effect, &last.repair)
                    == (&next.point, &next.disk, next.effect, &next.repair) =>
        {
            last.range.end = range.end;
        }
        _ => all.push(next),
    }
}
