#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::runtime::{reflector, watcher};
use serde_json::json;

use super::*;
use crate::resources::Verify;

fn run(name: &str, vm: &str, status: &serde_json::Value) -> BackupRun {
    serde_json::from_value(json!({
        "apiVersion": "remora.dev/v1alpha1", "kind": "BackupRun",
        "metadata": {"name": name, "namespace": "shop", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"virtualMachine": vm, "repository": {"name": "offsite"}},
        "status": status,
    }))
    .unwrap()
}

fn condition(kind: &str, status: &str) -> Condition {
    Condition {
        type_: kind.into(),
        status: status.into(),
        reason: "Why".into(),
        message: "m".into(),
        observed_generation: None,
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
    }
}

fn stored(name: &str, vm: &str, begun: &str) -> BackupRun {
    let conditions = [condition("Complete", "True")];
    run(name, vm, &json!({"conditions": conditions, "startTime": begun, "point": "0011223344556677-1"}))
}

fn verified(name: &str, vm: &str, made: &str, status: &str) -> BackupRun {
    let mut run = run(name, vm, &json!({"conditions": [condition("Complete", "True"), condition("Verified", status)]}));
    run.metadata.creation_timestamp = Some(Time(made.parse().unwrap()));
    run.spec.verify = Verify::All;
    run
}

fn repository(name: &str, ready: Option<&str>) -> Repository {
    let conditions: Vec<_> = ready.map(|status| condition("Ready", status)).into_iter().collect();
    serde_json::from_value(json!({
        "apiVersion": "remora.dev/v1alpha1", "kind": "Repository",
        "metadata": {"name": name, "namespace": "remora"},
        "spec": {"url": "s3://bucket", "passphraseSecret": {"name": "passphrase"}},
        "status": {"conditions": conditions},
    }))
    .unwrap()
}

fn store<K>(objects: Vec<K>) -> Store<K>
where
    K: kube::Resource<DynamicType = ()> + Clone + 'static,
{
    let (store, mut writer) = reflector::store();
    for object in objects {
        writer.apply_watcher_event(&watcher::Event::Apply(object));
    }
    store
}

/// With something of everything.
fn full() -> Metrics {
    let metrics = Metrics::default();
    let failed = run("failed", "db", &json!({"conditions": [condition("Failed", "True")]}));
    metrics.leads();
    metrics.assigned(&failed, "2026-01-01T00:00:20Z".parse().unwrap());
    metrics.ended(&failed);
    let cancelled = Condition { reason: "Cancelled".into(), ..condition("Failed", "True") };
    let cancelled = run("cancelled", "db", &json!({"conditions": [cancelled]}));
    metrics.ended(&cancelled);
    metrics.failed(Kind::Repository);
    metrics.scheduled("nightly");
    metrics.waiting(2);
    metrics.watch_runs(store(vec![
        run("waits", "web", &json!({})),
        run("has-a-node", "web", &json!({"node": "one"})),
        run("at-work", "web", &json!({"node": "one", "agent": "uid"})),
        failed,
        cancelled,
        stored("older", "web", "2026-01-02T00:00:00Z"),
        stored("newer", "web", "2026-01-03T00:00:00Z"),
        stored("oldest", "web", "2026-01-01T00:00:00Z"),
        verified("damaged", "web", "2026-01-05T00:00:00Z", "False"),
        verified("not-known", "web", "2026-01-06T00:00:00Z", "Unknown"),
        verified("sound", "web", "2026-01-04T00:00:00Z", "True"),
        verified("sound-again", "db", "2026-01-05T00:00:00Z", "True"),
        verified("was-damaged", "db", "2026-01-04T00:00:00Z", "False"),
    ]));
    metrics.watch_repositories(store(vec![
        repository("one", Some("True")),
        repository("two", Some("False")),
        repository("three", None),
    ]));
    metrics
}

#[test]
fn what_there_is_is_counted_when_it_is_asked_for() {
    let text = full().text().unwrap();
    for line in [
        "remora_controller_leads 1",
        "remora_controller_assignment_wait_seconds_bucket{le=\"15.0\"} 0",
        "remora_controller_assignment_wait_seconds_bucket{le=\"60.0\"} 1",
        "remora_controller_assignment_wait_seconds_sum 20.0",
        "remora_controller_runs_ended_total{state=\"Failed\"} 1",
        "remora_controller_runs_ended_total{state=\"Cancelled\"} 1",
        "remora_controller_reconcile_errors_total{kind=\"Repository\"} 1",
        "remora_controller_runs{state=\"Waiting\"} 1",
        "remora_controller_runs{state=\"Assigned\"} 1",
        "remora_controller_runs{state=\"Running\"} 1",
        "remora_controller_runs{state=\"Complete\"} 8",
        "remora_controller_runs{state=\"Failed\"} 1",
        "remora_controller_runs{state=\"Cancelled\"} 1",
        "remora_controller_last_point_timestamp_seconds{vm=\"shop/web\"} 1767398400",
        "remora_controller_verified_point_damaged{vm=\"shop/web\"} 1",
        "remora_controller_verified_point_damaged{vm=\"shop/db\"} 0",
        "remora_controller_checkpoints_left{vm=\"shop/web\"} 0",
        "remora_controller_scheduled_runs_total{policy=\"nightly\"} 1",
        "remora_controller_scheduled_runs_waiting 2",
        "remora_controller_repositories{state=\"Ready\"} 1",
        "remora_controller_repositories{state=\"NotReady\"} 1",
        "remora_controller_repositories{state=\"Unknown\"} 1",
    ] {
        assert!(text.lines().any(|one| one == line), "wanted {line} in\n{text}");
    }
}

