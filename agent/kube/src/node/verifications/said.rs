//! What is said of a verification: the condition `Verified`, beside what the run's end said.

use jiff::Timestamp;
use remora_core::ErrorKind;
use remora_core::ports::{Damage, Effect, VerifyReport};
use serde_json::{Value, json};

use crate::conditions::{CHECKPOINTS_STAY, Says, find};
use crate::node::status::{CLAIMED, COMPLETE, Words, next_beat, say};
use crate::node::tend::{Beats, Early};
use crate::node::{Failure, Me, Meter};
use crate::resources::{BackupRun, BackupRunStatus, Verify};
use crate::verification::{VERIFIED, VERIFYING, is_open};

/// So many damaged stretches are named.
const NAMED: usize = 5;

/// What the agent says of a run whose point it verifies: all fields that are its own, and no other.
#[derive(Clone, Debug)]
pub(super) struct VerifySaid {
    status: BackupRunStatus,
}

impl VerifySaid {
    /// What claims the run anew. All that its end said stays.
    pub(super) fn claiming(run: &BackupRun, me: &Me, now: Timestamp) -> Self {
        let mut status = BackupRunStatus {
            agent: Some(me.uid.clone()),
            verified_percent: None,
            // These are the controller's.
            observed_generation: None,
            node: None,
            halted: false,
            prepared_attempt: None,
            ..run.status.clone().unwrap_or_default()
        };
        status.heartbeat = Some(next_beat(status.heartbeat));
        let ours = [CLAIMED, COMPLETE, CHECKPOINTS_STAY, VERIFIED];
        status.conditions.retain(|one| ours.contains(&one.type_.as_str()));
        let message = format!("the agent {} of node {} works on it", me.pod, me.node);
        say(&mut status.conditions, CLAIMED, ("True", "Claimed", &message), now);
        say(&mut status.conditions, VERIFIED, ("Unknown", VERIFYING, "the point is being read"), now);
        Self { status }
    }

    /// The last word.
    pub(super) fn says(&mut self, says: &Says, now: Timestamp) {
        say(&mut self.status.conditions, VERIFIED, (says.truth.as_str(), &says.reason, &says.message), now);
    }
}

impl Beats for VerifySaid {
    fn beat(&mut self, meter: &Meter) {
        self.status.heartbeat = Some(next_beat(self.status.heartbeat));
        self.status.verified_percent = meter.percent();
    }
}

impl Words for VerifySaid {
    type Run = BackupRun;

    fn status(&self) -> Value {
        json!(self.status)
    }

    fn said_by(&self, run: &BackupRun) -> bool {
        let (said, is) = (&self.status, run.status.clone().unwrap_or_default());
        let word = |conditions| find(conditions, VERIFIED).map(|one| (one.status.clone(), one.reason.clone()));
        is.agent == said.agent && word(&is.conditions) == word(&said.conditions)
    }

    fn is_over(run: &BackupRun) -> bool {
        !is_open(run)
    }
}

/// What was found, or why nothing was.
pub(super) fn says(run: &BackupRun, early: Option<Early>, result: &Result<VerifyReport, Failure>) -> Says {
    let point = run.status.as_ref().and_then(|status| status.point.as_deref()).unwrap_or_default();
    match result {
        Ok(report) if report.damage.is_empty() => {
            let what = match run.spec.verify {
                Verify::All => "can be restored",
                Verify::None | Verify::Structure => {
                    "has all that tells where its data are, which were not read themselves"
                }
            };
            Says::yes(
                "Sound",
                format!("point {point} {what}: {} bytes were read, and are as they were stored", report.checked),
            )
        }
        Ok(report) => Says::no("Damaged", damaged(point, &report.damage)),
        Err(failure) if failure.kind() == ErrorKind::Damaged => {
            let why = failure.message();
            let why = why.trim_end_matches('.');
            Says::no("Damaged", format!("nothing of point {point} can be read: {why}. {MEND}"))
        }
        Err(_) if early == Some(Early::Cancelled) => {
            Says::not_yet("Cancelled", format!("the run was cancelled before point {point} was verified"))
        }
        Err(failure) => {
            let why = failure.message();
            Says::not_yet(failure.reason().to_owned(), format!("point {point} is stored, but was not verified: {why}"))
        }
    }
}

const MEND: &str =
    "Create a BackupRun with mode Full: it stores all of the machine again. Find out what became of the store.";

fn damaged(point: &str, damage: &[Damage]) -> String {
    let one = |one: &Damage| {
        let effect = match one.effect {
            Effect::Lost => "are lost",
            Effect::Readable => "restore, but rest on a damaged object",
        };
        format!("{} of disk {} {effect}: {} ({})", one.range, one.disk, one.why, one.object)
    };
    let mut all: Vec<_> = damage.iter().take(NAMED).map(one).collect();
    if let Some(more) = damage.len().checked_sub(NAMED).filter(|more| *more > 0) {
        all.push(format!("and {more} more"));
    }
    format!("point {point} is damaged: {}. What is not named as lost still restores. {MEND}", all.join("; "))
}

