use serde_json::{Value, json};

use super::*;

const NAME: &str = "r-backup";
const TRACKER: &str = "web-tracker";

fn source(tracker: &str) -> Value {
    json!({"apiGroup": "backup.kubevirt.io", "kind": "VirtualMachineBackupTracker", "name": tracker})
}

fn backup(fields: &Value) -> VirtualMachineBackup {
    let mut object = json!({
        "apiVersion": "backup.kubevirt.io/v1alpha1",
        "kind": "VirtualMachineBackup",
        "metadata": {
            "name": NAME,
            "labels": {"remora.dev/run": "run-uid"},
            "ownerReferences": [{"apiVersion": "remora.dev/v1alpha1", "kind": "BackupRun", "name": "run", "uid": "run-uid"}],
        },
        "spec": {"source": source(TRACKER), "mode": "Pull", "pvcName": "scratch"},
        "status": {"type": "Incremental", "conditions": [{"type": "Progressing", "status": "True", "reason": "ExportReady"}]},
    });
    for (key, value) in fields.as_object().unwrap() {
        object[key] = value.clone();
    }
    serde_json::from_value(object).unwrap()
}

fn instance(job: &Value) -> VirtualMachineInstance {
    serde_json::from_value(json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "metadata": {"name": "web", "uid": "vmi-uid"},
        "spec": {"utilityVolumes": [{"name": "other", "claimName": "x"}, {"name": "backup-vol", "claimName": "scratch"}]},
        "status": {"changedBlockTracking": {"state": "Enabled", "backupStatus": job}},
    }))
    .unwrap()
}

fn job() -> Value {
    json!({"backupName": NAME, "checkpointName": "r-backup-2026", "volumes": [{"volumeName": "root"}]})
}

fn run(status: &Value) -> Arc<BackupRun> {
    let run = json!({
        "apiVersion": "remora.dev/v1alpha1",
        "kind": "BackupRun",
        "metadata": {"name": "run", "uid": "run-uid"},
        "spec": {"virtualMachine": "web", "repository": {"name": "r"}},
        "status": status,
    });
    Arc::new(serde_json::from_value(run).unwrap())
}

fn of(
    backup: Option<VirtualMachineBackup>,
    instance: Option<VirtualMachineInstance>,
    status: &Value,
) -> BackupProgress {
    progress(NAME, "run-uid", TRACKER, &Shown { run: Some(run(status)), backup, instance })
}

fn prepared(status: &str, of_attempt: i32) -> Value {
    json!({
        "attempt": {"number": 2, "backup": NAME, "state": "Wanted"},
        "preparedAttempt": of_attempt,
        "conditions": [{"type": "Prepared", "status": status, "reason": "Reason", "message": "words",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}],
    })
}

#[test]
fn what_is_not_made_waits_for_the_controller_or_never_will_be() {
    let queued = |words: &str| BackupProgress::Queued(words.into());
    let not_looked = queued("the controller has not looked at it yet");
    assert_eq!(of(None, None, &json!({})), not_looked);
    // What it said of an earlier attempt is nothing to this one.
    assert_eq!(of(None, None, &prepared("False", 1)), not_looked);
    assert_eq!(of(None, None, &prepared("Unknown", 2)), queued("words"));
    let failed = BackupProgress::Failed { reason: "Reason".into(), message: "words".into() };
    assert_eq!(of(None, None, &prepared("False", 2)), failed);
    assert_eq!(of(None, None, &prepared("True", 2)), BackupProgress::Ended("it is gone".into()));
}

