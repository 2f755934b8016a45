//! The verifications that no agent ends: of a node that is lost, and of one that had no place for it in time. Their runs have
//! ended, so that there is nothing else to look at.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::{Client, ResourceExt};

use super::events::Events;
use super::observe::Reader;
use super::{Settings, apply};
use crate::conditions::{Says, find};
use crate::resources::{BackupRun, Run};
use crate::verification::{VERIFIED, is_open, until};

/// So long nothing is heard of who verifies a point before it is lost: a node that is started anew, or is given another agent, has
/// that begin again.
const LOST: Duration = Duration::from_mins(30);

/// So long an agent that lives has to say itself that there was no time.
const GRACE: SignedDuration = SignedDuration::from_hours(1);

/// How often the heartbeat of one at work is looked at, which asks nothing of the API server.
const AGAIN: Duration = Duration::from_mins(5);

/// What there is to do about an open one.
#[derive(Debug, PartialEq, Eq)]
enum Todo {
    /// Nothing, for so long.
    Wait(Duration),
    /// To look for an agent on its node: it is lost if there is none.
    LookForAgent,
    /// To end it: its time is over.
    EndLate,
}

/// Looks at the verification of a run that has ended. Says when to do so again; none once there is nothing to look at.
pub(super) async fn look(
    client: &Client,
    settings: &Settings,
    events: &Events,
    run: &BackupRun,
    silent: Duration,
) -> Result<Option<Duration>, kube::Error> {
    if !is_open(run) {
        return Ok(None);
    }
    let says = match todo(run, silent, Timestamp::now()) {
        Todo::Wait(time) => return Ok(Some(time)),
        Todo::LookForAgent => {
            let reader = Reader { client, settings, namespace: run.namespace().unwrap_or_default() };
            let node = run.node().unwrap_or_default();
            if !reader.agents(node).await?.is_empty() {
                return Ok(Some(AGAIN));
            }
            lost(run, node, silent)
        }
        Todo::EndLate => late(run),
    };
    let changed = apply::end_verification(client, run, says).await?;
    events.of_run(run, None, &changed).await;
    Ok(None)
}

fn todo(run: &BackupRun, silent: Duration, now: Timestamp) -> Todo {
    let end = until(run).and_then(|until| until.checked_add(GRACE).ok());
    let left = end.map_or(AGAIN, |end| Duration::try_from(end.duration_since(now)).unwrap_or_default());
    // What only waits for its turn has no heartbeat.
    let is_at_work = find(run.conditions(), VERIFIED).is_some();
    match (left.is_zero(), is_at_work) {
        (true, _) => Todo::EndLate,
        (false, true) if silent >= LOST => Todo::LookForAgent,
        (false, true) => Todo::Wait(left.min(AGAIN)),
        (false, false) => Todo::Wait(left),
    }
}

fn lost(run: &BackupRun, node: &str, silent: Duration) -> Says {
    let minutes = silent.as_secs() / 60;
    let why =
        format!("the agent of node {node} has shown no sign of life for {minutes} minutes, and no other is there");
    not_verified(run, "AgentLost", &why)
}

fn late(run: &BackupRun) -> Says {
    not_verified(run, "DeadlineExceeded", "no agent of its node has done so within 72h of the run's deadline")
}

