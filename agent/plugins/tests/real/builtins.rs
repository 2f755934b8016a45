//! What the built-in policies answer, as components in the production host.

use std::collections::BTreeMap;

use jiff::Timestamp;
use remora_core::policy::{
    Access, Action, Approval, Authorize, Effect, PastRun, Question, Retention, Schedule, Select, Subject, VmFacts,
};
use remora_core::retention::{Candidate, Fate};
use remora_core::{PointId, VmName};
use remora_plugins::{AuthorizePolicy, Host, Refused, RetentionPolicy, SchedulePolicy, SelectPolicy, builtins};

use super::components::host;

fn builtin(wanted: &str) -> &'static [u8] {
    builtins().find(|(name, _)| *name == wanted).unwrap_or_else(|| panic!("no {wanted}")).1
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn vm(name: &str, labels: &[(&str, &str)]) -> VmFacts {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>();
    VmFacts { labels, ..VmFacts::named(VmName::new(name).unwrap()) }
}

fn cron(host: &Host, settings: &str) -> SchedulePolicy {
    SchedulePolicy::load(host, builtin("cron"), settings).unwrap_or_else(|e| panic!("{settings}: {e:?}"))
}

async fn next(policy: &SchedulePolicy, after: &str, now: &str, seed: u64) -> Option<Timestamp> {
    let (after, now) = (time(after), time(now));
    let question = Question { vm: vm("vm", &[]), now, after, seed, runs: Vec::new() };
    policy.next(&[question]).await.unwrap().remove(0).start
}

