//! `RESTORE`: a WAL file is served whole and verified, or proven absent; anything else is trouble.

mod ahead;
mod asked;
mod decide;
mod one;
#[cfg(test)]
mod tests;

pub use one::restore_one;

use crate::budget::{Budget, Room};
use crate::config::{Live, Mode, Repository, Settings};
use crate::data_directory::{self, DataDirectoryError, Recovery};
use crate::histories::{self, Histories};
use crate::open::{self, ArchiveError, Create};
use crate::origin::{OriginError, RestoreOrder};
use crate::socket::RestoreAnswer;
use ahead::Ahead;
use asked::{Asked, Opening, Silent, Source};
use bytes::Bytes;
use decide::{Absence, Place, Question, Seen, Until, Verdict};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use holdfast_postgres::{
    ControlFile, Lineage, Lsn, SegmentSize, SystemIdentifier, TimelineHistory, TimelineId,
    WalFileName, WalNameError,
};
use holdfast_repository::wal::WalFile;
use holdfast_repository::{ArchiveId, ObjectError, OpenError, StoreError, WalStore};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// Archive recovery waits so long for trouble to pass: what is answered then ends it.
const PATIENCE: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);
/// A standby asks again by itself, and looks for its primary in between.
const STANDBY_PATIENCE: Duration = Duration::from_secs(4);
/// So long the line of timelines is the one that it was, where it leads to a file.
const LATELY: Duration = Duration::from_secs(1);
/// A standby that has not come back for its file within this time found it elsewhere, or is one no more.
const PARKED: Duration = Duration::from_secs(30);

/// Serves WAL files to the recovery of one data directory.
#[derive(Debug, Clone)]
pub struct Restorer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Live,
    data_directory: PathBuf,
    budget: Budget,
    /// None: each file is asked for once, and nothing follows.
    ahead: Option<Arc<Ahead>>,
    opened: Mutex<Opened>,
    known: Histories,
    /// Repositories that did not answer of late.
    silent: Arc<Silent>,
    /// The timelines with a history file, by repository and place.
    listed: Mutex<BTreeMap<(String, String), Listed>>,
    /// A standby's request that took longer than its answer could: whoever asks next for that name has the result.
    pending: Mutex<Option<Parked>>,
}

/// What was opened stays open until an error, or until other settings are in use.
#[derive(Debug, Default)]
struct Opened {
    /// None before the first.
    settings: Option<Arc<Settings>>,
    /// By repository and archive.
    stores: BTreeMap<(String, String), WalStore>,
}

/// What a listing said, and when it was asked for.
#[derive(Debug, Clone)]
struct Listed {
    timelines: Vec<TimelineId>,
    at: Instant,
}

/// Work whose result nobody waits for at the moment. It may hold memory, so it is not kept for ever.
#[derive(Debug)]
struct Parked {
    name: WalFileName,
    work: JoinHandle<RestoreAnswer>,
    since: Instant,
}

/// Why a file is neither served nor absent.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Name(#[from] WalNameError),
    #[error(transparent)]
    Local(#[from] DataDirectoryError),
    #[error(transparent)]
    Origin(#[from] OriginError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error(
        "holdfast.restore names the repository {0:?}, which the settings do not: name it so there, or restore again"
    )]
    NoRepository(String),
    #[error(
        "the archive at {place} has the id {found}, and holdfast.restore says {wanted}: it was replaced since the restore began; restore again"
    )]
    OtherArchive {
        place: String,
        found: ArchiveId,
        wanted: ArchiveId,
    },
    #[error(
        "the archive at {place} does not know the system identifier {ours} of this data directory: it holds another database"
    )]
    OtherDatabase {
        place: String,
        ours: SystemIdentifier,
    },
    #[error("{0}")]
    Gap(String),
    #[error("{0}")]
    Unknown(String),
}

