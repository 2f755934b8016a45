//! What agents tell.

use serde_json::{Value, json};

use crate::Resources;

fn run() -> Resources {
    let runs = Resources::new("BackupRun", "backupruns");
    runs.create("run", &json!({"virtualMachine": "web", "repository": {"name": "offsite"}})).ok();
    runs
}

fn condition(kind: &str, status: &str, reason: &str) -> Value {
    let since = "2026-01-01T00:00:00Z";
    json!({"type": kind, "status": status, "reason": reason, "message": "m", "lastTransitionTime": since})
}

/// What an owner applies to the status of the run.
fn status(runs: &Resources, status: &Value) -> Value {
    let mut object = runs.object("run", &json!({}));
    object.as_object_mut().unwrap().remove("spec");
    object["status"] = status.clone();
    object
}

#[test]
fn who_may_write_the_spec_cannot_write_the_status_and_the_other_way_round() {
    let runs = run();
    let both = json!({"spec": {"cancel": true}, "status": {"node": "node1"}});
    runs.api.merge(&runs.path("run"), &both).ok();
    assert_eq!(runs.api.get(&runs.path("run"))["status"], Value::Null);
    let both = json!({"spec": {"cancel": false}, "status": {"node": "node1"}});
    runs.api.merge(&format!("{}/status", runs.path("run")), &both).ok();
    let run = runs.api.get(&runs.path("run"));
    assert_eq!((&run["spec"]["cancel"], &run["status"]["node"]), (&json!(true), &json!("node1")));
}

#[test]
fn each_owner_has_conditions_of_its_own() {
    let runs = run();
    let path = format!("{}/status", runs.path("run"));
    let agent = status(&runs, &json!({"conditions": [condition("Complete", "False", "Running")]}));
    runs.api.apply(&path, "agent", &agent.to_string()).ok();
    let controller = status(&runs, &json!({"conditions": [condition("Failed", "True", "NodeLost")]}));
    runs.api.apply(&path, "controller", &controller.to_string()).ok();
    let agent = status(&runs, &json!({"conditions": [condition("Complete", "True", "Stored")]}));
    runs.api.apply(&path, "agent", &agent.to_string()).ok();
    let run = runs.api.get(&runs.path("run"));
    let reasons: Vec<_> = run["status"]["conditions"].as_array().unwrap().iter().map(|one| &one["reason"]).collect();
    assert_eq!(reasons, ["Stored", "NodeLost"]);
}

