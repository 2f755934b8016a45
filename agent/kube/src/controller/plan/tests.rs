#![allow(clippy::unwrap_used, reason = "tests")]

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use remora_core::{BackupName, CheckpointName, RepositoryId};

use super::*;
use crate::conditions::Truth;
use crate::controller::observed::*;
use crate::controller::testing::{agent, at, run};
use crate::controller::worker::{Image, PodState, Worker, WorkerFacts};
use crate::kubevirt::tracking;
use crate::resources::{Attempt, BackupRun, BackupRunStatus, Verify};

const REPOSITORY: [u8; 16] = [7; 16];

/// A run that can be given to node `one` at 2,000 s, and nothing speaks against it.
fn sound() -> Observed {
    Observed {
        run: with_finalizer(run("web")),
        now: at(2000),
        silent: Duration::ZERO,
        agents: vec![agent("agent")],
        others: Vec::new(),
        machine: Machine::Found(Box::new(Found {
            uid: "vm-uid".into(),
            state: "Running".into(),
            tracking: tracking::ENABLED.into(),
            selectors: Selectors::default(),
            instance: Some(Instance {
                phase: "Running".into(),
                node: Some("one".into()),
                migrating: false,
                disks: vec![("root".into(), Some(1 << 30)), ("data".into(), Some(2 << 30))],
                job: None,
            }),
            halted: None,
        })),
        repository: RepositoryFacts::Ready(RepositoryId::from_bytes(REPOSITORY)),
        made: Made::default(),
        foreign: Vec::new(),
        names: Names::default(),
        classes: StorageClasses { names: vec!["thin".into()], default: Some("thin".into()) },
        worker: Worker::default(),
        image: Some(Image { name: "remora:1".into(), pull_policy: None }),
    }
}

fn with_finalizer(mut run: BackupRun) -> BackupRun {
    run.metadata.finalizers = Some(vec![FINALIZER.into()]);
    run
}

fn backup() -> BackupName {
    CheckpointName::random(RepositoryId::from_bytes(REPOSITORY)).as_backup()
}

/// The same, claimed, with an attempt that is wanted.
fn claimed() -> Observed {
    let mut observed = sound();
    let attempt = Attempt {
        number: 1,
        backup: backup().to_string(),
        force_full: false,
        skip_quiesce: true,
        state: AttemptState::Wanted,
    };
    observed.run.status = Some(BackupRunStatus {
        node: Some("one".into()),
        agent: Some("agent".into()),
        heartbeat: Some(1),
        attempt: Some(attempt),
        ..BackupRunStatus::default()
    });
    observed
}

fn status(observed: &mut Observed) -> &mut BackupRunStatus {
    observed.run.status.get_or_insert_default()
}

fn found(observed: &mut Observed) -> &mut Found {
    match &mut observed.machine {
        Machine::Found(found) => found,
        other => panic!("{other:?}"),
    }
}

fn instance(observed: &mut Observed) -> &mut Instance {
    found(observed).instance.as_mut().unwrap()
}

fn assigned(observed: &Observed) -> Says {
    plan(observed).status.unwrap().assigned.unwrap()
}

fn prepared(observed: &Observed) -> Says {
    plan(observed).status.unwrap().prepared.unwrap().1
}

fn thing(name: &str) -> Thing {
    Thing { name: name.into(), uid: format!("{name}-uid"), leaving: false }
}

fn steps(observed: &Observed) -> Vec<&'static str> {
    let name = |step: &Step| match step {
        Step::RemoveBackup(_) => "remove backup",
        Step::RemoveScratch(_) => "remove scratch",
        Step::RemoveToken(_) => "remove token",
        Step::RemoveTracker(..) => "remove tracker",
        Step::LetGo(..) => "let go",
        Step::Worker(WorkerStep::RemovePod(_)) => "remove worker",
        Step::Worker(WorkerStep::RemoveSecret(_)) => "remove secret",
        Step::Worker(WorkerStep::MakeSecret(_)) => "secret",
        Step::Worker(WorkerStep::MakePod(_)) => "worker",
        Step::Make(Wanted::Tracker(_)) => "tracker",
        Step::Make(Wanted::Scratch(_)) => "scratch",
        Step::Make(Wanted::Token(_)) => "token",
        Step::Make(Wanted::Backup(_)) => "backup",
    };
    plan(observed).steps.iter().map(name).collect()
}

