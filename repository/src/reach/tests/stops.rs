//! One timeline: where recovery stops, and from which backup.

use super::*;
use crate::reach::sample::{MIB, abort, at, commit, other, restore_point};
use std::sync::atomic::Ordering;

/// Where things stand in [`world`].
struct Marks {
    stop_a: Lsn,
    stop_b: Lsn,
    /// Transactions 12, 13, 14 (rolled back), 15 (earlier by the clock), 16 (over a segment's border), 18.
    ends: [(u32, Lsn); 6],
    /// The second end of 12, after the counter came round.
    again: Lsn,
    tail: Lsn,
    end: Lsn,
}

/// Segments 1 to 4 of timeline 1, backup `a` in 1 and `b` in 4.
fn world() -> (Model, Marks) {
    let mut model = Model::default();
    model.write(1, Lsn(MIB), [commit(10, 100), other(1000)]);
    let start_a = model.position(1);
    model.write(1, Lsn(0), [commit(11, 110), other(8000)]);
    let stop_a = model.position(1);
    let first = model.write(
        1,
        Lsn(0),
        [
            commit(12, 120),
            restore_point("one", 125),
            commit(13, 130),
            abort(14, 140),
            commit(15, 135),
        ],
    );
    model.fill(1, Lsn(3 * MIB - 16));
    let over = model.write(1, Lsn(0), [commit(16, 150)]);
    model.fill(1, Lsn(4 * MIB));
    let start_b = model.position(1);
    let again = model.write(1, Lsn(0), [commit(17, 160), commit(12, 170), other(500)]);
    let stop_b = model.position(1);
    let last = model.write(
        1,
        Lsn(0),
        [
            commit(18, 180),
            restore_point("one", 185),
            restore_point("tail", 200),
        ],
    );
    model.fill(1, Lsn(5 * MIB));
    model.archive(1, 1..=4);
    model.back_up("a", 1, start_a, stop_a, 115);
    model.back_up("b", 1, start_b, stop_b, 175);
    let marks = Marks {
        stop_a,
        stop_b,
        ends: [
            (12, first[0]),
            (13, first[2]),
            (14, first[3]),
            (15, first[4]),
            (16, over[0]),
            (18, last[0]),
        ],
        again: again[1],
        tail: last[2],
        end: Lsn(5 * MIB),
    };
    (model, marks)
}

impl Marks {
    fn of(&self, xid: u32) -> Lsn {
        self.ends
            .iter()
            .find(|(known, _)| *known == xid)
            .map(|(_, lsn)| *lsn)
            .unwrap()
    }
}

/// Commits have 34 bytes and are aligned.
const COMMIT: u64 = 40;

fn after(lsn: Lsn) -> Lsn {
    Lsn(lsn.0 + COMMIT)
}

