//! The `AgentNode` of a node.

use std::sync::atomic::Ordering;

use remora_kube::resources::PolicyState;
use serde_json::{Value, json};

use super::scene::{Scene, soon};
use super::shim::Shim;
use super::worker::Played;

#[test]
fn a_node_tells_what_its_agent_can_do_and_when_it_has_stopped() {
    let scene = Scene::new();
    let mut agent = scene.agent("agent", Played::default());
    let path = format!("/apis/remora.dev/v1alpha1/agentnodes/{}", scene.node);
    let ready = |node: &serde_json::Value| node["status"]["conditions"][0]["status"].clone();
    let made = || agent.shim.count(&format!("agentnodes/{}/status", scene.node)) >= 2;
    soon("it is written, and once more after a while", made);
    let node = scene.api().get(&path);
    assert_eq!(ready(&node), "True", "{node:#}");
    assert_eq!(node["status"]["capabilities"], json!([{"name": "playing", "available": true, "message": "well"}]));
    assert!(node["status"]["renewTime"].is_string() && node["status"]["version"].is_string());
    scene.stop(&mut agent);
    let node = scene.api().get(&path);
    assert_eq!(ready(&node), "False");
    assert_eq!(node["status"]["conditions"][0]["reason"], "Stopped");
}

#[test]
fn the_agent_node_is_its_node_s() {
    let scene = Scene::new();
    let path = format!("/apis/remora.dev/v1alpha1/agentnodes/{}", scene.node);
    let is_ready = |wanted: &str| scene.api().look(&path).body["status"]["conditions"][0]["status"] == wanted;
    let owners = || scene.api().get(&path)["metadata"]["ownerReferences"].clone();
    // Whose it is may be unknown, or not be said by whoever may not delete it: it is written all the same.
    let mut first = scene.agent("first", Played::default());
    soon("it is written", || is_ready("True"));
    scene.stop(&mut first);
    let uid = scene.join();
    let shim = Shim::default();
    shim.no_owners.store(true, Ordering::SeqCst);
    let mut second = scene.agent_through(shim, "second", Played::default());
    soon("it is written by the second", || is_ready("True"));
    assert_eq!(owners(), Value::Null);
    scene.stop(&mut second);

    let _third = scene.agent("third", Played::default());
    soon("it is written by the third", || is_ready("True"));
    // Kubernetes removes it with that very node.
    assert_eq!(owners(), json!([{"apiVersion": "v1", "kind": "Node", "name": scene.node, "uid": uid}]));
}

#[test]
fn a_node_tells_of_each_policy_what_is_in_force() {
    let scene = Scene::new();
    let worker = Played::default();
    let _agent = scene.agent("agent", worker.clone());
    let path = format!("/apis/remora.dev/v1alpha1/agentnodes/{}", scene.node);
    let state = |file: &str, state: &str, message: &str| {
        json!({
            "file": file, "name": "nightly", "desiredDigest": "a1", "activeDigest": "b2", "generation": 7, "state": state,
            "message": message, "since": "2026-01-01T00:00:00Z",
        })
    };
    let puts = |states: &[Value]| {
        let policies = states.iter().map(|one| serde_json::from_value::<PolicyState>(one.clone()).unwrap());
        worker.has_policies(policies.collect());
        soon("the AgentNode does not tell it", || scene.api().look(&path).body["status"]["policies"] == json!(states));
    };
    puts(&[state("nightly.yaml", "Stale", "line 4: no"), state("other.yaml", "Broken", "line 1: no")]);
    let columns = scene.api().table(&path);
    let at = columns["columnDefinitions"].as_array().unwrap().iter().position(|one| one["name"] == "Policy");
    assert_eq!(columns["rows"][0]["cells"][at.unwrap()], "Stale", "{columns:#}");
    puts(&[json!({
        "file": "nightly.yaml", "desiredDigest": "c3", "generation": 8, "state": "Broken", "message": "m",
        "since": "2026-01-01T00:00:00Z",
    })]);
}
