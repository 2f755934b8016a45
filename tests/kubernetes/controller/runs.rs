//! From the assignment of a run to its end.

use remora_tests::wait_until;
use serde_json::{Value, json};

use super::cluster::{Run, SOON, Shop, attempt};

/// Waits until all that was made for runs is gone, playing who takes the protection of claims off.
fn waits_until_nothing_is_left(shop: &Shop) {
    wait_until(format_args!("what was made stays: {:?}", shop.made()), SOON, || {
        unprotect(shop);
        shop.made().is_empty()
    });
}

/// Claims are kept by Kubernetes until no pod uses them: here none ever does.
fn unprotect(shop: &Shop) {
    let list = shop.core("persistentvolumeclaims");
    for name in shop.names(&list).into_iter().filter(|name| name.starts_with("remora-")) {
        shop.cluster.api.merge(&format!("{list}/{name}"), &json!({"metadata": {"finalizers": null}}));
    }
}

fn backup_path(shop: &Shop, name: &str) -> String {
    format!("{}/{name}", shop.list("backup.kubevirt.io/v1alpha1", "virtualmachinebackups"))
}

fn backup(shop: &Shop, name: &str) -> Value {
    shop.cluster.api.get(&backup_path(shop, name))
}

/// A run whose attempt is prepared, and whose backup stays, for KubeVirt lets go of it only once it has written into the tracker.
struct Protected<'shop> {
    run: Run<'shop>,
    backup: String,
    tracker: String,
}

fn prepared_with_a_finalizer(shop: &Shop) -> Protected<'_> {
    let run = shop.run("run", &json!({}));
    run.claim();
    let name = run.wants(1);
    run.waits_for("Prepared", "Prepared");
    let finalizers = json!({"metadata": {"finalizers": ["backup.kubevirt.io/vmbackup-protection"]}});
    shop.cluster.api.merge(&backup_path(shop, &name), &finalizers).ok();
    let tracker = backup(shop, &name)["spec"]["source"]["name"].as_str().unwrap().to_owned();
    Protected { run, backup: name, tracker }
}

fn waits_until_gone(run: &Run<'_>) {
    wait_until(format_args!("{} does not go", run.path()), SOON, || run.shop.cluster.api.look(&run.path()).code == 404);
}

#[test]
pub(super) fn what_an_attempt_wants_is_made_and_removed_and_the_run_goes_when_it_is_deleted() {
    let shop = Shop::open();
    let run = shop.run("first", &json!({}));
    run.claim();
    assert_eq!(run.get()["status"]["node"], "one");
    let name = run.wants(1);
    run.waits_for("Prepared", "Prepared");
    assert_eq!(run.get()["status"]["preparedAttempt"], 1);

    let made = backup(&shop, &name);
    let spec = &made["spec"];
    assert_eq!(
        (&spec["mode"], &spec["forceFullBackup"], &spec["skipQuiesce"]),
        (&json!("Pull"), &json!(false), &json!(false))
    );
    let time: u64 = spec["ttlDuration"].as_str().unwrap().trim_end_matches('s').parse().unwrap();
    assert!(time > 4 * 3600, "{time}");
    let claim =
        shop.cluster.api.get(&format!("{}/{}", shop.core("persistentvolumeclaims"), spec["pvcName"].as_str().unwrap()));
    let size: u64 =
        claim["spec"]["resources"]["requests"]["storage"].as_str().unwrap().trim_end_matches("Mi").parse().unwrap();
    assert!(size > 1024, "{claim:#}");
    assert_eq!(claim["spec"]["volumeMode"], "Filesystem");
    let token = shop.cluster.api.get(&format!("{}/{}", shop.core("secrets"), spec["tokenSecretRef"].as_str().unwrap()));
    assert!(token["data"]["token"].as_str().is_some_and(|token| token.len() > 30));
    let trackers = shop.list("backup.kubevirt.io/v1alpha1", "virtualmachinebackuptrackers");
    let tracker = shop.cluster.api.get(&format!("{trackers}/{}", spec["source"]["name"].as_str().unwrap()));
    assert_eq!(tracker["spec"]["source"]["name"], "web");
    assert_eq!(tracker["metadata"]["ownerReferences"][0]["kind"], "VirtualMachine");

    // An increment cannot be had: another attempt, for which the first one goes.
    let second = run.wants(2);
    wait_until("the second attempt is not made", SOON, || {
        unprotect(&shop);
        run.get()["status"]["preparedAttempt"] == 2 && run.says("Prepared")["status"] == "True"
    });
    assert_eq!(backup(&shop, &second)["spec"]["forceFullBackup"], true);
    assert!(!shop.made().contains(&name));

    run.write("one", &json!({"attempt": attempt(2, &second, "Ended")})).ok();
    waits_until_nothing_is_left(&shop);
    run.end("Complete");
    wait_until("the finalizer stays", SOON, || run.get()["metadata"]["finalizers"].is_null());
    assert_eq!(shop.names(&trackers).len(), 1, "the tracker is for the next run");
    shop.cluster.api.delete(&run.path()).ok();
    waits_until_gone(&run);
}

