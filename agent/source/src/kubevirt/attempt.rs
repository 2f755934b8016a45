//! A backup that KubeVirt is asked for, until its job runs.

use jiff::Timestamp;
use remora_core::point::{Quiesce, Quiesced};
use remora_core::ports::Outcome;
use remora_core::{BackupName, CheckpointName, Error, ErrorKind, Result};
use tokio::time::{Instant, timeout};

use super::cluster::{BackupKind, BackupProgress, BackupWish, Depth, QuiesceFacts, RunningBackup, Unattached};
use super::source::Vm;

/// The name of an error that the VM's turn has not come: nothing was begun, and it can be tried later.
pub const QUEUED: &str = "Queued";

/// The name of an error that the scratch PVC did not get to the VM's node.
pub const SCRATCH_NOT_ATTACHABLE: &str = "ScratchNotAttachable";

/// A backup whose job runs.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) backup: BackupName,
    pub(super) checkpoint: CheckpointName,
    /// What of it KubeVirt says.
    pub(super) running: RunningBackup,
    /// An instant at which the job did not run yet: what the guest had written by then is surely in it.
    pub(super) time: Timestamp,
    pub(super) quiesced: Quiesced,
}

/// What becomes of a wish.
enum Begun {
    Runs(RunningBackup, Timestamp),
    /// Its job runs without the scratch PVC.
    ScratchDetached,
}

/// So often a full backup is asked for anew that has lost its scratch PVC.
const TRIES: usize = 3;

/// So often, in the time that KubeVirt has to start a job, the API server is asked itself, and as often before KubeVirt has the
/// backup: a watch that hears nothing tells neither that the job runs, nor that nobody answers.
const LOOKS: u32 = 6;

/// Asks for a backup and waits until its job runs; `wish` then names the one that does. On error that one may be there in
/// any state.
pub(super) async fn start(vm: &Vm, wish: &mut BackupWish, quiesce: Quiesce) -> Result<Started> {
    for _ in 0..TRIES {
        vm.cluster.begin(wish).await.map_err(|error| error.within("asking for a backup of KubeVirt"))?;
        if let Begun::Runs(running, time) = wait(vm, wish).await? {
            let checkpoint = ours(&running.checkpoint, &wish.backup)?;
            let quiesced = quiesced(vm, &running.quiesced, quiesce)?;
            return Ok(Started { backup: wish.backup.clone(), checkpoint, running, time, quiesced });
        }
        // Its storage may be taken from the node under QEMU's hands, and then it is the guest's writes that fail.
        tracing::warn!(vm = %vm.facts.vm, backup = %wish.backup, "KubeVirt detached the scratch PVC of a job that runs: it is ended");
        if wish.depth == Depth::SinceLatest {
            break;
        }
        vm.cluster.end(&wish.backup, Outcome::Abandoned).await?;
        wish.backup = CheckpointName::random(wish.backup.repository()).as_backup();
    }
    Err(detached(wish.depth))
}

/// `Damaged` makes the engine repeat without an increment: KubeVirt's tracker has moved on to this one's checkpoint.
fn detached(depth: Depth) -> Error {
    let kind = if depth == Depth::SinceLatest { ErrorKind::Damaged } else { ErrorKind::Unavailable };
    Error::new(kind, "KubeVirt detached the scratch PVC while the job began")
        .advise("Back up again. If that does not help, see the log of virt-controller: is it starved?")
}

async fn wait(vm: &Vm, wish: &BackupWish) -> Result<Begun> {
    let asked = Instant::now();
    let (mut seen, mut time) = (None, Timestamp::now());
    // Once KubeVirt has the backup it is KubeVirt that is waited for; before, somebody else's.
    let mut left = vm.patience + vm.options.start_within;
    let mut handed_over = false;
    loop {
        let look = left.min(vm.options.start_within / LOOKS);
        let waits = Instant::now();
        let told = timeout(look, vm.cluster.progress(&wish.backup, seen.as_ref())).await;
        // Nobody is blamed for the time in which the API server does not answer, which follows.
        left = left.saturating_sub(waits.elapsed());
        let heard = told.is_ok();
        let (next, as_of) = if let Ok(next) = told {
            (next, Timestamp::now())
        } else {
            // Nothing changed, or nothing is heard of it.
            let before = Timestamp::now();
            (vm.cluster.progress_now(&wish.backup).await, before)
        };
        let next = next.map_err(|error| error.within("waiting for the backup of KubeVirt"))?;
        tracing::debug!(vm = %vm.facts.vm, backup = %wish.backup, progress = ?next, "the backup of KubeVirt");
        match next {
            BackupProgress::Running(running) => return Ok(Begun::Runs(running, time)),
            BackupProgress::ScratchDetached => return Ok(Begun::ScratchDetached),
            BackupProgress::Failed { reason, message } => {
                let what = format!("the backup of KubeVirt failed ({reason}): {message}");
                return Err(Error::new(ErrorKind::Unavailable, what).named(reason));
            }
            BackupProgress::Ended(how) => return Err(ended(&how)),
            BackupProgress::Waiting(_) if !handed_over => {
                handed_over = true;
                left = vm.options.start_within;
            }
            BackupProgress::Waiting(text) if left.is_zero() => return Err(not_started(vm, wish, &text).await),
            BackupProgress::Queued(text) if left.is_zero() => return Err(not_possible(&text, asked)),
            BackupProgress::Waiting(_) if !heard => check_outlook(vm, wish).await?,
            BackupProgress::Waiting(_) | BackupProgress::Queued(_) => {}
        }
        time = as_of;
        seen = Some(next);
    }
}

