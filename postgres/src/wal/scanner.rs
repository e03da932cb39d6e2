//! Whether a file is a whole segment, and what its records say.

use crate::lsn::Lsn;
use crate::segment::SegmentSize;

use super::header::SegmentHeader;
use super::index::SegmentIndex;
use crate::wal_file_name::SegmentName;

/// Reads one segment as it streams by.
#[derive(Debug)]
pub struct SegmentScanner {
    name: SegmentName,
    size: SegmentSize,
    major: u32,
}

/// What was seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentScan {
    /// Whose WAL it is; none if the first page is not readable.
    pub header: Option<SegmentHeader>,
    /// What its records say.
    pub index: SegmentIndex,
    /// Whether it is whole.
    pub end: SegmentEnd,
}

/// How a segment ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SegmentEnd {
    /// Records reach to its last byte; the last may go on in the next segment.
    Full,
    /// The record at `at` switches to the next segment: the rest is empty.
    Switch {
        /// The switch record's first byte.
        at: Lsn,
    },
    /// Not a whole segment.
    Incomplete {
        /// The end of the last complete record, or the segment's start.
        valid_through: Lsn,
        /// What stands there instead of WAL.
        why: String,
    },
}

impl SegmentEnd {
    /// Whether this is the whole segment: nothing can be added to it.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        !matches!(self, Self::Incomplete { .. })
    }
}

impl SegmentScanner {
    /// Begins a segment of that name, of a server of that major.
    #[must_use]
    pub fn new(name: SegmentName, size: SegmentSize, major: u32) -> Self {
        Self { name, size, major }
    }

    /// Takes the file's next bytes, in pieces of any size.
    pub fn feed(&mut self, bytes: &[u8]) {
        let _ = bytes;
    }

    /// What was seen, now that the whole file was fed.
    #[must_use]
    pub fn finish(self) -> SegmentScan {
        let _ = (self.name, self.size, self.major);
        SegmentScan {
            header: None,
            index: SegmentIndex::default(),
            end: SegmentEnd::Full,
        }
    }
}
