//! Each a scar of somebody, or a rule.

use super::*;

fn check(rows: Vec<(&str, World, &str)>) {
    for (name, mut world, expected) in rows {
        assert_eq!(world.gone(), expected, "{name}\n{}", world.plan().unwrap());
    }
}

fn world(build: impl FnOnce(&mut World)) -> World {
    let mut world = World::new();
    build(&mut world);
    world
}

/// A backup a day for ten days, ten segments a day.
fn daily(world: &mut World) {
    world.timeline(1, &[], 1..=110, 0.0, NOW);
    for n in 0..10u32 {
        let segment = 10 * u64::from(n) + 5;
        world.backup(&format!("b{n}"), 1, segment, segment, 90.0 + f64::from(n));
    }
}

#[test]
fn the_window_and_the_newest_stay() {
    check(vec![
        // Day 93 begins the window: b3 ended just then.
        ("a backup a day", world(daily), "b0 b1 b2 1:1-34"),
        (
            "just before the window",
            world(|w| {
                daily(w);
                w.policy.recovery_window = Some(days(7.001));
            }),
            "b0 b1 1:1-24",
        ),
        (
            "at least five",
            world(|w| {
                daily(w);
                w.policy = Policy {
                    recovery_window: Some(days(1.5)),
                    minimum_backups: 5,
                };
            }),
            "b0 b1 b2 b3 b4 1:1-54",
        ),
        (
            "no window, and no minimum: the newest",
            world(|w| {
                daily(w);
                w.policy = Policy {
                    recovery_window: Some(Duration::ZERO),
                    minimum_backups: 0,
                };
            }),
            "b0 b1 b2 b3 b4 b5 b6 b7 b8 1:1-94",
        ),
        (
            "no window: for ever, also what no backup can replay",
            world(|w| {
                daily(w);
                w.policy.recovery_window = None;
            }),
            "",
        ),
        (
            "a window longer than time",
            world(|w| {
                daily(w);
                w.policy.recovery_window = Some(Duration::MAX);
            }),
            "1:1-4",
        ),
        (
            "the newest is older than everything",
            world(|w| {
                w.timeline(1, &[], 1..=20, 0.0, 30.0);
                w.backup("a", 1, 5, 5, 10.0);
                w.backup("b", 1, 9, 9, 11.0);
            }),
            "a 1:1-8",
        ),
        (
            "no backup yet",
            world(|w| w.timeline(1, &[], 1..=20, 0.0, NOW)),
            "",
        ),
        (
            "for ever: from start to stop, and no further",
            world(|w| {
                daily(w);
                w.backup("f", 1, 2, 3, 80.0);
                w.stored("f").forever = true;
                w.wishes.forever.insert("b1".into());
            }),
            "b0 b2 1:1 1:4-14 1:16-34",
        ),
    ]);
}

#[test]
fn what_is_not_complete_does_not_count() {
    check(vec![
        (
            "an incomplete one is no start of the window, and not the minimum",
            world(|w| {
                daily(w);
                // The segment of b3 is lost.
                w.last().catalogue.timelines[0].runs =
                    (1..=110).filter(|n| *n != 35).map(SegmentNumber).collect();
            }),
            // b2 takes its place; b3 itself can't be restored and is old.
            "b0 b1 b3 1:1-24",
        ),
        (
            "the only complete one is older than incomplete ones",
            world(|w| {
                w.timeline(1, &[], 1..=20, 0.0, 60.0);
                w.backup("a", 1, 5, 6, 50.0);
                w.backup("b", 1, 18, 25, 60.0);
                w.policy.minimum_backups = 1;
            }),
            // b may become complete.
            "1:1-4",
        ),
        (
            "failed ones do not stand in for good ones",
            world(|w| {
                daily(w);
                w.policy = Policy {
                    recovery_window: Some(days(0.5)),
                    minimum_backups: 2,
                };
                w.open("x", State::Aborted(day(99.9)), 99.8);
                w.open("y", State::Open, 99.999);
            }),
            // y runs, so the WAL waits.
            "b0 b1 b2 b3 b4 b5 b6 b7",
        ),
    ]);
}

