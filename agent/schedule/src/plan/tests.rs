use std::path::{Path, PathBuf};

use remora_core::policy::{Ending, PastRun};
use remora_plugins::set::Snapshot;
use remora_plugins::{Host, HostOptions};

use super::*;

const NIGHTLY: &str = "\
kind: BackupPolicy
name: nightly
select:    {module: builtin:labels, settings: {matchLabels: {backup: nightly}}}
schedule:  {module: builtin:cron, settings: {cron: 0 2 * * *, blackout: [{from: 08:00, to: 18:00}]}}
";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// What is built of `agent/plugins`: this program is `<profile>/deps/…`.
fn built(name: &str) -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join(name)
}

fn generation(host: &Host, folder: &Path, before: &Generation, text: &str) -> Generation {
    std::fs::write(folder.join("nightly.yaml"), text).unwrap();
    before.next(host, &Snapshot::read(folder).unwrap(), at("2026-01-01T00:00:00Z"))
}

fn vms(count: usize) -> Vec<Vm> {
    let vm = |n| {
        let mut facts = VmFacts::named(VmName::new(format!("vm-{n:04}")).unwrap());
        facts.labels.insert("backup".into(), if n % 2 == 0 { "nightly" } else { "never" }.into());
        Vm { facts, power: Power::On }
    };
    (0..count).map(vm).collect()
}

struct Lab {
    folder: tempfile::TempDir,
    host: Host,
    ledger: Ledger,
    planner: Planner,
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = HostOptions { compiler: Some(built("remora-plugin-host")), ..HostOptions::default() };
        let host = Host::new(&options).unwrap();
        Self { folder, host, ledger: Ledger::default(), planner: Planner::default() }
    }

    fn generation(&self, before: &Generation, text: &str) -> Generation {
        generation(&self.host, self.folder.path(), before, text)
    }

    fn made(&mut self, job: &Job, begun: &str, time: &str) {
        let run = PastRun { time: at(time), changed: 1, size: 2, seconds: 3 };
        self.ledger.entry(&job.charge, at(begun)).note(at(begun), Ending::Made(run));
    }

    async fn due(&mut self, generation: &Generation, vms: &[Vm], now: &str) -> Vec<Job> {
        let (jobs, failures) = self.planner.due(generation, vms, &mut self.ledger, at(now)).await;
        assert!(failures.is_empty(), "{failures:?}");
        jobs
    }
}

#[test]
fn a_vm_that_was_selected_and_is_gone_is_told_of() {
    let name = |name: &str| VmName::new(name).unwrap();
    let before = HashSet::from([name("db"), name("web")]);
    let facts = |names: &[&str]| names.iter().map(|vm| VmFacts::named(name(vm))).collect::<Vec<_>>();
    assert_eq!(gone(&before, &facts(&["web", "new"])), [&name("db")]);
    assert!(gone(&before, &facts(&["db", "web"])).is_empty());
    assert!(gone(&HashSet::new(), &facts(&["db"])).is_empty());
}

#[tokio::test]
async fn a_run_is_due_once_and_what_was_missed_is_made_up_for_once() {
    let mut lab = Lab::new();
    let generation = lab.generation(&Generation::default(), NIGHTLY);
    let vms = vms(3);
    assert!(lab.due(&generation, &vms, "2026-01-10T12:00:00Z").await.is_empty());
    assert!(lab.due(&generation, &vms, "2026-01-11T01:59:59Z").await.is_empty());
    let jobs = lab.due(&generation, &vms, "2026-01-11T02:00:00Z").await;
    assert_eq!(jobs.iter().map(|job| job.vm.name.as_str()).collect::<Vec<_>>(), ["vm-0000", "vm-0002"]);
    let (policy, _) = generation.backups().next().unwrap();
    let (digest, settings) = (policy.schedule.digest().to_string(), policy.schedule.settings_hash().to_string());
    let said = &jobs[0].word;
    assert_eq!((&said.digest, &said.settings), (&digest, &settings));
    assert!(said.reason.contains("2026-01-11"), "which occasion it is: {}", said.reason);
    lab.made(&jobs[0], "2026-01-11T02:00:05Z", "2026-01-11T02:00:06Z");
    // Three days without the agent: one run each, and then none until the next night.
    let jobs = lab.due(&generation, &vms, "2026-01-14T07:00:00Z").await;
    assert_eq!(jobs.len(), 2);
    for job in &jobs {
        lab.made(job, "2026-01-14T07:00:01Z", "2026-01-14T07:00:02Z");
    }
    assert!(lab.due(&generation, &vms, "2026-01-15T01:59:00Z").await.is_empty());
    assert_eq!(lab.due(&generation, &vms, "2026-01-15T02:00:00Z").await.len(), 2);
}

