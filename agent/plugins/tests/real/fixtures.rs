//! Components that were built against a released version of `wit/` load with this host and answer as they did.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use remora_core::policy::{Authorize, Effect, Question, Retention, Schedule, Select, VmFacts};
use remora_core::retention::{Candidate, Fate};
use remora_core::{PointId, VmName};
use remora_plugins::conformance::{Depth, mover};
use remora_plugins::{AuthorizePolicy, Digest, RetentionPolicy, SchedulePolicy, SelectPolicy};
use wit_parser::{Resolve, WorldItem};

use super::builtins::authorize::{access, decide};
use super::components::{host, wit};
use super::conformance::failed;
use super::movers::conformance::trial;
use super::movers::volumes::{Lab, restored};

/// Each fixture and its digest. A line that is here never changes; a new version of `wit/` gets lines of its own.
const FIXTURES: [(&str, &str); 7] = [
    ("mover/0.1.0/objects.wasm", "1c269c09606437e3189fbc03ffed5be72b2978ce71d28e4c8e9e14fe4e48bb86"),
    ("mover/0.1.0/volume.wasm", "38ed81326d4166e27e0476108d5bf8509f45dac96dc86b07686acc488b410beb"),
    ("policy/0.1.0/authorize.wasm", "57f04f23f96d630009fb1bb6d0318daf87f82c604c4b9d4416a7e3499773abe2"),
    ("policy/0.1.0/retention.wasm", "67fa566930ff355106502080dfc397dde9addfb105821c09c538edd1a4d25f8e"),
    ("policy/0.1.0/schedule.wasm", "62c89a2c281e416fd468053f53fcb886f8f7370d7620378a4827e55d4b392490"),
    ("policy/0.1.0/select.wasm", "46058dfe1525f3ab6f46e69f6d28ef1c6b953882d3bce76cff3c2668513884ab"),
    ("policy/0.2.0/authorize.wasm", "f01d6907bbd0ce619f1c11211c3a5506b27a37ee273fb410862cde97a3374f03"),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(folder().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// What lies in folders within folders: `PACKAGE/VERSION`, and the path.
fn versions(of: &Path) -> BTreeMap<String, PathBuf> {
    let folders = |of: &Path| -> Vec<PathBuf> {
        fs::read_dir(of).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect()
    };
    let named = |path: PathBuf| (path.strip_prefix(of).unwrap().to_str().unwrap().to_owned(), path);
    folders(of).iter().flat_map(|package| folders(package)).map(named).collect()
}

/// What the worlds of a version export: what a component can be.
fn interfaces(version: &Path) -> BTreeSet<String> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(version).unwrap();
    let worlds = resolve.packages[package].worlds.values().map(|world| &resolve.worlds[*world]);
    let exports = worlds.flat_map(|world| world.exports.values()).filter_map(|item| match item {
        WorldItem::Interface { id, .. } => resolve.interfaces[*id].name.clone(),
        _ => None,
    });
    exports.collect()
}

#[test]
fn every_interface_of_every_released_version_has_a_fixture() {
    let wanted: BTreeSet<_> = versions(&wit())
        .into_iter()
        .flat_map(|(version, path)| interfaces(&path).into_iter().map(move |name| format!("{version}/{name}.wasm")))
        .collect();
    assert_eq!(wanted, FIXTURES.iter().map(|(name, _)| (*name).to_owned()).collect());
}

#[test]
fn no_fixture_changes_and_none_lies_there_that_nothing_tries() {
    let mut found = BTreeMap::new();
    for (version, path) in versions(&folder()) {
        for file in fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()) {
            if file.extension().is_some_and(|ext| ext == "wasm") {
                let name = format!("{version}/{}", file.file_name().unwrap().to_str().unwrap());
                found.insert(name, Digest::of(&fs::read(&file).unwrap()).to_string());
            }
        }
    }
    assert_eq!(found, FIXTURES.iter().map(|(name, digest)| ((*name).to_owned(), (*digest).to_owned())).collect());
}

