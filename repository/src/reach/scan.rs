//! Following the WAL of a chain: where a rule stops, and what was passed on the way.

use super::Indexes;
use super::rule::{Rule, Side, describe};
use crate::catalogue::Chain;
use crate::facts::RecoverySettings;
use crate::object::ObjectError;
use futures::{StreamExt, TryStreamExt, stream};
use holdfast_postgres::wal::{ParameterChange, Record, RecordKind, SegmentIndex, join};
use holdfast_postgres::{Lsn, PgTimestamp, SegmentName, SegmentNumber, SegmentSize, WalLevel};
use std::ops::ControlFlow;

/// Indexes fetched ahead, at most.
const AHEAD: u64 = 16;
/// Of WAL whose indexes are held at once, in bytes: an index has at most some eighth of its segment.
const HELD: u64 = 256 << 20;
/// No record is longer, in bytes.
const LONGEST_RECORD: u64 = 1 << 30;
/// Bytes of a page's header, and of the one that begins a segment.
const PAGE_HEADER: u64 = 24;
const SEGMENT_HEADER: u64 = 40;
const PAGE: u64 = 8192;

/// Reads along a chain.
pub(super) struct Scan<'a, I> {
    pub(super) source: &'a I,
    pub(super) chain: &'a Chain,
    pub(super) size: SegmentSize,
}

/// The record at which recovery stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StopRecord {
    pub(super) lsn: Lsn,
    pub(super) end: Lsn,
    pub(super) side: Side,
    /// For people.
    pub(super) what: String,
}

impl StopRecord {
    /// Everything before this is replayed.
    pub(super) fn reached(&self) -> Lsn {
        match self.side {
            Side::Before => self.lsn,
            Side::After => self.end,
        }
    }
}

/// What the WAL on the way says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Passed {
    /// The newest commit.
    pub(super) last_commit: Option<PgTimestamp>,
    /// The newest rollback.
    last_abort: Option<PgTimestamp>,
    /// The newest time in any record.
    pub(super) latest_time: Option<PgTimestamp>,
    settings: RecoverySettings,
    /// The first record that says `wal_level = minimal`: Postgres gives up there.
    pub(super) minimal: Option<Lsn>,
}

/// The end of a chain's WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tail {
    /// Of the last complete record.
    pub(super) end: Lsn,
    /// Where that starts.
    pub(super) last_record: Lsn,
}

impl Passed {
    pub(super) fn add(&mut self, other: &Self) {
        self.last_commit = self.last_commit.max(other.last_commit);
        self.last_abort = self.last_abort.max(other.last_abort);
        self.latest_time = self.latest_time.max(other.latest_time);
        self.settings = larger(self.settings, other.settings);
        self.minimal = self.minimal.into_iter().chain(other.minimal).min();
    }

    /// The newest commit or rollback.
    pub(super) fn last_end(&self) -> Option<PgTimestamp> {
        self.last_commit.max(self.last_abort)
    }

    pub(super) fn at_least(&self, settings: RecoverySettings) -> RecoverySettings {
        larger(self.settings, settings)
    }

    /// `from`: what starts before is in the backup.
    fn add_index(&mut self, index: &SegmentIndex, from: Lsn) {
        self.last_commit = self
            .last_commit
            .max(index.commit_times.map(|(_, latest)| latest));
        self.last_abort = self
            .last_abort
            .max(index.abort_times.map(|(_, latest)| latest));
        self.latest_time = self.latest_time.max(index.latest_time);
        index
            .parameter_changes
            .iter()
            .for_each(|change| self.add_change(change.lsn, change, from));
    }

    fn add_record(&mut self, record: &Record, from: Lsn) {
        let time = match &record.kind {
            RecordKind::Commit { time, .. } => {
                self.last_commit = self.last_commit.max(Some(*time));
                *time
            }
            RecordKind::Abort { time, .. } => {
                self.last_abort = self.last_abort.max(Some(*time));
                *time
            }
            RecordKind::RestorePoint { time, .. } | RecordKind::EndOfRecovery { time, .. } => *time,
            RecordKind::Checkpoint { time_unix, .. } => PgTimestamp::from_unix_seconds(*time_unix),
            RecordKind::ParameterChange(change) => {
                return self.add_change(record.lsn, change, from);
            }
            RecordKind::Switch | RecordKind::Other => return,
        };
        self.latest_time = self.latest_time.max(Some(time));
    }

