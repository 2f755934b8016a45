use std::sync::Arc;

use remora_core::retention::Rules;
use remora_core::{Error, ErrorKind, PointId, RepositoryId};
use remora_plugins::movers::Movers;
use remora_plugins::set::Snapshot;
use remora_plugins::{Host, HostOptions};

use super::*;
use crate::repositories::Repositories;

fn points() -> Vec<Candidate> {
    let point = |n: u64| Candidate {
        point: PointId::new("0123456789abcdef", n).unwrap(),
        time: Timestamp::from_second(i64::try_from(n).unwrap() * 86_400).unwrap(),
        held: None,
    };
    (1..=10).map(point).collect()
}

async fn kept(keepers: Keepers) -> Vec<u64> {
    let verdicts = keepers.judge(&VmName::new("vm").unwrap(), &points(), Timestamp::UNIX_EPOCH).await.unwrap();
    assert_eq!(verdicts.len(), 10);
    verdicts.iter().filter(|v| v.fate == Fate::Keep).map(|v| v.point.sequence()).collect()
}

fn known(all: Vec<Keeper>) -> Keepers {
    Keepers::Known { generation: 7, all }
}

fn last(last: u32) -> Keeper {
    Keeper { who: format!("last-{last}"), retention: Box::new(Rules { last, min_count: 0, ..Rules::default() }) }
}

#[tokio::test]
async fn what_one_policy_keeps_stays_and_when_in_doubt_everything() {
    assert_eq!(kept(known(vec![last(1)])).await, [10]);
    assert_eq!(kept(known(vec![last(1), last(3), last(2)])).await, [8, 9, 10]);
    assert_eq!(kept(Keepers::Unknown).await.len(), 10);
    assert_eq!(kept(known(Vec::new())).await.len(), 10);
}

/// As a component does that hangs or traps.
struct Fails;

#[async_trait]
impl Retention for Fails {
    async fn judge(&self, _: &VmName, _: &[Candidate], _: Timestamp) -> Result<Vec<Verdict>> {
        Err(Error::new(ErrorKind::Cancelled, "`judge` failed"))
    }
}

#[tokio::test]
async fn nobody_says_that_a_point_goes_while_one_policy_fails_to_say_what_it_keeps() {
    let fails = || Keeper { who: "fails".into(), retention: Box::new(Fails) };
    for all in [vec![fails()], vec![last(1), fails()], vec![fails(), last(1)]] {
        let judged = known(all).judge(&VmName::new("vm").unwrap(), &points(), Timestamp::UNIX_EPOCH).await;
        assert_eq!(judged.unwrap_err().kind(), ErrorKind::Cancelled);
    }
}

#[tokio::test]
async fn that_a_point_goes_is_told_with_the_word_of_each_policy_that_had_one() {
    let vm = VmName::new("vm").unwrap();
    let judged = async |keepers: Keepers| keepers.judge(&vm, &points(), Timestamp::UNIX_EPOCH).await.unwrap();
    let verdicts = judged(known(vec![last(1), last(2)])).await;
    let reason = &verdicts[0].reason;
    let (first, second) = reason.split_once("; ").unwrap();
    assert!(first.starts_with("last-1: ") && second.starts_with("last-2: "), "{reason}");
    assert!(verdicts[8].reason.starts_with("last-2: "), "the one that keeps it says so: {}", verdicts[8].reason);
    assert_eq!(tell_dropped(&vm, verdicts.iter()), 8);
    // A real one says which module it is, with which settings.
    let (folder, host) = (tempfile::tempdir().unwrap(), Host::new(&HostOptions::default()).unwrap());
    std::fs::write(folder.path().join("good.yaml"), policy("good", LAST)).unwrap();
    let generation = Generation::default().next(&host, &Snapshot::read(folder.path()).unwrap(), Timestamp::now());
    let (good, _) = generation.backups().next().unwrap();
    let retention = good.retention.as_ref().unwrap();
    let keeper = Keeper::of(good, retention, &VmFacts::named(vm.clone()));
    let who = format!("good (module {}, settings {}): ", retention.digest(), retention.settings_hash());
    let verdicts = judged(known(vec![keeper])).await;
    assert!(verdicts[0].reason.starts_with(&who), "{}", verdicts[0].reason);
}

