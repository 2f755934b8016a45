//! How long an API server is asked, and a backup's going waited for. Time stands still but where nobody has anything to do.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use axum::Router;
use http::StatusCode;
use kube::Client;
use remora_core::CheckpointName;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::node::{Me, Order};

/// An API server that takes no request for a while, then has what it is asked for, and has it no more after that.
fn server(away: Duration, stays: Duration) -> Client {
    answering([(away, StatusCode::SERVICE_UNAVAILABLE), (stays, StatusCode::OK)])
}

/// One that gives these answers for so long each, and then has nothing of what it is asked for.
fn answering<const N: usize>(answers: [(Duration, StatusCode); N]) -> Client {
    let began = Instant::now();
    let answer = move || async move {
        let mut until = Duration::ZERO;
        let now = answers.iter().find(|(lasts, _)| {
            until += *lasts;
            began.elapsed() < until
        });
        let code = now.map_or(StatusCode::NOT_FOUND, |(_, code)| *code);
        let body = match code {
            StatusCode::OK => {
                json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "x"}})
            }
            StatusCode::FORBIDDEN => json!({"status": "Failure", "reason": "Forbidden", "message": "no", "code": 403}),
            _ => return (code, String::new()),
        };
        (code, body.to_string())
    };
    let router: Router = Router::new().fallback(answer);
    Client::new(router, "default")
}

fn a_run(client: Client) -> RunCluster {
    let (wishes, mut heard) = mpsc::channel::<Wish>(1);
    tokio::spawn(async move {
        while let Some(wish) = heard.recv().await {
            wish.written.send(Ok(())).ok();
        }
    });
    let spec = json!({"virtualMachine": "web", "repository": {"name": "offsite"}});
    let [node, namespace, pod, uid] = ["one", "remora", "agent", "agent-uid"].map(str::to_owned);
    let desk = Desk {
        client,
        me: Arc::new(Me { node, token: None, namespace, pod, uid }),
        order: Order {
            namespace: "shop".into(),
            name: "run".into(),
            uid: "run-uid".into(),
            spec: serde_json::from_value(spec).unwrap(),
        },
        meter: Arc::default(),
        wishes,
        run: watch::channel(None).1,
        cancel: CancellationToken::new(),
        stopping: CancellationToken::new(),
    };
    RunCluster::new(desk, RepositoryId::from_bytes([7; 16]))
}

#[tokio::test(start_paused = true)]
async fn the_time_in_which_the_api_server_takes_no_request_is_not_counted() {
    let backup = CheckpointName::random(RepositoryId::from_bytes([7; 16])).as_backup();
    let here = Duration::ZERO;
    for (away, stays, goes) in
        [(3 * GONE, here, true), (3 * GONE, GONE / 2, true), (3 * GONE, 2 * GONE, false), (here, 2 * GONE, false)]
    {
        let ended = a_run(server(away, stays)).end(&backup, Outcome::Abandoned).await;
        match ended {
            Ok(()) => assert!(goes, "away for {away:?}, there for {stays:?}"),
            Err(error) => {
                assert!(!goes, "away for {away:?}, there for {stays:?}: {}", error.chain());
                assert!(error.chain().contains("is not gone after 300 s"), "{}", error.chain());
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_was_away_has_a_minute_to_learn_its_rules_like_any_other_that_has_just_started() {
    let backup = CheckpointName::random(RepositoryId::from_bytes([7; 16])).as_backup();
    let away = (Duration::from_mins(10), StatusCode::SERVICE_UNAVAILABLE);
    for (forbids, goes) in [(RULES / 2, true), (2 * RULES, false)] {
        let run = a_run(answering([away, (forbids, StatusCode::FORBIDDEN)]));
        let ended = run.end(&backup, Outcome::Abandoned).await;
        let kind = ended.as_ref().err().map(Error::kind);
        assert_eq!(kind, (!goes).then_some(ErrorKind::Refused), "it forbids for {forbids:?}: {ended:?}");
    }
}
