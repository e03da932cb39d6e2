//! What `RESTORE` is answered, decided from what was seen.

use crate::data_directory::Recovery;
use holdfast_postgres::{
    Lineage, Lsn, SegmentName, SegmentSize, TimelineHistory, TimelineId, WalFileName,
};

/// What is asked, and along which line recovery goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) name: WalFileName,
    pub(super) size: SegmentSize,
    pub(super) lineage: &'a Lineage,
    /// Pre-flight found all WAL up to here.
    pub(super) end: Option<Lsn>,
}

/// Where a segment lies on the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// All that it could add begins at or after the end that pre-flight fixed.
    BeyondEnd,
    /// Its timeline begins later: such a segment never was.
    BeforeItsTimeline,
    /// Its timeline was left before, or is not on the line: it must not be replayed.
    OffLineage,
    /// On the line; what its timeline wrote after `cut_at`, if that lies within, is not.
    On {
        /// The switch point.
        cut_at: Option<Lsn>,
    },
}

/// How far recovery reads in the segment where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Until {
    pub(super) segment: SegmentName,
    /// At least so much must be there.
    pub(super) end: Lsn,
    /// Nothing from here on is replayed.
    pub(super) cut_at: Option<Lsn>,
}

/// What was seen in the repositories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen<T> {
    /// At least one has it.
    There(T),
    /// Every one that counts says that it has no such object.
    Missing,
    /// It can't be told.
    Unknown(String),
}

/// What was seen where the object is not there, or must not be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Absence {
    /// archive.json was read after the object was looked for, is still the same, and its identity is pg_control's.
    pub(super) confirmed: Result<(), String>,
    /// The lowest segment on the line that is wanted after this one (or in its place).
    pub(super) later: Seen<WalFileName>,
}

/// The answer where there is nothing to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Absent,
    Gap(String),
    Trouble(String),
}

impl Question<'_> {
    /// Where a segment lies.
    pub(super) fn place(&self, segment: SegmentName) -> Place {
        let Ok(number) = segment.number(self.size) else {
            return Place::OffLineage;
        };
        let (start, end) = (number.start(self.size), number.end(self.size));
        let beyond = |from: Lsn| self.end.is_some_and(|end| from >= end);
        let Some(span) = self.lineage.span(segment.timeline) else {
            return if beyond(start) {
                Place::BeyondEnd
            } else {
                Place::OffLineage
            };
        };
        if beyond(start.max(span.begin)) {
            Place::BeyondEnd
        } else if end <= span.begin {
            Place::BeforeItsTimeline
        } else {
            match span.end {
                Some(switch) if switch <= start => Place::OffLineage,
                Some(switch) if switch < end => Place::On {
                    cut_at: Some(switch),
                },
                _ => Place::On { cut_at: None },
            }
        }
    }

    /// Whether what is asked for may be answered from parts of an unfinished segment, and up to where: for an archive
    /// recovery whose order ends within that segment. Anybody else would take the end of a part for the end of the WAL.
    pub(super) fn ends_within(&self, recovery: Recovery, cut_at: Option<Lsn>) -> Option<Until> {
        let (WalFileName::Segment(segment), Recovery::Archive, Some(end)) =
            (self.name, recovery, self.end)
        else {
            return None;
        };
        let number = segment.number(self.size).ok()?;
        let within = number.start(self.size) < end && end < number.end(self.size);
        let end = cut_at.map_or(end, |switch| switch.min(end));
        within.then_some(Until {
            segment,
            end,
            cut_at: Some(end),
        })
    }

    /// Where nothing of this segment or after it is stored whole, whether recovery may end with what there is of it: an
    /// archive recovery without an order follows the line to its end, and that is where it is.
    pub(super) fn ends_with(
        &self,
        recovery: Recovery,
        on_lineage: Option<Option<Lsn>>,
    ) -> Option<Until> {
        let (WalFileName::Segment(segment), Recovery::Archive, None, Some(cut_at)) =
            (self.name, recovery, self.end, on_lineage)
        else {
            return None;
        };
        let end = segment.number(self.size).ok()?.start(self.size);
        Some(Until {
            segment,
            end,
            cut_at,
        })
    }

    /// The verdict where no object is to be served.
    pub(super) fn without_object(&self, absence: &Absence) -> Verdict {
        let Absence { confirmed, later } = absence;
        if let Err(why) = confirmed {
            return Verdict::Trouble(why.clone());
        }
        let name = self.name;
        match self.name {
            WalFileName::Segment(segment) => match (self.place(segment), later) {
                (Place::BeyondEnd | Place::BeforeItsTimeline, _) => Verdict::Absent,
                (_, Seen::Unknown(why)) => Verdict::Trouble(why.clone()),
                (Place::On { .. }, Seen::There(later)) => Verdict::Gap(format!(
                    "{name} is missing in the archive, and {later} is there: there is a gap in the WAL"
                )),
                (Place::OffLineage, Seen::There(later)) => Verdict::Gap(format!(
                    "{name} is not on the line of timelines that leads to {}, and {later} there goes on",
                    self.lineage.newest()
                )),
                (Place::On { .. } | Place::OffLineage, Seen::Missing) => match self.end {
                    // Here its start, or its timeline's, lies before the end.
                    Some(end) => Verdict::Gap(format!(
                        "{name} is missing in the archive, though all WAL up to {end} was there when the restore began"
                    )),
                    None => Verdict::Absent,
                },
            },
            WalFileName::History(timeline) => {
                let ends_here = self
                    .lineage
                    .spans()
                    .first()
                    .is_some_and(|root| root.timeline == timeline);
                if self.lineage.span(timeline).is_some() && !ends_here {
                    Verdict::Gap(format!(
                        "{name} is missing in the archive, and recovery leads through timeline {timeline}"
                    ))
                } else {
                    Verdict::Absent
                }
            }
            WalFileName::Partial(_) | WalFileName::BackupHistory { .. } => Verdict::Absent,
        }
    }
}