#[tokio::test]
async fn one_that_had_to_wait_into_a_blackout_waits_until_its_end() {
    let mut lab = Lab::new();
    let generation = lab.generation(&Generation::default(), NIGHTLY);
    let vms = vms(1);
    lab.due(&generation, &vms, "2026-01-10T12:00:00Z").await;
    assert_eq!(lab.due(&generation, &vms, "2026-01-11T07:59:00Z").await.len(), 1);
    assert!(lab.due(&generation, &vms, "2026-01-11T08:00:00Z").await.is_empty());
    assert_eq!(lab.due(&generation, &vms, "2026-01-11T18:00:00Z").await.len(), 1);
}

#[tokio::test]
async fn a_vm_that_is_off_is_backed_up_when_it_runs_again() {
    let mut lab = Lab::new();
    let generation = lab.generation(&Generation::default(), NIGHTLY);
    let mut vms = vms(1);
    lab.due(&generation, &vms, "2026-01-10T12:00:00Z").await;
    vms[0].power = Power::Off;
    assert!(lab.due(&generation, &vms, "2026-01-11T02:00:00Z").await.is_empty());
    vms[0].power = Power::On;
    assert_eq!(lab.due(&generation, &vms, "2026-01-11T05:00:00Z").await.len(), 1);
}

#[tokio::test]
async fn a_failed_run_is_tried_again_before_the_next_night() {
    let mut lab = Lab::new();
    let generation = lab.generation(&Generation::default(), NIGHTLY);
    let vms = vms(1);
    lab.due(&generation, &vms, "2026-01-10T12:00:00Z").await;
    let jobs = lab.due(&generation, &vms, "2026-01-11T02:00:00Z").await;
    let begun = at("2026-01-11T02:00:00Z");
    lab.ledger.entry(&jobs[0].charge, begun).note(begun, Ending::Failed(begun));
    assert!(lab.due(&generation, &vms, "2026-01-11T02:04:59Z").await.is_empty());
    assert_eq!(lab.due(&generation, &vms, "2026-01-11T02:05:00Z").await.len(), 1);
}

/// A node's clock is some seconds ahead of that of who plans: the longest rest is one still.
#[tokio::test]
async fn a_failed_run_rests_by_a_clock_that_is_seconds_ahead() {
    let mut lab = Lab::new();
    let generation = lab.generation(&Generation::default(), NIGHTLY);
    let vms = vms(1);
    lab.due(&generation, &vms, "2026-01-10T12:00:00Z").await;
    let jobs = lab.due(&generation, &vms, "2026-01-11T02:00:00Z").await;
    let begun = at("2026-01-11T02:00:00Z");
    for _ in 0..5 {
        lab.ledger.entry(&jobs[0].charge, begun).note(begun, Ending::Failed(at("2026-01-11T02:00:09Z")));
    }
    for rests in ["2026-01-11T02:00:04Z", "2026-01-11T03:00:08Z"] {
        assert!(lab.due(&generation, &vms, rests).await.is_empty(), "{rests}");
    }
    assert_eq!(lab.due(&generation, &vms, "2026-01-11T03:00:09Z").await.len(), 1);
}

