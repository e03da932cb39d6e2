//! What a segment's records say, for the index that is kept beside it.

use crate::control_file::WalLevel;
use crate::lsn::Lsn;
use crate::timestamp::PgTimestamp;

use super::record::{RecordHeader, RecordKind};

/// What the records that start in one segment say.
///
/// Times are not monotonic and ranges prove nothing about one transaction: they narrow a search, reading the
/// records ends it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SegmentIndex {
    /// The first record that starts here.
    pub first_record: Option<Lsn>,
    /// The last record that starts here, complete or not.
    pub last_record: Option<Lsn>,
    /// The end of the last record that completes here, or the start of the one running over. The segment's start
    /// if neither is here.
    pub end: Lsn,
    /// Earliest and latest time of a commit.
    pub commit_times: Option<(PgTimestamp, PgTimestamp)>,
    /// Earliest and latest time of an abort.
    pub abort_times: Option<(PgTimestamp, PgTimestamp)>,
    /// The latest time in any record: commits, aborts, restore points, checkpoints, ends of recovery.
    pub latest_time: Option<PgTimestamp>,
    /// Top-level transactions committed or aborted by these records, in WAL order. A 0 stands for a prepared
    /// transaction whose id was out of reach: it may be any.
    pub xids: Vec<u32>,
    /// Named restore points.
    pub restore_points: Vec<RestorePoint>,
    /// Changes of settings that recovery must match.
    pub parameter_changes: Vec<ParameterChange>,
    /// The first bytes (at most [`super::HEAD_LIMIT`], page headers stripped) of a record continued into this
    /// segment.
    pub continued: Vec<u8>,
    /// How many bytes that record still had at this segment's start, here and in later segments.
    pub continued_length: u32,
    /// The record that starts here and runs over.
    pub unfinished: Option<Unfinished>,
}

/// A record that goes on in the next segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unfinished {
    /// Its first byte.
    pub lsn: Lsn,
    /// Its whole length in bytes, without page headers.
    pub total_length: u32,
    /// How many of them stand in the segment where it starts.
    pub present: u32,
    /// The first of those, at most [`super::HEAD_LIMIT`].
    pub head: Vec<u8>,
}

/// `pg_create_restore_point`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RestorePoint {
    /// The record's first byte.
    pub lsn: Lsn,
    /// The name.
    pub name: String,
    /// When it was made.
    pub time: PgTimestamp,
}

/// The settings that a standby or a recovery must match, as the server wrote them at its start
/// (`xl_parameter_change`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "Postgres' own names")]
pub struct ParameterChange {
    /// The record's first byte.
    pub lsn: Lsn,
    pub wal_level: WalLevel,
    pub max_connections: i32,
    pub max_worker_processes: i32,
    pub max_wal_senders: i32,
    pub max_prepared_xacts: i32,
    pub max_locks_per_xact: i32,
    pub wal_log_hints: bool,
    pub track_commit_timestamp: bool,
}

impl SegmentIndex {
    /// Adds what a record that starts at `lsn` says.
    pub(super) fn add(&mut self, lsn: Lsn, kind: RecordKind) {
        let time = match kind {
            RecordKind::Other | RecordKind::Switch => return,
            RecordKind::Commit { xid, time } => {
                self.xids.push(xid);
                widen(&mut self.commit_times, time);
                time
            }
            RecordKind::Abort { xid, time } => {
                self.xids.push(xid);
                widen(&mut self.abort_times, time);
                time
            }
            RecordKind::RestorePoint { name, time } => {
                self.restore_points.push(RestorePoint { lsn, name, time });
                time
            }
            RecordKind::Checkpoint { time_unix, .. } => PgTimestamp::from_unix_seconds(time_unix),
            RecordKind::EndOfRecovery { time, .. } => time,
            RecordKind::ParameterChange(change) => {
                self.parameter_changes.push(change);
                return;
            }
        };
        self.latest_time = self.latest_time.max(Some(time));
    }
}

fn widen(range: &mut Option<(PgTimestamp, PgTimestamp)>, time: PgTimestamp) {
    let (earliest, latest) = range.unwrap_or((time, time));
    *range = Some((earliest.min(time), latest.max(time)));
}

/// Completes the record that `index` leaves unfinished with the bytes that `next`, the index of the following
/// segment on the same lineage, has of it: what it says is added to `index`. `major` is that of the server which
/// wrote them.
///
/// A record that the next segment does not continue was abandoned in a crash: it is dropped. A record that runs
/// over a whole segment is taken at its beginning's word.
pub fn join(index: &mut SegmentIndex, next: &SegmentIndex, major: u32) {
    let Some(unfinished) = index.unfinished.take() else {
        return;
    };
    let Unfinished {
        lsn,
        total_length,
        present,
        head,
    } = unfinished;
    if next.continued_length == 0
        || present.checked_add(next.continued_length) != Some(total_length)
    {
        return;
    }
    let mut record = head;
    // Only what follows without a hole can be read.
    if record.len() == present as usize {
        record.extend_from_slice(&next.continued);
    }
    if let Some(header) = RecordHeader::parse(&record) {
        index.add(lsn, header.interpret(lsn, &record, major));
    }
}