#[test]
fn recovery_stops_where_postgres_stops() {
    use StopKind::{After, Before, Consistent, EndOfWal};
    let (model, m) = world();
    let name = |text: &str| Target::Name(text.into());
    let time = |t| Target::Time(at(t));
    for (target, exclusive, backup, kind, lsn) in [
        (Target::Latest, false, "b", EndOfWal, m.end),
        (Target::Immediate, false, "b", Consistent, m.stop_b),
        // The first end that is later, a rollback too; what is earlier by the clock and comes after it is lost.
        (time(120), false, "a", Before, m.of(13)),
        (time(120), true, "a", Before, m.of(12)),
        (time(129), false, "a", Before, m.of(13)),
        (time(135), false, "a", Before, m.of(14)),
        (time(136), true, "a", Before, m.of(14)),
        (time(140), false, "a", Before, m.of(16)),
        (time(140), true, "a", Before, m.of(14)),
        (time(115), false, "a", Before, m.of(12)),
        // Between the ends of two backups the older one serves, until the newer has ended.
        (time(165), false, "a", Before, m.again),
        (time(174), false, "a", Before, m.of(18)),
        (time(175), false, "b", Before, m.of(18)),
        (time(180), true, "b", Before, m.of(18)),
        // Past the last commit, and still archived.
        (time(180), false, "b", EndOfWal, m.end),
        (time(200), false, "b", EndOfWal, m.end),
        (time(200), true, "b", EndOfWal, m.end),
        (Target::Lsn(m.of(13)), false, "a", After, after(m.of(13))),
        (Target::Lsn(m.of(13)), true, "a", Before, m.of(13)),
        (
            Target::Lsn(Lsn(m.of(13).0 + 1)),
            true,
            "a",
            Before,
            m.of(14),
        ),
        (
            Target::Lsn(Lsn(m.of(13).0 + 1)),
            false,
            "a",
            After,
            after(m.of(14)),
        ),
        (Target::Lsn(m.of(16)), false, "a", After, after(m.of(16))),
        (Target::Lsn(m.stop_a), true, "a", Before, m.stop_a),
        (Target::Lsn(m.stop_b), true, "b", Before, m.stop_b),
        (Target::Lsn(m.stop_b), false, "b", After, after(m.stop_b)),
        // The record that ends the backup is the last that must be replayed.
        (
            Target::Lsn(Lsn(m.stop_b.0 - 8)),
            false,
            "b",
            After,
            after(m.stop_b),
        ),
        (Target::Lsn(m.again), false, "a", After, after(m.again)),
        (Target::Lsn(m.end), false, "b", EndOfWal, m.end),
        // The header of the next segment is no distance.
        (Target::Lsn(Lsn(m.end.0 + 40)), false, "b", EndOfWal, m.end),
        (Target::Xid(13), false, "a", After, after(m.of(13))),
        (Target::Xid(13), true, "a", Before, m.of(13)),
        (Target::Xid(14), false, "a", After, after(m.of(14))),
        (Target::Xid(16), false, "a", After, after(m.of(16))),
        (Target::Xid(18), true, "b", Before, m.of(18)),
        // The newer backup is not consistent at its second end; from the older one its first end comes first.
        (Target::Xid(12), false, "a", After, after(m.of(12))),
        (
            name("one"),
            false,
            "b",
            After,
            Lsn(m.of(18).0 + COMMIT + 104),
        ),
        (name("tail"), false, "b", After, Lsn(m.tail.0 + 104)),
    ] {
        let plan = planned(&model, &request(target.clone(), exclusive))
            .unwrap_or_else(|refusal| panic!("{target} {exclusive}: {refusal}"));
        assert_eq!(
            (plan.backup.id.as_str(), plan.stop.kind, plan.stop.lsn),
            (backup, kind, lsn),
            "{target} {exclusive}: {}",
            plan.stop.words
        );
        assert_eq!(plan.end, m.end);
    }
}

#[test]
fn what_can_not_be_reached_is_refused_with_what_can() {
    let (model, m) = world();
    for (target, exclusive, parts) in [
        (
            Target::Time(at(114)),
            false,
            [
                "before the end of the earliest backup",
                "2000-01-01T00:00:00.000115Z",
            ],
        ),
        (
            Target::Time(at(201)),
            false,
            [
                "after the end of the archived WAL",
                "2000-01-01T00:00:00.00018Z",
            ],
        ),
        (
            Target::Lsn(Lsn(m.stop_a.0 - 9000)),
            false,
            ["before the end of the earliest backup", "0/102"],
        ),
        (
            Target::Lsn(Lsn(m.end.0 + 41)),
            false,
            ["after the end of the archived WAL", "0/500000"],
        ),
        (
            Target::Xid(11),
            false,
            ["before the end of the earliest backup", "transaction 11"],
        ),
        (
            Target::Xid(10),
            false,
            [
                "transaction 10 neither commits nor rolls back",
                "what can be reached",
            ],
        ),
        (
            Target::Name("none".into()),
            false,
            ["no restore point \"none\"", "what can be reached"],
        ),
        (
            Target::Name("one".into()),
            true,
            ["exclusive means nothing", "restore point"],
        ),
        (
            Target::Latest,
            true,
            ["exclusive means nothing", "end of the archived WAL"],
        ),
        (
            Target::Immediate,
            true,
            ["exclusive means nothing", "end of the backup"],
        ),
    ] {
        let refusal =
            planned(&model, &request(target.clone(), exclusive)).expect_err(&target.to_string());
        assert!(!refusal.could_not_tell());
        let text = refusal.to_string();
        for part in parts {
            assert!(text.contains(part), "{target}: {text}");
        }
        assert_eq!(text.lines().count(), 1);
    }
}