#[tokio::test]
async fn a_failed_run_is_not_tried_again_within_a_blackout() {
    let mut lab = Lab::new();
    let generation = lab.generation(&Generation::default(), NIGHTLY);
    let vms = vms(1);
    lab.due(&generation, &vms, "2026-01-10T12:00:00Z").await;
    let jobs = lab.due(&generation, &vms, "2026-01-11T07:58:00Z").await;
    let begun = at("2026-01-11T07:58:00Z");
    lab.ledger.entry(&jobs[0].charge, begun).note(begun, Ending::Failed(begun));
    for rests in ["2026-01-11T08:03:00Z", "2026-01-11T17:59:59Z"] {
        assert!(lab.due(&generation, &vms, rests).await.is_empty(), "{rests}");
    }
    let jobs = lab.due(&generation, &vms, "2026-01-11T18:00:00Z").await;
    // Another run than the one that failed: on Kubernetes it has another name.
    assert_eq!(jobs.iter().map(|job| job.after).collect::<Vec<_>>(), [begun]);
    lab.made(&jobs[0], "2026-01-11T18:00:01Z", "2026-01-11T18:00:02Z");
    assert!(lab.due(&generation, &vms, "2026-01-12T01:59:59Z").await.is_empty());
    assert_eq!(lab.due(&generation, &vms, "2026-01-12T02:00:00Z").await.len(), 1);
}

/// A run that a clock noted which was years ahead would else be the last one for years.
#[tokio::test]
async fn what_a_clock_that_was_ahead_noted_holds_up_nothing_once_it_is_set_back() {
    let mut lab = Lab::new();
    let generation = lab.generation(&Generation::default(), NIGHTLY);
    let vms = vms(1);
    lab.due(&generation, &vms, "2026-01-10T12:00:00Z").await;
    let jobs = lab.due(&generation, &vms, "2066-01-10T20:00:00Z").await;
    lab.made(&jobs[0], "2066-01-10T20:00:00Z", "2066-01-10T20:00:01Z");
    assert!(lab.due(&generation, &vms, "2066-01-10T20:00:02Z").await.is_empty());
    for early in ["2026-01-10T20:00:00Z", "2026-01-11T01:59:59Z"] {
        assert!(lab.due(&generation, &vms, early).await.is_empty(), "{early}");
    }
    let jobs = lab.due(&generation, &vms, "2026-01-11T02:00:00Z").await;
    assert_eq!(jobs.len(), 1);
    lab.made(&jobs[0], "2026-01-11T02:00:00Z", "2026-01-11T02:00:01Z");
    assert!(lab.due(&generation, &vms, "2026-01-11T02:00:02Z").await.is_empty());
    // One that failed while the clock was ahead is tried again, and a policy that failed then is asked again.
    let jobs = lab.due(&generation, &vms, "2026-01-12T02:00:00Z").await;
    let begun = at("2026-01-12T02:00:00Z");
    lab.ledger.entry(&jobs[0].charge, begun).note(begun, Ending::Failed(at("2066-01-12T02:00:00Z")));
    lab.planner.failed.insert(("nightly".into(), Kind::Schedule), at("2066-01-12T02:01:00Z"));
    assert_eq!(lab.due(&generation, &vms, "2026-01-12T02:10:00Z").await.len(), 1);
}

/// A clock that is set back by seconds makes no second run of one occasion; one that is set right again finds all as it was.
#[tokio::test]
async fn a_clock_that_is_set_back_makes_no_run_twice() {
    let mut lab = Lab::new();
    let generation = lab.generation(&Generation::default(), NIGHTLY);
    let vms = vms(1);
    lab.due(&generation, &vms, "2026-01-10T12:00:00Z").await;
    let jobs = lab.due(&generation, &vms, "2026-01-11T02:00:00Z").await;
    lab.made(&jobs[0], "2026-01-11T02:00:00Z", "2026-01-11T02:00:01Z");
    for now in ["2026-01-11T01:59:58Z", "2026-01-11T02:00:00Z", "1970-01-01T00:00:05Z", "2026-01-11T02:00:09Z"] {
        assert!(lab.due(&generation, &vms, now).await.is_empty(), "{now}");
    }
    assert_eq!(lab.due(&generation, &vms, "2026-01-12T02:00:00Z").await.len(), 1);
}