fn not_verified(run: &BackupRun, reason: &'static str, why: &str) -> Says {
    let point = run.status.as_ref().and_then(|status| status.point.as_deref()).unwrap_or_default();
    let message = format!(
        "point {point} is stored, but was not verified: {why}. Look at the node; `remora verify` reads the point from elsewhere."
    );
    Says::not_yet(reason, message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::sync::{Arc, Mutex};

    use axum::Router;
    use http::{Method, Uri};
    use serde_json::{Value, json};

    use super::*;

    /// A run whose point is being verified on node `one`, or waits for that.
    fn stored(verified: &Value, created: Timestamp) -> BackupRun {
        let since = "2026-01-01T00:00:00Z";
        let said = |kind: &str, status: &str, reason: &str| json!({"type": kind, "status": status, "reason": reason, "message": "m", "lastTransitionTime": since});
        let mut conditions = vec![said("Assigned", "True", "Assigned"), said("Complete", "True", "Stored")];
        conditions.extend(verified.as_str().map(|reason| said(VERIFIED, "Unknown", reason)));
        serde_json::from_value(json!({
            "apiVersion": "remora.dev/v1alpha1", "kind": "BackupRun",
            "metadata": {"name": "run", "namespace": "shop", "uid": "run-uid", "creationTimestamp": created.to_string()},
            "spec": {"virtualMachine": "web", "repository": {"name": "r"}, "deadline": "4h", "verify": "All"},
            "status": {
                "conditions": conditions, "node": "one", "agent": "agent-uid", "heartbeat": 7,
                "point": "0011223344556677-1",
            },
        }))
        .unwrap()
    }

    #[test]
    fn one_at_work_is_looked_at_by_its_heartbeat_and_one_that_waits_when_its_time_is_over() {
        let begin = Timestamp::from_second(1_000_000).unwrap();
        let [at_work, waits] = [json!("Verifying"), json!(null)].map(|verified| stored(&verified, begin));
        let at = |hours: i64| begin + SignedDuration::from_hours(hours);
        let hours = Duration::from_hours;
        for (run, silent, now, todo_then) in [
            (&at_work, Duration::ZERO, at(1), Todo::Wait(AGAIN)),
            (&at_work, LOST.mul_f64(0.99), at(1), Todo::Wait(AGAIN)),
            (&at_work, LOST, at(1), Todo::LookForAgent),
            // 4 h, 72 h, and what an agent has to say so.
            (&at_work, LOST, at(77), Todo::EndLate),
            (&waits, hours(9), at(10), Todo::Wait(hours(67))),
            (&waits, hours(9), at(77), Todo::EndLate),
            (&waits, Duration::ZERO, at(1000), Todo::EndLate),
        ] {
            assert_eq!(todo(run, silent, now), todo_then, "{silent:?} {now}");
        }
    }

    /// What is written of a verification whose agent was heard of last so long ago, on a node with these pods.
    async fn written(verified: &Value, silent: Duration, pods: &Value) -> (Option<Duration>, Vec<Value>) {
        let run = stored(verified, Timestamp::now());
        let list = json!({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": pods}).to_string();
        let told: Arc<Mutex<Vec<Value>>> = Arc::default();
        let (noted, object) = (Arc::clone(&told), json!(run).to_string());
        let answer = move |method: Method, uri: Uri, body: String| async move {
            if uri.path().ends_with("/pods") {
                return list;
            }
            if method == Method::PATCH && uri.path().ends_with("/status") {
                noted.lock().unwrap().push(serde_json::from_str(&body).unwrap());
            }
            object
        };
        let server: Router = Router::new().fallback(answer);
        let client = Client::new(server, "default");
        let settings = Settings {
            namespace: "remora".into(),
            instance: "one".into(),
            agents: "remora-agent".into(),
            keys: ([127, 0, 0, 1], 0).into(),
            health: ([127, 0, 0, 1], 0).into(),
            service: "remora-controller".into(),
            image: None,
            scheduled_runs: 1,
            plugins: None,
        };
        let events = Events::new(client.clone(), "one");
        let again = look(&client, &settings, &events, &run, silent).await.unwrap();
        let told = told.lock().unwrap().clone();
        (again, told)
    }

    #[tokio::test]
    async fn a_verification_whose_node_has_no_agent_any_more_ends_and_any_other_goes_on() {
        let (verifying, nobody) = (json!("Verifying"), json!([]));
        let (again, told) = written(&verifying, LOST, &nobody).await;
        assert_eq!((again, told.len()), (None, 1));
        let status = &told[0]["status"];
        let said =
            |kind: &str| status["conditions"].as_array().unwrap().iter().find(|one| one["type"] == kind).cloned();
        let verified = said(VERIFIED).unwrap();
        assert_eq!((&verified["status"], &verified["reason"]), (&json!("Unknown"), &json!("AgentLost")));
        assert!(verified["message"].as_str().unwrap().contains("of node one has shown no sign of life for 30 minutes"));
        // What the controller said before stays its own, and the end stays the agent's.
        assert!(said("Assigned").is_some() && status["node"] == "one");
        assert!(said("Complete").is_none() && status["completionTime"].is_null());

        let agent = json!([{"metadata": {"name": "agent", "uid": "successor"}, "status": {"phase": "Running"}}]);
        assert_eq!(written(&verifying, LOST, &agent).await, (Some(AGAIN), vec![]));
        assert_eq!(written(&verifying, Duration::ZERO, &nobody).await, (Some(AGAIN), vec![]));
        assert_eq!(written(&json!("AgentLost"), LOST, &nobody).await, (None, vec![]));
        let (again, told) = written(&json!(null), LOST, &nobody).await;
        assert!(again > Some(Duration::from_hours(76)) && told.is_empty(), "it waits for its turn: {again:?}");
    }
}
