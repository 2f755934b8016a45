//! Which node a run is given to, and what speaks against that.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::*;
use crate::conditions::Truth;

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
fn a_run_that_was_given_to_a_node_is_taken_back_when_something_speaks_against_it() {
    let mut observed = sound();
    status(&mut observed).node = Some("one".into());
    instance(&mut observed).node = Some("two".into());
    assert_eq!(plan(&observed).status.unwrap().node.as_deref(), Some("two"));
    found(&mut observed).instance = None;
    assert_eq!(plan(&observed).status.unwrap().node, None);
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
