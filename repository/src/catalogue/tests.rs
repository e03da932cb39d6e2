use super::*;
use holdfast_postgres::{Ancestor, SegmentNumber};

const MIB: u64 = 1 << 20;

fn size() -> SegmentSize {
    SegmentSize::new(1 << 20).unwrap()
}

fn timeline(id: u32, parents: &[(u32, u64)], segments: &[u64]) -> Timeline {
    let ancestors = parents
        .iter()
        .map(|(timeline, switch)| Ancestor {
            timeline: TimelineId(*timeline),
            switch: Lsn(*switch),
            reason: String::new(),
        })
        .collect();
    let history = TimelineHistory {
        timeline: TimelineId(id),
        ancestors,
    };
    Timeline {
        id: TimelineId(id),
        history: (id > 1).then_some(history),
        runs: segments.iter().map(|n| SegmentNumber(*n)).collect(),
        ..Timeline::default()
    }
}

fn backup(id: &str, timeline: u32, start: u64, stop: u64) -> BackupFacts {
    crate::reach::sample::backup(id, TimelineId(timeline), Lsn(start), Lsn(stop), size())
}

fn catalogue(timelines: Vec<Timeline>, backups: Vec<BackupFacts>) -> Catalogue {
    Catalogue::new(SystemIdentifier(7), size(), 17, timelines, backups)
}

fn names(chain: &Chain) -> Vec<String> {
    chain
        .files(SegmentNumber(0), SegmentNumber(u64::MAX - 1))
        .map(|(n, name)| format!("{}:{}", name.timeline, n.0))
        .collect()
}

#[test]
fn recovery_reads_the_newest_timeline_that_has_begun() {
    // Timeline 2 left 1 in the middle of segment 5, which 1 went on to fill.
    let switch = 5 * MIB + 100;
    for (one, two, from, files, end, cut, missing, gap) in [
        (
            vec![3, 4, 5, 6],
            vec![5, 6, 7],
            3,
            vec!["1:3", "1:4", "2:5", "2:6", "2:7"],
            8 * MIB,
            false,
            "2:8",
            false,
        ),
        // The parent's segment serves up to the switch point; nothing after it is on the line.
        (
            vec![3, 4, 5, 6],
            vec![],
            4,
            vec!["1:4", "1:5"],
            switch,
            true,
            "2:5",
            false,
        ),
        (
            vec![3, 4, 5, 6],
            vec![6],
            4,
            vec!["1:4", "1:5"],
            switch,
            true,
            "2:5",
            true,
        ),
        (
            vec![3, 4],
            vec![],
            4,
            vec!["1:4"],
            5 * MIB,
            false,
            "2:5",
            false,
        ),
        (
            vec![3],
            vec![5],
            3,
            vec!["1:3"],
            4 * MIB,
            false,
            "1:4",
            true,
        ),
        (
            vec![3, 4],
            vec![5, 7],
            3,
            vec!["1:3", "1:4", "2:5"],
            6 * MIB,
            false,
            "2:6",
            true,
        ),
        (vec![3, 4], vec![5], 2, vec![], 2 * MIB, false, "1:2", true),
        (vec![], vec![5], 9, vec![], 9 * MIB, false, "2:9", false),
    ] {
        let catalogue = catalogue(
            vec![timeline(1, &[], &one), timeline(2, &[(1, switch)], &two)],
            vec![],
        );
        let lineage = catalogue.lineage(TimelineId(2)).unwrap();
        let chain = catalogue.chain(&lineage, SegmentNumber(from));
        let what = format!("{one:?} {two:?} {from}");
        assert_eq!(names(&chain), files, "{what}");
        assert_eq!(
            (chain.end, chain.cut, chain.gap),
            (Lsn(end), cut, gap),
            "{what}"
        );
        assert_eq!(
            format!(
                "{}:{}",
                chain.missing.timeline,
                chain.missing.number(size()).unwrap().0
            ),
            missing,
            "{what}"
        );
    }
}

#[test]
fn several_switches_in_one_segment() {
    let parents = [(1, 5 * MIB + 100), (2, 5 * MIB + 200)];
    let of = |two: &[u64], three: &[u64]| {
        let catalogue = catalogue(
            vec![
                timeline(1, &[], &[4]),
                timeline(2, &parents[..1], two),
                timeline(3, &parents, three),
            ],
            vec![],
        );
        let chain = catalogue.chain(&catalogue.lineage(TimelineId(3)).unwrap(), SegmentNumber(4));
        (names(&chain), chain.end.0)
    };
    assert_eq!(
        of(&[5], &[5, 6]),
        (vec!["1:4".into(), "3:5".into(), "3:6".into()], 7 * MIB)
    );
    assert_eq!(
        of(&[5, 6], &[]),
        (vec!["1:4".into(), "2:5".into()], 5 * MIB + 200)
    );
    assert_eq!(of(&[], &[]), (vec!["1:4".into()], 5 * MIB));
}