#[test]
fn damage_is_told_of_until_the_data_were_read_again_where_it_is() {
    let of_day = |day: u8, status| verified(&format!("day-{day}"), "web", &format!("2026-01-0{day}T00:00:00Z"), status);
    let changed = |mut run: BackupRun, change: fn(&mut BackupRun)| {
        change(&mut run);
        run
    };
    let elsewhere = |run| changed(run, |run| run.spec.repository.name = "elsewhere".into());
    let namespaced = |run| changed(run, |run| run.spec.repository.namespace = Some("remora".into()));
    let structure = |run| changed(run, |run| run.spec.verify = Verify::Structure);
    let damaged = || of_day(1, "False");
    for (runs, wanted) in [
        (vec![damaged()], Some(1)),
        (vec![damaged(), of_day(2, "True")], Some(0)),
        (vec![of_day(2, "True"), damaged()], Some(0)),
        (vec![damaged(), elsewhere(of_day(2, "True"))], Some(1)),
        (vec![damaged(), namespaced(of_day(2, "True"))], Some(1)),
        (vec![damaged(), elsewhere(of_day(2, "True")), of_day(3, "True")], Some(0)),
        (vec![damaged(), structure(of_day(2, "True"))], Some(1)),
        (vec![structure(damaged())], Some(1)),
        (vec![structure(of_day(2, "True"))], None),
    ] {
        let names: Vec<_> = runs.iter().map(|run| (run.spec.clone(), run.status.clone())).collect();
        let runs: Vec<_> = runs.into_iter().map(Arc::new).collect();
        assert_eq!(super::run::damaged_points(&runs).get("shop/web").copied(), wanted, "{names:#?}");
    }
}

#[test]
fn checkpoints_that_stay_are_counted_until_a_run_removes_them() {
    let made = |day: u8, left: bool| {
        let stay = left.then(|| condition("CheckpointsStay", "True"));
        let conditions: Vec<_> = [condition("Complete", "True")].into_iter().chain(stay).collect();
        let mut run = run(&format!("day-{day}"), "web", &json!({"conditions": conditions}));
        run.metadata.creation_timestamp = Some(Time(format!("2026-01-0{day}T00:00:00Z").parse().unwrap()));
        run
    };
    let (stay, go) = (|day| made(day, true), |day| made(day, false));
    let elsewhere = |mut run: BackupRun| {
        run.spec.repository.name = "elsewhere".into();
        run
    };
    let halted = |mut run: BackupRun| {
        run.status.as_mut().unwrap().halted = true;
        run
    };
    for (runs, wanted) in [
        (vec![go(1)], 0),
        (vec![stay(1), stay(2), stay(3)], 3),
        (vec![stay(3), go(2), stay(1)], 1),
        (vec![go(2), stay(1)], 0),
        (vec![stay(1), elsewhere(go(2))], 1),
        (vec![stay(1), elsewhere(stay(2))], 2),
        (vec![stay(1), halted(go(2))], 1),
    ] {
        let names: Vec<_> = runs.iter().map(|run| (run.spec.clone(), run.status.clone())).collect();
        let runs: Vec<_> = runs.into_iter().map(Arc::new).collect();
        assert_eq!(super::run::left_checkpoints(&runs).get("shop/web").copied(), Some(wanted), "{names:#?}");
    }
}

#[test]
fn what_runs_have_read_and_stored_is_added_up() {
    let metrics = Metrics::default();
    for (read, stored) in [(Some(100), Some(40)), (Some(7), None), (None, None)] {
        let conditions = [condition("Complete", "True")];
        let status = json!({"conditions": conditions, "readBytes": read, "storedBytes": stored});
        metrics.ended(&run("run", "web", &status));
    }
    let text = metrics.text().unwrap();
    for line in ["remora_controller_read_bytes_total 107", "remora_controller_stored_bytes_total 40"] {
        assert!(text.lines().any(|one| one == line), "wanted {line} in\n{text}");
    }
}

#[test]
fn who_does_not_lead_tells_of_no_runs() {
    let text = Metrics::default().text().unwrap();
    assert!(text.contains("remora_controller_leads 0"), "{text}");
    assert!(!text.contains("remora_controller_runs{"), "{text}");
}

#[test]
fn the_document_lists_every_metric_and_no_other() {
    let text = full().text().unwrap();
    let told: BTreeSet<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let document = include_str!("../../../../../docs/metrics.md");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    // Those of policies are compared where they are.
    let of_policies = |name: &&str| name.starts_with("remora_controller_policy_");
    let ours = rows.filter(|name| name.starts_with("remora_controller_")).filter(|name| !of_policies(name));
    let listed: BTreeSet<_> = ours.map(|name| name.trim_end_matches("_total")).collect();
    assert_eq!(listed, told);
}
