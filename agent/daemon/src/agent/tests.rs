use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use jiff::SignedDuration;
use remora_core::policy::VmFacts;
use remora_plugins::movers::Movers;
use remora_plugins::set::Snapshot;
use remora_plugins::{Host, HostOptions};
use remora_schedule::Entry;
use remora_source::{Found, LibvirtOptions, LibvirtSource};
use serde_json::Value;

use super::*;
use crate::metrics::Step;
use crate::repositories::Repositories;

const NIGHTLY: &str = "\
kind: BackupPolicy
name: nightly
select: {module: builtin:labels, settings: {names: [db]}}
schedule: {module: builtin:cron, settings: {cron: 0 2 * * *}}
";

/// An agent without policies.
fn agent(state: &Path) -> Agent {
    agent_by(state, Generation::default())
}

/// One with the policy [`NIGHTLY`], which sees the VMs `db` and `web`.
fn nightly(state: &Path) -> Agent {
    let mut agent = agent_by(state, after(&Generation::default(), NIGHTLY));
    let vm = |name| Vm { facts: VmFacts::named(VmName::new(name).unwrap()), power: Power::On };
    (agent.vms, agent.looked) = (["db", "web"].map(vm).into(), Some(tokio::time::Instant::now()));
    agent
}

/// The generation after one, of one policy.
fn after(before: &Generation, text: &str) -> Generation {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("nightly.yaml"), text).unwrap();
    let host = Host::new(&HostOptions::default()).unwrap();
    before.next(&host, &Snapshot::read(folder.path()).unwrap(), Timestamp::now())
}

fn agent_by(state: &Path, generation: Generation) -> Agent {
    let options = LibvirtOptions { connect: Some("test:///default".into()), ..LibvirtOptions::new(Vec::new()) };
    let source = LibvirtSource::new(options).unwrap();
    let repositories = Repositories::new(BTreeMap::new(), Movers::new("plugins", None), state.into());
    let (_, policies) = watch::channel(Arc::new(generation));
    let cancel = CancellationToken::new();
    let tools = Arc::new(Tools { source, repositories, policies: policies.clone(), cancel });
    Agent::new(tools, Arc::new(Metrics::new()), policies, LedgerFile::open(state).unwrap(), AnswersFile::new(state), 2)
}

fn charge(vm: &str) -> Charge {
    Charge { policy: "nightly".into(), vm: VmName::new(vm).unwrap() }
}

async fn dies() -> Result<Done> {
    std::future::ready(()).await;
    panic!("as the test wants it")
}

#[tokio::test]
async fn a_run_that_dies_has_failed_and_the_others_are_at_work_still() {
    let state = tempfile::tempdir().unwrap();
    let mut agent = agent(state.path());
    let ([dead, alive], begun) = (["dead", "alive"].map(charge), Timestamp::now());
    agent.begin(alive.clone(), begun, std::future::pending());
    agent.begin(dead.clone(), begun, dies());
    let ended = agent.running.join_next_with_id().await.unwrap();
    agent.note(ended);
    assert!(agent.is_busy(&alive.vm) && !agent.is_busy(&dead.vm));
    let ledger = LedgerFile::open(state.path()).unwrap().ledger;
    let entry = ledger.get(&dead).unwrap();
    assert_eq!((entry.failures, entry.settled), (1, begun));
    assert!(entry.retry.is_some_and(|retry| retry > begun), "it is not begun again at once");
    assert!(ledger.get(&alive).is_none());
    let failed = OfRun { policy: "nightly".into(), outcome: RunOutcome::Failed };
    assert_eq!(agent.metrics.runs.get_or_create(&failed).get(), 1);
}

