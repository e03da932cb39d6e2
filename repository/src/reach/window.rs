//! The recovery window: from the earliest to the latest moment that can be reached.

use super::Indexes;
use super::scan::{Passed, Scan};
use crate::catalogue::Catalogue;
use crate::facts::BackupFacts;
use crate::object::ObjectError;
use holdfast_postgres::{Lineage, Lsn, PgTimestamp, SegmentNumber, TimelineId};
use jiff::Timestamp;
use std::fmt;

/// The moments that can be reached along a lineage, both ends included. Each works as a target.
///
/// Where WAL is missing between backups, not every moment between the ends can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The newest of the lineage.
    pub timeline: TimelineId,
    /// Where the earliest complete backup is consistent.
    pub earliest_lsn: Lsn,
    /// When it had ended.
    pub earliest_time: Timestamp,
    /// The end of the WAL that can be replayed; the last record before a start with `wal_level = minimal`, if that
    /// comes after the newest backup.
    pub latest_lsn: Lsn,
    /// The newest commit or rollback in it; the newest backup's end if that is later.
    pub latest_time: Timestamp,
}

impl Window {
    /// Of what `latest` means; none if no backup is complete.
    pub async fn of(
        catalogue: &Catalogue,
        source: &impl Indexes,
    ) -> Result<Option<Self>, ObjectError> {
        match catalogue.newest_lineage() {
            Some(lineage) => Self::along(catalogue, source, &lineage).await,
            None => Ok(None),
        }
    }

    /// Along a lineage; none if no complete backup leads there.
    pub async fn along(
        catalogue: &Catalogue,
        source: &impl Indexes,
        lineage: &Lineage,
    ) -> Result<Option<Self>, ObjectError> {
        let backups = catalogue.restorable(lineage);
        let (Some(newest), Some(oldest)) = (
            backups.first(),
            backups
                .iter()
                .min_by_key(|backup| (backup.stop, backup.start)),
        ) else {
            return Ok(None);
        };
        let size = catalogue.segment_size;
        let chain_of = |backup: &BackupFacts| catalogue.chain(lineage, backup.start.segment(size));
        let (first_chain, last_chain) = (chain_of(oldest), chain_of(newest));
        // A clock that was ahead: such a moment would be past before the backup is consistent.
        let on_the_way = Scan {
            source,
            chain: &first_chain,
            size,
        }
        .passed_until(oldest.start, oldest.stop)
        .await?;
        let last = Scan {
            source,
            chain: &last_chain,
            size,
        };
        // Recovery from the newest backup gives up where the server was started with wal_level = minimal.
        let (_, passed) = last.first_stop(newest.start, None, None).await?;
        let (latest_lsn, latest_end) = match passed.minimal {
            None => (
                last.end().await?,
                newest_end(&last, newest.start.segment(size)).await?,
            ),
            Some(minimal) => {
                // Postgres stops at a record, or before one: what lies before this one must do.
                let before = last.passed_until(newest.start, minimal).await?;
                let commit = before
                    .last_end()
                    .map(|time| PgTimestamp(time.0.saturating_sub(1)));
                (last.before(minimal).await?.max(newest.stop), commit)
            }
        };
        Ok(Some(Self {
            timeline: lineage.newest(),
            earliest_lsn: oldest.stop,
            earliest_time: oldest.stop_time.max(
                on_the_way
                    .last_end()
                    .map_or(Timestamp::MIN, PgTimestamp::to_jiff),
            ),
            latest_lsn,
            latest_time: newest
                .stop_time
                .max(latest_end.map_or(Timestamp::MIN, PgTimestamp::to_jiff)),
        }))
    }
}

/// The newest commit or rollback, looked for backwards from the end.
async fn newest_end<I: Indexes>(
    scan: &Scan<'_, I>,
    first: SegmentNumber,
) -> Result<Option<PgTimestamp>, ObjectError> {
    let mut number = scan.chain.last();
    while let Some(current) = number.filter(|number| *number >= first) {
        let passed: Passed = scan.passed_through(current).await?;
        if let Some(time) = passed.last_end() {
            return Ok(Some(time));
        }
        number = current.0.checked_sub(1).map(SegmentNumber);
    }
    Ok(None)
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            timeline,
            earliest_lsn,
            earliest_time,
            latest_lsn,
            latest_time,
        } = self;
        write!(
            f,
            "on timeline {timeline} what can be reached lies between {earliest_time} ({earliest_lsn}) and {latest_time} ({latest_lsn})"
        )
    }
}
