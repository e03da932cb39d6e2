//! How archiving goes, for reports.

use super::{BestEffort, NotArchived};
use holdfast_postgres::{Lsn, SegmentName, SegmentSize, TimelineId};
use holdfast_repository::wal::StoredThrough;
use jiff::Timestamp;

/// How archiving goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArchiveProgress {
    /// Since the start.
    pub archived: u64,
    /// Calls that were answered with an error since the start.
    pub failed: u64,
    /// The last file that was archived, and when.
    pub last_archived: Option<(String, Timestamp)>,
    /// The last file that was not, or could not be until now, why, and when. None once a later call went well.
    pub last_failure: Option<(String, String, Timestamp)>,
    /// How far it has come; none before the first segment.
    pub through: Option<Through>,
    /// What is stored of the segment that is being written.
    pub written: Option<Written>,
    /// What is to be stored for a primary that is gone.
    pub left: Option<Left>,
    /// Whether what is being written is followed.
    pub streaming: Streaming,
    /// What repositories lack that nobody waits for.
    pub best_effort: Vec<BestEffort>,
}

/// Whether what a server is writing is followed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum Streaming {
    /// It is not to be, or there is no primary here that could be.
    #[default]
    Off,
    /// It is.
    Follows,
    /// Why not.
    Fails(String),
}

/// The stored beginning of the segment that a server is writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Of the segment.
    pub timeline: TimelineId,
    /// Its first byte.
    pub start: Lsn,
    /// After the last byte that is stored.
    pub stored: Lsn,
    /// The end of the last complete record that is stored.
    pub end: Lsn,
    /// The last commit of it.
    pub last_commit: Option<Timestamp>,
    /// Until then nothing else was flushed.
    pub as_of: Timestamp,
}

/// The first segment that this server received as a standby, and that is not known to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Of the timeline that this server left when it was promoted.
    pub segment: SegmentName,
    /// When it was seen to be complete; none if before this program began, or took other settings.
    pub since: Option<Timestamp>,
}

/// The end of what is stored without a break, as far as is known: Postgres hands over one segment after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Through {
    /// Of the last segment.
    pub timeline: TimelineId,
    /// The last segment's end.
    pub boundary: Lsn,
    /// The end of its last complete record.
    pub end: Lsn,
    /// The last commit up to there, as far as is known.
    pub last_commit: Option<Timestamp>,
}

impl Through {
    /// After this segment.
    pub(super) fn of(
        segment: SegmentName,
        size: SegmentSize,
        stored: &StoredThrough,
    ) -> Option<Self> {
        Some(Self {
            timeline: segment.timeline,
            boundary: segment.number(size).ok()?.next().start(size),
            end: stored.end,
            last_commit: stored.last_commit.map(|commit| commit.to_jiff()),
        })
    }
}

impl ArchiveProgress {
    /// An attempt at a file went wrong.
    pub(super) fn fails(&mut self, name: &str, why: &NotArchived) {
        let name = name.chars().take(80).collect();
        self.last_failure = Some((name, why.to_string(), Timestamp::now()));
    }

    /// How far what is stored reaches without a break: into the segment that is being written, if all before it is known to
    /// be stored.
    pub fn reaches(&self) -> Option<Through> {
        let through = self.through?;
        let follows = |written: &Written| {
            (written.timeline, written.start) == (through.timeline, through.boundary)
                && written.end > written.start
        };
        Some(match self.written.filter(follows) {
            None => through,
            Some(written) => Through {
                end: written.end,
                last_commit: written.last_commit.or(through.last_commit),
                ..through
            },
        })
    }

    /// What is archived again, or out of turn, is no progress.
    pub(super) fn advance(&mut self, to: Through) {
        let before = self.through;
        let is_further = before
            .is_none_or(|before| (before.timeline, before.boundary) < (to.timeline, to.boundary));
        if is_further {
            self.through = Some(Through {
                last_commit: to
                    .last_commit
                    .or(before.and_then(|before| before.last_commit)),
                ..to
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_further_is_progress() {
        let at = |timeline, boundary, commit: Option<i64>| Through {
            timeline: TimelineId(timeline),
            boundary: Lsn(boundary),
            end: Lsn(boundary - 1),
            last_commit: commit.map(|s| Timestamp::from_second(s).unwrap()),
        };
        let mut progress = ArchiveProgress::default();
        for (next, expected) in [
            (at(1, 100, None), at(1, 100, None)),
            (at(1, 200, Some(7)), at(1, 200, Some(7))),
            // Idle: the last commit is still the last.
            (at(1, 300, None), at(1, 300, Some(7))),
            // Again.
            (at(1, 200, Some(9)), at(1, 300, Some(7))),
            (at(1, 300, Some(9)), at(1, 300, Some(7))),
            // A new timeline begins before the end of the old one.
            (at(2, 250, Some(8)), at(2, 250, Some(8))),
            (at(1, 400, Some(9)), at(2, 250, Some(8))),
        ] {
            progress.advance(next);
            assert_eq!(progress.through, Some(expected));
        }
    }
}