/// The fields that a policy complains of.
fn fields<T: std::fmt::Debug>(loaded: Result<T, Refused>) -> Vec<String> {
    match loaded {
        Err(Refused::Settings(errors)) => errors.into_iter().map(|error| error.path).collect(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn labels_select_by_all_that_is_asked_for() {
    let host = host();
    let db = vm("db-1", &[("backup", "nightly"), ("tier", "gold")]);
    let web = vm("web-1", &[("backup", "nightly")]);
    let bare = vm("db-2", &[]);
    let table = [
        (r#"{"matchLabels": {"backup": "nightly"}}"#, [true, true, false]),
        (r#"{"matchLabels": {"backup": "nightly"}, "names": ["db-*"]}"#, [true, false, false]),
        (r#"{"matchExpressions": [{"key": "tier", "operator": "Exists"}]}"#, [true, false, false]),
        (r#"{"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["gold"]}]}"#, [false, true, true]),
        (r#"{"matchExpressions": [{"key": "tier", "operator": "In", "values": ["gold", "x"]}]}"#, [true, false, false]),
        (r#"{"matchExpressions": [{"key": "backup", "operator": "DoesNotExist"}]}"#, [false, false, true]),
        (r#"{"all": true, "excludeNames": ["db-2"]}"#, [true, true, false]),
        (r#"{"namespaces": ["prod"]}"#, [false, false, false]),
    ];
    for (settings, expected) in table {
        let policy = SelectPolicy::load(&host, builtin("labels"), settings).unwrap();
        let answers = policy.select(&[db.clone(), web.clone(), bare.clone()]).await.unwrap();
        assert_eq!(answers.iter().map(|answer| answer.selected).collect::<Vec<_>>(), expected, "{settings}");
    }
    let load = |settings| SelectPolicy::load(&host, builtin("labels"), settings);
    assert_eq!(fields(load("{}")), [""]);
    assert_eq!(
        fields(load(r#"{"matchExpressions": [{"key": "a", "operator": "In"}]}"#)),
        ["/matchExpressions/0/values"]
    );
    assert_eq!(
        fields(load(r#"{"matchExpressions": [{"key": "a", "operator": "in"}]}"#)),
        ["/matchExpressions/0/operator"]
    );
    assert_eq!(fields(load(r#"{"names": ["db-{1"]}"#)), ["/names/0"]);
}

/// The SDK reads settings for all of them.
#[test]
fn what_is_wrong_with_settings_is_told_with_its_place() {
    let host = host();
    for (settings, place, said) in [
        ("[]", "", "invalid type: sequence, expected a mapping"),
        (r#"["db-*"]"#, "", "invalid type: sequence, expected a mapping"),
        ("{", "", "it is no JSON: line 1, column 1"),
        (r#"{"nam": []}"#, "/nam", "unknown field `nam`"),
        (r#"{"all": null}"#, "/all", "invalid type: null, expected a boolean"),
        (r#"{"names": "db"}"#, "/names", r#"invalid type: string "db", expected a sequence"#),
        (r#"{"names": ["db", 1.5]}"#, "/names/1", "invalid type: a number with a fraction, expected a string"),
        (r#"{"names": [{}]}"#, "/names/0", "invalid type: map, expected a string"),
        (r#"{"matchLabels": {"a/~b": 7}}"#, "/matchLabels/a~1~0b", "invalid type: integer `7`, expected a string"),
        (r#"{"matchExpressions": [{"key": "a"}]}"#, "/matchExpressions/0", "missing field `operator`"),
        (
            r#"{"matchExpressions": [["a", "In", ["b"]]]}"#,
            "/matchExpressions/0",
            "invalid type: sequence, expected a mapping",
        ),
        (
            r#"{"matchExpressions": [{"key": "a", "operator": "in"}]}"#,
            "/matchExpressions/0/operator",
            "unknown variant `in`, expected one of `In`, `NotIn`",
        ),
        (
            r#"{"matchExpressions": [{"key": "a", "operator": {"In": 1}}]}"#,
            "/matchExpressions/0/operator/In",
            "invalid type: integer `1`, expected nothing",
        ),
    ] {
        let Err(Refused::Settings(errors)) = SelectPolicy::load(&host, builtin("labels"), settings) else {
            panic!("it takes {settings}");
        };
        assert_eq!(errors[0].path, place, "{settings}");
        assert!(errors[0].message.starts_with(said), "{settings}: {}", errors[0].message);
    }
}

#[tokio::test]
async fn more_vms_than_one_call_takes_are_all_answered() {
    let policy = SelectPolicy::load(&host(), builtin("labels"), r#"{"names": ["vm-*7"]}"#).unwrap();
    let vms: Vec<_> = (0..2_500).map(|n| vm(&format!("vm-{n}"), &[])).collect();
    let answers = policy.select(&vms).await.unwrap();
    assert_eq!(answers.len(), 2_500);
    assert!((0..).zip(answers).all(|(n, answer)| answer.selected == (n % 10 == 7)));
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

#[tokio::test]
async fn gfs_keeps_what_prune_keeps_and_the_host_keeps_the_rest() {
    let host = host();
    let day = jiff::SignedDuration::from_hours(24);
    let start = time("2026-01-01T02:00:00Z");
    let point = |n: u64| Candidate {
        point: PointId::new("0123456789abcdef", n).unwrap(),
        time: start + day * i32::try_from(n).unwrap(),
        held: (n == 3).then(|| time("2026-06-01T00:00:00Z")),
    };
    let points: Vec<_> = (1..=60).map(point).collect();
    let now = start + day * 61;
    let policy = RetentionPolicy::load(&host, builtin("gfs"), r#"{"daily": 7, "weekly": 4}"#).unwrap();
    let rules = remora_core::retention::Rules { daily: 7, weekly: 4, ..Default::default() };
    let name = VmName::new("vm").unwrap();
    let verdicts = policy.of_vm(vm("vm", &[])).judge(&name, &points, now).await.unwrap();
    assert_eq!(verdicts, remora_core::retention::plan(&points, &rules, now));
    assert!(verdicts[2].reason.starts_with("held"), "{:?}", verdicts[2]);
    // A policy that would drop all: the newest one stays.
    let policy = RetentionPolicy::load(&host, builtin("gfs"), r#"{"hourly": 0, "yearly": 1, "minCount": 0}"#).unwrap();
    let yearly = policy.of_vm(vm("vm", &[])).judge(&name, &points, now).await.unwrap();
    assert_eq!(yearly.iter().filter(|v| v.fate == Fate::Keep).count(), 2);
    assert_eq!(fields(RetentionPolicy::load(&host, builtin("gfs"), "{}")), [""]);
    assert_eq!(fields(RetentionPolicy::load(&host, builtin("gfs"), r#"{"daily": -1}"#)), ["/daily"]);
    assert_eq!(fields(RetentionPolicy::load(&host, builtin("gfs"), r#"{"daily": 1, "minAge": "long"}"#)), ["/minAge"]);
}

pub(crate) fn access(user: &str, groups: &[&str], path: &str, vm: VmFacts) -> Access {
    Access {
        subject: Subject {
            user: user.into(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            grants: Vec::new(),
        },
        action: Action::Read,
        vm,
        point: "0123456789abcdef-1".into(),
        point_time: time("2026-01-01T00:00:00Z"),
        path: path.as_bytes().to_vec(),
        now: time("2026-01-02T00:00:00Z"),
        approvals: Vec::new(),
    }
}

pub(crate) fn decide(policy: &AuthorizePolicy, request: &Access) -> (Effect, String) {
    let warm = policy.authorize(std::slice::from_ref(request)).unwrap().remove(0);
    // A new instance says the same as one that was used before.
    let fresh = policy.authorize_fresh(std::slice::from_ref(request)).unwrap().remove(0);
    assert_eq!(fresh, warm);
    (warm.effect, warm.code)
}

#[test]
fn owners_are_those_whom_labels_grants_or_settings_name() {
    let policy = AuthorizePolicy::load(&host(), builtin("owners"), r#"{"groups": ["backup-admins"]}"#).unwrap();
    let owned = || vm("db", &[("remora.dev/owner", "alice, bob"), ("remora.dev/owner-group", "dba")]);
    let granted = {
        let mut access = access("carol", &[], "/x", owned());
        access.subject.grants = vec!["get virtualmachines".into(), "update virtualmachines".into()];
        access
    };
    for (request, allowed) in [
        (access("alice", &[], "/x", owned()), true),
        (access("bob", &[], "/x", owned()), true),
        (access("ali", &[], "/x", owned()), false),
        (access("carol", &["dba"], "/x", owned()), true),
        (access("carol", &["web"], "/x", owned()), false),
        (access("carol", &["backup-admins"], "/x", owned()), true),
        (granted, true),
        (access("", &[""], "/x", vm("db", &[("remora.dev/owner", ""), ("remora.dev/owner-group", "")])), false),
        (access("alice", &[], "/x", vm("db", &[])), false),
    ] {
        let expected = if allowed { Effect::Allow } else { Effect::Abstain };
        assert_eq!(decide(&policy, &request).0, expected, "{:?}", request.subject);
    }
}

#[test]
fn owners_of_a_namespace_own_its_vms_and_no_others() {
    let host = host();
    let load = |settings| AuthorizePolicy::load(&host, builtin("owners"), settings);
    let of_shop = r#"{"namespaces": {"shop": {"users": ["alice"], "groups": ["shop-admins"]}, "lab": {"users": ["bob"]}},
        "users": ["root"]}"#;
    let policy = load(of_shop).unwrap();
    let within = |namespace: &str| VmFacts { namespace: namespace.into(), ..vm("db", &[]) };
    for (user, groups, namespace, allowed) in [
        ("alice", &[][..], "shop", true),
        ("carol", &["web", "shop-admins"], "shop", true),
        ("root", &[], "shop", true),
        ("bob", &[], "lab", true),
        ("bob", &[], "shop", false),
        ("alice", &[], "lab", false),
        ("carol", &["shop-admins"], "lab", false),
        ("carol", &["alice"], "shop", false),
        ("", &["shop-admins"], "shop", false),
        ("alice", &[], "shopping", false),
        ("alice", &[], "", false),
    ] {
        let expected = if allowed { Effect::Allow } else { Effect::Abstain };
        let decided = decide(&policy, &access(user, groups, "/x", within(namespace)));
        assert_eq!(decided.0, expected, "{user:?} {groups:?} in {namespace:?}");
    }
    // A plain host's VM whose name looks like one of the namespace's is not.
    assert_eq!(decide(&policy, &access("alice", &[], "/x", vm("shop/db", &[]))).0, Effect::Abstain);

    for (settings, field) in [
        (r#"{"namespaces": {"": {"users": ["alice"]}}}"#, "/namespaces/"),
        (r#"{"namespaces": {"shop-*": {"users": ["alice"]}}}"#, "/namespaces/shop-*"),
        (r#"{"namespaces": {"shop/~db": {"users": ["alice"]}}}"#, "/namespaces/shop~1~0db"),
        (r#"{"namespaces": {"shop": {}}}"#, "/namespaces/shop"),
        (r#"{"namespaces": {"shop": {"users": [], "groups": []}}}"#, "/namespaces/shop"),
        (r#"{"namespaces": {"shop": {"user": ["alice"]}}}"#, "/namespaces/shop/user"),
    ] {
        assert_eq!(fields(load(settings)), [field], "{settings}");
    }
}

/// Rights of Kubernetes alone can make an owner: those that the settings name in the place of `update virtualmachines`.
#[test]
fn owners_by_what_the_cluster_lets_them_do_are_those_with_a_grant_of_the_settings() {
    let policy = AuthorizePolicy::load(&host(), builtin("owners"), r#"{"grants": ["get virtualmachines"]}"#).unwrap();
    for (grants, allowed) in [
        (&["get virtualmachines"][..], true),
        (&["list pods", "get virtualmachines"], true),
        (&["update virtualmachines"], false),
        (&["get virtualmachines/status"], false),
        (&[], false),
    ] {
        let mut request = access("alice", &[], "/x", VmFacts { namespace: "shop".into(), ..vm("db", &[]) });
        request.subject.grants = grants.iter().map(|grant| (*grant).to_owned()).collect();
        let expected = if allowed { Effect::Allow } else { Effect::Abstain };
        assert_eq!(decide(&policy, &request).0, expected, "{grants:?}");
    }
}

#[test]
fn denied_paths_are_denied_wherever_they_are_served() {
    let settings = r#"{"denyPaths": ["/srv/hr/**", "/**/*.key"],
        "rules": [{"groups": ["web"], "allowPaths": ["/root/var/www/**"]}, {"users": ["eve"], "denyPaths": ["/**"]}]}"#;
    let host = host();
    let policy = AuthorizePolicy::load(&host, builtin("paths"), settings).unwrap();
    let vm = || vm("vm", &[]);
    for (user, groups, path, expected) in [
        ("a", &[][..], "/root/srv/hr/pay.ods", Effect::Deny),
        ("a", &[], "/vda/2/srv/hr/pay.ods", Effect::Deny),
        ("a", &[], "/srv/hr", Effect::Deny),
        ("a", &[], "/root/srv/hr", Effect::Deny),
        ("a", &[], "/root/srv/hrx/pay.ods", Effect::Abstain),
        ("a", &[], "/root/etc/tls/a.key", Effect::Deny),
        ("a", &["web"], "/root/var/www/index.html", Effect::Allow),
        ("a", &["web"], "/root/var/www/site.key", Effect::Deny),
        ("a", &["db"], "/root/var/www/index.html", Effect::Abstain),
        // What is allowed stands for itself: not for the same name somewhere below.
        ("a", &["web"], "/home/a/root/var/www/x", Effect::Abstain),
        ("eve", &["web"], "/root/var/www/index.html", Effect::Deny),
    ] {
        assert_eq!(decide(&policy, &access(user, groups, path, vm())).0, expected, "{user} {path}");
    }
    let mut request = access("a", &[], "", vm());
    request.path = b"/root/srv/hr/\xff\xfe".to_vec();
    assert_eq!(decide(&policy, &request).0, Effect::Deny, "a name that is no text");
    let load = |settings| AuthorizePolicy::load(&host, builtin("paths"), settings);
    assert_eq!(fields(load("{}")), [""]);
    assert_eq!(
        fields(load(r#"{"denyPaths": ["srv"], "rules": [{"allowPaths": ["/{"]}]}"#)),
        ["/denyPaths/0", "/rules/0/allowPaths/0", "/rules/0"]
    );
}

/// Whoever writes one of these thinks that it covers more than it does.
#[test]
fn globs_that_would_cover_less_than_they_seem_to_are_told() {
    let host = host();
    let load = |glob: &str| {
        let settings = serde_json::json!({"denyPaths": [glob]}).to_string();
        AuthorizePolicy::load(&host, builtin("paths"), &settings)
    };
    for glob in [
        "/srv/hr**",
        "/srv/**.key",
        "/srv/**hr/**",
        "/srv/***",
        "/a,**",
        "/{a,b}**",
        "/srv/hr/",
        "/srv//hr",
        "/srv/./hr",
        "/srv/../hr/**",
    ] {
        assert_eq!(fields(load(glob)), ["/denyPaths/0"], "{glob}");
    }
    for glob in ["/", "/**", "/**/*.key", "/srv/**/hr/**", "/srv/{hr/**,**/pay}", "/a/\\**", "/...", "/.x/..y"] {
        load(glob).unwrap_or_else(|error| panic!("{glob}: {error:?}"));
    }
}

/// What is known of a glob beforehand never changes what it covers: the same as of asking the matcher everywhere.
#[test]
fn globs_cover_what_the_matcher_says() {
    let globs = [
        "/a/**",
        "/**",
        "/a",
        "/*",
        "/**/a",
        "/**/*.key",
        "/a/**/b",
        "/a/*/b",
        "/{a,b}/**",
        "/a/{x.key,b/**}",
        "/[ab]/x*",
        "/a?",
        "/a/b.key",
        "/\\a/b",
        "/a/**/b.key",
        "/**/a/**",
        "/b/*.k{ey,ex}",
        "/{a/**,b}/x.key",
        "/**/[!a]",
        "/a]b",
    ];
    let names = ["a", "b", "aa", "x.key", "b.key", "a]b"];
    let mut paths = vec![String::new(), "/".into()];
    for a in names {
        paths.push(format!("/{a}"));
        for b in names {
            paths.push(format!("/{a}/{b}"));
            paths.extend(names.map(|c| format!("/{a}/{b}/{c}")));
        }
    }
    let requests: Vec<_> = paths.iter().map(|path| access("u", &[], path, vm("vm", &[]))).collect();
    let covers = |glob: &str, path: &str| {
        fast_glob::glob_match(glob, path)
            || glob.strip_suffix("/**").is_some_and(|folder| fast_glob::glob_match(folder, path))
    };
    let anywhere =
        |glob: &str, path: &str| covers(glob, path) || path.match_indices('/').any(|(n, _)| covers(glob, &path[n..]));
    let host = host();
    let mut covered = 0;
    for glob in globs {
        for (field, expected, effect) in [
            ("denyPaths", &anywhere as &dyn Fn(&str, &str) -> bool, Effect::Deny),
            ("allowPaths", &covers as &dyn Fn(&str, &str) -> bool, Effect::Allow),
        ] {
            let settings = serde_json::json!({ field: [glob] }).to_string();
            let policy = AuthorizePolicy::load(&host, builtin("paths"), &settings).unwrap();
            for (path, decision) in paths.iter().zip(policy.authorize(&requests).unwrap()) {
                assert_eq!(decision.effect == effect, expected(glob, path), "{field} {glob} {path:?}");
                covered += usize::from(decision.effect == effect);
            }
        }
    }
    assert!(covered > 1_000, "{covered}");
}

#[test]
fn four_eyes_wants_the_consent_of_somebody_else() {
    let settings = r#"{"paths": ["/srv/hr/**"], "approvers": ["hr-leads"]}"#;
    let policy = AuthorizePolicy::load(&host(), builtin("four-eyes"), settings).unwrap();
    let approved = |by: &str, group: &str, granted: &str, expires: &str| {
        let mut request = access("alice", &["hr-leads"], "/root/srv/hr/pay.ods", vm("vm", &[]));
        request.approvals = vec![Approval {
            user: by.into(),
            groups: vec![group.into()],
            granted: time(granted),
            expires: time(expires),
        }];
        request
    };
    let (before, after) = ("2026-01-01T00:00:00Z", "2026-01-03T00:00:00Z");
    for (request, code) in [
        (access("alice", &["hr-leads"], "/root/srv/hr/pay.ods", vm("vm", &[])), "approval-needed"),
        (access("alice", &[], "/root/etc/passwd", vm("vm", &[])), "not-sensitive"),
        (approved("bob", "hr-leads", before, after), "approved"),
        (approved("alice", "hr-leads", before, after), "approval-needed"),
        (approved("bob", "friends", before, after), "approval-needed"),
        (approved("", "hr-leads", before, after), "approval-needed"),
        (approved("bob", "hr-leads", before, "2026-01-02T00:00:00Z"), "approval-needed"),
        (approved("bob", "hr-leads", after, after), "approval-needed"),
    ] {
        assert_eq!(decide(&policy, &request).1, code, "{:?}", request.approvals);
    }
    let mut listed = access("alice", &[], "/root/srv/hr", vm("vm", &[]));
    listed.action = Action::List;
    assert_eq!(decide(&policy, &listed).1, "not-sensitive", "only reading needs consent, unless actions says more");
}
