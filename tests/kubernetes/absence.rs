//! An API server that is away for ten minutes, with the controller as it is and an agent whose engine and vault are real: what
//! was in its middle goes on and ends as if nothing had been, and what was due meanwhile is made after it.
//!
//! Of all tests of this tier it is the first to begin, by its name: it waits for as long as it says. Nothing is awaited by
//! that: so much time passing is what is tried.

mod agent;
mod machine;
mod world;

use std::thread;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use remora_tests::{Mark, wait_until};
use serde_json::{Value, json};

use self::machine::MIDDLE;
use self::world::{SOON, World};

/// So long it is away.
const AWAY: Duration = Duration::from_mins(10);

/// A minute in which it is away, if it goes soon: as a time, and as `builtin:cron` has it. What policies ask for is known long
/// before it, on a busy machine too.
fn a_minute() -> (Timestamp, String) {
    let later = Timestamp::now() + SignedDuration::from_mins(8);
    let minute = Timestamp::from_second(later.as_second() / 60 * 60).unwrap();
    let at = minute.to_zoned(TimeZone::UTC);
    (minute, format!("{} {} {} {} *", at.minute(), at.hour(), at.day(), at.month()))
}

/// A policy is in force that has the machine `other` backed up at a time.
fn schedule(world: &World, cron: &str) {
    let policy = format!(
        "kind: BackupPolicy\nname: nightly\n\
         select: {{module: builtin:labels, settings: {{namespaces: [shop], matchLabels: {{backup: nightly}}}}}}\n\
         schedule: {{module: builtin:cron, settings: {{cron: \"{cron}\"}}}}\ntarget: {{repository: offsite}}\n"
    );
    world.deployed.controller.policies().put(&[("nightly.yaml", &policy)]);
    // The controller has written down since when it selects the machine.
    let path = "/api/v1/namespaces/remora/configmaps/remora-controller-schedule";
    let known =
        || world.api().look(path).body["data"]["nightly"].as_str().is_some_and(|text| text.contains("shop/other"));
    wait_until("the policy is not in force", SOON, known);
}

/// How many requests of remora's programs the API server has answered since then, and how many of these made a run.
fn asked(world: &World, since: Mark) -> (usize, usize) {
    let (mut asked, mut made) = (0, 0);
    world.api().asked(since, world.api().mark(), |request| {
        asked += usize::from(request.user.starts_with("remora-"));
        let makes = request.verb == "create" && request.resource == "backupruns" && request.code < 300;
        made += usize::from(makes && request.user == "remora-controller");
    });
    (asked, made)
}

#[test]
fn an_api_server_that_is_away_for_ten_minutes_costs_nothing_but_lateness() {
    let world = World::start();
    world.backup("first", "web");
    world.job_runs("first", "web");
    world.ends_well("backupruns", "first", "Stored");
    world.job_ends("first", "web");

    // A backup and a restore are in their middle.
    let (host, gate) = (world.host("web"), &world.engine.gate);
    let news = vec![7; 70_000];
    for at in [0, MIDDLE, 7 << 20] {
        host.write(0, at, &news);
    }
    let written = host.bytes(0);
    gate.shut();
    world.backup("second", "web");
    world.job_runs("second", "web");
    wait_until("the backup does not get to its middle", SOON, || gate.is_waited_for());
    world.restores.shut();
    world.restore("restore", &world.status("first")["point"]);
    wait_until("the restore does not begin", SOON, || world.restores.is_waited_for());
    host.write(0, MIDDLE, b"after the instant that the backup shows");
    let (minute, cron) = a_minute();
    schedule(&world, &cron);
    let (controller, begin) = (world.deployed.controller.pid(), world.api().mark());

    assert!(Timestamp::now() < minute, "{minute} has passed before the API server went");
    world.api_server_goes();
    thread::sleep(AWAY / 2);
    let (middle, heartbeat) = (world.api().mark(), world.status("second")["heartbeat"].clone());
    // What waited reads on, while nobody can be told.
    gate.open();
    world.restores.open();
    thread::sleep(AWAY / 2);
    assert_eq!(asked(&world, middle).0, 0, "somebody has reached it");
    assert_eq!(world.status("second")["heartbeat"], heartbeat);
    assert_eq!((world.by_policy(), Timestamp::now() > minute), (Vec::new(), true));
    world.api_server_comes_back();

    world.ends_well("backupruns", "second", "Stored");
    world.job_ends("second", "web");
    let second = world.status("second");
    assert_eq!((&second["decision"], &second["attempt"]["number"]), (&json!("incremental"), &json!(1)), "{second:#}");
    assert_eq!(second["agent"], json!(world.agent));
    assert!(world.stored("second") == *written, "the point has other bytes");
    world.worker_goes("restore");
    world.ends_well("restoreruns", "restore", "Restored");

    let due = || world.by_policy().first().map(|run| run["metadata"].clone());
    wait_until("what was due is not made", SOON, || due().is_some());
    let due = due().unwrap();
    let when: Timestamp = text(&due["annotations"]["remora.dev/due"]).parse().unwrap();
    assert_eq!(when, minute, "{due:#}");
    let name = text(&due["name"]);
    world.job_runs(name, "other");
    world.ends_well("backupruns", name, "Stored");
    world.job_ends(name, "other");
    assert!(world.stored(name) == *world.host("other").bytes(0), "the point has other bytes");

    // Nor does it cost the next one a reread.
    world.backup("third", "web");
    world.job_runs("third", "web");
    world.ends_well("backupruns", "third", "Stored");
    assert_eq!(world.status("third")["decision"], "incremental");
    assert!(world.stored("third") == *host.bytes(0), "the point has other bytes");
    assert_eq!(asked(&world, begin).1, 1, "what was due is made once");
    assert_eq!(*world.engine.begun.lock().unwrap(), ["first", "second", name, "third"]);
    assert_eq!(world.deployed.controller.pid(), controller, "the controller has ended");
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}