fn condition(kind: &str, status: &str) -> Condition {
    Condition {
        type_: kind.into(),
        status: status.into(),
        reason: "R".into(),
        message: "the reason of before".into(),
        observed_generation: None,
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
    }
}

#[test]
fn a_run_that_nothing_speaks_against_is_given_to_its_machine_s_node() {
    let plan = plan(&sound());
    let status = plan.status.unwrap();
    assert_eq!((status.node.as_deref(), status.assigned.unwrap().truth), (Some("one"), Truth::True));
    assert!(plan.steps.is_empty() && status.ended.is_none());
    let mut fresh = sound();
    fresh.run.metadata.finalizers = None;
    assert_eq!(super::plan(&fresh).finalizer, Finalizer::Add);
}

/// Each row is one thing that is wrong, the reason, and words of what to do.
#[test]
fn what_speaks_against_a_run_is_said_with_what_to_do() {
    type Wrong = fn(&mut Observed);
    let rows: &[(Wrong, &str, &str)] = &[
        (|o| o.machine = Machine::NoKubeVirt, "NoKubeVirt", "Install KubeVirt"),
        (|o| o.machine = Machine::NoBackups, "KubeVirtTooOld", "Update it to 1.8"),
        (|o| o.machine = Machine::Missing, "NoMachine", "no VirtualMachine web"),
        (|o| found(o).instance = None, "NotRunning", "when it is Stopped"),
        (|o| instance(o).phase = "Scheduling".into(), "NotRunning", "is Scheduling"),
        (|o| found(o).tracking = tracking::GATE_OFF.into(), "FeatureGateDisabled", "IncrementalBackup"),
        (|o| found(o).tracking = tracking::PENDING_RESTART.into(), "TrackingPendingRestart", "virtctl restart web"),
        (|o| found(o).tracking = tracking::INITIALIZING.into(), "TrackingInitializing", "after that"),
        (|o| found(o).tracking = "Disabled".into(), "TrackingDisabled", "changedBlockTrackingLabelSelectors"),
        (|o| found(o).tracking = String::new(), "TrackingDisabled", "changedBlockTrackingLabelSelectors"),
        (|o| instance(o).disks.clear(), "NoEligibleDisk", "PersistentVolumeClaim"),
        (|o| instance(o).migrating = true, "Migrating", "after that"),
        (|o| instance(o).node = None, "NotRunning", "no node yet"),
        (|o| o.agents.clear(), "NoAgent", "DaemonSet"),
        (|o| o.agents[0].is_ready = false, "NoAgent", "is ready on node one"),
        (
            |o| o.foreign = vec![("theirs".into(), "ExportReady".into())],
            "WaitingForBackup",
            "VirtualMachineBackup theirs of the same machine is in flight (ExportReady). The run begins when",
        ),
        (
            |o| instance(o).job = Some("vmb-9".into()),
            "WaitingForBackup",
            "still works on backup vmb-9. The run begins when",
        ),
        (|o| o.repository = RepositoryFacts::Missing, "RepositoryMissing", "no Repository offsite in namespace shop"),
        (|o| o.repository = RepositoryFacts::NotAllowed, "RepositoryNotAllowed", "allowedNamespaces"),
        (|o| o.repository = RepositoryFacts::NotReady("It is full.".into()), "RepositoryNotReady", "It is full."),
    ];
    for (wrong, reason, words) in rows {
        let mut observed = sound();
        wrong(&mut observed);
        let says = assigned(&observed);
        assert_eq!((says.truth, &*says.reason), (Truth::False, *reason));
        assert!(says.message.contains(words), "wanted {words:?} in {says:?}");
        let status = plan(&observed).status.unwrap();
        assert!(status.node.is_none() && status.ended.is_none(), "{reason}");
    }
}

#[test]
fn the_label_that_has_a_machine_tracked_is_named() {
    let selector = |key: &str| LabelSelector {
        match_labels: Some([(key.to_owned(), "true".to_owned())].into()),
        ..LabelSelector::default()
    };
    for (machines, namespaces, words) in [
        (Some(selector("cbt")), None, "Label it cbt=true, and restart it"),
        (None, Some(selector("team")), "Have its namespace labelled team=true"),
        (Some(selector("cbt")), Some(selector("team")), "Label it cbt=true, or have its namespace labelled team=true"),
    ] {
        let mut observed = sound();
        found(&mut observed).tracking = "Disabled".into();
        found(&mut observed).selectors = Selectors { machines, namespaces };
        assert!(assigned(&observed).message.contains(words), "{:?}", assigned(&observed));
    }
}

