#![allow(clippy::unwrap_used, reason = "tests")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::json;

use super::*;
use crate::controller::testing::at;

/// A run of `shop/<vm>`, made at a second, that has ended as its reason says, or not if there is none.
fn run(name: &str, vm: &str, created: i64, ended: Option<&str>) -> Arc<BackupRun> {
    let condition = |kind: &str, reason: &str| {
        json!({
            "type": kind, "status": "True", "reason": reason, "message": "m", "lastTransitionTime": at(created).to_string(),
        })
    };
    let conditions: Vec<_> = match ended {
        None => Vec::new(),
        Some("Stored") => vec![condition("Complete", "Stored")],
        Some(reason) => vec![condition("Failed", reason)],
    };
    let run = json!({
        "apiVersion": "remora.dev/v1alpha1", "kind": "BackupRun",
        "metadata": {
            "name": name, "namespace": "shop", "uid": name, "labels": {POLICY_LABEL: "nightly"},
            "creationTimestamp": at(created).to_string(),
        },
        "spec": {"virtualMachine": vm, "repository": {"name": "offsite"}},
        "status": {
            "conditions": conditions, "startTime": at(created + 1).to_string(),
            "completionTime": at(created + 61).to_string(), "readBytes": 7,
            "disks": [{"name": "root", "sizeBytes": 100, "decision": "full", "reason": "r", "readBytes": 7, "storedBytes": 3}],
        },
    });
    Arc::new(serde_json::from_value(run).unwrap())
}

fn changed(run: &Arc<BackupRun>, change: impl FnOnce(&mut BackupRun)) -> Arc<BackupRun> {
    let mut run = BackupRun::clone(run);
    change(&mut run);
    Arc::new(run)
}

fn vm(name: &str) -> VmName {
    VmName::new(format!("shop/{name}")).unwrap()
}

#[test]
fn what_became_of_a_run_is_learnt_from_it() {
    let behind = changed(&run("behind", "web", 50_000, Some("Unavailable")), |run| {
        let status = run.status.as_mut().unwrap();
        status.completion_time = status.completion_time.take().map(|time| Time(time.0 - SignedDuration::from_hours(9)));
    });
    let ahead = changed(&run("ahead", "web", 60_000, Some("Unavailable")), |run| {
        let status = run.status.as_mut().unwrap();
        status.completion_time = status.completion_time.take().map(|time| Time(time.0 + SignedDuration::from_hours(9)));
    });
    let by_hand = changed(&run("by-hand", "web", 5, Some("Stored")), |run| run.metadata.labels = None);
    let runs = [
        run("stored", "web", 10, Some("Stored")),
        run("failed", "web", 20, Some("Unavailable")),
        run("cancelled", "web", 30, Some("Cancelled")),
        run("runs", "web", 40, None),
        behind,
        ahead,
        by_hand,
    ];
    let learnt = scheduled(&runs, at(60_100));
    let endings: Vec<_> = learnt.iter().map(|run| (run.begun, run.ending.clone())).collect();
    let made = Ending::Made(PastRun { time: at(11), changed: 7, size: 100, seconds: 60 });
    let failed = Ending::Failed(at(81));
    let settled = Ending::Settled;
    let [behind, ahead] = [50_000, 60_000].map(|created| Ending::Failed(at(created)));
    let expected = [
        (at(10), made),
        (at(20), failed),
        (at(30), settled.clone()),
        (at(40), settled),
        (at(50_000), behind),
        (at(60_000), ahead),
    ];
    assert_eq!(endings, expected);
    assert!(learnt.iter().all(|run| run.policy == "nightly" && run.vm == vm("web")));
}

#[test]
fn a_machine_with_any_unfinished_run_is_busy_and_what_waits_for_somebody_takes_nobody_s_place() {
    let by_hand = changed(&run("by-hand", "hand", 1000, None), |run| run.metadata.labels = None);
    let assigned =
        changed(&run("assigned", "old", 0, None), |run| run.status.as_mut().unwrap().node = Some("n".into()));
    let runs = [
        by_hand,
        assigned,
        run("young", "new", 900, None),
        run("stalled", "stalled", 0, None),
        run("over", "web", 990, Some("Stored")),
    ];
    let busy = busy(&runs);
    assert_eq!(busy, ["hand", "old", "new", "stalled"].map(vm).into());
    assert_eq!(at_work(&runs, at(1000)), [("shop".to_owned(), 2)].into());
}