#[tokio::test]
async fn a_changed_policy_is_asked_anew_and_a_removed_one_runs_nothing() {
    let mut lab = Lab::new();
    let first = lab.generation(&Generation::default(), NIGHTLY);
    let vms = vms(2);
    lab.due(&first, &vms, "2026-01-10T12:00:00Z").await;
    let second =
        lab.generation(&first, &NIGHTLY.replace("0 2", "30 1").replace("{backup: nightly}", "{backup: never}"));
    // Selected anew, so from now on.
    assert!(lab.due(&second, &vms, "2026-01-11T01:00:00Z").await.is_empty());
    let jobs = lab.due(&second, &vms, "2026-01-11T01:30:00Z").await;
    assert_eq!(jobs.iter().map(|job| job.vm.name.as_str()).collect::<Vec<_>>(), ["vm-0001"]);
    std::fs::remove_file(lab.folder.path().join("nightly.yaml")).unwrap();
    let third = second.next(&lab.host, &Snapshot::read(lab.folder.path()).unwrap(), at("2026-01-11T01:31:00Z"));
    assert!(lab.due(&third, &vms, "2026-01-12T12:00:00Z").await.is_empty());
}

/// A schedule that fails keeps the pace that it had, and does not start the same run again and again.
#[test]
fn a_schedule_that_fails_keeps_its_pace() {
    let answer = |after: &str, start: Option<&str>| Answer {
        generation: 1,
        after: at(after),
        due: Due { start: start.map(at), reason: "every night".into() },
        by: None,
    };
    let nightly = answer("2026-01-10T02:00:00Z", Some("2026-01-11T02:00:00Z"));
    assert_eq!(nightly.start(at("2026-01-10T02:00:00Z")), Some(at("2026-01-11T02:00:00Z")));
    assert_eq!(nightly.word(at("2026-01-10T02:00:00Z")).reason, "every night");
    assert_eq!(nightly.start(at("2026-01-11T02:00:03Z")), Some(at("2026-01-12T02:00:03Z")));
    assert_eq!(nightly.word(at("2026-01-11T02:00:03Z")).reason, format!("{GUESSED}: every night"));
    let at_once = answer("2026-01-10T02:00:00Z", Some("2026-01-10T02:00:00Z"));
    assert_eq!(at_once.start(at("2026-01-10T02:00:07Z")), Some(at("2026-01-10T03:00:07Z")));
    assert_eq!(answer("2026-01-10T02:00:00Z", None).start(at("2026-01-11T02:00:00Z")), None);
}

/// The agent is restarted while a policy fails: what that answered the agent before holds.
#[tokio::test]
async fn what_a_policy_answered_last_outlives_the_planner() {
    let mut lab = Lab::new();
    let generation = lab.generation(&Generation::default(), NIGHTLY);
    let vms = vms(2);
    lab.due(&generation, &vms, "2026-01-10T12:00:00Z").await;
    let answered = lab.planner.news().unwrap();
    assert_eq!(answered["nightly"].selected.len(), 1);
    lab.due(&generation, &vms, "2026-01-10T12:00:01Z").await;
    assert_eq!(lab.planner.news(), None, "nobody has answered anything new");
    // As after failures that began with the planner.
    let failing = |mut planner: Planner| {
        planner.selected_from = Some((generation.number, vms.clone()));
        for kind in [Kind::Select, Kind::Schedule] {
            planner.failed.insert(("nightly".into(), kind), at("2026-01-11T02:00:30Z"));
        }
        planner
    };
    lab.planner = failing(Planner::following(answered));
    assert!(lab.due(&generation, &vms, "2026-01-11T01:59:59Z").await.is_empty());
    let jobs = lab.due(&generation, &vms, "2026-01-11T02:00:00Z").await;
    assert_eq!(jobs.iter().map(|job| job.vm.name.as_str()).collect::<Vec<_>>(), ["vm-0000"]);
    assert_eq!(jobs[0].word, Word { reason: REMEMBERED.into(), ..Word::default() });
    assert_eq!(lab.planner.selects(&jobs[0].charge), Selects::Unknown, "nothing is dropped by what it said once");
    lab.planner = failing(Planner::default());
    assert!(lab.due(&generation, &vms, "2026-01-11T02:00:00Z").await.is_empty());
}

