use remora_core::{VmName, testing};
use remora_kube::resources::BackupRunSpec;
use remora_plugins::set::Snapshot;
use serde_json::json;

use super::*;

const GOOD: &str = "\
kind: BackupPolicy
name: nightly
select:    {module: builtin:labels, settings: {matchLabels: {backup: nightly}, names: ['we*']}}
schedule:  {module: builtin:cron, settings: {cron: 0 2 * * *}}
retention: {module: builtin:gfs, settings: {last: 1}}
target:    {repository: offsite}
";

struct Lab {
    folder: tempfile::TempDir,
    host: Host,
}

impl Lab {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), host: Host::new(&HostOptions::default()).unwrap() }
    }

    fn next(&self, before: &Generation, files: &[(&str, &str)]) -> Generation {
        for (file, text) in files {
            std::fs::write(self.folder.path().join(file), text).unwrap();
        }
        before.next(&self.host, &Snapshot::read(self.folder.path()).unwrap(), Timestamp::now())
    }
}

fn order(repository: &serde_json::Value) -> Order {
    let spec = json!({"virtualMachine": "web", "repository": repository});
    let spec: BackupRunSpec = serde_json::from_value(spec).unwrap();
    Order { namespace: "shop".into(), name: "run".into(), uid: "uid".into(), spec }
}

fn point(labels: &serde_json::Value) -> Point {
    let metadata = json!({"name": "web", "namespace": "shop", "uid": "u", "labels": labels});
    let definition = json!({"virtualMachine": {"metadata": metadata}}).to_string();
    Point { definition, ..testing::point(&VmName::new("shop/web").unwrap(), Vec::new()) }
}

/// How many policies say together what is kept in one of the Repositories `offsite` and `other`; none if everything stays.
async fn keep(generation: &Generation, labels: &serde_json::Value, target: &str) -> Option<usize> {
    let elsewhere = ["offsite", "other"].map(str::to_owned).into_iter().filter(|name| name != target);
    keep_in(generation, labels, target, &elsewhere.collect::<Vec<_>>()).await
}

/// The same, of which some are known to be elsewhere.
async fn keep_in(
    generation: &Generation,
    labels: &serde_json::Value,
    target: &str,
    elsewhere: &[String],
) -> Option<usize> {
    let vm = facts(&point(labels)).unwrap();
    let place = Place { target: Target::Repository(target.into()), elsewhere };
    match keepers(generation, &vm, &place, &PolicyMetrics::default()).await {
        Keepers::Known { all, .. } => Some(all.len()),
        Keepers::Unknown => None,
    }
}

#[tokio::test]
async fn points_are_dropped_by_the_policies_that_select_the_machine_and_store_there() {
    let lab = Lab::new();
    let generation = lab.next(&Generation::default(), &[("nightly.yaml", GOOD)]);
    let nightly = json!({"backup": "nightly"});
    assert_eq!(keep(&generation, &nightly, "offsite").await, Some(1));
    assert_eq!(keep(&generation, &nightly, "other").await, None);
    assert_eq!(keep(&generation, &json!({"backup": "never"}), "offsite").await, None);
    assert_eq!(keep(&generation, &serde_json::Value::Null, "offsite").await, None);
    // One that does not say where it stores may mean this Repository.
    let nowhere = GOOD.replace("nightly\nselect", "nowhere\nselect").replace("target:    {repository: offsite}\n", "");
    let both = lab.next(&generation, &[("nowhere.yaml", &nowhere)]);
    assert_eq!(keep(&both, &nightly, "offsite").await, None);
    // One whose points a mover keeps does not, whatever the mover is called.
    let of_mover = nowhere.replace("retention", "target:    {mover: offsite}\nretention");
    let both = lab.next(&generation, &[("nowhere.yaml", &of_mover)]);
    assert_eq!(keep(&both, &nightly, "offsite").await, Some(1));
    let broken = lab.next(&generation, &[("nowhere.yaml", "kind: BackupPolicy\n")]);
    assert_eq!(keep(&broken, &nightly, "offsite").await, None);
}

