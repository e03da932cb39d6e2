//! How far the store is behind the server. Pure.

use crate::archive::{Left, Through, Written};
use crate::queue::Queue;
use crate::status::Lag;
use holdfast_postgres::{Lsn, SegmentSize, TimelineId, WalFileName};
use jiff::Timestamp;

/// Where a server that archives stands, and what is known of its WAL.
#[derive(Debug, Clone)]
pub(super) struct Position<'a> {
    /// Where its WAL ends.
    pub lsn: Lsn,
    /// On this timeline.
    pub timeline: TimelineId,
    /// Of its segments.
    pub segment_size: SegmentSize,
    /// What waits.
    pub queue: Option<&'a Queue>,
    /// What this sidecar has stored.
    pub through: Option<&'a Through>,
    /// What it has stored of the segment that is being written.
    pub written: Option<&'a Written>,
    /// What the primary before it has not stored.
    pub left: Option<&'a Left>,
    /// When it last stored something.
    pub last_archived: Option<Timestamp>,
}

/// What is written and not stored: from the first segment that waits, else from the segment that is being written, for
/// all before it was acknowledged. None: it can't be told.
pub(super) fn lag(position: &Position<'_>, now: Timestamp) -> Option<Lag> {
    let Position {
        lsn,
        timeline,
        segment_size,
        queue,
        through,
        written,
        left,
        last_archived,
    } = position.clone();
    let age = |since: Timestamp| u64::try_from(now.duration_since(since).as_secs()).unwrap_or(0);
    let waits = queue.and_then(Queue::first_segment).and_then(|name| {
        let WalFileName::Segment(segment) = name else {
            return None;
        };
        Some(segment.number(segment_size).ok()?.start(segment_size))
    });
    let acknowledged = match (queue, waits) {
        (_, Some(waits)) => Some(waits),
        (Some(_), None) => Some(lsn.segment(segment_size).start(segment_size)),
        (None, None) => None,
    };
    let stored = through
        .filter(|through| through.timeline == timeline)
        .map(|through| through.boundary);
    let stored = acknowledged.max(stored);
    let left = left.and_then(|left| {
        let first = left.segment.number(segment_size).ok()?;
        Some((first.start(segment_size), left.since))
    });
    let queued = queue.and_then(|queue| queue.since);
    let queued = waits.and(queued);
    let queued = queued.and_then(|since| Timestamp::try_from(since).ok());
    if let Some((first, since)) = left {
        // What waits may be older, as where this server was a primary before.
        let first = stored.map_or(first, |stored| first.min(stored));
        return Some(Lag {
            bytes: Some(lsn.0.saturating_sub(first.0)),
            seconds: [since, queued].into_iter().flatten().min().map(age),
        });
    }
    let stored = stored?;
    // All before the segment that is being written is stored. It may be a whole one by now, and wait to be handed over.
    let written = written
        .filter(|written| written.timeline == timeline)
        .filter(|written| (written.start..=written.stored).contains(&stored));
    let stored = written.map_or(stored, |written| written.stored);
    let bytes = lsn.0.saturating_sub(stored.0);
    let since = match (written, queued) {
        // It was told when all that was there was stored.
        (Some(written), _) => Some(written.as_of),
        (None, Some(since)) => Some(since),
        // What is being written was begun after the last was stored.
        (None, None) => last_archived,
    };
    let seconds = match bytes {
        0 => Some(0),
        _ => since.map(age),
    };
    Some(Lag {
        bytes: Some(bytes),
        seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_postgres::{SegmentName, SegmentNumber};
    use std::time::{Duration, SystemTime};

    const MIB: u64 = 1 << 20;

    fn queue(numbers: &[u64], seconds: u64) -> Queue {
        let size = SegmentSize::new(MIB as u32).unwrap();
        let name = |n: &u64| SegmentName::new(TimelineId(1), SegmentNumber(*n), size);
        Queue {
            names: numbers
                .iter()
                .map(|n| WalFileName::Segment(name(n)))
                .collect(),
            since: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
        }
    }

    #[test]
    fn what_is_not_stored_counts() {
        let through = |timeline, boundary| {
            Some(Through {
                timeline: TimelineId(timeline),
                boundary: Lsn(boundary),
                end: Lsn(boundary),
                last_commit: None,
            })
        };
        let now = Timestamp::from_second(1000).unwrap();
        let at = |s| Timestamp::from_second(s).ok();
        let some = |bytes, seconds| Some((bytes, seconds));
        for (lsn, waiting, stored, last, expected) in [
            // Nothing is known.
            (5 * MIB + 7, None, None, None, None),
            // Nothing waits: the segment that is being written.
            (5 * MIB + 7, Some(queue(&[], 0)), None, None, some(7, None)),
            (
                5 * MIB + 7,
                Some(queue(&[], 0)),
                None,
                at(990),
                some(7, Some(10)),
            ),
            (
                5 * MIB + 7,
                Some(queue(&[], 0)),
                through(1, 5 * MIB),
                at(990),
                some(7, Some(10)),
            ),
            // All is stored.
            (
                5 * MIB,
                Some(queue(&[], 0)),
                through(1, 5 * MIB),
                at(1),
                some(0, Some(0)),
            ),
            (5 * MIB, None, through(1, 5 * MIB), None, some(0, Some(0))),
            // After a switch, and before this sidecar has stored anything.
            (5 * MIB, Some(queue(&[], 0)), None, None, some(0, Some(0))),
            // Three wait.
            (
                8 * MIB + 1,
                Some(queue(&[5, 6, 7], 900)),
                through(1, 5 * MIB),
                at(990),
                some(3 * MIB + 1, Some(100)),
            ),
            // The first is stored, and its status file not yet renamed.
            (
                8 * MIB + 1,
                Some(queue(&[5, 6, 7], 900)),
                through(1, 6 * MIB),
                at(990),
                some(2 * MIB + 1, Some(100)),
            ),
            // Another timeline's says nothing.
            (5 * MIB + 7, None, through(2, 5 * MIB), at(1), None),
            (
                5 * MIB + 7,
                Some(queue(&[4], 2000)),
                through(2, 9 * MIB),
                at(1),
                some(MIB + 7, Some(0)),
            ),
        ] {
            let position = Position {
                lsn: Lsn(lsn),
                timeline: TimelineId(1),
                segment_size: SegmentSize::new(MIB as u32).unwrap(),
                queue: waiting.as_ref(),
                through: stored.as_ref(),
                written: None,
                left: None,
                last_archived: last,
            };
            let found = lag(&position, now).map(|lag| (lag.bytes.unwrap(), lag.seconds));
            assert_eq!(found, expected, "{position:?}");
        }
    }

    #[test]
    fn what_a_primary_has_left_behind_counts() {
        let size = SegmentSize::new(MIB as u32).unwrap();
        let now = Timestamp::from_second(1000).unwrap();
        let waits = |number, since| Some(queue(&[number], since));
        for (since, queue, bytes, seconds) in [
            (Some(970), None, 3, Some(30)),
            (None, None, 3, None),
            // Beside what waits, the older of the two.
            (Some(970), waits(5, 990), 3, Some(30)),
            (None, waits(5, 990), 3, Some(10)),
            (Some(970), waits(2, 950), 4, Some(50)),
        ] {
            let left = Left {
                segment: SegmentName::new(TimelineId(1), SegmentNumber(3), size),
                since: since.and_then(|since| Timestamp::from_second(since).ok()),
            };
            let position = Position {
                lsn: Lsn(6 * MIB + 1),
                timeline: TimelineId(2),
                segment_size: size,
                queue: queue.as_ref(),
                through: None,
                written: None,
                left: Some(&left),
                last_archived: Timestamp::from_second(900).ok(),
            };
            let found = lag(&position, now).map(|lag| (lag.bytes.unwrap(), lag.seconds));
            assert_eq!(found, Some((bytes * MIB + 1, seconds)), "{position:?}");
        }
    }

    #[test]
    fn what_is_stored_of_an_unfinished_segment_counts_from_when_it_was_all() {
        let size = SegmentSize::new(MIB as u32).unwrap();
        let now = Timestamp::from_second(1000).unwrap();
        let (five, six) = (5 * MIB, 6 * MIB);
        for (lsn, waiting, (timeline, start, stored), expected) in [
            // All of it; some of it.
            (five + 7, &[][..], (1, five, five + 7), (0, Some(0))),
            (five + 9, &[], (1, five, five + 7), (2, Some(10))),
            // The segment is whole, and waits: not only since then.
            (six, &[5], (1, five, five + 7), (MIB - 7, Some(10))),
            (six + 1, &[5], (1, five, six), (1, Some(10))),
            // It was stored, and the next one is begun.
            (six + 1, &[], (1, five, six), (1, Some(10))),
            // Something before it waits; another timeline's.
            (
                six + 1,
                &[4, 5],
                (1, five, five + 7),
                (2 * MIB + 1, Some(100)),
            ),
            (five + 9, &[], (2, five, five + 7), (9, Some(500))),
        ] {
            let queue = queue(waiting, 900);
            let written = Written {
                timeline: TimelineId(timeline),
                start: Lsn(start),
                stored: Lsn(stored),
                end: Lsn(stored),
                last_commit: None,
                as_of: Timestamp::from_second(990).unwrap(),
            };
            let position = Position {
                lsn: Lsn(lsn),
                timeline: TimelineId(1),
                segment_size: size,
                queue: Some(&queue),
                through: None,
                written: Some(&written),
                left: None,
                last_archived: Timestamp::from_second(500).ok(),
            };
            let found = lag(&position, now).map(|lag| (lag.bytes.unwrap(), lag.seconds));
            assert_eq!(found, Some(expected), "{position:?}");
        }
    }
}
