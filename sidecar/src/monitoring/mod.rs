//! Metrics and probes, in plain HTTP on a port of their own.
//!
//! ```text
//! GET /metrics   OpenMetrics text
//! GET /startz    200: the sockets are bound. Needs neither store nor database
//! GET /livez     200: the event loop turns; 503 if it has stood still
//! GET /readyz    how archiving is, as JSON: 200 all is well, 503 something is not. No probe for Kubernetes: a store
//!                that is away is no reason to take a database out of service
//! ```

mod health;
mod metrics;

pub use health::Heartbeat;
pub use metrics::Metrics;

use crate::control::{Instance, TakeBackup};
use crate::report::Reporter;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use std::sync::Arc;

/// What encoders of OpenMetrics announce.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

struct Shared<T> {
    reporter: Arc<Reporter<T>>,
    metrics: Metrics,
    heartbeat: Heartbeat,
}

/// The pages.
pub fn router<T: TakeBackup>(
    reporter: Arc<Reporter<T>>,
    metrics: Metrics,
    heartbeat: Heartbeat,
) -> Router {
    Router::new()
        .route("/metrics", get(metrics_page::<T>))
        .route("/startz", get(|| async { "the sockets are bound\n" }))
        .route("/livez", get(live::<T>))
        .route("/readyz", get(ready::<T>))
        .with_state(Arc::new(Shared {
            reporter,
            metrics,
            heartbeat,
        }))
}

async fn metrics_page<T: TakeBackup>(State(shared): State<Arc<Shared<T>>>) -> Response {
    let report = shared.reporter.report().await;
    match shared.metrics.text(report, shared.reporter.backups()) {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn live<T: TakeBackup>(State(shared): State<Arc<Shared<T>>>) -> Response {
    match shared.heartbeat.judge() {
        Ok(()) => "the event loop turns\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn ready<T: TakeBackup>(State(shared): State<Arc<Shared<T>>>) -> Response {
    let readiness = health::readiness(&shared.reporter.report().await);
    let code = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, Json(readiness)).into_response()
}

#[cfg(test)]
mod tests;