#[test]
fn the_window_holds_only_targets_that_work() {
    let (model, m) = world();
    let window = block_on(Window::of(&model.catalogue(), &model))
        .unwrap()
        .unwrap();
    let Window {
        timeline,
        earliest_lsn,
        earliest_time,
        latest_lsn,
        latest_time,
    } = window;
    assert_eq!(
        (timeline, earliest_lsn, latest_lsn),
        (TimelineId(1), m.stop_a, m.end)
    );
    assert_eq!((earliest_time, latest_time), (at(115), at(180)));
    for target in [
        Target::Lsn(earliest_lsn),
        Target::Lsn(latest_lsn),
        Target::Time(earliest_time),
        Target::Time(latest_time),
    ] {
        let plan = planned(&model, &request(target.clone(), false))
            .unwrap_or_else(|refusal| panic!("{target}: {refusal}"));
        assert!(plan.stop.lsn >= m.stop_a);
    }
}

#[test]
fn an_idle_database_has_a_window_of_its_backup() {
    let mut model = Model::default();
    model.write(1, Lsn(MIB), [commit(3, 50), other(100)]);
    let start = model.position(1);
    model.write(1, Lsn(0), [other(100)]);
    let stop = model.position(1);
    model.fill(1, Lsn(2 * MIB));
    model.archive(1, [1]);
    model.back_up("a", 1, start, stop, 90);
    let window = block_on(Window::of(&model.catalogue(), &model))
        .unwrap()
        .unwrap();
    assert_eq!((window.earliest_time, window.latest_time), (at(90), at(90)));
    let plan = planned(&model, &request(Target::Time(at(90)), false)).unwrap();
    assert_eq!(
        (plan.stop.kind, plan.stop.time),
        (StopKind::EndOfWal, Some(at(50)))
    );
    assert!(planned(&model, &request(Target::Time(at(91)), false)).is_err());
}

#[test]
fn a_clock_that_was_ahead_moves_the_earliest_moment() {
    let mut model = Model::default();
    model.write(1, Lsn(MIB), [other(64)]);
    let start = model.position(1);
    model.write(1, Lsn(0), [commit(3, 130), other(64)]);
    let stop = model.position(1);
    model.write(1, Lsn(0), [commit(4, 140)]);
    model.fill(1, Lsn(2 * MIB));
    model.archive(1, [1]);
    model.back_up("a", 1, start, stop, 100);
    let window = block_on(Window::of(&model.catalogue(), &model))
        .unwrap()
        .unwrap();
    assert_eq!(window.earliest_time, at(130));
    assert!(planned(&model, &request(Target::Time(at(129)), false)).is_err());
    assert_eq!(
        planned(&model, &request(Target::Time(at(130)), false))
            .unwrap()
            .stop
            .kind,
        StopKind::Before
    );
}