#[test]
fn a_status_that_makes_no_sense_is_refused() {
    let runs = run();
    let path = format!("{}/status", runs.path("run"));
    for (status, words) in [
        (
            json!({"percent": 101}),
            "status.percent: Invalid value: 101: percent in body should be less than or equal to 100",
        ),
        (
            json!({"percent": -1}),
            "status.percent: Invalid value: -1: percent in body should be greater than or equal to 0",
        ),
        (json!({"startTime": "today"}), "status.startTime"),
        (
            json!({"conditions": [{"type": "Complete", "status": "True"}]}),
            "status.conditions[0].reason: Required value",
        ),
        (json!({"progress": 1}), r#"unknown field "status.progress""#),
    ] {
        let reason = runs.api.merge(&path, &json!({"status": status})).refused();
        crate::says(&reason, words);
    }
}

/// The columns of a list's first row, by name.
fn shown(table: &Value) -> Vec<(String, Value)> {
    let columns = table["columnDefinitions"].as_array().unwrap().iter().map(|column| column["name"].as_str().unwrap());
    columns.map(ToOwned::to_owned).zip(table["rows"][0]["cells"].as_array().unwrap().iter().cloned()).collect()
}

/// That the first row has these columns, and its age after them.
#[track_caller]
fn assert_columns(table: &Value, wanted: &[(&str, Value)]) {
    let shown = shown(table);
    let (age, columns) = shown.split_last().unwrap();
    let columns: Vec<_> = columns.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    assert_eq!(columns, wanted);
    assert_eq!(age.0, "Age");
}

#[test]
fn the_columns_of_a_run_tell_how_it_goes() {
    let runs = run();
    let status = json!({"status": {
        "decision": "incremental",
        "percent": 40,
        "readBytes": 4096,
        "storedBytes": 1024,
        "node": "node1",
        "point": "0011223344556677-1",
        "conditions": [
            condition("Claimed", "True", "Claimed"), condition("Complete", "False", "Running"),
            condition("Verified", "Unknown", "Verifying"),
        ],
    }});
    runs.api.merge(&format!("{}/status", runs.path("run")), &status).ok();
    let wanted = [
        ("Name", json!("run")),
        ("VM", json!("web")),
        ("State", json!("Running")),
        ("Decision", json!("incremental")),
        ("Percent", json!(40)),
        ("Verified", json!("Verifying")),
        ("Read", json!(4096)),
        ("Stored", json!(1024)),
        ("Node", json!("node1")),
        ("Point", json!("0011223344556677-1")),
    ];
    assert_columns(&runs.api.table(&runs.list), &wanted);
}

#[test]
fn the_columns_of_a_repository_and_of_a_restore_tell_how_they_are() {
    let repositories = Resources::new("Repository", "repositories");
    let spec = json!({"url": "s3://bucket/prefix", "passphraseSecret": {"name": "passphrase"}});
    repositories.create("offsite", &spec).ok();
    let status = json!({"url": "s3://bucket/prefix", "conditions": [condition("Ready", "False", "SecretMissing")]});
    repositories.api.merge(&format!("{}/status", repositories.path("offsite")), &json!({"status": status})).ok();
    let wanted = [
        ("Name", json!("offsite")),
        ("Ready", json!("False")),
        ("Reason", json!("SecretMissing")),
        ("URL", json!("s3://bucket/prefix")),
    ];
    assert_columns(&repositories.api.table(&repositories.list), &wanted);

    let restores = Resources::new("RestoreRun", "restoreruns");
    let spec = json!({
        "point": "0011223344556677-1", "repository": {"name": "offsite"}, "disks": [{"disk": "root", "claim": "copy"}],
    });
    restores.create("copy", &spec).ok();
    let status = json!({
        "percent": 40, "writtenBytes": 4096, "node": "node1",
        "conditions": [condition("Assigned", "True", "Assigned"), condition("Complete", "False", "Running")],
    });
    restores.api.merge(&format!("{}/status", restores.path("copy")), &json!({"status": status})).ok();
    let wanted = [
        ("Name", json!("copy")),
        ("Point", json!("0011223344556677-1")),
        ("State", json!("Running")),
        ("Percent", json!(40)),
        ("Written", json!(4096)),
        ("Node", json!("node1")),
    ];
    assert_columns(&restores.api.table(&restores.list), &wanted);
}

/// Which policy is not in force is seen in the list of nodes, however many are.
#[test]
fn the_columns_of_a_node_tell_its_version_and_that_a_policy_is_not_in_force() {
    let (api, list) = (crate::api(), "/apis/remora.dev/v1alpha1/agentnodes");
    let name = format!("columns-{}", fastrand::u32(..));
    let node =
        json!({"apiVersion": "remora.dev/v1alpha1", "kind": "AgentNode", "metadata": {"name": name}, "spec": {}});
    api.create(list, &node).ok();
    let policy = |file: &str, state: &str| json!({"file": file, "desiredDigest": "a1", "generation": 1, "state": state, "since": "2026-01-01T00:00:00Z"});
    let policies = [policy("access.yaml", "Active"), policy("nightly.yaml", "Stale"), policy("weekly.yaml", "Active")];
    let status = json!({"version": "1.2.3", "conditions": [condition("Ready", "True", "Ready")], "policies": policies});
    let path = format!("{list}/{name}");
    api.merge(&format!("{path}/status"), &json!({"status": status})).ok();
    let wanted =
        [("Name", json!(name)), ("Ready", json!("True")), ("Policy", json!("Stale")), ("Version", json!("1.2.3"))];
    assert_columns(&api.table(&path), &wanted);
    api.delete(&path).ok();
}