/// An error if the scratch PVC never gets to the VM's node, however long it is waited for.
async fn check_outlook(vm: &Vm, wish: &BackupWish) -> Result<()> {
    match vm.cluster.why_unattached(&wish.backup).await {
        Ok(Some(never @ Unattached::ForGood(_))) => Err(not_attachable(vm, &never)),
        Err(error) if error.kind() == ErrorKind::Cancelled => Err(error),
        // It may be yet; and who cannot say it is asked again when the time is up.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Why a job has not begun in time.
async fn not_started(vm: &Vm, wish: &BackupWish, known: &str) -> Error {
    let seconds = vm.options.start_within.as_secs();
    match vm.cluster.why_unattached(&wish.backup).await {
        Ok(Some(unattached)) => return not_attachable(vm, &unattached),
        // Of `Damaged` the engine would make a reread that nobody wants any more.
        Err(error) if error.kind() == ErrorKind::Cancelled => return error,
        // Who cannot say it is not asked twice: the backup is over either way.
        Ok(None) | Err(_) => {}
    }
    let started = |what: &str| format!("KubeVirt has not started the {what} within {seconds} s{}", after_colon(known));
    match wish.depth {
        // The engine repeats without an increment: KubeVirt tries one that it cannot start for ever, and says nothing of it in
        // the backup's status.
        Depth::SinceLatest => Error::new(ErrorKind::Damaged, started("increment")),
        Depth::Full => Error::new(ErrorKind::Unavailable, started("backup"))
            .advise("Look at the events of the VirtualMachineBackup, and at the log of virt-controller."),
    }
}

/// Not to be repeated at once: a reread would need the same PVC.
fn not_attachable(vm: &Vm, unattached: &Unattached) -> Error {
    let what = match unattached {
        Unattached::SoFar(why) => {
            let seconds = vm.options.start_within.as_secs();
            format!("the scratch PVC was not attached on the VM's node within {seconds} s: {why}")
        }
        Unattached::ForGood(why) => format!("the scratch PVC cannot be attached on the VM's node: {why}"),
    };
    Error::new(ErrorKind::Unavailable, what).named(SCRATCH_NOT_ATTACHABLE).advise(
        "Name a StorageClass in spec.scratch.storageClassName of the next run, or in target.scratch.storageClassName of the \
         policy that asks for it, whose volumes can be had on that node: one that all nodes reach, or one with \
         volumeBindingMode: WaitForFirstConsumer.",
    )
}

/// What had to end first has not.
fn not_possible(known: &str, asked: Instant) -> Error {
    let seconds = asked.elapsed().as_secs();
    Error::new(ErrorKind::Busy, format!("the backup has not become possible within {seconds} s{}", after_colon(known)))
        .named(QUEUED)
}

fn after_colon(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

/// Whoever ends it: a person, its time to live, the VM's stop.
pub(super) fn ended(how: &str) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the backup of KubeVirt was ended by somebody else ({how})"))
        .advise("Find out who deletes VirtualMachineBackups or stops the VM, and back up again.")
}

/// The checkpoint of a job, if that is the job of our backup.
fn ours(checkpoint: &str, backup: &BackupName) -> Result<CheckpointName> {
    let parsed: Option<CheckpointName> = checkpoint.parse().ok();
    parsed.filter(|name| name.backup().as_ref() == Some(backup)).ok_or_else(|| {
        Error::new(
            ErrorKind::Unavailable,
            format!("the VM's job made the checkpoint {checkpoint:?}, which is not of our backup {backup}"),
        )
        .advise("Another backup of this VM runs: let it end, and back up again.")
    })
}

fn quiesced(vm: &Vm, told: &QuiesceFacts, asked: Quiesce) -> Result<Quiesced> {
    let why = match (asked, told) {
        (_, QuiesceFacts::Succeeded) => return Ok(Quiesced::Frozen),
        (Quiesce::Never, _) => return Ok(Quiesced::Skipped),
        (_, QuiesceFacts::Failed(why)) => why.as_str(),
        (_, QuiesceFacts::Skipped) => "KubeVirt did not ask the guest",
        (_, QuiesceFacts::Unknown) => "KubeVirt does not say whether it was frozen",
    };
    if asked == Quiesce::Required {
        return Err(Error::new(ErrorKind::Refused, "the guest's filesystems could not be frozen")
            .because(why.to_owned())
            .advise("Start qemu-guest-agent in the guest, or let the run prefer freezing instead of requiring it."));
    }
    tracing::warn!(vm = %vm.facts.vm, why, "the guest could not be frozen; this point is crash-consistent");
    Ok(Quiesced::Failed)
}

/// Why the job tells no increment, though one was asked for since `since`; `latest` is what the tracker says now that
/// the job runs.
pub(super) fn no_increment(running: &RunningBackup, since: &CheckpointName, latest: Option<&str>) -> Option<String> {
    match latest {
        _ if running.kind == BackupKind::Full => Some("KubeVirt made a full backup instead of an increment".into()),
        Some(latest) if latest == since.as_str() => None,
        Some(latest) => Some(format!(
            "KubeVirt's tracker moved on to {latest} without us: its increment does not start from the newest point's {since}"
        )),
        None => Some("KubeVirt's tracker lost its checkpoint".into()),
    }
}

#[cfg(test)]
mod tests;