#[test]
fn a_part_leads_to_its_end() {
    // Timeline 2 left 1 in the middle of segment 5, of which 1 has what comes before.
    const HALF: u64 = 500_000;
    let switch = 5 * MIB + HALF;
    for (one, two, parts, files, end, gap) in [
        // Of the newest timeline.
        (
            &[3, 4][..],
            &[5][..],
            &[(2, 6, 100)][..],
            &["1:3", "1:4", "2:5", "2:6"][..],
            6 * MIB + 100,
            false,
        ),
        // Whole segments win.
        (
            &[3, 4],
            &[5, 6],
            &[(2, 6, 100), (2, 5, 7)],
            &["1:3", "1:4", "2:5", "2:6"],
            7 * MIB,
            false,
        ),
        // After a part nothing counts, and it is a hole if there is anything.
        (
            &[3, 4],
            &[5, 7],
            &[(2, 6, 100)],
            &["1:3", "1:4", "2:5", "2:6"],
            6 * MIB + 100,
            true,
        ),
        (
            &[3, 4],
            &[5],
            &[(2, 6, 100), (2, 7, 100)],
            &["1:3", "1:4", "2:5", "2:6"],
            6 * MIB + 100,
            true,
        ),
        (
            &[3],
            &[],
            &[(1, 4, 100)],
            &["1:3", "1:4"],
            4 * MIB + 100,
            false,
        ),
        (
            &[3],
            &[5],
            &[(1, 4, 100)],
            &["1:3", "1:4"],
            4 * MIB + 100,
            true,
        ),
        // Before a part there is a hole.
        (&[3], &[], &[(2, 5, 600_000)], &["1:3"], 4 * MIB, true),
        // The parent's counts up to the switch point, and what it wrote later is not on the line.
        (
            &[3, 4],
            &[],
            &[(1, 5, 100)],
            &["1:3", "1:4", "1:5"],
            5 * MIB + 100,
            false,
        ),
        (
            &[3, 4],
            &[],
            &[(1, 5, 600_000)],
            &["1:3", "1:4", "1:5"],
            switch,
            false,
        ),
        (
            &[3, 4],
            &[6],
            &[(1, 5, 600_000)],
            &["1:3", "1:4", "1:5"],
            switch,
            true,
        ),
        (
            &[3, 4],
            &[],
            &[(1, 6, 100)],
            &["1:3", "1:4"],
            5 * MIB,
            false,
        ),
        // The child's has what the parent wrote and more; up to the switch point recovery asks the parent.
        (
            &[3, 4, 5],
            &[],
            &[(2, 5, 600_000)],
            &["1:3", "1:4", "2:5"],
            5 * MIB + 600_000,
            false,
        ),
        (
            &[3, 4],
            &[],
            &[(1, 5, 600_000), (2, 5, 600_000)],
            &["1:3", "1:4", "2:5"],
            5 * MIB + 600_000,
            false,
        ),
        (
            &[3, 4, 5],
            &[],
            &[(2, 5, 500_000)],
            &["1:3", "1:4", "1:5"],
            switch,
            false,
        ),
        (
            &[3, 4],
            &[],
            &[(2, 5, 500_000)],
            &["1:3", "1:4"],
            5 * MIB,
            false,
        ),
    ] {
        let mut timelines = vec![timeline(1, &[], one), timeline(2, &[(1, switch)], two)];
        for (id, segment, to) in parts {
            timelines[*id as usize - 1]
                .parts
                .insert(SegmentNumber(*segment), *to);
        }
        let catalogue = catalogue(timelines, vec![]);
        let chain = catalogue.chain(&catalogue.lineage(TimelineId(2)).unwrap(), SegmentNumber(3));
        let what = format!("{one:?} {two:?} {parts:?}");
        assert_eq!(names(&chain), files, "{what}");
        assert_eq!((chain.end, chain.gap), (Lsn(end), gap), "{what}");
        assert_eq!(chain.cut, end % MIB != 0, "{what}");
    }
}

#[test]
fn a_backup_may_stop_within_a_part() {
    let missing = |stop: u64| {
        let mut one = timeline(1, &[], &[3, 4]);
        one.parts.insert(SegmentNumber(5), 400);
        let catalogue = catalogue(vec![one], vec![backup("a", 1, 3 * MIB + 40, stop)]);
        catalogue.backups[0].missing.map(|name| name.to_string())
    };
    for (stop, expected) in [
        (5 * MIB, None),
        (5 * MIB + 400, None),
        (5 * MIB + 401, Some("000000010000000000000005".to_owned())),
        (6 * MIB + 8, Some("000000010000000000000005".to_owned())),
    ] {
        assert_eq!(missing(stop), expected, "{stop}");
    }
}

