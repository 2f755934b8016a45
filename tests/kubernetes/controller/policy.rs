//! What an agent may not write, and the controller neither.

use remora_tests::wait_until;
use serde_json::{Value, json};

use super::cluster::{Cluster, SOON, Shop, attempt};
use crate::says;

#[test]
fn an_agent_writes_the_status_of_its_own_node_s_runs_and_nothing_of_the_controller_s() {
    let shop = Shop::open();
    let run = shop.run("run", &json!({}));
    run.waits_for("Assigned", "Assigned");
    // Policies are in force a moment after they are applied.
    wait_until("the policy is not in force", SOON, || run.write("two", &json!({"heartbeat": 0})).code == 422);

    says(&run.write("two", &json!({"heartbeat": 1})).refused(), "the runs of its own node only");
    says(&run.write("one", &json!({"node": "two"})).refused(), "which node has a run is the controller's");
    says(&run.write("one", &json!({"preparedAttempt": 1})).refused(), "preparedAttempt is the controller's");
    let mut conditions = run.get()["status"]["conditions"].as_array().unwrap().clone();
    conditions[0]["reason"] = json!("Forged");
    says(&run.write("one", &json!({"conditions": conditions})).refused(), "the conditions Assigned and Prepared");
    says(&run.write("one", &json!({"conditions": []})).refused(), "the conditions Assigned and Prepared");
    run.write("one", &json!({"agent": shop.cluster.agent_uid("one"), "heartbeat": 1})).ok();

    // A token of no pod has no node.
    let api = &shop.cluster.api;
    let nowhere = api.token("remora", "remora-agent", None, None);
    let status = format!("{}/status", run.path());
    says(&api.merge_as(&nowhere, &status, &json!({"status": {"heartbeat": 2}})).refused(), "its own node only");
    let agent = shop.cluster.agent("one", None);
    says(&api.merge_as(&agent, &run.path(), &json!({"spec": {"cancel": true}})).refused(), "the status of runs only");
    says(
        &api.merge_as(&agent, &run.path(), &json!({"metadata": {"finalizers": null}})).refused(),
        "the status of runs only",
    );
    says(&api.delete_as(&agent, &run.path()).refused(), "the status of runs only");
}

/// What a stolen node says of another one, administrators would believe.
#[test]
fn an_agent_tells_of_its_own_node_and_of_no_other() {
    let cluster = Cluster::shared();
    let (api, list) = (&cluster.api, "/apis/remora.dev/v1alpha1/agentnodes");
    let node = |name: &str| json!({"apiVersion": "remora.dev/v1alpha1", "kind": "AgentNode", "metadata": {"name": name}, "spec": {}});
    let (of_one, nowhere) = (cluster.agent("one", None), api.token("remora", "remora-agent", None, None));
    // Policies are in force a moment after they are applied.
    let dry = format!("{list}?dryRun=All");
    wait_until("the policy is not in force", SOON, || api.create_as(&of_one, &dry, &node("early")).code == 422);

    let words = "an agent writes the AgentNode of its own node only";
    says(&api.create_as(&of_one, list, &node("two")).refused(), words);
    says(&api.create_as(&nowhere, list, &node("one")).refused(), words);
    api.create_as(&of_one, list, &node("one")).ok();
    api.create(list, &node("two")).ok();
    let (own, other) = (format!("{list}/one"), format!("{list}/two"));
    let (status, labels) = (json!({"status": {"version": "forged"}}), json!({"metadata": {"labels": {"a": "b"}}}));
    api.merge_as(&of_one, &format!("{own}/status"), &status).ok();
    says(&api.merge_as(&of_one, &format!("{other}/status"), &status).refused(), words);
    says(&api.merge_as(&of_one, &other, &labels).refused(), words);
    says(&api.delete_as(&of_one, &other).refused(), words);
    says(&api.merge_as(&nowhere, &format!("{own}/status"), &status).refused(), words);
    assert_eq!(api.get(&other)["status"], Value::Null);
    for path in [own, other] {
        api.delete(&path).ok();
    }
}

#[test]
fn a_run_that_is_given_to_nobody_is_nobody_s() {
    let shop = Shop::open();
    shop.change_instance(&json!({"status": {"phase": "Succeeded"}}));
    let run = shop.run("run", &json!({}));
    run.waits_for("Assigned", "NotRunning");
    says(&run.write("one", &json!({"agent": "thief"})).refused(), "the runs of its own node only");
    says(&run.write("one", &json!({"agent": "thief", "node": "one"})).refused(), "the runs of its own node only");
}

#[test]
fn an_attempt_does_not_change_and_a_run_that_has_ended_neither() {
    let shop = Shop::open();
    let run = shop.run("run", &json!({}));
    run.claim();
    let name = run.wants(2);
    let change = |attempt: Value| run.write("one", &json!({"attempt": attempt}));
    let words = "an attempt stays what it was";
    says(&change(attempt(1, &run.backup_name(1), "Wanted")).refused(), words);
    says(&change(attempt(2, &run.backup_name(3), "Wanted")).refused(), words);
    says(&change(Value::Null).refused(), words);
    change(attempt(2, &name, "Ended")).ok();
    says(&change(attempt(2, &name, "Wanted")).refused(), words);
    change(attempt(3, &run.backup_name(3), "Wanted")).ok();
    run.end("Failed");
    says(&run.write("one", &json!({"point": "0011223344556677-1"})).refused(), "a run that has ended stays as it is");
}

