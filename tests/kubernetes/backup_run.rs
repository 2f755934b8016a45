//! `BackupRun`.

use serde_json::{Value, json};

use crate::{Resources, with};

fn runs() -> Resources {
    Resources::new("BackupRun", "backupruns")
}

fn spec() -> Value {
    json!({"virtualMachine": "web", "repository": {"name": "offsite"}})
}

#[test]
fn what_is_left_out_or_null_has_its_default() {
    let runs = runs();
    runs.create("plain", &spec()).ok();
    let nulls = json!({"mode": null, "cancel": null, "scratch": null, "verify": null});
    let mut of_nulls = spec();
    of_nulls.as_object_mut().unwrap().extend(nulls.as_object().unwrap().clone());
    of_nulls["repository"]["namespace"] = Value::Null;
    runs.create("nulls", &of_nulls).ok();
    for name in ["plain", "nulls"] {
        let stored = runs.spec(name);
        let defaults = json!({
            "virtualMachine": "web",
            "repository": {"name": "offsite"},
            "mode": "Auto",
            "quiesce": "Preferred",
            "scratch": {"storageClassName": ""},
            "deadline": "4h",
            "verify": "None",
            "cancel": false,
        });
        assert_eq!(stored, defaults, "{name}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_its_field() {
    let runs = runs();
    for (fields, words) in [
        (
            json!({"mode": "Some"}),
            r#"spec.mode: Unsupported value: "Some": supported values: "Auto", "Reread", "Full""#,
        ),
        (json!({"quiesce": "Perhaps"}), r#"supported values: "Preferred", "Required", "Never""#),
        (json!({"verify": "5%"}), r#"supported values: "None", "Structure", "All""#),
        (json!({"deadline": "soon"}), "spec.deadline in body should match"),
        (json!({"deadline": "1d"}), "spec.deadline in body should match"),
        (json!({"deadline": "1h".repeat(17)}), "spec.deadline: Too long"),
        (json!({"deadline": "72h1s"}), "a run has 72h at the most"),
        (json!({"deadline": "1h4261m"}), "a run has 72h at the most"),
        (json!({"deadline": "99999h".repeat(5)}), "a run has 72h at the most"),
        (json!({"virtualMachine": ""}), "spec.virtualMachine in body should be at least 1 chars long"),
        (json!({"virtualMachine": "my vm"}), "spec.virtualMachine in body should match"),
        (json!({"virtualMachine": "a/b"}), "spec.virtualMachine in body should match"),
        (json!({"virtualMachine": "web?x"}), "spec.virtualMachine in body should match"),
        (json!({"repository": {"name": "a,b"}}), "spec.repository.name in body should match"),
        (json!({"repository": {"name": "a", "namespace": "b/c"}}), "spec.repository.namespace in body should match"),
        (json!({"virtualMachine": null}), "spec.virtualMachine: Required value"),
        (json!({"repository": null}), "spec.repository: Required value"),
        (json!({"repository": {}}), "spec.repository.name: Required value"),
        (json!({"cancel": "yes"}), "spec.cancel"),
        (json!({"virtualMachin": "web"}), r#"unknown field "spec.virtualMachin""#),
    ] {
        runs.refuses(&with(spec(), &fields), words);
    }
}

#[test]
fn a_deadline_is_any_sum_up_to_three_days() {
    let runs = runs();
    for (number, deadline) in ["0s", "90m", "1h1h30m5s", "72h", "71h60m", "99999s"].iter().enumerate() {
        runs.create(&format!("run-{number}"), &with(spec(), &json!({"deadline": deadline}))).ok();
    }
}

#[test]
fn a_run_stays_what_it_was_created_as() {
    let runs = runs();
    runs.create("run", &with(spec(), &json!({"mode": "Reread"}))).ok();
    for fields in [
        json!({"virtualMachine": "db"}),
        json!({"repository": {"name": "other"}}),
        json!({"repository": {"namespace": "remora"}}),
        json!({"mode": "Full"}),
        json!({"mode": null}),
        json!({"quiesce": "Never"}),
        json!({"scratch": {"storageClassName": "fast"}}),
        json!({"deadline": "5h"}),
        json!({"verify": "All"}),
    ] {
        runs.refuses_change("run", &fields, "only cancel can be changed: create another BackupRun");
    }
}

#[test]
fn a_cancelled_run_stays_cancelled() {
    let runs = runs();
    runs.create("run", &spec()).ok();
    runs.change("run", &json!({"cancel": true})).ok();
    for cancel in [json!(false), Value::Null] {
        let words = "a cancelled run stays cancelled: create another BackupRun";
        runs.refuses_change("run", &json!({"cancel": cancel}), words);
    }
}

#[test]
fn the_runs_that_ask_for_a_verification_are_found() {
    let runs = runs();
    runs.create("says-nothing", &spec()).ok();
    for verify in ["None", "Structure", "All"] {
        runs.create(&verify.to_lowercase(), &with(spec(), &json!({"verify": verify}))).ok();
    }
    let found = runs.api.get(&format!("{}?fieldSelector=spec.verify!=None", runs.list));
    let mut names: Vec<_> =
        found["items"].as_array().unwrap().iter().map(|run| run["metadata"]["name"].clone()).collect();
    names.sort_by_key(ToString::to_string);
    assert_eq!(names, ["all", "structure"]);
}

#[test]
fn the_runs_of_one_machine_are_found_by_its_name() {
    let runs = runs();
    for (name, machine) in [("one", "web"), ("two", "db"), ("three", "web")] {
        runs.create(name, &with(spec(), &json!({"virtualMachine": machine}))).ok();
    }
    let found = runs.api.get(&format!("{}?fieldSelector=spec.virtualMachine=web", runs.list));
    let mut names: Vec<_> =
        found["items"].as_array().unwrap().iter().map(|run| run["metadata"]["name"].clone()).collect();
    names.sort_by_key(ToString::to_string);
    assert_eq!(names, ["one", "three"]);
}
