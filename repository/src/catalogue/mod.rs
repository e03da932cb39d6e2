//! What an incarnation's archive holds: timelines with their WAL, and backups; and what follows from that alone.
//!
//! Nothing here is stored: whether a backup is complete, and where WAL has a hole, is computed from listings.

mod chain;
mod load;
mod look_up;
mod runs;
#[cfg(test)]
mod tests;

pub use chain::Chain;
pub use load::CatalogueError;
pub(crate) use load::timelines;
pub use look_up::{LookedUp, incarnation_of, look_up};
pub use runs::{Run, Runs};

use crate::facts::BackupFacts;
use holdfast_postgres::{
    Lineage, Lsn, SegmentName, SegmentNumber, SegmentSize, SystemIdentifier, TimelineHistory,
    TimelineId,
};
use std::collections::BTreeMap;

/// What one incarnation's archive holds.
#[derive(Debug, Clone)]
pub struct Catalogue {
    /// The incarnation.
    pub system: SystemIdentifier,
    /// Of its WAL.
    pub segment_size: SegmentSize,
    /// Of its server, 14 to 18.
    pub major: u32,
    /// By number.
    pub timelines: Vec<Timeline>,
    /// Those with a manifest, by timeline and start.
    pub backups: Vec<CataloguedBackup>,
    /// Ids of those without one: running, or interrupted.
    pub unfinished: Vec<String>,
    /// Id and reason of those with a damaged manifest.
    pub unreadable: Vec<(String, String)>,
}

/// A timeline that has WAL or a history file.
#[derive(Debug, Clone, Default)]
pub struct Timeline {
    /// Its number.
    pub id: TimelineId,
    /// Where it came from; none without a readable history file.
    pub history: Option<TimelineHistory>,
    /// What is wrong with its history file.
    pub damaged_history: Option<String>,
    /// Its whole segments.
    pub runs: Runs,
    /// Of the segments that are not whole: where the longest run of parts of one writer ends that has no hole, as an
    /// offset in the segment, in bytes.
    pub parts: BTreeMap<SegmentNumber, u32>,
    /// All segments of which there is any part, whole or not, and however many holes there are: what may be deleted.
    pub with_parts: Runs,
    /// Of the objects of its whole segments, in bytes.
    pub stored_bytes: u64,
    /// When its history file was stored, by the store's clock; 1970 without one.
    pub began: jiff::Timestamp,
    /// When the newest of its segments and parts was stored, by the store's clock; 1970 without one.
    pub newest: jiff::Timestamp,
}

/// A backup with a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CataloguedBackup {
    /// As its manifest says.
    pub facts: BackupFacts,
    /// The first segment between its start and its stop that is not there. Without one the backup is complete.
    pub missing: Option<SegmentName>,
}

impl CataloguedBackup {
    /// Whether it can be restored.
    pub fn is_complete(&self) -> bool {
        self.missing.is_none()
    }
}

/// WAL that is not there although something later on the same lineage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The first missing byte.
    pub from: Lsn,
    /// The first byte that is there again.
    pub to: Lsn,
}

impl Catalogue {
    /// Computes what follows. `timelines` may come in any order.
    pub fn new(
        system: SystemIdentifier,
        segment_size: SegmentSize,
        major: u32,
        mut timelines: Vec<Timeline>,
        backups: Vec<BackupFacts>,
    ) -> Self {
        timelines.sort_by_key(|timeline| timeline.id);
        let mut catalogue = Self {
            system,
            segment_size,
            major,
            timelines,
            backups: Vec::new(),
            unfinished: Vec::new(),
            unreadable: Vec::new(),
        };
        catalogue.backups = backups
            .into_iter()
            .map(|facts| CataloguedBackup {
                missing: catalogue.missing(&facts),
                facts,
            })
            .collect();
        catalogue.backups.sort_by(|a, b| {
            (a.facts.timeline, a.facts.start, &a.facts.id).cmp(&(
                b.facts.timeline,
                b.facts.start,
                &b.facts.id,
            ))
        });
        catalogue
    }

    /// A timeline that is known.
    pub fn timeline(&self, id: TimelineId) -> Option<&Timeline> {
        self.timelines.iter().find(|timeline| timeline.id == id)
    }

    fn runs(&self, id: TimelineId) -> Option<&Runs> {
        self.timeline(id).map(|timeline| &timeline.runs)
    }