#[test]
fn order_is_by_line_and_lsn() {
    // Timeline 2 left 1 in segment 50; what 1 wrote after is abandoned, and has higher LSNs.
    let branched = |w: &mut World| {
        w.timeline(1, &[], 1..=90, 0.0, 80.0);
        w.timeline(2, &[(1, 50)], 50..=60, 75.0, NOW);
        w.backup("a", 1, 20, 20, 60.0);
        w.backup("b", 1, 45, 46, 70.0);
        w.backup("lost", 1, 85, 85, 79.0);
    };
    check(vec![
        (
            "the newest is on the line that goes on, not where LSNs are highest",
            world(branched),
            "a lost 1:1-44",
        ),
        (
            "nor where names sort last",
            world(|w| {
                branched(w);
                w.backup("0", 2, 55, 55, 85.0);
            }),
            // b, on the parent, is needed no more, and so nothing of the parent is.
            "a b lost 1:1-90 2:50-54",
        ),
        (
            "a parent's backup serves up to the switch point",
            world(|w| {
                branched(w);
                w.backup("0", 2, 55, 55, 95.0);
            }),
            "a lost 1:1-44",
        ),
        (
            "one that ended past the switch point does not",
            world(|w| {
                branched(w);
                w.backup("past", 1, 49, 51, 76.0);
                w.backup("0", 2, 55, 55, 95.0);
            }),
            "a lost past 1:1-44",
        ),
        (
            "an abandoned branch that lived in the window is a place to go back to",
            world(|w| {
                w.timeline(1, &[], 1..=90, 0.0, 98.0);
                w.timeline(2, &[(1, 50)], 50..=60, 98.0, NOW);
                w.backup("a", 1, 20, 20, 60.0);
                w.backup("b", 1, 45, 46, 70.0);
                w.backup("before", 1, 85, 85, 79.0);
            }),
            // `before` begins the window on timeline 1, b on timeline 2.
            "a 1:1-44",
        ),
        (
            "a branch that nobody took a backup of, and that nobody can reach",
            world(|w| {
                w.timeline(1, &[], 1..=90, 0.0, NOW);
                w.timeline(2, &[(1, 10)], 10..=30, 40.0, 50.0);
                w.timeline(3, &[(1, 70)], 70..=71, 60.0, NOW);
                w.backup("a", 1, 60, 60, 55.0);
            }),
            "1:1-59 2:10-30",
        ),
    ]);
}

#[test]
fn clocks_are_not_believed_alone() {
    check(vec![
        (
            "the database's clock was behind: the store knows better",
            world(|w| {
                daily(w);
                for backup in &mut w.last().catalogue.backups {
                    backup.facts.stop_time = day(1.0);
                }
            }),
            "b0 b1 b2 1:1-34",
        ),
        (
            "the database's clock was ahead: such a backup begins no window",
            world(|w| {
                daily(w);
                w.last().catalogue.backups[3].facts.stop_time = day(99.0);
            }),
            "b0 b1 1:1-24",
        ),
        (
            "a copied bucket: all is new there",
            world(|w| {
                daily(w);
                for n in 0..10 {
                    w.stored(&format!("b{n}")).state = State::Committed(day(99.0));
                }
            }),
            "1:1-4",
        ),
    ]);
    for (ours, refused) in [
        (99.97, false),
        (100.03, false),
        (99.95, true),
        (400.0, true),
    ] {
        let mut world = world(daily);
        world.observed.our_clock = day(ours);
        let plan = world.plan();
        assert_eq!(
            matches!(plan, Err(Refusal::Clocks { .. })),
            refused,
            "{ours}"
        );
    }
}

