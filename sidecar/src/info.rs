//! `holdfast info`: backups, the recovery window, WAL by timeline with its gaps, sizes and lag. The store is enough;
//! where the server answers too, or the sidecar beside it, they tell how far the archive is behind. The sidecar does so without
//! the store, too.

mod report;
mod table;

use crate::cli::InfoArgs;
use crate::commands;
use crate::config::Settings;
use crate::control::client;
use crate::exit::{ExitClass, Failure};
use crate::open::{self, Create};
use holdfast_postgres::server::{ConnectOptions, Server, ServerError, Settings as ServerSettings};
use holdfast_postgres::{Lsn, SegmentName, TimelineId};
use holdfast_protocol::control::InstanceReport;
use holdfast_repository::catalogue::{Catalogue, CatalogueError, Timeline};
use holdfast_repository::reach::Window;
use holdfast_repository::wal::WalStore;
use holdfast_repository::{Archive, ObjectError};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::timeout;

/// A server that does not answer must not hold up what the store alone can tell.
const SERVER_PATIENCE: Duration = Duration::from_secs(3);

/// What was found, oldest incarnation first.
#[derive(Debug, Default)]
struct Found {
    incarnations: Vec<Incarnation>,
    server: Answer,
    /// What the sidecar beside it says, if there is one.
    sidecar: Option<InstanceReport>,
}

#[derive(Debug)]
struct Incarnation {
    catalogue: Catalogue,
    /// Where each timeline's last record ends.
    ends: BTreeMap<TimelineId, Lsn>,
    /// Or what is damaged on the way to it.
    window: Result<Option<Window>, String>,
}

/// What the server says.
#[derive(Debug)]
enum Answer {
    /// Its settings, and where its WAL ends.
    Told(Box<ServerSettings>, Lsn),
    /// Why not.
    Silent(String),
}

impl Default for Answer {
    fn default() -> Self {
        Self::Silent("it was not asked".into())
    }
}

/// Prints what there is.
pub async fn run(settings: &Settings, args: &InfoArgs) -> Result<(), Failure> {
    let stored = stored(settings).await;
    // Asked last: what they say is true when it is read, however long the store took.
    let options = settings.postgres.connect_options("holdfast info");
    let asked = async {
        match options {
            Ok(options) => {
                ask(ConnectOptions {
                    connect_timeout: SERVER_PATIENCE,
                    ..options
                })
                .await
            }
            Err(error) => Answer::Silent(error.to_string()),
        }
    };
    let socket = settings.control_socket();
    let (server, sidecar) = tokio::join!(asked, timeout(SERVER_PATIENCE, client::status(&socket)));
    let sidecar = sidecar.ok().and_then(Result::ok);
    let (repository, archive, incarnations) = match (stored, &sidecar) {
        (Ok(stored), _) => stored,
        (Err(failure), Some(sidecar)) if failure.class == ExitClass::Unknown => {
            let status = report::without_store(sidecar, &failure.message);
            match args.json {
                true => commands::print_json(&status)?,
                false => commands::print(&table::without_store(&status, jiff::Timestamp::now()))?,
            }
            return Err(failure);
        }
        (Err(failure), _) => return Err(failure),
    };
    let found = Found {
        incarnations,
        server,
        sidecar,
    };
    let status = report::status(&found, &repository);
    if args.json {
        return commands::print_json(&status);
    }
    let head = table::Head {
        archive: &settings.archive,
        repository: &repository,
        place: archive.store().description(),
        encrypted: archive.is_encrypted(),
        silent: match &found.server {
            Answer::Told(..) => None,
            Answer::Silent(why) => Some(why),
        },
    };
    commands::print(&table::text(&status, &head, jiff::Timestamp::now()))
}

/// What the store tells: the repository that is read, the archive there, and what it holds.
async fn stored(settings: &Settings) -> Result<(String, Archive, Vec<Incarnation>), Failure> {
    let (repository, archive) = open::first(settings, Create::Never).await?;
    let incarnations = incarnations(&archive).await?;
    Ok((repository, archive, incarnations))
}

async fn incarnations(archive: &Archive) -> Result<Vec<Incarnation>, Failure> {
    let known = archive
        .incarnations()
        .await
        .map_err(|e| open::open_failure(&e))?;
    let mut found = Vec::with_capacity(known.len());
    for (system, identity) in known {
        let wal =
            WalStore::of_identity(archive.clone(), system, &identity).map_err(Failure::failed)?;
        let catalogue = Catalogue::load(archive, system)
            .await
            .map_err(|e| not_listed(&e))?;
        let mut ends = BTreeMap::new();
        for timeline in &catalogue.timelines {
            if let Some(end) = end_of(&wal, &catalogue, timeline).await? {
                ends.insert(timeline.id, end);
            }
        }
        let window = match Window::of(&catalogue, &wal).await {
            Ok(window) => Ok(window),
            Err(error) if error.is_damage() => Err(error.to_string()),
            Err(error) => return Err(Failure::from_error(ExitClass::Unknown, &error)),
        };
        found.push(Incarnation {
            catalogue,
            ends,
            window,
        });
    }
    Ok(found)
}

fn not_listed(error: &CatalogueError) -> Failure {
    let class = if error.is_permanent() {
        ExitClass::Failed
    } else {
        ExitClass::Unknown
    };
    Failure::from_error(class, error)
}

/// The end of the last record that the last segment tells of; where its index is damaged, what is sure.
async fn end_of(
    wal: &WalStore,
    catalogue: &Catalogue,
    timeline: &Timeline,
) -> Result<Option<Lsn>, Failure> {
    let Some(last) = timeline.runs.last() else {
        return Ok(None);
    };
    match wal
        .index(SegmentName::new(timeline.id, last, catalogue.segment_size))
        .await
    {
        Ok(index) => Ok(Some(index.end)),
        Err(error) if error.is_damage() => Ok(Some(last.start(catalogue.segment_size))),
        Err(error) => Err(unread(&error)),
    }
}

fn unread(error: &ObjectError) -> Failure {
    Failure::from_error(ExitClass::Unknown, error)
}

async fn ask(options: ConnectOptions) -> Answer {
    let told = async {
        let server = Server::connect(&options).await?;
        let settings = server.settings().await?;
        Ok::<_, ServerError>((settings, server.current_lsn().await?))
    };
    match tokio::time::timeout(SERVER_PATIENCE, told).await {
        Ok(Ok((settings, lsn))) => Answer::Told(Box::new(settings), lsn),
        Ok(Err(error)) => Answer::Silent(Failure::from_error(ExitClass::Unknown, &error).message),
        Err(_) => Answer::Silent(format!("{options:?} does not answer")),
    }
}
