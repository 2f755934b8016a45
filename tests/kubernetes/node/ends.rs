//! How runs end, and what is said of it.

use std::sync::atomic::{AtomicU64, Ordering};

use remora_core::ErrorKind;
use serde_json::{Value, json};

use super::cluster::define;
use super::scene::{Scene, soon};
use super::worker::{Act, Played};

#[test]
fn a_run_that_is_done_tells_its_point() {
    let (scene, played) = (Scene::new(), Played::new(Act::StoreWhenTold));
    scene.assigned("run", &json!({}));
    let _agent = scene.agent("agent", played.clone());
    soon("it tells how far it is", || scene.status("run")["percent"] == 40);
    let status = scene.status("run");
    assert_eq!((&status["readBytes"], &status["totalBytes"]), (&json!(400), &json!(1000)));
    assert_eq!(scene.condition("run", "Complete"), Some(("False".into(), "Running".into())));
    let before = status["heartbeat"].as_i64().unwrap();
    soon("its heart beats", || scene.status("run")["heartbeat"].as_i64().unwrap() > before + 1);
    played.release();
    scene.becomes("run", "Complete", "True", "Stored");
    let status = scene.status("run");
    for (field, wanted) in [
        ("point", json!("0011223344556677-1")),
        ("decision", json!("full")),
        ("reason", json!("it is the first")),
        ("percent", json!(100)),
        ("storedBytes", json!(4096)),
        ("node", json!(scene.node)),
    ] {
        assert_eq!(status[field], wanted, "{field}");
    }
    assert!(status["completionTime"].is_string() && status["startTime"].is_string(), "{status:#}");
    assert_eq!(status["attempt"]["state"], "Ended");
    assert!(scene.message("run", "Complete").ends_with("; played"));
    soon("both events are there", || {
        let mut events = scene.events("BackupRun", "run");
        events.sort();
        events == ["Claimed", "Stored"]
    });
    let ours = ["Claimed", "Complete"];
    let said: Vec<_> = status["conditions"].as_array().unwrap().iter().map(|one| one["type"].clone()).collect();
    assert_eq!(said, ours);
}

#[test]
fn checkpoints_that_stay_are_told_of_by_the_runs_that_left_them_alone() {
    let (scene, played) = (Scene::new(), Played::new(Act::StoreAndLeave("its libvirt is silent")));
    let _agent = scene.agent("agent", played.clone());
    scene.assigned("leaves", &json!({}));
    scene.becomes("leaves", "Complete", "True", "Stored");
    assert_eq!(scene.condition("leaves", "CheckpointsStay"), Some(("True".into(), "CleaningUpFailed".into())));
    assert!(scene.message("leaves", "CheckpointsStay").ends_with("its libvirt is silent"));
    played.act(Act::Store);
    scene.assigned("removes", &json!({}));
    scene.becomes("removes", "Complete", "True", "Stored");
    assert_eq!(scene.condition("removes", "CheckpointsStay"), None);
}

#[test]
fn a_run_that_fails_says_why_and_what_to_do() {
    let scene = Scene::new();
    let played = Played::new(Act::Fail(ErrorKind::NoSpace, "the bucket is full"));
    let _agent = scene.agent("agent", played.clone());
    scene.assigned("run", &json!({}));
    scene.becomes("run", "Failed", "True", "NoSpace");
    assert_eq!(scene.condition("run", "Complete"), Some(("False".into(), "NoSpace".into())));
    assert_eq!(scene.message("run", "Failed"), "the bucket is full. Do something.");
    soon("an event says it", || scene.events("BackupRun", "run").contains(&"NoSpace".into()));
    played.act(Act::Panic);
    scene.assigned("next", &json!({}));
    scene.becomes("next", "Failed", "True", "InternalError");
    // The agent lives on.
    played.act(Act::Store);
    scene.assigned("last", &json!({}));
    scene.becomes("last", "Complete", "True", "Stored");
}