#[test]
fn a_backup_whose_tracker_went_with_its_machine_is_given_another_for_its_end() {
    let shop = Shop::open();
    let api = &shop.cluster.api;
    let Protected { run, backup: name, tracker } = prepared_with_a_finalizer(&shop);
    let uid = backup(&shop, &name)["metadata"]["uid"].clone();
    let tracker = format!("{}/{tracker}", shop.list("backup.kubevirt.io/v1alpha1", "virtualmachinebackuptrackers"));
    api.delete(&tracker).ok();
    api.delete(&format!("{}/web", shop.list("kubevirt.io/v1", "virtualmachines"))).ok();
    run.write("one", &json!({"attempt": attempt(1, &name, "Ended")})).ok();

    wait_until("it gets no tracker", SOON, || api.look(&tracker).code == 200);
    assert_eq!(api.get(&tracker)["metadata"]["ownerReferences"][0]["uid"], uid, "it is to go with the backup");
    assert_eq!(api.get(&tracker)["spec"]["source"]["name"], "web");
    api.merge(&backup_path(&shop, &name), &json!({"metadata": {"finalizers": null}})).ok();
    waits_until_nothing_is_left(&shop);
}

#[test]
pub(super) fn a_namespace_that_is_deleted_in_the_middle_of_a_backup_is_kept_by_nothing() {
    let shop = Shop::open();
    let api = &shop.cluster.api;
    let Protected { run, backup: name, tracker } = prepared_with_a_finalizer(&shop);
    // Nobody but this test removes what is in it, in an order that leaves the backup without its tracker.
    api.delete(&format!("/api/v1/namespaces/{}", shop.namespace)).ok();
    for (group, plural, name) in [
        ("backup.kubevirt.io/v1alpha1", "virtualmachinebackuptrackers", tracker.as_str()),
        ("backup.kubevirt.io/v1alpha1", "virtualmachinebackups", &name),
        ("kubevirt.io/v1", "virtualmachines", "web"),
        ("kubevirt.io/v1", "virtualmachineinstances", "web"),
        ("remora.dev/v1alpha1", "backupruns", "run"),
    ] {
        api.delete(&format!("{}/{name}", shop.list(group, plural))).ok();
    }
    run.write("one", &json!({"attempt": attempt(1, &name, "Ended")})).ok();
    run.end("Failed");
    waits_until_nothing_is_left(&shop);
    waits_until_gone(&run);
}

#[test]
fn of_two_runs_of_a_machine_one_is_first_and_the_other_follows() {
    let shop = Shop::open();
    let first = shop.run("first", &json!({}));
    first.claim();
    let second = shop.run("a-second", &json!({}));
    assert!(second.waits_for("Assigned", "WaitingForRun").contains("BackupRun first "));
    first.end("Failed");
    second.waits_for("Assigned", "Assigned");
}

