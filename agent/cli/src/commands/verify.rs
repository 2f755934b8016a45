//! `remora verify`

mod repair;
mod verifier;

use jiff::Timestamp;
use remora_core::point::Point;
use remora_core::ports::{DamagedPoint, Effect, Listing, VerifyReport};
use remora_core::{Error, ErrorKind, PointId, Result};
use remora_engine::or_cancelled;
use remora_vault::{Depth, Sample, Vault};
use serde::Serialize;

use self::repair::{Damaged, Left, Stretch, repair_all};
use self::verifier::Verifier;
use super::lost::Lost;
use crate::args;
use crate::context::{Context, Repository};
use crate::output::{bytes, print, printable};

/// What was found of a point, and what a repair made of it.
#[derive(Serialize)]
struct Verified {
    point: PointId,
    /// Whether nothing is damaged, or nothing any more.
    ok: bool,
    /// Bytes of sealed objects read and authenticated.
    checked: u64,
    /// Why nothing of the point can be read; null if its manifest can.
    unreadable: Option<String>,
    damage: Vec<Lost>,
    /// What of the damage is sound now.
    repaired: Vec<Stretch>,
    /// What is not, and why.
    not_repaired: Vec<Left>,
    /// Whether it was noted that the VM's next backup is to store what is lost again.
    repair_noted: bool,
}

pub(super) async fn run(context: &Context, args: args::Verify) -> Result<()> {
    let repository = context.points().await?;
    suits(&args, &repository)?;
    let verifier = Verifier::of(&repository, depth(&args)).await?;
    let whole = args.point.is_none();
    let Listing { points, unreadable, .. } = match &args.point {
        Some(point) => verifier.alone(point).await?,
        None => verifier.all().await?,
    };
    let shown = context.progress("verifying");
    let (mut all, mut damaged, port) = (Vec::new(), Damaged::default(), shown.port());
    for Point { id, vm, .. } in points {
        match or_cancelled(&context.cancel, verifier.point(&id, port.as_ref())).await {
            Ok(report) => {
                all.push(verified(id.clone(), &report));
                if !report.damage.is_empty() {
                    damaged.entry(vm).or_default().push(DamagedPoint { point: id, damage: report.damage });
                }
            }
            Err(error) if error.kind() == ErrorKind::Damaged => all.push(lost(id, &error)),
            // Another host has pruned it since it was listed.
            Err(error) if error.kind() == ErrorKind::NotFound && whole && repository.vault().is_none() => {}
            Err(error) => return Err(error),
        }
    }
    drop((shown, port));
    if let (true, Some(vault)) = (args.repair, repository.vault()) {
        repair_all(context, vault, &damaged, &mut all).await?;
    }
    all.extend(unreadable.into_iter().map(|(point, error)| lost(point, &error)));
    print(context.format(), &all, |all| {
        if all.is_empty() { "No points yet.".into() } else { all.iter().map(text).collect() }
    })?;
    if let (true, Some(vault)) = (whole, repository.vault()) {
        untampered(vault).await?;
    }
    sound(&all)
}

/// An error if something is asked for that only a vault can do, of a repository that is none.
fn suits(args: &args::Verify, repository: &Repository) -> Result<()> {
    if repository.vault().is_some() || !(args.structure_only || args.sample.is_some() || args.repair) {
        return Ok(());
    }
    let what = "--structure-only, --sample and --repair are for a repository of remora's own format";
    Err(Error::new(ErrorKind::Unsupported, what)
        .advise("Here verify reads all of a point, and what keeps it can mend it."))
}

/// An error that names the points that are damaged, if any are.
fn sound(all: &[Verified]) -> Result<()> {
    let damaged: Vec<_> = all.iter().filter(|found| !found.ok).map(|found| found.point.to_string()).collect();
    if damaged.is_empty() {
        return Ok(());
    }
    let what = format!("{} of {} points are damaged: {}", damaged.len(), all.len(), damaged.join(", "));
    Err(Error::new(ErrorKind::Damaged, what).advise(
        "What is not named as lost still restores, with `remora restore --allow-damaged` all of it. While the VM runs, \
         `remora verify --repair` stores again what its disks still hold. Make a new point of the VM with `remora backup \
         --full`.",
    ))
}

/// An error if somebody deleted or replaced objects of an immutable repository: newer points may be hidden by that.
async fn untampered(vault: &Vault) -> Result<()> {
    let names = vault.tampered().await?;
    if names.is_empty() {
        return Ok(());
    }
    let what = format!("objects of the repository were deleted or replaced: {}", names.join(", "));
    Err(Error::new(ErrorKind::Damaged, what).advise(
        "The bucket still has them: `remora repo undelete` brings them back. Find out who did it, and change the \
         credentials.",
    ))
}

fn verified(point: PointId, report: &VerifyReport) -> Verified {
    Verified {
        point,
        ok: report.damage.is_empty(),
        checked: report.checked,
        unreadable: None,
        damage: report.damage.iter().cloned().map(Lost::from).collect(),
        repaired: Vec::new(),
        not_repaired: Vec::new(),
        repair_noted: false,
    }
}

fn depth(args: &args::Verify) -> Depth {
    match args.sample {
        Some(share) => Depth::Sample(Sample::of_day(share, Timestamp::now())),
        None if args.structure_only => Depth::Structure,
        None => Depth::All,
    }
}

fn lost(point: PointId, error: &Error) -> Verified {
    Verified { ok: false, unreadable: Some(error.chain()), ..verified(point, &VerifyReport::default()) }
}

fn text(found: &Verified) -> String {
    if let Some(why) = &found.unreadable {
        return format!("{}  unreadable: {}\n", found.point, printable(why));
    }
    let state = match (found.ok, found.damage.is_empty()) {
        (true, true) => "sound",
        (true, false) => "REPAIRED",
        (false, _) => "DAMAGED",
    };
    let lost = |lost: &Lost| {
        let (why, object) = (printable(&lost.why), printable(&lost.object));
        let effect = match lost.effect {
            Effect::Lost => "are lost",
            Effect::Readable => "restore, but rest on a damaged object",
        };
        format!("  {} bytes {}..{} {effect}: {why} ({object})\n", lost.disk, lost.start, lost.end)
    };
    let lost: String = found.damage.iter().map(lost).collect();
    let repair = repair::text(found);
    format!("{}  {state}, {} checked\n{lost}{repair}", found.point, bytes(found.checked))
}
