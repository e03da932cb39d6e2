//! Repositories that no acknowledgement waits for: what the required ones hold is brought there, behind Postgres' back.
//!
//! It is read from a required repository and never from pg_wal, verified: only what was accepted there is the archive's WAL. What
//! was missed while this program did not run, or was stored by another member, is found by comparing listings.

use super::local::{Local, read_all};
use super::{Archiver, NotArchived, Opened, check_copy};
use crate::budget::Room;
use crate::config::{Mode, Repository, Settings};
use crate::data_directory::{self, Recovery};
use crate::open::{self, ArchiveError, Create};
use crate::origin::Origin;
use crate::queue::{self, Rank};
use futures::future::join_all;
use holdfast_postgres::{ControlFile, SegmentName, SegmentNumber, TimelineId, WalFileName};
use holdfast_repository::{ObjectError, OpenError, PutError, WalStore, blocking};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

/// Names that are kept in mind for each; what is more is found again by listings.
const MOST: usize = 10_000;
/// How often listings are compared where nothing calls for it.
const LOOK: Duration = Duration::from_secs(3600);
/// How soon other settings, a promotion, or other work are seen.
const TICK: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long one file waits while Postgres' own are stored ahead, and takes while they wait for it.
const BESIDE_OTHERS: Duration = Duration::from_secs(5);
/// And what it takes at most.
const AT_MOST: Duration = Duration::from_secs(300);

/// What each best-effort repository lacks, by its name.
#[derive(Debug, Default)]
pub(super) struct Behind {
    lacks: Mutex<BTreeMap<String, Lacks>>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Lacks {
    /// And since when each is known to be lacking.
    files: BTreeMap<Rank, (WalFileName, Instant)>,
    /// There is more than these: listings have to tell.
    is_cut: bool,
    /// Since when listings should have told what else it lacks, and could not.
    untold: Option<Instant>,
    trouble: Option<String>,
}

/// How far a best-effort repository is behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BestEffort {
    /// The repository.
    pub name: String,
    /// Files that the required repositories hold and it lacks, as far as is known; 10,000 at most are counted.
    pub waiting: u64,
    /// How long it has lacked the oldest of them, or listings could not tell what it lacks. None: it lacks nothing.
    pub behind: Option<Duration>,
    /// Why the last attempt went wrong. None once one went well.
    pub trouble: Option<String>,
}

impl Behind {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Lacks>> {
        self.lacks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The required repositories hold it.
    pub(super) fn add(&self, settings: &Settings, name: WalFileName) {
        let mut lacks = self.lock();
        for repository in best_effort(settings) {
            let lacks = lacks.entry(repository.name.clone()).or_default();
            lacks.add(name, Instant::now());
        }
        drop(lacks);
        self.more.notify_waiters();
    }

    pub(super) fn told(&self) -> Vec<BestEffort> {
        let lacks = self.lock();
        let told = lacks.iter().map(|(name, lacks)| BestEffort {
            name: name.clone(),
            waiting: lacks.files.len() as u64,
            behind: lacks.since().map(|since| since.elapsed()),
            trouble: lacks.trouble.clone(),
        });
        told.collect()
    }

    fn of<T>(&self, repository: &Repository, change: impl FnOnce(&mut Lacks) -> T) -> T {
        change(self.lock().entry(repository.name.clone()).or_default())
    }

    fn keep_only(&self, settings: &Settings) {
        let kept: BTreeSet<&str> = best_effort(settings).map(|r| r.name.as_str()).collect();
        self.lock().retain(|name, _| kept.contains(name.as_str()));
    }
}

impl Lacks {
    fn add(&mut self, name: WalFileName, now: Instant) {
        let rank = queue::rank(&name);
        let last = self.files.last_key_value();
        // Brought before what was cut off, it would hide that.
        if self.is_cut && last.is_none_or(|(last, _)| rank > *last) {
            return;
        }
        self.files.entry(rank).or_insert((name, now));
        if self.files.len() > MOST {
            self.files.pop_last();
            self.is_cut = true;
        }
    }

    fn since(&self) -> Option<Instant> {
        let lacking = self.files.values().map(|(_, since)| *since);
        lacking.chain(self.untold).min()
    }

    /// The one after that, or else the first.
    fn next(&self, after: Option<&Rank>) -> Option<(Rank, WalFileName)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut later = self.files.range((from, Bound::Unbounded));
        let next = later.next().or_else(|| self.files.first_key_value());
        next.map(|(rank, (name, _))| (rank.clone(), *name))
    }
}

