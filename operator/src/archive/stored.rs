//! What archives hold, read from their repositories in the background: every ten minutes, and soon after something has
//! changed there.

use crate::context::Context;
use crate::names::Key;
use crate::repository::{Access, OpenFailure, open_archive};
use holdfast_postgres::{Lsn, SegmentName, SystemIdentifier, TimelineId};
use holdfast_repository::catalogue::{Catalogue, CatalogueError};
use holdfast_repository::owner::{self, Ownership};
use holdfast_repository::reach::{Standing, Window};
use holdfast_repository::wal::WalStore;
use holdfast_repository::{Archive, ObjectError, OpenError};
use jiff::Timestamp;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Between two readings.
const PERIOD: Duration = Duration::from_secs(10 * 60);
/// After the first that failed; doubles.
const FIRST_RETRY: Duration = Duration::from_secs(15);
/// At most, while it fails.
const LAST_RETRY: Duration = Duration::from_secs(5 * 60);
/// However often something changes.
const LEAST: Duration = Duration::from_secs(5);
/// While more is expected there.
const EXPECTED: Duration = Duration::from_secs(20);
/// For one reading: an archive of years has many pages of listings.
const PATIENCE: Duration = Duration::from_secs(5 * 60);
/// Read at once, of all archives.
const TOGETHER: usize = 4;

/// Why an archive that is there can't be read, whoever asks however often: its key is another, or it is damaged.
pub const UNUSABLE: &str = "ArchiveUnusable";

/// What one archive holds in the repository that is read from.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// The newest incarnation; none while nothing is stored.
    pub newest: Option<Incarnation>,
    /// Who may expire.
    pub ownership: Result<Ownership, String>,
}

/// What is stored of one database cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Incarnation {
    /// Its system identifier.
    pub system: SystemIdentifier,
    /// Of its server.
    pub major: u32,
    /// The newest that has WAL or a history file.
    pub timeline: Option<TimelineId>,
    /// The end of the last record on the newest timeline with WAL.
    pub end: Option<Lsn>,
    /// What can be reached; none without a complete backup, or where `damage` hides it.
    pub window: Option<Window>,
    /// The missing segment after which nothing can be recovered although it is there.
    pub hole: Option<SegmentName>,
    /// What is damaged on the way.
    pub damage: Option<String>,
    /// The newest complete backup: its id and when it had ended.
    pub last_backup: Option<(String, Timestamp)>,
}

/// What is known of an archive's repository.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Known {
    /// It was not read yet.
    #[default]
    NotYet,
    /// This.
    Read(Arc<Stored>),
    /// It could not be read.
    Trouble {
        /// One word.
        reason: &'static str,
        /// One sentence.
        why: String,
        /// As it was read before.
        last: Option<Arc<Stored>>,
    },
}

impl Known {
    /// What was read last, however long ago.
    pub fn last(&self) -> Option<&Arc<Stored>> {
        match self {
            Self::NotYet => None,
            Self::Read(stored) => Some(stored),
            Self::Trouble { last, .. } => last.as_ref(),
        }
    }
}

#[derive(Debug)]
struct Entry {
    repository: String,
    known: Known,
    failures: u32,
    reading: bool,
    /// Something changed while it was read.
    again: bool,
    read: Instant,
    due: Instant,
}

/// What the archives hold, as far as it was read.
#[derive(Debug)]
pub struct StoredArchives {
    entries: Mutex<HashMap<Key, Entry>>,
    slots: Arc<Semaphore>,
}

impl Default for StoredArchives {
    fn default() -> Self {
        Self {
            entries: Mutex::default(),
            slots: Arc::new(Semaphore::new(TOGETHER)),
        }
    }
}

impl StoredArchives {
    /// What is known of an archive.
    pub fn get(&self, archive: &Key) -> Known {
        let entries = self.lock();
        entries
            .get(archive)
            .map(|entry| entry.known.clone())
            .unwrap_or_default()
    }

    /// Says that something has changed in an archive's repository: it is read again at once, but no oftener than every
    /// five seconds.
    pub fn stale(&self, context: &Context, archive: &Key) {
        if let Some(entry) = self.lock().get_mut(archive) {
            entry.again = true;
            entry.due = entry.due.min(entry.read + LEAST);
        }
        context.wakers.archives.wake(archive.clone());
    }

    /// Says that the repository is likely to hold more by now: it is read again soon, but no oftener than every 20 s.
    pub(super) fn expect_change(&self, archive: &Key) {
        if let Some(entry) = self.lock().get_mut(archive) {
            entry.due = entry.due.min(entry.read + EXPECTED);
        }
    }

    /// Forgets an archive that is gone.
    pub fn forget(&self, archive: &Key) {
        self.lock().remove(archive);
    }

    /// Begins to read if it is time, and returns how long nobody need ask again. When it was read, the archive's
    /// controller is woken.
    pub fn refresh(&self, context: &Arc<Context>, archive: &Key, repository: &str) -> Duration {
        let now = Instant::now();
        let mut entries = self.lock();
        let fresh = || Entry {
            repository: repository.to_owned(),
            known: Known::NotYet,
            failures: 0,
            reading: false,
            again: false,
            read: now,
            due: now,
        };
        let entry = entries.entry(archive.clone()).or_insert_with(fresh);
        if entry.repository != repository && !entry.reading {
            *entry = fresh();
        }
        if entry.reading {
            return LEAST;
        }
        if now < entry.due {
            return entry.due.duration_since(now);
        }
        entry.reading = true;
        entry.again = false;
        let (context, archive) = (context.clone(), archive.clone());
        let repository = repository.to_owned();
        context.tasks.clone().spawn(async move {
            let stop = context.stop.clone();
            tokio::select! {
                () = stop.cancelled() => {}
                read = read_in_turn(&context, &archive, &repository) => {
                    context.stored.take(&archive, read);
                    context.wakers.archives.wake(archive);
                }
            }
        });
        LEAST
    }

