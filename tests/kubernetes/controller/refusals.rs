//! What keeps a run from beginning: said, with what to do, where those look who can do it.

use remora_tests::wait_until;
use serde_json::{Value, json};

use super::cluster::{BACKUPS, Cluster, MACHINES, Run, SOON, Shop};

#[test]
pub(super) fn what_keeps_a_run_from_beginning_is_said_and_when_it_is_put_right_the_run_begins() {
    let shop = Shop::open();
    let tracking = |state: &str| json!({"status": {"changedBlockTracking": {"state": state}}});
    shop.change_instance(&json!({"status": {"phase": "Succeeded"}}));
    let run = shop.run("run", &json!({}));
    assert!(run.waits_for("Assigned", "NotRunning").contains("when it is Stopped"));
    let rows: [(Value, &str, &str); 5] = [
        (
            json!({"status": {"phase": "Running", "changedBlockTracking": {"state": "PendingRestart"}}}),
            "TrackingPendingRestart",
            "virtctl restart web",
        ),
        (tracking("IncrementalBackupFeatureGateDisabled"), "FeatureGateDisabled", "IncrementalBackup"),
        (tracking("Disabled"), "TrackingDisabled", "changedBlockTrackingLabelSelectors"),
        (
            json!({"status": {"changedBlockTracking": {"state": "Enabled"}}, "spec": {"volumes": []}}),
            "NoEligibleDisk",
            "DataVolume",
        ),
        (
            json!({"status": {"nodeName": "three"}, "spec": {"volumes": [{"name": "root", "dataVolume": {"name": "root"}}]}}),
            "NoAgent",
            "on node three",
        ),
    ];
    for (fields, reason, words) in rows {
        shop.change_instance(&fields);
        let message = run.waits_for("Assigned", reason);
        assert!(message.contains(words), "wanted {words:?} in {message:?}");
        assert_eq!(run.get()["status"]["node"], Value::Null, "{reason}");
    }
    // It follows the condition, and what was said before it.
    shop.tells("BackupRun", "run", "NoAgent");
    let told = shop.events("BackupRun", "run");
    for reason in ["NotRunning", "TrackingPendingRestart", "FeatureGateDisabled", "TrackingDisabled", "NoEligibleDisk"]
    {
        assert!(told.contains(&reason.to_owned()), "{reason} in {told:?}");
    }
    assert_eq!(shop.made(), [""; 0], "something half-made is left");
    // The machine's owner sees what is hers to do.
    let events = shop.events("VirtualMachine", "web");
    for reason in ["TrackingPendingRestart", "FeatureGateDisabled", "TrackingDisabled", "NoEligibleDisk"] {
        assert!(events.contains(&reason.to_owned()), "{reason} in {events:?}");
    }
    let told = shop.cluster.api.get(&format!("/apis/events.k8s.io/v1/namespaces/{}/events", shop.namespace));
    for (reason, words) in [
        ("TrackingPendingRestart", "virtctl restart web"),
        ("FeatureGateDisabled", "featureGates of the KubeVirt object"),
        ("TrackingDisabled", "changedBlockTrackingLabelSelectors"),
    ] {
        let what_to_do = |event: &Value| {
            (&event["regarding"]["kind"], &event["reason"]) == (&json!("VirtualMachine"), &json!(reason))
                && event["note"].as_str().is_some_and(|note| note.contains(words))
        };
        assert!(told["items"].as_array().unwrap().iter().any(what_to_do), "{reason}: {told:#}");
    }
    assert!(!events.contains(&"NoAgent".to_owned()), "{events:?}");
    shop.change_instance(&json!({"status": {"nodeName": "one"}}));
    run.waits_for("Assigned", "Assigned");
    what_happens_again_is_counted(&shop, &run);
}

/// So often something happens again until it does so within six minutes, after which it is another event: on a machine that is busy
/// enough it may take longer.
const TRIES: u64 = 5;

/// As one event, if it is the very same.
fn what_happens_again_is_counted(shop: &Shop, run: &Run<'_>) {
    let list = format!("/apis/events.k8s.io/v1/namespaces/{}/events", shop.namespace);
    let of_no_agent = || {
        let told = shop.cluster.api.get(&list)["items"].as_array().unwrap().clone();
        let is = |event: &Value| event["reason"] == "NoAgent" && event["regarding"]["name"] == "run";
        told.into_iter().filter(is).collect::<Vec<_>>()
    };
    let counts =
        || of_no_agent().iter().map(|event| event["series"]["count"].as_u64().unwrap_or(1)).collect::<Vec<_>>();
    let counted = (2..2 + TRIES).any(|times| {
        shop.change_instance(&json!({"status": {"nodeName": "three"}}));
        run.waits_for("Assigned", "NoAgent");
        wait_until(format_args!("it is not told: {:#?}", of_no_agent()), SOON, || {
            counts().iter().sum::<u64>() == times
        });
        let counted = counts().contains(&2);
        if !counted {
            shop.change_instance(&json!({"status": {"nodeName": "one"}}));
            run.waits_for("Assigned", "Assigned");
        }
        counted
    });
    assert!(counted, "it is another event each time: {:#?}", of_no_agent());
    let before = of_no_agent().len();
    shop.change_instance(&json!({"status": {"nodeName": "four"}}));
    wait_until(format_args!("another note is no other event: {:#?}", of_no_agent()), SOON, || {
        of_no_agent().len() == before + 1
    });
}

