//! `remora verify`

use jiff::Timestamp;
use remora_core::ports::{Effect, Listing, Mover};
use remora_core::{Error, ErrorKind, PointId, Result};
use remora_engine::or_cancelled;
use remora_vault::{Depth, Sample, Vault};
use serde::Serialize;

use super::lost::Lost;
use crate::args;
use crate::context::Context;
use crate::output::{bytes, print, printable};

/// What was found of a point.
#[derive(Serialize)]
struct Verified {
    point: PointId,
    /// Whether nothing is lost.
    ok: bool,
    /// Bytes of sealed objects read and authenticated.
    checked: u64,
    /// Why nothing of the point can be read; null if its manifest can.
    unreadable: Option<String>,
    damage: Vec<Lost>,
    /// Whether it was noted that the VM's next backup is to store what is lost again.
    repair_noted: bool,
}

pub(super) async fn run(context: &Context, args: args::Verify) -> Result<()> {
    let vault = context.vault().await?;
    let verifier = vault.verifier(depth(&args));
    let whole = args.point.is_none();
    let (points, unreadable) = if let Some(point) = args.point {
        (vec![point], Vec::new())
    } else {
        let Listing { points, unreadable } = vault.list(None).await?;
        (points.into_iter().map(|point| point.id).collect(), unreadable)
    };
    let shown = context.progress("verifying");
    let (mut all, port) = (Vec::new(), shown.port());
    for point in points {
        let found = or_cancelled(&context.cancel, verifier.point(&point, port.as_ref())).await;
        all.push(match found {
            Ok(report) => Verified {
                repair_noted: args.repair && vault.note_lost(&point, &report.damage).await?,
                point,
                ok: report.damage.is_empty(),
                checked: report.checked,
                unreadable: None,
                damage: report.damage.into_iter().map(Lost::from).collect(),
            },
            Err(error) if error.kind() == ErrorKind::Damaged => lost(point, &error),
            Err(error) => return Err(error),
        });
    }
    drop((shown, port));
    all.extend(unreadable.into_iter().map(|(point, error)| lost(point, &error)));
    print(context.format(), &all, |all| {
        if all.is_empty() { "No points yet.".into() } else { all.iter().map(text).collect() }
    })?;
    let damaged: Vec<_> = all.iter().filter(|found| !found.ok).map(|found| found.point.to_string()).collect();
    if damaged.is_empty() {
        return if whole { untampered(&vault).await } else { Ok(()) };
    }
    let what = format!("{} of {} points are damaged: {}", damaged.len(), all.len(), damaged.join(", "));
    Err(Error::new(ErrorKind::Damaged, what).advise(
        "What is not named as lost still restores, with `remora restore --allow-damaged` all of it. Make a new point of \
         the VM with `remora backup --full`.",
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

fn depth(args: &args::Verify) -> Depth {
    match args.sample {
        Some(share) => Depth::Sample(Sample::of_day(share, Timestamp::now())),
        None if args.structure_only => Depth::Structure,
        None => Depth::All,
    }
}

fn lost(point: PointId, error: &Error) -> Verified {
    Verified { point, ok: false, checked: 0, unreadable: Some(error.chain()), damage: Vec::new(), repair_noted: false }
}

fn text(found: &Verified) -> String {
    if let Some(why) = &found.unreadable {
        return format!("{}  unreadable: {}\n", found.point, printable(why));
    }
    let state = if found.ok { "sound" } else { "DAMAGED" };
    let lost = |lost: &Lost| {
        let (why, object) = (printable(&lost.why), printable(&lost.object));
        let effect = match lost.effect {
            Effect::Lost => "are lost",
            Effect::Readable => "restore, but rest on a damaged object",
        };
        format!("  {} bytes {}..{} {effect}: {why} ({object})\n", lost.disk, lost.start, lost.end)
    };
    let lost: String = found.damage.iter().map(lost).collect();
    let repair = if found.repair_noted { "  the next backup will store it again\n" } else { "" };
    format!("{}  {state}, {} checked\n{lost}{repair}", found.point, bytes(found.checked))
}