#[test]
fn settings_are_what_postgres_reads() {
    let (model, m) = world();
    let settings = |target, exclusive| {
        planned(&model, &request(target, exclusive))
            .unwrap()
            .recovery_settings
    };
    let pairs = |wanted: &[(&str, &str)]| {
        wanted
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect::<Vec<_>>()
    };
    let (on, off) = (
        ("recovery_target_inclusive", "on"),
        ("recovery_target_inclusive", "off"),
    );
    assert_eq!(
        settings(Target::Time(at(129)), false),
        pairs(&[
            ("recovery_target_time", "2000-01-01 00:00:00.000129+00"),
            on
        ])
    );
    assert_eq!(
        settings(Target::Xid(13), true),
        pairs(&[("recovery_target_xid", "13"), off])
    );
    assert_eq!(
        settings(Target::Lsn(m.of(13)), false),
        pairs(&[("recovery_target_lsn", &m.of(13).to_string()), on])
    );
    assert_eq!(
        settings(Target::Name("one".into()), false),
        pairs(&[("recovery_target_name", "one")])
    );
    assert_eq!(
        settings(Target::Immediate, false),
        pairs(&[("recovery_target", "immediate")])
    );
    // The last record, so that Postgres stops there by itself.
    let last = Lsn(m.tail.0 + 104).to_string();
    for target in [Target::Latest, Target::Time(at(199)), Target::Lsn(m.end)] {
        assert_eq!(
            settings(target, false),
            pairs(&[("recovery_target_lsn", &last), on])
        );
    }
}

#[test]
fn a_plan_names_the_wal_and_the_last_commit() {
    let (model, m) = world();
    let plan = planned(&model, &request(Target::Xid(16), false)).unwrap();
    // Its record ends in the next segment.
    assert_eq!(
        (
            plan.first_segment.to_string(),
            plan.last_segment.to_string(),
            plan.wal_segments
        ),
        (
            "000000010000000000000001".into(),
            "000000010000000000000003".into(),
            3
        )
    );
    assert_eq!(
        (plan.timeline, plan.end, plan.end_timeline),
        (TimelineId(1), m.end, TimelineId(1))
    );
    assert_eq!(plan.stop.time, Some(at(150)));
    assert!(
        plan.stop
            .words
            .contains("after the commit of transaction 16"),
        "{}",
        plan.stop.words
    );
    let before = planned(&model, &request(Target::Xid(16), true)).unwrap();
    assert_eq!(before.stop.time, Some(at(135)));
}

#[test]
fn a_backup_can_be_asked_for() {
    let (model, m) = world();
    let ask = |target, backup: &str| {
        planned(
            &model,
            &Request {
                backup: Some(backup.into()),
                ..request(target, false)
            },
        )
    };
    assert_eq!(ask(Target::Latest, "a").unwrap().backup.id, "a");
    assert_eq!(ask(Target::Immediate, "a").unwrap().stop.lsn, m.stop_a);
    assert!(matches!(
        ask(Target::Time(at(150)), "b"),
        Err(Refusal::TooEarly { .. })
    ));
    assert!(matches!(
        ask(Target::Latest, "c"),
        Err(Refusal::UnknownBackup { .. })
    ));
}

#[test]
fn what_settings_the_way_demands() {
    use holdfast_postgres::WalLevel;
    use holdfast_postgres::wal::{ParameterChange, RecordKind};
    let change = |connections, senders| {
        let change = ParameterChange {
            lsn: Lsn(0),
            wal_level: WalLevel::Replica,
            max_connections: connections,
            max_worker_processes: 8,
            max_wal_senders: senders,
            max_prepared_xacts: 0,
            max_locks_per_xact: 64,
            wal_log_hints: false,
            track_commit_timestamp: false,
        };
        (54, RecordKind::ParameterChange(change))
    };
    let mut model = Model::default();
    model.write(1, Lsn(MIB), [other(64), commit(3, 10)]);
    let stop = model.position(1);
    model.write(
        1,
        Lsn(0),
        [
            change(200, 5),
            commit(4, 20),
            change(50, 30),
            commit(5, 30),
            change(999, 1),
        ],
    );
    model.fill(1, Lsn(2 * MIB));
    model.archive(1, [1]);
    model.back_up("a", 1, Lsn(MIB), stop, 15);
    model.backups[0].settings.max_connections = 100;
    let demanded = |xid| {
        let settings = planned(&model, &request(Target::Xid(xid), false))
            .unwrap()
            .minimum_settings;
        (settings.max_connections, settings.max_wal_senders)
    };
    assert_eq!(demanded(4), (200, 5));
    assert_eq!(demanded(5), (200, 30));
    assert_eq!(
        planned(&model, &request(Target::Immediate, false))
            .unwrap()
            .minimum_settings
            .max_connections,
        100
    );
    assert_eq!(
        planned(&model, &request(Target::Latest, false))
            .unwrap()
            .minimum_settings
            .max_connections,
        999
    );
}

