//! Which backups stay.

use super::facts::{Incarnation, Observed, Policy, State, Wishes};
use crate::catalogue::{Catalogue, CataloguedBackup};
use crate::facts::BackupFacts;
use holdfast_postgres::{Lineage, TimelineId};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// What of one incarnation stays.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// By id; of those with a manifest.
    pub(super) backups: BTreeMap<String, KeptBackup>,
    /// Why everything stays.
    pub(super) hold: Option<String>,
    /// Where the window begins.
    pub(super) cut: Timestamp,
}

/// A backup that stays.
#[derive(Debug)]
pub(super) struct KeptBackup {
    /// Why.
    pub(super) reason: String,
    /// With which WAL.
    pub(super) wal: WalNeed,
}

/// The WAL that a backup stays with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WalNeed {
    /// All from its start on.
    Onward,
    /// What makes it consistent.
    StartToStop,
}

/// When a backup had ended for certain: the later of the database's clock and the store's.
pub(super) fn ended(incarnation: &Incarnation, backup: &BackupFacts) -> Timestamp {
    match incarnation
        .stored
        .get(&backup.id)
        .map(|stored| stored.state)
    {
        Some(State::Committed(at)) => at.max(backup.stop_time),
        _ => backup.stop_time,
    }
}

impl Kept {
    fn keep(&mut self, id: &str, wal: WalNeed, reason: impl FnOnce() -> String) {
        match self.backups.get_mut(id) {
            None => {
                let reason = reason();
                let kept = KeptBackup { reason, wal };
                self.backups.insert(id.to_owned(), kept);
            }
            Some(kept) if wal == WalNeed::Onward => kept.wal = wal,
            Some(_) => {}
        }
    }

    fn has(&self, id: &str) -> bool {
        self.backups.contains_key(id)
    }
}

/// Decides for each incarnation, in the same order.
pub(super) fn keep(observed: &Observed, policy: &Policy, wishes: &Wishes) -> Vec<Kept> {
    let mut kept: Vec<Kept> = (0..observed.incarnations.len())
        .map(|place| of_incarnation(observed, policy, wishes, place))
        .collect();
    minimum(observed, policy, &mut kept);
    for (incarnation, kept) in observed.incarnations.iter().zip(&mut kept) {
        for backup in &incarnation.catalogue.backups {
            let id = &backup.facts.id;
            let stored = incarnation.stored.get(id).is_some_and(|s| s.forever);
            if (stored || wishes.forever.contains(id)) && !incarnation.asked_to_go(id) {
                kept.keep(id, WalNeed::StartToStop, || {
                    "it is kept for ever".to_owned()
                });
            }
        }
    }
    kept
}

fn of_incarnation(observed: &Observed, policy: &Policy, wishes: &Wishes, place: usize) -> Kept {
    let cut = observed.cut(policy);
    let mut kept = Kept {
        cut,
        ..Kept::default()
    };
    let Some(incarnation) = observed.incarnations.get(place) else {
        return kept;
    };
    let catalogue = &incarnation.catalogue;
    for reader in incarnation.reading(observed.now) {
        if reader.backups.is_empty() {
            kept.hold = Some(format!("{} reads, and may need it", reader.what));
        }
    }
    for CataloguedBackup { facts, .. } in &catalogue.backups {
        for reader in incarnation.reading(observed.now) {
            if reader.backups.contains(&facts.id) {
                kept.keep(&facts.id, WalNeed::Onward, || {
                    format!("{} reads it", reader.what)
                });
            }
        }
        if let Some(what) = wishes.needed.get(&facts.id) {
            kept.keep(&facts.id, WalNeed::Onward, || format!("{what} needs it"));
        }
    }
    for lineage in living(observed, place, cut) {
        along(incarnation, &lineage, &mut kept);
    }
    for backup in &catalogue.backups {
        let facts = &backup.facts;
        let ended = ended(incarnation, facts);
        if ended > cut && !incarnation.asked_to_go(&facts.id) {
            kept.keep(&facts.id, WalNeed::Onward, || within(ended, cut));
        } else if !backup.is_complete() && is_newest_start(catalogue, facts) {
            kept.keep(&facts.id, WalNeed::Onward, || {
                "it is newer than every complete backup, and may become complete".to_owned()
            });
        }
    }
    kept
}

fn within(ended: Timestamp, cut: Timestamp) -> String {
    // Without a window.
    if cut == Timestamp::MIN {
        return "nothing expires".to_owned();
    }
    format!("it ended on {ended:.0}, and the recovery window begins on {cut:.0}")
}

