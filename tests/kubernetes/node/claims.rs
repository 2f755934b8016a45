//! Who does a run.

use std::collections::BTreeSet;

use serde_json::json;

use super::scene::{Scene, soon};
use super::worker::{Act, Played, a_backup, a_point};
use crate::Resources;

#[test]
fn of_two_agents_of_a_node_one_does_each_run_with_few_requests() {
    const RUNS: usize = 40;
    let (scene, played) = (Scene::new(), Played::default());
    let names: BTreeSet<_> = (0..RUNS).map(|number| format!("vm-{number}")).collect();
    for name in &names {
        scene.assigned(name, &json!({}));
    }
    let (first, second) = (scene.pod("first"), scene.pod("second"));
    let agents = [
        scene.counted_agent_of("first", first.clone(), played.clone(), 5),
        scene.counted_agent_of("second", second.clone(), played.clone(), 5),
    ];
    for name in &names {
        scene.becomes(name, "Complete", "True", "Stored");
    }
    assert_eq!(played.begun_once(), names);
    let by: Vec<_> = names.iter().map(|name| scene.status(name)["agent"].clone()).collect();
    assert!(by.iter().all(|agent| *agent == json!(first) || *agent == json!(second)), "{by:?}");
    // A claim, the end, two events and a look for the machine; and for each that the other one had, a claim in vain and a look whether it lives.
    let requests: usize = agents.iter().map(|agent| agent.shim.requests().len()).sum();
    println!("{requests} requests for {RUNS} runs and two agents");
    assert!(requests <= RUNS * 9 + 40, "{requests}: {:#?}", agents[0].shim.requests());
}

#[test]
fn runs_of_other_nodes_and_those_that_wait_are_left_alone_and_of_one_machine_one_runs_at_a_time() {
    let (scene, played) = (Scene::new(), Played::new(Act::StoreWhenTold));
    scene.assigned("elsewhere", &json!({}));
    scene.says("elsewhere", &json!({"node": "another"}));
    let since = "2026-01-01T00:00:00Z";
    scene.assigned("waits", &json!({}));
    let waits =
        json!({"type": "Assigned", "status": "False", "reason": "Stopped", "message": "", "lastTransitionTime": since});
    scene.says("waits", &json!({"conditions": [waits]}));
    scene.assigned("cancelled", &json!({"cancel": true}));
    scene.assigned("one", &json!({"virtualMachine": "same"}));
    let _agent = scene.agent("first", played.clone());
    soon("the first is begun", || played.begun() == ["one"]);
    scene.assigned("two", &json!({"virtualMachine": "same"}));
    scene.assigned("other", &json!({}));
    soon("that of another machine is begun", || played.begun() == ["one", "other"]);
    played.release();
    played.release();
    scene.becomes("one", "Complete", "True", "Stored");
    soon("then the second is begun", || played.begun() == ["one", "other", "two"]);
    for name in ["elsewhere", "waits", "cancelled"] {
        assert_eq!(scene.condition(name, "Claimed"), None, "{name}");
    }
}

#[test]
fn of_two_places_a_namespace_has_one_while_a_run_of_another_one_waits() {
    let (scene, played) = (Scene::new(), Played::new(Act::StoreWhenTold));
    for name in ["a-1", "a-2", "a-3"] {
        scene.assigned(name, &json!({}));
    }
    let other = Resources::new("BackupRun", "backupruns");
    other.create("b-1", &json!({"virtualMachine": "b-1", "repository": {"name": "offsite"}})).ok();
    scene.api().merge(&format!("{}/status", other.path("b-1")), &json!({"status": {"node": scene.node}})).ok();
    let _agent = scene.agent_of("agent", scene.pod("agent"), played.clone(), 2);
    soon("two are begun", || played.begun().len() == 2);
    assert_eq!(played.begun_once(), ["a-1", "b-1"].map(String::from).into());
    (0..4).for_each(|_| played.release());
    for name in ["a-1", "a-2", "a-3"] {
        scene.becomes(name, "Complete", "True", "Stored");
    }
    assert_eq!(played.begun_once().len(), 4);
}

