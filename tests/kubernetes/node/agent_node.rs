//! The `AgentNode` of a node.

use remora_kube::resources::PolicyState;
use serde_json::{Value, json};

use super::scene::{Scene, soon};
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
fn a_node_that_lacks_something_says_what_to_do_until_it_has_it() {
    let (scene, worker) = (Scene::new(), Played::default());
    worker.lacks(Some("there is nothing to play on: mount a piano there"));
    let _agent = scene.agent("agent", worker.clone());
    let path = format!("/apis/remora.dev/v1alpha1/agentnodes/{}", scene.node);
    let ready = || scene.api().look(&path).body["status"]["conditions"][0].clone();
    soon("it says what it lacks", || ready()["reason"] == "NodeLacks");
    let said = ready();
    let what = json!("playing: there is nothing to play on: mount a piano there");
    assert_eq!((&said["status"], &said["message"]), (&json!("False"), &what));
    worker.lacks(None);
    soon("it is ready", || ready()["status"] == "True");
    assert_eq!(scene.api().get(&path)["status"]["capabilities"][0]["available"], true);
}

#[test]
fn the_agent_node_is_its_node_s() {
    let scene = Scene::new();
    let path = format!("/apis/remora.dev/v1alpha1/agentnodes/{}", scene.node);
    let uid = scene.join();
    let _agent = scene.agent("agent", Played::default());
    soon("it is written", || scene.api().look(&path).body["status"]["conditions"][0]["status"] == "True");
    // Kubernetes removes it with that very node.
    let owners = json!([{"apiVersion": "v1", "kind": "Node", "name": scene.node, "uid": uid}]);
    assert_eq!(scene.api().get(&path)["metadata"]["ownerReferences"], owners);
}

/// The API server has the plugin `OwnerReferencesPermissionEnforcement`: of an object that is there, only who may delete it says whose
/// it is.
#[test]
fn an_agent_node_whose_owner_cannot_be_said_is_written_all_the_same() {
    let scene = Scene::new();
    let path = format!("/apis/remora.dev/v1alpha1/agentnodes/{}", scene.node);
    let is_ready = |wanted: &str| scene.api().look(&path).body["status"]["conditions"][0]["status"] == wanted;
    let mut first = scene.agent("first", Played::default());
    soon("it is written", || is_ready("True"));
    scene.stop(&mut first);
    assert!(is_ready("False"));
    scene.join();
    let second = scene.agent("second", Played::default());
    soon("it is written by the second", || is_ready("True"));
    assert_eq!(scene.api().get(&path)["metadata"]["ownerReferences"], Value::Null);
    let made = format!("agentnodes/{}?", scene.node);
    assert!(second.shim.count(&made) >= 2, "the second has tried to say it: {:?}", second.shim.requests());
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

#[test]
fn a_node_tells_of_as_many_broken_policies_as_its_object_takes_and_how_many_more_there_are() {
    let (scene, worker) = (Scene::new(), Played::default());
    let _agent = scene.agent("agent", worker.clone());
    let policy = |number: usize| {
        let state = json!({
            "file": format!("{number}.yaml"), "desiredDigest": "a1", "generation": 1, "state": "Broken",
            "message": "m".repeat(1000), "since": "2026-01-01T00:00:00Z",
        });
        serde_json::from_value::<PolicyState>(state).unwrap()
    };
    // All of them come to more than etcd takes.
    worker.has_policies((0..3000).map(policy).collect());
    let path = format!("/apis/remora.dev/v1alpha1/agentnodes/{}", scene.node);
    soon("it tells of them", || scene.api().look(&path).body["status"]["policiesLeftOut"] == 2744);
    assert_eq!(scene.api().get(&path)["status"]["policies"].as_array().map(Vec::len), Some(256));
}