impl Trouble {
    /// Whether it may pass. What was damaged on its way may come whole the next time.
    fn may_pass(&self) -> bool {
        match self {
            Self::Name(_)
            | Self::Origin(_)
            | Self::NoRepository(_)
            | Self::OtherArchive { .. }
            | Self::OtherDatabase { .. }
            | Self::Gap(_) => false,
            Self::Local(_) | Self::Unknown(_) => true,
            Self::Archive(e) => !e.is_permanent(),
            Self::Open(e) => !e.is_permanent(),
            Self::Store(e) => !e.is_permanent(),
            Self::Object(ObjectError::Store(e)) => !e.is_permanent(),
            Self::Object(ObjectError::Damaged { .. }) => true,
            Self::Object(_) => false,
        }
    }
}

/// What is served.
struct Found {
    length: u64,
    body: BoxStream<'static, io::Result<Bytes>>,
}

/// What a file consists of, verified on its way.
struct Content {
    length: u64,
    pieces: BoxStream<'static, Result<Bytes, ObjectError>>,
    /// From here on it is zeros.
    cut_at: Option<Lsn>,
}

/// What recovery reads from, and along which line.
struct Sources<'a> {
    settings: &'a Arc<Settings>,
    control: ControlFile,
    order: Option<RestoreOrder>,
    /// Why and how a server that starts here replays what it is given.
    recovery: Recovery,
    /// Repositories, the archive's name in them, and whether absence must be proven there.
    places: Vec<(&'a Repository, String, bool)>,
}

impl Restorer {
    /// For the settings' own data directory, with memory of this account. Known history files are kept beside the socket.
    pub fn new(settings: impl Into<Live>, budget: Budget) -> Self {
        let settings: Live = settings.into();
        let now = settings.get();
        Self(Arc::new(Inner {
            data_directory: now.postgres.data_directory.clone(),
            known: Histories::beside(&now.socket),
            settings,
            budget,
            ahead: Some(Arc::default()),
            opened: Mutex::default(),
            silent: Arc::default(),
            listed: Mutex::default(),
            pending: Mutex::default(),
        }))
    }

    /// For another data directory, and a file or two.
    fn of_directory(settings: impl Into<Live>, data_directory: PathBuf, known: Histories) -> Self {
        let settings: Live = settings.into();
        let budget = Budget::of(settings.get().memory);
        Self(Arc::new(Inner {
            settings,
            data_directory,
            budget,
            ahead: None,
            opened: Mutex::default(),
            silent: Arc::default(),
            listed: Mutex::default(),
            known,
            pending: Mutex::default(),
        }))
    }

    /// See [`crate::socket::WalService::restore`]. Archive recovery is answered within about half a minute (what is
    /// being fetched is not given up), a standby within four seconds.
    pub async fn restore(&self, name: &str) -> RestoreAnswer {
        let name = match name.parse::<WalFileName>() {
            Ok(name) => name,
            Err(e) => return RestoreAnswer::Trouble(e.to_string()),
        };
        if absent_without_asking(&self.0.data_directory, name) {
            return RestoreAnswer::Absent;
        }
        match data_directory::recovery(&self.0.data_directory) {
            Recovery::Standby => self.for_standby(name).await,
            Recovery::Archive | Recovery::None => {
                // What it asked for as a standby must not hold the memory that is needed now.
                if let Some(parked) = self.0.pending().take() {
                    parked.work.abort();
                }
                self.0.patiently(name).await
            }
        }
    }

    async fn for_standby(&self, name: WalFileName) -> RestoreAnswer {
        let parked = self.0.pending().take();
        let mut work = match parked {
            Some(parked) if parked.name == name => parked.work,
            other => {
                if let Some(parked) = other {
                    parked.work.abort();
                }
                let inner = self.0.clone();
                tokio::spawn(async move { inner.once_as_answer(name).await })
            }
        };
        let answer = match timeout(STANDBY_PATIENCE, &mut work).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => RestoreAnswer::Trouble("the program is ending".to_owned()),
            Err(_) => {
                self.park(name, work);
                RestoreAnswer::Trouble(format!(
                    "the store gave no answer for {name} within {STANDBY_PATIENCE:?}; it is still being asked"
                ))
            }
        };
        match (answer, name) {
            (RestoreAnswer::Trouble(why), WalFileName::History(_)) => {
                self.0.known_history(name, why)
            }
            (answer, _) => answer,
        }
    }

    fn park(&self, name: WalFileName, work: JoinHandle<RestoreAnswer>) {
        let since = Instant::now();
        *self.0.pending() = Some(Parked { name, work, since });
        let inner = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            sleep(PARKED).await;
            if let Some(inner) = inner.upgrade() {
                inner.expire(since);
            }
        });
    }
}

