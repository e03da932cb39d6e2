//! The write-ahead log: pages, records, and what a segment's records say.
//!
//! The layouts are those of `access/xlog_internal.h`, `access/xlogrecord.h`, `access/xact.h` and
//! `catalog/pg_control.h`; what is valid is what `xlogreader.c` accepts.

#[cfg(test)]
mod build;
mod header;
mod index;
mod reader;
mod record;
mod scanner;
#[cfg(test)]
mod tests;
mod walk;

pub use header::{HeaderError, SegmentHeader};
pub use index::{ParameterChange, RestorePoint, SegmentIndex, Unfinished, join};
pub use reader::{RecordReader, WalError};
pub use record::{HEAD_LIMIT, Record, RecordKind};
pub use scanner::{SegmentEnd, SegmentScan, SegmentScanner};

/// Bytes of a page header (`SizeOfXLogShortPHD`).
pub(crate) const SHORT_HEADER: usize = 24;
/// Bytes of the page header that begins a segment (`SizeOfXLogLongPHD`).
pub(crate) const LONG_HEADER: usize = 40;

/// Records begin at multiples of this (`MAXIMUM_ALIGNOF`).
pub(crate) fn align(offset: usize) -> usize {
    offset.saturating_add(7) & !7
}