#[test]
fn whoever_works_is_not_disturbed() {
    check(vec![
        (
            "a backup runs: WAL stays, for where it begins is not known",
            world(|w| {
                daily(w);
                w.open("r", State::Open, 99.995);
            }),
            "b0 b1 b2",
        ),
        (
            "it ended without a word 15 minutes ago",
            world(|w| {
                daily(w);
                w.open("r", State::Open, 99.98);
            }),
            "b0 b1 b2 1:1-34",
        ),
        (
            "a restore reads an old one",
            world(|w| {
                daily(w);
                w.reader(99.995, &["b1"]);
            }),
            "b0 b2 1:1-14",
        ),
        (
            "it has gone away",
            world(|w| {
                daily(w);
                w.reader(99.98, &["b1"]);
            }),
            "b0 b1 b2 1:1-34",
        ),
        (
            "somebody reads who knows what",
            world(|w| {
                daily(w);
                w.reader(99.995, &[]);
            }),
            "",
        ),
        (
            "an unfinished restore names one",
            world(|w| {
                daily(w);
                w.wishes.needed.insert("b0".into(), "restore shop/x".into());
                w.wishes
                    .needed
                    .insert("gone".into(), "restore shop/y".into());
            }),
            "b1 b2 1:1-4",
        ),
    ]);
}

#[test]
fn incarnations_fall_out_by_the_same_window() {
    let upgraded = |at: f64| {
        move |w: &mut World| {
            daily(w);
            w.last().catalogue.timelines[0].newest = day(at);
            w.incarnation(at);
            w.timeline(1, &[], 1..=9, 0.0, NOW);
        }
    };
    check(vec![
        (
            "the old one lived in the window, and the new one has no backup yet",
            world(upgraded(99.5)),
            "b0 b1 b2 1:1-34",
        ),
        (
            "the new one has a backup",
            world(|w| {
                upgraded(99.5)(w);
                w.backup("n", 1, 3, 3, 99.6);
            }),
            "b0 b1 b2 1:1-34 1:1-2",
        ),
        (
            "the old one ended before the window began",
            world(|w| {
                upgraded(99.5)(w);
                w.backup("n", 1, 3, 3, 99.6);
                w.policy.recovery_window = Some(days(0.2));
            }),
            "b0 b1 b2 b3 b4 b5 b6 b7 b8 b9 1:1-110 1:1-2",
        ),
        (
            "and is all that there is",
            world(|w| {
                upgraded(99.5)(w);
                w.policy.recovery_window = Some(days(0.2));
            }),
            "b0 b1 b2 b3 b4 b5 b6 b7 b8 1:1-94",
        ),
        (
            "the minimum counts over both",
            world(|w| {
                upgraded(99.5)(w);
                w.backup("n", 1, 3, 3, 99.6);
                w.policy = Policy {
                    recovery_window: Some(days(0.2)),
                    minimum_backups: 2,
                };
            }),
            "b0 b1 b2 b3 b4 b5 b6 b7 b8 1:1-94 1:1-2",
        ),
    ]);
}

/// WAL purged across repositories: each is decided about by what it holds itself.
#[test]
fn each_repository_stands_alone() {
    let mut first = world(daily);
    let mut second = world(|w| {
        w.timeline(1, &[], 1..=110, 0.0, NOW);
        w.backup("b1", 1, 15, 15, 91.0);
    });
    assert_eq!(first.gone(), "b0 b1 b2 1:1-34");
    assert_eq!(second.gone(), "1:1-14");
}

