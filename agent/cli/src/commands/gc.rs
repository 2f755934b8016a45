//! `remora gc`

use remora_core::{Error, Result, VmName};
use remora_engine::or_cancelled;
use remora_vault::{Amount, Collected, Leftovers, Mode};

use crate::context::Context;
use crate::output::{bytes, print, printable};

pub(super) const fn mode(dry_run: bool) -> Mode {
    if dry_run { Mode::DryRun } else { Mode::Run }
}

pub(super) async fn run(context: &Context, vm: Option<VmName>, mode: Mode) -> Result<()> {
    let vault = context.vault().await?;
    let (collected, failed) = or_cancelled(&context.cancel, vault.collect(vm.as_ref(), mode, &[])).await?;
    if vm.is_none() {
        leftovers(context, or_cancelled(&context.cancel, vault.remove_leftovers(mode)).await?, mode);
    }
    print(context.format(), &collected, |collected| text(collected, mode))?;
    first_failure(failed)
}

/// Tells of what dead processes left beside the VMs.
fn leftovers(context: &Context, found: Leftovers, mode: Mode) {
    if found.objects > 0 {
        let verb = if mode == Mode::DryRun { "would be " } else { "" };
        let size = bytes(found.bytes);
        context.note(&format!("left by commands that were killed, {verb}removed: {} objects, {size}", found.objects));
    }
}

/// The VMs that could not be collected, as one error.
pub(super) fn first_failure(failed: Vec<Error>) -> Result<()> {
    failed.into_iter().next().map_or(Ok(()), Err)
}

/// A line for each thing that was done or waits, VM by VM.
pub(super) fn text(collected: &[Collected], mode: Mode) -> String {
    if collected.is_empty() {
        return "No VMs yet.".into();
    }
    collected.iter().map(|collected| one(collected, mode)).collect()
}

fn one(done: &Collected, mode: Mode) -> String {
    let name = done.vm.as_ref().map_or_else(|| done.folder.clone(), |vm| printable(vm.as_str()));
    let verb = if mode == Mode::DryRun { "would be " } else { "" };
    let amount = |amount: Amount| format!("{} segments, {}", amount.segments, bytes(amount.bytes));
    let mut lines = vec![format!("{name}: {verb}removed: {}", amount(done.removed))];
    if done.rewritten.segments > 0 {
        lines.push(format!("  {verb}stored again without what nothing needs: {}", amount(done.rewritten)));
    }
    if done.later.segments > 0 {
        lines.push(format!("  goes 72 hours after its points were dropped: {}", amount(done.later)));
    }
    if done.waiting.segments > 0 {
        lines.push(format!("  stays while {} backup(s) of the VM run: {}", done.sessions, amount(done.waiting)));
    }
    if let (true, Some(until)) = (done.locked.segments > 0, done.locked_until) {
        lines.push(format!("  goes when its lock ends, at the latest after {until:.0}: {}", amount(done.locked)));
    }
    if let Some(immutable) = done.immutable {
        let extended = match immutable.extended {
            0 => String::new(),
            objects => format!(" ({objects} objects locked for longer)"),
        };
        lines.push(format!("  nothing that points need can be deleted before {:.0}{extended}", immutable.until));
    }
    if done.ended > 0 {
        lines.push(format!("  sessions of dead backups that {verb}ended: {}", done.ended));
    }
    if !done.missing.is_empty() {
        lines.push(format!("  DAMAGE, segments that points need are missing: {}", done.missing.join(", ")));
    }
    lines.join("\n") + "\n"
}
