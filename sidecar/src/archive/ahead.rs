//! Ahead of being asked: what Postgres has marked is read, and stored, before it asks for it.
//!
//! Postgres hands over one file, waits, and hands over the next. What is stored by then is answered at once. Several are
//! read and packed at a time, and some sent, but each comes to be stored only once all before it are, or once it is asked for:
//! whatever ends this process, the archive has no segment without those that come before it.
//!
//! Only whole segments are stored ahead, and only of a server whose archive_command asks. All else, and whatever fails,
//! is left to be asked for. What is stored is remembered here alone: after a crash Postgres asks for all that it was not
//! answered for, and what is found to be stored is success.

use super::local::Local;
use super::{Archiver, Done, NotArchived};
use crate::budget::Room;
use crate::config::{Live, Settings};
use crate::data_directory;
use crate::queue::{self, MOST_ENTRIES, Queue, Rank};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use holdfast_postgres::{SegmentName, SegmentNumber, SegmentSize, WalFileName};
use holdfast_repository::{WalStore, blocking};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// How often Postgres' marks are looked at while it asks, where nothing calls for it sooner.
const LOOK: Duration = Duration::from_secs(1);
/// And no more often than this: a folder of many marks takes a while to read.
const LEAST: Duration = Duration::from_millis(50);
/// A server that has not asked for so long does not archive here now.
const LATELY: Duration = Duration::from_secs(120);
/// How long a server that asks waits for who is storing the same ahead, before it is done once more: longer than a segment
/// takes on all but the slowest lines, where that costs its upload twice.
const PATIENCE: Duration = Duration::from_secs(60);
/// And one who has little time.
const HASTE: Duration = Duration::from_secs(10);
/// Segments that are read or stored at a time, where the memory is there for more.
const MOST: usize = 8;
/// A segment is sent, but for its last byte, while no more than so many before it are not stored yet.
const UNDER_WAY: usize = 2;
/// And while one takes no longer than this: a slow line is left to the one that Postgres waits for.
const QUICK: Duration = Duration::from_secs(2);
/// So many of those that wait are looked at, and may be remembered.
const HORIZON: usize = 64;

/// What has become of a file that waits.
#[derive(Debug)]
enum Place {
    /// Nothing yet.
    Waiting,
    /// It is read or stored ahead; or Postgres waits for it already, and it for no turn.
    Ahead { wanted: bool },
    /// Postgres asks for it.
    Asked,
    /// It is not stored ahead: who asks for it finds out why.
    Left,
    /// And Postgres does not know.
    Stored(Stored),
    /// Postgres knows, and may not have taken its mark away yet.
    Answered,
}

impl Place {
    fn is_ahead(&self) -> bool {
        matches!(self, Self::Ahead { .. })
    }
}

/// The files that wait, in the order in which Postgres asks for them.
#[derive(Debug)]
pub(super) struct Ahead {
    places: Mutex<BTreeMap<Rank, (WalFileName, Place)>>,
    /// Whether the one that was stored last took no longer than [`QUICK`].
    is_quick: AtomicBool,
    patience: Duration,
    lately: Duration,
    /// Told whenever anything of it changes.
    changed: watch::Sender<()>,
    /// When Postgres asked last.
    asked: watch::Sender<Option<Instant>>,
}

/// A segment that is stored, and what Postgres will be answered.
#[derive(Debug)]
pub(super) struct Stored {
    /// In the repositories of these.
    settings: Arc<Settings>,
    file: Identity,
    done: Done,
    at: Instant,
}

/// Whether a file is the one that it was: Postgres never writes to a segment again under the same name, but somebody else
/// may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl Identity {
    fn of(file: &File) -> io::Result<Self> {
        let facts = file.metadata()?;
        Ok(Self {
            device: facts.dev(),
            inode: facts.ino(),
            length: facts.len(),
            modified: (facts.mtime(), facts.mtime_nsec()),
        })
    }
}

impl Stored {
    /// The answer, if that is the file and those are the repositories that hold it, as of late.
    pub(super) fn answer(self, settings: &Arc<Settings>, local: &Local) -> Option<Done> {
        let same = self.at.elapsed() < LATELY
            && Arc::ptr_eq(&self.settings, settings)
            && Identity::of(&local.file).is_ok_and(|file| file == self.file);
        same.then_some(self.done)
    }
}

