//! When they have a machine backed up.

use jiff::Timestamp;
use remora_core::policy::{PastRun, Question, Schedule};
use remora_plugins::{Host, SchedulePolicy};

use super::{builtin, fields, host, time, vm};

fn cron(host: &Host, settings: &str) -> SchedulePolicy {
    SchedulePolicy::load(host, builtin("cron"), settings).unwrap_or_else(|e| panic!("{settings}: {e:?}"))
}

async fn next(policy: &SchedulePolicy, after: &str, now: &str, seed: u64) -> Option<Timestamp> {
    let (after, now) = (time(after), time(now));
    let question = Question { vm: vm("vm", &[]), now, after, seed, runs: Vec::new() };
    policy.next(&[question]).await.unwrap().remove(0).start
}

/// Clocks in Prague go from 2:00 to 3:00 on 2026-03-29, and from 3:00 to 2:00 on 2026-10-25.
#[tokio::test]
async fn cron_runs_once_where_clocks_change() {
    let host = host();
    let nightly = cron(&host, r#"{"cron": "15 2 * * *", "timezone": "Europe/Prague"}"#);
    let table = [
        // An ordinary night.
        ("2026-01-10T12:00:00Z", "2026-01-11T01:15:00Z"),
        // 2:15 is left out: the first instant after the gap, 3:00 of summer.
        ("2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z"),
        ("2026-03-29T01:00:00Z", "2026-03-30T00:15:00Z"),
        // 2:15 comes twice: the first one, and no second.
        ("2026-10-24T12:00:00Z", "2026-10-25T00:15:00Z"),
        ("2026-10-25T00:15:00Z", "2026-10-26T01:15:00Z"),
    ];
    for (after, expected) in table {
        assert_eq!(next(&nightly, after, after, 0).await, Some(time(expected)), "after {after}");
    }
    // Not in the second of the two hours, whenever somebody asks in it.
    let late = next(&nightly, "2026-10-25T01:05:00Z", "2026-10-25T01:05:00Z", 0).await;
    assert_eq!(late, Some(time("2026-10-26T01:15:00Z")));
    let database = nightly.facts().iter().find(|(name, _)| name == "time zone database");
    assert!(database.is_some_and(|(_, version)| version.starts_with("20")), "{database:?}");
}

/// Each run follows the one before it: none is left out where clocks go forward, and none is made twice where they go back.
#[tokio::test]
async fn cron_runs_once_where_clocks_change_at_each_of_several_times() {
    let host = host();
    let table = [
        // Twice a day: in the gap at its end.
        (
            "30 2,14 * * *",
            "Europe/Prague",
            &["2026-03-28T13:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T12:30:00Z", "2026-03-30T00:30:00Z"][..],
        ),
        // And the first of those that come twice.
        (
            "30 2,14 * * *",
            "Europe/Prague",
            &["2026-10-24T12:30:00Z", "2026-10-25T00:30:00Z", "2026-10-25T13:30:00Z", "2026-10-26T01:30:00Z"],
        ),
        // Two in one gap are one run, and in the hour that comes twice they are two.
        (
            "0,30 2 * * *",
            "Europe/Prague",
            &["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z", "2026-03-30T00:30:00Z"],
        ),
        (
            "0,30 2 * * *",
            "Europe/Prague",
            &["2026-10-24T00:30:00Z", "2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:00:00Z"],
        ),
        // Clocks that go forward at midnight.
        (
            "15 0,1 * * *",
            "Africa/Cairo",
            &["2024-04-24T23:15:00Z", "2024-04-25T22:00:00Z", "2024-04-25T22:15:00Z", "2024-04-26T21:15:00Z"],
        ),
        // What follows the clock leaves out what it does not show, and runs as often as it shows it.
        ("30 * * * *", "Europe/Prague", &["2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z"]),
        ("30 * * * *", "Europe/Prague", &["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"]),
    ];
    for (expression, zone, runs) in table {
        let settings = serde_json::json!({"cron": expression, "timezone": zone}).to_string();
        let policy = cron(&host, &settings);
        for pair in runs.windows(2) {
            let found = next(&policy, pair[0], pair[0], 0).await;
            assert_eq!(found, Some(time(pair[1])), "{expression} in {zone} after {}", pair[0]);
        }
    }
}

/// In the night in which 2:00 to 3:00 comes twice, a window that ends at 2:30 ends when the clocks show that for good.
#[tokio::test]
async fn a_blackout_lasts_as_long_as_the_clocks_show_it() {
    let settings =
        r#"{"cron": "0 23 * * *", "timezone": "Europe/Prague", "blackout": [{"from": "22:00", "to": "02:30"}]}"#;
    let policy = cron(&host(), settings);
    for (now, expected) in [
        ("2026-10-24T23:15:00Z", "2026-10-25T01:30:00Z"),
        ("2026-10-25T01:15:00Z", "2026-10-25T01:30:00Z"),
        ("2026-10-25T01:30:00Z", "2026-10-24T21:00:00Z"),
        // An ordinary night.
        ("2026-10-26T00:15:00Z", "2026-10-26T01:30:00Z"),
    ] {
        assert_eq!(next(&policy, "2026-10-24T12:00:00Z", now, 0).await, Some(time(expected)), "at {now}");
    }
}

#[tokio::test]
async fn jitter_is_the_same_every_night_and_stays_within_its_bound() {
    let policy = cron(&host(), r#"{"cron": "0 2 * * *", "jitter": "30m"}"#);
    let mut starts = std::collections::HashSet::new();
    for seed in [1_u64, 99, 12_345_678_901, u64::MAX] {
        let first = next(&policy, "2026-01-10T12:00:00Z", "2026-01-10T12:00:00Z", seed).await.unwrap();
        let delay = first.duration_since(time("2026-01-11T02:00:00Z")).as_secs();
        assert!((0..=1_800).contains(&delay), "{delay}");
        let second = next(&policy, &first.to_string(), &first.to_string(), seed).await.unwrap();
        assert_eq!(second.duration_since(first).as_secs(), 24 * 3_600);
        starts.insert(delay);
    }
    assert!(starts.len() > 2, "{starts:?}");
}

#[tokio::test]
async fn what_was_missed_is_made_up_for_at_once_but_not_in_a_blackout() {
    let settings = r#"{"cron": "0 2 * * *", "blackout": [
        {"days": ["mon", "tue", "wed", "thu", "fri"], "from": "08:00", "to": "18:00"},
        {"from": "22:00", "to": "01:00"}]}"#;
    let policy = cron(&host(), settings);
    let missed = Some(time("2026-01-12T02:00:00Z"));
    let table = [
        // Monday, an hour late: past, so at once.
        ("2026-01-12T03:00:00Z", missed),
        // In the middle of the working day: when it ends.
        ("2026-01-12T12:00:00Z", Some(time("2026-01-12T18:00:00Z"))),
        // After it.
        ("2026-01-12T18:00:00Z", missed),
        // In a window that goes over midnight, before and after it.
        ("2026-01-12T23:00:00Z", Some(time("2026-01-13T01:00:00Z"))),
        ("2026-01-13T00:30:00Z", Some(time("2026-01-13T01:00:00Z"))),
        // On Saturday nobody works.
        ("2026-01-17T12:00:00Z", missed),
    ];
    for (now, expected) in table {
        assert_eq!(next(&policy, "2026-01-11T02:00:00Z", now, 0).await, expected, "at {now}");
    }
}

