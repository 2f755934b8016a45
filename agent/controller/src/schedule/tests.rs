use std::path::Path;

use remora_core::VmName;
use remora_core::policy::{Ending, PastRun, Word};
use remora_plugins::set::Snapshot;
use remora_plugins::{Host, HostOptions};

use super::*;

const NIGHTLY: &str = "\
kind: BackupPolicy
name: nightly
select:   {module: builtin:labels, settings: {matchLabels: {backup: nightly}}}
schedule: {module: builtin:cron, settings: {cron: 0 2 * * *}}
target:   {repository: offsite}
";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn generation(folder: &Path, text: &str) -> Arc<Generation> {
    std::fs::write(folder.join("nightly.yaml"), text).unwrap();
    let host = Host::new(&HostOptions::default()).unwrap();
    Arc::new(Generation::default().next(&host, &Snapshot::read(folder).unwrap(), at("2026-01-01T00:00:00Z")))
}

/// A controller that has just started to act.
fn controller(text: &str) -> (watch::Sender<Arc<Generation>>, ByPolicy) {
    let folder = tempfile::tempdir().unwrap();
    let (sender, policies) = watch::channel(generation(folder.path(), text));
    (sender, ByPolicy::new(policies, PolicyMetrics::default()))
}

fn machines() -> Vec<VmFacts> {
    let machine = |name: &str, backup: &str| VmFacts {
        namespace: "shop".into(),
        labels: [("backup".to_owned(), backup.to_owned())].into(),
        ..VmFacts::named(VmName::new(format!("shop/{name}")).unwrap())
    };
    vec![machine("db", "never"), machine("web", "nightly")]
}

fn run(begun: &str, ending: Ending) -> ScheduledRun {
    let (policy, vm) = ("nightly".into(), VmName::new("shop/web").unwrap());
    ScheduledRun { policy, vm, begun: at(begun), ending, verified: Verified::No }
}

fn made(time: &str) -> Ending {
    Ending::Made(PastRun { time: at(time), changed: 1, size: 2, seconds: 3 })
}

async fn due(controller: &mut ByPolicy, runs: &[ScheduledRun], now: &str) -> Vec<DueRun> {
    controller.due(machines(), runs, at(now)).await
}

#[tokio::test]
async fn a_controller_that_follows_another_knows_since_when_a_machine_is_selected() {
    let (_keep, mut first) = controller(NIGHTLY);
    assert!(due(&mut first, &[], "2026-01-10T12:00:00Z").await.is_empty());
    let since = first.since();
    assert_eq!(since["nightly"].len(), 1, "{since:?}");
    // It is away over the night. Who begins anew takes the machine for new.
    let night = "2026-01-11T03:00:00Z";
    let (_keep, mut forgetful) = controller(NIGHTLY);
    assert!(due(&mut forgetful, &[], night).await.is_empty());
    let (_keep, mut second) = controller(NIGHTLY);
    second.remember(&since);
    let due = due(&mut second, &[], night).await;
    assert_eq!(due.len(), 1);
    assert_eq!((due[0].vm.name.as_str(), due[0].after), ("shop/web", at("2026-01-10T12:00:00Z")));
    assert_eq!((due[0].start, due[0].repository.as_str()), (at("2026-01-11T02:00:00Z"), "offsite"));
    let policy = Arc::clone(second.policies.borrow().backups().next().unwrap().0);
    let Word { digest, settings, reason } = &due[0].word;
    assert_eq!(*digest, policy.schedule.digest().to_string());
    assert_eq!(*settings, policy.schedule.settings_hash().to_string());
    assert!(reason.starts_with("the occasion "), "{reason}");
}

#[tokio::test]
async fn a_run_has_the_scratch_of_its_policy_and_the_cluster_s_default_if_that_names_none() {
    let runs = [run("2026-01-10T02:00:01Z", made("2026-01-10T02:00:02Z"))];
    let scratch = "{repository: offsite, scratch: {storageClassName: fast}}";
    for (target, class) in [("{repository: offsite}", ""), (scratch, "fast")] {
        let (_keep, mut controller) = controller(&NIGHTLY.replace("{repository: offsite}", target));
        let due = due(&mut controller, &runs, "2026-01-11T02:00:00Z").await;
        let classes: Vec<_> = due.iter().map(|due| due.scratch.storage_class_name.as_str()).collect();
        assert_eq!(classes, [class], "{target}");
    }
}