impl Default for Ahead {
    fn default() -> Self {
        Self {
            places: Mutex::default(),
            is_quick: AtomicBool::new(false),
            patience: PATIENCE,
            lately: LATELY,
            changed: watch::Sender::new(()),
            asked: watch::Sender::new(None),
        }
    }
}

impl Ahead {
    fn places(&self) -> MutexGuard<'_, BTreeMap<Rank, (WalFileName, Place)>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Postgres' archive_command has called.
    pub(super) fn wake(&self) {
        self.asked.send_replace(Some(Instant::now()));
    }

    fn is_asked(&self) -> bool {
        self.asked
            .borrow()
            .is_some_and(|at| at.elapsed() < self.lately)
    }

    /// Takes the file for who asks for it, and what is remembered of it. Whoever is storing it ahead is given time.
    pub(super) async fn ask(
        &self,
        name: WalFileName,
        server_waits: bool,
    ) -> (Asking<'_>, Option<Stored>) {
        let rank = queue::rank(&name);
        let mut changed = self.changed.subscribe();
        let waited = async {
            while self.want(&rank) {
                // Its sender is ours.
                let _ = changed.changed().await;
            }
        };
        let patience = match server_waits {
            true => self.patience,
            false => self.patience.min(HASTE),
        };
        // Who is late finds that it is taken.
        let _ = timeout(patience, waited).await;
        let before = self.places().insert(rank.clone(), (name, Place::Asked));
        let asking = Asking {
            ahead: self,
            rank,
            is_done: false,
        };
        match before {
            Some((_, Place::Stored(stored))) => (asking, Some(stored)),
            _ => (asking, None),
        }
    }

    /// Whether it is being stored ahead; if so it waits for no turn any more.
    fn want(&self, rank: &Rank) -> bool {
        let mut places = self.places();
        let Some((_, Place::Ahead { wanted })) = places.get_mut(rank) else {
            return false;
        };
        let was = std::mem::replace(wanted, true);
        drop(places);
        if !was {
            self.changed.send_replace(());
        }
        true
    }

    /// Whoever stores it ahead takes too long for a server that is stopping: who asks next does it anew.
    pub(super) fn leave(&self, name: WalFileName) {
        self.settle(&queue::rank(&name), Place::is_ahead, Place::Left);
    }

    /// What waits now, in order. What waits no more is forgotten.
    fn see(&self, waiting: &[WalFileName]) {
        let mut places = self.places();
        places.retain(|_, (name, place)| {
            place.is_ahead() || matches!(place, Place::Asked) || waiting.contains(name)
        });
        for name in waiting {
            let place = match name {
                WalFileName::Segment(_) => Place::Waiting,
                _ => Place::Left,
            };
            places
                .entry(queue::rank(name))
                .or_insert_with(|| (*name, place));
        }
        drop(places);
        self.changed.send_replace(());
    }

    pub(super) fn has_waiting(&self) -> bool {
        let places = self.places();
        let mut places = places.values();
        places.any(|(_, place)| matches!(place, Place::Waiting))
    }

    /// The first that nobody has, to be stored ahead.
    fn begin(&self) -> Option<Begun<'_>> {
        let mut places = self.places();
        let (rank, (name, place)) = places
            .iter_mut()
            .find(|(_, (_, place))| matches!(place, Place::Waiting))?;
        *place = Place::Ahead { wanted: false };
        Some(Begun {
            ahead: self,
            rank: rank.clone(),
            name: *name,
        })
    }

    fn settle(&self, rank: &Rank, was: fn(&Place) -> bool, now: Place) {
        if let Some((_, place)) = self.places().get_mut(rank)
            && was(place)
        {
            *place = now;
        }
        self.changed.send_replace(());
    }

    /// Returns once all but so many before it are stored where these settings say, or once it is wanted; and false if it has
    /// no turn any more.
    async fn turn(&self, rank: &Rank, settings: &Arc<Settings>, but: usize) -> bool {
        let mut changed = self.changed.subscribe();
        loop {
            match self.missing_before(rank, settings) {
                Some(missing) if missing <= but => return true,
                Some(_) => {}
                None => return false,
            }
            // Its sender is ours.
            let _ = changed.changed().await;
        }
    }

    /// How many before it are not stored where these settings say; 0 if it is wanted, and none if it has no turn any more.
    fn missing_before(&self, rank: &Rank, settings: &Arc<Settings>) -> Option<usize> {
        let places = self.places();
        let is_stored = |place: &Place| match place {
            Place::Stored(stored) => Arc::ptr_eq(&stored.settings, settings),
            Place::Answered => true,
            _ => false,
        };
        match places.get(rank)? {
            (_, Place::Ahead { wanted: true }) => Some(0),
            (_, Place::Ahead { wanted: false }) if self.is_asked() => {
                let before = places.range(..rank.clone());
                Some(before.filter(|(_, (_, place))| !is_stored(place)).count())
            }
            _ => None,
        }
    }

    fn knows(&self, name: &WalFileName) -> bool {
        self.places().contains_key(&queue::rank(name))
    }
}

