//! The control API's server.

use super::{BackupService, Instance, OrderError};
use crate::http::Transport;
use crate::socket::BoundSocket;
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use holdfast_protocol::control::{
    BackupAccepted, BackupOrder, DrainOrder, ErrorBody, GoAccepted, GoOrder, Lacking,
    LackingQuestion, SwitchWalOrder, UNLESS_SECONDS, WalSwitched,
};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};

const LARGEST_BODY: usize = 64 << 10;
/// How often is looked whether there is news, where somebody waits for it.
const LOOK: Duration = Duration::from_millis(250);

/// Where an order comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// This machine, over the Unix socket: it can mean no other pod.
    Local,
    /// The network, where an address may have become another pod's.
    Remote,
}

struct Shared<B, I> {
    backups: Arc<B>,
    instance: Arc<I>,
    from: Caller,
}

/// The API.
pub fn router<B: BackupService, I: Instance>(
    backups: Arc<B>,
    instance: Arc<I>,
    from: Caller,
) -> Router {
    Router::new()
        .route("/v1/status", get(status::<B, I>))
        .route("/v1/backups", post(start::<B, I>))
        .route(
            "/v1/backups/{id}",
            get(backup::<B, I>).delete(cancel::<B, I>),
        )
        .route("/v1/switch-wal", post(switch_wal::<B, I>))
        .route("/v1/lacking", post(lacking::<B, I>))
        .route("/v1/drain", post(drain::<B, I>))
        .route("/v1/restore", post(go::<B, I>))
        .fallback(|uri: Uri| async move {
            error(StatusCode::NOT_FOUND, format!("there is no {}", uri.path()))
        })
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(Arc::new(Shared {
            backups,
            instance,
            from,
        }))
}

async fn status<B: BackupService, I: Instance>(
    State(shared): State<Arc<Shared<B, I>>>,
    uri: Uri,
) -> Response {
    let instance = &shared.instance;
    // A mark has no letter that is written otherwise in an address.
    if let Some(unless) = uri.query().and_then(|query| query.strip_prefix("unless=")) {
        let news = async {
            while instance.mark() == unless {
                sleep(LOOK).await;
            }
        };
        let _ = timeout(Duration::from_secs(UNLESS_SECONDS), news).await;
    }
    Json(instance.report().await).into_response()
}

async fn start<B: BackupService, I: Instance>(
    State(shared): State<Arc<Shared<B, I>>>,
    order: Result<Json<BackupOrder>, JsonRejection>,
) -> Response {
    let order = match order {
        Ok(Json(order)) => order,
        Err(rejection) => return error(rejection.status(), rejection.body_text()),
    };
    let allowed = for_this_pod(
        order.pod_uid.as_deref(),
        shared.instance.pod_uid(),
        shared.from,
    );
    if let Err(why) = allowed {
        return refused(why);
    }
    match shared.backups.start(order).await {
        Ok(id) => (StatusCode::ACCEPTED, Json(BackupAccepted { id })).into_response(),
        Err(why) => refused(why),
    }
}

async fn backup<B: BackupService, I: Instance>(
    State(shared): State<Arc<Shared<B, I>>>,
    Path(id): Path<String>,
) -> Response {
    match shared.backups.backup(&id).await {
        Some(status) => Json(status).into_response(),
        None => unknown(),
    }
}

async fn cancel<B: BackupService, I: Instance>(
    State(shared): State<Arc<Shared<B, I>>>,
    Path(id): Path<String>,
) -> Response {
    if shared.backups.cancel(&id).await {
        (StatusCode::ACCEPTED, Json(BackupAccepted { id })).into_response()
    } else {
        unknown()
    }
}

async fn switch_wal<B: BackupService, I: Instance>(
    State(shared): State<Arc<Shared<B, I>>>,
    order: Result<Json<SwitchWalOrder>, JsonRejection>,
) -> Response {
    let SwitchWalOrder { pod_uid } = match order {
        Ok(Json(order)) => order,
        Err(rejection) => return error(rejection.status(), rejection.body_text()),
    };
    let allowed = for_this_pod(pod_uid.as_deref(), shared.instance.pod_uid(), shared.from);
    if let Err(why) = allowed {
        return refused(why);
    }
    match shared.instance.switch_wal().await {
        Ok(lsn) => Json(WalSwitched {
            lsn: lsn.to_string(),
        })
        .into_response(),
        Err(why) => refused(why),
    }
}

