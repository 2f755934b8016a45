//! `remora diff`

use remora_core::point::Point;
use remora_core::ports::Mover;
use remora_core::{ByteRange, DiskName, PointId, Result};
use serde::Serialize;

use super::find_disk;
use crate::args;
use crate::context::Context;
use crate::output::{bytes, print};

/// How a disk differs.
#[derive(Serialize)]
struct Changed {
    disk: DiskName,
    /// The point that alone has the disk; null if both do.
    only_in: Option<PointId>,
    /// The sum of the ranges.
    bytes: u64,
    /// Block-aligned, in order.
    ranges: Vec<ByteRange>,
}

pub(super) async fn run(context: &Context, args: args::Diff) -> Result<()> {
    let vault = context.vault().await?;
    let (from, to) = (vault.open(&args.from).await?, vault.open(&args.to).await?);
    let mut all = Vec::new();
    for disk in names(from.point(), to.point(), args.disk)? {
        let found = match (from.point().disk(&disk), to.point().disk(&disk)) {
            (Some(_), Some(_)) => {
                let diff = vault.diff(&args.from, &args.to, &disk);
                let ranges = remora_engine::or_cancelled(&context.cancel, diff).await?;
                Changed { disk, only_in: None, bytes: ranges.iter().map(ByteRange::len).sum(), ranges }
            }
            (one, other) => {
                let size = one.or(other).map_or(0, |(_, disk)| disk.size);
                let only_in = Some(if one.is_some() { args.from.clone() } else { args.to.clone() });
                Changed { disk, only_in, bytes: size, ranges: vec![ByteRange::new(0, size)] }
            }
        };
        all.push(found);
    }
    print(context.format(), &all, |all| all.iter().map(text).collect())
}

/// The disk that was asked for, which one of the points must have, or those of both.
fn names(from: &Point, to: &Point, asked: Option<DiskName>) -> Result<Vec<DiskName>> {
    if let Some(disk) = asked {
        if from.disk(&disk).is_none() {
            find_disk(to, &disk)?;
        }
        return Ok(vec![disk]);
    }
    let mut names: Vec<_> = from.disks.iter().chain(&to.disks).map(|disk| disk.name.clone()).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

fn text(changed: &Changed) -> String {
    let name = &changed.disk;
    if let Some(point) = &changed.only_in {
        return format!("{name}: only in {point}, {}\n", bytes(changed.bytes));
    }
    let ranges = changed.ranges.iter().map(|r| format!("  {}..{}  {}\n", r.start, r.end, bytes(r.len())));
    let ranges: String = ranges.collect();
    format!("{name}: {} differ in {} ranges\n{ranges}", bytes(changed.bytes), changed.ranges.len())
}