    /// The line of a timeline. None if it is unknown, or if it is not the first and its history file is not there:
    /// Postgres refuses to follow such a one.
    pub fn lineage(&self, id: TimelineId) -> Option<Lineage> {
        let known = self.timeline(id);
        match known.and_then(|timeline| timeline.history.as_ref()) {
            Some(history) => Some(Lineage::from(history)),
            None if id == TimelineId(1) => Some(Lineage::single(id)),
            None => None,
        }
    }

    /// The lines that can be followed, newest first.
    pub fn lineages(&self) -> impl Iterator<Item = Lineage> + '_ {
        self.timelines
            .iter()
            .rev()
            .filter_map(|timeline| self.lineage(timeline.id))
    }

    /// Whether a backup lies on a lineage: its timeline does, and was left only after the backup had ended.
    pub fn is_on(&self, backup: &BackupFacts, lineage: &Lineage) -> bool {
        lineage.timeline_at(backup.start) == backup.timeline
            && lineage.contains(backup.timeline, backup.stop)
    }

    /// The first segment between a backup's start and stop that is missing on a lineage.
    pub fn missing_on(&self, backup: &BackupFacts, lineage: &Lineage) -> Option<SegmentName> {
        let chain = self.chain(lineage, backup.start.segment(self.segment_size));
        (chain.end < backup.stop).then_some(chain.missing)
    }

    /// The backups that can be restored along a lineage, the newest first.
    pub fn restorable(&self, lineage: &Lineage) -> Vec<&BackupFacts> {
        let usable = |facts: &&BackupFacts| {
            self.is_on(facts, lineage) && self.missing_on(facts, lineage).is_none()
        };
        let mut backups: Vec<&BackupFacts> = self
            .backups
            .iter()
            .map(|backup| &backup.facts)
            .filter(usable)
            .collect();
        backups.sort_by(|a, b| (b.start, b.stop, &b.id).cmp(&(a.start, a.stop, &a.id)));
        backups
    }

    /// The highest timeline that descends from a complete backup: what `latest` means.
    pub fn newest_lineage(&self) -> Option<Lineage> {
        self.lineages()
            .find(|lineage| !self.restorable(lineage).is_empty())
    }

    /// On its own timeline, or on one that took over from it before its last segment was archived.
    fn missing(&self, backup: &BackupFacts) -> Option<SegmentName> {
        let own = self
            .lineage(backup.timeline)
            .unwrap_or_else(|| Lineage::single(backup.timeline));
        let missing = self.missing_on(backup, &own)?;
        let elsewhere = self.lineages().any(|lineage| {
            self.is_on(backup, &lineage) && self.missing_on(backup, &lineage).is_none()
        });
        (!elsewhere).then_some(missing)
    }

    /// The holes in a timeline's WAL: between its own segments, before them where its parent does not reach, and after
    /// them where a child goes on later.
    pub fn gaps(&self, timeline: &Timeline) -> Vec<Gap> {
        let size = self.segment_size;
        let mut gaps = Vec::new();
        let Some((first, last)) = timeline.runs.first().zip(timeline.runs.last()) else {
            return gaps;
        };
        let switch = timeline
            .history
            .as_ref()
            .and_then(TimelineHistory::parent)
            .map(|parent| parent.switch);
        if let Some(switch) = switch.filter(|switch| switch.segment(size) < first) {
            gaps.push(Gap {
                from: switch,
                to: first.start(size),
            });
        }
        let runs: Vec<Run> = timeline.runs.iter().collect();
        let after = |last: SegmentNumber| {
            let stored = timeline.parts.get(&last.next()).copied().unwrap_or(0);
            Lsn(last.end(size).0.saturating_add(u64::from(stored)))
        };
        gaps.extend(runs.windows(2).filter_map(|pair| match pair {
            [one, next] => Some(Gap {
                from: after(one.last),
                to: next.first.start(size),
            }),
            _ => None,
        }));
        let taken_over = self.timelines.iter().filter_map(|child| {
            let parent = child
                .history
                .as_ref()?
                .parent()
                .filter(|parent| parent.timeline == timeline.id)?;
            child.runs.first().map(|_| parent.switch.segment(size))
        });
        // A child's first file begins with what its parent wrote into the same segment.
        if let Some(begin) = taken_over.max().filter(|begin| last.next() < *begin) {
            gaps.push(Gap {
                from: after(last),
                to: begin.start(size),
            });
        }
        gaps
    }
}