#[tokio::test]
async fn a_run_has_the_deadline_of_its_policy() {
    let runs = [run("2026-01-10T02:00:01Z", made("2026-01-10T02:00:02Z"))];
    for (more, deadline) in [("", None), ("deadline: 12h\n", Some(Duration::from_hours(12)))] {
        let (_keep, mut controller) = controller(&format!("{NIGHTLY}{more}"));
        let due = due(&mut controller, &runs, "2026-01-11T02:00:00Z").await;
        assert_eq!(due.iter().map(|due| due.deadline).collect::<Vec<_>>(), [deadline], "{more}");
    }
}

#[tokio::test]
async fn what_runs_tell_is_not_done_again_and_what_was_missed_is_made_up_for_once() {
    let (_keep, mut controller) = controller(NIGHTLY);
    let older = run("2026-01-10T02:00:01Z", made("2026-01-10T02:00:02Z"));
    let newer = run("2026-01-11T02:00:01Z", made("2026-01-11T02:00:02Z"));
    // In whatever order.
    let runs = [newer, older];
    assert!(due(&mut controller, &runs, "2026-01-12T01:59:59Z").await.is_empty());
    assert!(controller.since().is_empty(), "its runs tell");
    let missed = due(&mut controller, &runs, "2026-01-14T07:00:00Z").await;
    assert_eq!(missed.len(), 1);
    let [newer, older] = runs;
    let runs = [older, newer, run("2026-01-14T07:00:00Z", Ending::Settled)];
    assert!(due(&mut controller, &runs, "2026-01-14T08:00:00Z").await.is_empty());
    // Somebody deletes the run while it is at work: it is not begun again before the next night.
    assert!(due(&mut controller, &runs[..2], "2026-01-14T09:00:00Z").await.is_empty());
}

/// Of a run that a clock made which was years ahead one follows the next night, and one follows on that.
#[tokio::test]
async fn a_clock_that_was_ahead_holds_up_no_later_run() {
    let (_keep, mut controller) = controller(NIGHTLY);
    let first = run("2026-01-10T02:00:01Z", made("2026-01-10T02:00:02Z"));
    let ahead = run("2066-01-10T20:00:00Z", made("2066-01-10T20:00:01Z"));
    let runs = [first, ahead];
    assert!(due(&mut controller, &runs, "2066-01-10T21:00:00Z").await.is_empty());
    assert!(due(&mut controller, &runs, "2026-01-10T21:00:00Z").await.is_empty());
    let night = due(&mut controller, &runs, "2026-01-11T02:00:00Z").await;
    // Not after the first run: the one that was ahead followed on that, and has its name.
    assert_eq!(night.iter().map(|due| due.after).collect::<Vec<_>>(), [at("2026-01-10T21:00:00Z")]);
    let [first, ahead] = runs;
    let runs = [first, ahead, run("2026-01-11T02:00:01Z", made("2026-01-11T02:00:02Z"))];
    assert!(due(&mut controller, &runs, "2026-01-12T01:59:59Z").await.is_empty());
    let next = due(&mut controller, &runs, "2026-01-12T02:00:00Z").await;
    assert_eq!(next.iter().map(|due| due.after).collect::<Vec<_>>(), [at("2026-01-11T02:00:01Z")]);
}

/// The API server's clock is hours ahead of the controller's.
#[tokio::test]
async fn a_run_that_failed_by_a_clock_that_is_ahead_rests() {
    let (_keep, mut controller) = controller(NIGHTLY);
    assert!(due(&mut controller, &[], "2026-01-10T12:00:00Z").await.is_empty());
    let runs = [run("2026-01-11T08:00:01Z", Ending::Failed(at("2026-01-11T08:00:02Z")))];
    for rests in ["2026-01-11T02:00:03Z", "2026-01-11T02:05:02Z"] {
        assert!(due(&mut controller, &runs, rests).await.is_empty(), "{rests}");
    }
    assert_eq!(due(&mut controller, &runs, "2026-01-11T02:05:03Z").await.len(), 1);
}

