//! Every node has two agents, as for the moment in which each pod is replaced, and each of them wants every run of its node.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::scene::{Scene, soon};
use super::worker::Played;

const NODES: usize = 25;
const RUNS_OF_A_NODE: usize = 40;

/// The most requests of a run: a claim, the end, two events and a look for the machine; and if the other agent had it, a claim in
/// vain and a look whether that one lives.
const OF_A_RUN: usize = 9;

/// What each agent asks anyway.
const OF_AN_AGENT: usize = 20;

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
    let requests: Vec<String> = agents.iter().flat_map(|agent| agent.shim.requests()).collect();
    let (all, runs) = (requests.len(), names.len());
    // Events, and looks whether the other agent lives, do not name their run.
    let naming = naming(&requests, &names);
    let (name, most) = naming.iter().max_by_key(|(_, count)| **count).unwrap();
    let fewest = naming.values().min().unwrap();
    let tenths = all.saturating_sub(agents.len() * OF_AN_AGENT) * 10 / runs;
    println!(
        "{all} requests of {} agents for {runs} runs: {}.{} of a run beside {OF_AN_AGENT} of each agent; {fewest} to {most} name \
         theirs",
        agents.len(),
        tenths / 10,
        tenths % 10,
    );
    assert!(all <= runs * OF_A_RUN + agents.len() * OF_AN_AGENT, "{all}");
    assert!(*most <= OF_A_RUN, "{most} of {name}");
}

/// How many requests have the name of each run in their path.
fn naming<'a>(requests: &[String], names: &'a BTreeSet<String>) -> BTreeMap<&'a str, usize> {
    let mut naming: BTreeMap<_, _> = names.iter().map(|name| (name.as_str(), 0)).collect();
    for part in requests.iter().flat_map(|request| request.split(['/', '?', ' '])) {
        if let Some(count) = naming.get_mut(part) {
            *count += 1;
        }
    }
    naming
}

fn is_complete(run: &Value) -> bool {
    let conditions = run["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Complete" && one["status"] == "True"))
}
