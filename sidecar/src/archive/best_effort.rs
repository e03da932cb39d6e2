//! Repositories that no acknowledgement waits for: what the required ones hold is brought there behind Postgres' back.
//!
//! What was archived a moment ago is read from pg_wal as long as it is there, else from a required repository, verified.
//! What was missed while this program did not run, or by another member, is found by comparing listings.

use super::ahead::Identity;
use super::local::Local;
use super::{Archiver, Gate, NotArchived, Opened};
use crate::config::{Mode, Repository, Settings};
use crate::data_directory::{self, Recovery};
use crate::open::{self, ArchiveError, Create};
use crate::origin::Origin;
use crate::queue::{self, Rank};
use futures::future::join_all;
use holdfast_postgres::{ControlFile, SegmentName, SegmentNumber, TimelineId, WalFileName};
use holdfast_repository::{ObjectError, OpenError, WalStore, blocking};
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
/// How soon other settings, a promotion or memory that is free again are seen.
const TICK: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// What one file may take where it holds the memory that archiving needs.
const IN_THE_WAY: Duration = Duration::from_secs(10);

/// What each best-effort repository lacks, by its name.
#[derive(Debug, Default)]
pub(super) struct Behind {
    lacks: Mutex<BTreeMap<String, Lacks>>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Lacks {
    files: BTreeMap<Rank, WalFileName>,
    /// There is more than these: listings have to tell.
    is_cut: bool,
    trouble: Option<String>,
}

/// How far a best-effort repository is behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BestEffort {
    /// The repository.
    pub name: String,
    /// Files that the required repositories hold and it lacks, as far as is known; 10,000 at most are counted.
    pub waiting: u64,
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
            lacks.add(name);
        }
        drop(lacks);
        self.more.notify_waiters();
    }

    pub(super) fn told(&self) -> Vec<BestEffort> {
        let lacks = self.lock();
        let told = lacks.iter().map(|(name, lacks)| BestEffort {
            name: name.clone(),
            waiting: lacks.files.len() as u64,
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
    fn add(&mut self, name: WalFileName) {
        if self.files.len() < MOST {
            self.files.insert(queue::rank(&name), name);
        } else {
            self.is_cut = true;
        }
    }

    /// The one after that, or else the first.
    fn next(&self, after: Option<&Rank>) -> Option<(Rank, WalFileName)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut later = self.files.range((from, Bound::Unbounded));
        let next = later.next().or_else(|| self.files.first_key_value());
        next.map(|(rank, name)| (rank.clone(), *name))
    }
}

fn best_effort(settings: &Settings) -> impl Iterator<Item = &Repository> {
    let all = settings.repositories.iter();
    all.filter(|repository| repository.mode == Mode::BestEffort)
}

/// The segments of a timeline that are held elsewhere and not there. What comes before all that is there may have been
/// removed by retention, and is not brought again.
fn lacking(held: &[SegmentNumber], there: &[SegmentNumber]) -> Vec<SegmentNumber> {
    let from = there.iter().min().copied().unwrap_or(SegmentNumber(0));
    let there: BTreeSet<SegmentNumber> = there.iter().copied().collect();
    let held = held.iter().copied();
    held.filter(|number| *number >= from && !there.contains(number))
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
        let mut last: Option<Rank> = None;
        let mut pause = FIRST_PAUSE;
        // What was missed before.
        let mut look = Some(Instant::now());
        loop {
            if !self.is_primary(settings).await {
                sleep(TICK).await;
                continue;
            }
            let next = self.behind.of(repository, |lacks| {
                let is_due = look.is_none_or(|at| at <= Instant::now());
                let next = lacks.next(last.as_ref());
                (is_due || (next.is_none() && lacks.is_cut), next)
            });
            let done = match next {
                (true, _) => {
                    let compared = self.compare(settings, repository).await;
                    if compared.is_ok() {
                        look = Some(Instant::now() + LOOK);
                    }
                    compared
                }
                (false, Some((rank, name))) => {
                    last = Some(rank.clone());
                    let brought = self.bring_one(settings, repository, name).await;
                    if brought.is_ok() {
                        let brought = |lacks: &mut Lacks| lacks.files.remove(&rank);
                        self.behind.of(repository, brought);
                    }
                    brought
                }
                (false, None) => {
                    // A name that comes in between is seen at the next tick.
                    let _ = timeout(TICK, self.behind.more.notified()).await;
                    continue;
                }
            };
            let trouble = done.err().map(|why| why.to_string());
            let is_fine = trouble.is_none();
            if let Some(why) = &trouble {
                tracing::warn!(
                    repository = repository.name,
                    error = why,
                    "best-effort: it falls behind"
                );
            }
            self.behind.of(repository, |lacks| lacks.trouble = trouble);
            if is_fine {
                pause = FIRST_PAUSE;
            } else {
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
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
        let control = control(settings).await?;
        // Nothing was archived yet.
        let Some(held) = self.holder(settings, &control).await? else {
            return Ok(());
        };
        let there = self.opened(settings, repository, &control).await?;
        let listed = async |timeline| -> Result<Vec<WalFileName>, NotArchived> {
            let held = held
                .wal
                .segments(timeline)
                .await
                .map_err(ObjectError::from)?;
            let there = there
                .wal
                .segments(timeline)
                .await
                .map_err(ObjectError::from)?;
            let name = |number| SegmentName::new(timeline, number, control.segment_size);
            let lacking = lacking(&held, &there).into_iter();
            Ok(lacking.map(|n| WalFileName::Segment(name(n))).collect())
        };
        let histories = async |wal: &WalStore| {
            let timelines = wal.history_timelines().await.map_err(ObjectError::from)?;
            Ok::<BTreeSet<TimelineId>, NotArchived>(timelines.into_iter().collect())
        };
        let lacks_histories = &histories(&held.wal).await? - &histories(&there.wal).await?;
        let mut lacking: Vec<WalFileName> = lacks_histories
            .into_iter()
            .map(WalFileName::History)
            .collect();
        for timeline in held.wal.timelines().await.map_err(ObjectError::from)? {
            lacking.extend(listed(timeline).await?);
        }
        self.behind.of(repository, |lacks| {
            lacks.is_cut = false;
            for name in lacking {
                lacks.add(name);
            }
        });
        Ok(())
    }

    /// A required repository that holds the archive; none: not one of them does.
    async fn holder(
        &self,
        settings: &Arc<Settings>,
        control: &ControlFile,
    ) -> Result<Option<Opened>, NotArchived> {
        let mut trouble = None;
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
                Ok(()) => self.opened(settings, repository, control).await,
                Err(ArchiveError::Open(OpenError::NotThere(_))) => continue,
                Err(why) => Err(why.into()),
            };
            match opened {
                Ok(opened) => return Ok(Some(opened)),
                Err(why) => trouble = Some(why),
            }
        }
        trouble.map_or(Ok(None), Err)
    }

    async fn bring_one(
        &self,
        settings: &Arc<Settings>,
        repository: &Repository,
        name: WalFileName,
    ) -> Result<(), NotArchived> {
        if !self.budget.ever_spares(WalStore::PUT_MEMORY) {
            let Some(_room) = self.budget.take(WalStore::PUT_MEMORY).await else {
                return Err(NotArchived::Ending);
            };
            let brought = timeout(IN_THE_WAY, self.bring_now(settings, repository, name)).await;
            return brought.unwrap_or(Err(NotArchived::Slow(IN_THE_WAY)));
        }
        let _room = loop {
            match self.budget.spare(WalStore::PUT_MEMORY) {
                Some(room) => break room,
                None => sleep(TICK).await,
            }
        };
        self.bring_now(settings, repository, name).await
    }

    async fn bring_now(
        &self,
        settings: &Arc<Settings>,
        repository: &Repository,
        name: WalFileName,
    ) -> Result<(), NotArchived> {
        let directory = settings.postgres.data_directory.clone();
        let is_there = blocking(move || data_directory::find_wal_file(&directory, &name)).await?;
        if is_there.is_some() {
            let local = self
                .local(settings, name, &format!("pg_wal/{name}"))
                .await?;
            if let Ok(file) = Identity::of(&local.file) {
                let gate = Gate::Unchanged(file);
                match self
                    .put_into(settings, repository, name, &local, gate)
                    .await
                {
                    // Postgres has put it to another use.
                    Err(NotArchived::Left) => {}
                    done => return done.map(drop),
                }
            }
        }
        let control = control(settings).await?;
        let Some(held) = self.holder(settings, &control).await? else {
            return Ok(());
        };
        match self.fetched(settings, &held.wal, name, control).await? {
            Some(local) => {
                let put = self.put_into(settings, repository, name, &local, Gate::Open);
                put.await.map(drop)
            }
            // Removed by retention meanwhile, or something that is never read back: what is kept aside.
            None => Ok(()),
        }
    }

    /// As if it were in pg_wal, from where it is held.
    async fn fetched(
        &self,
        settings: &Arc<Settings>,
        held: &WalStore,
        name: WalFileName,
        control: ControlFile,
    ) -> Result<Option<Local>, NotArchived> {
        if let WalFileName::Partial(_) = name {
            return Ok(None);
        }
        let folder = settings.socket.parent().unwrap_or(Path::new("."));
        let fetch = async |name: WalFileName| -> Result<Option<Arc<File>>, NotArchived> {
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
        };
        let Some(file) = fetch(name).await? else {
            return Ok(None);
        };
        let origin = Origin::read(&settings.postgres.data_directory)?;
        let timeline = Local::above_1(&name);
        let history = match timeline.map(WalFileName::History) {
            None => None,
            Some(history) => match fetch(history).await? {
                None => None,
                Some(file) => Some((file, held.small_file(&history).await?.to_vec())),
            },
        };
        Ok(Some(Local {
            control,
            origin,
            file,
            timeline,
            history,
        }))
    }
}

async fn control(settings: &Arc<Settings>) -> Result<ControlFile, NotArchived> {
    let settings = settings.clone();
    let control = move || data_directory::control_file(&settings.postgres.data_directory);
    Ok(blocking(control).await?)
}

/// A file that nobody else sees, and that is gone when it is closed.
fn scratch(folder: &Path) -> io::Result<File> {
    static MADE: AtomicU64 = AtomicU64::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    let path = folder.join(format!(".best-effort.{}.{number}", std::process::id()));
    let _ = fs::remove_file(&path);
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
