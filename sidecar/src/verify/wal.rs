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
use holdfast_repository::retention::Doomed;
use holdfast_repository::wal::WalStore;
use holdfast_repository::{ObjectError, expiry, layout};
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
    pub(super) going: &'a Doomed,
}

impl Verification {
    /// Reads the WAL that restores of these backups would use: on each one's timeline and on those that came after it,
    /// from its start on, parts of unfinished segments too; and every history file.
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
            let goes = |segments: &BTreeMap<TimelineId, Runs>, number| {
                let segments = segments.get(&timeline);
                segments.is_some_and(|segments| segments.holding(number).is_some())
            };
            listed.retain(|number| !goes(&going.wal, *number));
            let parts = wal.parts(timeline).await;
            let mut parts = parts.map_err(|e| could_not(&e.into()))?;
            parts.retain(|number, _| {
                listed.binary_search(number).is_err() && !goes(&going.parts, *number)
            });
            let from = if whole { first } else { from };
            let without_hole = onward.iter().filter(|b| b.timeline <= timeline);
            let without_hole = without_hole.map(|b| b.start).min();
            for missing in holes(&listed, &parts, timeline, backups, without_hole, size) {
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
                let read = wal.visit(name, |_| {}).await;
                let result = self.read(&layout::segment(wal.system(), name), read);
                results.insert(name, result);
            }
            for (number, _) in parts.range(from.segment(size)..) {
                let name = SegmentName::new(timeline, *number, size);
                let read = read_part(wal, name).await;
                let result = self.read(&layout::parts_of(wal.system(), name), read);
                // One that is missing as a whole stays so.
                results.entry(name).or_insert(result);
            }
        }
        Ok(results)
    }

    /// What came of reading something.
    fn read(&mut self, object: &str, read: Result<(), ObjectError>) -> VerifyResult {
        match read {
            Ok(()) => VerifyResult::Good,
            Err(e) if e.is_damage() || e.is_not_found() => {
                self.damage(object, None, &e);
                VerifyResult::Damaged
            }
            Err(e) => {
                self.unknown.push(e.to_string());
                VerifyResult::Unknown
            }
        }
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

/// Reads all that is stored of an unfinished segment. That it went since it was listed is no damage.
async fn read_part(wal: &WalStore, name: SegmentName) -> Result<(), ObjectError> {
    if let Some(mut part) = wal.part(name).await? {
        while part.next().await?.is_some() {}
    }
    Ok(())
}

/// What is missing of a timeline: between its segments, from `without_hole` on, and what its backups need. Of `parts`,
/// the segments that are not whole and how far each is stored, a backup needs no more than to its stop. Pure.
fn holes(
    listed: &[SegmentNumber],
    parts: &BTreeMap<SegmentNumber, u32>,
    timeline: TimelineId,
    backups: &[BackupFacts],
    without_hole: Option<Lsn>,
    size: SegmentSize,
) -> Vec<SegmentNumber> {
    let there: BTreeSet<u64> = listed.iter().map(|n| n.0).collect();
    let reaches = |number: u64, stop: Lsn| {
        let number = SegmentNumber(number);
        let stored = parts.get(&number).copied().unwrap_or(0);
        number.start(size).0.saturating_add(u64::from(stored)) >= stop.0
    };
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
                .filter(|n| !there.contains(n) && !reaches(*n, facts.stop))
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
                holes(
                    &numbers(listed),
                    &BTreeMap::new(),
                    TimelineId(1),
                    &[],
                    from,
                    size
                ),
                numbers(want),
                "{listed:?}"
            );
        }
    }

    #[test]
    fn a_part_is_enough_for_a_backup_that_stops_within_it() {
        let size = SegmentSize::new(16 << 20).unwrap();
        let facts = BackupFacts {
            id: "a".into(),
            system: SystemIdentifier(7),
            timeline: TimelineId(1),
            start: Lsn(0x200_0028),
            stop: Lsn(0x400_1000),
            start_time: jiff::Timestamp::UNIX_EPOCH,
            stop_time: jiff::Timestamp::UNIX_EPOCH,
            postgres_major: 17,
            segment_size: size,
            from_standby: false,
            database_bytes: 0,
            stored_bytes: 0,
            files: 0,
            data_checksums: true,
            page_errors: 0,
            tablespaces: vec![],
            settings: Default::default(),
            outside: Vec::new(),
            reference: None,
            changed_bytes: 0,
        };
        for (listed, part, want) in [
            (&[2, 3, 4][..], None, &[][..]),
            (&[2, 3], None, &[4]),
            (&[2, 3], Some((4, 0x1000)), &[]),
            (&[2, 3], Some((4, 0xFFF)), &[4]),
            // It is no whole segment.
            (&[2, 4], Some((3, 0x1000)), &[3]),
            (&[2, 3, 5], Some((4, 0x1000)), &[4]),
        ] {
            let numbers =
                |list: &[u64]| list.iter().copied().map(SegmentNumber).collect::<Vec<_>>();
            let parts = part.map(|(number, end)| (SegmentNumber(number), end));
            let parts = parts.into_iter().collect();
            let from = Some(facts.start);
            let backups = std::slice::from_ref(&facts);
            let found = holes(&numbers(listed), &parts, TimelineId(1), backups, from, size);
            assert_eq!(found, numbers(want), "{listed:?} {part:?}");
        }
    }
}
