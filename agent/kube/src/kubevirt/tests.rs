#![allow(clippy::unwrap_used, reason = "tests")]

use kube::api::ObjectMeta;
use remora_core::RepositoryId;
use serde_json::json;

use super::*;

fn stage(conditions: &serde_json::Value) -> Stage {
    let conditions: Vec<BackupCondition> = serde_json::from_value(conditions.clone()).unwrap();
    Stage::of(&conditions)
}

#[test]
fn the_conditions_of_both_versions_are_understood() {
    let since = "2026-01-01T00:00:00Z";
    let new = |kind: &str, status: &str, reason: &str| json!({"type": kind, "status": status, "reason": reason, "message": "m", "lastTransitionTime": since});
    // KubeVirt 1.8's.
    let old = |kind: &str, status: &str| json!({"type": kind, "status": status, "lastProbeTime": null});
    assert_eq!(stage(&json!([])), Stage::InFlight("KubeVirt has not begun it".into()));
    for (conditions, in_flight) in [
        (json!([new("Progressing", "True", "Initializing")]), true),
        (json!([new("Progressing", "True", "ExportReady"), new("Quiesced", "False", "QuiesceFailed")]), true),
        (json!([new("Progressing", "True", "Aborting")]), true),
        (json!([new("Progressing", "False", "Completed"), new("Complete", "True", "Completed")]), false),
        (json!([new("Failed", "True", "SourceLost"), new("Complete", "False", "SourceLost")]), false),
        (json!([old("Initializing", "True")]), true),
        (json!([old("Initializing", "False"), old("Progressing", "True"), old("ExportReady", "True")]), true),
        (json!([old("Progressing", "True"), old("Deleting", "True")]), true),
        (json!([old("Progressing", "False"), old("Done", "True")]), false),
    ] {
        let stage = stage(&conditions);
        assert_eq!(matches!(stage, Stage::InFlight(_) | Stage::Ending(_)), in_flight, "{conditions}");
    }
    assert_eq!(stage(&json!([new("Progressing", "True", "Aborting")])), Stage::Ending("Aborting: m".into()));
    assert_eq!(stage(&json!([old("Progressing", "True")])), Stage::InFlight("Progressing".into()));
    let failed = Stage::Failed { reason: "SourceLost".into(), message: "m".into() };
    assert_eq!(stage(&json!([new("Failed", "True", "SourceLost")])), failed);
}

#[test]
fn a_machine_is_tracked_as_its_instance_says_and_else_as_it_will_be() {
    for (of_instance, of_machine, state) in [
        (Some("Enabled"), Some("PendingRestart"), "Enabled"),
        (Some("Initializing"), Some("Initializing"), "Initializing"),
        (Some("Disabled"), Some("PendingRestart"), "PendingRestart"),
        (None, Some("PendingRestart"), "PendingRestart"),
        (Some("Disabled"), Some(""), "Disabled"),
        (Some("Disabled"), None, "Disabled"),
        (None, None, ""),
    ] {
        assert_eq!(tracking::state(of_instance, of_machine), state, "{of_instance:?} {of_machine:?}");
    }
}

#[test]
fn disks_are_eligible_and_other_volumes_and_devices_are_not() {
    let disks = ["a", "b", "c", "d", "e"].map(|name| json!({"name": name}));
    let spec: VirtualMachineInstanceSpec = serde_json::from_value(json!({
        "domain": {"devices": {"disks": disks}},
        "volumes": [
            {"name": "a", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "b", "dataVolume": {"name": "root"}},
            {"name": "c", "hostDisk": {"path": "/x.img", "type": "Disk", "capacity": "1Gi"}},
            {"name": "d", "containerDisk": {"image": "i"}},
            {"name": "e", "cloudInitNoCloud": {"userData": "u"}},
            {"name": "shown-nowhere", "persistentVolumeClaim": {"claimName": "files"}},
        ],
    }))
    .unwrap();
    let names: Vec<_> = spec.eligible().map(|(name, _)| name).collect();
    assert_eq!(names, ["a", "b", "c"]);
    let backings: Vec<_> = spec.eligible().map(|(_, backing)| backing).collect();
    assert_eq!(backings[..2], [Backing::Claim("data"), Backing::Claim("root")]);
    assert!(matches!(backings[2], Backing::HostDisk(Some(size)) if size.0 == "1Gi"));
}

#[test]
fn names_are_labels_that_differ_with_all_that_they_are_of() {
    let (one, two) = (RepositoryId::from_bytes([1; 16]), RepositoryId::from_bytes([2; 16]));
    let names = [
        tracker_name("web", one),
        tracker_name("web", two),
        tracker_name("db", one),
        scratch_name("web"),
        scratch_name("db"),
    ];
    for (index, name) in names.iter().enumerate() {
        assert!(name.len() <= 63 && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
        assert!(!names[..index].contains(name), "{name}");
    }
    assert_eq!(names[0], tracker_name("web", one));
}

#[test]
fn what_only_wears_the_label_is_not_of_the_run() {
    let owner = |kind: &str, uid: &str| OwnerReference { kind: kind.into(), uid: uid.into(), ..Default::default() };
    let object = |label: &str, owner: Option<OwnerReference>| ObjectMeta {
        labels: Some([(RUN_LABEL.to_owned(), label.to_owned())].into()),
        owner_references: owner.map(|owner| vec![owner]),
        ..Default::default()
    };
    assert!(is_of_run(&object("u", Some(owner("BackupRun", "u"))), "u"));
    assert!(!is_of_run(&object("u", None), "u"));
    assert!(!is_of_run(&object("u", Some(owner("BackupRun", "v"))), "u"));
    assert!(!is_of_run(&object("v", Some(owner("BackupRun", "u"))), "u"));
    assert!(!is_of_run(&object("u", Some(owner("VirtualMachine", "u"))), "u"));
}
