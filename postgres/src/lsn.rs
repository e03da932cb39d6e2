//! A position in the write-ahead log.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::segment::{SegmentNumber, SegmentSize};

/// A byte position in the WAL of a cluster (`XLogRecPtr`). Zero is "none".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// `InvalidXLogRecPtr`: no position.
    pub const INVALID: Self = Self(0);

    /// Whether this is a position at all.
    #[must_use]
    pub fn is_valid(self) -> bool {
        self != Self::INVALID
    }

    /// The segment that holds this byte (`XLByteToSeg`).
    #[must_use]
    pub fn segment(self, size: SegmentSize) -> SegmentNumber {
        SegmentNumber(self.0 / u64::from(size.bytes()))
    }

    /// The segment that holds the byte before this one (`XLByteToPrevSeg`): the last one that a range up to here
    /// needs.
    #[must_use]
    pub fn segment_before(self, size: SegmentSize) -> SegmentNumber {
        Self(self.0.saturating_sub(1)).segment(size)
    }

    /// How many bytes into its segment this is.
    #[must_use]
    pub fn segment_offset(self, size: SegmentSize) -> u32 {
        (self.0 % u64::from(size.bytes())) as u32
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is no LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not an LSN: write two hexadecimal numbers with a slash between them, as in 16/B374D848"
)]
pub struct ParseLsnError(String);

impl FromStr for Lsn {
    type Err = ParseLsnError;

    /// As `pg_lsn_in` reads it: one to eight hexadecimal digits on each side.
    fn from_str(text: &str) -> Result<Self, ParseLsnError> {
        let half = |digits: &str| {
            let well_formed =
                matches!(digits.len(), 1..=8) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            well_formed
                .then(|| u64::from_str_radix(digits, 16).ok())
                .flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Self(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| ParseLsnError(text.chars().take(64).collect()))
    }
}

impl Serialize for Lsn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms() {
        for (text, value) in [
            ("0/0", 0),
            ("16/B374D848", 0x16_B374_D848),
            ("FFFFFFFF/FFFFFFFF", u64::MAX),
            ("0/1000000", 0x100_0000),
            ("ab/cd", 0xAB_0000_00CD),
        ] {
            assert_eq!(text.parse::<Lsn>(), Ok(Lsn(value)), "{text}");
            assert_eq!(Lsn(value).to_string(), text.to_uppercase());
        }
        for text in [
            "",
            "/",
            "0",
            "0/",
            "/0",
            "0/123456789",
            "0/+1",
            "0/ 1",
            "x/1",
            "0/1/2",
            "-1/0",
        ] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }

    #[test]
    fn segments_of_a_position() {
        let size = SegmentSize::new(16 << 20).expect("16 MiB");
        assert_eq!(Lsn(0x200_0000).segment(size), SegmentNumber(2));
        assert_eq!(Lsn(0x200_0000).segment_before(size), SegmentNumber(1));
        assert_eq!(Lsn(0x200_0001).segment_before(size), SegmentNumber(2));
        assert_eq!(Lsn(0).segment_before(size), SegmentNumber(0));
        assert_eq!(Lsn(0x2FF_FFFF).segment_offset(size), 0xFF_FFFF);
    }
}
