//! `ARCHIVE`: a WAL file is answered OK when every required repository holds it, verified, and not before.

use crate::config::{Mode, Repository, Settings};
use crate::data_directory::{self, DataDirectoryError};
use crate::open::{self, ArchiveError, Create};
use crate::origin::{Origin, OriginError};
use bytes::Bytes;
use futures::future::{join_all, try_join};
use holdfast_postgres::{ClusterState, ControlFile, Lsn, TimelineId, WalFileName, WalNameError};
use holdfast_repository::{
    Archive, ArchiveId, ObjectError, OpenError, PutError, PutOutcome, WalStore,
};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

/// No attempt begins later than this after the first; Postgres asks again by itself.
const PATIENCE: Duration = Duration::from_secs(60);
/// Once the server is stopping: it asks three times for each file and waits for the answer, and whoever stops it waits
/// too.
const PATIENCE_AT_THE_END: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// What a repository that nobody waits for may cost.
const BEST_EFFORT: Duration = Duration::from_secs(10);
/// A history file is a few lines, in bytes.
const LARGEST_HISTORY: u64 = 4 << 20;
/// The part of the memory limit that archiving may use: one in so many.
const MEMORY_SHARE: u64 = 4;

/// Archives WAL files of one data directory into the repositories of its settings.
#[derive(Debug)]
pub struct Archiver {
    settings: Arc<Settings>,
    patience: Duration,
    /// As many as fit into the memory.
    slots: Semaphore,
    /// By the repository's name; what was opened stays open until an error.
    opened: Mutex<BTreeMap<String, Opened>>,
    progress: Mutex<ArchiveProgress>,
}

/// How archiving goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArchiveProgress {
    /// Since the start.
    pub archived: u64,
    /// Calls that were answered with an error since the start.
    pub failed: u64,
    /// The last file that was archived, and when.
    pub last_archived: Option<(String, Timestamp)>,
    /// The last file that was not, why, and when. None once a later call went well.
    pub last_failure: Option<(String, String, Timestamp)>,
}

/// An archive that this data directory may write to.
#[derive(Debug, Clone)]
struct Opened {
    wal: WalStore,
    /// History files that are stored, as they are: what is created once never changes.
    histories: BTreeMap<TimelineId, Bytes>,
}

/// Why a file is not archived.
#[derive(Debug, thiserror::Error)]
pub enum NotArchived {
    /// Not a WAL file's name.
    #[error(transparent)]
    Name(#[from] WalNameError),
    /// The local files.
    #[error(transparent)]
    Local(#[from] DataDirectoryError),
    /// holdfast.origin.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// The archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The archive's identity.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Reading it back.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The file.
    #[error(transparent)]
    Put(#[from] PutError),
    /// A copy would archive into its source.
    #[error(
        "this data directory is a copy of the database in {place}, and a copy does not archive into its source: give it an \
         archive of its own"
    )]
    Copy {
        /// The archive.
        place: String,
    },
    /// Nobody can tell whose WAL it is.
    #[error(
        "pg_wal has no {history}, so it can't be told whether {name} belongs to the timeline that is archived: copy {history} \
         from the server that this one was cloned from into pg_wal"
    )]
    NoHistory {
        /// The file.
        name: WalFileName,
        /// The file that is missing.
        history: WalFileName,
    },
    /// Two servers promoted to one timeline.
    #[error(
        "{history} in pg_wal (digest {ours}) differs from the one archived in {place} (digest {stored}): two servers were \
         promoted to timeline {timeline}, and the other's is archived; archive this one under another name, or clone it anew"
    )]
    Diverged {
        /// The history file.
        history: WalFileName,
        /// Its timeline.
        timeline: TimelineId,
        /// The archive.
        place: String,
        /// Digest of the local file.
        ours: String,
        /// Digest of the archived file.
        stored: String,
    },
    /// Its own server wrote it, and it can't be read.
    #[error(
        "{name} is not a whole segment ({why}), though this server wrote it: what can be read up to {valid_through} is kept \
         aside, and the archive has a gap there. Check the disk under pg_wal, and take a backup"
    )]
    NotWhole {
        /// The file.
        name: WalFileName,
        /// Why.
        why: String,
        /// The end of its last good record.
        valid_through: Lsn,
    },
    /// Only while the program ends.
    #[error("the program is ending")]
    Ending,
}