/// Somebody else's backup of the machine, in flight.
fn foreign_backup(shop: &Shop, name: &str) {
    let source = json!({"apiGroup": "kubevirt.io", "kind": "VirtualMachine", "name": "web"});
    let metadata = json!({"name": name});
    let foreign = json!({
        "apiVersion": "backup.kubevirt.io/v1alpha1", "kind": "VirtualMachineBackup", "metadata": metadata,
        "spec": {"source": source, "pvcName": "somewhere"},
    });
    let backups = shop.list("backup.kubevirt.io/v1alpha1", "virtualmachinebackups");
    shop.cluster.api.create(&backups, &foreign).ok();
}

/// What KubeVirt says at its end.
fn completes(shop: &Shop, name: &str) {
    let since = "2026-01-01T00:00:00Z";
    let complete = json!([{"type": "Complete", "status": "True", "reason": "Completed", "message": "", "lastTransitionTime": since}]);
    let backups = shop.list("backup.kubevirt.io/v1alpha1", "virtualmachinebackups");
    shop.cluster.api.merge(&format!("{backups}/{name}/status"), &json!({"status": {"conditions": complete}})).ok();
}

#[test]
fn a_foreign_backup_in_flight_is_waited_for_and_left_alone() {
    let shop = Shop::open();
    let backups = shop.list("backup.kubevirt.io/v1alpha1", "virtualmachinebackups");
    // No agent has it while it can only wait.
    foreign_backup(&shop, "theirs");
    let run = shop.run("run", &json!({}));
    let message = run.waits_for("Assigned", "WaitingForBackup");
    assert!(message.contains("theirs") && run.says("Assigned")["status"] == "False", "{message}");
    assert_eq!(run.get()["status"]["node"], Value::Null);
    completes(&shop, "theirs");
    run.claim();

    // Somebody was faster than the agent.
    foreign_backup(&shop, "others");
    let name = run.wants(1);
    let message = run.waits_for("Prepared", "WaitingForBackup");
    assert!(message.contains("others") && run.says("Prepared")["status"] == "Unknown", "{message}");
    assert_eq!(shop.names(&backups), ["others", "theirs"]);
    completes(&shop, "others");
    run.waits_for("Prepared", "Prepared");
    let mut names = shop.names(&backups);
    names.sort_by_key(|one| *one != name);
    assert_eq!(names, [name.as_str(), "others", "theirs"]);
}

#[test]
fn a_run_that_is_given_back_because_it_waits_is_on_no_node_until_it_can_begin() {
    let shop = Shop::open();
    let run = shop.run("run", &json!({}));
    run.claim();
    // Somebody was faster than the agent.
    foreign_backup(&shop, "theirs");
    let name = run.wants(1);
    run.waits_for("Prepared", "WaitingForBackup");
    run.write("one", &json!({"agent": null, "attempt": attempt(1, &name, "Ended")})).ok();
    assert!(run.waits_for("Assigned", "WaitingForBackup").contains("theirs"));
    assert_eq!(run.get()["status"]["node"], Value::Null);
    completes(&shop, "theirs");
    run.claim();
    assert_eq!(run.get()["status"]["node"], "one");
}

#[test]
fn names_that_somebody_else_has_are_told_and_what_has_them_stays() {
    let shop = Shop::open();
    let run = shop.run("run", &json!({}));
    run.claim();
    let name = run.backup_name(1);
    let backups = shop.list("backup.kubevirt.io/v1alpha1", "virtualmachinebackups");
    // It wears the label of the run, too.
    let labels = json!({"remora.dev/run": run.get()["metadata"]["uid"]});
    let source = json!({"apiGroup": "kubevirt.io", "kind": "VirtualMachine", "name": "db"});
    let metadata = json!({"name": name, "labels": labels});
    let theirs = json!({
        "apiVersion": "backup.kubevirt.io/v1alpha1", "kind": "VirtualMachineBackup", "metadata": metadata,
        "spec": {"source": source, "pvcName": "somewhere"},
    });
    shop.cluster.api.create(&backups, &theirs).ok();
    run.wants(1);
    let message = run.waits_for("Prepared", "NameTaken");
    for words in [&*name, "Delete or rename it", "create another BackupRun"] {
        assert!(message.contains(words), "wanted {words:?} in {message:?}");
    }
    assert_eq!(run.says("Prepared")["status"], "False");
    shop.tells("BackupRun", "run", "NameTaken");
    run.end("Failed");
    wait_until("the finalizer stays", SOON, || run.get()["metadata"]["finalizers"].is_null());
    assert_eq!(shop.made(), [name], "nothing half-made is left, and theirs stays");
}

