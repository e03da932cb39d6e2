//! The names of the files in pg_wal that are archived.

use std::fmt;
use std::str::FromStr;

use crate::segment::{SegmentNumber, SegmentSize};
use crate::timeline::TimelineId;

/// The 24 digits that name a WAL segment: timeline, log, segment.
///
/// What the last two stand for depends on the segment size, so a name alone says no LSN.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SegmentName {
    /// The timeline that the file belongs to.
    pub timeline: TimelineId,
    /// The upper 32 bits of the LSN of its first byte.
    pub log: u32,
    /// Its number among the segments of that log.
    pub segment: u32,
}

/// A name that Postgres never archives.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalNameError {
    /// Not the form of any WAL file.
    #[error(
        "'{0}' is not the name of a WAL segment, .partial, .history or .backup file: pass %f, never a path"
    )]
    Malformed(String),
    /// The form of a segment, but not with this segment size.
    #[error("no segment of {size} is named '{name}': is the segment size that of pg_control?")]
    NotOfThisSize {
        /// The name.
        name: SegmentName,
        /// The segment size it was held against.
        size: SegmentSize,
    },
}

impl SegmentName {
    /// The name of a segment on a timeline.
    #[must_use]
    pub fn new(timeline: TimelineId, number: SegmentNumber, size: SegmentSize) -> Self {
        let per_log = size.segments_per_log();
        // Positions end at 64 bits, so the log number of every segment that exists fits.
        Self {
            timeline,
            log: (number.0 / per_log) as u32,
            segment: (number.0 % per_log) as u32,
        }
    }

    /// The segment's number, if a segment of that size can have this name.
    pub fn number(self, size: SegmentSize) -> Result<SegmentNumber, WalNameError> {
        if u64::from(self.segment) < size.segments_per_log() {
            Ok(SegmentNumber(
                u64::from(self.log) * size.segments_per_log() + u64::from(self.segment),
            ))
        } else {
            Err(WalNameError::NotOfThisSize { name: self, size })
        }
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:08X}{:08X}{:08X}",
            self.timeline.0, self.log, self.segment
        )
    }
}

/// Eight upper-case hexadecimal digits.
fn word(text: &str) -> Option<u32> {
    let well_formed = text.len() == 8
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
    well_formed
        .then(|| u32::from_str_radix(text, 16).ok())
        .flatten()
}

fn segment_name(text: &str) -> Option<SegmentName> {
    Some(SegmentName {
        timeline: TimelineId(word(text.get(..8)?)?),
        log: word(text.get(8..16)?)?,
        segment: word(text.get(16..)?)?,
    })
}

fn malformed(text: &str) -> WalNameError {
    WalNameError::Malformed(text.chars().take(80).collect())
}

impl FromStr for SegmentName {
    type Err = WalNameError;

    fn from_str(text: &str) -> Result<Self, WalNameError> {
        segment_name(text).ok_or_else(|| malformed(text))
    }
}

/// The name of any file that Postgres hands to archive_command or asks of restore_command (`%f`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum WalFileName {
    /// A WAL segment.
    Segment(SegmentName),
    /// What a timeline had written of its last segment when it was left.
    Partial(SegmentName),
    /// Where a timeline came from.
    History(TimelineId),
    /// A note about a base backup that began in this segment.
    BackupHistory {
        /// The segment of the backup's start.
        segment: SegmentName,
        /// The start's offset in it.
        offset: u32,
    },
}

impl FromStr for WalFileName {
    type Err = WalNameError;

    fn from_str(text: &str) -> Result<Self, WalNameError> {
        let parsed = match text.split_once('.') {
            None => segment_name(text).map(Self::Segment),
            Some((stem, "partial")) => segment_name(stem).map(Self::Partial),
            Some((stem, "history")) => {
                word(stem).map(|timeline| Self::History(TimelineId(timeline)))
            }
            Some((stem, rest)) => rest.strip_suffix(".backup").and_then(|offset| {
                Some(Self::BackupHistory {
                    segment: segment_name(stem)?,
                    offset: word(offset)?,
                })
            }),
        };
        parsed.ok_or_else(|| malformed(text))
    }
}

impl fmt::Display for WalFileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(name) => name.fmt(f),
            Self::Partial(name) => write!(f, "{name}.partial"),
            Self::History(timeline) => write!(f, "{:08X}.history", timeline.0),
            Self::BackupHistory { segment, offset } => write!(f, "{segment}.{offset:08X}.backup"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_every_kind() {
        let segment = SegmentName {
            timeline: TimelineId(1),
            log: 0x16,
            segment: 0xB3,
        };
        for (text, name) in [
            ("0000000100000016000000B3", WalFileName::Segment(segment)),
            (
                "0000000100000016000000B3.partial",
                WalFileName::Partial(segment),
            ),
            ("0000001F.history", WalFileName::History(TimelineId(31))),
            (
                "0000000100000016000000B3.00000028.backup",
                WalFileName::BackupHistory {
                    segment,
                    offset: 0x28,
                },
            ),
        ] {
            assert_eq!(text.parse(), Ok(name));
            assert_eq!(name.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_name() {
        for text in [
            "",
            "0000000100000016000000b3",
            "0000000100000016000000B",
            "0000000100000016000000B33",
            "../0000000100000016000000B3",
            "pg_wal/0000000100000016000000B3",
            "0000000100000016000000B3 ",
            "0000000100000016000000B3.",
            "0000000100000016000000B3.backup",
            "0000000100000016000000B3.0000002.backup",
            "0000000100000016000000B3.partial.partial",
            "000000010000001600000äB3",
            "00000001.history.tmp",
            "0000000100000016000000B3\0",
            "+00000010000001600000000",
        ] {
            assert!(text.parse::<WalFileName>().is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_depend_on_the_segment_size() {
        for (size, number, name) in [
            (16 << 20, 0x16B3, "0000000100000016000000B3"),
            (1 << 20, 0xFFF, "000000010000000000000FFF"),
            (1 << 20, 0x1000, "000000010000000100000000"),
            (1 << 30, 7, "000000010000000100000003"),
        ] {
            let size = SegmentSize::new(size).expect("size");
            let segment = SegmentName::new(TimelineId(1), SegmentNumber(number), size);
            assert_eq!(segment.to_string(), name);
            assert_eq!(segment.number(size), Ok(SegmentNumber(number)));
        }
        let name: SegmentName = "000000010000000000000004".parse().expect("name");
        assert!(
            name.number(SegmentSize::new(1 << 30).expect("size"))
                .is_err()
        );
    }

    proptest! {
        #[test]
        fn a_name_that_parses_prints_as_it_was(text in "[0-9A-F]{0,25}(\\.(partial|history|[0-9A-F]{8}\\.backup))?") {
            if let Ok(name) = text.parse::<WalFileName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC*") {
            let _ = text.parse::<WalFileName>();
        }
    }
}