/// Two policies may select one VM, and both be due: it has one run at a time, and no place is kept for the other.
#[tokio::test]
async fn a_vm_that_has_a_run_waits_with_the_next_one_and_holds_up_no_other() {
    let state = tempfile::tempdir().unwrap();
    let mut agent = nightly(state.path());
    let generation = after(&agent.policies.borrow(), &NIGHTLY.replace("[db]", "[db, web]"));
    agent.policies = watch::channel(Arc::new(generation)).1;
    let yesterday = Timestamp::now() - SignedDuration::from_hours(48);
    // The one that cannot begin has waited longest.
    for (vm, hours) in [("db", 2), ("web", 1)] {
        agent.ledger.ledger.put(charge(vm), Entry::new(yesterday - SignedDuration::from_hours(hours)));
    }
    let other = Charge { policy: "other".into(), ..charge("db") };
    agent.begin(other.clone(), Timestamp::now(), std::future::pending());
    agent.start_what_is_due().await;
    let at_work = |agent: &Agent| {
        let mut charges: Vec<_> = agent.at_work.values().map(|at_work| at_work.charge.clone()).collect();
        charges.sort();
        charges
    };
    assert_eq!(at_work(&agent), [charge("web"), other.clone()]);
    assert_eq!((agent.metrics.running.get(), agent.metrics.waiting.get()), (2, 1));
    // Nor are there more at once than there may be, whoever waits.
    agent.at_work.retain(|_, at_work| at_work.charge != other);
    agent.start_what_is_due().await;
    assert_eq!(at_work(&agent), [charge("web")]);
    assert_eq!(agent.metrics.waiting.get(), 2, "both are due still, by what is written down");
    agent.running.abort_all();
}

#[tokio::test]
async fn since_when_a_vm_is_selected_is_written_down_before_its_first_run() {
    let state = tempfile::tempdir().unwrap();
    let mut agent = nightly(state.path());
    agent.start_what_is_due().await;
    // Not one that was stopped: one that was killed.
    drop(agent);
    let ledger = LedgerFile::open(state.path()).unwrap().ledger;
    let charges: Vec<_> = ledger.iter().map(|(charge, _)| charge.clone()).collect();
    assert_eq!(charges, [charge("db")]);
}

#[tokio::test]
async fn how_old_the_newest_point_is_is_told_by_an_agent_that_follows() {
    let state = tempfile::tempdir().unwrap();
    let mut first = nightly(state.path());
    let time: Timestamp = "2026-01-10T02:00:00Z".parse().unwrap();
    // The policy does not select the other one, though it once did.
    for vm in ["db", "web"] {
        let mut entry = Entry::new(Timestamp::now());
        entry.runs.push(PastRun { time, changed: 1, size: 2, seconds: 3 });
        first.ledger.ledger.put(charge(vm), entry);
    }
    first.ledger.save().unwrap();
    first.start_what_is_due().await;
    drop(first);
    let text = nightly(state.path()).metrics.text().unwrap();
    let mut told = text.lines().filter(|line| line.starts_with("remora_last_point_timestamp_seconds{"));
    let line = told.next().unwrap();
    assert!(line.contains("vm=\"db\"") && line.contains(&format!("}} {}", time.as_second())), "{text}");
    assert_eq!(told.next(), None, "{text}");
}

#[tokio::test]
async fn what_policies_answered_last_is_there_for_an_agent_that_follows() {
    let state = tempfile::tempdir().unwrap();
    let mut first = nightly(state.path());
    first.start_what_is_due().await;
    drop(first);
    let file = AnswersFile::new(state.path());
    let answered = file.read();
    assert_eq!(answered.keys().collect::<Vec<_>>(), ["nightly"]);
    // Its policies answer the same: that is no news. Before it knows the VMs it asks nobody.
    let mut second = nightly(state.path());
    let vms = std::mem::take(&mut second.vms);
    let looked = second.looked.take();
    second.start_what_is_due().await;
    assert_eq!(file.read(), answered);
    (second.vms, second.looked) = (vms, looked);
    second.start_what_is_due().await;
    assert_eq!(file.read(), answered);
    // Without it the agent works; so it does beside one of another version.
    for other in ["{", r#"{"version": 2, "rules": []}"#] {
        std::fs::write(state.path().join("answers.json"), other).unwrap();
        assert!(file.read().is_empty(), "{other}");
        nightly(state.path()).start_what_is_due().await;
        assert_eq!(file.read().len(), 1, "{other}");
    }
}

#[tokio::test]
async fn a_vm_that_cannot_be_read_is_counted_and_hides_no_other() {
    let state = tempfile::tempdir().unwrap();
    let mut agent = agent(state.path());
    let found = Found { facts: VmFacts::named(VmName::new("db").unwrap()), running: false };
    let unreadable = vec![Error::new(ErrorKind::Failed, "VM \"broken\": reading the domain's definition")];
    agent.see(Inventory { found: vec![found], unreadable });
    assert_eq!((agent.vms.len(), agent.vms[0].power, agent.metrics.unreadable.get()), (1, Power::Off, 1));
    agent.see(Inventory::default());
    assert_eq!((agent.vms.len(), agent.metrics.unreadable.get()), (0, 0));
}

