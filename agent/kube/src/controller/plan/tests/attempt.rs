//! What is made for an attempt, and removed after it.

use super::*;
use crate::conditions::Truth;

#[test]
fn an_attempt_is_made_in_order_and_the_backup_last() {
    let mut observed = claimed();
    assert_eq!(steps(&observed), ["tracker", "scratch", "token", "backup"]);
    assert_eq!(prepared(&observed).truth, Truth::Unknown);
    observed.names.tracker = TrackerFacts::Ours;
    observed.names.scratch = Taken::Ours { leaving: false };
    assert_eq!(steps(&observed), ["token", "backup"]);
    observed.names.backup = Taken::Ours { leaving: false };
    assert!(steps(&observed).is_empty());
    assert_eq!((prepared(&observed).truth, &*prepared(&observed).reason), (Truth::True, "Prepared"));
}

#[test]
fn a_backup_outlives_the_run_and_its_scratch_holds_all_disks() {
    let observed = claimed();
    let plan = plan(&observed);
    let (mut size, mut time) = (0, 0);
    for step in &plan.steps {
        match step {
            Step::Make(Wanted::Scratch(claim)) => {
                let spec = claim.spec.clone().unwrap();
                assert_eq!(spec.volume_mode.as_deref(), Some("Filesystem"));
                size = crate::kubevirt::bytes(&spec.resources.unwrap().requests.unwrap()["storage"]).unwrap();
            }
            Step::Make(Wanted::Backup(backup)) => {
                time = backup.spec.ttl_duration.clone().unwrap().trim_end_matches('s').parse().unwrap();
                assert_eq!((backup.spec.force_full_backup, backup.spec.skip_quiesce), (Some(false), Some(true)));
                assert!(crate::kubevirt::is_of_run(&backup.metadata, "run-uid"));
            }
            _ => {}
        }
    }
    assert!(size > 3 << 30, "{size}");
    // Created at 1,000 s, four hours, and it is 2,000 s.
    assert!(time > 4 * 3600 - 1000, "{time}");
}

#[test]
fn what_keeps_an_attempt_from_being_made_waits_or_fails_it() {
    type Wrong = fn(&mut Observed);
    let rows: &[(Wrong, Truth, &str, &str)] = &[
        (|o| o.foreign = vec![("theirs".into(), "ExportReady".into())], Truth::Unknown, "WaitingForBackup", "theirs"),
        (|o| instance(o).job = Some("vmb-9".into()), Truth::Unknown, "WaitingForBackup", "vmb-9"),
        (|o| o.names.scratch = Taken::OfRun("other".into()), Truth::Unknown, "WaitingForRun", "other"),
        (|o| o.names.scratch = Taken::Foreign, Truth::False, "NameTaken", "PersistentVolumeClaim"),
        (|o| o.names.token = Taken::Foreign, Truth::False, "NameTaken", "Secret"),
        (|o| o.names.backup = Taken::Foreign, Truth::False, "NameTaken", "VirtualMachineBackup"),
        (|o| o.names.tracker = TrackerFacts::Foreign, Truth::False, "NameTaken", "Tracker"),
        (|o| o.classes.default = None, Truth::False, "NoStorageClass", "spec.scratch.storageClassName (thin)"),
        (
            |o| o.run.spec.scratch.storage_class_name = "fast".into(),
            Truth::False,
            "NoStorageClass",
            "no StorageClass fast",
        ),
        (|o| instance(o).disks[0].1 = None, Truth::Unknown, "DiskSizeUnknown", "volume root"),
        (|o| o.repository = RepositoryFacts::NotAllowed, Truth::False, "RepositoryNotAllowed", "allowedNamespaces"),
        (|o| o.repository = RepositoryFacts::Missing, Truth::False, "RepositoryMissing", "no Repository offsite in"),
        (|o| o.repository = RepositoryFacts::NotReady("x".into()), Truth::Unknown, "RepositoryNotReady", "x"),
        (|o| o.machine = Machine::Missing, Truth::False, "NoMachine", "gone"),
    ];
    for (wrong, truth, reason, words) in rows {
        let mut observed = claimed();
        wrong(&mut observed);
        let says = prepared(&observed);
        assert_eq!((says.truth, &*says.reason), (*truth, *reason));
        assert!(says.message.contains(words), "wanted {words:?} in {says:?}");
        assert!(steps(&observed).is_empty(), "{reason}: nothing half-made");
    }
}

#[test]
fn a_name_that_is_no_backup_of_this_repository_is_not_made() {
    let foreign = CheckpointName::random(RepositoryId::from_bytes([8; 16])).as_backup().to_string();
    for name in [foreign.as_str(), "theirs", "kube-root-ca"] {
        let mut observed = claimed();
        status(&mut observed).attempt.as_mut().unwrap().backup = name.into();
        assert_eq!((prepared(&observed).truth, &*prepared(&observed).reason), (Truth::False, "BadAttempt"), "{name}");
        assert!(steps(&observed).is_empty());
    }
}

#[test]
fn what_earlier_attempts_left_goes_before_the_next_is_made() {
    let mut observed = claimed();
    observed.made.backups = vec![thing("earlier")];
    observed.made.scratches = vec![thing("scratch")];
    observed.names.scratch = Taken::Ours { leaving: false };
    assert_eq!(steps(&observed), ["remove backup"]);
    assert_eq!(prepared(&observed).reason, "CleaningUp");
    // It takes its time, and is not asked again.
    observed.made.backups[0].leaving = true;
    assert!(steps(&observed).is_empty());
    assert_eq!(prepared(&observed).reason, "CleaningUp");
    observed.made.backups.clear();
    assert_eq!(steps(&observed), ["tracker", "token", "backup"]);
    observed.names.tracker = TrackerFacts::OfEarlierMachine("u".into());
    assert_eq!(steps(&observed), ["remove tracker"]);
}

#[test]
fn an_attempt_that_has_ended_is_removed_the_backup_first() {
    let mut observed = claimed();
    status(&mut observed).attempt.as_mut().unwrap().state = AttemptState::Ended;
    let name = status(&mut observed).attempt.as_ref().unwrap().backup.clone();
    observed.made =
        Made { backups: vec![thing(&name)], scratches: vec![thing("s")], tokens: vec![thing("t")], ..Made::default() };
    assert_eq!(steps(&observed), ["remove backup"]);
    observed.made.backups[0].leaving = true;
    assert!(steps(&observed).is_empty());
    // Its machine was deleted, and with it the tracker.
    let backup = observed.made.backups[0].clone();
    observed.made.orphans = vec![Orphan { backup, tracker: "tracker".into(), others: Vec::new() }];
    let Step::LetGo(tracker, _) = &plan(&observed).steps[0] else { panic!("no tracker is made") };
    assert_eq!(tracker.metadata.name.as_deref(), Some("tracker"));
    assert_eq!(tracker.metadata.owner_references.as_ref().unwrap()[0].uid, observed.made.backups[0].uid);
    observed.made.backups.clear();
    observed.made.orphans.clear();
    observed.made.attached = true;
    assert_eq!(steps(&observed), ["remove token"]);
    observed.made.attached = false;
    assert_eq!(steps(&observed), ["remove scratch", "remove token"]);
}
