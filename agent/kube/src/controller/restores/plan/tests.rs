#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use remora_core::RepositoryId;
use remora_core::point::Point;
use serde_json::{Value, json};

use super::*;
use crate::controller::FINALIZER;
use crate::controller::observed::{Agent, RepositoryFacts, StorageClasses};
use crate::controller::restores::observed::MachineFacts;
use crate::controller::testing::agent;
use crate::controller::worker::{Image, Overlay, Placement, PodState, Worker, WorkerFacts, WorkerStep};
use crate::resources::RestoreRun;

const GIB: u64 = 1 << 30;

fn run(target: &Value) -> RestoreRun {
    let mut spec = json!({"point": "0011223344556677-1", "repository": {"name": "offsite"}});
    spec.as_object_mut().unwrap().extend(target.as_object().unwrap().clone());
    serde_json::from_value(json!({
        "apiVersion": "remora.dev/v1alpha1", "kind": "RestoreRun",
        "metadata": {"name": "run", "namespace": "shop", "uid": "run-uid", "finalizers": [FINALIZER]}, "spec": spec,
    }))
    .unwrap()
}

fn to_claims() -> RestoreRun {
    run(&json!({"disks": [{"disk": "data", "claim": "data-copy"}, {"disk": "root", "claim": "root-copy"}]}))
}

fn to_machine(fields: &Value) -> RestoreRun {
    let mut machine = json!({"name": "copy"});
    machine.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    run(&json!({"virtualMachine": machine}))
}

/// Of a machine `web` with disks `root` and `data`, of 1 GiB each, in claims of 2 GiB of class `fast`; `data` is a block one.
fn point() -> Point {
    let disk = |name: &str| {
        json!({
            "name": name, "size": GIB, "lineage": "00112233445566778899aabbccddeeff", "checkpoint": null, "instance": null,
            "identity": {"vm_uuid": "u", "path": format!("shop/web-{name}"), "inode": null, "data_file": null},
            "read_in_full": "2026-01-01T00:00:00Z", "decision": "full", "reason": "", "read": 0, "stored": 0, "rewritten": 0,
        })
    };
    let claim = |name: &str, mode: &str| {
        let resources = json!({"requests": {"storage": "2Gi"}});
        let spec = json!({"accessModes": ["ReadWriteMany"], "volumeMode": mode, "storageClassName": "fast", "resources": resources});
        json!({"metadata": {"name": name}, "spec": spec})
    };
    let volume = |name: &str| json!({"name": name, "persistentVolumeClaim": {"claimName": format!("web-{name}")}});
    let template = json!({"spec": {"volumes": [volume("root"), volume("data")]}});
    let definition = json!({
        "virtualMachine": {"metadata": {"name": "web"}, "spec": {"runStrategy": "Always", "template": template}},
        "persistentVolumeClaims": [claim("web-root", "Filesystem"), claim("web-data", "Block")],
    });
    serde_json::from_value(json!({
        "id": "0011223344556677-1", "repository": "00112233445566778899aabbccddeeff", "vm": "shop/web",
        "time": "2026-01-01T00:00:00Z", "parent": null, "decision": "full", "reason": "", "quiesced": "frozen",
        "disks": [disk("root"), disk("data")], "stored": 0, "definition": definition.to_string(), "tool": "t",
    }))
    .unwrap()
}

/// Nothing is made yet, and nothing speaks against it.
fn observed(run: RestoreRun) -> Observed {
    Observed {
        run,
        age: Duration::ZERO,
        silent: Duration::ZERO,
        agents: vec![agent("agent-uid")],
        repository: RepositoryFacts::Ready(RepositoryId::random()),
        point: PointFacts::Found(Box::new(point())),
        first: None,
        claims: BTreeMap::new(),
        worker: Worker::default(),
        machine: MachineFacts::default(),
        classes: StorageClasses { names: vec!["fast".into(), "slow".into()], default: Some("slow".into()) },
        image: Some(Image { name: "remora:1".into(), pull_policy: None }),
    }
}

