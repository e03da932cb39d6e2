//! `holdfast backup`: by the sidecar where one runs, else by this process.

use super::{BackupError, Order, take};
use crate::archive::NotArchived;
use crate::cli::BackupArgs;
use crate::commands;
use crate::config::{Live, Place, Repository, Settings};
use crate::control::TakeBackup;
use crate::control::client;
use crate::exit::{ExitClass, Failure};
use crate::open;
use crate::progress::{Counters, Progress};
use crate::restore::check::lies_within;
use crate::status::{BackupStatus, is_true};
use holdfast_postgres::server::LockError;
use holdfast_protocol::control::{BackupKind, BackupOrder};
use holdfast_repository::backup::BackupId;
use indicatif::HumanBytes;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long a backup waits for its last WAL. A standby waits for somebody to run a command on the primary.
const WAL_PATIENCE: Duration = Duration::from_secs(600);

/// Takes backups as the settings of their beginning say.
pub struct Taker(pub Live);

impl TakeBackup for Taker {
    async fn take(
        &self,
        id: BackupId,
        kind: BackupKind,
        counters: Arc<Counters>,
    ) -> Result<BackupStatus, Failure> {
        let order = order(&self.0.get(), id, kind).await?;
        take(&order, &counters).await.map_err(|e| {
            let class = class(&e);
            Failure::from_error(class, &e)
        })
    }
}

/// Takes a backup, shows how far it is, and prints what it became.
pub async fn run(settings: Arc<Settings>, args: &BackupArgs) -> Result<(), Failure> {
    let counters = Arc::new(Counters::default());
    let progress = {
        let counters = counters.clone();
        Progress::show(args.json, "backing up", move || counters.figures())
    };
    let control = settings.control_socket();
    let status = if client::is_served(&control).await {
        ordered(&control, args.kind, &counters).await?
    } else {
        let id = BackupId::generate(jiff::Timestamp::now());
        Taker(settings.into())
            .take(id, args.kind, counters.clone())
            .await?
    };
    drop(progress);
    if args.json {
        commands::print_json(&status)
    } else {
        commands::print(&told(&status))
    }
}

async fn ordered(
    control: &Path,
    kind: BackupKind,
    counters: &Counters,
) -> Result<BackupStatus, Failure> {
    let order = BackupOrder {
        r#type: kind,
        id: Some(BackupId::generate(jiff::Timestamp::now()).to_string()),
        pod_uid: None,
    };
    let id = client::start_backup(control, &order).await?;
    let status = client::follow(control, &id, counters).await?;
    match status.conditions.iter().find(|c| c.r#type == "Failed") {
        Some(failed) if is_true(&status.conditions, "Failed") => Err(Failure {
            class: ExitClass::from_reason(&failed.reason),
            message: failed.message.clone(),
        }),
        _ => Ok(status),
    }
}

async fn order(settings: &Settings, id: BackupId, kind: BackupKind) -> Result<Order, Failure> {
    if let Some(Repository {
        place: Place::Filesystem { path },
        ..
    }) = settings.first_repository()
        && lies_within(path, &settings.postgres.data_directory)
    {
        return Err(Failure::refused(format!(
            "the repository {} lies in the data directory: a backup would hold itself, and be lost with what it is for; move it elsewhere",
            path.display()
        )));
    }
    let (repository, archive) = open::first(settings, open::Create::IfMissing).await?;
    Ok(Order {
        id,
        full: kind == BackupKind::Full,
        repository,
        archive,
        accept: settings.accept_system_identifier,
        data_directory: settings.postgres.data_directory.clone(),
        server: settings
            .postgres
            .connect_options("holdfast backup")
            .map_err(|e| Failure::from_error(ExitClass::Refused, &e))?,
        compression: settings.backup_compression,
        parallelism: settings.parallelism,
        memory: settings.memory,
        wal_patience: WAL_PATIENCE,
    })
}

fn class(error: &BackupError) -> ExitClass {
    match error {
        BackupError::Refused(_)
        | BackupError::DataDirectory(_)
        | BackupError::Locked(LockError::Held(_)) => ExitClass::Refused,
        BackupError::Open(e) if e.is_permanent() => ExitClass::Refused,
        BackupError::Timeline(NotArchived::Diverged { .. } | NotArchived::NoHistory { .. }) => {
            ExitClass::Refused
        }
        BackupError::WalMissing { .. } => ExitClass::Unknown,
        _ => ExitClass::Failed,
    }
}

fn told(status: &BackupStatus) -> String {
    let size = status.size.unwrap_or_default();
    let mut text = format!(
        "{} backup {} is complete: {} in the database, {} of it new, {} stored, WAL from {} to {} on timeline {}\n",
        status.r#type.to_lowercase(),
        status.id,
        HumanBytes(size.database),
        HumanBytes(size.changed),
        HumanBytes(size.stored),
        status.start_lsn.as_deref().unwrap_or_default(),
        status.stop_lsn.as_deref().unwrap_or_default(),
        status.timeline.unwrap_or_default(),
    );
    if status.page_errors > 0 {
        text.push_str(&format!(
            "WARNING: {} pages fail their checksum; the backup holds them as they are:\n",
            status.page_errors
        ));
        for page in &status.bad_pages {
            text.push_str(&format!("  {} block {}\n", page.file, page.block));
        }
    }
    text
}
