//! An API server that is away, breaks watches off, or has forgotten.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::scene::{Scene, soon};
use super::shim::Shim;
use super::worker::{Act, Played};

#[test]
fn a_run_goes_on_while_the_api_server_is_away_and_its_end_is_told_later() {
    let (scene, played) = (Scene::new(), Played::new(Act::StoreWhenTold));
    scene.assigned("run", &json!({}));
    let agent = scene.agent("agent", played.clone());
    soon("it has an attempt", || scene.status("run")["attempt"]["state"] == "Wanted");
    // The writes of a run are made one after the other: once there is another one, the one that was under way is over.
    let written = format!("PATCH {}/status", scene.runs.path("run"));
    agent.shim.away(true);
    let before = agent.shim.count(&written);
    soon("it has tried to write in vain", || agent.shim.count(&written) > before + 1);
    played.release();
    let heard = scene.status("run")["heartbeat"].clone();
    soon("it tries on", || agent.shim.count(&written) > before + 3);
    assert_eq!(scene.status("run")["heartbeat"], heard);
    agent.shim.away(false);
    scene.becomes("run", "Complete", "True", "Stored");
    assert_eq!(played.begun(), ["run"]);
}

#[test]
fn watches_that_break_off_or_are_too_old_lose_nothing() {
    let (scene, played) = (Scene::new(), Played::new(Act::StoreWhenTold));
    let shim = Shim::default();
    shim.short_watches.store(true, Ordering::SeqCst);
    let agent = scene.agent_through(shim, "agent", played.clone());
    let lists =
        || agent.shim.requests().iter().filter(|one| one.contains("/backupruns?") && one.contains("limit=")).count();
    soon("a watch has broken off", || agent.shim.count("/backupruns?&watch=true") > 2);
    assert_eq!(lists(), 1);
    scene.assigned("run", &json!({}));
    soon("the run is begun", || played.begun() == ["run"]);
    agent.shim.too_old.store(1, Ordering::SeqCst);
    soon("it has listed anew", || lists() == 2);
    scene.runs.change("run", &json!({"cancel": true})).ok();
    scene.becomes("run", "Failed", "True", "Cancelled");
    scene.assigned("next", &json!({}));
    played.release();
    scene.becomes("next", "Complete", "True", "Stored");
}

#[test]
fn an_end_whose_answer_is_lost_is_told_once() {
    let (scene, played) = (Scene::new(), Played::new(Act::StoreWhenTold));
    scene.assigned("run", &json!({}));
    let agent = scene.agent("agent", played.clone());
    soon("it has an attempt", || scene.status("run")["attempt"]["state"] == "Wanted");
    // Of all that is written of it, the end.
    agent.shim.lose_answer(|path, said| {
        let is_end = |condition: &Value| condition["type"] == "Complete" && condition["status"] == "True";
        path.contains("/backupruns/run/status") && said["status"]["conditions"].as_array().unwrap().iter().any(is_end)
    });
    played.release();
    scene.becomes("run", "Complete", "True", "Stored");
    soon("it is told", || agent.shim.count("POST /apis/events.k8s.io") == 2);
    assert!(!agent.shim.is_to_lose_answer());
    assert_eq!(played.begun(), ["run"]);
}
