//! `ARCHIVE`: a WAL file is answered OK when every required repository holds it, verified, and not before.

mod ahead;
mod best_effort;
mod error;
mod judge;
mod local;
mod member;
mod progress;
mod rest;
#[cfg(test)]
mod tests;
mod timeline;
mod written;

pub use best_effort::BestEffort;
pub use error::NotArchived;
pub use progress::{ArchiveProgress, Left, Streaming, Through, Written};
pub use timeline::confirm_timeline;
pub use written::{Stored, Writers};

use crate::budget::Budget;
use crate::config::{Live, Place, Repository, Settings};
use crate::data_directory;
use crate::histories::Histories;
use crate::open::{self, ArchiveError, Create};
use crate::origin::Origin;
use ahead::{Ahead, Turn};
use best_effort::Behind;
use bytes::Bytes;
use futures::future::try_join;
use holdfast_postgres::{ClusterState, ControlFile, TimelineId, WalFileName};
use holdfast_repository::wal::StoredThrough;
use holdfast_repository::{ArchiveId, OpenError, PutOutcome, WalStore, blocking, withhold};
use jiff::Timestamp;
use judge::judge;
use local::Local;
use prometheus_client::metrics::histogram::Histogram;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use timeline::same_history;
use tokio::time::{Instant, sleep};

