//! Every node has two agents, as for the moment in which each pod is replaced, and each of them wants every run of its node.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::scene::{Scene, soon};
use super::worker::Played;

const NODES: usize = 25;
const RUNS_OF_A_NODE: usize = 40;

#[test]
fn of_fifty_agents_one_claims_each_of_a_thousand_runs() {
    let played = Played::default();
    let scenes: Vec<Scene> = (0..NODES).map(|_| Scene::new()).collect();
    let mut names = BTreeSet::new();
    for (node, scene) in scenes.iter().enumerate() {
        for number in 0..RUNS_OF_A_NODE {
            let name = format!("vm-{node}-{number}");
            scene.assigned(&name, &json!({}));
            names.insert(name);
        }
    }
    let agents: Vec<_> = scenes
        .iter()
        .flat_map(|scene| ["first", "second"].map(|pod| scene.counted_agent_of(pod, scene.pod(pod), played.clone(), 2)))
        .collect();
    for scene in &scenes {
        soon("all runs are complete", || scene.list().iter().all(is_complete));
    }
    assert_eq!(played.begun_once(), names);
    let requests: usize = agents.iter().map(|agent| agent.shim.requests().len()).sum();
    println!("{requests} requests of {} agents for {} runs", agents.len(), names.len());
    // A claim, the end, two events and a look for the machine; for each that the other agent had, a claim in vain and a look whether it lives; and what
    // each agent asks anyway.
    assert!(requests <= names.len() * 9 + agents.len() * 20, "{requests}");
}

fn is_complete(run: &Value) -> bool {
    let conditions = run["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Complete" && one["status"] == "True"))
}
