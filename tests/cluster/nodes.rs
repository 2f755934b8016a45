//! Two nodes: machines that move between them, and a node that is lost.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use remora_tests::cluster::{Migration, Product, Vm, Worker, is};
use serde_json::{Value, json};

use crate::scene::{Scene, has, is_incremental, why_failed};

/// How long a machine may take to be somewhere else.
const MOVE: Duration = Duration::from_mins(15);

/// How often a migration is asked for again. KubeVirt 1.9 leaves one to a node that had the machine before where it is now and then
/// (virt-handler's migration-target.go waits without an end as long as it remembers the domain that has left), until the
/// target's launcher gives up after five minutes.
const TRIES: u32 = 3;

/// One test at a time has further nodes: a machine that loses its node is to come back to the first one.
static FURTHER_NODES: Mutex<()> = Mutex::new(());

fn alone_with_nodes() -> MutexGuard<'static, ()> {
    FURTHER_NODES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a run needs whose machine is not on the first node: a scratch that can be there.
fn scratch() -> Value {
    json!({"scratch": {"storageClassName": "local"}})
}

/// A further node, with an agent.
fn worker(product: &Product, name: &str) -> Worker<'static> {
    let worker = product.cluster().worker(name);
    product.wait_for_agent(name);
    worker
}

#[test]
fn a_migration_waits_for_a_run_and_each_run_after_one_is_right() {
    let _alone = alone_with_nodes();
    let _undisturbed = Product::undisturbed();
    let product = Product::shared();
    let (first, second) = (product.cluster().node_name(), worker(product, "second"));
    let mut scene = Scene::with("moves", |vm| vm.shared().on(first));
    assert_eq!(scene.vm.node_name(), first);

    let status = scene.disturbed_in_the_middle(&json!({}), |scene, _, held| {
        let migration = Migration::start(&scene.vm, "away");
        let waits = |one: &Value| is(one, "migrationBlockedByBackup", "True");
        migration.wait_for("it does not wait for the run", waits);
        drop(held);
        assert_eq!(migration.wait(), second.name());
    });
    assert!(has(&status, "Complete", "True"), "{status:#}");
    assert_eq!((&status["node"], &status["decision"]), (&json!(first), &json!("full")), "{status:#}");

    // Its QEMU is another one, of which nobody knows what wrote to the disks before: all is read.
    for is_right in [|status: &Value| status["decision"] == "reread", is_incremental] {
        let status = scene.disturbed(&scratch(), |_, _| {});
        assert!(has(&status, "Complete", "True"), "{status:#}");
        assert!(status["node"] == second.name() && is_right(&status), "{status:#}");
    }

    assert_eq!(move_back(&scene.vm), first);
    let status = scene.back_up();
    assert_eq!((&status["node"], &status["decision"]), (&json!(first), &json!("reread")), "{status:#}");
    scene.assert_points_are_right();
}

/// Has a machine go back to a node that it came from; gives the name of the node that it is on then.
#[track_caller]
fn move_back(vm: &Vm) -> String {
    let arrived = (0..TRIES).find_map(|number| Migration::start(vm, &format!("back-{number}")).try_wait());
    arrived.expect("one of the migrations to arrive")
}

#[test]
fn a_run_whose_node_is_lost_fails_and_the_next_one_is_right_where_the_machine_is_then() {
    let _alone = alone_with_nodes();
    let _undisturbed = Product::undisturbed();
    let product = Product::shared();
    let mut lost = worker(product, "doomed");
    let mut scene = Scene::with("lost", |vm| vm.shared().on("doomed"));
    assert_eq!(scene.vm.node_name(), lost.name());
    let owned = |one: Option<&Value>| one.is_some_and(|one| one["metadata"]["ownerReferences"][0]["kind"] == "Node");
    product.cluster().wait_for("agentnode", "", lost.name(), "it is not its node's", MOVE, owned);
    let status = scene.disturbed(&scratch(), |_, _| {});
    assert!(has(&status, "Complete", "True"), "{status:#}");

    let mut spec = scratch();
    spec["mode"] = json!("Full");
    let status = scene.disturbed_in_the_middle(&spec, |scene, run, held| {
        lost.lose();
        drop(held);
        scene.wait_for(run, "it does not fail", |status| has(status, "Failed", "True"));
        start_elsewhere(&scene.vm, &mut lost);
    });
    let (reason, message) = why_failed(&status);
    assert_eq!(reason, "AgentLost", "{message}");
    assert!(message.contains("doomed"), "{message}");
    assert!(status["point"].is_null(), "{status:#}");
    product.cluster().wait_gone("agentnode", "", lost.name(), MOVE);

    let status = scene.back_up();
    assert_eq!(status["node"], product.cluster().node_name(), "{status:#}");
    assert_eq!(status["decision"], "reread", "{status:#}");
    scene.assert_points_are_right();
}

/// What an administrator does with a machine whose node will not come back; then it runs on another one.
fn start_elsewhere(vm: &Vm, lost: &mut Worker) {
    let before = vm.instance()["metadata"]["uid"].clone();
    lost.forget();
    vm.cluster().delete("vmi", vm.namespace(), vm.name());
    // By force: KubeVirt waits for the end of the backup, of which its agent on that node would have told.
    let release = r#"{"metadata":{"finalizers":null}}"#;
    vm.cluster().kubectl(&[
        "patch",
        "vmi",
        vm.name(),
        "--namespace",
        vm.namespace(),
        "--type=merge",
        "--patch",
        release,
    ]);
    let another = |instance: Option<&Value>| instance.is_some_and(|one| one["metadata"]["uid"] != before);
    vm.cluster().wait_for("vmi", vm.namespace(), vm.name(), "no new instance", MOVE, another);
    vm.wait(true);
}
