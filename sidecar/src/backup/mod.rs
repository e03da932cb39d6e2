//! Takes a backup: `pg_backup_start`, a parallel copy of the data directory or of what in it differs from an earlier backup,
//! pg_control, `pg_backup_stop`, the manifest, and then the WAL that makes it consistent.

pub mod command;
mod compare;
mod copy;
mod read;
mod reference;
mod walk;

pub use copy::CopyError;

use crate::archive::{self, NotArchived};
use crate::data_directory::{self, DataDirectoryError};
use crate::origin::Origin;
use crate::progress::Counters;
use crate::status::{
    BackupRepository, BackupSize, BackupStatus, Condition, ConditionStatus, PageError,
};
use compare::Compare;
use copy::Findings;
use holdfast_postgres::backup_label::{self, BackupFrom, BackupLabel, BackupLabelError};
use holdfast_postgres::outside::outside;
use holdfast_postgres::server::{
    BackupStop, ConnectOptions, LockError, Server, ServerError, Settings as ServerSettings,
};
use holdfast_postgres::{ControlFile, SegmentName, SystemIdentifier};
use holdfast_repository::backup::{BackupId, BackupReader, BackupWriter, Root, WriterSettings};
use holdfast_repository::facts::{BackupFacts, RecoverySettings, TablespaceFacts};
use holdfast_repository::{
    Archive, Compression, ObjectError, ObjectKind, OpenError, blocking, layout,
};
use read::Source;
use reference::Reference;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use thiserror::Error;
use tokio::time::Instant;
use walk::Walk;

/// A sign of life is written this often: well within the 15 minutes after which a backup counts as dead.
const ALIVE_EVERY: Duration = Duration::from_secs(300);
/// How often is looked for the WAL that is missing.
const WAL_PAUSE: Duration = Duration::from_millis(250);
/// How often is said what is missing.
const WAL_TOLD: Duration = Duration::from_secs(15);
/// The largest pack, in bytes.
const PACK_BYTES: usize = 16 << 20;
/// Three packs are in memory at once, beside the WAL that is archived meanwhile.
const PACK_SHARE: u64 = 32;

/// What a backup needs to know.
#[derive(Debug, Clone)]
pub struct Order {
    /// Names the backup.
    pub id: BackupId,
    /// Everything is stored, whatever earlier backups have.
    pub full: bool,
    /// As the settings call it.
    pub repository: String,
    /// Where it goes.
    pub archive: Archive,
    /// Consent to begin an incarnation.
    pub accept: Option<SystemIdentifier>,
    /// Of the running server, readable here.
    pub data_directory: PathBuf,
    /// How the server is reached.
    pub server: ConnectOptions,
    /// Of the pages.
    pub compression: Compression,
    /// Cores for reading and compression.
    pub parallelism: usize,
    /// The process' budget, in bytes.
    pub memory: u64,
    /// How long to wait for the last WAL to be archived.
    pub wal_patience: Duration,
}

