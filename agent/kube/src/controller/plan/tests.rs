//! What is planned for a run, from what was observed.

#![allow(clippy::unwrap_used, reason = "tests")]

mod assignment;
mod attempt;
mod ending;
mod halted;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use remora_core::{BackupName, CheckpointName, RepositoryId};

use super::*;
use crate::controller::observed::*;
use crate::controller::testing::{agent, at, run};
use crate::controller::worker::{Image, Worker};
use crate::kubevirt::tracking;
use crate::resources::{Attempt, BackupRun, BackupRunStatus};

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