#[test]
fn indexes_are_read_once_and_records_only_where_a_stop_may_be() {
    let mut model = Model::default();
    model.write(1, Lsn(MIB), [other(64)]);
    for n in 0..300u64 {
        model.write(1, Lsn(0), [commit(100 + n as u32, 1000 + n as i64)]);
        model.fill(1, Lsn((n + 2) * MIB));
    }
    model.archive(1, 1..=300);
    for backup in 0..10 {
        let segment = 1 + backup * 30;
        model.back_up(
            &format!("b{backup}"),
            1,
            Lsn(segment * MIB),
            Lsn(segment * MIB + 104),
            1000 + backup as i64 * 30,
        );
    }
    let plan = planned(&model, &request(Target::Time(at(1100)), false)).unwrap();
    assert_eq!(plan.backup.id, "b3");
    // From segment 91 to 102, and those fetched ahead.
    assert!(model.indexes_read.load(Ordering::Relaxed) <= 12 + 17);
    assert_eq!(model.segments_read.load(Ordering::Relaxed), 1);
    // A transaction that is nowhere: each backup looks at its own part alone, some ahead, and the window is told.
    model.indexes_read.store(0, Ordering::Relaxed);
    assert!(matches!(
        planned(&model, &request(Target::Xid(7), false)),
        Err(Refusal::NotFound { .. })
    ));
    let read = model.indexes_read.load(Ordering::Relaxed);
    assert!(read <= 300 + 10 * 20, "{read}");
}

#[test]
fn wal_of_the_minimal_level_is_not_passed() {
    use holdfast_postgres::WalLevel;
    use holdfast_postgres::wal::{ParameterChange, RecordKind};
    let change = |wal_level| {
        let change = ParameterChange {
            lsn: Lsn(0),
            wal_level,
            max_connections: 100,
            max_worker_processes: 8,
            max_wal_senders: 10,
            max_prepared_xacts: 0,
            max_locks_per_xact: 64,
            wal_log_hints: false,
            track_commit_timestamp: false,
        };
        (54, RecordKind::ParameterChange(change))
    };
    let mut model = Model::default();
    // Before the backup's start it is over.
    model.write(1, Lsn(MIB), [change(WalLevel::Minimal), other(64)]);
    let start = model.position(1);
    model.write(1, Lsn(0), [commit(3, 10)]);
    let stop = model.position(1);
    model.back_up("a", 1, start, stop, 15);
    let lsns = model.write(
        1,
        Lsn(0),
        [
            commit(4, 20),
            commit(5, 30),
            change(WalLevel::Minimal),
            commit(6, 40),
            change(WalLevel::Replica),
            commit(7, 50),
        ],
    );
    model.fill(1, Lsn(2 * MIB));
    model.archive(1, [1]);
    let ask = |target| planned(&model, &request(target, false));
    for target in [
        Target::Immediate,
        Target::Xid(5),
        Target::Lsn(lsns[1]),
        Target::Time(at(29)),
    ] {
        let plan = ask(target.clone());
        assert!(plan.is_ok(), "{target}: {}", plan.unwrap_err());
    }
    for target in [
        Target::Latest,
        Target::Lsn(lsns[2]),
        Target::Lsn(lsns[5]),
        Target::Xid(6),
        Target::Time(at(30)),
        Target::Time(at(45)),
    ] {
        let refused = ask(target.clone()).unwrap_err();
        assert!(
            matches!(&refused, Refusal::MinimalWal { lsn, .. } if *lsn == lsns[2]),
            "{target}: {refused}"
        );
        assert!(refused.to_string().contains(&lsns[2].to_string()));
    }
    assert!(planned(&model, &request(Target::Lsn(lsns[2]), true)).is_ok());
    let window = block_on(Window::of(&model.catalogue(), &model))
        .unwrap()
        .unwrap();
    assert_eq!(window.latest_lsn, lsns[1]);
    assert_eq!(
        window.latest_time,
        holdfast_postgres::PgTimestamp(29).to_jiff()
    );
    for target in [
        Target::Lsn(window.latest_lsn),
        Target::Time(window.latest_time),
    ] {
        assert!(ask(target).is_ok());
    }
    // A later backup begins anew.
    let start = model.position(1);
    model.write(1, Lsn(0), [other(64)]);
    model.back_up("b", 1, start, model.position(1), 60);
    model.fill(1, Lsn(3 * MIB));
    model.archive(1, [2]);
    let plan = planned(&model, &request(Target::Latest, false)).unwrap();
    assert_eq!(plan.backup.id, "b");
}