#[test]
fn of_a_run_that_has_ended_only_the_verification_that_it_asks_for_is_told() {
    let shop = Shop::open();
    let run = shop.run("run", &json!({"verify": "All"}));
    run.claim();
    let point = |number: u32| json!({"point": format!("0011223344556677-{number}")});
    run.write("one", &point(1)).ok();
    run.end("Complete");
    let said = |status: &str, reason: &str| {
        let mut conditions = run.get()["status"]["conditions"].as_array().unwrap().clone();
        conditions.retain(|one| one["type"] != "Verified");
        let since = "2026-01-01T00:00:00Z";
        conditions.push(json!({"type": "Verified", "status": status, "reason": reason, "message": "m", "lastTransitionTime": since}));
        conditions
    };
    let words = "how a run has ended stays as it is";
    says(&run.write("one", &point(2)).refused(), words);
    let mut of_no_end = said("True", "Sound");
    of_no_end.retain(|one| one["type"] != "Complete");
    says(&run.write("one", &json!({"conditions": of_no_end})).refused(), words);
    let verifying = json!({"conditions": said("Unknown", "Verifying"), "heartbeat": 9, "verifiedPercent": 50});
    run.write("one", &verifying).ok();
    run.write("one", &json!({"conditions": said("Unknown", "Unavailable")})).ok();
    says(
        &run.write("one", &json!({"conditions": said("True", "Sound")})).refused(),
        "a run that has ended stays as it is",
    );
}

#[test]
fn the_controller_claims_no_run_and_changes_none() {
    let shop = Shop::open();
    let run = shop.run("run", &json!({}));
    run.claim();
    let api = &shop.cluster.api;
    let controller = api.token("remora", "remora-controller", None, None);
    let status = format!("{}/status", run.path());
    says(&api.merge_as(&controller, &status, &json!({"status": {"agent": "me"}})).refused(), "who has claimed a run");
    says(&api.merge_as(&controller, &status, &json!({"status": {"point": "p-1"}})).refused(), "which point a run made");
    says(&api.merge_as(&controller, &run.path(), &json!({"spec": {"cancel": true}})).refused(), "is its owner's");
    let secrets = api.merge_as(&controller, &format!("{}/x", shop.core("secrets")), &json!({"data": {}}));
    assert_eq!(secrets.code, 403, "it changes no Secret");
}

#[test]
fn the_controller_makes_and_removes_nothing_but_remora_s() {
    let shop = Shop::open();
    let api = &shop.cluster.api;
    let controller = api.token("remora", "remora-controller", None, None);
    let list = shop.core("secrets");
    let secret = |name: &str, labels: &Value| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "labels": labels}, "stringData": {"a": "b"}});
    let (ours, half) = (json!({"app.kubernetes.io/managed-by": "remora", "remora.dev/run": "uid"}), "remora.dev/run");
    let (managed, of_a_run) = (json!({"app.kubernetes.io/managed-by": "remora"}), json!({half: "uid"}));
    let delete = |path: &str| api.delete_as(&controller, path);
    let make = |list: &str, name: &str, labels: &Value| api.create_as(&controller, list, &secret(name, labels));
    // Policies are in force a moment after they are applied.
    api.create(&list, &secret("early", &json!({}))).ok();
    wait_until("the policy is not in force", SOON, || {
        let dry = format!("{list}/early?dryRun=All");
        delete(&dry).code == 422
    });

    // A tenant's, and what only looks like remora's.
    for (name, labels, words) in [
        ("none", json!({}), "managed by remora"),
        ("managed", managed, "labelled with a run"),
        ("of-a-run", of_a_run, "managed by remora"),
    ] {
        api.create(&list, &secret(name, &labels)).ok();
        says(&delete(&format!("{list}/{name}")).refused(), words);
        says(&make(&list, &format!("{name}-2"), &labels).refused(), words);
    }
    says(&delete(&format!("{}/root", shop.core("persistentvolumeclaims"))).refused(), "managed by remora");
    says(&make(&list, "remora-controller-tls", &json!({})).refused(), "managed by remora");

    make(&list, "ours", &ours).ok();
    delete(&format!("{list}/ours")).ok();

    // Of a backup that goes it may take what holds it, and of no other; whatever labels it brings along.
    let backups = shop.list("backup.kubevirt.io/v1alpha1", "virtualmachinebackups");
    let source = json!({"apiGroup": "kubevirt.io", "kind": "VirtualMachine", "name": "web"});
    let let_go = json!({"metadata": {"labels": ours, "finalizers": null}});
    for (name, labels, words) in [("theirs", json!({}), "managed by remora"), ("stays", ours.clone(), "being deleted")]
    {
        let metadata = json!({"name": name, "labels": labels, "finalizers": ["example.org/holds"]});
        let backup = json!({
            "apiVersion": "backup.kubevirt.io/v1alpha1", "kind": "VirtualMachineBackup", "metadata": metadata,
            "spec": {"source": source, "pvcName": "somewhere"},
        });
        api.create(&backups, &backup).ok();
        says(&api.merge_as(&controller, &format!("{backups}/{name}"), &let_go).refused(), words);
    }
    api.delete(&format!("{backups}/stays")).ok();
    api.merge_as(&controller, &format!("{backups}/stays"), &let_go).ok();
    assert_eq!(api.look(&format!("{backups}/stays")).code, 404);
    // The certificate of its key service, which is there already.
    let own = "/api/v1/namespaces/remora/secrets";
    assert_eq!(make(own, "remora-controller-tls", &json!({})).code, 409);
    says(&delete(&format!("{own}/remora-controller-tls")).refused(), "managed by remora");
}