/// A backup that was not taken, or of which it is not known.
#[derive(Debug, Error)]
pub enum BackupError {
    /// Nothing was begun.
    #[error("{0}")]
    Refused(String),
    /// Another backup of this server runs.
    #[error(transparent)]
    Locked(#[from] LockError),
    /// The data directory's pg_control.
    #[error(transparent)]
    DataDirectory(#[from] DataDirectoryError),
    /// The archive.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The server.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// Which earlier backup it can be compared with.
    #[error("{0}")]
    Reference(String),
    /// The copy.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// Writing.
    #[error(transparent)]
    Write(#[from] ObjectError),
    /// Whose timeline it is.
    #[error(transparent)]
    Timeline(#[from] NotArchived),
    /// What Postgres gave as backup_label.
    #[error("Postgres gave a backup_label that can't be used: {0}")]
    Label(#[from] BackupLabelError),
    /// The server was promoted, restarted or replaced while the backup ran.
    #[error("{0}")]
    Changed(String),
    /// Stored, and not yet complete.
    #[error(
        "backup {id} is stored, but WAL segment {segment} that it needs was not archived within {waited} s{hint}; `holdfast info` shows it as complete as soon as that segment is there"
    )]
    WalMissing {
        /// The backup.
        id: BackupId,
        /// The first that is missing.
        segment: SegmentName,
        /// How long.
        waited: u64,
        /// What to do.
        hint: String,
    },
}

/// Takes a backup. Returns when it is complete: manifest, and every segment from start to stop.
pub async fn take(order: &Order, counters: &Counters) -> Result<BackupStatus, BackupError> {
    let (_, control) = read_control(&order.data_directory).await?;
    let origin =
        Origin::read(&order.data_directory).map_err(|e| BackupError::Refused(e.to_string()))?;
    if let Some(source) = origin
        .as_ref()
        .and_then(|origin| origin.copied_from(order.archive.id()))
    {
        return Err(BackupError::Refused(format!(
            "{} is a copy of the database that {} belongs to, and may not be backed up into it: give the copy an archive of its own",
            order.data_directory.display(),
            source.place
        )));
    }
    let server = Server::connect(&order.server).await?;
    let settings = server.settings().await?;
    fit(&control, &settings, &order.data_directory).map_err(BackupError::Refused)?;
    is_the_servers(&server, &order.data_directory)
        .await
        .map_err(BackupError::Refused)?;
    order
        .archive
        .claim(
            control.system_identifier,
            control.major,
            control.segment_size,
            order.accept,
        )
        .await?;
    server.try_lock_backup().await?;
    let reference = match order.full {
        true => None,
        false => Reference::find(order, control.system_identifier).await?,
    };
    let root = {
        let _alive = Alive::begin(order, control.system_identifier);
        let reader = reference.as_ref().map(|reference| reference.reader.clone());
        copy_and_commit(order, &server, &control, &settings, reader, counters).await
    };
    if let Some(reference) = reference {
        reference.end().await;
    }
    let root = root?;
    let facts = &root.facts;
    tracing::info!(backup = facts.id, start = %facts.start, stop = %facts.stop, "the manifest is stored; waiting for the WAL that completes the backup");
    wait_for_wal(order, facts, settings.in_recovery, counters).await?;
    Ok(status(&order.repository, &root))
}

async fn copy_and_commit(
    order: &Order,
    server: &Server,
    control: &ControlFile,
    settings: &ServerSettings,
    reference: Option<Arc<BackupReader>>,
    counters: &Counters,
) -> Result<Root, BackupError> {
    let walk = |tablespaces: &[(u32, String)]| Walk {
        root: order.data_directory.clone(),
        major: control.major,
        relation_segment_blocks: control.relation_segment_blocks,
        tablespaces: tablespaces
            .iter()
            .map(|(oid, _)| *oid)
            .collect::<HashSet<_>>(),
    };
    let total = copy::measure(walk(&tablespaces(server).await?)).await?;
    counters.set_total(total);
    let pack_bytes = PACK_BYTES.min((order.memory / PACK_SHARE) as usize);
    let writing = WriterSettings {
        compression: order.compression,
        pack_bytes,
        uploads: 2,
    };
    let mut writer = BackupWriter::begin(
        order.archive.clone(),
        control.system_identifier,
        order.id.clone(),
        writing,
        reference.as_ref().map(|reader| reader.root()),
    )
    .await?;
    let start_time = now();
    tracing::info!(backup = %order.id, "asking for a checkpoint");
    let start = server
        .start_backup(&format!("holdfast {}", order.id), true)
        .await?
        .start;
    // pg_control has the checkpoint of the start, and so the timeline of all that is copied.
    let (_, started) = read_control(&order.data_directory).await?;
    archive::confirm_timeline(&order.archive, &started, &order.data_directory).await?;
    // As of the start: those that are made later are in the WAL.
    let tablespaces = tablespaces(server).await?;
    let walk = walk(&tablespaces);
    tracing::info!(backup = %order.id, %start, bytes = total, "copying");
    let source = Source {
        root: order.data_directory.clone(),
        start,
        data_checksums: control.data_checksums,
        archive: order.archive.clone(),
        compression: order.compression,
        dont_cache: AtomicBool::new(true),
    };
    let Findings {
        page_errors,
        bad_pages,
    } = copy::copy(
        walk,
        Arc::new(source),
        reference.map(Compare::with),
        &mut writer,
        order.parallelism,
        counters,
    )
    .await?;
    // After all else: on a standby its minimum recovery point says from where on the copy is consistent.
    let (control_bytes, control_after) = read_control(&order.data_directory).await?;
    let BackupStop { stop, label, .. } = server.stop_backup().await?;
    let stop_time = now();
    let parsed = backup_label::parse(&label)?;
    unchanged(control, &control_after, settings, &parsed).map_err(BackupError::Changed)?;
    let stop = if parsed.from == BackupFrom::Standby {
        stop.max(control_after.min_recovery_point)
    } else {
        stop
    };
    let facts = BackupFacts {
        id: order.id.to_string(),
        system: control.system_identifier,
        timeline: parsed.timeline,
        start: parsed.start,
        stop,
        start_time,
        stop_time,
        postgres_major: control.major,
        segment_size: control.segment_size,
        from_standby: parsed.from == BackupFrom::Standby,
        database_bytes: 0,
        stored_bytes: 0,
        files: 0,
        data_checksums: control.data_checksums,
        page_errors,
        tablespaces: tablespaces
            .into_iter()
            .map(|(oid, location)| TablespaceFacts {
                oid,
                location,
                bytes: 0,
            })
            .collect(),
        settings: RecoverySettings {
            max_connections: control_after.max_connections,
            max_worker_processes: control_after.max_worker_processes,
            max_wal_senders: control_after.max_wal_senders,
            max_prepared_transactions: control_after.max_prepared_xacts,
            max_locks_per_transaction: control_after.max_locks_per_xact,
        },
        outside: {
            let directory = order.data_directory.clone();
            blocking(move || outside(&directory)).await
        },
        reference: None,
        changed_bytes: 0,
    };
    let mode = directory_mode(&order.data_directory);
    Ok(writer
        .finish(facts, bad_pages, control_bytes, label, mode)
        .await?)
}

/// Those that lie outside the data directory.
async fn tablespaces(server: &Server) -> Result<Vec<(u32, String)>, ServerError> {
    let mut all = server.tablespaces().await?;
    all.retain(|(_, location)| location.starts_with('/'));
    Ok(all)
}

/// Whether the server that answers runs on this directory. A primary and its standby have one system identifier, so
/// the file that each postmaster writes decides; who may not read it through SQL is believed.
async fn is_the_servers(server: &Server, data_directory: &Path) -> Result<(), String> {
    let Some(theirs) = server.postmaster_pid().await else {
        return Ok(());
    };
    let file = data_directory.join("postmaster.pid");
    let ours = tokio::fs::read_to_string(&file).await.unwrap_or_default();
    // Process, directory, start and port; what follows changes while it runs.
    let same = theirs.lines().take(4).eq(ours.lines().take(4));
    if same {
        return Ok(());
    }
    Err(format!(
        "the server that answers does not run on {}: correct postgres.host and postgres.port, or postgres.dataDirectory",
        data_directory.display()
    ))
}

/// To the microsecond, as it is stored, so that what is told of a backup does not change.
fn now() -> jiff::Timestamp {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}

/// What must hold before a backup begins. Pure.
fn fit(
    control: &ControlFile,
    settings: &ServerSettings,
    data_directory: &Path,
) -> Result<(), String> {
    let place = data_directory.display();
    if settings.system_identifier != control.system_identifier {
        return Err(format!(
            "the server that answers has system identifier {}, and {place} belongs to {}: correct postgres.host and postgres.port, or postgres.dataDirectory",
            settings.system_identifier, control.system_identifier
        ));
    }
    // A standby's backup lives on what its primary archives.
    if !settings.in_recovery && settings.archive_mode == "off" {
        return Err("archive_mode is off, so the WAL that a backup needs would never be archived: set archive_mode = on and archive_command = 'holdfast-wal archive %f %p', and restart Postgres".into());
    }
    if !settings.in_recovery
        && settings.archive_command.is_empty()
        && settings.archive_library.is_none()
    {
        return Err("archive_command is empty, so the WAL that a backup needs would never be archived: set archive_command = 'holdfast-wal archive %f %p', and reload Postgres".into());
    }
    if settings.in_recovery && !settings.full_page_writes {
        return Err(
            "full_page_writes is off on the primary, so a standby can't be backed up: set it on"
                .into(),
        );
    }
    Ok(())
}

/// What must still hold when it ends. Pure.
fn unchanged(
    before: &ControlFile,
    after: &ControlFile,
    settings: &ServerSettings,
    label: &BackupLabel,
) -> Result<(), String> {
    if after.system_identifier != before.system_identifier {
        return Err(format!(
            "the data directory changed while it was backed up: its system identifier was {} and is {}",
            before.system_identifier, after.system_identifier
        ));
    }
    if settings.in_recovery && label.from != BackupFrom::Standby {
        return Err(
            "the standby was promoted while it was backed up: take the backup again".into(),
        );
    }
    let reached = after.timeline.max(after.min_recovery_timeline);
    if label.from == BackupFrom::Standby && reached != label.timeline {
        return Err(format!(
            "the standby went from timeline {} to {} while it was backed up: take the backup again",
            label.timeline, after.timeline
        ));
    }
    Ok(())
}

/// Reads pg_control on a thread that may wait for it.
async fn read_control(data_directory: &Path) -> Result<(Vec<u8>, ControlFile), DataDirectoryError> {
    let directory = data_directory.to_owned();
    blocking(move || data_directory::control_file_bytes(&directory)).await
}

fn directory_mode(directory: &Path) -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(directory).map_or(0o700, |m| m.mode() & 0o777)
}

/// Writes signs of life until it is dropped.
struct Alive(tokio::task::JoinHandle<()>);

impl Alive {
    fn begin(order: &Order, system: SystemIdentifier) -> Self {
        let (archive, id) = (order.archive.clone(), order.id.clone());
        Self(tokio::spawn(async move {
            for n in 1.. {
                tokio::time::sleep(ALIVE_EVERY).await;
                if let Err(e) = archive
                    .create_single(
                        ObjectKind::Alive,
                        &layout::alive(system, id.as_str(), n),
                        &[],
                    )
                    .await
                {
                    tracing::warn!("can't write a sign of life: {e}");
                }
            }
        }))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn wait_for_wal(
    order: &Order,
    facts: &BackupFacts,
    on_standby: bool,
    counters: &Counters,
) -> Result<(), BackupError> {
    let begun = Instant::now();
    let mut told = None;
    for number in facts.segments() {
        let segment = SegmentName::new(facts.timeline, number, facts.segment_size);
        let key = layout::segment(facts.system, segment);
        loop {
            let trouble = match order.archive.store().head(&key).await {
                Ok(_) => break,
                Err(e) if e.is_not_found() => None,
                Err(e) => Some(e),
            };
            let hint = if on_standby {
                ": only the primary can close that segment; run there: select pg_switch_wal()"
                    .to_owned()
            } else {
                ": see pg_stat_archiver and the sidecar's log for why".to_owned()
            };
            if begun.elapsed() >= order.wal_patience {
                return Err(BackupError::WalMissing {
                    id: order.id.clone(),
                    segment,
                    waited: order.wal_patience.as_secs(),
                    hint,
                });
            }
            if told.is_none_or(|t: Instant| t.elapsed() >= WAL_TOLD)
                && (on_standby || begun.elapsed() > Duration::from_secs(3))
            {
                told = Some(Instant::now());
                let waiting = match trouble {
                    Some(e) => e.to_string(),
                    None => format!("waiting for WAL segment {segment} to be archived{hint}"),
                };
                tracing::warn!("{waiting}");
                counters.wait_for(Some(waiting));
            }
            tokio::time::sleep(WAL_PAUSE).await;
        }
    }
    Ok(())
}

/// As `Backup.status` tells a complete backup.
fn status(repository: &str, root: &Root) -> BackupStatus {
    let facts = &root.facts;
    let complete = || {
        Condition::new(
            "Complete",
            ConditionStatus::True,
            "Stored",
            "the manifest and all WAL from start to stop are in the repository",
        )
    };
    BackupStatus {
        id: facts.id.clone(),
        r#type: facts.kind().to_owned(),
        start_lsn: Some(facts.start.to_string()),
        stop_lsn: Some(facts.stop.to_string()),
        timeline: Some(facts.timeline.0),
        start_time: Some(facts.start_time),
        completion_time: Some(facts.stop_time),
        size: Some(BackupSize {
            database: facts.database_bytes,
            stored: facts.stored_bytes,
            changed: facts.changed_bytes,
        }),
        page_errors: facts.page_errors,
        bad_pages: root
            .bad_pages
            .iter()
            .map(|page| PageError {
                file: page.path.clone(),
                block: page.block,
                reason: "the checksum does not match, also after re-reading".into(),
            })
            .collect(),
        repositories: vec![BackupRepository {
            name: repository.to_owned(),
            stored_bytes: facts.stored_bytes,
            conditions: vec![complete()],
        }],
        conditions: vec![
            Condition::new("Started", ConditionStatus::True, "Started", ""),
            complete(),
        ],
        ..BackupStatus::default()
    }
}
