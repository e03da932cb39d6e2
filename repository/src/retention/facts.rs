//! What is known when retention decides.

use crate::catalogue::{Catalogue, Run, Runs};
use holdfast_postgres::{SegmentNumber, TimelineId};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How far back, and how many at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Every moment from so long ago until now can be recovered to. None: from the beginning; then no WAL goes, and of
    /// backups only what a person wants to go.
    pub recovery_window: Option<Duration>,
    /// So many complete backups stay however old they are; one at least does.
    pub minimum_backups: u32,
}

/// What somebody wants beside the policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Backups that something unfinished names, such as a restore, and what that is.
    pub needed: BTreeMap<String, String>,
    /// Backups that stay for ever, besides those of which the repository says so.
    pub forever: BTreeSet<String>,
}

/// One archive in one repository.
#[derive(Debug, Clone)]
pub struct Observed {
    /// By the store's clock, before anything else was read.
    pub now: Timestamp,
    /// The same moment by our own clock.
    pub our_clock: Timestamp,
    /// The oldest first.
    pub incarnations: Vec<Incarnation>,
}

/// One incarnation of it.
#[derive(Debug, Clone)]
pub struct Incarnation {
    /// Timelines with their WAL, and backups.
    pub catalogue: Catalogue,
    /// When it began, by the store's clock.
    pub began: Timestamp,
    /// By id: all that has a folder under `backups/`, or packs.
    pub stored: BTreeMap<String, StoredBackup>,
    /// Those who read, as their signs of life tell.
    pub readers: Vec<Reader>,
    /// What tombstones name already.
    pub doomed: Doomed,
}

/// How far a backup has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its manifest was created then, by the store's clock.
    Committed(Timestamp),
    /// It was given up then, by the store's clock.
    Aborted(Timestamp),
    /// No manifest: it runs, or was interrupted.
    Open,
}

/// What is stored of a backup besides its facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBackup {
    /// How far it has come.
    pub state: State,
    /// When its newest sign of life or pack was stored, by the store's clock.
    pub last_sign: Timestamp,
    /// Whether the repository says that it stays for ever.
    pub forever: bool,
    /// Whether it has any object under `backups/` besides its manifest.
    pub signs: bool,
    /// Its own packs that are there.
    pub packs: PackNumbers,
    /// By the backup that wrote them: the packs that it needs. Empty unless committed.
    pub uses: BTreeMap<String, PackNumbers>,
}

/// Somebody who reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    /// Names it, as in its objects' keys.
    pub name: String,
    /// For people.
    pub what: String,
    /// Of its newest sign of life, by the store's clock.
    pub last_sign: Timestamp,
    /// The backups that it reads, with all WAL from their start on; none: anything.
    pub backups: Vec<String>,
}

/// What is to be deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Doomed {
    /// By id.
    pub backups: BTreeMap<String, Request>,
    /// Whole segments.
    pub wal: BTreeMap<TimelineId, Runs>,
    /// Segments whose parts go, all of them.
    pub parts: BTreeMap<TimelineId, Runs>,
}

/// Why a backup is to be deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// For people.
    pub reason: String,
    /// Somebody asked for it, as opposed to retention.
    pub by_person: bool,
}

/// Numbers of packs of one backup. Grows with holes, not with packs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackNumbers(Runs);

impl PackNumbers {
    /// Adds one.
    pub fn insert(&mut self, number: u32) {
        self.0.insert(SegmentNumber(u64::from(number)));
    }

    /// Adds those of `other`.
    pub fn add(&mut self, other: &Self) {
        other.0.iter().for_each(|run| self.0.insert_run(run));
    }

    /// Those that are not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self(self.0.without(&other.0))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.count()
    }

    /// Each, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0
            .iter()
            .flat_map(|Run { first, last }| first.0..=last.0)
            .filter_map(|number| u32::try_from(number).ok())
    }
}

impl FromIterator<u32> for PackNumbers {
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> Self {
        let mut packs = Self::default();
        numbers.into_iter().for_each(|number| packs.insert(number));
        packs
    }
}