#[test]
fn a_forged_name_of_an_attempt_has_nothing_made_or_removed() {
    let shop = Shop::open();
    let run = shop.run("run", &json!({}));
    run.claim();
    run.write("one", &json!({"attempt": attempt(1, "kube-root-ca", "Wanted")})).ok();
    run.waits_for("Prepared", "BadAttempt");
    assert!(shop.made().is_empty());
}

#[test]
fn a_run_that_nobody_has_claimed_is_cancelled_and_is_late_by_itself() {
    let shop = Shop::open();
    shop.change_instance(&json!({"status": {"phase": "Succeeded"}}));
    let cancelled = shop.run("cancelled", &json!({}));
    cancelled.waits_for("Assigned", "NotRunning");
    shop.cluster.api.merge(&cancelled.path(), &json!({"spec": {"cancel": true}})).ok();
    cancelled.waits_for("Failed", "Cancelled");
    let late = shop.run("late", &json!({"deadline": "1s"}));
    let message = late.waits_for("Failed", "DeadlineExceeded");
    assert!(message.contains("within 1s"), "{message}");
    assert_eq!(late.says("Complete")["status"], "False");
    shop.tells("BackupRun", "late", "DeadlineExceeded");
    let deleted = shop.run("deleted", &json!({}));
    deleted.waits_for("Assigned", "NotRunning");
    shop.cluster.api.delete(&deleted.path()).ok();
    waits_until_gone(&deleted);
}

/// Each of what an attempt wants, refused by a quota of the namespace that is used up.
#[test]
fn what_the_cluster_refuses_of_an_attempt_is_told_and_nothing_half_made_is_left() {
    for (refused, reason) in [
        ("virtualmachinebackuptrackers.backup.kubevirt.io", "TrackerRefused"),
        ("persistentvolumeclaims", "ScratchRefused"),
        ("secrets", "TokenRefused"),
        ("virtualmachinebackups.backup.kubevirt.io", "BackupRefused"),
    ] {
        let shop = Shop::open();
        shop.uses_up(refused);
        let run = shop.run("run", &json!({}));
        run.claim();
        run.wants(1);
        let message = run.waits_for("Prepared", reason);
        assert!(message.contains("quota") && message.contains("create another BackupRun"), "{message}");
        assert_eq!(run.says("Prepared")["status"], "False", "{reason}");
        shop.tells("BackupRun", "run", reason);
        run.end("Failed");
        waits_until_nothing_is_left(&shop);
        wait_until("the finalizer stays", SOON, || run.get()["metadata"]["finalizers"].is_null());
    }
}

#[test]
pub(super) fn a_tracker_of_an_earlier_machine_is_made_anew() {
    let shop = Shop::open();
    let first = shop.run("first", &json!({}));
    first.claim();
    let name = first.wants(1);
    first.waits_for("Prepared", "Prepared");
    let trackers = shop.list("backup.kubevirt.io/v1alpha1", "virtualmachinebackuptrackers");
    let tracker = || shop.cluster.api.get(&trackers)["items"][0]["metadata"].clone();
    let earlier = tracker();
    first.write("one", &json!({"attempt": attempt(1, &name, "Ended")})).ok();
    waits_until_nothing_is_left(&shop);
    first.end("Complete");
    wait_until("the finalizer stays", SOON, || first.get()["metadata"]["finalizers"].is_null());

    // Another machine takes its name. Nobody collects what was the first one's.
    for plural in ["virtualmachineinstances", "virtualmachines"] {
        shop.cluster.api.delete(&format!("{}/web", shop.list("kubevirt.io/v1", plural))).ok();
    }
    shop.machine(&json!({}));
    let second = shop.run("second", &json!({}));
    second.claim();
    second.wants(1);
    second.waits_for("Prepared", "Prepared");
    assert_eq!(tracker()["name"], earlier["name"]);
    assert_ne!(tracker()["uid"], earlier["uid"]);
}
