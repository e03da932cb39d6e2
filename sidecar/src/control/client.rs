//! Speaks to a sidecar's control socket.

use super::backups::WAITING;
use crate::exit::Failure;
use crate::progress::Counters;
use crate::status::{BackupStatus, is_true};
use bytes::Bytes;
use holdfast_protocol::control::{BackupAccepted, BackupOrder, ErrorBody, InstanceReport};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};

const LARGEST_ANSWER: usize = 16 << 20;
const ANSWER: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(500);
/// How long a backup is asked for without an answer before its outcome counts as unknown.
const LOST: Duration = Duration::from_secs(30);

/// Why the sidecar did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody answers.
    #[error("the sidecar at {} does not answer: {why}", socket.display())]
    Unreachable {
        /// Its control socket.
        socket: PathBuf,
        /// What happened.
        why: String,
    },
    /// One runs already, or the order can't be carried out.
    #[error("{0}")]
    Refused(String),
    /// Whatever answered, it does not speak this API.
    #[error("what answers at {} is no holdfast sidecar, or a newer one: {why}", socket.display())]
    Protocol {
        /// Its control socket.
        socket: PathBuf,
        /// What it said.
        why: String,
    },
    /// It does not know the backup that it was to take: it has been restarted.
    #[error(
        "the sidecar was restarted while backup {0} ran; `holdfast info` shows whether it is complete"
    )]
    Forgotten(String),
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Refused(_) => Self::refused(error),
            ControlError::Unreachable { .. }
            | ControlError::Protocol { .. }
            | ControlError::Forgotten(_) => Self::unknown(error),
        }
    }
}

/// Whether a sidecar serves this control socket.
pub async fn is_served(socket: &Path) -> bool {
    crate::socket::is_served(socket).await
}

/// What the sidecar tells of itself.
pub async fn status(socket: &Path) -> Result<InstanceReport, ControlError> {
    match call(socket, Method::GET, "/v1/status", None::<&()>).await? {
        (StatusCode::OK, body) => parse(socket, &body),
        (code, body) => Err(unexpected(socket, code, &body)),
    }
}

/// Orders a backup and returns its id. After [`ControlError::Unreachable`] it may run all the same, so an order with an
/// id can be repeated and one without should not be.
pub async fn start_backup(socket: &Path, order: &BackupOrder) -> Result<String, ControlError> {
    let (code, body) = call(socket, Method::POST, "/v1/backups", Some(order)).await?;
    match code {
        StatusCode::ACCEPTED => Ok(parse::<BackupAccepted>(socket, &body)?.id),
        StatusCode::CONFLICT
        | StatusCode::PRECONDITION_FAILED
        | StatusCode::UNPROCESSABLE_ENTITY => Err(ControlError::Refused(
            parse::<ErrorBody>(socket, &body)?.error,
        )),
        _ => Err(unexpected(socket, code, &body)),
    }
}

/// Follows a backup to its end, counting into `counters`; what it waits for goes to the log, as if it were taken here. A failed one is returned, too: its conditions say why.
pub async fn follow(
    socket: &Path,
    id: &str,
    counters: &Counters,
) -> Result<BackupStatus, ControlError> {
    let mut heard = Instant::now();
    loop {
        match backup(socket, id).await {
            Ok(status)
                if is_true(&status.conditions, "Complete")
                    || is_true(&status.conditions, "Failed") =>
            {
                return Ok(status);
            }
            Ok(status) => {
                heard = Instant::now();
                if let Some(progress) = status.progress {
                    counters.set(progress.bytes_done, progress.bytes_total);
                }
                let waits = waits_for(&status);
                if waits.is_some() && waits != counters.waiting() {
                    tracing::warn!("{}", waits.as_deref().unwrap_or_default());
                }
                counters.wait_for(waits);
            }
            Err(ControlError::Unreachable { .. }) if heard.elapsed() < LOST => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(POLL).await;
    }
}

fn waits_for(status: &BackupStatus) -> Option<String> {
    let mut conditions = status.conditions.iter();
    let found = conditions.find(|c| c.r#type == "Complete" && c.reason == WAITING)?;
    Some(found.message.clone())
}

async fn backup(socket: &Path, id: &str) -> Result<BackupStatus, ControlError> {
    match call(
        socket,
        Method::GET,
        &format!("/v1/backups/{id}"),
        None::<&()>,
    )
    .await?
    {
        (StatusCode::OK, body) => parse(socket, &body),
        (StatusCode::NOT_FOUND, _) => Err(ControlError::Forgotten(id.to_owned())),
        (code, body) => Err(unexpected(socket, code, &body)),
    }
}

/// One request on a connection of its own.
async fn call(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&impl Serialize>,
) -> Result<(StatusCode, Bytes), ControlError> {
    let unreachable = |why: &dyn ToString| ControlError::Unreachable {
        socket: socket.to_owned(),
        why: why.to_string(),
    };
    let body = match body {
        Some(body) => serde_json::to_vec(body).map_err(|e| unreachable(&e))?,
        None => Vec::new(),
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "holdfast")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|e| unreachable(&e))?;
    let exchange = async {
        let stream = UnixStream::connect(socket)
            .await
            .map_err(|e| unreachable(&e))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| unreachable(&e))?;
        let driver = tokio::spawn(connection);
        let answer = async {
            let response = sender
                .send_request(request)
                .await
                .map_err(|e| unreachable(&e))?;
            let code = response.status();
            let body = Limited::new(response.into_body(), LARGEST_ANSWER)
                .collect()
                .await
                .map_err(|e| unreachable(&e))?;
            Ok((code, body.to_bytes()))
        }
        .await;
        driver.abort();
        answer
    };
    timeout(ANSWER, exchange)
        .await
        .map_err(|_| unreachable(&"no answer in time"))?
}

fn parse<T: DeserializeOwned>(socket: &Path, body: &[u8]) -> Result<T, ControlError> {
    serde_json::from_slice(body).map_err(|e| ControlError::Protocol {
        socket: socket.to_owned(),
        why: e.to_string(),
    })
}

fn unexpected(socket: &Path, code: StatusCode, body: &[u8]) -> ControlError {
    let said = serde_json::from_slice::<ErrorBody>(body)
        .map(|body| body.error)
        .unwrap_or_default();
    ControlError::Protocol {
        socket: socket.to_owned(),
        why: format!("{code} {said}").trim_end().to_owned(),
    }
}
