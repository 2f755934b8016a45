//! `remora prune`

use jiff::{SignedDuration, Timestamp};
use remora_core::retention::{Fate, Rules};
use remora_core::{PointId, Result, VmName};
use remora_engine::or_cancelled;
use remora_plugins::movers::{Dropping, VolumeMover};
use remora_vault::{Collected, Mode, Pruned};
use serde::Serialize;

use super::gc;
use crate::args;
use crate::context::{Context, Repository};
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
    let vault = match context.points().await? {
        Repository::Vault(vault) => vault,
        Repository::Volumes(volumes) => return of_volumes(context, &volumes, vm, &rules, mode).await,
    };
    let pruned = or_cancelled(&context.cancel, vault.prune(vm, &rules, mode)).await?;
    let (collected, failed) = or_cancelled(&context.cancel, vault.collect(vm, mode, &pruned)).await?;
    let points = pruned.into_iter().flat_map(judged).collect();
    let result = Outcome { dry_run: mode == Mode::DryRun, points, collected };
    print(context.format(), &result, |result| text(result, mode))?;
    gc::first_failure(failed)
}

/// What a mover keeps in a form of its own is gone at once, and leaves nothing to collect.
async fn of_volumes(
    context: &Context,
    volumes: &VolumeMover,
    vm: Option<&VmName>,
    rules: &Rules,
    mode: Mode,
) -> Result<()> {
    let dropping = if mode == Mode::DryRun { Dropping::DryRun } else { Dropping::Run };
    let pruned = or_cancelled(&context.cancel, volumes.prune(vm, rules, dropping)).await?;
    let points = pruned.into_iter().flat_map(|(vm, points)| judged(Pruned { vm, points })).collect();
    let result = Outcome { dry_run: mode == Mode::DryRun, points, collected: Vec::new() };
    print(context.format(), &result, fates)
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
        return fates(result);
    }
    format!("{}\n{}", fates(result), gc::text(&result.collected, mode))
}

fn fates(result: &Outcome) -> String {
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
    table(&rows)
}