    fn take(&self, archive: &Key, read: Result<Stored, ReadError>) {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(archive) else {
            return;
        };
        entry.reading = false;
        entry.read = Instant::now();
        let pause = match read {
            Ok(stored) => {
                entry.failures = 0;
                entry.known = Known::Read(Arc::new(stored));
                PERIOD
            }
            Err(error) => {
                entry.failures = entry.failures.saturating_add(1);
                entry.known = Known::Trouble {
                    reason: error.reason(),
                    why: error.to_string(),
                    last: entry.known.last().cloned(),
                };
                FIRST_RETRY
                    .saturating_mul(1 << (entry.failures - 1).min(16))
                    .min(LAST_RETRY)
            }
        };
        let pause = if entry.again { LEAST } else { pause };
        entry.due = Instant::now() + pause.mul_f64(0.9 + crate::controller::jitter() / 5.0);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Entry>> {
        // Entries are whole or not there.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A repository that could not be read.
#[derive(Debug, Error)]
enum ReadError {
    #[error(transparent)]
    Open(#[from] OpenFailure),
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error("the repository could not be read within {} s", PATIENCE.as_secs())]
    Late,
}

impl From<OpenError> for ReadError {
    fn from(error: OpenError) -> Self {
        Self::Open(error.into())
    }
}

impl ReadError {
    fn reason(&self) -> &'static str {
        match self {
            Self::Open(OpenFailure::NoCredentials(_)) => "NoCredentials",
            Self::Open(OpenFailure::NoRepository(_)) => "RepositoryNotFound",
            Self::Open(OpenFailure::Lacking { lacks, .. }) => {
                lacks.first().map_or("SecretInvalid", |lack| lack.reason())
            }
            Self::Open(OpenFailure::Open(OpenError::Store(_))) => "StoreUnreachable",
            Self::Open(OpenFailure::Open(_)) => UNUSABLE,
            Self::Catalogue(_) | Self::Object(_) | Self::Late | Self::Open(OpenFailure::Api(_)) => {
                "StoreUnreachable"
            }
        }
    }
}

async fn read_in_turn(
    context: &Context,
    archive: &Key,
    repository: &str,
) -> Result<Stored, ReadError> {
    // Never closed.
    let _slot = context.stored.slots.acquire().await;
    let reading = read(context, archive, repository);
    tokio::time::timeout(PATIENCE, reading)
        .await
        .unwrap_or(Err(ReadError::Late))
}

async fn read(context: &Context, archive: &Key, repository: &str) -> Result<Stored, ReadError> {
    let archive = match open_archive(context, archive, repository, Access::Read).await {
        Err(failure) if failure.is_not_there() => {
            return Ok(Stored {
                newest: None,
                ownership: Ok(Ownership::None),
            });
        }
        other => other?,
    };
    let ownership = match owner::present(&archive).await {
        Ok(owner) => Ok(owner::ownership(owner.as_ref(), &context.installation)),
        Err(error) if error.is_permanent() => Err(error.to_string()),
        Err(error) => return Err(error.into()),
    };
    Ok(Stored {
        newest: newest(&archive).await?,
        ownership,
    })
}

async fn newest(archive: &Archive) -> Result<Option<Incarnation>, ReadError> {
    let Some((system, identity)) = archive.incarnations().await?.pop() else {
        return Ok(None);
    };
    let wal =
        WalStore::of_identity(archive.clone(), system, &identity).map_err(CatalogueError::from)?;
    let catalogue = Catalogue::load(archive, system).await?;
    let (standing, damage) = match Standing::of(&catalogue, &wal).await {
        Ok(standing) => (Some(standing), None),
        Err(error) if error.is_damage() => (None, Some(error.to_string())),
        Err(error) => return Err(error.into()),
    };
    let (window, hole, last) = match standing {
        Some(standing) => (standing.window, standing.hole, standing.newest),
        None => (None, None, None),
    };
    Ok(Some(Incarnation {
        system,
        major: catalogue.major,
        timeline: catalogue.timelines.last().map(|timeline| timeline.id),
        end: end(&catalogue, &wal).await?,
        window,
        hole,
        damage,
        last_backup: last.map(|facts| (facts.id, facts.stop_time)),
    }))
}

/// Where the last segment's index is damaged, what is sure.
async fn end(catalogue: &Catalogue, wal: &WalStore) -> Result<Option<Lsn>, ReadError> {
    let last = catalogue
        .timelines
        .iter()
        .rev()
        .find_map(|timeline| Some((timeline.id, timeline.runs.last()?)));
    let Some((timeline, last)) = last else {
        return Ok(None);
    };
    let size = catalogue.segment_size;
    match wal.index(SegmentName::new(timeline, last, size)).await {
        Ok(index) => Ok(Some(index.end)),
        Err(error) if error.is_damage() => Ok(Some(last.start(size))),
        Err(error) => Err(error.into()),
    }
}
