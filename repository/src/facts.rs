//! What is known of a backup without reading its leaves.

use holdfast_postgres::outside::Outside;
use holdfast_postgres::{Lsn, SegmentNumber, SegmentSize, SystemIdentifier, TimelineId};

/// What people and plans want to know of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupFacts {
    /// Its [`crate::backup::BackupId`], as text.
    pub id: String,
    /// The incarnation.
    pub system: SystemIdentifier,
    /// The timeline that it was taken on, from start to stop.
    pub timeline: TimelineId,
    /// Redo point: replay begins here.
    pub start: Lsn,
    /// Consistent from here on.
    pub stop: Lsn,
    /// By the clock of the machine that took it.
    pub start_time: jiff::Timestamp,
    /// By the clock of the machine that took it.
    pub stop_time: jiff::Timestamp,
    /// 14 to 18.
    pub postgres_major: u32,
    /// Of WAL.
    pub segment_size: SegmentSize,
    /// Taken from a server in recovery.
    pub from_standby: bool,
    /// As it was in the data directory and its tablespaces, in bytes.
    pub database_bytes: u64,
    /// What it added to the repository, in bytes.
    pub stored_bytes: u64,
    /// Files, directories not counted.
    pub files: u64,
    /// Whether pages carry checksums.
    pub data_checksums: bool,
    /// Pages that failed their checksum.
    pub page_errors: u64,
    /// Without those that lie in the data directory.
    pub tablespaces: Vec<TablespaceFacts>,
    /// What a server that replays from here must have at least.
    pub settings: RecoverySettings,
    /// What the configuration in it needs from outside of the data directory.
    pub outside: Vec<Outside>,
    /// The backup that it was compared with, which it does not need. None: all was stored.
    pub reference: Option<String>,
    /// What of the data directory was stored anew, in bytes before compression.
    pub changed_bytes: u64,
}

impl BackupFacts {
    /// Full or Incremental.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.reference {
            Some(_) => "Incremental",
            None => "Full",
        }
    }

    /// What a restore takes besides the files, in bytes: the first WAL that recovery fetches.
    #[must_use]
    pub fn wal_room(&self) -> u64 {
        const BYTES: u64 = 64 << 20;
        const SEGMENTS: u64 = 4;
        BYTES + SEGMENTS * u64::from(self.segment_size.bytes())
    }

    /// The last segment of those that make it consistent.
    pub fn last_segment(&self) -> SegmentNumber {
        let first_byte = Lsn(self.start.0.saturating_add(1));
        self.stop.max(first_byte).segment_before(self.segment_size)
    }

    /// The segments that hold WAL from its start to its stop, which make it consistent.
    pub fn segments(&self) -> impl Iterator<Item = SegmentNumber> + use<> {
        let first = self.start.segment(self.segment_size);
        (first.0..=self.last_segment().0).map(SegmentNumber)
    }
}

/// A tablespace outside the data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablespaceFacts {
    /// Names the link under `pg_tblspc`.
    pub oid: u32,
    /// Where it was.
    pub location: String,
    /// In bytes.
    pub bytes: u64,
}

/// The settings that hot standby demands to be at least the primary's (`CheckRequiredParameterValues`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecoverySettings {
    /// `max_connections`
    pub max_connections: i32,
    /// `max_worker_processes`
    pub max_worker_processes: i32,
    /// `max_wal_senders`
    pub max_wal_senders: i32,
    /// `max_prepared_transactions`
    pub max_prepared_transactions: i32,
    /// `max_locks_per_transaction`
    pub max_locks_per_transaction: i32,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_needs_every_segment_that_its_wal_touches() {
        let size = SegmentSize::new(16 << 20).unwrap();
        let mb = 1u64 << 20;
        for (start, stop, want) in [
            (16 * mb + 40, 32 * mb, 1..=1),
            (16 * mb + 40, 32 * mb + 1, 1..=2),
            (16 * mb, 16 * mb, 1..=1),
            (17 * mb, 80 * mb, 1..=4),
        ] {
            let (start, stop) = (Lsn(start), Lsn(stop));
            let facts = crate::reach::sample::backup("a", TimelineId(1), start, stop, size);
            let segments: Vec<u64> = facts.segments().map(|n| n.0).collect();
            assert_eq!(segments, want.collect::<Vec<_>>(), "{start}..{stop}");
        }
    }
}
