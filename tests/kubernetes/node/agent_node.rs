//! The `AgentNode` of a node.

use serde_json::json;

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
