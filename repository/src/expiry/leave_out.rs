//! What a reader does without. Pure.

use crate::catalogue::{Catalogue, Timeline};
use crate::retention::Doomed;

/// The catalogue without what is announced to go: whoever begins to read it may come too late.
#[must_use]
pub fn leave_out(catalogue: Catalogue, announced: &Doomed) -> Catalogue {
    let Catalogue {
        system,
        segment_size,
        major,
        mut timelines,
        backups,
        unfinished,
        unreadable,
    } = catalogue;
    for Timeline {
        id, runs, parts, ..
    } in &mut timelines
    {
        if let Some(going) = announced.wal.get(id) {
            *runs = runs.without(going);
        }
        if let Some(going) = announced.parts.get(id) {
            parts.retain(|segment, _| going.holding(*segment).is_none());
        }
    }
    let backups = backups.into_iter().map(|backup| backup.facts);
    let staying = backups.filter(|facts| !announced.backups.contains_key(&facts.id));
    let (system, backups) = (system, staying.collect());
    Catalogue {
        unfinished,
        unreadable,
        ..Catalogue::new(system, segment_size, major, timelines, backups)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Run;
    use crate::reach::sample;
    use crate::retention::Request;
    use holdfast_postgres::{Lsn, SegmentNumber, SystemIdentifier, TimelineId};

    #[test]
    fn what_is_announced_serves_nobody_any_more() {
        let size = sample::size();
        let backup = |id: &str, start: u64, stop: u64| {
            let (start, stop) = (Lsn(start * sample::MIB + 40), Lsn(stop * sample::MIB));
            sample::backup(id, TimelineId(1), start, stop, size)
        };
        // Backups in segments 1, 4 to 5, and 8.
        for (backups, wal, complete, end) in [
            (&[][..], None, &["a", "b", "c"][..], 10),
            (&["a"], Some((1, 3)), &["b", "c"], 10),
            // One that is kept for ever loses what comes after it.
            (&[], Some((6, 7)), &["a", "b", "c"], 6),
            (&["b"], Some((5, 7)), &["a", "c"], 5),
            // Its WAL goes first.
            (&[], Some((1, 4)), &["c"], 10),
            (&["a", "b", "c", "gone"], Some((0, 99)), &[], 1),
        ] {
            let timeline = Timeline {
                id: TimelineId(1),
                runs: (1..10).map(SegmentNumber).collect(),
                ..Timeline::default()
            };
            let all = vec![backup("a", 1, 2), backup("b", 4, 6), backup("c", 8, 9)];
            let system = SystemIdentifier(7);
            let catalogue = Catalogue::new(system, size, 17, vec![timeline], all);
            let mut announced = Doomed::default();
            for id in backups {
                let request = Request::default();
                announced.backups.insert((*id).to_owned(), request);
            }
            if let Some((first, last)) = wal {
                let (first, last) = (SegmentNumber(first), SegmentNumber(last));
                let runs = announced.wal.entry(TimelineId(1)).or_default();
                runs.insert_run(Run { first, last });
            }
            let left = leave_out(catalogue, &announced);
            let usable = left.backups.iter().filter(|backup| backup.is_complete());
            let usable: Vec<_> = usable.map(|backup| &backup.facts).collect();
            let ids: Vec<_> = usable.iter().map(|facts| facts.id.as_str()).collect();
            assert_eq!(ids, complete, "{backups:?} {wal:?}");
            let from = usable.first().map_or(1, |b| b.start.segment(size).0);
            let lineage = left.lineage(TimelineId(1));
            let chain = lineage.map(|lineage| left.chain(&lineage, SegmentNumber(from)));
            let reached = chain.map(|chain| chain.end);
            assert_eq!(reached, Some(Lsn(end * sample::MIB)), "{backups:?} {wal:?}");
        }
    }
}
