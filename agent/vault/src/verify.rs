//! Reading and authenticating everything that a point needs.

use std::collections::HashSet;
use std::sync::Arc;

use futures::{StreamExt, stream};
use remora_core::ports::{Damage, DiskIndex, PointReader, Progress, VerifyReport};
use remora_core::{ByteRange, Error, ErrorKind, Result};

use crate::map::node::LEAF_BYTES;
use crate::reader::{Reader, chunk_runs};
use crate::store::DamagedObject;

/// What is checked at once.
const STEP: u64 = 8 * 1024 * 1024;

/// Steps in flight.
const STEPS: usize = 3;

/// See [`remora_core::ports::Mover::verify`].
pub(crate) async fn verify(reader: &Reader, progress: &dyn Progress) -> Result<VerifyReport> {
    let mut report = VerifyReport::default();
    progress.expect(reader.point().size());
    for index in 0..reader.point().disks.len() {
        let disk = DiskIndex(index);
        let steps = ByteRange::new(0, reader.disk(disk).size).split(STEP);
        let mut steps = stream::iter(steps.map(|range| check(reader, disk, range))).buffered(STEPS);
        while let Some(step) = steps.next().await {
            let step = step?;
            progress.advance(step.range.len());
            report.checked += step.checked;
            step.damage.into_iter().for_each(|damage| add(&mut report.damage, damage));
        }
    }
    Ok(report)
}

struct Step {
    range: ByteRange,
    checked: u64,
    damage: Vec<Damage>,
}

/// Checks a stretch that lies within one leaf.
async fn check(reader: &Reader, disk: DiskIndex, range: ByteRange) -> Result<Step> {
    let mut step = Step { range, checked: 0, damage: Vec::new() };
    let leaf = match reader.map(disk).leaf(range.start / LEAF_BYTES).await {
        Ok(leaf) => leaf,
        Err(error) => {
            step.damage.push(damage(reader, disk, range, &Arc::new(error))?);
            return Ok(step);
        }
    };
    let runs: Vec<_> = chunk_runs(&leaf, range).collect();
    let loaded = reader.load(runs.iter().map(|run| run.chunk)).await;
    let mut counted = HashSet::new();
    for run in &runs {
        let Some(chunk) = loaded.get(&run.chunk) else { continue };
        match reader.part(disk, run, chunk) {
            Ok(_) if counted.insert(run.chunk) => step.checked += chunk.as_ref().map_or(0, |c| c.len() as u64),
            Ok(_) => {}
            Err(error) => step.damage.push(damage(reader, disk, run.range, &Arc::new(error))?),
        }
    }
    Ok(step)
}

/// The entry for damage; any other error ends the verification.
fn damage(reader: &Reader, disk: DiskIndex, range: ByteRange, error: &Arc<Error>) -> Result<Damage> {
    if error.kind() != ErrorKind::Damaged {
        return Err(reader.error_at(disk, range, error));
    }
    let damaged = DamagedObject::of(error);
    let object = damaged.map_or_else(|| "unknown".into(), |damaged| damaged.name.clone());
    let why = damaged.map_or_else(|| error.chain(), ToString::to_string);
    Ok(Damage { disk: reader.disk(disk).name.clone(), range, object, why })
}

/// Appends, joining neighbours of one object.
fn add(all: &mut Vec<Damage>, next: Damage) {
    match all.last_mut() {
        Some(last) if last.object == next.object && last.disk == next.disk && last.range.end == next.range.start => {
            last.range.end = next.range.end;
        }
        _ => all.push(next),
    }
}
