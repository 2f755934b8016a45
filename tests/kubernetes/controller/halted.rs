//! Backups of a machine that is halted: a worker has its claims, and gives them back when it is started.

use remora_tests::wait_until;
use serde_json::{Value, json};

use super::cluster::{Run, SOON, Shop};
use super::worker::Worker;

/// A shop whose machine is halted.
fn halted() -> Shop {
    let shop = Shop::open();
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    shop.cluster.api.create(&shop.core("serviceaccounts"), &account);
    let spec = json!({
        "domain": {"devices": {"disks": [{"name": "root"}]}},
        "volumes": [{"name": "root", "persistentVolumeClaim": {"claimName": "root"}}],
    });
    let fields = json!({
        "spec": {"runStrategy": "Halted", "template": {"spec": spec}}, "status": {"printableStatus": "Stopped"},
    });
    shop.cluster.api.merge(&format!("{}/web", shop.list("kubevirt.io/v1", "virtualmachines")), &fields).ok();
    shop.cluster.api.delete(&instance(&shop)).ok();
    shop
}

fn instance(shop: &Shop) -> String {
    format!("{}/web", shop.list("kubevirt.io/v1", "virtualmachineinstances"))
}

/// It is started again, on node `two`.
fn start(shop: &Shop) {
    let list = shop.list("kubevirt.io/v1", "virtualmachines");
    let machine = shop.cluster.api.get(&format!("{list}/web"));
    shop.cluster.api.delete(&format!("{list}/web")).ok();
    assert_eq!(machine["status"]["printableStatus"], "Stopped");
    shop.machine(&json!({"status": {"nodeName": "two"}}));
}

fn worker<'a>(run: &Run<'a>) -> Worker<'a> {
    Worker { shop: run.shop, run: run.get() }
}

#[test]
fn a_halted_machine_is_backed_up_through_a_worker_that_goes_with_the_run() {
    let shop = halted();
    let run = shop.run("run", &json!({}));
    run.waits_for("Assigned", "WorkerPending");
    assert_eq!(run.get()["status"]["halted"], true);
    let pod = worker(&run).runs();
    let volumes = pod["spec"]["volumes"].as_array().unwrap();
    assert!(volumes.iter().any(|volume| volume["persistentVolumeClaim"]["claimName"] == "root"), "{pod:#}");
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["args"][0], "lend");
    let mounts = container["volumeMounts"].as_array().unwrap();
    assert!(mounts.iter().all(|mount| mount["readOnly"] == true), "{mounts:?}");
    run.claim();
    // Nobody else's key opens it, and the agent's way to it is the key service's to give.
    let token = shop.cluster.agent("one", Some("remora-controller"));
    let keys = shop.cluster.controller.keys(&shop.cluster.api, Some(&token), &shop.namespace, "run");
    assert_eq!((keys.code, &keys.body["worker"]["claims"]), (200, &json!(["root"])));
    assert_eq!(keys.body["worker"]["address"], "192.0.2.7:8444");
    // What the agent reads stays while it reads.
    assert_eq!(run.get()["status"]["attempt"], Value::Null);
    assert_eq!(shop.made(), [format!("remora-worker-{}", run.get()["metadata"]["uid"].as_str().unwrap())]);
    run.end("Complete");
    worker(&run).goes();
    wait_until("the run is not let go", SOON, || run.get()["metadata"]["finalizers"].is_null());
    assert!(shop.made().is_empty(), "{:?}", shop.made());
}

#[test]
fn the_worker_of_a_halted_machine_has_its_claims_read_only_devices_too() {
    let shop = halted();
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "volumeMode": "Block", "resources": {"requests": {"storage": "1Gi"}}},
    });
    shop.cluster.api.create(&shop.core("persistentvolumeclaims"), &claim).ok();
    let volumes = ["root", "data"].map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}}));
    let spec = json!({"domain": {"devices": {"disks": [{"name": "root"}, {"name": "data"}]}}, "volumes": volumes});
    let fields = json!({"spec": {"template": {"spec": spec}}});
    shop.cluster.api.merge(&format!("{}/web", shop.list("kubevirt.io/v1", "virtualmachines")), &fields).ok();
    let run = shop.run("run", &json!({}));
    run.waits_for("Assigned", "WorkerPending");
    let pod = worker(&run).runs();
    let volumes = pod["spec"]["volumes"].as_array().unwrap();
    let claims: Vec<_> =
        volumes.iter().map(|volume| &volume["persistentVolumeClaim"]).filter(|of| !of.is_null()).collect();
    let read_only = |claim: &str| json!({"claimName": claim, "readOnly": true});
    assert_eq!(claims, [&read_only("root"), &read_only("data")]);
    let devices = &pod["spec"]["containers"][0]["volumeDevices"];
    assert_eq!(devices, &json!([{"name": "disk-1", "devicePath": "/dev/disk-1"}]));
}

/// Where all nodes for machines are kept for them, nothing else would let the worker run.
#[test]
fn the_worker_of_a_halted_machine_runs_where_the_machine_may() {
    let shop = halted();
    let tolerations = json!([{"key": "machines", "operator": "Exists", "effect": "NoSchedule"}]);
    let fields = json!({"spec": {"template": {"spec": {"nodeSelector": {"zone": "a"}, "tolerations": tolerations}}}});
    shop.cluster.api.merge(&format!("{}/web", shop.list("kubevirt.io/v1", "virtualmachines")), &fields).ok();
    let run = shop.run("run", &json!({}));
    run.waits_for("Assigned", "WorkerPending");
    let spec = worker(&run).runs()["spec"].take();
    assert_eq!(spec["nodeSelector"]["zone"], "a");
    // The API server adds some of its own.
    assert!(spec["tolerations"].as_array().unwrap().contains(&tolerations[0]), "{spec:#}");
}

#[test]
fn a_machine_that_is_started_before_its_run_begins_is_backed_up_as_it_runs() {
    let shop = halted();
    let run = shop.run("run", &json!({}));
    run.waits_for("Assigned", "WorkerPending");
    let waiting = worker(&run);
    waiting.runs();
    run.waits_for("Assigned", "Assigned");
    start(&shop);
    waiting.goes();
    wait_until("it is not given to the machine's node", SOON, || {
        let status = run.get()["status"].take();
        status["node"] == "two" && status["halted"].is_null()
    });
}

#[test]
fn a_machine_that_is_started_while_it_is_read_has_its_claims_at_once() {
    let shop = halted();
    let run = shop.run("run", &json!({}));
    let reads = worker(&run);
    reads.runs();
    run.claim();
    start(&shop);
    reads.goes();
    // The agent says how it ended.
    assert_eq!(run.says("Failed"), Value::Null);
    run.end("Failed");
    wait_until("the run is not let go", SOON, || run.get()["metadata"]["finalizers"].is_null());
}

#[test]
fn a_claim_that_somebody_uses_is_waited_for() {
    let shop = halted();
    let api = &shop.cluster.api;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "app"},
        "spec": {
            "containers": [{"name": "app", "image": "none.example.org/none"}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "root"}}],
        },
    });
    api.create(&shop.core("pods"), &pod).ok();
    let run = shop.run("run", &json!({}));
    assert!(run.waits_for("Assigned", "ClaimInUse").contains("used by pod app"));
    assert_eq!(shop.names(&shop.core("pods")), ["app"]);
    api.delete(&format!("{}/app?gracePeriodSeconds=0", shop.core("pods"))).ok();
    run.waits_for("Assigned", "WorkerPending");
}