#[test]
fn one_run_of_a_machine_is_first_and_the_others_say_whom_they_wait_for() {
    let other =
        |name: &str, created: i64, assigned: bool| OtherRun { name: name.into(), created: Some(at(created)), assigned };
    // This one is `run`, created at 1,000 s.
    for (others, waits_for) in [
        (vec![other("older", 999, false)], Some("older")),
        (vec![other("newer", 1001, false)], None),
        (vec![other("a", 1000, false)], Some("a")),
        (vec![other("z", 1000, false)], None),
        (vec![other("newer", 1001, true)], Some("newer")),
        (vec![other("older", 998, false), other("oldest", 997, false)], Some("oldest")),
    ] {
        let mut observed = sound();
        observed.others.clone_from(&others);
        let says = assigned(&observed);
        match waits_for {
            None => assert_eq!(says.truth, Truth::True, "{others:?}"),
            Some(name) => {
                assert_eq!(says.reason, "WaitingForRun", "{others:?}");
                assert!(says.message.contains(&format!("BackupRun {name} ")), "{says:?}");
            }
        }
    }
    // Of two that are assigned, both do not wait for one another for ever.
    let mut observed = sound();
    status(&mut observed).node = Some("one".into());
    observed.others = vec![other("newer", 1001, true)];
    assert_eq!(assigned(&observed).truth, Truth::True);
}

#[test]
fn the_job_of_a_run_s_own_attempt_keeps_it_from_no_agent() {
    let mut given_back = claimed();
    status(&mut given_back).agent = None;
    let own = status(&mut given_back).attempt.as_mut().unwrap();
    own.state = AttemptState::Ended;
    let own = own.backup.clone();
    given_back.made.backups = vec![thing(&own)];
    instance(&mut given_back).job = Some(own);
    assert_eq!((assigned(&given_back).truth, steps(&given_back)), (Truth::True, vec!["remove backup"]));
}

#[test]
fn keys_are_given_after_the_end_while_a_point_waits_for_its_verification() {
    let ended = |verify, said: Option<(&str, &str)>| {
        let mut run = run("web");
        run.spec.verify = verify;
        let verified =
            said.map(|(status, reason)| Condition { reason: reason.into(), ..condition("Verified", status) });
        let conditions = [condition("Complete", "True")].into_iter().chain(verified).collect();
        run.status = Some(BackupRunStatus { conditions, ..BackupRunStatus::default() });
        run
    };
    let verifying = Some(("Unknown", "Verifying"));
    // Its own deadline, and 72 hours for the others of its node.
    let last = 1000 + 76 * 3600 - 1;
    for (run, time, over) in [
        (ended(Verify::All, None), last, false),
        (ended(Verify::All, None), last + 1, true),
        (ended(Verify::All, verifying), last, false),
        (ended(Verify::Structure, verifying), last + 1, true),
        (ended(Verify::All, Some(("True", "Sound"))), 2000, true),
        (ended(Verify::All, Some(("False", "Damaged"))), 2000, true),
        (ended(Verify::All, Some(("Unknown", "Unavailable"))), 2000, true),
        (ended(Verify::None, None), 2000, true),
    ] {
        assert_eq!(is_over(&run, at(time)), over, "{run:?} at {time}");
    }
}

#[test]
fn a_run_that_was_given_to_a_node_is_taken_back_when_something_speaks_against_it() {
    let mut observed = sound();
    status(&mut observed).node = Some("one".into());
    instance(&mut observed).node = Some("two".into());
    assert_eq!(plan(&observed).status.unwrap().node.as_deref(), Some("two"));
    found(&mut observed).instance = None;
    assert_eq!(plan(&observed).status.unwrap().node, None);
}

#[test]
fn an_attempt_is_made_in_order_and_the_backup_last() {
    let mut observed = claimed();
    assert_eq!(steps(&observed), ["tracker", "scratch", "token", "backup"]);
    assert_eq!(prepared(&observed).truth, Truth::Unknown);
    observed.names.tracker = TrackerFacts::Ours;
    observed.names.scratch = Taken::Ours { leaving: false };
    assert_eq!(steps(&observed), ["token", "backup"]);
    observed.names.backup = Taken::Ours { leaving: false };
    assert!(steps(&observed).is_empty());
    assert_eq!((prepared(&observed).truth, &*prepared(&observed).reason), (Truth::True, "Prepared"));
}

