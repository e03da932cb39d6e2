//! Verifying the WAL that restores would use.

use super::{Verification, could_not};
use crate::exit::Failure;
use crate::status::{Damage, VerifyResult};
use holdfast_postgres::{
    Lsn, SegmentName, SegmentNumber, SegmentSize, SystemIdentifier, TimelineId, WalFileName,
};
use holdfast_repository::backup::BackupId;
use holdfast_repository::catalogue::Runs;
use holdfast_repository::facts::BackupFacts;
use holdfast_repository::wal::WalStore;
use holdfast_repository::{expiry, layout};
use std::collections::{BTreeMap, BTreeSet};

/// What decides which WAL is read.
pub(super) struct Needed<'a> {
    /// Those that are verified.
    pub(super) backups: &'a [BackupFacts],
    /// The newest of all.
    pub(super) newest: &'a str,
    /// All backups are verified, so all their WAL is.
    pub(super) whole: bool,
    /// What is announced to go is not looked at.
    pub(super) going: &'a BTreeMap<TimelineId, Runs>,
}

impl Verification {
    /// Reads the WAL that restores of these backups would use: on each one's timeline and on those that came after it,
    /// from its start on; and every history file.
    pub(super) async fn wal(
        &mut self,
        wal: &WalStore,
        needed: &Needed<'_>,
    ) -> Result<BTreeMap<SegmentName, VerifyResult>, Failure> {
        let Needed {
            backups,
            newest,
            whole,
            going,
        } = *needed;
        let size = wal.segment_size();
        let mut results = BTreeMap::new();
        let Some(first) = backups.iter().map(|b| b.start).min() else {
            return Ok(results);
        };
        let onward = self.onward(wal.system(), backups, newest).await?;
        let histories = wal
            .history_timelines()
            .await
            .map_err(|e| could_not(&e.into()))?;
        for &timeline in &histories {
            match wal.history(timeline).await {
                Ok(_) => {}
                Err(e) if e.is_damage() => self.damage(
                    &layout::wal_file(wal.system(), &WalFileName::History(timeline))
                        .unwrap_or_default(),
                    None,
                    &e,
                ),
                Err(e) => self.unknown.push(e.to_string()),
            }
        }
        for timeline in wal.timelines().await.map_err(|e| could_not(&e.into()))? {
            // Segments follow their history file, so it was there.
            if timeline > TimelineId(1) && !histories.contains(&timeline) {
                self.status.damage.push(Damage {
                    object: layout::wal_file(wal.system(), &WalFileName::History(timeline))
                        .unwrap_or_default(),
                    file: None,
                    reason: format!(
                        "it is missing, and timeline {timeline} can't be reached without it"
                    ),
                });
            }
            let Some(from) = backups
                .iter()
                .filter(|b| b.timeline <= timeline)
                .map(|b| b.start)
                .min()
            else {
                continue;
            };
            let mut listed = wal
                .segments(timeline)
                .await
                .map_err(|e| could_not(&e.into()))?;
            if let Some(going) = going.get(&timeline) {
                listed.retain(|segment| going.holding(*segment).is_none());
            }
            let from = if whole { first } else { from };
            let without_hole = onward.iter().filter(|b| b.timeline <= timeline);
            let without_hole = without_hole.map(|b| b.start).min();
            for missing in holes(&listed, timeline, backups, without_hole, size) {
                let name = SegmentName::new(timeline, missing, size);
                results.insert(name, VerifyResult::Damaged);
                let reason =
                    "it is missing, and later WAL of its timeline or a backup needs it".to_owned();
                self.status.damage.push(Damage {
                    object: layout::segment(wal.system(), name),
                    file: None,
                    reason,
                });
            }
            for number in listed.into_iter().filter(|n| *n >= from.segment(size)) {
                let name = SegmentName::new(timeline, number, size);
                let result = match wal.visit(name, |_| {}).await {
                    Ok(()) => VerifyResult::Good,
                    Err(e) if e.is_damage() || e.is_not_found() => {
                        self.damage(&layout::segment(wal.system(), name), None, &e);
                        VerifyResult::Damaged
                    }
                    Err(e) => {
                        self.unknown.push(e.to_string());
                        VerifyResult::Unknown
                    }
                };
                results.insert(name, result);
            }
        }
        Ok(results)
    }

    /// Those that stay with all later WAL. Where one is kept for ever beyond its time, only that between its start and
    /// its stop stays.
    async fn onward<'a>(
        &mut self,
        system: SystemIdentifier,
        backups: &'a [BackupFacts],
        newest: &str,
    ) -> Result<Vec<&'a BackupFacts>, Failure> {
        let mut onward = Vec::with_capacity(backups.len());
        for facts in backups {
            let Ok(id) = facts.id.parse::<BackupId>() else {
                continue;
            };
            let forever = match expiry::kept_for_ever(&self.archive, system, &id).await {
                Err(e) if e.is_damage() => {
                    self.damage(&layout::keeps(system, &facts.id), None, &e);
                    false
                }
                other => other.map_err(|e| could_not(&e))?,
            };
            if !forever || facts.id == newest {
                onward.push(facts);
            }
        }
        Ok(onward)
    }
}

/// What is missing of a timeline: between its segments, from `without_hole` on, and what its backups need. Pure.
fn holes(
    listed: &[SegmentNumber],
    timeline: TimelineId,
    backups: &[BackupFacts],
    without_hole: Option<Lsn>,
    size: SegmentSize,
) -> Vec<SegmentNumber> {
    let there: BTreeSet<u64> = listed.iter().map(|n| n.0).collect();
    let mut missing = BTreeSet::new();
    let from = without_hole.map_or(u64::MAX, |lsn| lsn.segment(size).0);
    for (a, b) in there.range(from..).zip(there.range(from..).skip(1)) {
        // A damaged listing can't make this endless.
        missing.extend((a + 1..*b).take(10_000));
    }
    for facts in backups.iter().filter(|b| b.timeline == timeline) {
        missing.extend(
            facts
                .segments()
                .map(|n| n.0)
                .filter(|n| !there.contains(n))
                .take(10_000),
        );
    }
    missing.into_iter().map(SegmentNumber).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_seen_between_segments_but_not_past_the_end() {
        let size = SegmentSize::new(16 << 20).unwrap();
        let numbers = |list: &[u64]| list.iter().copied().map(SegmentNumber).collect::<Vec<_>>();
        for (listed, from, want) in [
            (&[1, 2, 3][..], Some(0), &[][..]),
            (&[1, 4], Some(0), &[2, 3]),
            (&[1, 4, 6], Some(4), &[5]),
            (&[1, 4, 6], Some(5), &[]),
            // All are kept for ever, each with its own.
            (&[1, 4, 6], None, &[]),
            (&[], Some(0), &[]),
        ] {
            let from = from.map(|n| SegmentNumber(n).start(size));
            assert_eq!(
                holes(&numbers(listed), TimelineId(1), &[], from, size),
                numbers(want),
                "{listed:?}"
            );
        }
    }
}
