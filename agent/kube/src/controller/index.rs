//! Which unfinished runs are of a machine: what changes about one concerns these, and not each run of the cluster is looked
//! through for it. Runs that have ended are kept for long, and are most of all.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use kube::ResourceExt;
use kube::api::ObjectMeta;
use kube::runtime::reflector::{ObjectRef, Store};

use super::plan::assignment::WAITING_FOR_BACKUP;
use super::plan::{has_finalizer, is_claimed};
use crate::conditions;
use crate::kubevirt::{RUN_LABEL, is_of_run};
use crate::resources::{BackupRun, Run};

/// The unfinished runs by namespace, and there by machine.
pub(super) struct Index {
    store: Store<BackupRun>,
    unfinished: Mutex<HashMap<String, Machines>>,
}

type Machines = HashMap<String, HashSet<ObjectRef<BackupRun>>>;

impl Index {
    pub(super) fn new(store: Store<BackupRun>) -> Self {
        Self { store, unfinished: Mutex::default() }
    }

    /// Notes what a run has become. Says whether that was news of its end.
    pub(super) fn note(&self, run: &BackupRun) -> bool {
        let (namespace, machine) = (run.namespace().unwrap_or_default(), &run.spec.virtual_machine);
        let this = ObjectRef::from_obj(run);
        let mut all = self.unfinished.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_over(run) {
            all.entry(namespace).or_default().entry(machine.clone()).or_default().insert(this);
            return false;
        }
        let Some(machines) = all.get_mut(&namespace) else { return false };
        let Some(runs) = machines.get_mut(machine) else { return false };
        let known = runs.remove(&this);
        if runs.is_empty() {
            machines.remove(machine);
        }
        if machines.is_empty() {
            all.remove(&namespace);
        }
        known
    }

    /// Those of a machine.
    pub(super) fn of_machine(&self, namespace: &str, machine: &str) -> Vec<ObjectRef<BackupRun>> {
        let all = self.unfinished.lock().unwrap_or_else(PoisonError::into_inner);
        let runs = all.get(namespace).and_then(|machines| machines.get(machine));
        runs.into_iter().flatten().filter(|run| self.is_there(run)).cloned().collect()
    }

    /// Those that a backup concerns: that which it was made for, else all of its namespace that may wait for it.
    pub(super) fn of_backup(&self, backup: &ObjectMeta) -> Vec<ObjectRef<BackupRun>> {
        let namespace = backup.namespace.as_deref().unwrap_or_default();
        let uid = backup.labels.iter().flatten().find(|(name, _)| *name == RUN_LABEL).map(|(_, uid)| uid);
        let owner = backup.owner_references.iter().flatten().find(|owner| Some(&owner.uid) == uid);
        if let Some(owner) = owner.filter(|owner| is_of_run(backup, &owner.uid)) {
            let run = ObjectRef::new(&owner.name).within(namespace);
            return if self.is_there(&run) { vec![run] } else { Vec::new() };
        }
        let all = self.unfinished.lock().unwrap_or_else(PoisonError::into_inner);
        let runs = all.get(namespace).into_iter().flat_map(HashMap::values).flatten();
        // Who has no agent yet has asked for no backup, and waits for others' only if it says so.
        let waits = |run: &&ObjectRef<BackupRun>| {
            self.store.get(run).is_some_and(|run| is_claimed(&*run) || says_it_waits(&run))
        };
        runs.filter(waits).cloned().collect()
    }

    /// A list that was read anew does not tell of what has gone meanwhile.
    fn is_there(&self, run: &ObjectRef<BackupRun>) -> bool {
        self.store.get(run).is_some()
    }
}

/// Whether it says that it waits for somebody else's backup.
fn says_it_waits(run: &BackupRun) -> bool {
    conditions::find(run.conditions(), "Assigned").is_some_and(|one| one.reason == WAITING_FOR_BACKUP)
}

/// Whether nothing is left to do of it.
fn is_over(run: &BackupRun) -> bool {
    run.has_ended() && !has_finalizer(run)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference, Time};
    use kube::runtime::reflector;
    use kube::runtime::watcher::Event;

    use super::*;
    use crate::controller::testing::run;

    fn names(runs: Vec<ObjectRef<BackupRun>>) -> Vec<String> {
        let mut names: Vec<_> = runs.into_iter().map(|run| run.name).collect();
        names.sort();
        names
    }

    /// A run of which one thing is said.
    fn said(mut run: BackupRun, kind: &str, status: &str, reason: &str) -> BackupRun {
        let condition = Condition {
            type_: kind.into(),
            status: status.into(),
            reason: reason.into(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: Time(jiff::Timestamp::UNIX_EPOCH),
        };
        run.status.get_or_insert_default().conditions = vec![condition];
        run
    }

    fn ended(run: BackupRun) -> BackupRun {
        let mut run = said(run, "Complete", "True", "Stored");
        run.metadata.finalizers = None;
        run
    }

    #[test]
    fn what_changes_concerns_the_unfinished_runs_of_its_machine_and_the_run_it_was_made_for() {
        let (store, mut writer) = reflector::store();
        let index = Index::new(store);
        let named = |name: &str, machine: &str| {
            let mut run = run(machine);
            (run.metadata.name, run.metadata.uid) = (Some(name.into()), Some(format!("uid-of-{name}")));
            run
        };
        let mut claimed = named("two", "web");
        claimed.status.get_or_insert_default().agent = Some("agent".into());
        let waits = said(named("four", "mail"), "Assigned", "False", "WaitingForBackup");
        for run in [named("one", "web"), claimed, named("three", "db"), waits] {
            assert!(!index.note(&run), "it has not ended");
            writer.apply_watcher_event(&Event::Apply(run));
        }
        let namespace = run("web").namespace().unwrap_or_default();
        assert_eq!(names(index.of_machine(&namespace, "web")), ["one", "two"]);
        assert_eq!(names(index.of_machine("elsewhere", "web")), [""; 0]);
        // A foreign one may be waited for by whoever wants one too, and is by who says so.
        let mut backup = ObjectMeta { namespace: Some(namespace.clone()), ..ObjectMeta::default() };
        assert_eq!(names(index.of_backup(&backup)), ["four", "two"]);
        backup.labels = Some([(RUN_LABEL.to_owned(), "uid-of-one".to_owned())].into());
        let owner = OwnerReference {
            kind: "BackupRun".into(),
            name: "one".into(),
            uid: "uid-of-one".into(),
            ..Default::default()
        };
        backup.owner_references = Some(vec![owner]);
        assert_eq!(names(index.of_backup(&backup)), ["one"]);

        let over = ended(named("one", "web"));
        assert!(index.note(&over), "that is news");
        assert!(!index.note(&over), "and is told once");
        assert_eq!(names(index.of_machine(&namespace, "web")), ["two"]);
        // One that has gone unseen.
        writer.apply_watcher_event(&Event::Delete(named("three", "db")));
        assert_eq!(names(index.of_machine(&namespace, "db")), [""; 0]);
    }
}