fn best_effort(settings: &Settings) -> impl Iterator<Item = &Repository> {
    let all = settings.repositories.iter();
    all.filter(|repository| repository.mode == Mode::BestEffort)
}

/// Whether it is this file that can't be brought, and others can.
fn is_of_the_file(why: &NotArchived) -> bool {
    match why {
        NotArchived::Object(why) | NotArchived::Put(PutError::Object(why)) => why.is_damage(),
        NotArchived::Put(PutError::Read { .. } | PutError::Changed(_)) => false,
        NotArchived::Put(_) | NotArchived::NoHistory { .. } | NotArchived::Diverged { .. } => true,
        _ => false,
    }
}

/// The segments of a timeline that are held elsewhere, behind the last that is there. What comes before that was there once, for all
/// are brought in order, and retention has removed it since; so it has what comes before `first`, the first of any timeline there.
fn lacking_of(
    held: &BTreeSet<SegmentNumber>,
    last: Option<SegmentNumber>,
    first: Option<SegmentNumber>,
) -> Vec<SegmentNumber> {
    let held = held.iter().copied();
    held.filter(|number| match last {
        Some(last) => *number > last,
        None => first.is_none_or(|first| *number >= first),
    })
    .collect()
}

impl Archiver {
    /// Brings best-effort repositories what they lack, each at its own pace, while this is a primary. Never ends; safe to drop.
    pub async fn run_best_effort(&self) {
        loop {
            let settings = self.settings.get();
            self.behind.keep_only(&settings);
            let each = best_effort(&settings).map(|repository| self.bring(&settings, repository));
            let all = async {
                join_all(each).await;
                std::future::pending::<()>().await;
            };
            let replaced = async {
                while Arc::ptr_eq(&settings, &self.settings.get()) {
                    sleep(TICK).await;
                }
            };
            tokio::select! {
                () = all => {}
                () = replaced => {}
            }
        }
    }

