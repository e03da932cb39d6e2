//! Whether a file is a whole segment, and what its records say.

use crate::lsn::Lsn;
use crate::segment::SegmentSize;
use crate::wal_file_name::SegmentName;

use super::header::SegmentHeader;
use super::index::SegmentIndex;
use super::record::{HEAD_LIMIT, Record};
use super::walk::{Sink, Walk};

/// Reads one segment as it streams by.
///
/// It is whole only if its records parse to its last byte or to a switch, and each is held against its checksum
/// and its predecessor. Whose WAL it is, beyond name, size and major, is for the caller to check on
/// [`SegmentScan::header`].
#[derive(Debug)]
pub struct SegmentScanner {
    size: SegmentSize,
    /// None where no segment of this size has this name; why stands in `misnamed`.
    walk: Option<Walk>,
    misnamed: String,
    fed: u64,
    seen: Seen,
}

/// What the walk tells.
#[derive(Debug, Default)]
struct Seen {
    header: Option<SegmentHeader>,
    index: SegmentIndex,
}

impl Sink for Seen {
    fn segment(&mut self, header: &SegmentHeader) {
        self.header = Some(*header);
    }

    fn continued(&mut self, remaining: u32, bytes: &[u8]) {
        if self.index.continued_length == 0 {
            self.index.continued_length = remaining;
        }
        let room = HEAD_LIMIT.saturating_sub(self.index.continued.len());
        self.index
            .continued
            .extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
    }

    fn abandoned(&mut self) {
        self.index.continued_length = 0;
        self.index.continued.clear();
    }

    fn record(&mut self, record: Record) {
        self.index.first_record.get_or_insert(record.lsn);
        self.index.last_record = Some(record.lsn);
        self.index.add(record.lsn, record.kind);
    }
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
        let (walk, misnamed) = match name.number(size) {
            Ok(number) => (
                Some(Walk::new(
                    number.start(size),
                    size,
                    major,
                    Some(name.timeline),
                )),
                String::new(),
            ),
            Err(error) => (None, error.to_string()),
        };
        Self {
            size,
            walk,
            misnamed,
            fed: 0,
            seen: Seen::default(),
        }
    }

    /// Takes the file's next bytes, in pieces of any size.
    pub fn feed(&mut self, bytes: &[u8]) {
        let room = u64::from(self.size.bytes())
            .saturating_sub(self.fed)
            .min(bytes.len() as u64);
        self.fed = self.fed.saturating_add(bytes.len() as u64);
        if let Some(walk) = &mut self.walk {
            walk.feed(
                bytes.get(..room as usize).unwrap_or_default(),
                &mut self.seen,
            );
        }
    }

    /// What was seen, now that the whole file was fed.
    #[must_use]
    pub fn finish(self) -> SegmentScan {
        let Self {
            size,
            walk,
            misnamed,
            fed,
            mut seen,
        } = self;
        let Some(mut walk) = walk else {
            let end = SegmentEnd::Incomplete {
                valid_through: Lsn::INVALID,
                why: misnamed,
            };
            return SegmentScan {
                header: None,
                index: seen.index,
                end,
            };
        };
        let expected = u64::from(size.bytes());
        if fed != expected {
            walk.cut_short(
                format!("the file has {fed} bytes instead of {expected}"),
                &mut seen,
            );
        }
        seen.index.unfinished = walk.unfinished();
        if let Some(unfinished) = &seen.index.unfinished {
            seen.index.first_record.get_or_insert(unfinished.lsn);
            seen.index.last_record = Some(unfinished.lsn);
        }
        seen.index.end = seen
            .index
            .unfinished
            .as_ref()
            .map_or(walk.valid_through(), |unfinished| unfinished.lsn);
        let end = if let Some((error, _)) = walk.stopped() {
            SegmentEnd::Incomplete {
                valid_through: error.valid_through,
                why: format!("at {}: {}", error.at, error.why),
            }
        } else if let Some(at) = walk.switched_at() {
            SegmentEnd::Switch { at }
        } else {
            SegmentEnd::Full
        };
        SegmentScan {
            header: seen.header,
            index: seen.index,
            end,
        }
    }
}