#[test]
fn what_can_not_be_told_deletes_nothing() {
    let mut unreadable = world(daily);
    unreadable.last().catalogue.unreadable = vec![("x".into(), "its seal is broken".into())];
    let mut damaged = world(daily);
    damaged.timeline(2, &[(1, 50)], 50..=60, 99.0, NOW);
    damaged.last().catalogue.timelines[1].history = None;
    damaged.last().catalogue.timelines[1].damaged_history = Some("it is cut short".into());
    let mut missing = world(daily);
    missing.timeline(2, &[(1, 50)], 50..=60, 99.0, NOW);
    missing.last().catalogue.timelines[1].history = None;
    // In the other incarnation: nothing is deleted anywhere.
    let mut elsewhere = world(daily);
    elsewhere.last().catalogue.unreadable = vec![("x".into(), "its seal is broken".into())];
    elsewhere.incarnation(99.0);
    for (mut world, word) in [
        (unreadable, "its seal is broken"),
        (damaged, "it is cut short"),
        (missing, "timeline 2 is not archived"),
        (elsewhere, "backup x"),
    ] {
        let refusal = world.plan().unwrap_err().to_string();
        assert!(refusal.starts_with("nothing is deleted"), "{refusal}");
        assert!(refusal.contains(word), "{refusal}");
    }
}

#[test]
fn a_dry_run_gives_a_reason_for_each() {
    let mut world = world(daily);
    world.open("x", State::Open, 99.0);
    let plan = world.plan().unwrap();
    let text = plan.to_string();
    for line in [
        "delete  backup b2: it ended on 1970-04-03T00:00:00Z, and the recovery window begins on 1970-04-04T00:00:00Z; its first moments are reached from a later backup",
        "keep    backup b3: the recovery window begins on 1970-04-04T00:00:00Z, and its first moments on timeline 1 are reached from here",
        "keep    backup b9: it ended on 1970-04-10T00:00:00Z, and the recovery window begins on 1970-04-04T00:00:00Z",
        "give up backup x: it has no manifest, and showed its last sign of life on 1970-04-10T00:00:00Z",
        "delete  WAL 000000010000000000000001 to 000000010000000000000022 (34): no backup that stays replays it",
        "keep    WAL 000000010000000000000023 to 00000001000000000000006E (76): backups that stay replay it",
    ] {
        assert!(text.lines().any(|told| told == line), "{line}\n\n{text}");
    }
    let stored: usize = world.last().stored.len();
    assert_eq!(text.lines().count(), stored + 2, "{text}");
}

#[test]
fn history_tells_which_segment_names_are_meant() {
    let mut world = world(daily);
    let plan = world.plan().unwrap();
    let wal = &plan.incarnations[0].wal[0];
    let name = SegmentName::new(TimelineId(1), SegmentNumber(1), size());
    assert_eq!(wal.names.0, name.to_string());
}

#[test]
fn parts_go_with_their_segment_or_once_it_is_whole() {
    let parts = |segments: &'static [u64]| {
        world(move |w| {
            daily(w);
            w.parts(1, segments);
        })
    };
    check(vec![
        ("the newest", parts(&[111]), "b0 b1 b2 1:1-34"),
        (
            "of whole segments",
            parts(&[34, 35, 100, 111]),
            "b0 b1 b2 1:1-34 part:1:34-35 part:1:100",
        ),
        (
            "before all backups",
            parts(&[0]),
            "b0 b1 b2 1:1-34 part:1:0",
        ),
        (
            "nothing expires, and what is whole is there twice",
            world(|w| {
                daily(w);
                w.parts(1, &[0, 50]);
                w.policy.recovery_window = None;
            }),
            "part:1:50",
        ),
        (
            "somebody reads",
            world(|w| {
                daily(w);
                w.parts(1, &[0, 50]);
                w.reader(NOW, &[]);
            }),
            "",
        ),
        (
            "a backup stops within one and stays for ever",
            world(|w| {
                w.timeline(1, &[], 1..=4, 0.0, 50.0);
                w.parts(1, &[5, 7]);
                w.backup("old", 1, 3, 5, 50.0);
                w.stored("old").forever = true;
                w.timeline(2, &[(1, 4)], 4..=20, 60.0, NOW);
                w.backup("new", 2, 10, 11, 90.0);
            }),
            "1:1-2 2:4-9 part:1:7",
        ),
    ]);
}