#[cfg(test)]
mod tests {
    use remora_core::{ByteRange, Error};

    use super::*;
    use crate::conditions::{Truth, holds};

    /// A run with a point, as its end left it.
    fn ended(verify: &str) -> BackupRun {
        let condition = |kind: &str, reason: &str| {
            let since = "2026-01-01T00:00:00Z";
            json!({"type": kind, "status": "True", "reason": reason, "message": "", "lastTransitionTime": since})
        };
        let conditions = [
            ("Assigned", "Assigned"),
            ("Claimed", "Claimed"),
            ("Complete", "Stored"),
            ("CheckpointsStay", "CleaningUpFailed"),
        ]
        .map(|(kind, reason)| condition(kind, reason));
        serde_json::from_value(json!({
            "apiVersion": "remora.dev/v1alpha1", "kind": "BackupRun", "metadata": {"name": "run", "namespace": "shop"},
            "spec": {"virtualMachine": "web", "repository": {"name": "r"}, "verify": verify},
            "status": {
                "conditions": conditions, "node": "one", "halted": true, "agent": "earlier", "heartbeat": 7,
                "point": "0011223344556677-1", "readBytes": 5,
                "attempt": {"number": 2, "backup": "b", "state": "Ended"}, "preparedAttempt": 2,
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_claim_keeps_what_the_end_said_and_says_nothing_that_is_the_controllers() {
        let run = ended("All");
        assert!(!VerifySaid::is_over(&run) && VerifySaid::is_over(&ended("None")));
        let me =
            Me { node: "one".into(), token: None, namespace: "remora".into(), pod: "agent".into(), uid: "me".into() };
        let mut said = VerifySaid::claiming(&run, &me, Timestamp::UNIX_EPOCH);
        let status = said.status();
        assert_eq!(
            (&status["agent"], &status["heartbeat"], &status["readBytes"]),
            (&json!("me"), &json!(8), &json!(5))
        );
        assert_eq!((&status["point"], &status["attempt"]["number"]), (&json!("0011223344556677-1"), &json!(2)));
        for field in ["node", "halted", "preparedAttempt", "observedGeneration"] {
            assert!(status[field].is_null(), "{field}: {status:#}");
        }
        assert!(holds(&said.status.conditions, "Complete") && holds(&said.status.conditions, CHECKPOINTS_STAY));
        assert!(find(&said.status.conditions, "Assigned").is_none());
        let claimed = BackupRun { status: Some(said.status.clone()), ..run.clone() };
        assert!(!VerifySaid::is_over(&claimed), "another agent may have to go on");
        said.says(&Says::not_yet("Unavailable", ""), Timestamp::UNIX_EPOCH);
        assert!(VerifySaid::is_over(&BackupRun { status: Some(said.status.clone()), ..run }));
    }

    #[test]
    fn damage_is_named_and_what_could_not_be_read_is_not_known() {
        let run = ended("All");
        let lost = |at: u64| Damage {
            disk: "root".parse().unwrap(),
            range: ByteRange::new(at, at + 1),
            effect: Effect::Lost,
            object: "segment".into(),
            why: "it is gone".into(),
        };
        let of = |early, result: Result<VerifyReport, Error>| says(&run, early, &result.map_err(Failure::from));
        let report = |damage| Ok(VerifyReport { checked: 9, damage });
        let sound = of(None, report(Vec::new()));
        assert_eq!((sound.truth, &*sound.reason), (Truth::True, "Sound"));
        let damaged = of(None, report((0..7).map(lost).collect()));
        assert_eq!((damaged.truth, &*damaged.reason), (Truth::False, "Damaged"));
        assert!(
            damaged.message.contains("bytes 4..5 of disk root are lost: it is gone (segment); and 2 more"),
            "{}",
            damaged.message
        );
        let fails = |early, kind| of(early, Err(Error::new(kind, "no")));
        for (early, kind, truth, reason) in [
            (None, ErrorKind::Damaged, Truth::False, "Damaged"),
            (None, ErrorKind::Unavailable, Truth::Unknown, "Unavailable"),
            (None, ErrorKind::NotFound, Truth::Unknown, "NotFound"),
            (Some(Early::Cancelled), ErrorKind::Cancelled, Truth::Unknown, "Cancelled"),
        ] {
            let says = fails(early, kind);
            assert_eq!((says.truth, &*says.reason), (truth, reason), "{}", says.message);
        }
    }
}