impl Opened {
    /// Those of these settings; the others are closed.
    fn of(&mut self, settings: &Arc<Settings>) -> &mut BTreeMap<(String, String), WalStore> {
        let same = |known: &Arc<Settings>| Arc::ptr_eq(known, settings);
        if !self.settings.as_ref().is_some_and(same) {
            self.settings = Some(settings.clone());
            self.stores.clear();
        }
        &mut self.stores
    }
}

impl Inner {
    fn opened(&self) -> MutexGuard<'_, Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listed(&self) -> MutexGuard<'_, BTreeMap<(String, String), Listed>> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pending(&self) -> MutexGuard<'_, Option<Parked>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up what was parked then and not fetched since.
    fn expire(&self, since: Instant) {
        if let Some(parked) = self.pending().take_if(|parked| parked.since == since) {
            parked.work.abort();
        }
    }

    /// A history file that is known is the same still: the floor for a standby's next timeline.
    fn known_history(&self, name: WalFileName, why: String) -> RestoreAnswer {
        let known = data_directory::control_file(&self.data_directory)
            .ok()
            .and_then(|control| {
                let system = control.system_identifier;
                let configured = || {
                    let settings = self.settings.get();
                    histories::configured(settings.history_directory.as_deref()?, system, name)
                };
                self.known.get(system, name).or_else(configured)
            });
        match known {
            Some(content) => {
                tracing::warn!(%name, why, "served as it is known");
                let body = futures::stream::iter([Ok(Bytes::from(content.clone()))]).boxed();
                RestoreAnswer::Found {
                    length: content.len() as u64,
                    body,
                }
            }
            None => RestoreAnswer::Trouble(why),
        }
    }

    async fn once_as_answer(&self, name: WalFileName) -> RestoreAnswer {
        as_answer(self.once(name).await)
    }

