//! Timeline history files: where a timeline came from.

use crate::lsn::Lsn;
use crate::timeline::TimelineId;

/// A timeline's ancestors, oldest first, as its `.history` file lists them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TimelineHistory {
    /// The timeline that this is the history of.
    pub timeline: TimelineId,
    /// Every timeline before it.
    pub ancestors: Vec<Ancestor>,
}

/// A line of a history file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ancestor {
    /// The timeline that was left.
    pub timeline: TimelineId,
    /// Its WAL belongs to this history up to here (exclusive).
    pub switch: Lsn,
    /// Why it was left, in Postgres' words; not interpreted.
    pub reason: String,
}

/// A history file that Postgres would refuse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// Larger than any history.
    #[error(
        "the history of timeline {timeline} has {size} bytes: a history file holds a line per promotion"
    )]
    TooLarge {
        /// The timeline.
        timeline: TimelineId,
        /// The file's size.
        size: usize,
    },
    /// A line without timeline and switch point.
    #[error(
        "line {line} of the history of timeline {timeline} is not 'timeline<tab>switch point': '{text}'"
    )]
    Malformed {
        /// The timeline.
        timeline: TimelineId,
        /// Counted from 1.
        line: usize,
        /// What stands there.
        text: String,
    },
    /// Timelines must increase, and end below the child's.
    #[error(
        "line {line} of the history of timeline {timeline} names timeline {found} out of order"
    )]
    OutOfOrder {
        /// The timeline.
        timeline: TimelineId,
        /// Counted from 1.
        line: usize,
        /// The timeline in that line.
        found: TimelineId,
    },
}

/// Far above what any number of promotions writes.
const MAX_SIZE: usize = 4 << 20;

impl TimelineHistory {
    /// A timeline without ancestors: Postgres writes no history file for timeline 1.
    #[must_use]
    pub fn root(timeline: TimelineId) -> Self {
        Self {
            timeline,
            ancestors: Vec::new(),
        }
    }

    /// Reads a history file as `readTimeLineHistory` (timeline.c) does: comments and empty lines are skipped, and
    /// timelines must increase and stay below their child's.
    pub fn parse(timeline: TimelineId, file: &[u8]) -> Result<Self, HistoryError> {
        if file.len() > MAX_SIZE {
            return Err(HistoryError::TooLarge {
                timeline,
                size: file.len(),
            });
        }
        let text = String::from_utf8_lossy(file);
        let mut ancestors: Vec<Ancestor> = Vec::new();
        for (index, raw) in text.lines().enumerate() {
            let line = index + 1;
            let content = raw.trim_start();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let ancestor = parse_line(content).ok_or_else(|| HistoryError::Malformed {
                timeline,
                line,
                text: content.chars().take(80).collect(),
            })?;
            let after_last = ancestors
                .last()
                .is_none_or(|last| ancestor.timeline > last.timeline);
            if !after_last || ancestor.timeline >= timeline {
                return Err(HistoryError::OutOfOrder {
                    timeline,
                    line,
                    found: ancestor.timeline,
                });
            }
            ancestors.push(ancestor);
        }
        Ok(Self {
            timeline,
            ancestors,
        })
    }

    /// The timeline that this one branched off, and where.
    #[must_use]
    pub fn parent(&self) -> Option<&Ancestor> {
        self.ancestors.last()
    }
}

fn parse_line(content: &str) -> Option<Ancestor> {
    let (timeline, rest) = content.split_once(|c: char| c.is_ascii_whitespace())?;
    let rest = rest.trim_start();
    let (switch, reason) = rest
        .split_once(|c: char| c.is_ascii_whitespace())
        .unwrap_or((rest, ""));
    Some(Ancestor {
        timeline: timeline.parse().ok()?,
        switch: switch.parse().ok()?,
        reason: reason.trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<TimelineHistory, HistoryError> {
        TimelineHistory::parse(TimelineId(5), text.as_bytes())
    }

    #[test]
    fn a_file_as_postgres_writes_it() {
        let history = parse(
            "1\t0/3000158\tno recovery target specified\n\n2\t16/B374D848\tbefore 2026-11-21 10:00:00+00\n",
        );
        let ancestors = history.expect("a good file").ancestors;
        assert_eq!(ancestors.len(), 2);
        assert_eq!(ancestors[0].switch, Lsn(0x300_0158));
        assert_eq!(ancestors[1].timeline, TimelineId(2));
        assert_eq!(ancestors[1].reason, "before 2026-11-21 10:00:00+00");
    }

    #[test]
    fn comments_blanks_and_the_absence_of_ancestors() {
        assert_eq!(parse("").map(|h| h.ancestors.len()), Ok(0));
        assert_eq!(
            parse("# a comment\n   \n\t1 0/1\r\n").map(|h| h.ancestors.len()),
            Ok(1)
        );
    }

    #[test]
    fn what_postgres_refuses() {
        for text in ["x\t0/1\n", "1\n", "1\tfoo\n", "1\t0\n", "1"] {
            assert!(
                matches!(parse(text), Err(HistoryError::Malformed { line: 1, .. })),
                "{text}"
            );
        }
        for text in [
            "2\t0/1\tx\n2\t0/2\tx\n",
            "3\t0/1\tx\n2\t0/2\tx\n",
            "1\t0/1\tx\n5\t0/2\tx\n",
        ] {
            assert!(
                matches!(parse(text), Err(HistoryError::OutOfOrder { line: 2, .. })),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = TimelineHistory::parse(TimelineId(9), &bytes);
        }

        #[test]
        fn lines_that_look_right_are_read_or_refused(text in "([0-9]{1,11}[\t ]{1,2}[0-9A-F]{1,9}/[0-9A-F]{1,9}(\t[a-z ]*)?\n){0,6}") {
            let _ = TimelineHistory::parse(TimelineId(9), text.as_bytes());
        }
    }
}
