//! The fields of a run's status that are the agent's, and its conditions.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use remora_core::point::PointDisk;
use serde_json::{Value, json};

use super::{Done, Failure, Me, Meter};
use crate::conditions::{CHECKPOINTS_STAY, find, shortened};
use crate::resources::{Attempt, AttemptState, BackupRun, BackupRunStatus, DiskResult, Run};

/// The conditions that are the agent's while it holds the claim.
pub(super) const CLAIMED: &str = "Claimed";
pub(super) const COMPLETE: &str = "Complete";
pub(super) const FAILED: &str = "Failed";

/// The reason of a run that was given back because somebody else has what it needs.
pub(super) const WAITING: &str = "Waiting";

/// What an agent says of a run of some kind.
pub(super) trait Words: Clone + Send + Sync {
    /// The kind.
    type Run: Run;

    /// All fields of the status that are the agent's, and no other.
    fn status(&self) -> Value;

    /// Whether the run says the same of its end, or of its being given back.
    fn said_by(&self, run: &Self::Run) -> bool;

    /// Whether nothing is left for an agent to say.
    fn is_over(run: &Self::Run) -> bool {
        run.is_over()
    }
}

impl Words for Said {
    type Run = BackupRun;

    fn status(&self) -> Value {
        json!(self.status)
    }

    fn said_by(&self, run: &BackupRun) -> bool {
        let (said, is) = (&self.status, run.status.clone().unwrap_or_default());
        let reason = |conditions| find(conditions, COMPLETE).map(|condition| condition.reason.clone());
        is.agent == said.agent && is.point == said.point && reason(&is.conditions) == reason(&said.conditions)
    }
}

/// What the agent says of a run: all fields that are its own, and no other.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub(super) status: BackupRunStatus,
}

impl Said {
    /// What claims the run. What an earlier claim said is kept as far as it still holds: when the work began, and its
    /// attempt, which is no longer wanted.
    pub(super) fn claiming(run: &BackupRun, me: &Me, now: Timestamp) -> Self {
        let before = run.status.clone().unwrap_or_default();
        let mut attempt = before.attempt;
        if let Some(attempt) = &mut attempt {
            attempt.state = AttemptState::Ended;
        }
        let conditions = [CLAIMED, COMPLETE, FAILED].iter().filter_map(|kind| find(&before.conditions, kind).cloned());
        let mut said = Self {
            status: BackupRunStatus {
                conditions: conditions.collect(),
                agent: Some(me.uid.clone()),
                heartbeat: before.heartbeat,
                attempt,
                start_time: before.start_time.or(Some(Time(now))),
                ..Default::default()
            },
        };
        said.beat();
        said.say(CLAIMED, "True", "Claimed", &format!("the agent {} of node {} works on it", me.pod, me.node), now);
        said.say(COMPLETE, "False", "Running", "the backup is at work", now);
        said
    }

    /// Shows observers that the agent lives.
    pub(super) fn beat(&mut self) {
        self.status.heartbeat = Some(next_beat(self.status.heartbeat));
    }

    /// How far the run is.
    pub(super) fn progress(&mut self, meter: &Meter) {
        self.status.percent = meter.percent();
        self.status.total_bytes = meter.percent().map(|_| signed(meter.expected()));
        self.status.read_bytes = meter.percent().map(|_| signed(meter.done()));
    }

    /// This attempt is wanted, as the next one. Says whether that is news.
    pub(super) fn want(&mut self, mut attempt: Attempt) -> bool {
        let before = self.status.attempt.as_ref();
        if before.is_some_and(|before| before.backup == attempt.backup) {
            return false;
        }
        attempt.number = before.map_or(0, |before| before.number) + 1;
        self.status.attempt = Some(attempt);
        true
    }

    /// The attempt of this name is no longer wanted. Says whether it was.
    pub(super) fn end_attempt(&mut self, backup: &str) -> bool {
        self.status.attempt.as_ref().is_some_and(|attempt| attempt.backup == backup) && self.end_any_attempt()
    }