#[test]
pub(super) fn a_dead_agent_s_run_is_begun_again_with_the_next_attempt_and_a_live_one_s_is_not() {
    let (scene, played) = (Scene::new(), Played::new(Act::StoreWhenTold));
    let live = scene.pod("live");
    let attempt = |number: i32| json!({"number": number, "backup": a_backup().to_string(), "state": "Wanted"});
    for (name, agent) in [("of-a-dead-one", "gone"), ("of-a-live-one", &*live)] {
        scene.assigned(name, &json!({}));
        scene.says(name, &json!({"agent": agent, "heartbeat": 7, "attempt": attempt(3)}));
    }
    let agent = scene.agent("new", played.clone());
    soon("the dead one's is begun", || played.begun() == ["of-a-dead-one"]);
    soon("it has an attempt", || scene.status("of-a-dead-one")["attempt"]["number"] == 4);
    let status = scene.status("of-a-dead-one");
    assert_eq!((&status["agent"], &status["attempt"]["state"]), (&json!(agent.me.uid), &json!("Wanted")));
    assert!(status["heartbeat"].as_i64().unwrap() > 7, "{status:#}");
    // It has looked at the live one's too, and more than once.
    soon("it looks again", || agent.shim.count("/pods?") >= 4);
    assert_eq!(scene.status("of-a-live-one")["agent"], json!(live));
    scene.pod_is_gone("live");
    soon("then it is begun too", || played.begun() == ["of-a-dead-one", "of-a-live-one"]);
}

#[test]
fn an_agent_that_was_started_again_in_its_pod_goes_on_with_its_runs() {
    let (scene, played) = (Scene::new(), Played::new(Act::StoreWhenTold));
    scene.assigned("run", &json!({}));
    let pod = scene.pod("agent");
    let mut agent = scene.agent_of("agent", pod.clone(), played.clone(), 2);
    soon("it has an attempt", || scene.status("run")["attempt"]["state"] == "Wanted");
    agent.kill();
    let _again = scene.agent_of("agent", pod, played.clone(), 2);
    soon("it has the next attempt", || scene.status("run")["attempt"]["number"] == 2);
    played.release();
    played.release();
    scene.becomes("run", "Complete", "True", "Stored");
}

#[test]
fn a_point_that_was_committed_before_its_agent_died_is_found() {
    let (scene, played) = (Scene::new(), Played::default());
    let backup = a_backup().to_string();
    scene.assigned("run", &json!({}));
    scene.says("run", &json!({"agent": "gone", "attempt": {"number": 1, "backup": backup, "state": "Wanted"}}));
    played.has_committed(&backup, a_point(format!("{}/run", scene.namespace)));
    let _agent = scene.agent("new", played.clone());
    scene.becomes("run", "Complete", "True", "Stored");
    assert!(played.begun().is_empty());
    assert_eq!(played.asked(), [backup]);
    let status = scene.status("run");
    assert_eq!((&status["point"], &status["attempt"]["state"]), (&json!("0011223344556677-1"), &json!("Ended")));
}

#[test]
fn an_agent_lives_while_the_repository_is_asked_for_a_point_that_may_be_there() {
    let (scene, played) = (Scene::new(), Played::new(Act::LoseStoreWhenTold));
    scene.assigned("run", &json!({}));
    let _agent = scene.agent("agent", played.clone());
    soon("it has an attempt", || scene.status("run")["attempt"]["state"] == "Wanted");
    let backup = scene.status("run")["attempt"]["backup"].as_str().unwrap().to_owned();
    played.has_committed(&backup, a_point(format!("{}/run", scene.namespace)));
    played.release();
    soon("the repository is asked", || played.asked() == [&*backup]);
    let beat = || scene.status("run")["heartbeat"].as_i64().unwrap();
    let before = beat();
    soon("it beats on", || beat() > before + 1);
    played.release();
    scene.becomes("run", "Complete", "True", "Stored");
    assert_eq!(played.begun(), ["run"]);
}

#[test]
fn a_claim_whose_answer_is_lost_is_seen_to_be_ours() {
    let (scene, played) = (Scene::new(), Played::default());
    let agent = scene.agent("agent", played.clone());
    soon("it watches", || agent.shim.count("watch=true") > 0);
    // Its first write to the run is the claim.
    agent.shim.lose_answer(|path, _| path.contains("/backupruns/run/status"));
    scene.assigned("run", &json!({}));
    scene.becomes("run", "Complete", "True", "Stored");
    assert!(!agent.shim.is_to_lose_answer());
    assert_eq!(played.begun(), ["run"]);
}