#[test]
fn a_backup_outlives_the_run_and_its_scratch_holds_all_disks() {
    let observed = claimed();
    let plan = plan(&observed);
    let (mut size, mut time) = (0, 0);
    for step in &plan.steps {
        match step {
            Step::Make(Wanted::Scratch(claim)) => {
                let spec = claim.spec.clone().unwrap();
                assert_eq!(spec.volume_mode.as_deref(), Some("Filesystem"));
                size = crate::kubevirt::bytes(&spec.resources.unwrap().requests.unwrap()["storage"]).unwrap();
            }
            Step::Make(Wanted::Backup(backup)) => {
                time = backup.spec.ttl_duration.clone().unwrap().trim_end_matches('s').parse().unwrap();
                assert_eq!((backup.spec.force_full_backup, backup.spec.skip_quiesce), (Some(false), Some(true)));
                assert!(crate::kubevirt::is_of_run(&backup.metadata, "run-uid"));
            }
            _ => {}
        }
    }
    assert!(size > 3 << 30, "{size}");
    // Created at 1,000 s, four hours, and it is 2,000 s.
    assert!(time > 4 * 3600 - 1000, "{time}");
}

#[test]
fn what_keeps_an_attempt_from_being_made_waits_or_fails_it() {
    type Wrong = fn(&mut Observed);
    let rows: &[(Wrong, Truth, &str, &str)] = &[
        (|o| o.foreign = vec![("theirs".into(), "ExportReady".into())], Truth::Unknown, "WaitingForBackup", "theirs"),
        (|o| instance(o).job = Some("vmb-9".into()), Truth::Unknown, "WaitingForBackup", "vmb-9"),
        (|o| o.names.scratch = Taken::OfRun("other".into()), Truth::Unknown, "WaitingForRun", "other"),
        (|o| o.names.scratch = Taken::Foreign, Truth::False, "NameTaken", "PersistentVolumeClaim"),
        (|o| o.names.token = Taken::Foreign, Truth::False, "NameTaken", "Secret"),
        (|o| o.names.backup = Taken::Foreign, Truth::False, "NameTaken", "VirtualMachineBackup"),
        (|o| o.names.tracker = TrackerFacts::Foreign, Truth::False, "NameTaken", "Tracker"),
        (|o| o.classes.default = None, Truth::False, "NoStorageClass", "spec.scratch.storageClassName (thin)"),
        (
            |o| o.run.spec.scratch.storage_class_name = "fast".into(),
            Truth::False,
            "NoStorageClass",
            "no StorageClass fast",
        ),
        (|o| instance(o).disks[0].1 = None, Truth::Unknown, "DiskSizeUnknown", "volume root"),
        (|o| o.repository = RepositoryFacts::NotAllowed, Truth::False, "RepositoryNotAllowed", "allowedNamespaces"),
        (|o| o.repository = RepositoryFacts::Missing, Truth::False, "RepositoryMissing", "no Repository offsite in"),
        (|o| o.repository = RepositoryFacts::NotReady("x".into()), Truth::Unknown, "RepositoryNotReady", "x"),
        (|o| o.machine = Machine::Missing, Truth::False, "NoMachine", "gone"),
    ];
    for (wrong, truth, reason, words) in rows {
        let mut observed = claimed();
        wrong(&mut observed);
        let says = prepared(&observed);
        assert_eq!((says.truth, &*says.reason), (*truth, *reason));
        assert!(says.message.contains(words), "wanted {words:?} in {says:?}");
        assert!(steps(&observed).is_empty(), "{reason}: nothing half-made");
    }
}

#[test]
fn a_name_that_is_no_backup_of_this_repository_is_not_made() {
    let foreign = CheckpointName::random(RepositoryId::from_bytes([8; 16])).as_backup().to_string();
    for name in [foreign.as_str(), "theirs", "kube-root-ca"] {
        let mut observed = claimed();
        status(&mut observed).attempt.as_mut().unwrap().backup = name.into();
        assert_eq!((prepared(&observed).truth, &*prepared(&observed).reason), (Truth::False, "BadAttempt"), "{name}");
        assert!(steps(&observed).is_empty());
    }
}