#[test]
fn a_machine_or_a_repository_that_is_missing_is_named() {
    let shop = Shop::open();
    let run = shop.run("no-machine", &json!({"virtualMachine": "db"}));
    let message = run.waits_for("Assigned", "NoMachine");
    assert!(message.contains("VirtualMachine db") && message.contains("create a BackupRun with another"), "{message}");
    shop.tells("BackupRun", "no-machine", "NoMachine");
    let run = shop.run("no-repository", &json!({"repository": {"name": "mine"}}));
    let message = run.waits_for("Assigned", "RepositoryMissing");
    assert!(message.contains("Repository mine") && message.contains("create another run"), "{message}");
    shop.tells("BackupRun", "no-repository", "RepositoryMissing");
    assert_eq!(shop.made(), [""; 0], "something half-made is left");
}

#[test]
fn without_kubevirt_or_with_an_old_one_a_run_says_so_and_begins_when_there_is_one() {
    let cluster = Cluster::without_kubevirt();
    let shop = Shop::without_machine_in(cluster);
    let run = shop.run("run", &json!({}));
    assert!(run.waits_for("Assigned", "NoKubeVirt").contains("Install KubeVirt 1.8"));
    assert_eq!(run.get()["status"]["node"], Value::Null);
    shop.tells("BackupRun", "run", "NoKubeVirt");
    super::restores::without_kubevirt_disks_go_to_claims_and_a_machine_is_refused(&shop);
    cluster.api.define(MACHINES);
    assert!(run.waits_for("Assigned", "KubeVirtTooOld").contains("Update it to 1.8"));
    shop.tells("BackupRun", "run", "KubeVirtTooOld");
    for definition in BACKUPS {
        cluster.api.define(definition);
    }
    shop.furnish();
    run.waits_for("Assigned", "Assigned");
    loses_kubevirt_in_the_middle(&shop, &run);
}

/// What was made for a run is removed though what it was made for is gone.
fn loses_kubevirt_in_the_middle(shop: &Shop, run: &Run<'_>) {
    let api = &shop.cluster.api;
    run.claim();
    run.wants(1);
    run.waits_for("Prepared", "Prepared");
    for kind in [
        "virtualmachinebackups.backup.kubevirt.io",
        "virtualmachinebackuptrackers.backup.kubevirt.io",
        "virtualmachineinstances.kubevirt.io",
        "virtualmachines.kubevirt.io",
    ] {
        api.delete(&format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{kind}")).ok();
    }
    run.waits_for("Prepared", "NoMachine");
    run.end("Failed");
    let left = || {
        let ours = |name: &String| name.starts_with("remora-") && !name.starts_with("remora-worker-");
        let mut left = Vec::new();
        for plural in ["persistentvolumeclaims", "secrets"] {
            let list = shop.core(plural);
            left.extend(shop.names(&list).into_iter().filter(ours).map(|name| format!("{list}/{name}")));
        }
        left
    };
    wait_until(format_args!("what was made stays: {:?}", left()), SOON, || {
        // Claims are kept by Kubernetes until no pod uses them: here none ever does.
        for path in left() {
            api.merge(&path, &json!({"metadata": {"finalizers": null}}));
        }
        run.get()["metadata"]["finalizers"].is_null()
    });
    assert_eq!(left(), [""; 0]);
}

#[test]
fn another_namespace_s_repository_is_refused_and_not_told_of() {
    let (shop, bank) = (Shop::open(), Shop::open());
    let spec = json!({
        "url": "s3://bucket/prefix", "credentialsSecret": {"name": "c"}, "passphraseSecret": {"name": "p"},
        // It says so, but is not the one to.
        "allowedNamespaces": [shop.namespace],
    });
    super::cluster::repository(&shop.cluster.api, &bank.namespace, "private", &spec);
    let mut messages = Vec::new();
    for (run, name, namespace) in [
        ("of-a-tenant", "private", bank.namespace.as_str()),
        ("of-none", "none", &bank.namespace),
        ("of-administrators-none", "none", "remora"),
    ] {
        let run = shop.run(run, &json!({"repository": {"name": name, "namespace": namespace}}));
        messages
            .push(run.waits_for("Assigned", "RepositoryNotAllowed").replace(name, "NAME").replace(namespace, "SPACE"));
    }
    assert!(messages.iter().all(|message| *message == messages[0]), "{messages:#?}");
}
