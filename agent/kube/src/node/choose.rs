//! Which runs this agent should begin: a pure function.

use std::collections::BTreeSet;
use std::sync::Arc;

use kube::ResourceExt;

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

/// At most `free` of `runs`, none of them over, that could be begun, oldest first, one of what `of` says they are of, such as a VM, and none of
/// one in `busy`. With them, how many more there are.
pub(super) fn choose<'a, R: Run>(
    runs: impl Iterator<Item = &'a Arc<R>>,
    of: fn(&R) -> Machine,
    me: &str,
    busy: &BTreeSet<Machine>,
    free: usize,
) -> (Vec<Candidate<R>>, usize) {
    let mut waiting: Vec<_> = runs.filter_map(|run| candidate(run, me)).collect();
    waiting.sort_by_key(|one| (one.run.creation_timestamp(), of(&one.run), one.run.name_any()));
    let (mut chosen, mut taken, mut left) = (Vec::new(), busy.clone(), 0);
    for one in waiting {
        if chosen.len() < free && taken.insert(of(&one.run)) {
            chosen.push(one);
        } else {
            left += 1;
        }
    }
    (chosen, left)
}

fn candidate<R: Run>(run: &Arc<R>, me: &str) -> Option<Candidate<R>> {
    let claimed = match run.agent() {
        None => Claimed::No,
        Some(agent) if agent == me => Claimed::ByMe,
        Some(other) => Claimed::By(other.into()),
    };
    // Who has not begun has nothing to end: that is the controller's.
    if claimed == Claimed::No && (run.is_cancelled() || !is_assigned(&**run)) {
        return None;
    }
    Some(Candidate { run: Arc::clone(run), claimed })
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

    fn names(runs: &[Arc<BackupRun>], busy: &[&str], free: usize) -> (Vec<String>, usize) {
        let busy = busy.iter().map(|vm| ("shop".to_owned(), (*vm).to_owned())).collect();
        let (chosen, left) = choose(runs.iter(), machine, "me", &busy, free);
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
            let (chosen, _) = choose(runs.iter(), machine, "me", &BTreeSet::new(), 1);
            assert_eq!(chosen.first().map(|one| one.claimed.clone()), wanted, "{status} {cancel}");
        }
    }
}