/// A fleet under one policy, after a night without the agent: all are due, in one order, and nothing is asked twice.
#[tokio::test]
async fn a_fleet_is_planned_in_order() {
    let mut lab = Lab::new();
    let generation = lab.generation(&Generation::default(), &NIGHTLY.replace("* * *,", "* * *, jitter: 30m,"));
    let vms = vms(5_000);
    lab.due(&generation, &vms, "2026-01-10T12:00:00Z").await;
    let jobs = lab.due(&generation, &vms, "2026-01-11T06:00:00Z").await;
    assert_eq!(jobs.len(), 2_500);
    assert!(jobs.is_sorted_by_key(|job| job.start));
    let spread = jobs[2_499].start.duration_since(jobs[0].start).as_mins();
    assert!((25..=30).contains(&spread), "{spread} min");
}

/// Puts a policy that misbehaves beside the others.
fn misbehaves(lab: &Lab, name: &str, misbehave: &str) {
    let folder = lab.folder.path();
    std::fs::copy(built("movers/hostile-policy.wasm"), folder.join("hostile.wasm")).unwrap();
    let module = format!("{{module: file:hostile.wasm, settings: {{misbehave: {misbehave}, names: [vm-0000]}}}}");
    let text = format!("kind: BackupPolicy\nname: {name}\nselect: {module}\nschedule: {module}\n");
    std::fs::write(folder.join(format!("{name}.yaml")), text).unwrap();
}

/// Who failed in a look, and in what.
async fn failed(lab: &mut Lab, generation: &Generation, vms: &[Vm], now: &str) -> (Vec<Job>, Vec<(String, Kind)>) {
    let (jobs, failures) = lab.planner.due(generation, vms, &mut lab.ledger, at(now)).await;
    (jobs, failures.into_iter().map(|(policy, kind, _)| (policy, kind)).collect())
}

/// However many hang, a look waits for one of them where it asks who is selected, and for one where it asks when.
#[tokio::test]
async fn policies_that_hang_cost_a_look_one_call_and_the_others_are_planned() {
    let mut lab = Lab::new();
    for (name, misbehave) in [("a", "hang in select"), ("b", "hang in select"), ("c", "hang in schedule")] {
        misbehaves(&lab, name, misbehave);
    }
    let generation = lab.generation(&Generation::default(), NIGHTLY);
    assert_eq!(generation.broken().count(), 0);
    let vms = vms(1);
    let nightly = Charge { policy: "nightly".into(), vm: vms[0].facts.name.clone() };
    let noon = "2026-01-10T12:00:00Z";
    let mut said = Vec::new();
    for look in 0..4 {
        let (jobs, failures) = failed(&mut lab, &generation, &vms, noon).await;
        assert!(jobs.is_empty() && failures.len() <= 1, "look {look}: {failures:?}");
        // Nobody is asked for the first time behind one who has just hung: until then it is not known whom they select.
        let known = if look < 2 { Selects::Unknown } else { Selects::Yes };
        assert_eq!(lab.planner.selects(&nightly), known, "look {look}");
        said.extend(failures);
    }
    assert_eq!(said, [("a", Kind::Select), ("b", Kind::Select), ("c", Kind::Schedule)].map(|(p, k)| (p.to_owned(), k)));
    // All of them are asked again by then; those who answer, first.
    let (jobs, failures) = failed(&mut lab, &generation, &vms, "2026-01-11T02:00:00Z").await;
    assert_eq!(failures, [("a", Kind::Select), ("c", Kind::Schedule)].map(|(p, k)| (p.to_owned(), k)));
    assert_eq!(jobs.iter().map(|job| &job.charge).collect::<Vec<_>>(), [&nightly]);
}

#[tokio::test]
async fn policies_that_trap_hold_up_nobody() {
    let mut lab = Lab::new();
    misbehaves(&lab, "a", "trap in select");
    misbehaves(&lab, "b", "trap in schedule");
    let generation = lab.generation(&Generation::default(), NIGHTLY);
    let vms = vms(1);
    let (_, failures) = failed(&mut lab, &generation, &vms, "2026-01-10T12:00:00Z").await;
    assert_eq!(failures, [("a", Kind::Select), ("b", Kind::Schedule)].map(|(p, k)| (p.to_owned(), k)));
    let (jobs, _) = failed(&mut lab, &generation, &vms, "2026-01-11T02:00:00Z").await;
    assert_eq!(jobs.iter().map(|job| job.charge.policy.as_str()).collect::<Vec<_>>(), ["nightly"]);
}
