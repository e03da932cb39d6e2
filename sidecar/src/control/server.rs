//! The control API's server.

use super::{BackupService, OrderError};
use crate::socket::{BoundSocket, WalService};
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use holdfast_protocol::control::{BackupAccepted, BackupOrder, ErrorBody};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

const LARGEST_BODY: usize = 64 << 10;

/// The server's bounds.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Served at once; more wait in the kernel's queue.
    pub connections: usize,
    /// For a client to send a request's head.
    pub head: Duration,
    /// For one connection; no answer takes long.
    pub connection: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16,
            head: Duration::from_secs(10),
            connection: Duration::from_secs(60),
        }
    }
}

struct Shared<B, W> {
    backups: Arc<B>,
    wal: Arc<W>,
}

/// Serves until `shutdown` is ready, then ends the connections and removes the socket's file.
pub async fn serve<B: BackupService, W: WalService>(
    socket: BoundSocket,
    backups: Arc<B>,
    wal: Arc<W>,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) {
    let (listener, _file) = socket.into_parts();
    let router = router(Arc::new(Shared { backups, wal }));
    let slots = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = async {
            let slot = slots.clone().acquire_owned().await;
            (slot, listener.accept().await)
        };
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            (slot, accepted) = accepted => match accepted {
                Ok((stream, _)) => {
                    let service = TowerToHyperService::new(router.clone());
                    let limits = limits.clone();
                    connections.spawn(async move {
                        let _slot = slot;
                        let connection = hyper::server::conn::http1::Builder::new()
                            .timer(TokioTimer::new())
                            .header_read_timeout(limits.head)
                            .serve_connection(TokioIo::new(stream), service);
                        // A client that leaves or dawdles is its own affair.
                        let _ = timeout(limits.connection, connection).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the control socket can't accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    connections.shutdown().await;
}

fn router<B: BackupService, W: WalService>(shared: Arc<Shared<B, W>>) -> Router {
    Router::new()
        .route("/v1/status", get(status::<B, W>))
        .route("/v1/backups", post(start::<B, W>))
        .route("/v1/backups/{id}", get(backup::<B, W>))
        .fallback(|uri: Uri| async move {
            error(StatusCode::NOT_FOUND, format!("there is no {}", uri.path()))
        })
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(shared)
}

async fn status<B: BackupService, W: WalService>(
    State(shared): State<Arc<Shared<B, W>>>,
) -> Response {
    Json(shared.wal.status().await).into_response()
}

async fn start<B: BackupService, W: WalService>(
    State(shared): State<Arc<Shared<B, W>>>,
    order: Result<Json<BackupOrder>, axum::extract::rejection::JsonRejection>,
) -> Response {
    let order = match order {
        Ok(Json(order)) => order,
        Err(rejection) => return error(rejection.status(), rejection.body_text()),
    };
    match shared.backups.start(order).await {
        Ok(id) => (StatusCode::ACCEPTED, Json(BackupAccepted { id })).into_response(),
        Err(OrderError::Busy(why)) => error(StatusCode::CONFLICT, why),
        Err(OrderError::Refused(why)) => error(StatusCode::UNPROCESSABLE_ENTITY, why),
    }
}

async fn backup<B: BackupService, W: WalService>(
    State(shared): State<Arc<Shared<B, W>>>,
    Path(id): Path<String>,
) -> Response {
    match shared.backups.backup(&id).await {
        Some(status) => Json(status).into_response(),
        None => error(
            StatusCode::NOT_FOUND,
            "this sidecar has taken no backup of that id".to_owned(),
        ),
    }
}

fn error(code: StatusCode, error: String) -> Response {
    (code, Json(ErrorBody { error })).into_response()
}