#[test]
fn a_part_is_reached_up_to_its_end() {
    let (mut model, _) = world();
    // Segment 5 is unfinished: a record that runs over into it, a commit, a restore point, and a commit past the part.
    let last = model.write(
        1,
        Lsn(0),
        [
            commit(20, 300),
            restore_point("here", 305),
            commit(21, 310),
            commit(22, 320),
        ],
    );
    let part = last[3];
    assert!(planned(&model, &request(Target::Xid(20), false)).is_err());
    model.archive_part(1, part);
    let of = |target: Target| planned(&model, &request(target, false));
    for (target, lsn) in [
        (Target::Latest, part),
        (Target::Xid(20), after(last[0])),
        (Target::Name("here".into()), last[2]),
        (Target::Xid(21), part),
        (Target::Time(at(300)), last[2]),
        (Target::Time(at(310)), part),
        (Target::Lsn(last[2]), part),
        (Target::Lsn(part), part),
    ] {
        let plan = of(target.clone()).unwrap();
        assert_eq!(plan.stop.lsn, lsn, "{target:?}");
        assert_eq!(plan.end, part, "{target:?}");
    }
    let latest = of(Target::Latest).unwrap();
    assert_eq!(latest.last_segment.to_string(), "000000010000000000000005");
    let settings = latest.recovery_settings;
    assert!(
        settings.contains(&("recovery_target_lsn".into(), last[2].to_string())),
        "{settings:?}"
    );
    for target in [
        Target::Xid(22),
        Target::Time(at(311)),
        Target::Lsn(Lsn(part.0 + 8)),
        Target::Name("there".into()),
    ] {
        assert!(of(target.clone()).is_err(), "{target:?}");
    }
    let window = block_on(Window::of(&model.catalogue(), &model))
        .unwrap()
        .unwrap();
    assert_eq!((window.latest_lsn, window.latest_time), (part, at(310)));
    // The whole segment takes its place.
    model.fill(1, Lsn(6 * MIB));
    model.archive(1, [5]);
    let whole = planned(&model, &request(Target::Xid(22), false)).unwrap();
    assert_eq!(whole.end, Lsn(6 * MIB));
}

#[test]
fn a_record_that_runs_over_into_a_part_is_found() {
    let mut model = Model::default();
    model.write(1, Lsn(MIB), [other(1000)]);
    let start = model.position(1);
    model.write(1, Lsn(0), [other(1000)]);
    let stop = model.position(1);
    model.fill(1, Lsn(2 * MIB - 16));
    let over = model.write(1, Lsn(0), [commit(9, 90), other(1000)]);
    model.archive(1, [1]);
    model.back_up("a", 1, start, stop, 50);
    model.archive_part(1, after(over[0]));
    for target in [Target::Xid(9), Target::Latest] {
        let plan = planned(&model, &request(target.clone(), false)).unwrap();
        assert_eq!((plan.stop.lsn, plan.end), (over[1], over[1]), "{target:?}");
    }
    let past = request(Target::Lsn(Lsn(over[1].0 + 8)), false);
    assert!(planned(&model, &past).is_err());
}