/// The line that recovery follows where no order says it: that of the newest timeline that descends from the one asked
/// for and from the one where the server stands; else from the one asked for alone.
pub(super) fn lineage(
    asked: TimelineId,
    stands_on: TimelineId,
    histories: &[TimelineHistory],
) -> Lineage {
    let lines: Vec<Lineage> = histories
        .iter()
        .map(Lineage::from)
        .chain([Lineage::single(asked)])
        .collect();
    let newest = |wanted: &[TimelineId]| {
        let fits = |line: &&Lineage| wanted.iter().all(|timeline| line.span(*timeline).is_some());
        lines
            .iter()
            .filter(fits)
            .max_by_key(|line| line.newest())
            .cloned()
    };
    newest(&[asked, stands_on])
        .or_else(|| newest(&[asked]))
        .unwrap_or_else(|| Lineage::single(asked))
}

/// Whether a line to one of `ends` may lead through a timeline whose own history can't be read.
pub(super) fn may_lead_through(
    damaged: TimelineId,
    ends: [TimelineId; 2],
    histories: &[TimelineHistory],
) -> bool {
    ends.iter().any(
        |end| match histories.iter().find(|history| history.timeline == *end) {
            Some(history) => history.ancestors.iter().any(|a| a.timeline == damaged),
            None => TimelineId(1) < damaged && damaged <= *end,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn history(timeline: u32, text: &str) -> TimelineHistory {
        TimelineHistory::parse(TimelineId(timeline), text.as_bytes()).unwrap()
    }

    fn segment(timeline: u32, number: u64) -> WalFileName {
        WalFileName::Segment(SegmentName::new(
            TimelineId(timeline),
            holdfast_postgres::SegmentNumber(number),
            SIZE,
        ))
    }

    /// Timeline 2 left 1 within segment 3, and 4 left 2 exactly where segment 6 begins.
    fn line() -> Lineage {
        Lineage::from(&history(4, "1\t0/3800000\tx\n2\t0/6000000\tx\n"))
    }

    #[test]
    fn each_segment_has_its_place() {
        let line = line();
        let cut = |lsn| Place::On {
            cut_at: Some(Lsn(lsn)),
        };
        let on = Place::On { cut_at: None };
        for (timeline, number, end, expected) in [
            (1, 2, None, on),
            // The parent's segment with the switch point.
            (1, 3, None, cut(0x380_0000)),
            (1, 4, None, Place::OffLineage),
            (2, 2, None, Place::BeforeItsTimeline),
            // The child's switch segment.
            (2, 3, None, on),
            (2, 5, None, on),
            // A switch between two segments.
            (2, 6, None, Place::OffLineage),
            (4, 5, None, Place::BeforeItsTimeline),
            (4, 6, None, on),
            (4, 700, None, on),
            // A timeline aside.
            (3, 4, None, Place::OffLineage),
            // The end within segment 5, and between 5 and 6.
            (2, 5, Some(0x580_0000), on),
            (4, 6, Some(0x580_0000), Place::BeyondEnd),
            (2, 5, Some(0x600_0000), on),
            (4, 6, Some(0x600_0000), Place::BeyondEnd),
            (3, 4, Some(0x400_0000), Place::BeyondEnd),
            (3, 4, Some(0x480_0000), Place::OffLineage),
            // Nothing of the child is needed, the parent's segment is.
            (2, 3, Some(0x380_0000), Place::BeyondEnd),
            (1, 3, Some(0x380_0000), cut(0x380_0000)),
        ] {
            let name = segment(timeline, number);
            let question = Question {
                name,
                size: SIZE,
                lineage: &line,
                end: end.map(Lsn),
            };
            let WalFileName::Segment(name) = name else {
                panic!()
            };
            assert_eq!(
                question.place(name),
                expected,
                "{timeline} {number} {end:?}"
            );
        }
    }

    #[test]
    fn only_a_recovery_that_ends_within_a_segment_may_have_parts_of_it() {
        use Recovery::{Archive, None as Rewind, Standby};
        let line = line();
        for (recovery, name, end, cut_at, expected) in [
            (
                Archive,
                segment(4, 9),
                Some(0x980_0000),
                None,
                Some(0x980_0000),
            ),
            (
                Archive,
                segment(1, 3),
                Some(0x3A0_0000),
                Some(0x380_0000),
                Some(0x380_0000),
            ),
            (
                Archive,
                segment(1, 3),
                Some(0x360_0000),
                Some(0x380_0000),
                Some(0x360_0000),
            ),
            (Standby, segment(4, 9), Some(0x980_0000), None, None),
            (Rewind, segment(4, 9), Some(0x980_0000), None, None),
            // No order, and orders that end elsewhere: where the segment begins, where it ends, later.
            (Archive, segment(4, 9), None, None, None),
            (Archive, segment(4, 9), Some(0x900_0000), None, None),
            (Archive, segment(4, 9), Some(0xA00_0000), None, None),
            (Archive, segment(4, 8), Some(0x980_0000), None, None),
            (
                Archive,
                WalFileName::History(TimelineId(4)),
                Some(0x980_0000),
                None,
                None,
            ),
        ] {
            let question = Question {
                name,
                size: SIZE,
                lineage: &line,
                end: end.map(Lsn),
            };
            let until = question.ends_within(recovery, cut_at.map(Lsn));
            assert_eq!(
                until.map(|until| until.end),
                expected.map(Lsn),
                "{recovery:?} {name} {end:?}"
            );
        }
    }

    #[test]
    fn absent_is_proven_and_a_gap_is_not_the_end() {
        #[derive(Debug, PartialEq)]
        enum V {
            Absent,
            Gap,
            Trouble,
        }
        let line = line();
        let there = |timeline, number| Seen::There(segment(timeline, number));
        let unknown = || Seen::Unknown("listing failed".to_owned());
        let partial = "000000010000000000000003.partial".parse().unwrap();
        let backup = "000000010000000000000003.00000028.backup".parse().unwrap();
        let history = |timeline| WalFileName::History(TimelineId(timeline));
        for (name, end, confirmed, later, expected) in [
            (segment(4, 9), None, true, Seen::Missing, V::Absent),
            (segment(4, 9), None, true, there(4, 10), V::Gap),
            (segment(4, 9), None, true, unknown(), V::Trouble),
            // The store says "not found", and so it does of archive.json; or another database is there.
            (segment(4, 9), None, false, Seen::Missing, V::Trouble),
            (
                segment(4, 9),
                Some(0x900_0000),
                false,
                Seen::Missing,
                V::Trouble,
            ),
            // The child's switch segment is missing: only if nothing of the child is there may the parent's be asked.
            (segment(2, 3), None, true, there(2, 4), V::Gap),
            (segment(2, 3), None, true, there(4, 6), V::Gap),
            (segment(2, 3), None, true, Seen::Missing, V::Absent),
            (segment(1, 2), None, true, there(1, 3), V::Gap),
            // Of a parent past the switch point.
            (segment(1, 4), None, true, Seen::Missing, V::Absent),
            (segment(1, 4), None, true, there(2, 4), V::Gap),
            (segment(3, 4), None, true, there(2, 4), V::Gap),
            (segment(2, 2), None, true, there(1, 3), V::Absent),
            // What pre-flight had found.
            (
                segment(4, 9),
                Some(0x900_0000),
                true,
                Seen::Missing,
                V::Absent,
            ),
            (
                segment(4, 9),
                Some(0x900_0000),
                true,
                there(4, 10),
                V::Absent,
            ),
            (segment(4, 9), Some(0x900_0001), true, Seen::Missing, V::Gap),
            (segment(4, 9), Some(0xA00_0000), true, Seen::Missing, V::Gap),
            (segment(4, 8), Some(0x900_0000), true, Seen::Missing, V::Gap),
            (segment(1, 4), Some(0x900_0000), true, Seen::Missing, V::Gap),
            // History files: a new timeline's is absent, one that recovery leads through is not.
            (history(5), None, true, Seen::Missing, V::Absent),
            (history(3), None, true, Seen::Missing, V::Absent),
            (history(1), None, true, Seen::Missing, V::Absent),
            (history(2), None, true, Seen::Missing, V::Gap),
            (history(4), None, true, Seen::Missing, V::Gap),
            (history(5), None, false, Seen::Missing, V::Trouble),
            (history(4), Some(0x900_0000), true, Seen::Missing, V::Gap),
            (partial, None, true, Seen::Missing, V::Absent),
            (partial, None, false, Seen::Missing, V::Trouble),
            (backup, None, true, Seen::Missing, V::Absent),
            (backup, None, false, Seen::Missing, V::Trouble),
        ] {
            let question = Question {
                name,
                size: SIZE,
                lineage: &line,
                end: end.map(Lsn),
            };
            let confirmed = if confirmed {
                Ok(())
            } else {
                Err("no archive.json".to_owned())
            };
            let absence = Absence { confirmed, later };
            let verdict = match question.without_object(&absence) {
                Verdict::Absent => V::Absent,
                Verdict::Gap(_) => V::Gap,
                Verdict::Trouble(_) => V::Trouble,
            };
            assert_eq!(verdict, expected, "{name} {end:?} {absence:?}");
        }
    }

    #[test]
    fn without_an_order_the_newest_descendant_leads() {
        let histories = [
            history(2, "1\t0/3800000\tx\n"),
            history(3, "1\t0/4800000\tx\n"),
            history(4, "1\t0/3800000\tx\n2\t0/6000000\tx\n"),
        ];
        for (asked, stands_on, histories, newest) in [
            (1, 1, &histories[..0], 1),
            (1, 1, &histories[..], 4),
            (1, 2, &histories[..], 4),
            // A standby on a branch aside stays on it.
            (1, 3, &histories[..], 3),
            (3, 3, &histories[..], 3),
            (3, 1, &histories[..], 3),
            (3, 2, &histories[..], 3),
            (2, 2, &histories[..1], 2),
            (7, 1, &histories[..], 7),
        ] {
            assert_eq!(
                lineage(TimelineId(asked), TimelineId(stands_on), histories).newest(),
                TimelineId(newest),
                "{asked} {stands_on}"
            );
        }
    }

    #[test]
    fn a_damaged_history_counts_only_on_the_way() {
        let histories = [history(4, "1\t0/3800000\tx\n2\t0/6000000\tx\n")];
        for (damaged, asked, stands_on, expected) in [
            (2, 4, 4, true),
            (3, 4, 4, false),
            (5, 4, 1, false),
            (2, 1, 1, false),
            // What 3 and 5 descend from is not known.
            (3, 3, 1, true),
            (2, 3, 1, true),
            (2, 1, 5, true),
            (6, 1, 5, false),
        ] {
            assert_eq!(
                may_lead_through(
                    TimelineId(damaged),
                    [TimelineId(asked), TimelineId(stands_on)],
                    &histories
                ),
                expected,
                "{damaged} {asked} {stands_on}"
            );
        }
    }

    #[test]
    fn switch_points_that_go_backwards() {
        // Timeline 3 is of a restore along 2 that stopped before 2 had left 1.
        let line = Lineage::from(&history(3, "1\t0/4800000\tx\n2\t0/3800000\tx\n"));
        for (timeline, number, expected) in [
            (1, 2, Place::On { cut_at: None }),
            (
                1,
                3,
                Place::On {
                    cut_at: Some(Lsn(0x380_0000)),
                },
            ),
            (1, 4, Place::OffLineage),
            (2, 4, Place::OffLineage),
            (3, 2, Place::BeforeItsTimeline),
            (3, 3, Place::On { cut_at: None }),
            (3, 4, Place::On { cut_at: None }),
        ] {
            let WalFileName::Segment(name) = segment(timeline, number) else {
                panic!()
            };
            let question = Question {
                name: WalFileName::Segment(name),
                size: SIZE,
                lineage: &line,
                end: None,
            };
            assert_eq!(question.place(name), expected, "{timeline} {number}");
        }
    }
}
