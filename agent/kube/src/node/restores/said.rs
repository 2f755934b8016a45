//! The fields of a restore's status that are the agent's, and its conditions.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::conditions::find;
use crate::node::status::{CLAIMED, Words, next_beat, say, signed};
use crate::node::tend::Beats;
use crate::node::{Failure, Me, Meter};
use crate::resources::{RestoreRun, RestoreRunStatus};

/// Whether all is written: Unknown while the agent works.
pub(super) const WRITTEN: &str = "Written";

/// What the agent says of a restore: all fields that are its own, and no other.
#[derive(Clone, Debug)]
pub(super) struct RestoreSaid {
    pub(super) status: RestoreRunStatus,
}

impl RestoreSaid {
    /// What claims the run. It begins from the start, whatever an agent before wrote.
    pub(super) fn claiming(run: &RestoreRun, me: &Me, now: Timestamp) -> Self {
        let before = run.status.clone().unwrap_or_default();
        let conditions = [CLAIMED, WRITTEN].iter().filter_map(|kind| find(&before.conditions, kind).cloned());
        let mut status = RestoreRunStatus {
            conditions: conditions.collect(),
            agent: Some(me.uid.clone()),
            heartbeat: Some(next_beat(before.heartbeat)),
            start_time: before.start_time.or(Some(Time(now))),
            ..RestoreRunStatus::default()
        };
        let message = format!("the agent {} of node {} works on it", me.pod, me.node);
        say(&mut status.conditions, CLAIMED, ("True", "Claimed", &message), now);
        say(&mut status.conditions, WRITTEN, ("Unknown", "Running", "the claims are being written"), now);
        Self { status }
    }

    pub(super) fn written(&mut self, now: Timestamp) {
        let message = "all disks are written, and were read back as they are in the point";
        say(&mut self.status.conditions, WRITTEN, ("True", "Verified", message), now);
    }

    pub(super) fn failed(&mut self, failure: &Failure, now: Timestamp) {
        say(&mut self.status.conditions, WRITTEN, ("False", failure.reason(), &failure.message()), now);
    }

    /// The claim is given back: the next agent of this node starts over.
    pub(super) fn given_back(&mut self, now: Timestamp) {
        let why = "the agent stops; its successor on this node starts over";
        self.status.agent = None;
        say(&mut self.status.conditions, CLAIMED, ("False", "GivenBack", why), now);
        say(&mut self.status.conditions, WRITTEN, ("Unknown", "Interrupted", why), now);
    }
}

impl Beats for RestoreSaid {
    fn beat(&mut self, meter: &Meter) {
        self.status.heartbeat = Some(next_beat(self.status.heartbeat));
        self.status.percent = meter.percent();
        self.status.total_bytes = meter.percent().map(|_| signed(meter.expected()));
        self.status.written_bytes = meter.percent().map(|_| signed(meter.done()));
    }
}

impl Words for RestoreSaid {
    type Run = RestoreRun;

    fn status(&self) -> Value {
        json!(self.status)
    }

    fn said_by(&self, run: &RestoreRun) -> bool {
        let (said, is) = (&self.status, run.status.clone().unwrap_or_default());
        let word = |conditions| find(conditions, WRITTEN).map(|one| (one.status.clone(), one.reason.clone()));
        is.agent == said.agent && word(&is.conditions) == word(&said.conditions)
    }
}
