//! `RestoreRun`.

use serde_json::{Value, json};

use crate::{Resources, with};

fn runs() -> Resources {
    Resources::new("RestoreRun", "restoreruns")
}

fn spec() -> Value {
    json!({"point": "0011223344556677-1", "repository": {"name": "offsite"}, "disks": [{"disk": "root", "claim": "copy"}]})
}

#[test]
fn a_restore_has_one_target() {
    let runs = runs();
    let machine = json!({"name": "copy"});
    for fields in [json!({"disks": null}), json!({"disks": []}), json!({"virtualMachine": machine})] {
        runs.refuses(&with(spec(), &fields), "name either disks or virtualMachine as the target");
    }
    runs.create("disks", &spec()).ok();
    runs.create("machine", &with(spec(), &json!({"disks": null, "virtualMachine": machine}))).ok();
    let made = json!({"name": "copy", "keepIdentity": false, "start": false, "storageClassName": ""});
    assert_eq!(runs.spec("machine")["virtualMachine"], made);
}

#[test]
fn no_two_disks_go_to_one_claim_and_no_disk_to_two() {
    let runs = runs();
    let disks =
        |disks: [[&str; 2]; 3]| json!({"disks": disks.map(|[disk, claim]| json!({"disk": disk, "claim": claim}))});
    let one_claim = disks([["root", "a"], ["data", "b"], ["logs", "a"]]);
    runs.refuses(&with(spec(), &one_claim), "each disk needs a claim of its own");
    let one_disk = disks([["root", "a"], ["data", "b"], ["root", "c"]]);
    runs.refuses(&with(spec(), &one_disk), "Duplicate value");
    runs.create("three", &with(spec(), &disks([["root", "a"], ["data", "b"], ["logs", "c"]]))).ok();
}

#[test]
fn a_restore_stays_what_it_was_created_as_and_stays_cancelled() {
    let runs = runs();
    runs.create("disks", &spec()).ok();
    runs.create("machine", &with(spec(), &json!({"disks": null, "virtualMachine": {"name": "copy"}}))).ok();
    let words = "only cancel can be changed: create another RestoreRun";
    for fields in [
        json!({"point": "0011223344556677-2"}),
        json!({"repository": {"name": "other"}}),
        json!({"disks": [{"disk": "root", "claim": "other"}]}),
        json!({"disks": [{"disk": "root", "claim": "copy"}, {"disk": "data", "claim": "other"}]}),
        json!({"disks": null, "virtualMachine": {"name": "copy"}}),
    ] {
        runs.refuses_change("disks", &fields, words);
    }
    for fields in [
        json!({"virtualMachine": {"name": "other"}}),
        json!({"virtualMachine": {"start": true}}),
        json!({"virtualMachine": null, "disks": [{"disk": "root", "claim": "copy"}]}),
    ] {
        runs.refuses_change("machine", &fields, words);
    }
    runs.change("disks", &json!({"cancel": true})).ok();
    let words = "a cancelled run stays cancelled: create another RestoreRun";
    runs.refuses_change("disks", &json!({"cancel": false}), words);
}

#[test]
fn what_is_missing_is_named() {
    let runs = runs();
    for (fields, words) in [
        (json!({"point": null}), "spec.point: Required value"),
        (json!({"repository": null}), "spec.repository: Required value"),
        (json!({"disks": [{"disk": "root"}]}), "spec.disks[0].claim: Required value"),
        (json!({"disks": [{"claim": "copy"}]}), "spec.disks[0].disk: Required value"),
        (json!({"disks": null, "virtualMachine": {}}), "spec.virtualMachine.name: Required value"),
        (json!({"disks": [{"disk": "root", "claim": "copy", "size": 1}]}), r#"unknown field "spec.disks[0].size""#),
    ] {
        runs.refuses(&with(spec(), &fields), words);
    }
}
