//! `/metrics`, `/healthz` and `/readyz`.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use remora_core::{Error, Result};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What `/metrics` is written in.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is told of this process.
pub struct Health {
    /// All metrics, as Prometheus reads them.
    pub metrics: Box<dyn Fn() -> Result<String, fmt::Error> + Send + Sync>,
    /// Whether it does what it is there for; if it does not, why, as far as that is known.
    pub ready: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
}

/// Binds the address; who scrapes finds it there before anything else happens.
pub async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|e| Error::io(format!("listening on {address}"), e))
}

/// Serves until `cancel`.
pub async fn serve(listener: TcpListener, health: Health, cancel: CancellationToken) {
    let health = Arc::new(health);
    let metrics = Arc::clone(&health);
    let text = move || {
        let text = (metrics.metrics)();
        async move {
            match text {
                Ok(text) => Ok(([(CONTENT_TYPE, OPENMETRICS)], text)),
                Err(_) => Err(StatusCode::INTERNAL_SERVER_ERROR),
            }
        }
    };
    let ready = move || {
        let ready = (health.ready)();
        async move {
            match ready {
                Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
                Err(why) if why.is_empty() => (StatusCode::SERVICE_UNAVAILABLE, "not yet\n".to_owned()),
                Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not yet: {why}\n")),
            }
        }
    };
    let router = Router::new()
        .route("/metrics", get(text))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready));
    let served = axum::serve(listener, router).with_graceful_shutdown(cancel.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "metrics and health are not served any more");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn who_is_not_ready_lives_and_is_measured_all_the_same() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let (address, cancel) = (listener.local_addr().unwrap(), CancellationToken::new());
        let is_ready = Arc::new(Mutex::new(Err::<(), _>(String::new())));
        let told = Arc::clone(&is_ready);
        let health = Health {
            metrics: Box::new(|| Ok("remora_up 1\n# EOF\n".into())),
            ready: Box::new(move || told.lock().unwrap().clone()),
        };
        let served = tokio::spawn(serve(listener, health, cancel.clone()));
        for (ready, code, said) in [
            (Err(String::new()), "503", "not yet\n"),
            (Ok(()), "200", "ok\n"),
            (Err("the runs are not known".to_owned()), "503", "not yet: the runs are not known\n"),
        ] {
            *is_ready.lock().unwrap() = ready;
            let answer = get(address, "/readyz").await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{answer}");
            assert!(answer.ends_with(&format!("\r\n\r\n{said}")), "{answer}");
            let answer = get(address, "/healthz").await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            let answer = get(address, "/metrics").await;
            assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0"), "{answer}");
            assert!(answer.ends_with("\r\n\r\nremora_up 1\n# EOF\n"), "{answer}");
        }
        cancel.cancel();
        served.await.unwrap();
    }
}