/// A year of minutes is no more work than two of them.
#[tokio::test]
async fn one_run_makes_up_for_all_that_was_missed_and_says_so() {
    let host = host();
    let table = [
        ("* * * * *", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z", "2026-01-01T00:01:00Z", true),
        ("0 2 * * *", "2026-01-01T12:00:00Z", "2026-01-03T02:00:00Z", "2026-01-02T02:00:00Z", true),
        ("0 2 * * *", "2026-01-01T12:00:00Z", "2026-01-03T01:59:59Z", "2026-01-02T02:00:00Z", false),
        ("0 2 * * *", "2026-01-01T12:00:00Z", "2026-01-01T12:00:00Z", "2026-01-02T02:00:00Z", false),
    ];
    for (expression, after, now, start, more) in table {
        let policy = cron(&host, &serde_json::json!({"cron": expression}).to_string());
        let (after, now) = (time(after), time(now));
        let question = Question { vm: vm("vm", &[]), now, after, seed: 0, runs: Vec::new() };
        let answer = policy.next(&[question]).await.unwrap().remove(0);
        assert_eq!(answer.start, Some(time(start)), "{expression} at {now}");
        assert_eq!(answer.reason.contains("makes up for all that were missed since"), more, "{}", answer.reason);
    }
}

#[test]
fn cron_settings_that_make_no_sense_are_told() {
    let host = host();
    for (settings, field) in [
        (r#"{"cron": "15 2 * *"}"#, "/cron"),
        (r#"{"cron": "0 0 30 2 *"}"#, "/cron"),
        (r#"{"cron": "15 2 * * *", "timezone": "Europe/Praha"}"#, "/timezone"),
        (r#"{"cron": "15 2 * * *", "jitter": "soon"}"#, "/jitter"),
        (r#"{"cron": "15 2 * * *", "jitter": "-5m"}"#, "/jitter"),
        (r#"{"cron": "15 2 * * *", "blackout": [{"from": "8", "to": "18:00"}]}"#, "/blackout/0/from"),
        (
            r#"{"cron": "15 2 * * *", "blackout": [{"days": ["monday"], "from": "08:00", "to": "18:00"}]}"#,
            "/blackout/0/days/0",
        ),
        (r#"{"cron": "15 2 * * *", "blackout": [[["mon"], "08:00", "18:00"]]}"#, "/blackout/0"),
        (r#"{"corn": "15 2 * * *"}"#, "/corn"),
        // What croner takes.
        (r#"{"cron": "1,,2 2 * * *"}"#, "/cron"),
        (r#"{"cron": "15 2 * * 1,"}"#, "/cron"),
        (r#"{"cron": "*/61 * * * *"}"#, "/cron"),
        (r#"{"cron": "0 0 * * 1,*/8"}"#, "/cron"),
        // Longer than the schedule ever pauses.
        (r#"{"cron": "15 2 * * *", "jitter": "99999d"}"#, "/jitter"),
        (r#"{"cron": "15 2 * * *", "jitter": "25h"}"#, "/jitter"),
        (r#"{"cron": "*/5 * * * *", "jitter": "6m"}"#, "/jitter"),
        (r#"{"cron": "0 0 29 2 *", "jitter": "99999d"}"#, "/jitter"),
        // All of the week.
        (r#"{"cron": "15 2 * * *", "blackout": [{"from": "00:00", "to": "00:00"}]}"#, "/blackout"),
        (
            r#"{"cron": "15 2 * * *", "blackout": [{"from": "08:00", "to": "20:00"}, {"from": "19:00", "to": "08:00"}]}"#,
            "/blackout",
        ),
        (
            r#"{"cron": "15 2 * * *", "blackout": [
                {"days": ["mon", "tue", "wed", "thu", "fri", "sat"], "from": "06:00", "to": "06:00"},
                {"days": ["sun"], "from": "05:00", "to": "08:00"}, {"days": ["sun"], "from": "08:00", "to": "07:00"}]}"#,
            "/blackout",
        ),
    ] {
        assert_eq!(fields(SchedulePolicy::load(&host, builtin("cron"), settings)), [field], "{settings}");
    }
}

/// What is like it, and makes sense.
#[test]
fn cron_settings_that_are_only_rare_are_taken() {
    let host = host();
    for settings in [
        r#"{"cron": "*/60 */24 * * *"}"#,
        r#"{"cron": "@daily", "jitter": "24h"}"#,
        // It pauses at night, in winter, and for four years.
        r#"{"cron": "*/10 8-18 * * *", "jitter": "2h"}"#,
        r#"{"cron": "0 0 1 4-9 *", "jitter": "60d"}"#,
        r#"{"cron": "0 0 29 2 *", "jitter": "500d"}"#,
        r#"{"cron": "15 2 * * *", "blackout": [{"from": "00:00", "to": "23:59"}]}"#,
        r#"{"cron": "15 2 * * *", "blackout": [
            {"days": ["mon", "tue", "wed", "thu", "fri", "sat"], "from": "06:00", "to": "06:00"}]}"#,
    ] {
        cron(&host, settings);
    }
}

#[tokio::test]
async fn adaptive_comes_sooner_to_a_vm_that_changes_more() {
    let host = host();
    let settings = r#"{"min": "1h", "max": "24h", "target": "1GiB"}"#;
    let policy = SchedulePolicy::load(&host, builtin("adaptive"), settings).unwrap();
    let now = time("2026-01-12T12:00:00Z");
    let hour = jiff::SignedDuration::from_hours(1);
    // Newest first, an hour apart; the oldest is the full one.
    let runs = |changed: u64| -> Vec<PastRun> {
        let run = |n: i32, changed| PastRun { time: now - hour * n, changed, size: 10 << 30, seconds: 60 };
        vec![run(0, changed), run(1, changed), run(2, 10 << 30)]
    };
    let question = |runs| Question { vm: vm("vm", &[]), now, after: now, seed: 0, runs };
    let table = [
        (runs(256 << 20), 4 * 3_600), // A quarter of the target an hour.
        (runs(4 << 30), 3_600),       // Four times the target: as often as allowed.
        (runs(0), 24 * 3_600),        // Nothing changes.
        (runs(10 << 30), 3_600),      // Only fulls: nothing is known.
        (Vec::new(), 0),              // No point yet: at once.
    ];
    for (runs, seconds) in table {
        let answers = policy.next(&[question(runs.clone())]).await.unwrap();
        assert_eq!(answers[0].start.unwrap().duration_since(now).as_secs(), seconds, "{runs:?}");
    }
    // A point of a clock that was years ahead does not tell when the next run is: it follows on what is settled.
    let mut ahead = runs(256 << 20);
    ahead[0].time = now + hour * 24 * 365 * 40;
    let start = policy.next(&[question(ahead)]).await.unwrap()[0].start.unwrap();
    assert_eq!(start.duration_since(now).as_hours(), 24);
    // What is due in a blackout, for the first time too, begins at its end.
    let within = r#"{"min": "1h", "max": "24h", "target": "1GiB", "blackout": [{"from": "12:00", "to": "18:00"}]}"#;
    let policy = SchedulePolicy::load(&host, builtin("adaptive"), within).unwrap();
    for (runs, start) in [
        (Vec::new(), "2026-01-12T18:00:00Z"),
        (runs(256 << 20), "2026-01-12T18:00:00Z"),
        (runs(0), "2026-01-13T18:00:00Z"),
    ] {
        assert_eq!(policy.next(&[question(runs.clone())]).await.unwrap()[0].start, Some(time(start)), "{runs:?}");
    }
    assert_eq!(
        fields(SchedulePolicy::load(&host, builtin("adaptive"), r#"{"min": "5s", "max": "1s", "target": "1GiB"}"#)),
        ["/min", "/max"]
    );
    let spread = r#"{"min": "1h", "max": "24h", "target": "1GiB", "jitter": "25h"}"#;
    assert_eq!(fields(SchedulePolicy::load(&host, builtin("adaptive"), spread)), ["/jitter"]);
}
