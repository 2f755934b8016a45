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
        // While it goes on nothing is said of an end: a run that says the same then may have been ended by the controller,
        // which changes none of this.
        let is_last =
            said.agent.is_none() || find(&said.conditions, WRITTEN).is_some_and(|one| one.status != "Unknown");
        is_last && is.agent == said.agent && word(&is.conditions) == word(&said.conditions)
    }
}

#[cfg(test)]
mod tests {
    use remora_core::{Error, ErrorKind};

    use super::*;
    use crate::resources::Run;

    #[test]
    fn a_run_that_was_ended_while_it_is_written_does_not_say_what_its_agent_says() {
        let me =
            Me { node: "one".into(), token: None, namespace: "remora".into(), pod: "agent".into(), uid: "me".into() };
        let run: RestoreRun = serde_json::from_value(json!({
            "apiVersion": "remora.dev/v1alpha1", "kind": "RestoreRun", "metadata": {"name": "run", "namespace": "shop"},
            "spec": {"point": "0011223344556677-1", "repository": {"name": "r"}},
        }))
        .unwrap();
        let now = Timestamp::UNIX_EPOCH;
        let of = |said: &RestoreSaid| RestoreRun { status: Some(said.status.clone()), ..run.clone() };
        let at_work = RestoreSaid::claiming(&run, &me, now);
        let mut ended = of(&at_work);
        for (kind, status) in [("Complete", "False"), ("Failed", "True")] {
            let conditions = &mut ended.status.get_or_insert_default().conditions;
            say(conditions, kind, (status, "Cancelled", "the run was cancelled"), now);
        }
        assert!(ended.is_over() && !at_work.said_by(&ended));

        let (mut written, mut failed, mut given_back) = (at_work.clone(), at_work.clone(), at_work.clone());
        written.written(now);
        failed.failed(&Error::new(ErrorKind::Failed, "no").into(), now);
        given_back.given_back(now);
        for said in [&written, &failed, &given_back] {
            assert!(said.said_by(&of(said)) && !said.said_by(&ended) && !at_work.said_by(&of(said)), "{said:?}");
        }
    }
}