    async fn patiently(&self, name: WalFileName) -> RestoreAnswer {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = FIRST_PAUSE;
        loop {
            match self.once(name).await {
                Err(e) if e.may_pass() && Instant::now() + pause < deadline => {
                    tracing::info!(%name, error = %e, "restoring is tried again");
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                done => return as_answer(done),
            }
        }
    }

    /// One attempt; none: absent.
    async fn once(&self, name: WalFileName) -> Result<Option<Found>, Trouble> {
        // Who was silent of late may go on being so, and the line is what it was; but with that alone nothing is absent.
        let mut hurried = false;
        let mut result = self.attempt(name, Some(&mut hurried)).await;
        if hurried && !matches!(result, Ok(Some(_))) {
            result = self.attempt(name, None).await;
        }
        if result.is_err() {
            // Credentials may have changed, and so may what lies there.
            self.opened().stores.clear();
        }
        result
    }

    /// `hurried`: what is known of late counts. It says whether anything did without which the answer could be another: who was
    /// silent, and the line of timelines.
    async fn attempt(
        &self,
        name: WalFileName,
        mut hurried: Option<&mut bool>,
    ) -> Result<Option<Found>, Trouble> {
        let settings = self.settings.get();
        let sources = self.sources(&settings, name)?;
        let size = sources.control.segment_size;
        let mut asked = self.open(&sources, hurried.as_deref_mut()).await?;
        let (lineage, end) = self.line(&sources, &mut asked, name, hurried).await?;
        let question = Question {
            name,
            size,
            lineage: &lineage,
            end,
        };
        let cut_at = match name {
            // pg_rewind reads its target's own branch, which must be as it was written.
            WalFileName::Segment(_) if sources.recovery == Recovery::None => Some(None),
            WalFileName::Segment(segment) => match question.place(segment) {
                Place::On { cut_at } => Some(cut_at),
                Place::BeyondEnd | Place::BeforeItsTimeline | Place::OffLineage => None,
            },
            WalFileName::History(_) | WalFileName::BackupHistory { .. } => Some(None),
            WalFileName::Partial(_) => None,
        };
        let mut unknown = None;
        if let Some(cut_at) = cut_at {
            match self
                .look_for(&mut asked, &question, sources.recovery, cut_at)
                .await
            {
                Ok(Some((content, room))) => {
                    if let (WalFileName::History(_), None) = (name, &sources.order) {
                        let system = sources.control.system_identifier;
                        return Ok(Some(self.remember(system, name, content).await?));
                    }
                    if let (WalFileName::Segment(segment), Some(ahead)) = (name, &self.ahead)
                        && sources.recovery != Recovery::None
                    {
                        let next = ahead::next(segment, size, &lineage, end);
                        ahead::fetch_ahead(ahead, &self.budget, &asked.stores(), &next);
                    }
                    return Ok(Some(serve(content, room, size)));
                }
                Ok(None) => {}
                Err(e) => unknown = Some(e),
            }
        }
        if let Some(trouble) = asked.trouble.take().or(unknown) {
            return Err(trouble);
        }
        // Looked for before it is confirmed: what said "not found" was the archive.
        let later = later(&mut asked, &question, cut_at.is_some()).await;
        let absence = Absence {
            confirmed: confirm(&mut asked).await,
            later,
        };
        match question.without_object(&absence) {
            Verdict::Absent => match question.ends_with(sources.recovery, cut_at) {
                Some(until) => {
                    let room = self.budget.take(WalStore::READ_MEMORY).await;
                    let room =
                        room.ok_or_else(|| Trouble::Unknown("the program is ending".to_owned()))?;
                    let part = part_until(&mut asked, until, true).await?;
                    Ok(part.map(|content| serve(content, room, size)))
                }
                None => Ok(None),
            },
            Verdict::Gap(why) => Err(Trouble::Gap(why)),
            Verdict::Trouble(why) => Err(Trouble::Unknown(why)),
        }
    }

    fn sources<'a>(
        &self,
        settings: &'a Arc<Settings>,
        name: WalFileName,
    ) -> Result<Sources<'a>, Trouble> {
        let control = data_directory::control_file(&self.data_directory)?;
        let recovery = data_directory::recovery(&self.data_directory);
        let signal = self.data_directory.join("recovery.signal");
        let recovering = match signal.try_exists() {
            Ok(there) => there,
            Err(source) => {
                let file = signal;
                return Err(DataDirectoryError::Read { file, source }.into());
            }
        };
        let order = match name {
            _ if recovering => RestoreOrder::read(&self.data_directory)?,
            // A copy that is just being promoted has no signal file any more, and its own archive may not exist yet:
            // what it descends from is its source's still.
            WalFileName::History(timeline) if recovery == Recovery::None => {
                RestoreOrder::read(&self.data_directory)?
                    .filter(|order| order.lineage().span(timeline).is_some())
            }
            _ => None,
        };
        let repositories = &settings.repositories;
        let places = match &order {
            Some(order) => {
                let named = settings.repository(&order.repository);
                let named = named.ok_or_else(|| Trouble::NoRepository(order.repository.clone()))?;
                vec![(named, order.archive.clone(), true)]
            }
            None => {
                let none_required = repositories.iter().all(|r| r.mode == Mode::BestEffort);
                let counts = |r: &Repository| none_required || r.mode == Mode::Required;
                repositories
                    .iter()
                    .map(|r| (r, settings.archive.clone(), counts(r)))
                    .collect()
            }
        };
        Ok(Sources {
            settings,
            control,
            order,
            recovery,
            places,
        })
    }

    /// Every repository that answers.
    async fn open(
        &self,
        sources: &Sources<'_>,
        mut hurried: Option<&mut bool>,
    ) -> Result<Asked, Trouble> {
        let mut asked = Asked::new(self.silent.clone());
        let mut places = Vec::new();
        for (repository, archive, counts) in &sources.places {
            let name = repository.name.as_str();
            match &mut hurried {
                Some(hurried) if self.silent.holds(name) => {
                    **hurried |= counts;
                    if *counts {
                        asked.missing(name);
                    }
                }
                _ => places.push(Opening {
                    name,
                    counts: *counts,
                    store: self.store(repository, archive, sources).boxed(),
                }),
            }
        }
        asked.open(places).await?;
        Ok(asked)
    }

    async fn store(
        &self,
        repository: &Repository,
        archive: &str,
        sources: &Sources<'_>,
    ) -> Result<WalStore, Trouble> {
        let control = &sources.control;
        let system = sources
            .order
            .as_ref()
            .map_or(control.system_identifier, |order| order.system_identifier);
        let key = (repository.name.clone(), archive.to_owned());
        let kept = self.opened().of(sources.settings).get(&key).cloned();
        let store = match kept {
            Some(kept) if kept.system() == system => kept,
            _ => {
                let archive = open::named(repository, archive, Create::Never).await?;
                let place = archive.store().description().to_owned();
                let identity = archive.identity(system).await?;
                let agrees = identity.is_some_and(|i| {
                    i.segment_size == control.segment_size.bytes()
                        && i.postgres_major == control.major
                });
                if !agrees || system != control.system_identifier {
                    return Err(Trouble::OtherDatabase {
                        place,
                        ours: control.system_identifier,
                    });
                }
                let store = WalStore::new(archive, system, control.segment_size, control.major);
                self.opened()
                    .of(sources.settings)
                    .insert(key, store.clone());
                store
            }
        };
        let (found, place) = (
            store.archive().id(),
            store.archive().store().description().to_owned(),
        );
        match &sources.order {
            Some(order) if order.archive_id != found => Err(Trouble::OtherArchive {
                place,
                found,
                wanted: order.archive_id,
            }),
            _ => Ok(store),
        }
    }

    /// The line that recovery follows, and up to where all of it was there.
    async fn line(
        &self,
        sources: &Sources<'_>,
        asked: &mut Asked,
        name: WalFileName,
        hurried: Option<&mut bool>,
    ) -> Result<(Lineage, Option<Lsn>), Trouble> {
        if let Some(order) = &sources.order {
            return Ok((order.lineage(), Some(order.end)));
        }
        let control = &sources.control;
        let stands_on = control.timeline.max(control.min_recovery_timeline);
        let wanted = match name {
            WalFileName::Segment(segment)
            | WalFileName::Partial(segment)
            | WalFileName::BackupHistory { segment, .. } => segment.timeline,
            // Which history files must be there depends on where the server stands.
            WalFileName::History(_) => stands_on,
        };
        let mut histories: BTreeMap<TimelineId, TimelineHistory> = BTreeMap::new();
        let mut damaged: BTreeMap<TimelineId, ObjectError> = BTreeMap::new();
        let system = control.system_identifier;
        // A standby may be asking because the line has gone on, and whoever asks for a history does.
        let since = match (&hurried, name, sources.recovery) {
            (Some(_), WalFileName::Segment(_), Recovery::Archive) => {
                Instant::now().checked_sub(LATELY)
            }
            _ => None,
        };
        let is_known = AtomicBool::new(false);
        let files =
            asked.each(|source| self.history_files(source, system, since, &is_known).boxed());
        let files = files.await?;
        if let Some(hurried) = hurried {
            *hurried |= is_known.into_inner();
        }
        for (timeline, content) in files.into_iter().flatten() {
            match content {
                Ok(content) => {
                    if let Ok(history) = TimelineHistory::parse(timeline, &content) {
                        let name = WalFileName::History(timeline);
                        self.known.put(system, name, &content);
                        histories.entry(timeline).or_insert(history);
                    }
                }
                Err(error) => {
                    damaged.insert(timeline, error);
                }
            }
        }
        // What one that does not answer may hold was perhaps seen before.
        let seen = match &asked.trouble {
            Some(_) => self.known.seen(system),
            None => Vec::new(),
        };
        for file in seen {
            if let Ok(WalFileName::History(timeline)) = file.name.parse()
                && let Ok(history) = TimelineHistory::parse(timeline, file.content.as_bytes())
            {
                histories.entry(timeline).or_insert(history);
            }
        }
        damaged.retain(|timeline, _| !histories.contains_key(timeline));
        let histories: Vec<TimelineHistory> = histories.into_values().collect();
        for (timeline, error) in damaged {
            if decide::may_lead_through(timeline, [wanted, stands_on], &histories) {
                return Err(error.into());
            }
            tracing::warn!(%timeline, %error, "a damaged history file, which this recovery does not need");
        }
        Ok((decide::lineage(wanted, stands_on, &histories), None))
    }

    /// All that are stored there; those that are damaged as what is wrong with them. What was listed after `since` is not listed
    /// again, and that is told.
    async fn history_files(
        &self,
        Source { name, store, .. }: Source,
        system: SystemIdentifier,
        since: Option<Instant>,
        is_known: &AtomicBool,
    ) -> Result<Vec<(TimelineId, Result<Bytes, ObjectError>)>, Trouble> {
        let key = (name, store.archive().store().description().to_owned());
        let known = self.listed().get(&key).cloned();
        let timelines = match known.filter(|known| since.is_some_and(|since| known.at > since)) {
            Some(known) => {
                is_known.store(true, Ordering::Relaxed);
                known.timelines
            }
            None => {
                let at = Instant::now();
                let timelines = store.history_timelines().await?;
                let listed = Listed {
                    timelines: timelines.clone(),
                    at,
                };
                let mut all = self.listed();
                // One that took longer says what was before.
                if all.get(&key).is_none_or(|known| known.at < at) {
                    all.insert(key, listed);
                }
                timelines
            }
        };
        let mut files = Vec::new();
        for timeline in timelines {
            let name = WalFileName::History(timeline);
            let content = match self.known.get(system, name) {
                Some(known) => Ok(Bytes::from(known)),
                None => match store.small_file(&name).await {
                    Err(e) if !e.is_damage() => return Err(e.into()),
                    other => other,
                },
            };
            files.push((timeline, content));
        }
        Ok(files)
    }

    /// The file, and the memory that it takes; else what is stored of it, where that is all that recovery reads.
    async fn look_for(
        &self,
        asked: &mut Asked,
        question: &Question<'_>,
        recovery: Recovery,
        cut_at: Option<Lsn>,
    ) -> Result<Option<(Content, Room)>, Trouble> {
        let whole = |file: WalFile| Content {
            length: file.length(),
            pieces: file.into_pieces().into_stream(),
            cut_at,
        };
        if let Some(ahead) = &self.ahead
            && let Some(fetched) = ahead.take(question.name, &asked.stores()).await
        {
            return Ok(Some((whole(fetched.file), fetched.room)));
        }
        if let Some((file, room)) = asked.find(&self.budget, question.name).await {
            return Ok(Some((whole(file), room)));
        }
        let Some(until) = question.ends_within(recovery, cut_at) else {
            return Ok(None);
        };
        let room = self.budget.take(WalStore::READ_MEMORY).await;
        let room = room.ok_or_else(|| Trouble::Unknown("the program is ending".to_owned()))?;
        let part = part_until(asked, until, false).await?;
        Ok(part.map(|content| (content, room)))
    }

    /// Serves a history file, and keeps it in mind.
    async fn remember(
        &self,
        system: SystemIdentifier,
        name: WalFileName,
        Content {
            length, mut pieces, ..
        }: Content,
    ) -> Result<Found, Trouble> {
        let mut content = Vec::new();
        while let Some(piece) = pieces.try_next().await? {
            content.extend_from_slice(&piece);
        }
        self.known.put(system, name, &content);
        let body = futures::stream::iter([Ok(Bytes::from(content))]).boxed();
        Ok(Found { length, body })
    }
}

