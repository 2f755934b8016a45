//! What a run and its watchdog say to each other, in lines of JSON.

use std::path::PathBuf;
use std::time::Duration;

use remora_core::{CheckpointName, VmName};
use serde::{Deserialize, Serialize};

use crate::scratch::Volume;

/// What it watches: the first line.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) uri: String,
    pub(crate) vm: VmName,
    pub(crate) uuid: String,
    /// The job that is ours.
    pub(crate) checkpoint: CheckpointName,
    /// What to remove once the job has ended.
    pub(crate) files: Vec<PathBuf>,
    pub(crate) volumes: Vec<Volume>,
    /// How long freezing may take.
    pub(crate) freezing_at_most: Duration,
    /// How long the guest may then stay frozen.
    pub(crate) frozen_at_most: Duration,
    /// The process of the run.
    pub(crate) run: u32,
    /// How long it may show no life while its job runs.
    pub(crate) silent_at_most: Duration,
}

/// The steps of a run: the further lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Step {
    /// The guest is about to be frozen.
    Freezing,
    /// The guest is frozen.
    Frozen,
    /// The guest is thawed, or was never frozen.
    Thawed,
    /// Nobody knows whether the guest is frozen: its agent did not answer.
    Unsure,
    /// The job is about to be started.
    Beginning,
    /// The job runs.
    Began,
    /// No step: the run lives, and with it the tasks that take QEMU's replies.
    Alive,
    /// All is cleaned up.
    Done,
}

/// What it tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Event {
    /// It watches.
    Ready,
    /// It ends the job, for this reason.
    Stopping(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_mean_the_same_at_both_ends() {
        let steps = [
            Step::Freezing,
            Step::Frozen,
            Step::Thawed,
            Step::Unsure,
            Step::Beginning,
            Step::Began,
            Step::Alive,
            Step::Done,
        ];
        for step in steps {
            let line = serde_json::to_string(&step).unwrap();
            assert_eq!(serde_json::from_str::<Step>(&line).unwrap(), step);
        }
        for event in [Event::Ready, Event::Stopping("two\nlines".into())] {
            let line = serde_json::to_string(&event).unwrap();
            assert!(!line.contains('\n'));
            assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
        }
    }
}
