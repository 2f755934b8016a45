//! The conformance kit finds nothing wrong with what is right, and what is wrong with the rest.

use remora_plugins::builtins;
use remora_plugins::conformance::{Depth, Outcome, PolicyTrial, Report, policy};

use super::components::{options, selector};

fn trial(settings: &str) -> PolicyTrial {
    let program = options().compiler;
    PolicyTrial { settings: settings.into(), seed: 7, questions: 300, program, ..PolicyTrial::default() }
}

/// The checks that failed, each with why.
pub(crate) fn failed(report: &Report) -> Vec<(&str, &str)> {
    let failed = report.checks.iter().filter(|check| check.outcome == Outcome::Failed);
    failed.map(|check| (check.name.as_str(), check.why.as_deref().unwrap_or_default())).collect()
}

/// Whether a check failed, and said so.
#[track_caller]
pub(crate) fn assert_failed(report: &Report, check: &str, said: &str) {
    let found = failed(report).into_iter().any(|(name, why)| name.contains(check) && why.contains(said));
    assert!(found, "{check:?} did not fail with {said:?}: {:#?}", failed(report));
}

#[track_caller]
pub(crate) fn assert_passed(report: &Report, check: &str) {
    let found = report.checks.iter().find(|found| found.name.contains(check)).map(|found| found.outcome);
    assert_eq!(found, Some(Outcome::Passed), "{check:?}: {:#?}", report.checks);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_built_in_policies_hold_all_that_is_tried() {
    for (name, component) in builtins() {
        let settings = match name {
            "labels" => r#"{"matchLabels": {"backup": "nightly"}, "names": ["db-*"]}"#,
            "cron" => {
                r#"{"cron": "15 2 * * *", "timezone": "Europe/Prague", "jitter": "30m",
                    "blackout": [{"days": ["mon"], "from": "08:00", "to": "18:00"}]}"#
            }
            "adaptive" => r#"{"min": "1h", "max": "24h", "target": "1GiB"}"#,
            "gfs" => r#"{"daily": 7, "weekly": 4, "minAge": "36h"}"#,
            "owners" => r#"{"groups": ["backup-admins"], "namespaces": {"shop": {"users": ["alice"]}}}"#,
            "paths" => {
                r#"{"denyPaths": ["/srv/hr/**"], "rules": [{"groups": ["web"], "allowPaths": ["/root/var/www/**"]}]}"#
            }
            _ => r#"{"paths": ["/srv/hr/**"], "approvers": ["hr-leads"]}"#,
        };
        let report = policy(component.to_vec(), trial(settings), Depth::Test).await.unwrap();
        assert_eq!(failed(&report), [], "{name}");
        assert!(report.passed >= 7 && report.figures.len() >= 6, "{name}: {report:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_are_to_be_refused_and_golden_cases_are_tried_too() {
    let (_, labels) = builtins().find(|(name, _)| *name == "labels").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    write(
        "nightly.yaml",
        "kind: BackupPolicy\nname: nightly\nselect: {module: builtin:labels, settings: {names: [db-*]}}\n\
         schedule: {module: builtin:cron, settings: {cron: '15 2 * * *'}}\ntarget: {repository: r}\n",
    );
    let cases = "kind: PolicyTest\npolicies: [nightly.yaml]\ncases:\n\
         - {name: right, select: {policy: nightly, vm: {name: db-1}, expect: {selected: true}}}\n\
         - {name: wrong, select: {policy: nightly, vm: {name: db-1}, expect: {selected: false}}}\n";
    let cases = write("cases.yaml", cases);
    let trial = PolicyTrial {
        refused: Some("[{settings: {names: 7}, field: /names}, {settings: {names: [db-1]}}]".into()),
        cases: vec![cases],
        ..trial(r#"{"names": ["db-*"]}"#)
    };
    let report = policy(labels.to_vec(), trial, Depth::Test).await.unwrap();
    assert_passed(&report, r#"refuses {"names":7}"#);
    assert_failed(&report, r#"refuses {"names":["db-1"]}"#, "it takes them");
    assert_passed(&report, "cases.yaml: right");
    assert_failed(&report, "cases.yaml: wrong", "expected selected: false");
    assert_eq!(failed(&report).len(), 2, "{report:#?}");
}

/// One verdict for each question, all alike, made by `verdict` at the address in local 3.
fn answers(verdict: &str) -> String {
    format!(
        "(local $n i32) (local $at i32)
        (local.set $at (i32.const 8192))
        (block $done (loop $more
            (br_if $done (i32.ge_u (local.get $n) (local.get 1)))
            (i32.store (local.get $at) (i32.const 0))
            (i32.store offset=4 (local.get $at) (i32.const 64))
            (i32.store offset=8 (local.get $at) (i32.const 0))
            {verdict}
            (local.set $at (i32.add (local.get $at) (i32.const 12)))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br $more)))
        (i32.store (i32.const 64) (i32.const 8192))
        (i32.store (i32.const 68) (local.get 1))
        (i32.const 64)"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_remembers_or_takes_any_settings_is_found() {
    // What it says depends on how often it was asked.
    let remembering = answers(
        "(global.set $asked (i32.add (global.get $asked) (i32.const 1)))
         (i32.store8 (local.get $at) (i32.and (global.get $asked) (i32.const 1)))",
    );
    let component = selector("(i32.const 0)", &remembering, "(global $asked (mut i32) (i32.const 0))");
    let report = policy(component, trial("{}"), Depth::Test).await.unwrap();
    assert_passed(&report, "answers random questions");
    assert_failed(&report, "equal questions get equal answers", "question");
    assert_failed(&report, "refuses a setting that it does not have", "no-such-setting");
    // One that always says the same has the second fault only.
    let constant = selector("(i32.const 0)", &answers(""), "");
    let report = policy(constant, trial("{}"), Depth::Test).await.unwrap();
    assert_passed(&report, "equal questions get equal answers");
    assert_failed(&report, "refuses settings that are none", "it takes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_traps_or_hangs_at_some_question_is_found_and_the_question_named() {
    for (fault, said) in [("unreachable", "it trapped"), ("(loop $for_ever (br $for_ever))", "did not answer within")] {
        // At the first batch of seven questions: no canary asks so much.
        let at_seven = format!("(if (i32.eq (local.get 1) (i32.const 7)) (then {fault}))");
        let body = answers("").replacen(
            "(local.set $at (i32.const 8192))",
            &format!("{at_seven} (local.set $at (i32.const 8192))"),
            1,
        );
        let report = policy(selector("(i32.const 0)", &body, ""), trial("{}"), Depth::Test).await.unwrap();
        assert_failed(&report, "answers random questions", said);
        assert_failed(&report, "answers random questions", "questions 1 to 8");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_policy_is_told_and_tried_no_further() {
    let report = policy(wat::parse_str("(module)").unwrap(), trial("{}"), Depth::Test).await.unwrap();
    assert_failed(&report, "is a component that imports nothing", "core module");
    assert_failed(&report, "is a component that imports nothing", ". Make a component of it: ");
    assert_eq!(report.checks.len(), 2, "{report:#?}");
}
