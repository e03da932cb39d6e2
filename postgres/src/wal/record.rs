//! One WAL record: its header, and what it says about transactions, times and settings.

use crate::control_file::WalLevel;
use crate::lsn::Lsn;
use crate::timeline::TimelineId;
use crate::timestamp::PgTimestamp;

use super::index::ParameterChange;

/// How much of a record is kept to be interpreted. A record may have a gigabyte; what is asked of it stands near
/// its begin.
pub const HEAD_LIMIT: usize = 64 << 10;

/// A complete record whose checksum holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Its first byte.
    pub lsn: Lsn,
    /// Where the next record may begin (`EndRecPtr`): aligned; after a switch, the next segment.
    pub end: Lsn,
    /// The record before it (`xl_prev`).
    pub prev: Lsn,
    /// The resource manager.
    pub rmid: u8,
    /// Its flags (`xl_info`).
    pub info: u8,
    /// The transaction that wrote it, or 0.
    pub xid: u32,
    /// Its length in bytes, without padding and page headers.
    pub total_length: u32,
    /// What it says.
    pub kind: RecordKind,
}

/// What a record says, as far as recovery targets and backups depend on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RecordKind {
    /// A transaction was committed.
    Commit {
        /// The top-level transaction that `recovery_target_xid` matches; of COMMIT PREPARED, the prepared one.
        xid: u32,
        /// When.
        time: PgTimestamp,
    },
    /// A transaction was rolled back.
    Abort {
        /// As with commits.
        xid: u32,
        /// When.
        time: PgTimestamp,
    },
    /// `pg_create_restore_point`.
    RestorePoint {
        /// The name; bytes that are not UTF-8 are replaced.
        name: String,
        /// When.
        time: PgTimestamp,
    },
    /// The rest of the segment is empty.
    Switch,
    /// A checkpoint.
    Checkpoint {
        /// Where replay from it begins.
        redo: Lsn,
        /// When it began, seconds since 1970.
        time_unix: i64,
        /// Whether the server went on writing meanwhile; else it was shut down.
        online: bool,
        /// The timeline.
        timeline: TimelineId,
        /// The timeline before it, if this checkpoint begins one; else the same.
        prev_timeline: TimelineId,
    },
    /// Recovery ended here and a timeline begins.
    EndOfRecovery {
        /// The new timeline.
        timeline: TimelineId,
        /// The one it left.
        prev_timeline: TimelineId,
        /// When.
        time: PgTimestamp,
    },
    /// The server was started with other settings.
    ParameterChange(ParameterChange),
    /// Anything else.
    Other,
}

/// Whether a number names a `wal_level`.
pub(crate) fn wal_level(value: i32) -> Option<WalLevel> {
    WalLevel::parse(value)
}