#[test]
fn what_earlier_attempts_left_goes_before_the_next_is_made() {
    let mut observed = claimed();
    observed.made.backups = vec![thing("earlier")];
    observed.made.scratches = vec![thing("scratch")];
    observed.names.scratch = Taken::Ours { leaving: false };
    assert_eq!(steps(&observed), ["remove backup"]);
    assert_eq!(prepared(&observed).reason, "CleaningUp");
    // It takes its time, and is not asked again.
    observed.made.backups[0].leaving = true;
    assert!(steps(&observed).is_empty());
    assert_eq!(prepared(&observed).reason, "CleaningUp");
    observed.made.backups.clear();
    assert_eq!(steps(&observed), ["tracker", "token", "backup"]);
    observed.names.tracker = TrackerFacts::OfEarlierMachine("u".into());
    assert_eq!(steps(&observed), ["remove tracker"]);
}

#[test]
fn an_attempt_that_has_ended_is_removed_the_backup_first() {
    let mut observed = claimed();
    status(&mut observed).attempt.as_mut().unwrap().state = AttemptState::Ended;
    let name = status(&mut observed).attempt.as_ref().unwrap().backup.clone();
    observed.made =
        Made { backups: vec![thing(&name)], scratches: vec![thing("s")], tokens: vec![thing("t")], ..Made::default() };
    assert_eq!(steps(&observed), ["remove backup"]);
    observed.made.backups[0].leaving = true;
    assert!(steps(&observed).is_empty());
    // Its machine was deleted, and with it the tracker.
    let backup = observed.made.backups[0].clone();
    observed.made.orphans = vec![Orphan { backup, tracker: "tracker".into(), others: Vec::new() }];
    let Step::LetGo(tracker, _) = &plan(&observed).steps[0] else { panic!("no tracker is made") };
    assert_eq!(tracker.metadata.name.as_deref(), Some("tracker"));
    assert_eq!(tracker.metadata.owner_references.as_ref().unwrap()[0].uid, observed.made.backups[0].uid);
    observed.made.backups.clear();
    observed.made.orphans.clear();
    observed.made.attached = true;
    assert_eq!(steps(&observed), ["remove token"]);
    observed.made.attached = false;
    assert_eq!(steps(&observed), ["remove scratch", "remove token"]);
}

#[test]
fn after_the_end_everything_goes_and_the_finalizer_last() {
    for kind in ["Complete", "Failed"] {
        let mut observed = claimed();
        status(&mut observed).conditions = vec![condition(kind, "True")];
        observed.made.tokens = vec![thing("t")];
        let first = plan(&observed);
        assert_eq!((steps(&observed), first.finalizer, first.status), (vec!["remove token"], Finalizer::Keep, None));
        observed.made.tokens.clear();
        assert_eq!(plan(&observed).finalizer, Finalizer::Remove);
        observed.run.metadata.finalizers = None;
        assert_eq!(plan(&observed), Plan::default());
    }
}

