//! One request: its body within bounds, the answer as JSON.

use super::PATH;
use super::metrics::Metrics;
use super::review::answer;
use super::server::{Limits, Webhook};
use super::slots::Slot;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use futures::StreamExt;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// What the requests of all connections share.
pub(super) struct Shared {
    webhook: Webhook,
    limits: Limits,
    metrics: Metrics,
    /// Bytes of bodies that are held at once.
    bodies: Arc<Semaphore>,
    /// Bytes of bodies that are taken apart at once, which takes many times their size.
    reviews: Arc<Semaphore>,
}

impl Shared {
    pub(super) fn new(webhook: Webhook, limits: Limits) -> Self {
        Self {
            metrics: webhook.metrics.clone(),
            bodies: Arc::new(Semaphore::new(limits.bodies)),
            reviews: Arc::new(Semaphore::new(limits.body)),
            webhook,
            limits,
        }
    }
}

/// The service of one connection.
pub(super) fn router(shared: Arc<Shared>, slot: Arc<Slot>) -> Router {
    Router::new()
        .route(PATH, post(review))
        .fallback(|| async { text(StatusCode::NOT_FOUND, format!("post to {PATH}")) })
        .with_state((shared, slot))
}

type Connection = (Arc<Shared>, Arc<Slot>);

async fn review(State((shared, slot)): State<Connection>, request: Request) -> Response {
    let Some(_work) = slot.work() else {
        return text(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many connections".to_owned(),
        );
    };
    let read = read(&shared, request.into_body());
    let (body, _held) = match timeout(shared.limits.request, read).await {
        Ok(Ok(read)) => read,
        Ok(Err(response)) => return *response,
        Err(_) => {
            return text(
                StatusCode::REQUEST_TIMEOUT,
                "the body is too slow".to_owned(),
            );
        }
    };
    let began = Instant::now();
    let answer = {
        let Some(_turn) = permits(&shared.reviews, body.len()).await else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "shutting down".to_owned());
        };
        answer(&body, &shared.webhook.settings)
    };
    let took = began.elapsed();
    match answer {
        Ok((review, answered)) => {
            shared.metrics.answered(Some(answered), took);
            let json = HeaderValue::from_static("application/json");
            ([(header::CONTENT_TYPE, json)], review.to_string()).into_response()
        }
        Err(bad) => {
            shared.metrics.answered(None, took);
            text(StatusCode::BAD_REQUEST, bad.to_string())
        }
    }
}

/// The body, and the permit for its bytes.
async fn read(
    shared: &Shared,
    body: Body,
) -> Result<(Vec<u8>, Vec<OwnedSemaphorePermit>), Box<Response>> {
    let refuse = |status, why: &str| Box::new(text(status, why.to_owned()));
    let mut chunks = body.into_data_stream();
    let mut read = Vec::new();
    let mut held = Vec::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| refuse(StatusCode::BAD_REQUEST, "the body broke off"))?;
        if read.len() + chunk.len() > shared.limits.body {
            return Err(refuse(
                StatusCode::PAYLOAD_TOO_LARGE,
                "the body is too large",
            ));
        }
        let permit = permits(&shared.bodies, chunk.len()).await;
        held.push(permit.ok_or_else(|| refuse(StatusCode::SERVICE_UNAVAILABLE, "shutting down"))?);
        read.extend_from_slice(&chunk);
    }
    Ok((read, held))
}

/// One for each byte. None only if the semaphore were closed, which nobody does.
async fn permits(semaphore: &Arc<Semaphore>, bytes: usize) -> Option<OwnedSemaphorePermit> {
    let count = u32::try_from(bytes).ok()?;
    semaphore.clone().acquire_many_owned(count).await.ok()
}

fn text(status: StatusCode, sentence: String) -> Response {
    (status, sentence + "\n").into_response()
}