/// The lines on which moments of the window lie: the one that `latest` means, and every one that lived in it.
fn living(observed: &Observed, place: usize, cut: Timestamp) -> Vec<Lineage> {
    let Some(incarnation) = observed.incarnations.get(place) else {
        return Vec::new();
    };
    let is_last = place + 1 == observed.incarnations.len();
    let latest: Option<TimelineId> = incarnation
        .catalogue
        .newest_lineage()
        .filter(|_| is_last)
        .map(|lineage| lineage.newest());
    incarnation
        .catalogue
        .lineages()
        .filter(|lineage| {
            let newest = lineage.newest();
            latest == Some(newest) || observed.lived_until(place, newest) > cut
        })
        .collect()
}

/// Keeps what is needed to reach every moment of the window that lies on a line: the newest backup that had ended when
/// it began, and all later ones. One that shall be deleted stays where an earlier one does not reach as far.
fn along(incarnation: &Incarnation, lineage: &Lineage, kept: &mut Kept) {
    let catalogue = &incarnation.catalogue;
    let cut = kept.cut;
    let asked = |backup: &BackupFacts| incarnation.asked_to_go(&backup.id);
    let reaches = |from: &BackupFacts, to: &BackupFacts| {
        let chain = catalogue.chain(lineage, from.start.segment(catalogue.segment_size));
        from.start <= to.start && chain.end >= to.stop
    };
    // The newest first.
    let backups = catalogue.restorable(lineage);
    let base = backups.iter().position(|b| ended(incarnation, b) <= cut);
    if let Some(base) = base.and_then(|place| backups.get(place..)) {
        let Some(newest) = base.first() else {
            return;
        };
        let stand_in = base
            .iter()
            .find(|b| !asked(b) && ended(incarnation, b) <= cut && reaches(b, newest));
        let base = stand_in.unwrap_or(newest);
        kept.keep(&base.id, WalNeed::Onward, || {
            let why = format!(
                "the recovery window begins on {cut:.0}, and its first moments on timeline {} are reached from here",
                lineage.newest()
            );
            still(asked(base), why)
        });
    }
    let later = backups.iter().rev().filter(|b| ended(incarnation, b) > cut);
    for backup in later {
        let needed = !asked(backup)
            || !backups
                .iter()
                .any(|from| from.id != backup.id && kept.has(&from.id) && reaches(from, backup));
        if needed {
            kept.keep(&backup.id, WalNeed::Onward, || {
                still(asked(backup), within(ended(incarnation, backup), cut))
            });
        }
    }
}

fn still(asked: bool, why: String) -> String {
    if asked {
        format!("it shall be deleted, and is still needed: {why}")
    } else {
        why
    }
}

/// Whether no complete backup began after this one, or beside it on another line.
fn is_newest_start(catalogue: &Catalogue, facts: &BackupFacts) -> bool {
    catalogue
        .backups
        .iter()
        .filter(|other| other.is_complete())
        .all(|other| (other.facts.timeline, other.facts.start) < (facts.timeline, facts.start))
}

/// The newest complete backups stay, whatever their age.
fn minimum(observed: &Observed, policy: &Policy, kept: &mut [Kept]) {
    let least = policy.minimum_backups.max(1) as usize;
    let newest = by_recency(observed);
    let asked = |(place, id): &(usize, String)| {
        observed
            .incarnations
            .get(*place)
            .is_some_and(|incarnation| incarnation.asked_to_go(id))
    };
    let stays = |(place, id): &(usize, String)| kept.get(*place).is_some_and(|k| k.has(id));
    let (wanted, mut rest): (Vec<_>, Vec<_>) = newest.iter().partition(|b| !asked(b));
    // Of those that shall go, one that stays anyhow rather than another.
    rest.sort_by_key(|backup| !stays(backup));
    for backup in wanted.into_iter().chain(rest).take(least) {
        let (place, id) = backup;
        if let Some(kept) = kept.get_mut(*place) {
            kept.keep(id, WalNeed::Onward, || {
                let why = match least {
                    1 => "it is the newest complete backup".to_owned(),
                    _ => format!("it is among the {least} newest complete backups"),
                };
                still(asked(backup), why)
            });
        }
    }
}

/// Complete backups, the newest first: by incarnation, and within it those on the line that `latest` means before all
/// others. What an abandoned branch has is not newer because its timeline or its LSN is higher.
fn by_recency(observed: &Observed) -> Vec<(usize, String)> {
    let mut all = Vec::new();
    for (place, incarnation) in observed.incarnations.iter().enumerate().rev() {
        let catalogue = &incarnation.catalogue;
        let latest = catalogue.newest_lineage();
        let line = latest.iter().flat_map(|l| catalogue.restorable(l));
        let complete = catalogue.backups.iter().rev().filter(|b| b.is_complete());
        let mut seen = BTreeSet::new();
        for facts in line.chain(complete.map(|b| &b.facts)) {
            if seen.insert(&facts.id) {
                all.push((place, facts.id.clone()));
            }
        }
    }
    all
}
