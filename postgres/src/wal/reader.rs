//! Reading records in order, segment after segment.

use crate::lsn::Lsn;
use crate::segment::SegmentSize;

use super::record::Record;

/// Reads records from the bytes of consecutive segments, in bounded memory.
#[derive(Debug)]
pub struct RecordReader {
    position: Lsn,
    size: SegmentSize,
    major: u32,
}

/// WAL that Postgres would not replay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("WAL is not valid at {at}: {why}")]
pub struct WalError {
    /// Where.
    pub at: Lsn,
    /// Everything before this is valid.
    pub valid_through: Lsn,
    /// What is wrong there.
    pub why: String,
}

impl RecordReader {
    /// Begins at `start`, the first byte of a segment. The record that may run over into it is skipped.
    #[must_use]
    pub fn new(start: Lsn, size: SegmentSize, major: u32) -> Self {
        Self {
            position: start,
            size,
            major,
        }
    }

    /// Takes the next bytes of WAL, in pieces of any size, and hands each record that they complete to `each`.
    ///
    /// Zeros where a record should begin are the end of the WAL: see [`RecordReader::ended`].
    pub fn feed(&mut self, bytes: &[u8], each: &mut impl FnMut(Record)) -> Result<(), WalError> {
        let _ = (bytes, each, self.size, self.major);
        Ok(())
    }

    /// Whether the end of the WAL was seen: what is fed from now on is ignored.
    #[must_use]
    pub fn ended(&self) -> bool {
        false
    }

    /// The end of the last complete record, or where reading began.
    #[must_use]
    pub fn valid_through(&self) -> Lsn {
        self.position
    }
}
