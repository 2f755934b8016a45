//! What has become of a backup, from the objects that tell of it: a pure function.

use std::sync::Arc;

use remora_source::kubevirt::{BackupKind, BackupProgress, JobFacts, QuiesceFacts, RunningBackup};

use crate::conditions::find;
use crate::kubevirt::{BackupJob, Stage, VirtualMachineBackup, VirtualMachineInstance, is_of_run};
use crate::resources::BackupRun;

/// What is known of a backup.
#[derive(Debug, Default)]
pub(super) struct Shown {
    pub(super) run: Option<Arc<BackupRun>>,
    pub(super) backup: Option<VirtualMachineBackup>,
    pub(super) instance: Option<VirtualMachineInstance>,
}

/// What has become of the backup of that name, of the run of that UID, through that tracker. Label and owner are what
/// anybody can write who can make one; its spec cannot be changed later.
pub(super) fn progress(name: &str, run: &str, tracker: &str, shown: &Shown) -> BackupProgress {
    let Some(backup) = &shown.backup else { return unmade(name, shown) };
    if !is_of_run(&backup.metadata, run) || !backup.spec.is_pull_of(tracker) {
        let message = format!(
            "VirtualMachineBackup {name} is there, but was not made for this run: find out who makes backups of this machine \
             beside remora"
        );
        return BackupProgress::Failed { reason: "ForeignBackup".into(), message };
    }
    let status = backup.status.clone().unwrap_or_default();
    match Stage::of(&status.conditions) {
        Stage::Failed { reason, message } => BackupProgress::Failed { reason, message },
        Stage::Complete => BackupProgress::Ended("KubeVirt has completed it".into()),
        Stage::Ending(words) => BackupProgress::Ended(words),
        Stage::InFlight(_) if backup.metadata.deletion_timestamp.is_some() => {
            BackupProgress::Ended("it is being deleted".into())
        }
        Stage::InFlight(words) => running(name, backup, shown).unwrap_or(BackupProgress::Waiting(words)),
    }
}

/// What the controller says of a backup that is not there.
fn unmade(name: &str, shown: &Shown) -> BackupProgress {
    let queued = |message: &str| BackupProgress::Queued(message.into());
    let status = shown.run.as_ref().and_then(|run| run.status.as_ref());
    let attempt = |status: &&_| attempt_number(status) == Some(name);
    let Some(status) = status.filter(attempt).filter(|status| {
        status.prepared_attempt.is_some() && status.prepared_attempt == status.attempt.as_ref().map(|one| one.number)
    }) else {
        return queued("the controller has not looked at it yet");
    };
    match find(&status.conditions, "Prepared") {
        Some(prepared) if prepared.status == "False" => {
            BackupProgress::Failed { reason: prepared.reason.clone(), message: prepared.message.clone() }
        }
        Some(prepared) if prepared.status == "True" => BackupProgress::Ended("it is gone".into()),
        Some(prepared) => queued(&prepared.message),
        None => queued("the controller has not looked at it yet"),
    }
}

fn attempt_number(status: &crate::resources::BackupRunStatus) -> Option<&str> {
    status.attempt.as_ref().map(|attempt| attempt.backup.as_str())
}

/// The backup whose job runs, if it does.
fn running(name: &str, backup: &VirtualMachineBackup, shown: &Shown) -> Option<BackupProgress> {
    let instance = shown.instance.as_ref()?;
    let job = job(instance).filter(|job| job.backup_name.as_deref() == Some(name))?;
    let message = || job.backup_msg.clone().unwrap_or_default();
    if job.failed {
        return Some(BackupProgress::Failed { reason: "BackupFailed".into(), message: message() });
    }
    if job.completed {
        return Some(BackupProgress::Ended(format!("its job has ended: {}", message())));
    }
    let status = backup.status.as_ref()?;
    let kind = match status.kind.as_deref()? {
        "Incremental" => BackupKind::Incremental,
        _ => BackupKind::Full,
    };
    let claim = backup.spec.pvc_name.as_deref();
    let scratch = instance.spec.utility_volumes.iter().find(|volume| Some(volume.claim_name.as_str()) == claim);
    if claim.is_some() && scratch.is_none() {
        return Some(BackupProgress::ScratchDetached);
    }
    Some(BackupProgress::Running(RunningBackup {
        checkpoint: job.checkpoint_name.clone().filter(|name| !name.is_empty())?,
        kind,
        volumes: job.volumes.iter().map(|volume| volume.volume_name.clone()).collect(),
        quiesced: quiesced(backup, job),
        scratch: scratch.map(|volume| volume.name.clone()),
    }))
}

fn quiesced(backup: &VirtualMachineBackup, job: &BackupJob) -> QuiesceFacts {
    let conditions = backup.status.as_ref().map_or(&[][..], |status| &status.conditions);
    if let Some(condition) = conditions.iter().find(|condition| condition.kind == "Quiesced") {
        return match (condition.status.as_str(), condition.reason.as_deref()) {
            ("True", _) => QuiesceFacts::Succeeded,
            (_, Some("QuiesceSkipped")) => QuiesceFacts::Skipped,
            _ => QuiesceFacts::Failed(condition.message.clone().unwrap_or_default()),
        };
    }
    match job.quiesce_status.as_deref().map(str::to_ascii_lowercase).as_deref() {
        Some(status) if status.contains("succe") => QuiesceFacts::Succeeded,
        Some(status) if status.contains("skip") => QuiesceFacts::Skipped,
        Some(status) if status.contains("fail") => QuiesceFacts::Failed(status.into()),
        _ => QuiesceFacts::Unknown,
    }
}

fn job(instance: &VirtualMachineInstance) -> Option<&BackupJob> {
    instance.status.as_ref()?.changed_block_tracking.as_ref()?.backup_status.as_ref()
}

/// What an instance says of its job.
pub(super) fn job_facts(instance: Option<&VirtualMachineInstance>) -> JobFacts {
    let Some(instance) = instance else { return JobFacts::default() };
    let job = job(instance).cloned().unwrap_or_default();
    let ended = match (job.failed, job.completed) {
        (true, _) => Some("it failed"),
        (_, true) => Some("it is completed"),
        (false, false) => None,
    };
    let message = job.backup_msg.unwrap_or_default();
    JobFacts {
        instance: instance.metadata.uid.clone(),
        backup: job.backup_name.filter(|name| !name.is_empty()),
        checkpoint: job.checkpoint_name.filter(|name| !name.is_empty()),
        ended: ended.map(|ended| if message.is_empty() { ended.into() } else { format!("{ended}: {message}") }),
    }
}

#[cfg(test)]
mod tests;