#[test]
fn the_end_of_a_run_is_an_event_of_its_machine_too() {
    let (scene, played) = (Scene::new(), Played::default());
    define(scene.api());
    let machine = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "web"}});
    let list = format!("/apis/kubevirt.io/v1/namespaces/{}/virtualmachines", scene.namespace);
    let machine = scene.api().create(&list, &machine).ok();
    let _agent = scene.agent("agent", played.clone());
    scene.assigned("first", &json!({"virtualMachine": "web"}));
    scene.becomes("first", "Complete", "True", "Stored");
    played.act(Act::Fail(ErrorKind::NoSpace, "the bucket is full"));
    scene.assigned("second", &json!({"virtualMachine": "web"}));
    scene.becomes("second", "Failed", "True", "NoSpace");
    // As `kubectl describe vm web` asks for them.
    let of_it = format!(
        "/api/v1/namespaces/{}/events?fieldSelector=involvedObject.kind=VirtualMachine,involvedObject.name=web,involvedObject.uid={}",
        scene.namespace,
        machine["metadata"]["uid"].as_str().unwrap(),
    );
    let mut told = Vec::new();
    soon("both are told", || {
        let events = scene.api().get(&of_it)["items"].as_array().unwrap().clone();
        let of = |event: &Value| ["reason", "type", "message"].map(|field| event[field].as_str().unwrap().to_owned());
        told = events.iter().map(|event| (event["related"]["name"].clone(), of(event))).collect();
        told.len() == 2
    });
    told.sort_by_key(|(_, [reason, ..])| reason.clone());
    assert_eq!(
        told[0],
        (json!("second"), ["NoSpace", "Warning", "the bucket is full. Do something."].map(String::from))
    );
    let (run, [reason, kind, message]) = &told[1];
    assert_eq!((run, reason.as_str(), kind.as_str()), (&json!("first"), "Stored", "Normal"));
    assert!(message.contains("is stored; played"), "{message}");
}

#[test]
fn a_run_that_only_waits_is_given_back_and_another_one_has_its_place() {
    let (scene, played) = (Scene::new(), Played::new(Act::StoreAllBut("web")));
    define(scene.api());
    let machine = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "web"}});
    let list = format!("/apis/kubevirt.io/v1/namespaces/{}/virtualmachines", scene.namespace);
    scene.api().create(&list, &machine).ok();
    scene.assigned("web", &json!({}));
    let _agent = scene.agent_of("agent", scene.pod("agent"), played.clone(), 1);
    scene.becomes("web", "Claimed", "False", "Waiting");
    let status = scene.status("web");
    assert_eq!((&status["agent"], &status["completionTime"]), (&Value::Null, &Value::Null), "{status:#}");
    assert_eq!(scene.condition("web", "Complete"), Some(("False".into(), "Waiting".into())));
    assert_eq!(scene.condition("web", "Failed"), None);
    assert!(scene.message("web", "Complete").contains("theirs is in flight"));
    for kind in ["BackupRun", "VirtualMachine"] {
        soon("an event says it", || scene.events(kind, "web").contains(&"Waiting".into()));
    }
    // It is still this node's, and the older one: it has waited, and does so still.
    scene.assigned("other", &json!({}));
    scene.becomes("other", "Complete", "True", "Stored");
    assert_eq!(played.begun(), ["web", "other"]);
}

#[test]
fn a_run_ends_when_it_is_cancelled_deleted_or_late() {
    let (scene, played) = (Scene::new(), Played::new(Act::StoreWhenTold));
    let agent = scene.agent("agent", played.clone());
    for name in ["cancelled", "deleted"] {
        scene.assigned(name, &json!({}));
    }
    scene.api().merge(&scene.runs.path("deleted"), &json!({"metadata": {"finalizers": ["remora.dev/run"]}})).ok();
    // Long enough to be begun before, on a busy machine too.
    scene.assigned("late", &json!({"deadline": "90s"}));
    for name in ["cancelled", "deleted", "late"] {
        soon("it is begun", || played.begun().contains(&name.to_owned()));
    }
    scene.runs.change("cancelled", &json!({"cancel": true})).ok();
    scene.api().delete(&scene.runs.path("deleted")).ok();
    scene.becomes("cancelled", "Failed", "True", "Cancelled");
    scene.becomes("deleted", "Failed", "True", "Cancelled");
    scene.becomes("late", "Failed", "True", "DeadlineExceeded");
    for name in ["cancelled", "deleted", "late"] {
        assert_eq!(scene.status(name)["attempt"]["state"], "Ended", "{name}");
        assert_eq!(scene.status(name)["point"], Value::Null, "{name}");
    }
    let mut cancelled = played.cancelled();
    cancelled.sort();
    assert_eq!(cancelled, ["cancelled", "deleted", "late"]);
    let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
    let counted = || (count(&agent.counts.failed), count(&agent.counts.cancelled));
    soon("the late one alone has failed", || counted() == (1, 2));
}