/// No attempt begins later than this after the first; Postgres asks again by itself.
const PATIENCE: Duration = Duration::from_secs(60);
/// Once the server is stopping: it waits for the answer, and whoever stops it waits too. After an error it does not ask
/// again (see holdfast-wal's exit codes).
const PATIENCE_AT_THE_END: Duration = Duration::from_secs(5);
/// And no attempt holds it up for longer than this. What is left then is archived without it: see [`crate::drain`].
const ATTEMPT_AT_THE_END: Duration = Duration::from_secs(8);
/// How often an attempt that takes its time looks whether the server is stopping.
const LOOK: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// Upper ends of the histogram's buckets.
const SECONDS: [f64; 12] = [
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// What Postgres is answered, and how far the archive reaches now.
type Done = (String, Option<Through>);

/// Archives WAL files of one data directory into the repositories of its settings.
#[derive(Debug)]
pub struct Archiver {
    settings: Live,
    patience: Duration,
    /// The memory that its files take.
    budget: Budget,
    ahead: Ahead,
    behind: Behind,
    /// By the repository's name; what was opened stays open until an error, or until other settings are in use.
    opened: Mutex<BTreeMap<String, Opened>>,
    /// Every archive that was written to. Where one was no other is made.
    known: Mutex<Vec<(Place, ArchiveId)>>,
    progress: Mutex<ArchiveProgress>,
    /// How long files took that were archived.
    seconds: Histogram,
    histories: Histories,
}

/// An archive that this data directory may write to.
#[derive(Debug, Clone)]
struct Opened {
    settings: Arc<Settings>,
    wal: WalStore,
    /// History files that are stored, as they are: what is created once never changes.
    histories: BTreeMap<TimelineId, Bytes>,
}

impl Archiver {
    /// Reaches nothing yet. Known history files are kept beside the socket.
    pub fn new(settings: impl Into<Live>) -> Self {
        let settings: Live = settings.into();
        let now = settings.get();
        Self {
            settings,
            patience: PATIENCE,
            budget: Budget::of(now.memory),
            ahead: Ahead::default(),
            behind: Behind::default(),
            opened: Mutex::default(),
            known: Mutex::default(),
            progress: Mutex::default(),
            seconds: Histogram::new(SECONDS),
            histories: Histories::beside(&now.socket),
        }
    }

    /// The account that its files' memory is taken from.
    pub fn budget(&self) -> Budget {
        self.budget.clone()
    }

    /// How long files took that were archived, from the request to the answer.
    pub fn seconds(&self) -> Histogram {
        self.seconds.clone()
    }

    /// How it goes.
    pub fn progress(&self) -> ArchiveProgress {
        ArchiveProgress {
            best_effort: self.behind.told(),
            ..self.lock_progress().clone()
        }
    }

    /// Says whether what is written is followed; true if that is new.
    pub fn set_streaming(&self, streaming: Streaming) -> bool {
        let mut progress = self.lock_progress();
        let is_new = progress.streaming != streaming;
        progress.streaming = streaming;
        is_new
    }

    fn lock_progress(&self) -> std::sync::MutexGuard<'_, ArchiveProgress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Archives the file; see [`crate::socket::WalService::archive`]. Safe to drop and to repeat.
    pub async fn archive(&self, name: &str, path: &str) -> Result<String, NotArchived> {
        self.told(name, path, true).await
    }

    /// Archives a file of pg_wal that a server has left behind: nobody waits, so an attempt may take as long as it takes.
    pub async fn archive_left_behind(&self, name: WalFileName) -> Result<String, NotArchived> {
        let name = name.to_string();
        self.told(&name, &format!("pg_wal/{name}"), false).await
    }

    async fn told(
        &self,
        name: &str,
        path: &str,
        server_waits: bool,
    ) -> Result<String, NotArchived> {
        let begun = Instant::now();
        let result = self.patiently(name, path, server_waits).await;
        let mut progress = self.lock_progress();
        match &result {
            Ok((_, through)) => {
                self.seconds.observe(begun.elapsed().as_secs_f64());
                progress.archived += 1;
                progress.last_archived = Some((name.to_owned(), Timestamp::now()));
                progress.last_failure = None;
                if let Some(through) = through {
                    progress.advance(*through);
                }
            }
            Err(why) => {
                progress.failed += 1;
                progress.fails(name, why);
            }
        }
        result.map(|(answer, _)| answer)
    }

    async fn patiently(
        &self,
        name: &str,
        path: &str,
        server_waits: bool,
    ) -> Result<Done, NotArchived> {
        let name: WalFileName = name.parse()?;
        let begun = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let attempt = self.once(name, path, server_waits);
            let attempt = async {
                if !server_waits {
                    return attempt.await;
                }
                tokio::select! {
                    done = attempt => done,
                    () = self.holding_up() => {
                        self.ahead.leave(name);
                        Err(NotArchived::HeldUp)
                    }
                }
            };
            match attempt.await {
                Err(e)
                    if !e.is_permanent() && begun.elapsed() + pause < self.patience_now().await =>
                {
                    tracing::info!(%name, error = %e, "archiving is tried again");
                    // Whoever looks meanwhile is told: the answer may take another minute.
                    self.lock_progress().fails(&name.to_string(), &e);
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                done => return done,
            }
        }
    }

    async fn patience_now(&self) -> Duration {
        if self.is_stopping().await {
            self.patience.min(PATIENCE_AT_THE_END)
        } else {
            self.patience
        }
    }

    /// Returns once an attempt that begins now holds up a server that is stopping.
    async fn holding_up(&self) {
        let begun = Instant::now();
        loop {
            sleep(LOOK).await;
            self.ahead.wake();
            if begun.elapsed() >= ATTEMPT_AT_THE_END && self.is_stopping().await {
                return;
            }
        }
    }

    async fn is_stopping(&self) -> bool {
        let settings = self.settings.get();
        let control =
            blocking(move || data_directory::control_file(&settings.postgres.data_directory)).await;
        matches!(control, Ok(c) if c.state.is_shut_down() || c.state == ClusterState::ShuttingDown)
    }

    /// One attempt, with the settings of its beginning.
    async fn once(
        &self,
        name: WalFileName,
        path: &str,
        server_waits: bool,
    ) -> Result<Done, NotArchived> {
        let settings = self.settings.get();
        // Another server's call is refused here, and changes nothing for ours.
        let local = self.local(&settings, name, path).await?;
        if server_waits {
            self.ahead.wake();
        }
        let (asking, remembered) = self.ahead.ask(name, server_waits).await;
        let done = match remembered.and_then(|stored| stored.answer(&settings, &local)) {
            Some(done) => done,
            None => {
                let Some(_room) = self.budget.take(WalStore::PUT_MEMORY).await else {
                    return Err(NotArchived::Ending);
                };
                self.store(&settings, name, &local, None).await?
            }
        };
        asking.done();
        Ok(done)
    }

    async fn local(
        &self,
        settings: &Arc<Settings>,
        name: WalFileName,
        path: &str,
    ) -> Result<Local, NotArchived> {
        let (settings, path) = (settings.clone(), path.to_owned());
        blocking(move || Local::look(&settings, name, &path)).await
    }

    /// Stores it in every required repository: at once, or ahead in its turn. The others get it later.
    async fn store(
        &self,
        settings: &Arc<Settings>,
        name: WalFileName,
        local: &Local,
        turn: Option<&Turn<'_>>,
    ) -> Result<Done, NotArchived> {
        let mut done = (String::new(), None);
        for (i, repository) in settings.required_repositories().enumerate() {
            let (outcome, stored) = self
                .put_into(settings, repository, name, local, turn)
                .await?;
            let told = judge(&name, outcome, &local.control)?;
            if i == 0 {
                let through = match (name, stored) {
                    (WalFileName::Segment(segment), Some(stored)) => {
                        Through::of(segment, local.control.segment_size, &stored)
                    }
                    _ => None,
                };
                done = (told, through);
            }
        }
        // A repository may have been left out of the settings meanwhile, or have come into them.
        self.behind.add(&self.settings.get(), name);
        if let WalFileName::History(_) = name
            && let Ok(content) = local::read_all(&local.file)
        {
            let system = local.control.system_identifier;
            self.histories.put(system, name, &content);
        }
        Ok(done)
    }

    /// Stores the file in one repository. After an error, what was opened is opened anew: credentials may have
    /// changed, and so may what lies there.
    async fn put_into(
        &self,
        settings: &Arc<Settings>,
        repository: &Repository,
        name: WalFileName,
        local: &Local,
        turn: Option<&Turn<'_>>,
    ) -> Result<(PutOutcome, Option<StoredThrough>), NotArchived> {
        let result = async {
            let opened = self.opened(settings, repository, &local.control).await?;
            check_copy(&opened, local.origin.as_ref())?;
            if let Some(timeline) = local.timeline {
                self.check_history(repository, &opened, name, timeline, local)
                    .await?;
            }
            let wal = &opened.wal;
            let prepared = wal
                .prepare(&name, local.file.clone(), settings.wal_compression)
                .await?;
            if let Some(turn) = turn {
                // Whether Postgres may be answered for less depends on when it asks.
                if !prepared.is_whole() {
                    return Err(NotArchived::Left);
                }
                // For the next one it is packed again.
                if settings.required_repositories().count() == 1 {
                    turn.needs_only(prepared.memory());
                }
                turn.comes_soon().await?;
            }
            // Before its turn all of it but its last byte is sent.
            let early = match turn {
                Some(turn) if turn.has_come() => {
                    turn.wait().await?;
                    None
                }
                turn => turn,
            };
            let (release, withheld) = withhold();
            let allow = async {
                if let Some(turn) = early {
                    turn.wait().await?;
                }
                release.go();
                Ok(())
            };
            let begun = Instant::now();
            let put = async {
                let withheld = early.map(|_| &withheld);
                let outcome = wal.put_prepared(prepared, withheld).await?;
                if let Some(turn) = turn {
                    turn.took(begun.elapsed());
                }
                // The end of the timeline that a promotion has left: who restores along that one finds it as a part.
                if let WalFileName::Partial(segment) = name {
                    wal.put_part(segment, local.file.clone(), settings.wal_compression)
                        .await?;
                }
                Ok(outcome)
            };
            // Proof that what answers is still the archive and not an empty folder in its place. A file system may be
            // unmounted at any time, so there it comes after the work; elsewhere beside it.
            let confirm = async { Ok::<(), NotArchived>(wal.archive().confirm().await?) };
            if wal.archive().store().is_filesystem() {
                let (outcome, ()) = try_join(put, allow).await?;
                confirm.await?;
                return Ok(outcome);
            }
            let allow_and_confirm = async {
                allow.await?;
                confirm.await
            };
            let (outcome, ()) = try_join(put, allow_and_confirm).await?;
            Ok(outcome)
        }
        .await;
        if result
            .as_ref()
            .is_err_and(|e| !matches!(e, NotArchived::Left))
        {
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
        settings: &Arc<Settings>,
        repository: &Repository,
        control: &ControlFile,
    ) -> Result<Opened, NotArchived> {
        let (system, size, major) = (
            control.system_identifier,
            control.segment_size,
            control.major,
        );
        if let Some(opened) = self.lock().get(&repository.name)
            && Arc::ptr_eq(&opened.settings, settings)
        {
            let wal = &opened.wal;
            if (wal.system(), wal.segment_size(), wal.major()) == (system, size, major) {
                return Ok(opened.clone());
            }
        }
        // An archive that was there once is not made anew, or an empty folder would take the place of one that is not
        // mounted.
        let known = self.known_at(&repository.place);
        let create = match known {
            Some(_) => Create::Never,
            None => Create::IfMissing,
        };
        let archive = match open::named(repository, &settings.archive, create).await {
            Err(ArchiveError::Open(OpenError::NotThere(place))) => {
                return Err(NotArchived::Replaced(place));
            }
            other => other?,
        };
        if known.is_some_and(|id| id != archive.id()) {
            let place = archive.store().description().to_owned();
            return Err(NotArchived::Replaced(place));
        }
        archive
            .claim(system, major, size, settings.accept_system_identifier)
            .await?;
        if self.known_at(&repository.place).is_none() {
            self.lock_known()
                .push((repository.place.clone(), archive.id()));
        }
        let wal = WalStore::new(archive, system, size, major);
        let opened = Opened {
            settings: settings.clone(),
            wal,
            histories: BTreeMap::new(),
        };
        self.lock().insert(repository.name.clone(), opened.clone());
        Ok(opened)
    }

    fn lock_known(&self) -> std::sync::MutexGuard<'_, Vec<(Place, ArchiveId)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The archive that was first written to there.
    fn known_at(&self, place: &Place) -> Option<ArchiveId> {
        let known = self.lock_known();
        let mut known = known.iter();
        known.find(|(at, _)| at == place).map(|(_, id)| *id)
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
                            .put(&history, file.clone(), opened.settings.wal_compression)
                            .await?;
                        opened.wal.small_file(&history).await?
                    }
                    other => other?,
                };
                if let Some(now) = self.lock().get_mut(&repository.name)
                    && Arc::ptr_eq(&now.settings, &opened.settings)
                {
                    now.histories.insert(timeline, stored.clone());
                }
                self.histories.put(opened.wal.system(), history, &stored);
                stored
            }
        };
        same_history(opened.wal.archive(), timeline, ours, &stored)
    }
}

/// Whether this data directory may archive there: a copy may not into its source.
fn check_copy(opened: &Opened, origin: Option<&Origin>) -> Result<(), NotArchived> {
    let archive = opened.wal.archive();
    match origin.and_then(|origin| origin.copied_from(archive.id())) {
        Some(_) => Err(NotArchived::Copy {
            place: archive.store().description().to_owned(),
        }),
        None => Ok(()),
    }
}