#[test]
fn a_run_ends_without_a_point_when_nobody_else_can_end_it() {
    let ended = |observed: &Observed| plan(observed).status.and_then(|status| status.ended).map(|ended| ended.reason);
    let deleted = |mut observed: Observed, time: i64| {
        observed.run.metadata.deletion_timestamp = Some(Time(at(time)));
        observed
    };
    let cancelled = |mut observed: Observed| {
        observed.run.spec.cancel = true;
        observed
    };
    let late = |mut observed: Observed, by: i64| {
        observed.now = at(1000 + 4 * 3600 + by);
        observed
    };
    let silent = |mut observed: Observed, seconds: u64| {
        observed.silent = Duration::from_secs(seconds);
        observed
    };
    let succeeded = |mut observed: Observed, is_ready: bool| {
        observed.agents = vec![Agent { is_ready, ..agent("successor") }];
        observed
    };
    for (observed, wanted) in vec![
        (sound(), None),
        (claimed(), None),
        (cancelled(sound()), Some("Cancelled")),
        (deleted(sound(), 1990), Some("Cancelled")),
        (late(sound(), -1), None),
        (late(sound(), 0), Some("DeadlineExceeded")),
        // Whoever holds it ends it, unless that takes too long.
        (cancelled(claimed()), None),
        (deleted(claimed(), 1990), None),
        (deleted(claimed(), 1700), Some("Cancelled")),
        (late(claimed(), 170), None),
        (late(claimed(), 180), Some("DeadlineExceeded")),
        (silent(claimed(), 119), None),
        (silent(claimed(), 120), Some("AgentLost")),
        (silent(succeeded(claimed(), true), 239), None),
        (silent(succeeded(claimed(), true), 240), Some("AgentLost")),
        // It has just been started.
        (silent(succeeded(claimed(), false), 239), None),
        (silent(sound(), 1000), None),
    ] {
        assert_eq!(ended(&observed), wanted, "{:?} at {}", observed.run, observed.now);
    }
    let mut waited = late(sound(), 1);
    status(&mut waited).conditions = vec![condition("Assigned", "False")];
    let message = plan(&waited).status.unwrap().ended.unwrap().message;
    assert!(message.contains("within 4h") && message.contains("the reason of before"), "{message}");
    // Nothing half-made stays, once the end is written: an agent of which only nothing was heard may be reading it.
    let mut lost = silent(claimed(), 500);
    lost.made.backups = vec![thing("b")];
    assert!(steps(&lost).is_empty() && plan(&lost).again.is_some());
    status(&mut lost).conditions = vec![condition("Failed", "True")];
    assert_eq!(steps(&lost), ["remove backup"]);
}

/// The machine is halted, and nothing uses its claims.
fn halted() -> Observed {
    let mut observed = sound();
    let claim = |name: &str, block| Claim { name: name.into(), block: Some(block), users: Vec::new() };
    let machine = found(&mut observed);
    (machine.state, machine.instance) = ("Stopped".into(), None);
    let claims = vec![claim("root-claim", false), claim("data-claim", true)];
    machine.halted = Some(Halted { claims, ..Halted::default() });
    observed.agents.clear();
    observed
}

/// The same, and the status says so.
fn known_halted() -> Observed {
    let mut observed = halted();
    status(&mut observed).halted = true;
    observed
}

fn claims(observed: &mut Observed) -> &mut Vec<Claim> {
    &mut found(observed).halted.as_mut().unwrap().claims
}

fn worker(state: PodState) -> Worker {
    Worker { pod: WorkerFacts::Pod(thing("remora-worker-uid"), state), secret: Taken::Ours { leaving: false } }
}

#[test]
fn a_halted_machine_is_read_by_the_agent_of_the_node_on_which_its_worker_runs() {
    // It is written first that there may be a worker.
    let first = plan(&halted());
    assert!(first.steps.is_empty() && first.status.unwrap().halted);
    let mut observed = known_halted();
    assert_eq!(steps(&observed), ["secret", "worker"]);
    let Some(Step::Worker(WorkerStep::MakePod(pod))) = plan(&observed).steps.pop() else { panic!("no worker") };
    let spec = pod.spec.unwrap();
    let container = &spec.containers[0];
    assert_eq!(container.args.as_ref().unwrap()[0], "lend");
    assert_eq!(&container.args.as_ref().unwrap()[3..], ["--disk=/disks/0", "--disk=/dev/disk-1"]);
    let mounts = container.volume_mounts.as_ref().unwrap();
    assert!(mounts.iter().all(|mount| mount.read_only == Some(true)), "{mounts:?}");
    assert_eq!(container.volume_devices.as_ref().unwrap()[0].device_path, "/dev/disk-1");

    observed.worker = worker(PodState::Waiting("no volume".into()));
    assert_eq!(assigned(&observed).reason, "WorkerPending");
    observed.worker = worker(PodState::Runs("two".into()));
    assert_eq!(assigned(&observed).reason, "NoAgent");
    observed.agents = vec![agent("agent")];
    let status = plan(&observed).status.unwrap();
    assert_eq!((status.node.as_deref(), status.halted), (Some("two"), true));
    assert_eq!(status.assigned.unwrap().truth, Truth::True);
    // One that has ended is made again.
    observed.worker = worker(PodState::Ended("Evicted".into()));
    assert_eq!(
        (steps(&observed), &*assigned(&observed).reason),
        (vec!["remove worker", "remove secret"], "WorkerFailed")
    );
}