#[tokio::test]
async fn a_run_that_failed_is_tried_again_and_one_that_was_cancelled_is_not() {
    let (_keep, mut controller) = controller(NIGHTLY);
    let begun = [run("2026-01-11T02:00:00Z", Ending::Settled)];
    assert!(due(&mut controller, &begun, "2026-01-11T02:01:00Z").await.is_empty(), "it is at work");
    let failed = run("2026-01-11T02:00:00Z", Ending::Failed(at("2026-01-11T02:10:00Z")));
    let runs = [failed];
    assert!(due(&mut controller, &runs, "2026-01-11T02:14:00Z").await.is_empty());
    assert_eq!(due(&mut controller, &runs, "2026-01-11T02:15:00Z").await.len(), 1);
    let [failed] = runs;
    let again = run("2026-01-11T02:15:01Z", Ending::Failed(at("2026-01-11T02:16:00Z")));
    let runs = [failed, again];
    assert!(due(&mut controller, &runs, "2026-01-11T02:25:00Z").await.is_empty(), "ten minutes later");
    assert_eq!(due(&mut controller, &runs, "2026-01-11T02:26:00Z").await.len(), 1);
    let [failed, again] = runs;
    let runs = [failed, again, run("2026-01-11T02:26:01Z", Ending::Settled)];
    assert!(due(&mut controller, &runs, "2026-01-11T12:00:00Z").await.is_empty());
}

#[tokio::test]
async fn a_point_is_verified_at_first_and_then_as_often_as_the_policy_says() {
    let (_keep, mut weekly) = controller(&format!("{NIGHTLY}verify:   {{every: 7d}}\n"));
    let (_keep, mut never) = controller(NIGHTLY);
    let night = |day: u32, verified| {
        let begun = format!("2026-01-{day:02}T02:00:01Z");
        ScheduledRun { verified, ..run(&begun, made(&begun)) }
    };
    // The newest one could not be verified.
    let of_old = vec![night(2, Verified::Yes), night(9, Verified::No)];
    let asked_since = vec![night(2, Verified::Yes), night(3, Verified::Yes), night(9, Verified::No)];
    for (runs, verify) in
        [(vec![night(9, Verified::No)], Verify::All), (of_old, Verify::All), (asked_since, Verify::None)]
    {
        let now = "2026-01-10T02:00:00Z";
        assert_eq!(due(&mut weekly, &runs, now).await[0].verify, verify, "{runs:#?}");
        assert_eq!(due(&mut never, &runs, now).await[0].verify, Verify::None);
    }
}

#[tokio::test]
async fn a_policy_without_a_repository_makes_no_run() {
    for (target, said) in [("", "names no repository"), ("target: {mover: array}\n", "has the target.mover array")] {
        let (_keep, mut controller) = controller(&NIGHTLY.replace("target:   {repository: offsite}\n", target));
        due(&mut controller, &[], "2026-01-10T12:00:00Z").await;
        assert!(due(&mut controller, &[], "2026-01-11T12:00:00Z").await.is_empty());
        assert!(!controller.is_idle());
        let generation = controller.policies.borrow();
        let (policy, _) = generation.backups().next().unwrap();
        assert!(repository(policy).unwrap_err().contains(said), "{target}");
    }
}

#[test]
fn the_document_lists_every_metric_of_policies_and_no_other() {
    let (_keep, controller) = controller("kind: BackupPolicy\n");
    controller.metrics.in_force(&controller.policies.borrow());
    let failure = remora_core::Error::new(remora_core::ErrorKind::Failed, "tried");
    controller.metrics.failed(&("nightly".into(), remora_plugins::Kind::Select, failure));
    let mut registry = Registry::with_prefix("remora_controller");
    controller.metrics()(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let mut told: Vec<_> = types.map(str::to_owned).collect();
    let document = include_str!("../../../../docs/metrics.md");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let ours = rows.filter(|name| name.starts_with("remora_controller_policy_"));
    let mut listed: Vec<_> = ours.map(|name| name.trim_end_matches("_total").to_owned()).collect();
    told.sort();
    listed.sort();
    assert_eq!(listed, told);
}
