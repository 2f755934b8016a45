#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::json;

use super::*;
use crate::kubevirt::RUN_LABEL;

/// A repository of these namespaces, ready unless said.
fn repository(allowed: &[&str], status: &str) -> Repository {
    serde_json::from_value(json!({
        "apiVersion": "remora.dev/v1alpha1", "kind": "Repository", "metadata": {"name": "offsite"},
        "spec": {"url": "s3://b/p", "passphraseSecret": {"name": "p"}, "allowedNamespaces": allowed},
        "status": {
            "repositoryId": "00112233445566778899aabbccddeeff",
            "conditions": [{
                "type": "Ready", "status": status, "reason": "R", "message": "m",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
        },
    }))
    .unwrap()
}

#[test]
fn a_repository_serves_its_own_namespace_and_of_the_administrators_those_that_it_lists() {
    let ready = |facts: &RepositoryFacts| matches!(facts, RepositoryFacts::Ready(_));
    let of = |namespace: &str, tenant: &str, allowed: &[&str]| {
        repository_facts(Some(&repository(allowed, "True")), "remora", namespace, tenant)
    };
    assert!(ready(&of("shop", "shop", &[])));
    assert!(ready(&of("remora", "shop", &["bank", "shop"])));
    assert!(ready(&of("remora", "remora", &[])));
    for (namespace, tenant, allowed) in [
        ("remora", "shop", &[][..]),
        ("remora", "shop", &["bank"]),
        ("bank", "shop", &["shop"]),
        ("bank", "remora", &[]),
    ] {
        assert_eq!(of(namespace, tenant, allowed), RepositoryFacts::NotAllowed, "{namespace} {tenant} {allowed:?}");
    }
    // Nobody learns which repositories others have.
    let none = |namespace: &str| repository_facts(None, "remora", namespace, "shop");
    assert_eq!(none("shop"), RepositoryFacts::Missing);
    assert_eq!((none("remora"), none("bank")), (RepositoryFacts::NotAllowed, RepositoryFacts::NotAllowed));
    let broken = repository_facts(Some(&repository(&[], "False")), "remora", "shop", "shop");
    assert_eq!(broken, RepositoryFacts::NotReady("m".into()));
}

#[test]
fn an_agent_that_crashes_over_and_over_is_none() {
    let pod = |phase: &str, leaving: Option<&str>, state: serde_json::Value| -> Pod {
        let container =
            json!({"name": "agent", "image": "i", "imageID": "", "ready": false, "restartCount": 7, "state": state});
        serde_json::from_value(json!({
            "metadata": {"name": "agent", "deletionTimestamp": leaving},
            "status": {"phase": phase, "containerStatuses": [container]},
        }))
        .unwrap()
    };
    let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
    assert!(works(&pod("Running", None, json!({"running": {}}))));
    // It is started anew, at once.
    assert!(works(&pod("Running", None, json!({"terminated": {"exitCode": 1}}))));
    assert!(!works(&pod("Running", None, waiting("CrashLoopBackOff"))));
    assert!(!works(&pod("Pending", None, waiting("ContainerCreating"))));
    assert!(!works(&pod("Running", Some("2026-01-01T00:00:00Z"), json!({"running": {}}))));
    let untold: Pod = serde_json::from_value(json!({"status": {"phase": "Running"}})).unwrap();
    assert!(works(&untold), "nothing speaks against it");
}

fn backup(name: &str, source: (&str, &str), of_run: Option<&str>, condition: Option<&str>) -> VirtualMachineBackup {
    let mut object = json!({
        "apiVersion": "backup.kubevirt.io/v1alpha1", "kind": "VirtualMachineBackup",
        "metadata": {"name": name}, "spec": {"source": {"kind": source.0, "name": source.1}},
    });
    if let Some(uid) = of_run {
        object["metadata"]["labels"] = json!({RUN_LABEL: uid});
        object["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "remora.dev/v1alpha1", "kind": "BackupRun", "name": "r", "uid": uid}]);
    }
    if let Some(condition) = condition {
        object["status"] = json!({"conditions": [{"type": condition, "status": "True"}]});
    }
    serde_json::from_value(object).unwrap()
}

#[test]
fn backups_of_the_machine_through_any_tracker_are_seen_and_those_that_ended_are_not() {
    let tracker = |name: &str, machine: &str| -> VirtualMachineBackupTracker {
        serde_json::from_value(json!({
            "apiVersion": "backup.kubevirt.io/v1alpha1", "kind": "VirtualMachineBackupTracker",
            "metadata": {"name": name}, "spec": {"source": {"kind": "VirtualMachine", "name": machine}},
        }))
        .unwrap()
    };
    let trackers = [tracker("of-web", "web"), tracker("of-db", "db")];
    let through = "VirtualMachineBackupTracker";
    let backups = [
        backup("direct", ("VirtualMachine", "web"), None, None),
        backup("tracked", (through, "of-web"), None, Some("Progressing")),
        backup("of-another-run", (through, "of-web"), Some("other"), None),
        backup("ours", (through, "of-web"), Some("run-uid"), None),
        backup("done", (through, "of-web"), None, Some("Complete")),
        backup("done-in-1.8", (through, "of-web"), None, Some("Done")),
        backup("failed", (through, "of-web"), None, Some("Failed")),
        backup("of-another-machine", ("VirtualMachine", "db"), None, None),
        backup("tracked-elsewhere", (through, "of-db"), None, None),
        backup("of-no-tracker", (through, "gone"), None, None),
    ];
    let found = foreign(&crate::controller::testing::run("web"), "run-uid", &backups, &trackers);
    let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["direct", "tracked", "of-another-run"]);
    // Whose machine it is, is not looked at for what runs of ours have made, nor for what has ended.
    let others = backups.iter().filter(|backup| is_somebody_else_s(backup)).map(ResourceExt::name_any);
    let theirs = ["direct", "tracked", "of-another-machine", "tracked-elsewhere", "of-no-tracker"];
    assert_eq!(others.collect::<Vec<_>>(), theirs);
}

#[test]
fn what_has_our_names_is_told_apart() {
    let metadata = |backup: VirtualMachineBackup| backup.metadata;
    let ours = metadata(backup("n", ("VirtualMachine", "web"), Some("run-uid"), None));
    let others = metadata(backup("n", ("VirtualMachine", "web"), Some("other"), None));
    let theirs = metadata(backup("n", ("VirtualMachine", "web"), None, None));
    assert_eq!(taken(Some(&ours), "run-uid"), Taken::Ours { leaving: false });
    assert_eq!(taken(Some(&others), "run-uid"), Taken::OfRun("r".into()));
    assert_eq!(taken(Some(&theirs), "run-uid"), Taken::Foreign);
    assert_eq!(taken(None, "run-uid"), Taken::Free);
}

#[test]
fn a_backup_with_our_marks_that_goes_through_another_tracker_is_not_ours() {
    let through = |tracker: &str| {
        let mut backup = backup("n", ("VirtualMachineBackupTracker", tracker), Some("run-uid"), None);
        backup.spec.source.api_group = Some("backup.kubevirt.io".into());
        backup.spec.mode = Some("Pull".into());
        backup
    };
    let ours = Taken::Ours { leaving: false };
    assert_eq!(backup_taken(&through("ours"), Some("ours"), "run-uid"), ours);
    assert_eq!(backup_taken(&through("theirs"), Some("ours"), "run-uid"), Taken::Foreign);
    // While the repository is away nobody knows the tracker's name.
    assert_eq!(backup_taken(&through("theirs"), None, "run-uid"), ours);
}
