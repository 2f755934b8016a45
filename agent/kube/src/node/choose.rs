//! Which runs this agent should begin: a pure function.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use super::status::{CLAIMED, WAITING};
use crate::conditions::find;
use crate::resources::{BackupRun, Run};

/// A VM: its namespace and name.
pub(super) type Machine = (String, String);

/// The VM of a run.
pub(super) fn machine(run: &BackupRun) -> Machine {
    (run.namespace().unwrap_or_default(), run.spec.virtual_machine.clone())
}

/// Whom a run that could be begun belongs to so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Claimed {
    /// Nobody.
    No,
    /// This very agent, before it was started again: nobody works on it.
    ByMe,
    /// Another agent of this node. Only if that is dead the run may be taken over.
    By(String),
}

/// A run that could be begun.
#[derive(Clone, Debug)]
pub(super) struct Candidate<R> {
    pub(super) run: Arc<R>,
    pub(super) claimed: Claimed,
}

/// After so long with all places taken by the same runs, there is one more: what drips must not keep the node from others.
const LONG: Duration = Duration::from_hours(1);

/// How many places there are beyond `parallel`, of which runs at work have had theirs for so long.
pub(super) fn spare(held: &[Duration], parallel: usize) -> usize {
    usize::from(held.len() == parallel && held.iter().all(|time| *time > LONG))
}

/// So many namespaces are remembered.
const REMEMBERED: usize = 1024;

/// Which namespaces had their turn, and in which order.
#[derive(Debug, Default)]
pub(super) struct Turns {
    last: u64,
    of: BTreeMap<String, u64>,
}

impl Turns {
    /// That one had its turn just now.
    pub(super) fn had(&mut self, namespace: &str) {
        self.last += 1;
        self.of.insert(namespace.to_owned(), self.last);
        // Who had none for longest is as good as who never had one.
        if self.of.len() > REMEMBERED
            && let Some(first) = self.of.iter().min_by_key(|(_, turn)| **turn).map(|(namespace, _)| namespace.clone())
        {
            self.of.remove(&first);
        }
    }

    /// The number of its last turn; 0 if it had none.
    fn of(&self, namespace: &str) -> u64 {
        self.of.get(namespace).copied().unwrap_or_default()
    }
}

/// Who begins runs, and what it has already.
pub(super) struct Room<'a> {
    /// The UID that this agent claims runs with.
    pub(super) me: &'a str,
    /// What its runs at work are of, each of which has a place.
    pub(super) busy: &'a BTreeSet<Machine>,
    /// Of the runs that were begun before.
    pub(super) turns: &'a Turns,
    /// Places that nobody has.
    pub(super) free: usize,
    /// More places, for namespaces that have none.
    pub(super) spare: usize,
    /// What was given back later than this waits still.
    pub(super) rested: Timestamp,
    /// By this node's clock.
    pub(super) now: Timestamp,
}

/// Which of `runs` get the free places, one of what `of` says they are of, such as a VM, and none of one that is busy. With
/// them, how many more there are. A place goes to the namespace that has the fewest, and of those to the one whose turn was
/// longest ago, so that none keeps the others out; there to the oldest run. Those to spare go to namespaces without a place only.
pub(super) fn choose<'a, R: Run>(
    runs: impl Iterator<Item = &'a Arc<R>>,
    of: fn(&R) -> Machine,
    room: &Room<'_>,
) -> (Vec<Candidate<R>>, usize) {
    let candidates = runs.filter_map(|run| candidate(run, room));
    let mut waiting: Vec<_> = candidates.map(|one| (of(&one.run), one)).collect();
    waiting.sort_by_key(|(machine, one)| (one.run.creation_timestamp(), machine.clone(), one.run.name_any()));
    let (mut chosen, mut taken, mut places) = (Vec::new(), room.busy.clone(), BTreeMap::<String, usize>::new());
    for (namespace, _) in room.busy {
        *places.entry(namespace.clone()).or_default() += 1;
    }
    while chosen.len() < room.free + room.spare {
        let has_enough = |namespace: &String| chosen.len() >= room.free && places.contains_key(namespace);
        let free = waiting.iter().enumerate();
        let free = free.filter(|(_, (machine, _))| !taken.contains(machine) && !has_enough(&machine.0));
        // The first of those that are equal: the oldest.
        let next = free.min_by_key(|(_, ((namespace, _), _))| {
            (places.get(namespace).copied().unwrap_or_default(), room.turns.of(namespace))
        });
        let Some((at, _)) = next else { break };
        let (machine, one) = waiting.remove(at);
        *places.entry(machine.0.clone()).or_default() += 1;
        taken.insert(machine);
        chosen.push(one);
    }
    (chosen, waiting.len())
}