impl Doomed {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        let mut wal = self.wal.values().chain(self.parts.values());
        self.backups.is_empty() && wal.all(Runs::is_empty)
    }

    /// What retention named.
    #[must_use]
    pub fn announced(&self) -> Self {
        let mut announced = self.clone();
        announced.backups.retain(|_, request| !request.by_person);
        announced
    }

    /// What persons want to go, whether or not it is needed still.
    #[must_use]
    pub fn asked(&self) -> Self {
        let mut backups = self.backups.clone();
        backups.retain(|_, request| request.by_person);
        Self {
            backups,
            ..Self::default()
        }
    }

    /// Adds what `other` names; who was asked for stays so.
    pub fn add(&mut self, other: &Self) {
        for (id, request) in &other.backups {
            let known = self
                .backups
                .entry(id.clone())
                .or_insert_with(|| request.clone());
            if request.by_person && !known.by_person {
                known.clone_from(request);
            }
        }
        for (ours, theirs) in [(&mut self.wal, &other.wal), (&mut self.parts, &other.parts)] {
            for (timeline, runs) in theirs {
                let known = ours.entry(*timeline).or_default();
                runs.iter().for_each(|run| known.insert_run(run));
            }
        }
    }

    /// What is named here and in `other` as well.
    #[must_use]
    pub fn both(&self, other: &Self) -> Self {
        let mut common = self.clone();
        common
            .backups
            .retain(|id, _| other.backups.contains_key(id));
        for (ours, theirs) in [
            (&mut common.wal, &other.wal),
            (&mut common.parts, &other.parts),
        ] {
            for (timeline, runs) in &mut *ours {
                let theirs = theirs.get(timeline);
                *runs = theirs.map(|theirs| runs.both(theirs)).unwrap_or_default();
            }
            ours.retain(|_, runs| !runs.is_empty());
        }
        common
    }

    /// What is named here and not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut left = self.clone();
        left.backups.retain(|id, _| !other.backups.contains_key(id));
        for (ours, theirs) in [(&mut left.wal, &other.wal), (&mut left.parts, &other.parts)] {
            for (timeline, runs) in &mut *ours {
                if let Some(theirs) = theirs.get(timeline) {
                    *runs = runs.without(theirs);
                }
            }
            ours.retain(|_, runs| !runs.is_empty());
        }
        left
    }
}

/// A moment some time before another.
pub(super) fn before(moment: Timestamp, by: Duration) -> Timestamp {
    jiff::SignedDuration::try_from(by)
        .ok()
        .and_then(|by| moment.checked_sub(by).ok())
        .unwrap_or(Timestamp::MIN)
}

impl Observed {
    /// Where the recovery window begins.
    pub(super) fn cut(&self, policy: &Policy) -> Timestamp {
        policy
            .recovery_window
            .map_or(Timestamp::MIN, |window| before(self.now, window))
    }

    /// Until when a timeline was the living one, at the most: when its newest segment was stored, or when something
    /// took over from it, a newer timeline or the next incarnation; until now if nothing has.
    pub(super) fn lived_until(&self, place: usize, id: TimelineId) -> Timestamp {
        let Some(incarnation) = self.incarnations.get(place) else {
            return self.now;
        };
        let timelines = &incarnation.catalogue.timelines;
        let taken_over = timelines
            .iter()
            .filter(|timeline| timeline.id > id)
            .map(|timeline| timeline.began)
            .min();
        let next = self.incarnations.get(place + 1).map(|next| next.began);
        let newest = incarnation
            .catalogue
            .timeline(id)
            .map_or(Timestamp::MIN, |timeline| timeline.newest);
        newest.max(taken_over.or(next).unwrap_or(self.now))
    }
}

impl Incarnation {
    /// Whether anything under this id has shown a sign of life lately, and is not finished.
    pub(super) fn runs(&self, now: Timestamp, id: &str) -> bool {
        self.stored.get(id).is_some_and(|stored| {
            stored.state == State::Open && stored.last_sign > before(now, super::LIFE)
        })
    }

    /// The backups that run.
    pub(super) fn running(&self, now: Timestamp) -> impl Iterator<Item = &str> {
        self.stored
            .keys()
            .map(String::as_str)
            .filter(move |id| self.runs(now, id))
    }

    /// Those who read.
    pub(super) fn reading(&self, now: Timestamp) -> impl Iterator<Item = &Reader> {
        self.readers
            .iter()
            .filter(move |reader| reader.last_sign > before(now, super::LIFE))
    }

    /// Whether somebody asked that a backup be deleted.
    pub(super) fn asked_to_go(&self, id: &str) -> bool {
        self.doomed
            .backups
            .get(id)
            .is_some_and(|request| request.by_person)
    }
}