#[test]
fn nothing_is_dropped_by_policies_that_have_changed_since() {
    let generation = |number| Generation { number, ..Generation::default() };
    assert!(known(vec![last(1)]).hold_in(&generation(7)));
    assert!(!known(vec![last(1)]).hold_in(&generation(8)));
    assert!(!Keepers::Unknown.hold_in(&generation(7)));
}

fn policy(name: &str, more: &str) -> String {
    format!(
        "kind: BackupPolicy\nname: {name}\nselect: {{module: builtin:labels, settings: {{all: true}}}}\n\
         schedule: {{module: builtin:cron, settings: {{cron: 0 2 * * *}}}}\n{more}\n"
    )
}

const LAST: &str = "retention: {module: builtin:gfs, settings: {last: 1}}";

/// Points are dropped only when all that could want them is known, and says so.
#[test]
fn nothing_is_dropped_while_anything_is_in_doubt() {
    let folder = tempfile::tempdir().unwrap();
    let host = Host::new(&HostOptions::default()).unwrap();
    let configured = "[main]\nurl = '/r'\nkey_file = 'k'\n[other]\nurl = '/o'\nkey_file = 'k'\n";
    let repositories =
        Repositories::new(toml::from_str(configured).unwrap(), Movers::new("plugins", None), "state".into());
    let main = format!("{LAST}\ntarget: {{repository: main}}");
    let good = policy("good", &main);
    let next = |before: &Generation, beside: &str| {
        std::fs::write(folder.path().join("beside.yaml"), beside).unwrap();
        std::fs::write(folder.path().join("good.yaml"), &good).unwrap();
        before.next(&host, &Snapshot::read(folder.path()).unwrap(), Timestamp::now())
    };
    let both = next(&Generation::default(), &policy("beside", &main));
    let (first, _) = both.backups().find(|(policy, _)| policy.name == "good").unwrap();
    let vm = remora_core::policy::VmFacts::named(VmName::new("vm").unwrap());
    let first = Arc::clone(first);
    let known = |generation: &Generation, beside: Selects| {
        let selects = |policy: &str| if policy == "good" { Selects::Yes } else { beside };
        let here = repositories.meant(first.target.as_ref());
        match Keepers::of(
            generation,
            &vm,
            here.as_ref(),
            |named| repositories.meant_from(here.as_ref(), named),
            selects,
        ) {
            Keepers::Known { all, .. } => Some(all.len()),
            Keepers::Unknown => None,
        }
    };
    assert_eq!(known(&both, Selects::Yes), Some(2));
    assert_eq!(known(&both, Selects::No), Some(1));
    assert_eq!(known(&both, Selects::Unknown), None, "it did not answer whether it is for the VM");
    let stale = next(&both, "kind: BackupPolicy\n");
    assert_eq!(known(&stale, Selects::Yes), None, "its newer version is broken");
    assert_eq!(known(&stale, Selects::No), Some(1));
    let broken = next(&Generation::default(), "kind: BackupPolicy\n");
    assert_eq!(known(&broken, Selects::Yes), None, "what a broken file means is not known");
    let keeps_all = next(&both, &policy("beside", "target: {repository: main}"));
    assert_eq!(known(&keeps_all, Selects::Yes), None, "it has no retention");
    let elsewhere = next(&both, &policy("beside", "target: {repository: other}"));
    assert_eq!(known(&elsewhere, Selects::Yes), None, "it may be another URL of the same place, and keeps all");
    let one = RepositoryId::random();
    for (id, says) in [(one, None), (RepositoryId::random(), Some(1))] {
        repositories.learn("main", one);
        repositories.learn("other", id);
        assert_eq!(known(&elsewhere, Selects::Yes), says);
    }
    let of_mover = next(&both, &policy("beside", "target: {mover: main}"));
    assert_eq!(known(&of_mover, Selects::Yes), Some(1), "a mover of the repository's name");
    let nowhere = next(&both, &policy("beside", &format!("{LAST}\ntarget: {{repository: lost}}")));
    assert_eq!(known(&nowhere, Selects::Yes), None, "its repository is not known");
}
