//! Looks at the data directory and asks the server, within bounds.

use crate::config::Settings;
use crate::control::OrderError;
use crate::data_directory;
use crate::exit::{ExitClass, Failure};
use crate::origin::Origin;
use crate::queue::Queue;
use crate::restore::destination;
use holdfast_postgres::server::{
    ConnectOptions, Recovery, Server, ServerError, Settings as ServerSettings,
};
use holdfast_postgres::{ControlFile, Lsn, TimelineId, outside};
use holdfast_protocol::control::Outside;
use holdfast_repository::blocking;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// For the server to answer, connecting included.
const PATIENCE: Duration = Duration::from_secs(5);
/// So many files that wait are counted.
const MOST_READY: usize = 10_000;

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// pg_control, or why it can't be read.
    pub control: Result<ControlFile, String>,
    /// The last restore in place that was carried out here.
    pub last_order: Option<String>,
    /// Its newest timeline, and where that left its parent, by the history file in pg_wal; none on the first.
    pub branched: Option<(TimelineId, Lsn)>,
    /// What waits to be archived; none if it can't be told.
    pub queue: Option<Queue>,
    /// What may be filled of the data directory's file system; none if it can't be told.
    pub volume_bytes: Option<u64>,
    /// Bytes that are free on pg_wal's file system; none if it can't be told.
    pub wal_available: Option<u64>,
    /// What the server says, or why it can't be asked.
    pub server: Result<Answer, String>,
}

/// What the server says.
#[derive(Debug, Clone)]
pub struct Answer {
    /// What it runs with.
    pub settings: ServerSettings,
    /// Where its WAL ends; on a standby, what is replayed.
    pub lsn: Lsn,
    /// The newest timeline that it has reached.
    pub timeline: TimelineId,
    /// Of the recovery that it began with.
    pub recovery: Option<Recovery>,
}

/// Looks once.
pub(super) async fn look(settings: &Arc<Settings>) -> Found {
    let local = {
        let settings = settings.clone();
        blocking(move || {
            let directory = &settings.postgres.data_directory;
            let control = data_directory::control_file(directory).map_err(|e| e.to_string());
            let origin = Origin::read(directory).ok().flatten();
            let last_order = origin.and_then(|origin| origin.last_order);
            let branched = control.as_ref().ok().and_then(|control| {
                let timeline = control.timeline.max(control.min_recovery_timeline);
                Some((timeline, data_directory::switch_point(directory, timeline)?))
            });
            (
                control,
                last_order,
                branched,
                Queue::look(directory, MOST_READY).ok(),
                destination::volume(directory).ok(),
                destination::free(&directory.join("pg_wal")).ok(),
            )
        })
    };
    let ((control, last_order, branched, queue, volume_bytes, wal_available), server) =
        tokio::join!(local, ask(settings));
    let server = match (&control, server) {
        (Ok(control), Ok(answer))
            if answer.settings.system_identifier != control.system_identifier =>
        {
            Err(format!(
                "the server that answers has system identifier {}, and the data directory {}: correct postgres.host and postgres.port",
                answer.settings.system_identifier, control.system_identifier
            ))
        }
        (_, server) => server.map_err(|e| e.why),
    };
    Found {
        control,
        last_order,
        branched,
        queue,
        volume_bytes,
        wal_available,
        server,
    }
}

async fn ask(settings: &Settings) -> Result<Answer, NoAnswer> {
    on_the_server(settings, async |server| {
        Ok(Answer {
            settings: server.settings().await?,
            lsn: server.current_lsn().await?,
            timeline: server.current_timeline().await?,
            recovery: server.recovery().await?,
        })
    })
    .await
}

/// Why a server could not be asked, or would not do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoAnswer {
    /// One sentence.
    pub why: String,
    /// Whether nobody was there to say it: no server answered at all.
    pub silent: bool,
}

impl NoAnswer {
    fn of(error: &ServerError) -> Self {
        let answered = match error {
            ServerError::Connect { reason, .. } => reason.code.is_some(),
            ServerError::Unsupported { .. }
            | ServerError::Query { .. }
            | ServerError::Answer { .. } => true,
        };
        Self {
            why: Failure::from_error(ExitClass::Unknown, error).message,
            silent: !answered,
        }
    }
}

/// Does something in a session of its own, which ends with it: an idle one would hold up a smart shutdown.
///
/// # Errors
/// After five seconds at most.
pub async fn on_the_server<T>(
    settings: &Settings,
    work: impl AsyncFnOnce(&Server) -> Result<T, ServerError>,
) -> Result<T, NoAnswer> {
    let options = settings
        .postgres
        .connect_options("holdfast sidecar")
        .map_err(|e| NoAnswer {
            why: e.to_string(),
            silent: false,
        })?;
    let options = ConnectOptions {
        connect_timeout: PATIENCE,
        ..options
    };
    let done = async {
        let server = Server::connect(&options).await?;
        work(&server).await
    };
    match timeout(PATIENCE, done).await {
        Ok(done) => done.map_err(|e| NoAnswer::of(&e)),
        Err(_) => Err(NoAnswer {
            why: format!("Postgres at {options:?} has not answered within {PATIENCE:?}"),
            silent: true,
        }),
    }
}

/// Which of these the server would not find if its configuration named them.
pub(super) async fn lacking(
    settings: &Settings,
    outside: Vec<Outside>,
) -> Result<Vec<Outside>, OrderError> {
    let asked = outside.into_iter().map(|one| outside::Outside {
        file: one.file,
        setting: one.setting,
        value: one.value,
    });
    let asked: Vec<_> = asked.collect();
    let answered = on_the_server(settings, async |server| server.lacking(asked.clone()).await);
    let lacking = answered
        .await
        .map_err(|no_answer| OrderError::Busy(no_answer.why))?;
    let told = lacking.into_iter().map(|one| Outside {
        file: one.file,
        setting: one.setting,
        value: one.value,
    });
    Ok(told.collect())
}

/// Closes the segment that is being written.
pub(super) async fn switch_wal(settings: &Settings) -> Result<Lsn, OrderError> {
    let done = on_the_server(settings, async |server| {
        if server.settings().await?.in_recovery {
            return Ok(None);
        }
        server.switch_wal().await.map(Some)
    });
    match done.await {
        Ok(Some(lsn)) => Ok(lsn),
        Ok(None) => Err(OrderError::Refused(
            "this server is a standby, and only a primary can switch to a new segment: order it from the primary's sidecar"
                .to_owned(),
        )),
        Err(no_answer) => Err(OrderError::Busy(no_answer.why)),
    }
}
