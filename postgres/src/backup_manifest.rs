//! The `backup_manifest` that `pg_verifybackup` reads (`backup_manifest.c`, `parse_manifest.c`).

use std::io::{self, Write};

use jiff::Timestamp;

use crate::lsn::Lsn;
use crate::timeline::{SystemIdentifier, TimelineId};

/// Writes a manifest as the files of a backup become known.
#[derive(Debug)]
pub struct Writer<W: Write> {
    to: W,
}

/// WAL that must be replayed to make a backup consistent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalRange {
    /// Its timeline.
    pub timeline: TimelineId,
    /// From here.
    pub start: Lsn,
    /// To here (exclusive).
    pub end: Lsn,
}

impl<W: Write> Writer<W> {
    /// Begins a manifest: version 1 up to Postgres 16; version 2, with the system identifier, from 17 on.
    pub fn new(
        to: W,
        version: u32,
        system_identifier: Option<SystemIdentifier>,
    ) -> io::Result<Self> {
        let _ = (version, system_identifier);
        Ok(Self { to })
    }

    /// Adds a file: its path relative to the data directory (tablespaces through `pg_tblspc/<oid>`), size in bytes,
    /// time of change, and CRC-32C, without which only its size is verified.
    pub fn file(
        &mut self,
        path: impl AsRef<[u8]>,
        size: u64,
        modified: Timestamp,
        crc32c: Option<u32>,
    ) -> io::Result<()> {
        let _ = (path.as_ref(), size, modified, crc32c);
        Ok(())
    }

    /// Ends a manifest whose WAL is all on one timeline.
    pub fn finish(self, timeline: TimelineId, start: Lsn, end: Lsn) -> io::Result<W> {
        self.finish_ranges(&[WalRange {
            timeline,
            start,
            end,
        }])
    }

    /// Ends a manifest; a backup that saw a promotion has a range for each timeline, newest first.
    pub fn finish_ranges(self, ranges: &[WalRange]) -> io::Result<W> {
        let _ = ranges;
        Ok(self.to)
    }
}