    fn add_change(&mut self, lsn: Lsn, change: &ParameterChange, from: Lsn) {
        if change.wal_level == WalLevel::Minimal && lsn >= from {
            self.minimal = Some(self.minimal.map_or(lsn, |first| first.min(lsn)));
        }
        let settings = RecoverySettings {
            max_connections: change.max_connections,
            max_worker_processes: change.max_worker_processes,
            max_wal_senders: change.max_wal_senders,
            max_prepared_transactions: change.max_prepared_xacts,
            max_locks_per_transaction: change.max_locks_per_xact,
        };
        self.settings = larger(self.settings, settings);
    }
}

fn larger(a: RecoverySettings, b: RecoverySettings) -> RecoverySettings {
    RecoverySettings {
        max_connections: a.max_connections.max(b.max_connections),
        max_worker_processes: a.max_worker_processes.max(b.max_worker_processes),
        max_wal_senders: a.max_wal_senders.max(b.max_wal_senders),
        max_prepared_transactions: a.max_prepared_transactions.max(b.max_prepared_transactions),
        max_locks_per_transaction: a.max_locks_per_transaction.max(b.max_locks_per_transaction),
    }
}

impl<I: Indexes> Scan<'_, I> {
    /// The first record that starts at `from` or later at which `rule` stops, and what was passed up to it; all that
    /// the segments before `until` hold if there is none. Of the first segment everything counts as passed: what lies
    /// before `from` is in the backup.
    pub(super) async fn first_stop(
        &self,
        from: Lsn,
        until: Option<SegmentNumber>,
        rule: Option<&Rule>,
    ) -> Result<(Option<StopRecord>, Passed), ObjectError> {
        let mut passed = Passed::default();
        let Some(last) = self.chain.last() else {
            return Ok((None, passed));
        };
        // The index after the last one completes what runs over.
        let files = self.chain.files(
            from.segment(self.size),
            until.map_or(last, |until| until.min(last)),
        );
        let ahead = (HELD / u64::from(self.size.bytes())).clamp(1, AHEAD) as usize;
        let mut indexes = stream::iter(files)
            .map(|(number, name)| async move {
                Ok::<_, ObjectError>((number, self.source.index(name).await?))
            })
            .buffered(ahead);
        let mut next = indexes.try_next().await?;
        while let Some((number, mut index)) = next {
            if until.is_some_and(|until| number >= until) {
                break;
            }
            next = indexes.try_next().await?;
            if let Some((_, following)) = &next {
                join(&mut index, following, self.source.major());
            }
            let cut = self.chain.cut && number == last;
            if cut || rule.is_some_and(|rule| rule.may_match(&index)) {
                let (stop, until_there) = self.look_at(number, from, rule).await?;
                if cut || stop.is_some() {
                    passed.add(&until_there);
                    if stop.is_some() {
                        return Ok((stop, passed));
                    }
                    continue;
                }
            }
            passed.add_index(&index, from);
        }
        Ok((None, passed))
    }

    /// The same within one segment, by its records.
    async fn look_at(
        &self,
        number: SegmentNumber,
        from: Lsn,
        rule: Option<&Rule>,
    ) -> Result<(Option<StopRecord>, Passed), ObjectError> {
        let (mut stop, mut passed) = (None, Passed::default());
        self.records(number, |record| {
            if record.lsn >= from
                && let Some(side) = rule.and_then(|rule| rule.stops(&record))
            {
                if side == Side::After {
                    passed.add_record(&record, from);
                }
                stop = Some(StopRecord {
                    lsn: record.lsn,
                    end: record.end,
                    side,
                    what: describe(&record),
                });
                return ControlFlow::Break(());
            }
            passed.add_record(&record, from);
            ControlFlow::Continue(())
        })
        .await?;
        Ok((stop, passed))
    }

    /// What is passed from the segment of `from` to a position.
    pub(super) async fn passed_until(&self, from: Lsn, to: Lsn) -> Result<Passed, ObjectError> {
        let segment = to.segment_before(self.size);
        let (_, mut passed) = self.first_stop(from, Some(segment), None).await?;
        self.records(segment, |record| {
            if record.end > to {
                return ControlFlow::Break(());
            }
            passed.add_record(&record, from);
            ControlFlow::Continue(())
        })
        .await?;
        Ok(passed)
    }

    /// What one segment says.
    pub(super) async fn passed_through(
        &self,
        number: SegmentNumber,
    ) -> Result<Passed, ObjectError> {
        let (_, passed) = self
            .first_stop(number.start(self.size), Some(number.next()), None)
            .await?;
        Ok(passed)
    }

    /// The complete records that start in a segment and end within the chain.
    async fn records(
        &self,
        number: SegmentNumber,
        mut each: impl FnMut(Record) -> ControlFlow<()> + Send,
    ) -> Result<(), ObjectError> {
        let Some(file) = self.chain.file(number) else {
            return Ok(());
        };
        let longest = LONGEST_RECORD / u64::from(self.size.bytes()) + 1;
        let following: Vec<SegmentName> = self
            .chain
            .files(
                number.next(),
                SegmentNumber(number.0.saturating_add(longest)),
            )
            .map(|(_, name)| name)
            .collect();
        let end = self.chain.end;
        self.source
            .records(file, &following, move |record| {
                if record.end > end {
                    ControlFlow::Break(())
                } else {
                    each(record)
                }
            })
            .await
    }

    /// The end of the last complete record.
    pub(super) async fn end(&self) -> Result<Lsn, ObjectError> {
        if self.chain.cut {
            return Ok(self.tail().await?.end);
        }
        let mut number = self.chain.last();
        while let Some((current, file)) =
            number.and_then(|number| Some((number, self.chain.file(number)?)))
        {
            let index = self.source.index(file).await?;
            // Nothing ended here: the record that began before may not end at all.
            if index.end > current.start(self.size) {
                return Ok(index.end);
            }
            number = current.0.checked_sub(1).map(SegmentNumber);
        }
        Ok(self.chain.end)
    }

    /// The last complete record.
    pub(super) async fn tail(&self) -> Result<Tail, ObjectError> {
        let mut number = self.chain.last();
        while let Some(current) = number.filter(|number| self.chain.file(*number).is_some()) {
            let mut tail = None;
            self.records(current, |record| {
                tail = Some(Tail {
                    end: record.end,
                    last_record: record.lsn,
                });
                ControlFlow::Continue(())
            })
            .await?;
            if let Some(tail) = tail {
                return Ok(tail);
            }
            number = current.0.checked_sub(1).map(SegmentNumber);
        }
        let place = self.chain.missing.to_string();
        Err(ObjectError::damaged(
            &place,
            "no complete record lies before it",
        ))
    }

    /// The record before the one that starts at `lsn`; that one itself if it can't be told.
    pub(super) async fn before(&self, lsn: Lsn) -> Result<Lsn, ObjectError> {
        let mut before = lsn;
        self.records(lsn.segment(self.size), |record| {
            if record.lsn < lsn {
                return ControlFlow::Continue(());
            }
            before = record.prev;
            ControlFlow::Break(())
        })
        .await?;
        Ok(before)
    }

    /// Where the record after `end` would start: headers of pages lie between, and are no distance.
    pub(super) fn next_position(&self, end: Lsn) -> Lsn {
        let header = match end.0 {
            at if end.segment_offset(self.size) == 0 => at.saturating_add(SEGMENT_HEADER),
            at if at % PAGE == 0 => at.saturating_add(PAGE_HEADER),
            at => at,
        };
        Lsn(header)
    }
}