    /// Never ends.
    async fn bring(&self, settings: &Arc<Settings>, repository: &Repository) {
        let mut skipped: Option<Rank> = None;
        let mut pause = FIRST_PAUSE;
        // What was missed before.
        let mut look = Instant::now();
        loop {
            if !self.is_primary(settings).await {
                // The primary's sidecar does it; after a promotion listings tell what is left.
                self.behind
                    .of(repository, |lacks| *lacks = Lacks::default());
                look = Instant::now();
                sleep(TICK).await;
                continue;
            }
            let (next, is_cut) = self.behind.of(repository, |lacks| {
                (lacks.next(skipped.as_ref()), lacks.is_cut)
            });
            if next.is_none() && is_cut {
                look = look.min(Instant::now());
            }
            let done = match next {
                // Before anything else, until it has gone well: nothing may be brought before what was missed.
                _ if look <= Instant::now() => {
                    let compared = self.compare(settings, repository).await;
                    if compared.is_ok() {
                        look = Instant::now() + LOOK;
                    }
                    self.behind.of(repository, |lacks| {
                        let since = lacks.untold.unwrap_or_else(Instant::now);
                        lacks.untold = compared.is_err().then_some(since);
                    });
                    compared
                }
                Some((rank, name)) => {
                    let brought = self.bring_one(settings, repository, name).await;
                    match &brought {
                        Ok(()) => {
                            self.behind
                                .of(repository, |lacks| lacks.files.remove(&rank));
                        }
                        // In order: what lies behind a file tells that it was there. One that can't be had keeps none back.
                        Err(why) if is_of_the_file(why) => skipped = Some(rank),
                        Err(_) => {}
                    }
                    brought
                }
                None => {
                    // A name that comes in between is seen at the next tick.
                    let _ = timeout(TICK, self.behind.more.notified()).await;
                    continue;
                }
            };
            let Err(why) = done else {
                self.behind.of(repository, |lacks| lacks.trouble = None);
                pause = FIRST_PAUSE;
                continue;
            };
            let trouble = why.to_string();
            tracing::warn!(
                repository = repository.name,
                error = trouble,
                "best-effort: it falls behind"
            );
            // That others go first tells nothing of the repository.
            if !matches!(why, NotArchived::InTheWay(_)) {
                self.behind
                    .of(repository, |lacks| lacks.trouble = Some(trouble));
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn is_primary(&self, settings: &Arc<Settings>) -> bool {
        let settings = settings.clone();
        blocking(move || {
            let directory = &settings.postgres.data_directory;
            // Before there is a database nothing is behind.
            data_directory::recovery(directory) == Recovery::None
                && data_directory::control_file(directory).is_ok()
        })
        .await
    }

    /// Keeps in mind what it lacks by the listings.
    async fn compare(
        &self,
        settings: &Arc<Settings>,
        repository: &Repository,
    ) -> Result<(), NotArchived> {
        let local = Directory::look(settings).await?;
        let (held, trouble) = self.holders(settings, &local).await?;
        if let Some(trouble) = trouble {
            return Err(trouble);
        }
        if held.is_empty() {
            return Ok(());
        }
        let there = self.opened(settings, repository, &local.control).await?;
        // What is archived from here on is added by itself.
        self.behind.of(repository, |lacks| lacks.is_cut = false);
        let listed = async {
            let mut all = Listed::default();
            for held in &held {
                all.add(&held.wal).await?;
            }
            let mut known = Listed::default();
            known.add(&there.wal).await?;
            Ok::<_, NotArchived>(all.lacking(&known, &local.control))
        };
        match listed.await {
            Ok(lacking) => {
                self.behind.of(repository, |lacks| {
                    for name in lacking {
                        lacks.add(name, Instant::now());
                    }
                });
                Ok(())
            }
            Err(why) => {
                self.forget(settings);
                Err(why)
            }
        }
    }

    /// What is open may be stale.
    fn forget(&self, settings: &Settings) {
        let mut opened = self.lock();
        for repository in &settings.repositories {
            opened.remove(&repository.name);
        }
    }

    /// The required repositories that hold the archive, and why another one can't be asked. None of them: nothing was archived yet.
    ///
    /// # Errors
    /// If this data directory may not archive there.
    async fn holders(
        &self,
        settings: &Arc<Settings>,
        local: &Directory,
    ) -> Result<(Vec<Opened>, Option<NotArchived>), NotArchived> {
        let (mut holders, mut trouble) = (Vec::new(), None);
        for repository in settings.required_repositories() {
            // Made when something is archived, and not before.
            let is_known = self.lock().contains_key(&repository.name);
            let there = match is_known {
                true => Ok(()),
                false => open::named(repository, &settings.archive, Create::Never)
                    .await
                    .map(drop),
            };
            let opened = match there {
                Ok(()) => self.opened(settings, repository, &local.control).await,
                Err(ArchiveError::Open(OpenError::NotThere(_))) => continue,
                Err(why) => Err(why.into()),
            };
            match opened {
                // A copy does not archive into its source, by no way round.
                Ok(opened) => {
                    check_copy(&opened, local.origin.as_ref())?;
                    holders.push(opened);
                }
                Err(why) => trouble = Some(why),
            }
        }
        Ok((holders, trouble))
    }

    /// Beside all else, in memory that nobody wants.
    async fn bring_one(
        &self,
        settings: &Arc<Settings>,
        repository: &Repository,
        name: WalFileName,
    ) -> Result<(), NotArchived> {
        let begun = Instant::now();
        while self.ahead.has_waiting() && begun.elapsed() < BESIDE_OTHERS {
            sleep(TICK / 10).await;
        }
        let wanted = self.budget.wanted();
        tokio::pin!(wanted);
        wanted.as_mut().enable();
        let Some(room) = self.budget.borrow(WalStore::PUT_MEMORY) else {
            return Err(NotArchived::InTheWay(name));
        };
        let begun = Instant::now();
        let others = async {
            loop {
                sleep(TICK).await;
                let is_late = begun.elapsed() >= BESIDE_OTHERS;
                if is_late && self.ahead.has_waiting() || self.is_stopping().await {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = &mut wanted => Err(NotArchived::InTheWay(name)),
            () = others => Err(NotArchived::InTheWay(name)),
            () = sleep(AT_MOST) => Err(NotArchived::Slow(name, AT_MOST)),
            done = self.bring_now(settings, repository, name, room) => done,
        }
    }

    /// From the first required repository that has it.
    async fn bring_now(
        &self,
        settings: &Arc<Settings>,
        repository: &Repository,
        name: WalFileName,
        _room: Room,
    ) -> Result<(), NotArchived> {
        let local = Directory::look(settings).await?;
        let (holders, mut trouble) = self.holders(settings, &local).await?;
        for held in holders {
            match fetched(settings, &held.wal, name, &local).await {
                Ok(Some(local)) => {
                    let put = self.put_into(settings, repository, name, &local, None);
                    return put.await.map(drop);
                }
                Ok(None) => {}
                Err(why) => {
                    self.forget(settings);
                    trouble = Some(why);
                }
            }
        }
        // All say no: removed by retention meanwhile, or something that is never read back, as what is kept aside.
        trouble.map_or(Ok(()), Err)
    }
}

/// What the data directory says.
#[derive(Debug)]
struct Directory {
    control: ControlFile,
    origin: Option<Origin>,
}

impl Directory {
    async fn look(settings: &Arc<Settings>) -> Result<Self, NotArchived> {
        let settings = settings.clone();
        blocking(move || {
            let directory = &settings.postgres.data_directory;
            Ok(Self {
                control: data_directory::control_file(directory)?,
                origin: Origin::read(directory)?,
            })
        })
        .await
    }
}

/// What is stored.
#[derive(Debug, Default)]
struct Listed {
    histories: BTreeSet<TimelineId>,
    segments: BTreeMap<TimelineId, BTreeSet<SegmentNumber>>,
}

impl Listed {
    /// And what is stored there.
    async fn add(&mut self, wal: &WalStore) -> Result<(), NotArchived> {
        let histories = wal.history_timelines().await.map_err(ObjectError::from)?;
        self.histories.extend(histories);
        for timeline in wal.timelines().await.map_err(ObjectError::from)? {
            let numbers = wal.segments(timeline).await.map_err(ObjectError::from)?;
            self.segments.entry(timeline).or_default().extend(numbers);
        }
        // What said so little was the archive, and not an empty folder in its place.
        wal.archive().confirm().await?;
        Ok(())
    }

    /// What that one lacks.
    fn lacking(&self, there: &Self, control: &ControlFile) -> Vec<WalFileName> {
        let first = there.segments.values().flatten().min().copied();
        let histories = self.histories.difference(&there.histories).copied();
        let mut lacking: Vec<WalFileName> = histories.map(WalFileName::History).collect();
        for (timeline, held) in &self.segments {
            let last = there
                .segments
                .get(timeline)
                .and_then(BTreeSet::last)
                .copied();
            for number in lacking_of(held, last, first) {
                let name = SegmentName::new(*timeline, number, control.segment_size);
                lacking.push(WalFileName::Segment(name));
            }
        }
        lacking
    }
}

/// As if it were in pg_wal. None: it is not there, and what says so is the archive.
async fn fetched(
    settings: &Settings,
    held: &WalStore,
    name: WalFileName,
    local: &Directory,
) -> Result<Option<Local>, NotArchived> {
    if let WalFileName::Partial(_) = name {
        return Ok(None);
    }
    let folder = settings.socket.parent().unwrap_or(Path::new("."));
    let Some(file) = fetch(held, name, folder).await? else {
        held.archive().confirm().await?;
        return Ok(None);
    };
    let timeline = Local::above_1(&name);
    let history = match timeline.map(WalFileName::History) {
        None => None,
        Some(history) => match fetch(held, history, folder).await? {
            None => None,
            Some(file) => {
                let content = read_all(&file).map_err(NotArchived::Scratch)?;
                Some((file, content))
            }
        },
    };
    Ok(Some(Local {
        control: local.control.clone(),
        origin: local.origin.clone(),
        file,
        timeline,
        history,
    }))
}

async fn fetch(
    held: &WalStore,
    name: WalFileName,
    folder: &Path,
) -> Result<Option<Arc<File>>, NotArchived> {
    let found = match held.read_file(&name).await {
        Err(e) if e.is_not_found() => return Ok(None),
        other => other?,
    };
    let mut file = scratch(folder).map_err(NotArchived::Scratch)?;
    let mut pieces = found.into_pieces();
    while let Some(piece) = pieces.next().await? {
        let written = blocking(move || file.write_all(&piece).map(|()| file));
        file = written.await.map_err(NotArchived::Scratch)?;
    }
    Ok(Some(Arc::new(file)))
}

/// A file that nobody else sees, and that is gone when it is closed.
fn scratch(folder: &Path) -> io::Result<File> {
    static MADE: AtomicU64 = AtomicU64::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    let path = folder.join(format!(".best-effort.{}.{number}", std::process::id()));
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests;
