//! What any agent on Kubernetes can find out about its node.

use std::future::Future;

use jiff::Timestamp;
use kube::Client;
use kube::client::Body;

use super::record::REQUEST;
use crate::resources::Capability;

/// Tokens, certificates and deadlines allow for so much.
const ASTRAY: i64 = 30;

/// Whether the node's clock agrees with the API server's: by that one the deadlines of runs begin.
pub async fn clock(client: &Client) -> Capability {
    let capability = |available, message| Capability { name: "clock".into(), available, message };
    match in_time(server_time(client)).await {
        Some(time) => {
            let astray = Timestamp::now().as_second() - time.as_second();
            if astray.abs() <= ASTRAY {
                capability(true, "it agrees with the API server's".into())
            } else {
                capability(false, format!("it is {astray} s from the API server's: synchronise the node's clock"))
            }
        }
        None => capability(true, "the API server does not tell its time".into()),
    }
}

/// What is told within the time that a request has: who waits for it tells nothing else of this node meanwhile.
async fn in_time<T>(told: impl Future<Output = Option<T>>) -> Option<T> {
    tokio::time::timeout(REQUEST, told).await.ok().flatten()
}

async fn server_time(client: &Client) -> Option<Timestamp> {
    let request = http::Request::get("/version").body(Body::empty()).ok()?;
    let answer = client.send(request).await.ok()?;
    let date = answer.headers().get(http::header::DATE)?.to_str().ok()?;
    jiff::fmt::rfc2822::parse(date).ok().map(|time| time.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_took_the_question_and_is_silent_is_not_waited_for() {
        let began = tokio::time::Instant::now();
        assert_eq!(in_time(std::future::pending::<Option<()>>()).await, None);
        assert_eq!(began.elapsed(), REQUEST);
    }
}