#[test]
fn the_newest_runs_of_each_machine_are_kept_and_of_the_gone_for_a_month() {
    let machines: HashSet<_> = [vm("web")].into();
    let mut runs: Vec<_> = (0..10).map(|n| run(&format!("s{n}"), "web", n * 10, Some("Stored"))).collect();
    runs.extend((0..7).map(|n| run(&format!("f{n}"), "web", n * 10 + 5, Some("Unavailable"))));
    runs.push(run("runs", "web", -100, None));
    runs.push(changed(&run("by-hand", "web", -200, Some("Stored")), |run| run.metadata.labels = None));
    runs.push(changed(&run("cleans-up", "web", -300, Some("Stored")), |run| {
        run.metadata.finalizers = Some(vec![crate::controller::FINALIZER.into()]);
    }));
    runs.push(run("gone", "gone", 0, Some("Stored")));
    let names =
        |now: i64| -> Vec<_> { superfluous(&runs, &machines, at(now)).iter().map(|run| run.name_any()).collect() };
    assert_eq!(names(1000), ["s0", "f0", "s1", "f1"]);
    let month = 30 * 24 * 3600;
    assert_eq!(names(month), ["s0", "f0", "s1", "f1"]);
    assert_eq!(names(month + 1), ["gone", "s0", "f0", "s1", "f1"]);
}

/// One whose policy asked for the verification of its point, and what is said of that.
fn verifies(run: &Arc<BackupRun>, said: Option<(&str, &str)>) -> Arc<BackupRun> {
    changed(run, |run| {
        run.spec.verify = Verify::All;
        let conditions = &mut run.status.as_mut().unwrap().conditions;
        conditions.extend(said.map(|(status, reason)| Condition {
            type_: "Verified".into(),
            status: status.into(),
            reason: reason.into(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: Time(at(0)),
        }));
    })
}

#[test]
fn what_is_not_known_to_be_sound_is_verified_after_the_next_run_and_what_waits_is_not() {
    let stored = |said| verifies(&run("stored", "web", 10, Some("Stored")), said);
    let of = |run: Arc<BackupRun>, now: i64| scheduled(&[run], at(now))[0].verified;
    for (run, now, verified) in [
        (run("not-asked-for", "web", 10, Some("Stored")), 100, Verified::No),
        (verifies(&run("runs", "web", 10, None), None), 100, Verified::Yes),
        (verifies(&run("failed", "web", 10, Some("Unavailable")), None), 100, Verified::No),
        (stored(None), 100, Verified::Yes),
        (stored(Some(("Unknown", "Verifying"))), 100, Verified::Yes),
        // Its node is gone, and with it whoever could say that nothing comes of it.
        (stored(Some(("Unknown", "Verifying"))), 10 + 76 * 3600, Verified::No),
        (stored(Some(("Unknown", "Unavailable"))), 100, Verified::No),
        (stored(Some(("True", "Sound"))), 10 + 76 * 3600, Verified::Yes),
        (stored(Some(("False", "Damaged"))), 100, Verified::No),
    ] {
        let what = run.status.clone();
        assert_eq!(of(run, now), verified, "{what:#?}");
    }
}

#[test]
fn the_newest_verified_run_is_kept_and_what_waits_for_its_verification() {
    let machines: HashSet<_> = [vm("web")].into();
    let mut runs: Vec<_> = (0..12).map(|n| run(&format!("s{n:02}"), "web", n * 10, Some("Stored"))).collect();
    runs[0] = verifies(&runs[0], Some(("True", "Sound")));
    runs[1] = verifies(&runs[1], Some(("False", "Damaged")));
    runs[2] = verifies(&runs[2], None);
    let names: Vec<_> = superfluous(&runs, &machines, at(1000)).iter().map(|run| run.name_any()).collect();
    assert_eq!(names, ["s00", "s03"], "the one that waits is not counted");
}

#[test]
fn namespaces_take_turns_and_of_one_those_go_first_that_have_waited_longest() {
    let due = |namespace: &str, name: &str, start: i64| {
        let facts = remora_core::policy::VmFacts::named(VmName::new(format!("{namespace}/{name}")).unwrap());
        DueRun {
            policy: "nightly".into(),
            vm: remora_core::policy::VmFacts { namespace: namespace.into(), ..facts },
            after: at(0),
            start: at(start),
            word: remora_core::policy::Word::default(),
            repository: "offsite".into(),
            quiesce: remora_core::point::Quiesce::Never,
            scratch: crate::resources::ScratchSpec::default(),
            deadline: None,
            verify: Verify::None,
        }
    };
    let mass = (0..4).map(|n| due("mass", &format!("m{n}"), 1 + n));
    let all: Vec<_> = mass.chain([due("bank", "b0", 10), due("bank", "b1", 11), due("shop", "s0", 12)]).collect();
    let names = |at_work: &[(&str, usize)]| -> Vec<String> {
        let at_work = at_work.iter().map(|(namespace, count)| ((*namespace).to_owned(), *count)).collect();
        in_turn(all.clone(), &at_work).iter().map(|due| due.vm.short_name().to_owned()).collect()
    };
    assert_eq!(names(&[]), ["m0", "b0", "s0", "m1", "b1", "m2", "m3"]);
    assert_eq!(names(&[("mass", 2), ("bank", 1)]), ["s0", "b0", "m0", "b1", "m1", "m2", "m3"]);
}