impl NotArchived {
    fn is_permanent(&self) -> bool {
        match self {
            Self::Local(DataDirectoryError::Read { .. } | DataDirectoryError::Control { .. }) => {
                false
            }
            Self::Archive(e) => e.is_permanent(),
            Self::Open(e) => e.is_permanent(),
            Self::Object(ObjectError::Store(e)) => e.is_permanent(),
            Self::Put(e) => e.is_permanent(),
            _ => true,
        }
    }
}

impl Archiver {
    /// Reaches nothing yet.
    pub fn new(settings: Arc<Settings>) -> Self {
        let slots = (settings.memory / MEMORY_SHARE / WalStore::PUT_MEMORY).clamp(1, 8);
        Self {
            settings,
            patience: PATIENCE,
            slots: Semaphore::new(slots as usize),
            opened: Mutex::default(),
            progress: Mutex::default(),
        }
    }

    /// How it goes.
    pub fn progress(&self) -> ArchiveProgress {
        self.progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Archives the file; see [`crate::socket::WalService::archive`]. Safe to drop and to repeat.
    pub async fn archive(&self, name: &str, path: &str) -> Result<String, NotArchived> {
        let result = self.patiently(name, path).await;
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Timestamp::now();
        match &result {
            Ok(_) => {
                progress.archived += 1;
                progress.last_archived = Some((name.to_owned(), now));
                progress.last_failure = None;
            }
            Err(why) => {
                progress.failed += 1;
                let name = name.chars().take(80).collect();
                progress.last_failure = Some((name, why.to_string(), now));
            }
        }
        result
    }

    async fn patiently(&self, name: &str, path: &str) -> Result<String, NotArchived> {
        let name: WalFileName = name.parse()?;
        let Ok(_slot) = self.slots.acquire().await else {
            return Err(NotArchived::Ending);
        };
        let begun = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            match self.once(name, path).await {
                Err(e)
                    if !e.is_permanent() && begun.elapsed() + pause < self.patience_now().await =>
                {
                    tracing::info!(%name, error = %e, "archiving is tried again");
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                done => return done,
            }
        }
    }

    async fn patience_now(&self) -> Duration {
        let settings = self.settings.clone();
        let control = tokio::task::spawn_blocking(move || {
            data_directory::control_file(&settings.postgres.data_directory)
        });
        match control.await {
            Ok(Ok(c)) if c.state.is_shut_down() || c.state == ClusterState::ShuttingDown => {
                self.patience.min(PATIENCE_AT_THE_END)
            }
            _ => self.patience,
        }
    }

    async fn once(&self, name: WalFileName, path: &str) -> Result<String, NotArchived> {
        let local = {
            let (settings, path) = (self.settings.clone(), path.to_owned());
            tokio::task::spawn_blocking(move || Local::look(&settings, name, &path))
        };
        let local = Arc::new(local.await.map_err(|_| NotArchived::Ending)??);
        let (required, best_effort): (Vec<_>, Vec<_>) = self
            .settings
            .repositories
            .iter()
            .partition(|r| r.mode == Mode::Required);
        let mut answer = String::new();
        for (i, repository) in required.into_iter().enumerate() {
            let outcome = self.put_into(repository, name, &local).await?;
            let told = judge(&name, outcome, &local.control)?;
            if i == 0 {
                answer = told;
            }
        }
        join_all(best_effort.into_iter().map(|repository| async {
            match timeout(BEST_EFFORT, self.put_into(repository, name, &local)).await {
                Ok(Ok(_)) => {}
                Ok(Err(e)) => tracing::warn!(%name, repository = repository.name, error = %e, "not archived there"),
                Err(_) => tracing::warn!(%name, repository = repository.name, "not archived there within {BEST_EFFORT:?}"),
            }
        }))
        .await;
        Ok(answer)
    }

    /// Stores the file in one repository. After an error, what was opened is opened anew: credentials may have
    /// changed, and so may what lies there.
    async fn put_into(
        &self,
        repository: &Repository,
        name: WalFileName,
        local: &Local,
    ) -> Result<PutOutcome, NotArchived> {
        let result = async {
            let opened = self.opened(repository, &local.control).await?;
            self.check_copy(&opened, local)?;
            if let Some(timeline) = local.timeline {
                self.check_history(repository, &opened, name, timeline, local)
                    .await?;
            }
            let wal = &opened.wal;
            let put = async {
                Ok(wal
                    .put(&name, local.file.clone(), self.settings.wal_compression)
                    .await?)
            };
            // Proof that what answers is still the archive and not an empty folder in its place. A file system may be
            // unmounted at any time, so there it comes after the work; elsewhere beside it.
            let confirm = async { Ok::<(), NotArchived>(wal.archive().confirm().await?) };
            if wal.archive().store().is_filesystem() {
                let outcome = put.await?;
                confirm.await?;
                return Ok(outcome);
            }
            let (outcome, ()) = try_join(put, confirm).await?;
            Ok(outcome)
        }
        .await;
        if result.is_err() {
            self.lock().remove(&repository.name);
        }
        result
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Opened>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The archive, opened and claimed for this database.
    async fn opened(
        &self,
        repository: &Repository,
        control: &ControlFile,
    ) -> Result<Opened, NotArchived> {
        let (system, size, major) = (
            control.system_identifier,
            control.segment_size,
            control.major,
        );
        if let Some(opened) = self.lock().get(&repository.name) {
            let wal = &opened.wal;
            if (wal.system(), wal.segment_size(), wal.major()) == (system, size, major) {
                return Ok(opened.clone());
            }
        }
        let archive = open::named(repository, &self.settings.archive, Create::IfMissing).await?;
        archive
            .claim(system, major, size, self.settings.accept_system_identifier)
            .await?;
        let wal = WalStore::new(archive, system, size, major);
        let opened = Opened {
            wal,
            histories: BTreeMap::new(),
        };
        self.lock().insert(repository.name.clone(), opened.clone());
        Ok(opened)
    }

    fn check_copy(&self, opened: &Opened, local: &Local) -> Result<(), NotArchived> {
        let id: ArchiveId = opened.wal.archive().id();
        match local
            .origin
            .as_ref()
            .and_then(|origin| origin.copied_from(id))
        {
            Some(_) => Err(NotArchived::Copy {
                place: opened.wal.archive().store().description().to_owned(),
            }),
            None => Ok(()),
        }
    }

    /// WAL of a timeline above 1 belongs here only if the timeline is the one that is archived: the local history file
    /// equals the archived one, or becomes it.
    async fn check_history(
        &self,
        repository: &Repository,
        opened: &Opened,
        name: WalFileName,
        timeline: TimelineId,
        local: &Local,
    ) -> Result<(), NotArchived> {
        let history = WalFileName::History(timeline);
        let Some((file, ours)) = &local.history else {
            return Err(NotArchived::NoHistory { name, history });
        };
        let stored = match opened.histories.get(&timeline) {
            Some(stored) => stored.clone(),
            None => {
                let stored = match opened.wal.small_file(&history).await {
                    Err(e) if e.is_not_found() => {
                        opened
                            .wal
                            .put(&history, file.clone(), self.settings.wal_compression)
                            .await?;
                        opened.wal.small_file(&history).await?
                    }
                    other => other?,
                };
                if let Some(opened) = self.lock().get_mut(&repository.name) {
                    opened.histories.insert(timeline, stored.clone());
                }
                stored
            }
        };
        same_history(opened.wal.archive(), timeline, ours, &stored)
    }
}

/// Proves that the timeline of this directory is the one that is archived under its number, as far as one is: a backup
/// of another would find that one's WAL, and look complete.
///
/// # Errors
/// [`NotArchived::Diverged`], or what kept the files from being read.
pub async fn confirm_timeline(
    archive: &Archive,
    control: &ControlFile,
    directory: &Path,
) -> Result<(), NotArchived> {
    let timeline = control.timeline;
    if timeline <= TimelineId(1) {
        return Ok(());
    }
    let history = WalFileName::History(timeline);
    let wal = WalStore::new(
        archive.clone(),
        control.system_identifier,
        control.segment_size,
        control.major,
    );
    let stored = match wal.small_file(&history).await {
        // Nobody has archived it: this one will, or is refused its WAL.
        Err(e) if e.is_not_found() => return Ok(()),
        other => other?,
    };
    match local_history(directory, timeline)? {
        Some((_, ours)) => same_history(archive, timeline, &ours, &stored),
        None => Err(NotArchived::NoHistory {
            name: history,
            history,
        }),
    }
}

fn same_history(
    archive: &Archive,
    timeline: TimelineId,
    ours: &[u8],
    stored: &[u8],
) -> Result<(), NotArchived> {
    if stored == ours {
        return Ok(());
    }
    let digest = |content: &[u8]| hex(&archive.digest(content));
    Err(NotArchived::Diverged {
        history: WalFileName::History(timeline),
        timeline,
        place: archive.store().description().to_owned(),
        ours: digest(ours),
        stored: digest(stored),
    })
}

/// A timeline's history file in pg_wal, and what it holds.
fn local_history(
    directory: &Path,
    timeline: TimelineId,
) -> Result<Option<HistoryFile>, NotArchived> {
    let history = WalFileName::History(timeline);
    let failed = |source| DataDirectoryError::Read {
        file: PathBuf::from(history.to_string()),
        source,
    };
    match data_directory::find_wal_file(directory, &history)? {
        None => Ok(None),
        Some(file) => {
            let content = read_all(&file).map_err(failed)?;
            Ok(Some((Arc::new(file), content)))
        }
    }
}

/// A history file of pg_wal, and what it holds.
type HistoryFile = (Arc<File>, Vec<u8>);

/// What the data directory says, read anew for each call.
#[derive(Debug)]
struct Local {
    control: ControlFile,
    origin: Option<Origin>,
    file: Arc<File>,
    /// Of the WAL in the file, if it is above 1 and the file is not a history file itself.
    timeline: Option<TimelineId>,
    /// Its history file and what it holds.
    history: Option<HistoryFile>,
}

impl Local {
    fn look(settings: &Settings, name: WalFileName, path: &str) -> Result<Self, NotArchived> {
        let directory = &settings.postgres.data_directory;
        let file = Arc::new(data_directory::open_wal_file(directory, &name, path)?);
        let control = data_directory::control_file(directory)?;
        let origin = Origin::read(directory)?;
        let timeline = match name {
            WalFileName::Segment(segment)
            | WalFileName::Partial(segment)
            | WalFileName::BackupHistory { segment, .. } => Some(segment.timeline),
            WalFileName::History(_) => None,
        }
        .filter(|timeline| *timeline > TimelineId(1));
        let history = match timeline {
            None => None,
            Some(timeline) => local_history(directory, timeline)?,
        };
        Ok(Self {
            control,
            origin,
            file,
            timeline,
            history,
        })
    }
}

fn read_all(file: &File) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    if length > LARGEST_HISTORY {
        return Err(io::Error::other(format!(
            "it has {length} bytes, more than a history file can have"
        )));
    }
    let mut content = vec![0; length as usize];
    file.read_exact_at(&mut content, 0)?;
    Ok(content)
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What Postgres is answered. A segment that is not whole is nothing to be sorry for where a standby was left behind
/// by a switch of timelines; the server that is writing this very timeline has lost WAL.
fn judge(
    name: &WalFileName,
    outcome: PutOutcome,
    control: &ControlFile,
) -> Result<String, NotArchived> {
    // The last segments are archived while the server stops, and right after a promotion pg_control may still have the
    // old timeline's checkpoint.
    let writes = matches!(
        control.state,
        ClusterState::InProduction | ClusterState::ShuttingDown | ClusterState::ShutDown
    );
    let stands_on = control.timeline.max(control.min_recovery_timeline);
    let own = |timeline| writes && timeline == stands_on;
    match (outcome, name) {
        (PutOutcome::Stored, _) => Ok(String::new()),
        (PutOutcome::AlreadyThere, _) => Ok("was there, with the same content".to_owned()),
        (PutOutcome::PrefixOfStored, _) => {
            Ok("is the beginning of the segment that is stored".to_owned())
        }
        (PutOutcome::Aside { valid_through, why }, WalFileName::Segment(segment))
            if own(segment.timeline) =>
        {
            Err(NotArchived::NotWhole {
                name: *name,
                why,
                valid_through,
            })
        }
        (PutOutcome::Aside { why, .. }, _) => Ok(format!("kept aside: {why}")),
    }
}

#[cfg(test)]
mod tests;