fn candidate<R: Run>(run: &Arc<R>, room: &Room<'_>) -> Option<Candidate<R>> {
    let claimed = match run.agent() {
        None => Claimed::No,
        Some(agent) if agent == room.me => Claimed::ByMe,
        Some(other) => Claimed::By(other.into()),
    };
    // Who has not begun has nothing to end: that is the controller's.
    if claimed == Claimed::No && (run.is_cancelled() || !is_assigned(&**run) || waits(&**run, room)) {
        return None;
    }
    Some(Candidate { run: Arc::clone(run), claimed })
}

/// Whether it was given back a moment ago, for somebody else has what it needs. The controller sees that too, and takes it
/// from this node meanwhile. What was given back at a time that is yet to come waits no more: that was by a clock that was wrong.
fn waits(run: &impl Run, room: &Room<'_>) -> bool {
    let given_back = |one: &&Condition| one.status == "False" && one.reason == WAITING;
    let at = find(run.conditions(), CLAIMED).filter(given_back).map(|one| one.last_transition_time.0);
    at.is_some_and(|at| room.rested < at && at <= room.now)
}

/// The controller may see later that an assigned run cannot be begun yet.
fn is_assigned(run: &impl Run) -> bool {
    find(run.conditions(), "Assigned").is_none_or(|condition| condition.status == "True")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn run(name: &str, created: u32, status: &Value, cancel: bool) -> Arc<BackupRun> {
        let run = json!({
            "apiVersion": "remora.dev/v1alpha1",
            "kind": "BackupRun",
            "metadata": {"name": name, "namespace": "shop", "uid": name, "creationTimestamp": format!("2026-01-01T00:00:{created:02}Z")},
            "spec": {"virtualMachine": name.split('-').next(), "repository": {"name": "r"}, "cancel": cancel},
            "status": status,
        });
        Arc::new(serde_json::from_value(run).unwrap())
    }

    fn condition(kind: &str, status: &str) -> Value {
        let since = "2026-01-01T00:00:00Z";
        json!({"type": kind, "status": status, "reason": "R", "message": "", "lastTransitionTime": since})
    }

    fn in_namespace(run: &Arc<BackupRun>, namespace: &str) -> Arc<BackupRun> {
        let mut run = (**run).clone();
        run.metadata.namespace = Some(namespace.into());
        Arc::new(run)
    }

    /// What is chosen of runs beside machines of the namespace `shop` that are busy.
    fn names(runs: &[Arc<BackupRun>], busy: &[&str], free: usize) -> (Vec<String>, usize) {
        names_after(&Turns::default(), runs, busy, free)
    }

    fn names_after(turns: &Turns, runs: &[Arc<BackupRun>], busy: &[&str], free: usize) -> (Vec<String>, usize) {
        let busy = busy.iter().map(|vm| ("shop".to_owned(), (*vm).to_owned())).collect();
        let [rested, now] = ["2026-01-01T00:00:10Z", "2026-01-01T00:00:40Z"].map(|time| time.parse().unwrap());
        let room = Room { me: "me", busy: &busy, turns, free, spare: 0, rested, now };
        let (chosen, left) = choose(runs.iter(), machine, &room);
        (chosen.iter().map(|one| one.run.name_any()).collect(), left)
    }

    #[test]
    fn the_oldest_first_one_a_machine_and_no_more_than_there_is_room_for() {
        let none = json!({});
        let runs = [
            run("web-2", 3, &none, false),
            run("db-1", 2, &none, false),
            run("web-1", 1, &none, false),
            run("mail-1", 4, &none, false),
        ];
        assert_eq!(names(&runs, &[], 9), (vec!["web-1".into(), "db-1".into(), "mail-1".into()], 1));
        assert_eq!(names(&runs, &[], 1), (vec!["web-1".into()], 3));
        assert_eq!(names(&runs, &["web"], 9), (vec!["db-1".into(), "mail-1".into()], 2));
    }

    #[test]
    fn a_namespace_keeps_no_other_one_out() {
        let none = json!({});
        let shops = [run("web-1", 1, &none, false), run("db-1", 2, &none, false), run("mail-1", 3, &none, false)];
        let other = in_namespace(&run("late-1", 9, &none, false), "other");
        let third = in_namespace(&run("later-1", 10, &none, false), "third");
        // While it is alone it has all places; of two, others have one as soon as they want it, whoever was first.
        assert_eq!(names(&shops, &[], 2), (vec!["web-1".into(), "db-1".into()], 1));
        let all: Vec<_> = shops.iter().chain([&other]).cloned().collect();
        assert_eq!(names(&all, &[], 2), (vec!["web-1".into(), "late-1".into()], 2));
        assert_eq!(names(&all, &["busy"], 1), (vec!["late-1".into()], 3));
        assert_eq!(names(&all, &["busy"], 2), (vec!["late-1".into(), "web-1".into()], 2));
        // Of those that have as many, the oldest run.
        let all: Vec<_> = shops.iter().chain([&third, &other]).cloned().collect();
        assert_eq!(names(&all, &["busy", "busy-too"], 3).0, ["late-1", "later-1", "web-1"]);
    }

    #[test]
    fn runs_that_take_for_ever_keep_no_other_namespace_out() {
        let (minute, long) = (Duration::from_mins(1), LONG + Duration::from_mins(1));
        for (held, parallel, wanted) in [
            (vec![long, long], 2, 1),
            (vec![long], 1, 1),
            (vec![long, minute], 2, 0),
            // A place is free, or the one to spare is taken.
            (vec![long], 2, 0),
            (vec![long, long, long], 2, 0),
        ] {
            assert_eq!(spare(&held, parallel), wanted, "{held:?} {parallel}");
        }
        let none = json!({});
        let own = run("web-1", 1, &none, false);
        let other = in_namespace(&run("late-1", 9, &none, false), "other");
        let third = in_namespace(&run("later-1", 10, &none, false), "third");
        let busy: BTreeSet<Machine> = ["db", "mail"].map(|vm| ("shop".to_owned(), vm.to_owned())).into();
        let chosen = |runs: &[&Arc<BackupRun>]| {
            let (turns, now) = (Turns::default(), Timestamp::UNIX_EPOCH);
            let room = Room { me: "me", busy: &busy, turns: &turns, free: 0, spare: 1, rested: now, now };
            let (chosen, _) = choose(runs.iter().copied(), machine, &room);
            chosen.iter().map(|one| one.run.name_any()).collect::<Vec<_>>()
        };
        assert!(chosen(&[&own]).is_empty());
        assert_eq!(chosen(&[&own, &third, &other]), ["late-1"]);
    }

    #[test]
    fn namespaces_take_turns_where_there_is_one_place() {
        let none = json!({});
        let mut waiting: Vec<_> = (1..5).map(|n| run(&format!("web{n}-1"), n, &none, false)).collect();
        waiting.push(in_namespace(&run("late-1", 9, &none, false), "other"));
        waiting.push(in_namespace(&run("later-1", 10, &none, false), "third"));
        let (mut turns, mut begun) = (Turns::default(), Vec::new());
        while let Some(next) = names_after(&turns, &waiting, &[], 1).0.pop() {
            let at = waiting.iter().position(|run| run.name_any() == next).unwrap();
            turns.had(&waiting.remove(at).namespace().unwrap());
            begun.push(next);
        }
        assert_eq!(begun, ["web1-1", "late-1", "later-1", "web2-1", "web3-1", "web4-1"]);
    }

    #[test]
    fn of_very_many_namespaces_those_are_remembered_that_had_their_turn_last() {
        let mut turns = Turns::default();
        for n in 0..=REMEMBERED {
            turns.had(&n.to_string());
        }
        assert_eq!((turns.of("0"), turns.of("1"), turns.of.len()), (0, 2, REMEMBERED));
    }

    #[test]
    fn what_was_given_back_because_it_waits_rests_for_a_moment() {
        let given_back = |second: u32, reason: &str| {
            let mut claimed = condition("Claimed", "False");
            claimed["reason"] = json!(reason);
            claimed["lastTransitionTime"] = json!(format!("2026-01-01T00:00:{second:02}Z"));
            run("web", 1, &json!({"conditions": [condition("Assigned", "True"), claimed]}), false)
        };
        assert!(names(&[given_back(11, WAITING)], &[], 1).0.is_empty());
        assert_eq!(names(&[given_back(10, WAITING)], &[], 1).0, ["web"]);
        assert_eq!(names(&[given_back(11, "GivenBack")], &[], 1).0, ["web"]);
        // By a clock that was put back since.
        assert_eq!(names(&[given_back(41, WAITING)], &[], 1).0, ["web"]);
    }

    #[test]
    fn what_is_not_ours_to_begin_stays() {
        for (status, cancel, wanted) in [
            (json!({}), false, Some(Claimed::No)),
            (json!({}), true, None),
            (json!({"conditions": [condition("Assigned", "True")]}), false, Some(Claimed::No)),
            (json!({"conditions": [condition("Assigned", "False")]}), false, None),
            (json!({"conditions": [condition("Complete", "False")], "agent": "me"}), false, Some(Claimed::ByMe)),
            // One that is to end was begun: its agent, or the next one, ends it.
            (json!({"agent": "me"}), true, Some(Claimed::ByMe)),
            (json!({"agent": "other"}), true, Some(Claimed::By("other".into()))),
        ] {
            let runs = [run("web", 1, &status, cancel)];
            let (busy, turns, now) = (BTreeSet::new(), Turns::default(), Timestamp::UNIX_EPOCH);
            let room = Room { me: "me", busy: &busy, turns: &turns, free: 1, spare: 0, rested: now, now };
            let (chosen, _) = choose(runs.iter(), machine, &room);
            assert_eq!(chosen.first().map(|one| one.claimed.clone()), wanted, "{status} {cancel}");
        }
    }
}