#[test]
fn a_dead_agent_s_run_that_was_cancelled_meanwhile_is_ended_and_not_begun() {
    let (scene, played) = (Scene::new(), Played::default());
    scene.assigned("run", &json!({}));
    scene.says("run", &json!({"agent": "gone"}));
    scene.runs.change("run", &json!({"cancel": true})).ok();
    let _agent = scene.agent("agent", played.clone());
    scene.becomes("run", "Failed", "True", "Cancelled");
    assert!(played.begun().is_empty());
}

#[test]
fn an_agent_that_is_told_to_stop_gives_its_run_back_and_its_successor_begins_it_again() {
    let (scene, played) = (Scene::new(), Played::new(Act::StoreWhenTold));
    scene.assigned("run", &json!({}));
    let mut agent = scene.agent("agent", played.clone());
    soon("it has an attempt", || scene.status("run")["attempt"]["state"] == "Wanted");
    scene.stop(&mut agent);
    let status = scene.status("run");
    assert_eq!((&status["agent"], &status["attempt"]["state"]), (&Value::Null, &json!("Ended")), "{status:#}");
    assert_eq!(scene.condition("run", "Complete"), Some(("False".into(), "Interrupted".into())));
    assert_eq!(scene.condition("run", "Failed"), None);
    let _next = scene.agent("next", played.clone());
    soon("the next one begins it", || scene.status("run")["attempt"]["number"] == 2);
    played.release();
    scene.becomes("run", "Complete", "True", "Stored");
    assert_eq!(scene.condition("run", "Claimed"), Some(("True".into(), "Claimed".into())));
}

#[test]
pub(super) fn what_the_controller_has_ended_or_another_agent_has_claimed_is_let_go() {
    let (scene, played) = (Scene::new(), Played::new(Act::StoreWhenTold));
    let since = "2026-01-01T00:00:00Z";
    let _agent = scene.agent("agent", played.clone());
    for name in ["ended", "claimed"] {
        scene.assigned(name, &json!({}));
        soon("it has an attempt", || scene.status(name)["attempt"]["state"] == "Wanted");
    }
    let lost =
        json!({"type": "Failed", "status": "True", "reason": "AgentLost", "message": "", "lastTransitionTime": since});
    scene.says("ended", &json!({"conditions": [lost]}));
    let other = scene.pod("other");
    scene.says("claimed", &json!({"agent": other}));
    soon("both are cancelled", || played.cancelled().len() == 2);
    // One more is done after them: whatever they would write is written by then.
    played.act(Act::Store);
    scene.assigned("later", &json!({}));
    scene.becomes("later", "Complete", "True", "Stored");
    assert_eq!(scene.condition("ended", "Failed"), Some(("True".into(), "AgentLost".into())));
    let claimed = scene.status("claimed");
    assert_eq!((&claimed["agent"], &claimed["attempt"]["state"]), (&json!(other), &json!("Wanted")));
}

#[test]
pub(super) fn a_run_that_the_watch_shows_no_more_is_looked_at() {
    let (scene, played) = (Scene::new(), Played::new(Act::StoreWhenTold));
    scene.assigned("run", &json!({}));
    let agent = scene.agent("agent", played);
    soon("it has an attempt", || scene.status("run")["attempt"]["state"] == "Wanted");
    scene.says("run", &json!({"node": "another"}));
    let looks = format!("GET {}", scene.runs.path("run"));
    soon("it is looked at", || agent.shim.count(&looks) > 0);
}
