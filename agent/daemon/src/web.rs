//! `/metrics`, `/healthz` and `/readyz`.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use remora_core::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What is told of this process.
pub(crate) struct Health {
    /// All metrics, as Prometheus reads them.
    pub(crate) metrics: Box<dyn Fn() -> Result<String, fmt::Error> + Send + Sync>,
    /// Whether it does what it is there for.
    pub(crate) ready: Box<dyn Fn() -> bool + Send + Sync>,
}

/// Binds the address; who scrapes finds it there before anything else happens.
pub(crate) async fn bind(address: SocketAddr) -> remora_core::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|e| Error::io(format!("listening on {address}"), e).advise("Choose another address with `listen`."))
}

/// Serves until `cancel`.
pub(crate) async fn serve(listener: TcpListener, health: Health, cancel: CancellationToken) {
    let health = Arc::new(health);
    let metrics = Arc::clone(&health);
    let text = move || {
        let metrics = Arc::clone(&metrics);
        async move {
            match (metrics.metrics)() {
                Ok(text) => Ok(([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)),
                Err(_) => Err(StatusCode::INTERNAL_SERVER_ERROR),
            }
        }
    };
    let ready = move || {
        let ready = (health.ready)();
        async move { if ready { (StatusCode::OK, "ok\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not yet\n") } }
    };
    let router = Router::new()
        .route("/metrics", get(text))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready));
    let served = axum::serve(listener, router).with_graceful_shutdown(cancel.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "metrics are not served any more");
    }
}