/// A file that Postgres asks for, until this is dropped.
#[derive(Debug)]
pub(super) struct Asking<'a> {
    ahead: &'a Ahead,
    rank: Rank,
    is_done: bool,
}

impl Asking<'_> {
    /// It is stored, and will be answered so.
    pub(super) fn done(mut self) {
        self.is_done = true;
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let now = match self.is_done {
            true => Place::Answered,
            false => Place::Left,
        };
        self.ahead
            .settle(&self.rank, |place| matches!(place, Place::Asked), now);
    }
}

/// A segment that is stored ahead. Dropped on the way, it waits again.
#[derive(Debug)]
pub(super) struct Begun<'a> {
    ahead: &'a Ahead,
    rank: Rank,
    name: WalFileName,
}

impl Begun<'_> {
    fn settle(&self, place: Place) {
        self.ahead.settle(&self.rank, Place::is_ahead, place);
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        // If nothing has become of it.
        self.settle(Place::Waiting);
    }
}

/// What is read ahead is stored in its turn, and only if it is then what it was.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    begun: &'a Begun<'a>,
    settings: &'a Arc<Settings>,
    live: &'a Live,
    file: Identity,
    /// The segment before it.
    previous: Option<WalFileName>,
    room: Mutex<Room>,
}

impl Turn<'_> {
    /// It is packed, and others may be read in the memory that it took. They come to be stored one after the other, so that no more
    /// than one of them at a time is compared with what is there already.
    pub(super) fn needs_only(&self, bytes: u64) {
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        room.shrink(bytes);
        drop(room);
        self.begun.ahead.changed.send_replace(());
    }

    /// Waits until it may be sent, but for its last byte.
    pub(super) async fn comes_soon(&self) -> Result<(), NotArchived> {
        let is_quick = self.begun.ahead.is_quick.load(Ordering::Relaxed);
        self.has_but(if is_quick { UNDER_WAY } else { 0 }).await
    }

    /// Whether nothing before it is missing.
    pub(super) fn has_come(&self) -> bool {
        let Begun { ahead, rank, .. } = self.begun;
        ahead.missing_before(rank, self.settings) == Some(0)
    }

    /// So long it was under way.
    pub(super) fn took(&self, time: Duration) {
        let is_quick = &self.begun.ahead.is_quick;
        is_quick.store(time < QUICK, Ordering::Relaxed);
    }

    async fn has_but(&self, before: usize) -> Result<(), NotArchived> {
        let Begun { ahead, rank, .. } = self.begun;
        match ahead.turn(rank, self.settings, before).await {
            true => Ok(()),
            false => Err(NotArchived::Left),
        }
    }

    /// Waits for it.
    pub(super) async fn wait(&self) -> Result<(), NotArchived> {
        let ahead = self.begun.ahead;
        self.has_but(0).await?;
        // A folder is not listed at one moment: the mark of the one before may have come behind the reader's back.
        let overlooked = self.previous.filter(|previous| !ahead.knows(previous));
        let (settings, name) = (self.settings.clone(), self.begun.name);
        let now = blocking(move || {
            let directory = &settings.postgres.data_directory;
            // Without its mark Postgres was answered, or its directory is another one now.
            let marked = Queue::holds(directory, &name).unwrap_or(false);
            let in_turn = marked
                && !overlooked
                    .is_some_and(|previous| Queue::holds(directory, &previous).unwrap_or(true));
            let file = data_directory::find_wal_file(directory, &name);
            let file = file.ok().flatten().filter(|_| in_turn)?;
            Identity::of(&file).ok()
        });
        let same_file = now.await == Some(self.file);
        // Those before it may have gone to other repositories than it would go to.
        match same_file && Arc::ptr_eq(self.settings, &self.live.get()) {
            true => Ok(()),
            false => Err(NotArchived::Left),
        }
    }
}