/// The room is held until the end.
fn serve(content: Content, room: Room, size: SegmentSize) -> Found {
    let Content {
        length,
        pieces,
        cut_at,
    } = content;
    let keep = cut_at.map_or(u64::MAX, |lsn| u64::from(lsn.segment_offset(size)));
    let body = futures::stream::try_unfold(
        (pieces, 0u64, room),
        move |(mut pieces, at, room)| async move {
            let Some(piece) = pieces.try_next().await.map_err(io::Error::other)? else {
                return Ok(None);
            };
            let next = at + piece.len() as u64;
            Ok::<_, io::Error>(Some((cut(piece, at, keep), (pieces, next, room))))
        },
    );
    let body = body.boxed();
    Found { length, body }
}

/// History files for which Postgres needs no archive. Timeline 1 has none, ever; and once its signal files are gone, at
/// the end of recovery, it takes its own copy in pg_wal where it hears "absent", and gives up where it hears of trouble.
fn absent_without_asking(data_directory: &Path, name: WalFileName) -> bool {
    let WalFileName::History(timeline) = name else {
        return false;
    };
    let copy = data_directory.join("pg_wal").join(name.to_string());
    timeline == TimelineId(1)
        || (data_directory::recovery(data_directory) == Recovery::None
            && matches!(copy.try_exists(), Ok(true)))
}