fn vm(name: &str) -> VmFacts {
    VmFacts::named(VmName::new(name).unwrap())
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selector_of_0_1_0_answers() {
    let policy = SelectPolicy::load(&host(), &fixture("policy/0.1.0/select.wasm"), "{}").unwrap();
    let answers = policy.select(&[vm("even"), vm("odd"), vm("vm-001")]).await.unwrap();
    assert_eq!(answers.iter().map(|answer| answer.selected).collect::<Vec<_>>(), [true, false, true]);
    assert!(answers.iter().all(|answer| answer.reason == "the length of its name"), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_of_0_1_0_answers() {
    let policy = SchedulePolicy::load(&host(), &fixture("policy/0.1.0/schedule.wasm"), "{}").unwrap();
    let (after, now) = (time("2026-01-01T00:00:00Z"), time("2026-01-01T00:10:00Z"));
    let question = Question { vm: vm("vm"), now, after, seed: 7, runs: Vec::new() };
    let answer = policy.next(&[question]).await.unwrap().remove(0);
    assert_eq!((answer.start, answer.reason.as_str()), (Some(time("2026-01-01T01:00:00Z")), "an hour later"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_of_0_1_0_answers() {
    let policy = RetentionPolicy::load(&host(), &fixture("policy/0.1.0/retention.wasm"), "{}").unwrap();
    let point = |n| PointId::new("0123456789abcdef", n).unwrap();
    let time = |n: u64| time("2026-01-01T00:00:00Z") + SignedDuration::from_hours(24 * i64::try_from(n).unwrap());
    let points: Vec<_> = (1..=3).map(|n| Candidate { point: point(n), time: time(n), held: None }).collect();
    let name = VmName::new("vm").unwrap();
    let verdicts = policy.of_vm(vm("vm")).judge(&name, &points, time(9)).await.unwrap();
    assert_eq!(verdicts.iter().map(|verdict| verdict.fate).collect::<Vec<_>>(), [Fate::Drop, Fate::Keep, Fate::Keep]);
    assert_eq!(verdicts[0].reason, "its place in the list");
}

fn authorizer(version: &str) -> AuthorizePolicy {
    let policy = AuthorizePolicy::load(&host(), &fixture(&format!("policy/{version}/authorize.wasm")), "{}").unwrap();
    assert_eq!(policy.interface(), format!("remora:policy/authorize@{version}"));
    policy
}

#[track_caller]
fn looks_at_the_length_of_paths(policy: &AuthorizePolicy) {
    for (path, effect) in [("a", Effect::Allow), ("etc/shadow", Effect::Deny)] {
        assert_eq!(decide(policy, &access("root", &[], path, vm("vm"))), (effect, "path".into()), "{path}");
    }
}

#[test]
fn an_authorizer_of_0_1_0_answers() {
    looks_at_the_length_of_paths(&authorizer("0.1.0"));
}

#[test]
fn an_authorizer_of_0_2_0_answers() {
    looks_at_the_length_of_paths(&authorizer("0.2.0"));
}

#[test]
fn authorizers_of_both_versions_answer_alike() {
    let asked = [("root", "a"), ("root", "etc/shadow"), ("eve", "etc/shadow"), ("root", "etc/shadow"), ("root", "b")];
    let requests = asked.map(|(user, path)| access(user, &["web", "staff"], path, vm("vm")));
    let [old, new] = ["0.1.0", "0.2.0"].map(|version| authorizer(version).authorize(&requests).unwrap());
    assert_eq!(old, new);
    let effects: Vec<_> = new.iter().map(|decision| decision.effect).collect();
    assert_eq!(effects, [Effect::Allow, Effect::Deny, Effect::Deny, Effect::Deny, Effect::Allow]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mover_of_objects_of_0_1_0_holds_all_that_is_tried() {
    let trial = trial(r#"{"endpoint": "{endpoint}"}"#, &[("token", "canary-5fd1b2")]);
    let report = mover(fixture("mover/0.1.0/objects.wasm"), trial, Depth::Test).await;
    let report = report.unwrap_or_else(|e| panic!("{}", e.chain()));
    assert_eq!((failed(&report), report.skipped), (Vec::new(), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mover_of_points_of_0_1_0_stores_what_restores() {
    let lab = Lab::of_component(&fixture("mover/0.1.0/volume.wasm"));
    for decision in ["full", "incremental"] {
        let point = lab.backup().await.point;
        assert_eq!(point.decision.to_string(), decision);
        assert!(restored(&lab.mover, &point.id, 1).await == *lab.host.bytes(1));
        lab.change_something(7);
    }
}
