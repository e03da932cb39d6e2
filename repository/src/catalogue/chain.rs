//! The WAL files that recovery reads along a lineage, one after the other, as far as there is no hole.

use super::Catalogue;
use holdfast_postgres::{Lineage, Lsn, SegmentName, SegmentNumber, SegmentSize, Span, TimelineId};

/// Consecutive segments from a first one on, each from the timeline that Postgres asks for first: the newest of the
/// lineage that has begun in that segment (`XLogFileReadAnyTLI`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    size: SegmentSize,
    stretches: Vec<Stretch>,
    /// Up to here there is WAL: a segment's end, the end of what is stored of an unfinished one, or a switch point whose
    /// segment only the parent has.
    pub end: Lsn,
    /// `end` lies within the last file, which is the parent's or not whole: of it only what lies before `end` counts.
    pub cut: bool,
    /// The file that would come next; the whole of the last one, where that is not.
    pub missing: SegmentName,
    /// Something later lies on the lineage: what is missing is a hole, and not the end.
    pub gap: bool,
}

/// Consecutive segments of one timeline, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    timeline: TimelineId,
    first: SegmentNumber,
    last: SegmentNumber,
}

impl Chain {
    /// The last segment that is there, whole or in part.
    pub fn last(&self) -> Option<SegmentNumber> {
        self.stretches.last().map(|stretch| stretch.last)
    }

    /// The last file.
    pub fn last_file(&self) -> Option<SegmentName> {
        self.last().and_then(|last| self.file(last))
    }

    /// The file of a segment, if it is there.
    pub fn file(&self, segment: SegmentNumber) -> Option<SegmentName> {
        let stretch = self
            .stretches
            .iter()
            .find(|s| (s.first..=s.last).contains(&segment))?;
        Some(SegmentName::new(stretch.timeline, segment, self.size))
    }

    /// The files of these segments, both ends included, that are there.
    pub fn files(
        &self,
        first: SegmentNumber,
        last: SegmentNumber,
    ) -> impl Iterator<Item = (SegmentNumber, SegmentName)> + Send + use<> {
        let size = self.size;
        self.stretches.clone().into_iter().flat_map(move |stretch| {
            let (from, to) = (first.max(stretch.first), last.min(stretch.last));
            (from.0..to.0.saturating_add(1)).map(move |n| {
                (
                    SegmentNumber(n),
                    SegmentName::new(stretch.timeline, SegmentNumber(n), size),
                )
            })
        })
    }
}

impl Catalogue {
    /// What is there along a lineage, from a segment on.
    pub fn chain(&self, lineage: &Lineage, from: SegmentNumber) -> Chain {
        let size = self.segment_size;
        let mut stretches: Vec<Stretch> = Vec::new();
        let mut next = from;
        let (missing, cut) = loop {
            let mut asked = lineage
                .spans()
                .iter()
                .rev()
                .filter(|span| reads(span, next, size))
                .peekable();
            // The newest span is open at its end, so somebody is always asked.
            let newest = asked.peek().map_or(lineage.newest(), |span| span.timeline);
            if let Some(run) = self.runs(newest).and_then(|runs| runs.holding(next)) {
                let taken_over = lineage
                    .spans()
                    .iter()
                    .map(|span| span.begin.segment(size))
                    .filter(|begin| *begin > next)
                    .min();
                let last =
                    taken_over.map_or(run.last, |begin| run.last.min(SegmentNumber(begin.0 - 1)));
                stretches.push(Stretch {
                    timeline: newest,
                    first: next,
                    last,
                });
                next = last.next();
                continue;
            }
            // What Postgres asks for first leads farthest: a timeline's file begins with what its parent wrote.
            let cut = asked.find_map(|span| {
                let end = self.leads_to(span, next)?;
                stretches.push(Stretch {
                    timeline: span.timeline,
                    first: next,
                    last: next,
                });
                Some(end)
            });
            break (SegmentName::new(newest, next, size), cut);
        };
        Chain {
            size,
            stretches,
            end: cut.unwrap_or(next.start(size)),
            cut: cut.is_some(),
            missing,
            gap: self.anything_after(lineage, next),
        }
    }

    /// Where the WAL ends that the file of this timeline, or a part of it, adds within a segment: at its switch point if
    /// that comes first. None where it adds nothing. What a part has of the time before its timeline began adds
    /// nothing, as recovery asks the parent for that.
    fn leads_to(&self, span: &Span, segment: SegmentNumber) -> Option<Lsn> {
        let timeline = self.timeline(span.timeline)?;
        let size = self.segment_size;
        if timeline.runs.holding(segment).is_some() {
            return Some(span.end.unwrap_or(segment.end(size)));
        }
        let stored = u64::from(*timeline.parts.get(&segment)?);
        let end = Lsn(segment.start(size).0.saturating_add(stored));
        let end = span.end.map_or(end, |switch| end.min(switch));
        (end > span.begin).then_some(end)
    }

    fn anything_after(&self, lineage: &Lineage, segment: SegmentNumber) -> bool {
        lineage.spans().iter().any(|span| {
            let first = span.begin.segment(self.segment_size).max(segment.next());
            let last = span.end.map_or(SegmentNumber(u64::MAX), |end| {
                end.segment_before(self.segment_size)
            });
            first <= last
                && self.timeline(span.timeline).is_some_and(|timeline| {
                    timeline.runs.any_in(first, last)
                        || timeline.parts.range(first..=last).next().is_some()
                })
        })
    }
}

/// Whether the file of this timeline may stand for this segment.
fn reads(span: &Span, segment: SegmentNumber, size: SegmentSize) -> bool {
    span.begin.segment(size) <= segment
        && span
            .end
            .is_none_or(|end| end.is_valid() && segment <= end.segment_before(size))
}