/// The piece at `at`, with zeros from `keep` on: nothing past a switch point is replayed.
fn cut(piece: Bytes, at: u64, keep: u64) -> Bytes {
    let kept = keep.saturating_sub(at).min(piece.len() as u64) as usize;
    if kept == piece.len() {
        return piece;
    }
    let mut zeroed = vec![0; piece.len()];
    for (to, from) in zeroed.iter_mut().zip(piece.iter().take(kept)) {
        *to = *from;
    }
    zeroed.into()
}

/// What is stored of it up to there, with zeros behind it.
async fn part_until(
    asked: &mut Asked,
    until: Until,
    last: bool,
) -> Result<Option<Content>, Trouble> {
    let part = asked.find_part(until, last).await?;
    Ok(part.map(|part| Content {
        length: part.length(),
        pieces: part.into_stream(),
        cut_at: until.cut_at,
    }))
}

/// What of the line comes after the segment that is asked for; or from its place on, where the segment itself is not
/// of the line.
async fn later(asked: &mut Asked, question: &Question<'_>, on_lineage: bool) -> Seen<WalFileName> {
    let WalFileName::Segment(segment) = question.name else {
        return Seen::Missing;
    };
    let Ok(number) = segment.number(question.size) else {
        return Seen::Missing;
    };
    let from = if on_lineage { number.next() } else { number };
    let firsts = asked.each(|source| {
        async move { Ok(source.store.first_from(question.lineage, from).await?) }.boxed()
    });
    match firsts.await {
        Ok(firsts) => match (firsts.into_iter().flatten().min(), &asked.trouble) {
            (Some(later), _) => Seen::There(WalFileName::Segment(later)),
            (None, None) => Seen::Missing,
            (None, Some(trouble)) => Seen::Unknown(trouble.to_string()),
        },
        Err(e) => Seen::Unknown(e.to_string()),
    }
}

async fn confirm(asked: &mut Asked) -> Result<(), String> {
    let confirmed =
        asked.each(|source| async move { Ok(source.store.archive().confirm().await?) }.boxed());
    confirmed.await.map_err(|e| e.to_string())?;
    match &asked.trouble {
        None => Ok(()),
        Some(trouble) => Err(trouble.to_string()),
    }
}

fn as_answer(result: Result<Option<Found>, Trouble>) -> RestoreAnswer {
    match result {
        Ok(Some(Found { length, body })) => RestoreAnswer::Found { length, body },
        Ok(None) => RestoreAnswer::Absent,
        Err(e) => RestoreAnswer::Trouble(e.to_string()),
    }
}