#[tokio::test]
async fn what_one_policy_keeps_is_not_dropped_through_another_repository_of_the_same_place() {
    let lab = Lab::new();
    let second = GOOD.replace("name: nightly", "name: second").replace("offsite", "second");
    let generation = lab.next(&Generation::default(), &[("nightly.yaml", GOOD), ("second.yaml", &second)]);
    let nightly = json!({"backup": "nightly"});
    for target in ["offsite", "second"] {
        // Both say what is kept, unless the other one's Repository is known to be elsewhere.
        assert_eq!(keep_in(&generation, &nightly, target, &["other".into()]).await, Some(2), "{target}");
        let other = if target == "offsite" { "second" } else { "offsite" };
        assert_eq!(keep_in(&generation, &nightly, target, &[other.into()]).await, Some(1), "{target}");
    }
    let keeps_all = second.replace("retention: {module: builtin:gfs, settings: {last: 1}}\n", "");
    let generation = lab.next(&generation, &[("second.yaml", &keeps_all)]);
    assert_eq!(keep_in(&generation, &nightly, "offsite", &[]).await, None);
    assert_eq!(keep_in(&generation, &nightly, "offsite", &["second".into()]).await, Some(1));
}

#[test]
fn a_tenants_own_repository_is_none_of_the_policies() {
    let offsite = || Some(Target::Repository("offsite".into()));
    assert_eq!(target(&order(&json!({"name": "offsite", "namespace": "remora"})), "remora"), offsite());
    assert_eq!(target(&order(&json!({"name": "offsite"})), "remora"), None);
    assert_eq!(target(&order(&json!({"name": "offsite"})), "shop"), offsite());
}

#[test]
fn a_document_says_what_is_in_force_of_it_and_what_is_not() {
    let lab = Lab::new();
    let first = lab.next(&Generation::default(), &[("nightly.yaml", GOOD)]);
    let [active] = states_of(&first).try_into().unwrap();
    assert_eq!((active.state, active.name.as_deref(), active.generation), (PolicyStanding::Active, Some("nightly"), 1));
    assert_eq!(active.active_digest.as_ref(), Some(&active.desired_digest));
    assert_eq!(active.message, "");

    let second = lab.next(&first, &[("nightly.yaml", &GOOD.replace("0 2", "0 25")), ("other.yaml", "kind: None\n")]);
    let [stale, broken] = states_of(&second).try_into().unwrap();
    assert_eq!((stale.state, broken.state), (PolicyStanding::Stale, PolicyStanding::Broken));
    assert_eq!(stale.active_digest, active.active_digest);
    assert_ne!(stale.desired_digest, active.desired_digest);
    // Which change of the folder that was, and since when it is so.
    assert_eq!((stale.generation, broken.generation), (2, 2));
    assert_eq!(stale.since, Time(rounded(second.files[0].since)));
    assert!(stale.message.contains("nightly.yaml, line 4"), "{}", stale.message);
    assert_eq!((broken.name, broken.active_digest), (None, None));

    let nowhere = GOOD.replace("target:    {repository: offsite}\n", "");
    let third =
        lab.next(&second, &[("nightly.yaml", &nowhere), ("other.yaml", &GOOD.replace("nightly\nsel", "b\nsel"))]);
    let [incomplete, good] = states_of(&third).try_into().unwrap();
    assert_eq!((incomplete.state, good.state), (PolicyStanding::Incomplete, PolicyStanding::Active));
    assert!(incomplete.message.contains("has to name a Repository"), "{}", incomplete.message);

    let of_mover = GOOD.replace("{repository: offsite}", "{mover: array}");
    let fourth = lab.next(&third, &[("nightly.yaml", &of_mover)]);
    let [of_mover, good] = states_of(&fourth).try_into().unwrap();
    assert_eq!((of_mover.state, good.state), (PolicyStanding::Incomplete, PolicyStanding::Active));
    let said =
        ["target.mover: array", "no mover keeps points in a form of its own", "a Repository in target.repository"];
    assert!(said.iter().all(|said| of_mover.message.contains(said)), "{}", of_mover.message);
}