#[tokio::test]
async fn what_fails_after_a_point_was_made_is_counted_and_the_run_has_succeeded() {
    let state = tempfile::tempdir().unwrap();
    let mut agent = agent(state.path());
    let begun = Timestamp::now();
    let run = PastRun { time: begun, changed: 1, size: 2, seconds: 3 };
    let problems = vec![(Step::Verify, Error::new(ErrorKind::Unavailable, "verifying: the store went away"))];
    let done = Done { run, stored: 1, problems, dropped: 0, verified: None };
    agent.begin(charge("db"), begun, std::future::ready(Ok(done)));
    let ended = agent.running.join_next_with_id().await.unwrap();
    agent.note(ended);
    let counted = |step| agent.metrics.problems.get_or_create(&OfStep { policy: "nightly".into(), step }).get();
    assert_eq!([Step::Lock, Step::Prune, Step::Verify].map(counted), [0, 0, 1]);
    assert_eq!(agent.ledger.ledger.get(&charge("db")).unwrap().failures, 0);
}

/// Lines of a log, kept.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// What was said with a message, of each the VM, who decided by which settings, and why.
    fn said(&self, message: &str) -> Vec<[String; 4]> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["fields"].take());
        let field =
            |line: &Value, name: &str| line[name].as_str().unwrap_or_else(|| panic!("no {name}: {line}")).to_owned();
        lines
            .filter(|line| line["message"] == message)
            .inspect(|line| assert_eq!(line["policy"], "nightly", "{line}"))
            .map(|line| ["vm", "digest", "settings", "reason"].map(|name| field(&line, name)))
            .collect()
    }
}

/// On one thread, so that the log of this test is this test's.
#[tokio::test]
async fn the_log_tells_who_selected_a_vm_and_who_wants_its_run_and_why() {
    let lines = Lines::default();
    let writer = lines.clone();
    // Where there is one log alone, a callsite asks that of the thread that comes by first, which may be another test's, for all.
    let off = tracing::level_filters::LevelFilter::OFF;
    let _another = tracing::Dispatch::new(tracing_subscriber::fmt().with_max_level(off).finish());
    let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let state = tempfile::tempdir().unwrap();
    let mut agent = nightly(state.path());
    let policy = |agent: &Agent| Arc::clone(agent.policies.borrow().backups().next().unwrap().0);
    let selects = |agent: &Agent| {
        let policy = policy(agent);
        [policy.select.digest().to_string(), policy.select.settings_hash().to_string()]
    };
    agent.ledger.ledger.put(charge("db"), Entry::new(Timestamp::now() - SignedDuration::from_hours(48)));
    agent.start_what_is_due().await;
    let [digest, settings] = selects(&agent);
    let chosen = ["db".to_owned(), digest, settings, "everything that is asked for holds".into()];
    assert_eq!(lines.said("a VM is selected"), std::slice::from_ref(&chosen));
    let schedule = policy(&agent).schedule.clone();
    let begun = lines.said("a run begins");
    let [[vm, digest, settings, reason]] = begun.as_slice() else { panic!("{begun:?}") };
    let wanted = [schedule.digest().to_string(), schedule.settings_hash().to_string()];
    assert_eq!((vm.as_str(), [digest.clone(), settings.clone()]), ("db", wanted));
    assert!(reason.starts_with("the occasion "), "{reason}");

    // What is as before is not told again, and what the policy says now in its place is. What the run does is another test's.
    agent.running.abort_all();
    let generation = after(&agent.policies.borrow(), &NIGHTLY.replace("[db]", "[web]"));
    agent.policies = watch::channel(Arc::new(generation)).1;
    agent.start_what_is_due().await;
    agent.start_what_is_due().await;
    let vms = |message| lines.said(message).into_iter().map(|[vm, ..]| vm).collect::<Vec<_>>();
    assert_eq!(vms("a VM is selected"), ["db", "web"]);
    let gone = lines.said("a VM is not selected any more");
    let [[vm, digest, settings, reason]] = gone.as_slice() else { panic!("{gone:?}") };
    assert_eq!((vm.as_str(), [digest.clone(), settings.clone()]), ("db", selects(&agent)));
    assert_ne!((settings, reason), (&chosen[2], &chosen[3]));
}
