//! An API server that is away, breaks watches off, or has forgotten.

use std::sync::atomic::Ordering;

use serde_json::json;

use super::scene::{Scene, soon};
use super::worker::{Act, Played};

#[test]
fn a_run_goes_on_while_the_api_server_is_away_and_its_end_is_told_later() {
    let (scene, played) = (Scene::new(), Played::new(Act::StoreWhenTold));
    scene.assigned("run", &json!({}));
    let agent = scene.agent("agent", played.clone());
    soon("it has an attempt", || scene.status("run")["attempt"]["state"] == "Wanted");
    agent.shim.away(true);
    let before = agent.shim.count("PATCH");
    soon("it has tried to write in vain", || agent.shim.count("PATCH") > before + 1);
    played.release();
    let heard = scene.status("run")["heartbeat"].clone();
    soon("it tries on", || agent.shim.count("PATCH") > before + 3);
    assert_eq!(scene.status("run")["heartbeat"], heard);
    agent.shim.away(false);
    scene.becomes("run", "Complete", "True", "Stored");
    assert_eq!(played.begun(), ["run"]);
}

#[test]
fn watches_that_break_off_or_are_too_old_lose_nothing() {
    let (scene, played) = (Scene::new(), Played::new(Act::StoreWhenTold));
    let agent = scene.agent("agent", played.clone());
    agent.shim.short_watches.store(true, Ordering::SeqCst);
    // The first watch, of before, lasts minutes: it is not waited for.
    let mut agent = agent;
    scene.stop(&mut agent);
    let agent = scene.agent("again", played.clone());
    agent.shim.short_watches.store(true, Ordering::SeqCst);
    soon("a watch has broken off", || agent.shim.count("watch=true") > 2);
    scene.assigned("run", &json!({}));
    soon("the run is begun", || played.begun() == ["run"]);
    let lists = agent.shim.count("GET /apis/remora.dev/v1alpha1/backupruns?&");
    agent.shim.too_old.store(1, Ordering::SeqCst);
    soon("it has listed anew", || agent.shim.count("GET /apis/remora.dev/v1alpha1/backupruns?&") > lists + 1);
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
    // Two heartbeats, the end of the attempt, the end of the run: one of these is the last.
    agent.shim.lost_answers.store(6, Ordering::SeqCst);
    played.release();
    scene.becomes("run", "Complete", "True", "Stored");
    soon("it is told", || agent.shim.count("POST /apis/events.k8s.io") == 2);
    assert_eq!(played.begun(), ["run"]);
}