    /// No attempt is wanted. Says whether one was.
    pub(super) fn end_any_attempt(&mut self) -> bool {
        let wanted = self.status.attempt.as_mut().filter(|attempt| attempt.state == AttemptState::Wanted);
        wanted.map(|attempt| attempt.state = AttemptState::Ended).is_some()
    }

    /// There is a point.
    pub(super) fn completed(&mut self, done: &Done, now: Timestamp) {
        let Done { point, notes, left } = done;
        let status = &mut self.status;
        status.completion_time = Some(Time(now));
        status.point = Some(point.id.to_string());
        status.decision = Some(point.decision.to_string());
        status.reason = Some(shortened(&point.reason));
        status.read_bytes = Some(signed(point.disks.iter().map(|disk| disk.read).sum()));
        status.total_bytes = status.read_bytes.max(status.total_bytes);
        status.stored_bytes = Some(signed(point.stored));
        status.percent = Some(100);
        status.disks = point.disks.iter().map(disk_result).collect();
        let message = [format!("point {} is stored", point.id)].into_iter().chain(notes.iter().cloned());
        let message = message.collect::<Vec<_>>().join("; ");
        self.say(COMPLETE, "True", "Stored", &message, now);
        self.status.conditions.retain(|condition| condition.type_ != FAILED);
        if let Some(why) = left {
            let message = format!(
                "checkpoints that no point needs may have stayed: they cost the guest's writes, and take up room in the claim of \
                 the machine's state until a run removes them. {why}"
            );
            self.say(CHECKPOINTS_STAY, "True", "CleaningUpFailed", &message, now);
        }
    }

    /// There is none, and there will be none.
    pub(super) fn failed(&mut self, failure: &Failure, now: Timestamp) {
        self.status.completion_time = Some(Time(now));
        self.say(COMPLETE, "False", failure.reason(), &failure.message(), now);
        self.say(FAILED, "True", failure.reason(), &failure.message(), now);
    }

    /// The claim is given back: the next agent of this node starts over.
    pub(super) fn given_back(&mut self, now: Timestamp) {
        let why = "the agent stops; its successor on this node starts over";
        self.status.agent = None;
        self.say(CLAIMED, "False", "GivenBack", why, now);
        self.say(COMPLETE, "False", "Interrupted", why, now);
    }

    /// The same, because nothing can be done for now: what waits takes no place of the node.
    pub(super) fn waits(&mut self, why: &str, now: Timestamp) {
        self.status.agent = None;
        self.say(CLAIMED, "False", WAITING, why, now);
        self.say(COMPLETE, "False", WAITING, why, now);
    }

    fn say(&mut self, kind: &str, status: &str, reason: &str, message: &str, now: Timestamp) {
        say(&mut self.status.conditions, kind, (status, reason, message), now);
    }
}

/// Sets a condition to a status, a reason and a message; since when changes with its status only.
pub(super) fn say(conditions: &mut Vec<Condition>, kind: &str, what: (&str, &str, &str), now: Timestamp) {
    let (status, reason, message) = what;
    let since = find(conditions, kind).filter(|one| one.status == status).map(|one| one.last_transition_time.clone());
    conditions.retain(|condition| condition.type_ != kind);
    conditions.push(Condition {
        type_: kind.into(),
        status: status.into(),
        reason: reason.into(),
        message: shortened(message),
        observed_generation: None,
        last_transition_time: since.unwrap_or(Time(now)),
    });
}

/// The next heartbeat.
pub(super) fn next_beat(heartbeat: Option<i64>) -> i64 {
    heartbeat.unwrap_or_default().wrapping_add(1).max(1)
}

fn disk_result(disk: &PointDisk) -> DiskResult {
    DiskResult {
        name: disk.name.to_string(),
        size_bytes: signed(disk.size),
        decision: disk.decision.to_string(),
        reason: shortened(&disk.reason),
        read_bytes: signed(disk.read),
        stored_bytes: signed(disk.stored),
    }
}

pub(super) fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