fn theirs() -> ClaimFacts {
    ClaimFacts { taken: Taken::Foreign, uid: "c".into(), capacity: Some(GIB), ..ClaimFacts::default() }
}

fn ours() -> ClaimFacts {
    ClaimFacts { taken: Taken::Ours { leaving: false }, ..theirs() }
}

fn worker(state: PodState) -> WorkerFacts {
    let name = "remora-worker-run-uid".into();
    WorkerFacts::Pod(Thing { name, uid: "p".into(), leaving: false }, state)
}

/// All is made, and the worker runs on node `one`.
fn made(run: RestoreRun) -> Observed {
    let claims = match &run.spec.virtual_machine {
        None => ["data-copy", "root-copy"],
        Some(_) => ["copy-data", "copy-root"],
    };
    Observed {
        claims: claims.map(|name| (name.to_owned(), ours())).into(),
        worker: Worker { pod: worker(PodState::Runs("one".into())), secret: Taken::Ours { leaving: false } },
        ..observed(run)
    }
}

fn say(run: &mut RestoreRun, kind: &str, status: &str, reason: &str) {
    let condition = json!({
        "type": kind, "status": status, "reason": reason, "message": "So it is.", "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    run.status.get_or_insert_default().conditions.push(serde_json::from_value(condition).unwrap());
}

/// Given to node `one`, and claimed by its agent.
fn claimed(mut run: RestoreRun) -> RestoreRun {
    let status = run.status.get_or_insert_default();
    status.node = Some("one".into());
    status.agent = Some("agent-uid".into());
    status.start_time = Some(Time(Timestamp::UNIX_EPOCH));
    run
}

fn names(plan: &Plan) -> Vec<String> {
    let name = |metadata: &kube::api::ObjectMeta| metadata.name.clone().unwrap();
    let steps = plan.steps.iter().map(|step| match step {
        Step::Worker(WorkerStep::RemovePod(_)) => "-worker".to_owned(),
        Step::Worker(WorkerStep::RemoveSecret(_)) => "-secret".to_owned(),
        Step::RemoveClaim(thing) => format!("-claim {}", thing.name),
        Step::MakeClaim(claim) => format!("+claim {}", name(&claim.metadata)),
        Step::Worker(WorkerStep::MakeSecret(_)) => "+secret".to_owned(),
        Step::Worker(WorkerStep::MakePod(_)) => "+worker".to_owned(),
        Step::MakeMachine(machine) => format!("+machine {}", machine["metadata"]["name"].as_str().unwrap()),
    });
    steps.collect()
}

#[track_caller]
fn ends(observed: &Observed) -> (String, String) {
    match plan(observed).status.unwrap().ended {
        Some(Ended::Badly(says)) => (says.reason.into_owned(), says.message),
        other => panic!("it does not end badly: {other:?}"),
    }
}

fn assigned(plan: &Plan) -> (String, Option<String>) {
    let status = plan.status.clone().unwrap();
    assert_eq!(status.ended, None);
    (status.assigned.unwrap().reason.into_owned(), status.node)
}

#[test]
fn a_run_has_all_made_and_is_given_to_the_node_of_its_worker() {
    let mut fresh = observed(to_claims());
    fresh.run.metadata.finalizers = None;
    let first = plan(&fresh);
    assert_eq!((first.finalizer, assigned(&first).0.as_str()), (Finalizer::Add, "Preparing"));
    assert_eq!(names(&first), ["+claim data-copy", "+claim root-copy", "+secret", "+worker"]);
    let waits = Observed {
        worker: Worker { pod: worker(PodState::Waiting("no node".into())), ..made(to_claims()).worker },
        ..made(to_claims())
    };
    let pending = plan(&waits);
    assert_eq!((names(&pending), assigned(&pending)), (vec![], ("WorkerPending".into(), None)));
    let message = pending.status.unwrap().assigned.unwrap().message;
    assert!(message.ends_with("yet: no node. `kubectl describe pod remora-worker-run-uid` tells more."), "{message}");
    let no_agent = plan(&Observed { agents: vec![], ..made(to_claims()) });
    assert_eq!(assigned(&no_agent), ("NoAgent".into(), None));
    let begins = vec![Agent { is_ready: false, ..agent("agent-uid") }];
    assert_eq!(assigned(&plan(&Observed { agents: begins, ..made(to_claims()) })), ("NoAgent".into(), None));
    assert_eq!(assigned(&plan(&made(to_claims()))), ("Assigned".into(), Some("one".into())));
}

#[test]
fn a_claim_that_is_made_is_as_the_point_tells_and_at_least_as_large_as_the_disk() {
    let steps = plan(&observed(run(&json!({"disks": [
        {"disk": "data", "claim": "a"}, {"disk": "root", "claim": "b", "storageClassName": "slow"},
    ]}))))
    .steps;
    let claims: Vec<_> =
        steps.iter().filter_map(|step| if let Step::MakeClaim(claim) = step { Some(claim) } else { None }).collect();
    let spec = |at: usize| json!(claims[at].spec);
    assert_eq!((&spec(0)["volumeMode"], &spec(0)["storageClassName"]), (&json!("Block"), &json!("fast")));
    assert_eq!((&spec(1)["volumeMode"], &spec(1)["storageClassName"]), (&json!("Filesystem"), &json!("slow")));
    assert_eq!(
        (&spec(0)["accessModes"], &spec(0)["resources"]["requests"]["storage"]),
        (&json!(["ReadWriteMany"]), &json!("2Gi"))
    );
    // It stays when the run is deleted, and is known as the run's while that may fail.
    assert_eq!(
        (&claims[0].metadata.owner_references, &claims[0].metadata.labels.as_ref().unwrap()["remora.dev/run"]),
        (&None, &"run-uid".to_owned())
    );
    let Some(Step::Worker(WorkerStep::MakePod(pod))) = steps.last() else { panic!("no worker: {steps:?}") };
    let pod = json!(pod);
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["volumeDevices"], json!([{"name": "disk-0", "devicePath": "/dev/disk-0"}]));
    assert_eq!(container["volumeMounts"][1], json!({"name": "disk-1", "mountPath": "/disks/1"}));
    let args = container["args"].as_array().unwrap();
    assert_eq!(args[args.len() - 2..], [json!("--disk=/dev/disk-0"), json!("--disk=/disks/1")]);
    assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"], "run-uid");
    // Of its Secret it has no key but its own.
    let items = pod["spec"]["volumes"][0]["secret"]["items"].to_string();
    assert!(items.contains("tls.key") && !items.contains("agent"), "{items}");

    // Of a claim that machines of KubeVirt have below overlays.
    let overlay = |state: &str, volume: &str| Overlay { state: state.into(), volume: volume.into() };
    let mut tracked = observed(to_claims());
    let overlays = vec![overlay("of-web", "root"), overlay("of-web", "more"), overlay("of-db", "disk")];
    tracked.claims = BTreeMap::from([("root-copy".to_owned(), ClaimFacts { overlays, ..theirs() })]);
    let Some(Step::Worker(WorkerStep::MakePod(pod))) = plan(&tracked).steps.pop() else { panic!("no worker") };
    let pod = json!(pod);
    let args = pod["spec"]["containers"][0]["args"].as_array().unwrap().clone();
    let paths = ["0/cbt/disk", "1/cbt/root", "1/cbt/more"].map(|path| json!(format!("--overlay=/states/{path}.qcow2")));
    assert_eq!(args[args.len() - 3..], paths);
    let volumes = pod["spec"]["volumes"].as_array().unwrap();
    let state = |at: usize| volumes[volumes.len() - 2 + at]["persistentVolumeClaim"]["claimName"].clone();
    assert_eq!((state(0), state(1)), (json!("of-db"), json!("of-web")));

    // Of a point that says nothing of claims.
    let mut unknown = observed(to_claims());
    let PointFacts::Found(point) = &mut unknown.point else { unreachable!() };
    point.definition = "<domain/>".into();
    let Some(Step::MakeClaim(claim)) = plan(&unknown).steps.into_iter().next() else { panic!("no claim") };
    let size: u64 = json!(claim.spec)["resources"]["requests"]["storage"].as_str().unwrap().parse().unwrap();
    assert!(size > GIB && json!(claim.spec)["storageClassName"].is_null(), "{claim:?}");
}

#[test]
fn the_worker_of_a_machine_runs_where_the_machine_may() {
    let mut to_copy = observed(to_machine(&json!({})));
    let PointFacts::Found(point) = &mut to_copy.point else { unreachable!() };
    let mut definition: Value = serde_json::from_str(&point.definition).unwrap();
    let terms = json!([{"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}]);
    let nodes = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
    let tolerations = json!([{"key": "machines", "operator": "Exists", "effect": "NoSchedule"}]);
    let template = &mut definition["virtualMachine"]["spec"]["template"]["spec"];
    template["nodeSelector"] = json!({"zone": "a", "kubevirt.io/schedulable": "false"});
    template["tolerations"] = tolerations.clone();
    let apart = json!({"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone"}]});
    template["affinity"] = json!({"nodeAffinity": nodes, "podAntiAffinity": apart});
    point.definition = definition.to_string();
    let spec = |observed: &Observed| {
        let Some(Step::Worker(WorkerStep::MakePod(pod))) = plan(observed).steps.pop() else { panic!("no worker") };
        json!(pod)["spec"].take()
    };
    let of_copy = spec(&to_copy);
    let selector = json!({"zone": "a", "kubernetes.io/os": "linux", "kubevirt.io/schedulable": "true"});
    assert_eq!((&of_copy["nodeSelector"], &of_copy["tolerations"]), (&selector, &tolerations));
    assert_eq!(of_copy["affinity"], json!({"nodeAffinity": nodes}));

    // Of claims nobody knows who is to have them; but they may be on nodes that are kept for machines.
    to_copy.run = to_claims();
    let of_claims = spec(&to_copy);
    assert_eq!((&of_claims["affinity"], &of_claims["tolerations"]), (&Value::Null, &tolerations));
    assert_eq!(of_claims["nodeSelector"]["zone"], Value::Null);
}

#[test]
fn what_nobody_can_read_of_where_a_machine_may_run_leaves_the_rest() {
    let selector = json!({"zone": "a"});
    let tolerations = json!([{"key": "machines", "operator": "Exists"}]);
    for unreadable in [json!(null), json!("x"), json!({"nodeAffinity": 7})] {
        let spec = json!({"nodeSelector": selector, "tolerations": tolerations, "affinity": unreadable});
        let rest = json!({"nodeSelector": selector, "tolerations": tolerations});
        assert_eq!(Placement::of(&spec), Placement::of(&rest), "{unreadable}");
        assert_ne!(Placement::of(&rest), Placement::default());
    }
    let selector = json!({"nodeSelector": {"zone": 1}, "tolerations": tolerations});
    assert_eq!(Placement::of(&selector), Placement::of(&json!({"tolerations": tolerations})));
    assert_eq!(Placement::of(&json!(null)), Placement::default());
}

/// Else it would overwrite a claim when nobody thinks of it any more.
#[test]
fn what_could_not_begin_within_a_day_does_not_begin_any_more() {
    let away = RepositoryFacts::NotReady("its store is away.".into());
    let waits = |age| Observed { age, repository: away.clone(), ..made(to_claims()) };
    assert_eq!(plan(&waits(making::BEGINS_WITHIN)).status.unwrap().ended, None);
    let late = waits(making::BEGINS_WITHIN + Duration::from_secs(1));
    let (reason, message) = ends(&late);
    assert!(reason == "DeadlineExceeded" && message.contains("its store is away."), "{reason}: {message}");
    assert_eq!(names(&plan(&late)), ["-worker", "-secret", "-claim data-copy", "-claim root-copy"]);
    // Nor does what could begin now, if no controller was there in time.
    let (reason, message) = ends(&Observed { age: late.age, ..made(to_claims()) });
    assert!(reason == "DeadlineExceeded" && message.contains("Nothing speaks against it now"), "{reason}: {message}");
    // One that has begun has more time.
    let works = Observed { age: late.age, ..made(claimed(to_claims())) };
    assert_eq!(plan(&works).status.unwrap().ended, None);
}

#[test]
fn what_has_begun_has_three_days_and_ends_then_as_what_fails_does() {
    let of = |run: RestoreRun, age| Observed { age, ..made(run) };
    let late = ENDS_WITHIN + Duration::from_secs(1);
    assert_eq!(ENDS_WITHIN.checked_sub(making::BEGINS_WITHIN), Some(Duration::from_hours(72)));
    assert_eq!(plan(&of(claimed(to_claims()), ENDS_WITHIN)).status.unwrap().ended, None);
    let mut drips = of(claimed(to_claims()), late);
    drips.claims.insert("data-copy".into(), theirs());
    let (reason, message) = ends(&drips);
    assert!(reason == "DeadlineExceeded" && message.contains("in data-copy may be overwritten"), "{reason}: {message}");
    assert_eq!(names(&plan(&drips)), ["-worker", "-secret", "-claim root-copy"]);

    // What is written stays, and only its machine is waited for no longer.
    let mut run = claimed(to_machine(&json!({})));
    say(&mut run, "Written", "True", "Verified");
    let gone = |age| Observed { worker: Worker::default(), point: PointFacts::Unread, ..of(run.clone(), age) };
    assert_eq!(plan(&gone(ENDS_WITHIN)).status, None);
    let (reason, message) = ends(&gone(late));
    assert!(reason == "DeadlineExceeded" && message.ends_with("their claims stay."), "{reason}: {message}");
    assert_eq!(names(&plan(&gone(late))), Vec::<String>::new());
}

#[test]
fn what_is_wrong_with_the_request_ends_it_with_nothing_left() {
    type Change = fn(&mut Observed);
    let cases: [(&str, RestoreRun, Change); 15] = [
        ("NoSuchPoint", to_claims(), |o| o.point = PointFacts::Unusable("NoSuchPoint", "none".into())),
        ("NoSuchDisk", run(&json!({"disks": [{"disk": "none", "claim": "c"}]})), |_| {}),
        ("ClaimInUse", to_claims(), |o| {
            let used = ClaimFacts { users: vec!["pod db".into()], ..theirs() };
            o.claims.insert("data-copy".into(), used);
        }),
        ("ClaimInUse", to_claims(), |o| o.first = Some(("data-copy".into(), "earlier".into()))),
        ("ClaimTooSmall", to_claims(), |o| {
            o.claims.insert("data-copy".into(), ClaimFacts { capacity: Some(GIB - 1), ..theirs() });
        }),
        ("ClaimGoing", to_claims(), |o| {
            o.claims.insert("data-copy".into(), ClaimFacts { taken: Taken::Ours { leaving: true }, ..theirs() });
        }),
        ("NoStorageClass", to_claims(), |o| o.classes.names = vec!["other".into()]),
        ("NameTaken", to_claims(), |o| o.worker.pod = WorkerFacts::Foreign),
        ("NameTaken", to_claims(), |o| o.worker.secret = Taken::Foreign),
        ("WorkerFailed", to_claims(), |o| {
            *o = made(to_claims());
            o.worker.pod = worker(PodState::Ended("OOMKilled".into()));
        }),
        ("NoKubeVirt", to_machine(&json!({})), |o| o.machine.unknown = true),
        ("NameTaken", to_machine(&json!({})), |o| o.machine.taken = Taken::Foreign),
        ("NameTaken", to_machine(&json!({})), |o| {
            o.claims.insert("copy-data".into(), theirs());
        }),
        ("OriginalExists", to_machine(&json!({"keepIdentity": true})), |o| o.machine.original = true),
        ("NoDefinition", to_machine(&json!({})), |o| {
            let PointFacts::Found(point) = &mut o.point else { unreachable!() };
            point.definition = "<domain/>".into();
        }),
    ];
    for (reason, run, change) in cases {
        let mut observed = observed(run);
        // One claim is made already.
        observed.claims.insert("root-copy".into(), ours());
        change(&mut observed);
        let (said, message) = ends(&observed);
        assert_eq!(said, reason, "{message}");
        assert!(!message.contains("overwritten"), "{message}");
        let steps = names(&plan(&observed));
        assert!(steps.contains(&"-claim root-copy".to_owned()), "{reason}: {steps:?}");
        assert!(!steps.iter().any(|step| step.starts_with('+')), "{reason}: {steps:?}");
    }
}

#[test]
fn what_is_no_fault_of_the_request_is_waited_for() {
    type Change = fn(&mut Observed);
    let cases: [(&str, Change); 6] = [
        ("WaitingForRun", |o| {
            o.claims.insert("data-copy".into(), ClaimFacts { left_by: Some("later".into()), ..theirs() });
        }),
        ("RepositoryMissing", |o| o.repository = RepositoryFacts::Missing),
        ("RepositoryNotAllowed", |o| o.repository = RepositoryFacts::NotAllowed),
        ("RepositoryNotReady", |o| o.repository = RepositoryFacts::NotReady("asleep".into())),
        ("PointNotReadable", |o| o.point = PointFacts::Later("no answer".into())),
        ("NoImage", |o| o.image = None),
    ];
    for (reason, change) in cases {
        let mut observed = observed(to_claims());
        change(&mut observed);
        let plan = plan(&observed);
        assert_eq!((assigned(&plan).0.as_str(), names(&plan)), (reason, vec![]));
    }
}

#[test]
fn an_existing_claim_that_is_free_and_large_enough_is_taken() {
    let mut observed = observed(to_claims());
    observed.claims.insert("data-copy".into(), ClaimFacts { block: true, ..theirs() });
    let first = plan(&observed);
    assert_eq!(names(&first), ["+claim root-copy", "+secret", "+worker"]);
    let Some(Step::Worker(WorkerStep::MakePod(pod))) = first.steps.last() else { panic!("no worker") };
    assert_eq!(json!(pod)["spec"]["containers"][0]["volumeDevices"][0]["devicePath"], "/dev/disk-0");
}

#[test]
fn a_run_whose_agent_is_done_ends_when_its_worker_is_gone() {
    let mut run = claimed(to_claims());
    say(&mut run, "Written", "True", "Verified");
    let done = plan(&made(run.clone()));
    assert_eq!((names(&done), done.status.unwrap().ended), (vec!["-worker".into(), "-secret".into()], None));
    let gone = Observed { worker: Worker::default(), ..made(run.clone()) };
    let ended = plan(&gone);
    assert_eq!(names(&ended), Vec::<String>::new());
    assert!(matches!(ended.status.unwrap().ended, Some(Ended::Well(_))));
    say(&mut run, "Complete", "True", "Restored");
    let after = plan(&Observed { worker: Worker::default(), ..made(run) });
    assert_eq!((after.finalizer, names(&after)), (Finalizer::Remove, vec![]));
}

#[test]
fn a_machine_is_made_once_all_is_written_and_what_is_written_stays_if_it_cannot_be() {
    let mut run = claimed(to_machine(&json!({"start": true})));
    say(&mut run, "Written", "True", "Verified");
    let gone = Observed { worker: Worker::default(), ..made(run) };
    let making = plan(&gone);
    assert_eq!((names(&making), making.status.clone().unwrap().ended), (vec!["+machine copy".into()], None));
    let Some(Step::MakeMachine(machine)) = making.steps.first() else { panic!("no machine") };
    let claim = &machine["spec"]["template"]["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"];
    assert_eq!((claim, &machine["spec"]["runStrategy"]), (&json!("copy-root"), &json!("Always")));
    let facts = |taken| MachineFacts { taken, original: true, unknown: false };
    let with = |taken: Taken| Observed { machine: facts(taken), ..gone.clone() };
    let ended = plan(&with(Taken::Ours { leaving: false })).status.unwrap().ended;
    assert!(matches!(ended, Some(Ended::Well(message)) if message.contains("is started")));
    let (reason, message) = ends(&with(Taken::Foreign));
    assert!(reason == "NameTaken" && message.contains("their claims stay"), "{message}");
    assert_eq!(names(&plan(&with(Taken::Foreign))), Vec::<String>::new());
}

#[test]
fn a_restore_that_ends_badly_leaves_no_claim_of_its_own_and_says_what_it_spoilt() {
    type Change = fn(&mut Observed);
    let cases: [(&str, Change); 7] = [
        ("Cancelled", |o| o.run.spec.cancel = true),
        ("Cancelled", |o| o.run.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH))),
        ("NoSpace", |o| say(&mut o.run, "Written", "False", "NoSpace")),
        ("AgentLost", |o| (o.agents, o.silent) = (vec![], Duration::from_secs(121))),
        ("WorkerLost", |o| o.worker.pod = worker(PodState::Ended("Evicted".into()))),
        ("WorkerLost", |o| o.worker.pod = WorkerFacts::None),
        ("ClaimInUse", |o| o.claims.get_mut("data-copy").unwrap().users.push("VirtualMachine db".into())),
    ];
    for (reason, change) in cases {
        let mut observed = made(claimed(to_claims()));
        observed.claims.insert("data-copy".into(), theirs());
        change(&mut observed);
        let (said, message) = ends(&observed);
        assert_eq!(said, reason, "{message}");
        assert!(message.contains("in data-copy may be overwritten"), "{message}");
        let steps = names(&plan(&observed));
        assert!(steps.ends_with(&["-secret".into(), "-claim root-copy".into()]), "{reason}: {steps:?}");
    }
    // Before an agent has it nothing is overwritten.
    let mut early = made(to_claims());
    early.claims.insert("data-copy".into(), theirs());
    early.run.spec.cancel = true;
    assert!(!ends(&early).1.contains("overwritten"));
}

#[test]
fn what_is_left_after_the_end_is_removed_and_the_finalizer_last() {
    let mut run = claimed(to_claims());
    say(&mut run, "Failed", "True", "Cancelled");
    let left = plan(&made(run.clone()));
    assert_eq!(names(&left), ["-worker", "-secret", "-claim data-copy", "-claim root-copy"]);
    assert_eq!((left.status, left.finalizer), (None, Finalizer::Keep));
    let nothing = plan(&observed(run.clone()));
    assert_eq!((nothing.finalizer, nothing.again), (Finalizer::Remove, None));
    run.metadata.finalizers = None;
    assert_eq!(plan(&made(run)), Plan::default());
}

#[test]
fn an_agent_is_given_time_to_be_replaced() {
    let mut waits = made(claimed(to_claims()));
    waits.silent = Duration::from_secs(121);
    waits.agents = vec![agent("successor")];
    let plan = plan(&waits);
    assert_eq!((names(&plan), plan.status.unwrap().ended), (vec![], None));
}