#[test]
fn a_switch_at_a_border_needs_the_parent_to_its_last_segment() {
    let catalogue = catalogue(
        vec![timeline(1, &[], &[4]), timeline(2, &[(1, 5 * MIB)], &[5])],
        vec![],
    );
    let chain = catalogue.chain(&catalogue.lineage(TimelineId(2)).unwrap(), SegmentNumber(4));
    assert_eq!(
        (names(&chain), chain.gap),
        (vec!["1:4".into(), "2:5".into()], false)
    );
}

#[test]
fn complete_is_computed() {
    let timelines = vec![
        timeline(1, &[], &[3, 4, 6]),
        timeline(2, &[(1, 7 * MIB + 500)], &[7, 8]),
    ];
    let backups = vec![
        backup("whole", 1, 3 * MIB + 40, 4 * MIB + 300),
        backup("ends-at-a-border", 1, 4 * MIB + 40, 5 * MIB),
        backup("hole", 1, 4 * MIB + 40, 5 * MIB + 8),
        // Only the child archived the segment that the primary died in.
        backup("finished-by-the-child", 1, 6 * MIB + 40, 7 * MIB + 500),
        backup("past-the-switch", 1, 6 * MIB + 40, 7 * MIB + 508),
        backup("not-yet", 2, 8 * MIB + 40, 9 * MIB + 8),
    ];
    let catalogue = catalogue(timelines, backups);
    let missing = |id: &str| {
        catalogue
            .backups
            .iter()
            .find(|b| b.facts.id == id)
            .unwrap()
            .missing
            .map(|name| name.to_string())
    };
    assert_eq!(missing("whole"), None);
    assert_eq!(missing("ends-at-a-border"), None);
    assert_eq!(missing("hole").as_deref(), Some("000000010000000000000005"));
    assert_eq!(missing("finished-by-the-child"), None);
    assert_eq!(
        missing("past-the-switch").as_deref(),
        Some("000000010000000000000007")
    );
    assert_eq!(
        missing("not-yet").as_deref(),
        Some("000000020000000000000009")
    );
    let restorable = |timeline| {
        catalogue
            .restorable(&catalogue.lineage(TimelineId(timeline)).unwrap())
            .iter()
            .map(|b| b.id.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        restorable(2),
        ["finished-by-the-child", "ends-at-a-border", "whole"]
    );
    assert_eq!(restorable(1), ["ends-at-a-border", "whole"]);
}

#[test]
fn latest_is_the_highest_timeline_that_descends_from_a_complete_backup() {
    let timelines = |with_four: bool| {
        let mut all = vec![
            timeline(1, &[], &[3, 4, 5, 6]),
            timeline(2, &[(1, 4 * MIB)], &[4]),
            timeline(3, &[(1, 5 * MIB + 8)], &[5]),
        ];
        // Its history is not there: Postgres would not follow it.
        if with_four {
            all.push(Timeline {
                id: TimelineId(4),
                runs: timeline(4, &[], &[7]).runs,
                ..Timeline::default()
            });
        }
        all
    };
    let newest = |backups: Vec<BackupFacts>| {
        catalogue(timelines(true), backups)
            .newest_lineage()
            .map(|l| l.newest().0)
    };
    assert_eq!(newest(vec![]), None);
    assert_eq!(
        newest(vec![backup("a", 1, 3 * MIB + 40, 3 * MIB + 90)]),
        Some(3)
    );
    assert_eq!(
        newest(vec![backup("a", 2, 4 * MIB + 40, 4 * MIB + 90)]),
        Some(2)
    );
    assert_eq!(
        newest(vec![backup("a", 1, 5 * MIB + 40, 6 * MIB + 90)]),
        Some(1)
    );
}

#[test]
fn gaps_are_holes_that_a_lineage_needs() {
    let switch = 5 * MIB + 100;
    let gap = |from: u64, to: u64| Gap {
        from: Lsn(from),
        to: Lsn(to),
    };
    for (one, two, of_one, of_two) in [
        (vec![3, 4], vec![5, 6], vec![], vec![]),
        (vec![3, 4, 5, 6], vec![5], vec![], vec![]),
        (vec![1, 3, 4], vec![5], vec![gap(2 * MIB, 3 * MIB)], vec![]),
        (vec![3], vec![5], vec![gap(4 * MIB, 5 * MIB)], vec![]),
        // Nothing came after: the rest may still come.
        (vec![3], vec![], vec![], vec![]),
        (vec![3, 4], vec![6], vec![], vec![gap(switch, 6 * MIB)]),
    ] {
        let catalogue = catalogue(
            vec![timeline(1, &[], &one), timeline(2, &[(1, switch)], &two)],
            vec![],
        );
        let gaps = |id| catalogue.gaps(catalogue.timeline(TimelineId(id)).unwrap());
        assert_eq!((gaps(1), gaps(2)), (of_one, of_two), "{one:?} {two:?}");
    }
}
