//! The line of timelines that recovery follows, and what of each belongs to it.

use crate::history::TimelineHistory;
use crate::lsn::Lsn;
use crate::timeline::TimelineId;

/// The timelines from the first to the one that recovery targets, oldest first. Never empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lineage {
    spans: Vec<Span>,
}

/// What one timeline contributes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// The timeline.
    pub timeline: TimelineId,
    /// Where its own WAL begins: the switch point of its parent, or [`Lsn::INVALID`] for the first.
    pub begin: Lsn,
    /// Its switch point (exclusive); none for the newest.
    pub end: Option<Lsn>,
}

impl Lineage {
    /// A timeline without ancestors.
    #[must_use]
    pub fn single(timeline: TimelineId) -> Self {
        Self {
            spans: vec![Span {
                timeline,
                begin: Lsn::INVALID,
                end: None,
            }],
        }
    }

    /// The spans, oldest first.
    #[must_use]
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// What `timeline` contributes, if it is on this line at all.
    #[must_use]
    pub fn span(&self, timeline: TimelineId) -> Option<&Span> {
        self.spans.iter().find(|span| span.timeline == timeline)
    }

    /// The timeline that recovery targets.
    #[must_use]
    pub fn newest(&self) -> TimelineId {
        // Constructors make at least one span; zero is "no timeline".
        self.spans
            .last()
            .map_or(TimelineId(0), |span| span.timeline)
    }

    /// The timeline that wrote the byte at `lsn` (`tliOfPointInHistory`).
    #[must_use]
    pub fn timeline_at(&self, lsn: Lsn) -> TimelineId {
        self.spans
            .iter()
            .find(|span| span.begin <= lsn && span.end.is_none_or(|end| lsn < end))
            .map_or(self.newest(), |span| span.timeline)
    }

    /// Whether `timeline` is on this line and had reached `lsn`, its switch point included, before it was left.
    #[must_use]
    pub fn contains(&self, timeline: TimelineId, lsn: Lsn) -> bool {
        self.span(timeline)
            .is_some_and(|span| span.end.is_none_or(|end| lsn <= end))
    }
}

impl From<&TimelineHistory> for Lineage {
    /// A recovery that followed a timeline and stopped before that one's own beginning writes switch points that go
    /// backwards: what a timeline contributes ends where any later one begins.
    fn from(history: &TimelineHistory) -> Self {
        let mut ends: Vec<Lsn> = Vec::with_capacity(history.ancestors.len());
        let mut end = Lsn(u64::MAX);
        for ancestor in history.ancestors.iter().rev() {
            end = end.min(ancestor.switch);
            ends.push(end);
        }
        let mut begin = Lsn::INVALID;
        let mut spans: Vec<Span> = Vec::with_capacity(history.ancestors.len() + 1);
        for (ancestor, end) in history.ancestors.iter().zip(ends.into_iter().rev()) {
            spans.push(Span {
                timeline: ancestor.timeline,
                begin,
                end: Some(end),
            });
            begin = end;
        }
        spans.push(Span {
            timeline: history.timeline,
            begin,
            end: None,
        });
        Self { spans }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lineage() -> Lineage {
        let history =
            TimelineHistory::parse(TimelineId(4), b"1\t0/100\tx\n3\t0/200\tx\n").expect("history");
        Lineage::from(&history)
    }

    #[test]
    fn each_position_has_one_timeline() {
        for (lsn, timeline) in [
            (0, 1),
            (0xFF, 1),
            (0x100, 3),
            (0x1FF, 3),
            (0x200, 4),
            (u64::MAX, 4),
        ] {
            assert_eq!(
                lineage().timeline_at(Lsn(lsn)),
                TimelineId(timeline),
                "{lsn:X}"
            );
        }
        assert_eq!(lineage().newest(), TimelineId(4));
    }

    #[test]
    fn a_parent_counts_up_to_its_switch_point() {
        let lineage = lineage();
        assert!(lineage.contains(TimelineId(1), Lsn(0x100)));
        assert!(!lineage.contains(TimelineId(1), Lsn(0x101)));
        assert!(!lineage.contains(TimelineId(2), Lsn(1)));
        assert!(lineage.contains(TimelineId(4), Lsn(u64::MAX)));
        assert_eq!(
            lineage.span(TimelineId(3)),
            Some(&Span {
                timeline: TimelineId(3),
                begin: Lsn(0x100),
                end: Some(Lsn(0x200))
            })
        );
    }

    #[test]
    fn a_first_timeline_stands_alone() {
        let lineage = Lineage::single(TimelineId(1));
        assert_eq!(lineage.spans().len(), 1);
        assert_eq!(
            lineage,
            Lineage::from(&TimelineHistory::root(TimelineId(1)))
        );
    }

    #[test]
    fn a_timeline_left_before_it_wrote_anything_owns_nothing() {
        let history =
            TimelineHistory::parse(TimelineId(3), b"1\t0/100\tx\n2\t0/100\tx\n").expect("history");
        let lineage = Lineage::from(&history);
        assert_eq!(lineage.timeline_at(Lsn(0x100)), TimelineId(3));
        assert!(lineage.contains(TimelineId(2), Lsn(0x100)));
    }

    #[test]
    fn switch_points_that_go_backwards_leave_nothing_past_the_lowest() {
        let history =
            TimelineHistory::parse(TimelineId(3), b"1\t0/200\n2\t0/100\n").expect("history");
        let lineage = Lineage::from(&history);
        let spans: Vec<_> = lineage
            .spans()
            .iter()
            .map(|span| (span.timeline.0, span.begin.0, span.end.map(|end| end.0)))
            .collect();
        assert_eq!(
            spans,
            [
                (1, 0, Some(0x100)),
                (2, 0x100, Some(0x100)),
                (3, 0x100, None)
            ]
        );
        for (lsn, timeline) in [(0xFF, 1), (0x100, 3), (0x180, 3), (0x200, 3)] {
            assert_eq!(
                lineage.timeline_at(Lsn(lsn)),
                TimelineId(timeline),
                "{lsn:X}"
            );
        }
        assert!(!lineage.contains(TimelineId(1), Lsn(0x180)));
    }
}