impl Archiver {
    /// Stores what Postgres has marked, as much at a time as fits into the memory beside what is asked for. Never ends;
    /// safe to drop.
    pub async fn run_ahead(&self) {
        if !self.budget.ever_spares(WalStore::PUT_MEMORY) {
            std::future::pending::<()>().await;
        }
        tokio::join!(self.look(), self.store_ahead());
    }

    async fn look(&self) {
        let mut asked = self.ahead.asked.subscribe();
        let mut changed = self.ahead.changed.subscribe();
        loop {
            asked.borrow_and_update();
            if !self.ahead.is_asked() {
                let _ = asked.changed().await;
                continue;
            }
            // What can't be looked at is as it was.
            let begun = Instant::now();
            if let Some(waiting) = self.marked().await {
                self.ahead.see(&waiting);
            }
            sleep(LEAST.max(begun.elapsed() * 10)).await;
            let called_for = async {
                while self.ahead.has_waiting() {
                    let _ = changed.changed().await;
                }
                asked.changed().await
            };
            let _ = timeout(LOOK, called_for).await;
        }
    }

    /// What Postgres has marked first; none if it can't be told.
    async fn marked(&self) -> Option<Vec<WalFileName>> {
        let settings = self.settings.get();
        let look = move || Queue::look(&settings.postgres.data_directory, MOST_ENTRIES);
        let mut names = blocking(look).await.ok()?.names;
        names.truncate(HORIZON);
        Some(names)
    }

    async fn store_ahead(&self) {
        let mut changed = self.ahead.changed.subscribe();
        let mut running = FuturesUnordered::new();
        loop {
            if !self.ahead.is_asked() {
                running.clear();
                self.ahead.see(&[]);
            }
            changed.borrow_and_update();
            while running.len() < MOST
                && self.ahead.is_asked()
                && self.ahead.has_waiting()
                && let Some(room) = self.budget.spare(WalStore::PUT_MEMORY)
                && let Some(begun) = self.ahead.begin()
            {
                running.push(self.one_ahead(begun, room));
            }
            tokio::select! {
                Some(()) = running.next() => {}
                _ = changed.changed() => {}
                // There may be memory now.
                () = sleep(LOOK) => {}
            }
        }
    }

    async fn one_ahead(&self, begun: Begun<'_>, room: Room) {
        let settings = self.settings.get();
        let name = begun.name;
        let attempt = async {
            let path = format!("pg_wal/{name}");
            let local = self.local(&settings, name, &path).await?;
            let file = Identity::of(&local.file).map_err(|_| NotArchived::Left)?;
            let previous = before(&name, local.control.segment_size);
            let turn = Turn {
                begun: &begun,
                settings: &settings,
                live: &self.settings,
                file,
                previous,
                room: Mutex::new(room),
            };
            let done = self.store(&settings, name, &local, Some(&turn)).await?;
            Ok::<_, NotArchived>(Stored {
                settings: settings.clone(),
                file,
                done,
                at: Instant::now(),
            })
        };
        // What a bad file does to us it does to who asks for it, and not to those after it.
        let place = match AssertUnwindSafe(attempt).catch_unwind().await {
            Ok(Ok(stored)) => Place::Stored(stored),
            Ok(Err(error)) => {
                tracing::debug!(%name, %error, "not stored ahead");
                Place::Left
            }
            Err(_) => Place::Left,
        };
        begun.settle(place);
    }
}

/// The segment before this one, on its timeline.
fn before(name: &WalFileName, size: SegmentSize) -> Option<WalFileName> {
    let WalFileName::Segment(segment) = name else {
        return None;
    };
    let number = segment.number(size).ok()?.0.checked_sub(1)?;
    let before = SegmentName::new(segment.timeline, SegmentNumber(number), size);
    Some(WalFileName::Segment(before))
}

#[cfg(test)]
mod tests;