#[test]
fn what_keeps_a_halted_machine_from_being_read_is_said() {
    type Wrong = fn(&mut Observed);
    let rows: &[(Wrong, &str, &str)] = &[
        (|o| claims(o).clear(), "NoEligibleDisk", "PersistentVolumeClaim"),
        (|o| claims(o)[1].block = None, "NoClaim", "no PersistentVolumeClaim data-claim"),
        (|o| claims(o)[0].users = vec!["pod app".into()], "ClaimInUse", "root-claim is used by pod app"),
        (|o| o.image = None, "NoImage", "REMORA_IMAGE"),
        (|o| o.worker.pod = WorkerFacts::Foreign, "NameTaken", "Pod remora-worker-"),
        (|o| o.repository = RepositoryFacts::NotAllowed, "RepositoryNotAllowed", "allowedNamespaces"),
    ];
    for (wrong, reason, words) in rows {
        let mut observed = known_halted();
        wrong(&mut observed);
        let says = assigned(&observed);
        assert_eq!(says.reason, *reason);
        assert!(says.message.contains(words), "wanted {words:?} in {says:?}");
        assert!(plan(&observed).status.unwrap().node.is_none(), "{reason}");
    }
}

#[test]
fn a_machine_that_is_started_before_it_is_read_is_backed_up_as_it_runs() {
    let started = |observed: &mut Observed| {
        let running = sound();
        observed.machine = running.machine;
        observed.agents = running.agents;
    };
    // The worker goes, and then the run is one of a machine that runs.
    let mut observed = known_halted();
    observed.worker = worker(PodState::Runs("two".into()));
    started(&mut observed);
    assert_eq!(
        (steps(&observed), &*assigned(&observed).reason),
        (vec!["remove worker", "remove secret"], "CleaningUp")
    );
    assert!(plan(&observed).status.unwrap().halted);
    observed.worker = Worker::default();
    let says = plan(&observed).status.unwrap();
    assert_eq!((says.node.as_deref(), says.halted), (Some("one"), false));
}

/// The agent ends the run.
#[test]
fn a_machine_that_is_started_while_it_is_read_gets_its_claims_back_at_once() {
    type Change = fn(&mut Observed);
    let changes: [(Change, bool); 4] = [
        (|_| {}, true),
        (|o| claims(o)[0].users = vec!["pod app".into()], false),
        (|o| found(o).halted = None, false),
        (|o| o.machine = Machine::Missing, false),
    ];
    for (number, (change, stays)) in changes.iter().enumerate() {
        let mut observed = known_halted();
        observed.worker = worker(PodState::Runs("two".into()));
        status(&mut observed).node = Some("two".into());
        status(&mut observed).agent = Some("agent".into());
        change(&mut observed);
        assert_eq!(steps(&observed).is_empty(), *stays, "{number}");
        let says = plan(&observed).status.unwrap();
        assert_eq!((says.node.as_deref(), says.halted, says.ended), (Some("two"), true, None), "{number}");
    }
}

#[test]
fn a_run_that_has_ended_keeps_its_finalizer_until_its_worker_is_gone() {
    let mut observed = known_halted();
    observed.worker = worker(PodState::Runs("two".into()));
    observed.run.status.as_mut().unwrap().conditions = vec![condition("Failed", "True")];
    assert_eq!(steps(&observed), ["remove worker", "remove secret"]);
    observed.worker = Worker::default();
    assert_eq!(plan(&observed).finalizer, Finalizer::Remove);
}
#[test]
fn a_run_that_waits_for_long_is_looked_at_ever_more_seldom_and_when_its_deadline_passes() {
    let again = |since: i64, now: i64| {
        let mut observed = sound();
        observed.now = at(now);
        observed.run.status.get_or_insert_default().conditions = vec![Condition {
            type_: "Assigned".into(),
            status: "True".into(),
            reason: "Assigned".into(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: Time(at(since)),
        }];
        plan(&observed).again.unwrap().as_secs()
    };
    assert_eq!(plan(&sound()).again, Some(WAITING), "it was never looked at");
    // It was created at 1,000 s, and has four hours.
    for (since, now, seconds) in [
        (1900, 2000, 100),
        (1995, 2000, 15),
        (1000, 9000, 300),
        (9999, 2000, 15),
        (1000, 15_300, 100),
        (1000, 15_399, 2),
    ] {
        assert_eq!(again(since, now), seconds, "since {since}, at {now}");
    }
}