async fn lacking<B: BackupService, I: Instance>(
    State(shared): State<Arc<Shared<B, I>>>,
    question: Result<Json<LackingQuestion>, JsonRejection>,
) -> Response {
    let LackingQuestion { outside, pod_uid } = match question {
        Ok(Json(question)) => question,
        Err(rejection) => return error(rejection.status(), rejection.body_text()),
    };
    let allowed = for_this_pod(pod_uid.as_deref(), shared.instance.pod_uid(), shared.from);
    if let Err(why) = allowed {
        return refused(why);
    }
    match shared.instance.lacking(outside).await {
        Ok(lacking) => Json(Lacking { lacking }).into_response(),
        Err(why) => refused(why),
    }
}

async fn drain<B: BackupService, I: Instance>(
    State(shared): State<Arc<Shared<B, I>>>,
    order: Result<Json<DrainOrder>, JsonRejection>,
) -> Response {
    let DrainOrder { pod_uid } = match order {
        Ok(Json(order)) => order,
        Err(rejection) => return error(rejection.status(), rejection.body_text()),
    };
    match for_this_pod(pod_uid.as_deref(), shared.instance.pod_uid(), shared.from) {
        Ok(()) => Json(shared.instance.drain().await).into_response(),
        Err(why) => refused(why),
    }
}

async fn go<B: BackupService, I: Instance>(
    State(shared): State<Arc<Shared<B, I>>>,
    order: Result<Json<GoOrder>, JsonRejection>,
) -> Response {
    let GoOrder { order, pod_uid } = match order {
        Ok(Json(order)) => order,
        Err(rejection) => return error(rejection.status(), rejection.body_text()),
    };
    let allowed = for_this_pod(pod_uid.as_deref(), shared.instance.pod_uid(), shared.from);
    match allowed.and_then(|()| shared.instance.go(&order)) {
        Ok(()) => (StatusCode::ACCEPTED, Json(GoAccepted { order })).into_response(),
        Err(why) => refused(why),
    }
}

/// Whether an order may be carried out here: it names this pod, or needs to name none.
fn for_this_pod(ordered: Option<&str>, ours: Option<&str>, from: Caller) -> Result<(), OrderError> {
    let other = |why: String| Err(OrderError::OtherPod(why));
    match (ordered, ours) {
        (Some(ordered), Some(ours)) if ordered == ours => Ok(()),
        (Some(ordered), Some(ours)) => other(format!(
            "the order is for the pod with UID {ordered:?}, and this one has {ours}"
        )),
        (Some(ordered), None) => other(format!(
            "the order is for the pod with UID {ordered:?}, and this sidecar knows none of its own (HOLDFAST_POD_UID)"
        )),
        (None, Some(ours)) if from == Caller::Remote => other(format!(
            "the order names no pod: give podUid; this one has {ours}"
        )),
        (None, _) => Ok(()),
    }
}

fn refused(why: OrderError) -> Response {
    match why {
        OrderError::Busy(why) => error(StatusCode::CONFLICT, why),
        OrderError::OtherPod(why) => error(StatusCode::PRECONDITION_FAILED, why),
        OrderError::Refused(why) => error(StatusCode::UNPROCESSABLE_ENTITY, why),
    }
}

fn unknown() -> Response {
    error(
        StatusCode::NOT_FOUND,
        "this sidecar has taken no backup of that id".to_owned(),
    )
}

fn error(code: StatusCode, error: String) -> Response {
    (code, Json(ErrorBody { error })).into_response()
}

/// Connections of a Unix socket, whose file goes with it.
pub struct Unix {
    listener: UnixListener,
    _file: Box<dyn Send + Sync>,
}

impl Unix {
    /// Takes the socket over.
    pub fn new(socket: BoundSocket) -> Self {
        let (listener, file) = socket.into_parts();
        Self {
            listener,
            _file: Box::new(file),
        }
    }
}

impl Transport for Unix {
    type Raw = UnixStream;
    type Stream = UnixStream;
    const NAME: &'static str = "control socket";

    async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }

    async fn open(&self, raw: UnixStream) -> io::Result<UnixStream> {
        Ok(raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_for_the_pod_that_they_name() {
        use Caller::{Local, Remote};
        for (ordered, ours, from, allowed) in [
            (Some("a"), Some("a"), Local, true),
            (Some("a"), Some("a"), Remote, true),
            (Some("a"), Some("b"), Local, false),
            (Some("a"), Some("b"), Remote, false),
            (Some("a"), None, Local, false),
            (Some("a"), None, Remote, false),
            (Some(""), Some("a"), Remote, false),
            (None, Some("a"), Local, true),
            (None, Some("a"), Remote, false),
            (None, None, Local, true),
            (None, None, Remote, true),
        ] {
            let judged = for_this_pod(ordered, ours, from);
            assert_eq!(judged.is_ok(), allowed, "{ordered:?} {ours:?} {from:?}");
        }
    }
}
