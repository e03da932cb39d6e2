//! Reading records in order, segment after segment.

use crate::lsn::Lsn;
use crate::segment::SegmentSize;

use super::header::SegmentHeader;
use super::record::Record;
use super::walk::{Sink, Walk};

/// Reads records from the bytes of consecutive segments, in bounded memory.
#[derive(Debug, Clone)]
pub struct RecordReader {
    walk: Walk,
}

/// WAL that Postgres would not replay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("WAL is not valid at {at}: {why}")]
pub struct WalError {
    /// Where.
    pub at: Lsn,
    /// The end of the last complete record.
    pub valid_through: Lsn,
    /// What is wrong there.
    pub why: String,
}

impl RecordReader {
    /// Begins at `start`, the first byte of a segment of a server of that major. The record that may run over into
    /// it is skipped.
    #[must_use]
    pub fn new(start: Lsn, size: SegmentSize, major: u32) -> Self {
        Self {
            walk: Walk::new(start, size, major, None),
        }
    }

    /// Takes the next bytes of WAL, in pieces of any size, and hands each record that they complete to `each`.
    ///
    /// Zeros where a record or a page should begin are the end of the WAL, and no error: see
    /// [`RecordReader::ended`]. After that, what is fed is ignored; after an error it is refused with the same.
    pub fn feed(&mut self, bytes: &[u8], each: &mut impl FnMut(Record)) -> Result<(), WalError> {
        self.walk.feed(bytes, &mut Each(each));
        match self.walk.stopped() {
            Some((error, false)) => Err(error.clone()),
            Some((_, true)) | None => Ok(()),
        }
    }

    /// Whether the end of the WAL was seen.
    #[must_use]
    pub fn ended(&self) -> bool {
        matches!(self.walk.stopped(), Some((_, true)))
    }

    /// The end of the last complete record (`EndRecPtr`), or where reading began.
    #[must_use]
    pub fn valid_through(&self) -> Lsn {
        self.walk.valid_through()
    }
}

struct Each<'a, F>(&'a mut F);

impl<F: FnMut(Record)> Sink for Each<'_, F> {
    fn segment(&mut self, _: &SegmentHeader) {}

    fn continued(&mut self, _: u32, _: &[u8]) {}

    fn abandoned(&mut self) {}

    fn record(&mut self, record: Record) {
        (self.0)(record);
    }
}
