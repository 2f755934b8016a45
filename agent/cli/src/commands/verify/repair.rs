//! `remora verify --repair`

use std::collections::BTreeMap;
use std::fmt::Write;

use remora_core::ports::{Damage, DamagedPoint, Mended, Repair, Source};
use remora_core::{DiskName, PointId, Result, VmName};
use remora_engine::repair;
use remora_vault::Vault;
use serde::Serialize;

use super::Verified;
use crate::context::Context;
use crate::output::printable;

/// The damaged points of each VM.
pub(super) type Damaged = BTreeMap<VmName, Vec<DamagedPoint>>;

/// A stretch of a disk.
#[derive(Serialize)]
pub(super) struct Stretch {
    disk: DiskName,
    start: u64,
    end: u64,
}

/// A stretch that is damaged still.
#[derive(Serialize)]
pub(super) struct Left {
    #[serde(flatten)]
    stretch: Stretch,
    why: String,
}

/// Repairs what is damaged, VM by VM; of what stays lost, it is noted that the next backup is to store it again.
pub(super) async fn repair_all(
    context: &Context,
    vault: &Vault,
    damaged: &Damaged,
    all: &mut [Verified],
) -> Result<()> {
    let source = context.source();
    let source = source.as_ref().map(|source| source as &dyn Source);
    for (vm, points) in damaged {
        let mended = repair(source, vault, vm, points, &context.cancel).await?;
        for DamagedPoint { point, damage } in points {
            let left: Vec<Damage> = damage.iter().filter(|damage| is_left(point, damage, &mended)).cloned().collect();
            let noted = vault.note_lost(point, &left).await?;
            if let Some(found) = all.iter_mut().find(|found| found.point == *point) {
                tell(found, &mended, noted);
            }
        }
    }
    Ok(())
}

/// Whether some of the damage is not repaired.
fn is_left(point: &PointId, damage: &Damage, mended: &[Mended]) -> bool {
    let is_of = |mended: &&Mended| {
        (&mended.point, &mended.disk, mended.effect) == (point, &damage.disk, damage.effect)
            && mended.range.intersect(damage.range).is_some()
    };
    mended.iter().filter(is_of).any(|mended| mended.repair != Repair::Done)
}

fn tell(found: &mut Verified, mended: &[Mended], noted: bool) {
    for Mended { disk, range, repair, .. } in mended.iter().filter(|mended| mended.point == found.point) {
        let stretch = Stretch { disk: disk.clone(), start: range.start, end: range.end };
        match repair {
            Repair::Done => found.repaired.push(stretch),
            Repair::Not(why) => found.not_repaired.push(Left { stretch, why: why.clone() }),
        }
    }
    found.ok = found.not_repaired.is_empty();
    found.repair_noted = noted;
}

/// What was made of a point, for people.
pub(super) fn text(found: &Verified) -> String {
    let mut text = String::new();
    for Stretch { disk, start, end } in &found.repaired {
        writeln!(text, "  {disk} bytes {start}..{end} are repaired").ok();
    }
    for Left { stretch: Stretch { disk, start, end }, why } in &found.not_repaired {
        writeln!(text, "  {disk} bytes {start}..{end} are not repaired: {}", printable(why)).ok();
    }
    if found.repair_noted {
        text.push_str("  the next backup will store what is lost again\n");
    }
    text
}
