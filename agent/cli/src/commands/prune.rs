//! `remora prune`

use jiff::{SignedDuration, Timestamp};
use remora_core::retention::{Fate, Rules};
use remora_core::{PointId, Result, VmName};
use remora_engine::or_cancelled;
use remora_vault::{Collected, Mode, Pruned};
use serde::Serialize;

use super::gc;
use crate::args;
use crate::context::Context;
use crate::output::{print, printable, table};

/// The result; the shape is a contract.
#[derive(Serialize)]
struct Outcome {
    dry_run: bool,
    points: Vec<Judged>,
    collected: Vec<Collected>,
}

#[derive(Serialize)]
struct Judged {
    point: PointId,
    vm: VmName,
    time: Timestamp,
    fate: Fate,
    reason: String,
}

pub(super) async fn run(context: &Context, args: args::Prune) -> Result<()> {
    let mode = gc::mode(args.dry_run);
    let (vm, rules) = (args.vm.as_ref(), rules(&args));
    let vault = context.vault().await?;
    let pruned = or_cancelled(&context.cancel, vault.prune(vm, &rules, mode)).await?;
    let (collected, failed) = or_cancelled(&context.cancel, vault.collect(vm, mode, &pruned)).await?;
    let points = pruned.into_iter().flat_map(judged).collect();
    let result = Outcome { dry_run: mode == Mode::DryRun, points, collected };
    print(context.format(), &result, |result| text(result, mode))?;
    gc::first_failure(failed)
}

fn rules(args: &args::Prune) -> Rules {
    let keep = &args.keep;
    Rules {
        last: keep.last.unwrap_or(0),
        hourly: keep.hourly.unwrap_or(0),
        daily: keep.daily.unwrap_or(0),
        weekly: keep.weekly.unwrap_or(0),
        monthly: keep.monthly.unwrap_or(0),
        yearly: keep.yearly.unwrap_or(0),
        min_count: args.min_count,
        min_age: args.min_age.unwrap_or(SignedDuration::ZERO),
    }
}

fn judged(pruned: Pruned) -> impl Iterator<Item = Judged> {
    let Pruned { vm, points } = pruned;
    points.into_iter().map(move |verdict| Judged {
        point: verdict.point,
        vm: vm.clone(),
        time: verdict.time,
        fate: verdict.fate,
        reason: verdict.reason,
    })
}

fn text(result: &Outcome, mode: Mode) -> String {
    if result.points.is_empty() {
        return "No points yet.".into();
    }
    let mut rows = vec![["POINT", "VM", "TIME", "FATE", "REASON"].map(String::from)];
    rows.extend(result.points.iter().map(|point| {
        [
            point.point.to_string(),
            printable(point.vm.as_str()),
            format!("{:.0}", point.time),
            if point.fate == Fate::Keep { "keep".into() } else { "drop".into() },
            point.reason.clone(),
        ]
    }));
    format!("{}\n{}", table(&rows), gc::text(&result.collected, mode))
}