#[test]
fn a_backup_runs_once_its_own_job_is_told_of() {
    let running = of(Some(backup(&json!({}))), Some(instance(&job())), &json!({}));
    let BackupProgress::Running(running) = running else { panic!("{running:?}") };
    assert_eq!(running.checkpoint, "r-backup-2026");
    assert_eq!((running.kind, running.scratch.as_deref()), (BackupKind::Incremental, Some("backup-vol")));
    assert_eq!((running.volumes.len(), running.quiesced), (1, QuiesceFacts::Unknown));

    let waits = |backup, job: Value| {
        let progress = of(Some(backup), Some(instance(&job)), &json!({}));
        assert!(matches!(progress, BackupProgress::Waiting(_)), "{job}: {progress:?}");
    };
    waits(backup(&json!({})), json!({}));
    waits(backup(&json!({})), json!({"backupName": "another", "checkpointName": "c"}));
    waits(backup(&json!({})), json!({"backupName": NAME}));
    // Before it has a type the launcher may still fail to start it.
    waits(backup(&json!({"status": {"conditions": []}})), job());

    let elsewhere = backup(&json!({"spec": {"source": source(TRACKER), "mode": "Pull", "pvcName": "elsewhere"}}));
    assert_eq!(of(Some(elsewhere), Some(instance(&job())), &json!({})), BackupProgress::ScratchDetached);
}

#[test]
fn what_has_ended_or_is_another_s_is_no_view() {
    let of_backup = |fields: Value| of(Some(backup(&fields)), Some(instance(&job())), &json!({}));
    let status = |kind: &str, reason: &str| {
        json!({"status": {"type": "Full", "conditions": [
        {"type": kind, "status": "True", "reason": reason, "message": "m"}]}})
    };
    let failed =
        |reason: &str, message: &str| BackupProgress::Failed { reason: reason.into(), message: message.into() };
    assert_eq!(of_backup(status("Failed", "SourceLost")), failed("SourceLost", "m"));
    assert!(matches!(of_backup(status("Complete", "Completed")), BackupProgress::Ended(_)));
    assert!(matches!(of_backup(status("Aborting", "")), BackupProgress::Ended(_)));
    let pull_of = |source: &Value, mode: &str| json!({"spec": {"source": source, "mode": mode, "pvcName": "scratch"}});
    for foreign in [
        json!({"metadata": {"name": NAME, "labels": {"remora.dev/run": "run-uid"}}}),
        // It looks as if it were ours, and begins at another checkpoint.
        pull_of(&source("theirs"), "Pull"),
        pull_of(&json!({"apiGroup": "kubevirt.io", "kind": "VirtualMachine", "name": "web"}), "Pull"),
        pull_of(&source(TRACKER), "Push"),
    ] {
        let progress = of_backup(foreign.clone());
        let is_foreign = matches!(&progress, BackupProgress::Failed { reason, .. } if reason == "ForeignBackup");
        assert!(is_foreign, "{foreign}: {progress:?}");
    }
    for (field, ended) in [("completed", true), ("failed", false)] {
        let mut job = job();
        job[field] = json!(true);
        job["backupMsg"] = json!("words");
        let progress = of(Some(backup(&json!({}))), Some(instance(&job)), &json!({}));
        assert_eq!(matches!(progress, BackupProgress::Ended(_)), ended, "{progress:?}");
        assert!(job_facts(Some(&instance(&job))).ended.unwrap().ends_with(": words"));
    }
}

#[test]
fn whether_the_guest_was_frozen_is_told_by_the_backup_or_by_the_instance() {
    let of_condition = |status: &str, reason: &str| {
        let conditions = json!([{"type": "Quiesced", "status": status, "reason": reason, "message": "m"}]);
        quiesced(&backup(&json!({"status": {"conditions": conditions}})), &BackupJob::default())
    };
    assert_eq!(of_condition("True", "QuiesceSucceeded"), QuiesceFacts::Succeeded);
    assert_eq!(of_condition("False", "QuiesceSkipped"), QuiesceFacts::Skipped);
    assert_eq!(of_condition("False", "QuiesceFailed"), QuiesceFacts::Failed("m".into()));
    let of_job = |word: &str| {
        let job = BackupJob { quiesce_status: Some(word.into()), ..BackupJob::default() };
        quiesced(&backup(&json!({})), &job)
    };
    assert_eq!((of_job("Succeeded"), of_job("Skipped")), (QuiesceFacts::Succeeded, QuiesceFacts::Skipped));
    assert_eq!(of_job("Failed"), QuiesceFacts::Failed("failed".into()));
}
