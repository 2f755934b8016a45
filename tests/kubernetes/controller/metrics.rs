//! What the controller counts of what happens to real objects.

use remora_tests::wait_until;
use serde_json::json;

use super::cluster::{SOON, Shop};

#[test]
fn a_run_is_counted_from_its_assignment_to_its_point() {
    let shop = Shop::open();
    let metric = |name: &str| shop.cluster.controller.metric(&format!("remora_controller_{name}"));
    // Other tests have runs too: what is theirs only adds.
    let at_least = |name: &str, value: f64| {
        let reached = || metric(name).is_some_and(|is| is >= value);
        wait_until(format_args!("{name} does not become {value}"), SOON, reached);
    };
    let waits = metric("assignment_wait_seconds_count").unwrap();
    let ended = metric("runs_ended_total{state=\"Complete\"}").unwrap();
    let newest = format!("last_point_timestamp_seconds{{vm=\"{}/web\"}}", shop.namespace);
    assert_eq!((metric("leads"), metric(&newest)), (Some(1.0), None));
    at_least("repositories{state=\"Ready\"}", 1.0);

    let run = shop.run("first", &json!({}));
    run.claim();
    at_least("assignment_wait_seconds_count", waits + 1.0);
    at_least("runs{state=\"Running\"}", 1.0);
    run.write("one", &json!({"startTime": "2026-01-02T00:00:00Z", "point": "0011223344556677-1"})).ok();
    assert_eq!(metric(&newest), None, "the run has not ended");
    run.end("Complete");
    at_least("runs_ended_total{state=\"Complete\"}", ended + 1.0);
    at_least("runs{state=\"Complete\"}", 1.0);
    wait_until("the newest point is not told", SOON, || metric(&newest) == Some(1_767_312_000.0));
}
