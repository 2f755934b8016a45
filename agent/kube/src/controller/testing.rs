//! Objects for tests.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::observed::Agent;
use crate::resources::{BackupRun, BackupRunSpec, RepositoryReference};

/// A run of a machine in namespace `shop`, created at 1,000 s, that nobody has looked at.
pub(super) fn run(machine: &str) -> BackupRun {
    let repository = RepositoryReference { name: "offsite".into(), namespace: None };
    let mut run = BackupRun::new(
        "run",
        BackupRunSpec {
            virtual_machine: machine.into(),
            repository,
            mode: crate::resources::Mode::default(),
            quiesce: crate::resources::Quiesce::default(),
            scratch: crate::resources::ScratchSpec::default(),
            deadline: "4h".into(),
            verify: crate::resources::Verify::default(),
            cancel: false,
        },
    );
    run.metadata.namespace = Some("shop".into());
    run.metadata.uid = Some("run-uid".into());
    run.metadata.creation_timestamp = Some(Time(at(1000)));
    run
}

/// An agent that is ready.
pub(super) fn agent(uid: &str) -> Agent {
    Agent { uid: uid.into(), is_ready: true }
}

/// That many seconds after the beginning of time.
pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).expect("a second of our time")
}
