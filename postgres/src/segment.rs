//! The files that the WAL is cut into.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::lsn::Lsn;

/// The size of a WAL segment, chosen at initdb: a power of two from 1 MiB to 1 GiB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct SegmentSize(u32);

/// A number that is no segment size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes is not a WAL segment size: it must be a power of two from 1 MiB to 1 GiB")]
pub struct SegmentSizeError(u32);

impl SegmentSize {
    /// What initdb chooses unless told otherwise: 16 MiB.
    pub const DEFAULT: Self = Self(16 << 20);

    /// Checks the size in bytes (`IsValidWalSegSize`).
    pub fn new(bytes: u32) -> Result<Self, SegmentSizeError> {
        if bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes) {
            Ok(Self(bytes))
        } else {
            Err(SegmentSizeError(bytes))
        }
    }

    /// The size in bytes.
    #[must_use]
    pub fn bytes(self) -> u32 {
        self.0
    }

    /// How many segments share the middle eight digits of their names (`XLogSegmentsPerXLogId`).
    #[must_use]
    pub fn segments_per_log(self) -> u64 {
        (1 << 32) / u64::from(self.0)
    }
}

impl TryFrom<u32> for SegmentSize {
    type Error = SegmentSizeError;

    fn try_from(bytes: u32) -> Result<Self, SegmentSizeError> {
        Self::new(bytes)
    }
}

impl From<SegmentSize> for u32 {
    fn from(size: SegmentSize) -> Self {
        size.0
    }
}

impl fmt::Display for SegmentSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0 >> 20)
    }
}

/// A segment's place in the WAL, counted from LSN 0 (`XLogSegNo`), whatever its timeline.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct SegmentNumber(pub u64);

impl SegmentNumber {
    /// Its first byte. Saturates beyond the last position that exists.
    #[must_use]
    pub fn start(self, size: SegmentSize) -> Lsn {
        Lsn(self.0.saturating_mul(u64::from(size.bytes())))
    }

    /// The byte after its last one.
    #[must_use]
    pub fn end(self, size: SegmentSize) -> Lsn {
        self.next().start(size)
    }

    /// The segment that follows.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for bytes in (20..=30).map(|n| 1 << n) {
            assert_eq!(SegmentSize::new(bytes).map(SegmentSize::bytes), Ok(bytes));
        }
        for bytes in [0, 1, 1 << 19, 1 << 31, (1 << 20) + 1, 3 << 20] {
            assert!(SegmentSize::new(bytes).is_err(), "{bytes}");
        }
        assert_eq!(SegmentSize::DEFAULT.segments_per_log(), 256);
        assert_eq!(
            SegmentSize::new(1 << 30).map(SegmentSize::segments_per_log),
            Ok(4)
        );
    }

    #[test]
    fn bounds_of_a_segment() {
        let number = SegmentNumber(3);
        assert_eq!(number.start(SegmentSize::DEFAULT), Lsn(0x300_0000));
        assert_eq!(number.end(SegmentSize::DEFAULT), Lsn(0x400_0000));
        assert_eq!(
            SegmentNumber(u64::MAX).end(SegmentSize::DEFAULT),
            Lsn(u64::MAX)
        );
    }
}
