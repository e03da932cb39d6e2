//! Several timelines, and holes in their WAL.

use super::*;
use crate::object::ObjectError;
use crate::reach::sample::{MIB, at, commit, other, restore_point};
use crate::store::StoreError;
use holdfast_postgres::SegmentName;
use holdfast_postgres::wal::{Record, SegmentIndex};
use std::ops::ControlFlow;

/// Timeline 1 from segment 1 on, with a backup in it; left in the middle of segment 3 by timeline 2, while 1 goes on
/// to segment 5 with a backup past the fork. Timeline 2 has a backup too, in segment 4.
fn world() -> (Model, Lsn) {
    let mut model = Model::default();
    model.write(1, Lsn(MIB), [other(64)]);
    let (start, _) = (
        model.position(1),
        model.write(1, Lsn(0), [commit(3, 100), other(64)]),
    );
    model.back_up("one", 1, start, model.position(1), 105);
    model.write(1, Lsn(0), [commit(4, 110)]);
    model.fill(1, Lsn(3 * MIB));
    model.write(1, Lsn(0), [commit(5, 120), other(800)]);
    let switch = model.position(1);
    model.branch(2, 1, switch);
    // What the old primary went on to do is not on the line of 2.
    model.write(1, Lsn(0), [commit(60, 130), restore_point("split", 135)]);
    model.fill(1, Lsn(4 * MIB));
    let (start, _) = (
        model.position(1),
        model.write(1, Lsn(0), [commit(61, 140), other(64)]),
    );
    model.back_up("split", 1, start, model.position(1), 145);
    model.write(1, Lsn(0), [commit(62, 150)]);
    model.fill(1, Lsn(6 * MIB));
    model.write(2, switch, [commit(6, 132), other(64)]);
    model.fill(2, Lsn(4 * MIB));
    let (start, _) = (
        model.position(2),
        model.write(2, Lsn(0), [commit(7, 160), other(64)]),
    );
    model.back_up("two", 2, start, model.position(2), 165);
    model.write(2, Lsn(0), [commit(8, 170), restore_point("done", 175)]);
    model.fill(2, Lsn(5 * MIB));
    model.archive(1, 1..=5);
    model.archive(2, 3..=4);
    (model, switch)
}

fn ask(
    model: &Model,
    target: Target,
    timeline: TimelineChoice,
    backup: Option<&str>,
) -> Result<Plan, Refusal> {
    planned(
        model,
        &Request {
            target,
            exclusive: false,
            timeline,
            backup: backup.map(str::to_owned),
        },
    )
}

#[test]
fn each_choice_of_a_timeline() {
    use TimelineChoice::{Current, Latest, Number};
    let (model, _) = world();
    let one = Number(TimelineId(1));
    let two = Number(TimelineId(2));
    for (target, timeline, backup, expected) in [
        (Target::Latest, Latest, None, Ok(("two", 2))),
        (Target::Latest, Current, None, Ok(("two", 2))),
        (Target::Latest, one, None, Ok(("split", 1))),
        (Target::Latest, two, None, Ok(("two", 2))),
        (Target::Latest, Latest, Some("one"), Ok(("one", 2))),
        (Target::Latest, Current, Some("one"), Ok(("one", 1))),
        (Target::Latest, Latest, Some("split"), Ok(("split", 1))),
        // It ended before the fork.
        (Target::Xid(4), Latest, None, Ok(("one", 1))),
        (Target::Xid(6), Latest, None, Ok(("one", 2))),
        (Target::Xid(8), Latest, None, Ok(("two", 2))),
        // Of the other branch.
        (Target::Xid(60), Latest, None, Err("transaction 60 neither")),
        (Target::Xid(60), one, None, Ok(("one", 1))),
        (Target::Xid(62), Current, None, Ok(("split", 1))),
        (Target::Name("split".into()), one, None, Ok(("one", 1))),
        (
            Target::Name("split".into()),
            Latest,
            None,
            Err("no restore point \"split\""),
        ),
        (Target::Time(at(131)), Latest, None, Ok(("one", 2))),
        (Target::Time(at(131)), one, None, Ok(("one", 1))),
        (
            Target::Latest,
            two,
            Some("split"),
            Err("it ended at 0/400068 on timeline 1, which that one had left at 0/300348"),
        ),
        (
            Target::Latest,
            one,
            Some("two"),
            Err("does not descend from"),
        ),
        (
            Target::Latest,
            Number(TimelineId(3)),
            None,
            Err(
                "timeline 3 can't be followed: nothing of it is archived; those that can be followed: 1, 2",
            ),
        ),
    ] {
        let what = format!("{target} {timeline:?} {backup:?}");
        match (ask(&model, target, timeline, backup), expected) {
            (Ok(plan), Ok(expected)) => assert_eq!(
                (plan.backup.id.as_str(), plan.timeline.0),
                expected,
                "{what}"
            ),
            (Err(refusal), Err(part)) => {
                assert!(refusal.to_string().contains(part), "{what}: {refusal}")
            }
            (other, _) => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn times_on_a_branch_are_its_own() {
    let (model, switch) = world();
    // The old primary's transaction 60 is earlier; on this line the next one is 6.
    let plan = ask(&model, Target::Time(at(129)), TimelineChoice::Latest, None).unwrap();
    assert_eq!((plan.stop.lsn, plan.backup.id.as_str()), (switch, "one"));
    assert!(
        plan.stop.words.contains("transaction 6 "),
        "{}",
        plan.stop.words
    );
    assert_eq!(plan.last_segment.to_string(), "000000020000000000000003");
}

#[test]
fn a_child_that_has_archived_nothing_ends_at_the_switch() {
    let (mut model, switch) = world();
    model.files.retain(|name| name.timeline == TimelineId(1));
    model.backups.retain(|backup| backup.id == "one");
    let plan = ask(&model, Target::Latest, TimelineChoice::Latest, None).unwrap();
    assert_eq!(
        (plan.timeline, plan.stop.lsn, plan.end, plan.end_timeline),
        (TimelineId(2), switch, switch, TimelineId(1))
    );
    assert_eq!(plan.stop.time, Some(at(120)));
    assert_eq!(plan.last_segment.to_string(), "000000010000000000000003");
    // Nothing of the split brain is on the line.
    assert!(matches!(
        ask(&model, Target::Xid(60), TimelineChoice::Latest, None),
        Err(Refusal::NotFound { .. })
    ));
    assert!(matches!(
        ask(&model, Target::Time(at(121)), TimelineChoice::Latest, None),
        Err(Refusal::TooLate { .. })
    ));
    assert_eq!(
        ask(&model, Target::Time(at(120)), TimelineChoice::Latest, None)
            .unwrap()
            .stop
            .kind,
        StopKind::EndOfWal
    );
    let window = block_on(Window::of(&model.catalogue(), &model))
        .unwrap()
        .unwrap();
    assert_eq!((window.latest_lsn, window.latest_time), (switch, at(120)));
}

#[test]
fn a_hole_is_not_the_end() {
    let mut model = Model::default();
    model.write(1, Lsn(MIB), [other(64)]);
    model.back_up("a", 1, Lsn(MIB), model.position(1), 10);
    for n in 1..=6 {
        model.write(1, Lsn(0), [commit(10 + n, 100 * i64::from(n))]);
        model.fill(1, Lsn(u64::from(n + 1) * MIB));
    }
    // Segment 4 is missing.
    model.archive(1, [1, 2, 3, 5, 6]);
    let latest = |target| ask(&model, target, TimelineChoice::Latest, None);
    for target in [
        Target::Latest,
        Target::Xid(15),
        Target::Time(at(301)),
        Target::Lsn(Lsn(5 * MIB + 8)),
    ] {
        let refusal = latest(target.clone()).expect_err(&target.to_string());
        assert!(
            matches!(&refusal, Refusal::Gap { missing, .. } if missing.to_string() == "000000010000000000000004"),
            "{target}: {refusal}"
        );
        assert!(refusal.to_string().contains("0/400000"), "{refusal}");
    }
    // Before it everything works, and recovery must not look beyond.
    for target in [
        Target::Xid(13),
        Target::Time(at(300)),
        Target::Lsn(Lsn(4 * MIB)),
    ] {
        assert_eq!(
            latest(target.clone())
                .unwrap_or_else(|refusal| panic!("{target}: {refusal}"))
                .end,
            Lsn(4 * MIB)
        );
    }
    // A backup after the hole.
    model.back_up("b", 1, Lsn(5 * MIB), Lsn(5 * MIB + 40), 510);
    let latest = |target| ask(&model, target, TimelineChoice::Latest, None);
    assert_eq!(latest(Target::Latest).unwrap().backup.id, "b");
    assert_eq!(latest(Target::Xid(12)).unwrap().backup.id, "a");
    assert_eq!(
        latest(Target::Time(at(250))).unwrap().stop.lsn,
        Lsn(3 * MIB)
    );
    assert!(matches!(
        latest(Target::Time(at(450))),
        Err(Refusal::Gap { .. })
    ));
    assert!(matches!(latest(Target::Xid(14)), Err(Refusal::Gap { .. })));
}

#[test]
fn records_over_borders() {
    let mut model = Model::default();
    model.write(1, Lsn(MIB), [other(64)]);
    model.back_up("a", 1, Lsn(MIB), model.position(1), 10);
    model.fill(1, Lsn(2 * MIB - 24));
    // One that covers segments 2 and 3 and ends in 4, and one whose header stands across a border.
    let (long, kind) = commit(20, 200);
    let first = model.write(1, Lsn(0), [(long + 2 * MIB + 900, kind)])[0];
    model.fill(1, Lsn(5 * MIB - 8));
    let second = model.write(1, Lsn(0), [commit(21, 210)])[0];
    model.fill(1, Lsn(6 * MIB));
    model.archive(1, 1..=5);
    let plan = ask(&model, Target::Xid(20), TimelineChoice::Latest, None).unwrap();
    assert_eq!(
        (plan.stop.lsn, plan.wal_segments),
        (Lsn(first.0 + 2 * MIB + 904), 4)
    );
    let plan = ask(&model, Target::Time(at(205)), TimelineChoice::Latest, None).unwrap();
    assert_eq!((plan.stop.lsn, plan.wal_segments), (second, 5));
    // Where the rest of it is not archived it was never committed.
    model.files.retain(|name| name.segment < 4);
    assert!(matches!(
        ask(&model, Target::Xid(20), TimelineChoice::Latest, None),
        Err(Refusal::NotFound { .. })
    ));
    let plan = ask(&model, Target::Latest, TimelineChoice::Latest, None).unwrap();
    assert_eq!((plan.stop.lsn, plan.end), (first, Lsn(4 * MIB)));
    let window = block_on(Window::of(&model.catalogue(), &model))
        .unwrap()
        .unwrap();
    assert_eq!(window.latest_lsn, first);
}

#[test]
fn an_incomplete_backup_is_passed_over() {
    let mut model = Model::default();
    model.write(1, Lsn(MIB), [other(64)]);
    model.back_up("a", 1, Lsn(MIB), model.position(1), 10);
    model.fill(1, Lsn(3 * MIB));
    model.write(1, Lsn(0), [commit(5, 50)]);
    model.fill(1, Lsn(5 * MIB));
    // From a standby: only the primary can close the segment in which it ended.
    model.back_up("standby", 1, Lsn(2 * MIB), Lsn(3 * MIB + 40), 60);
    model.archive(1, [1, 2]);
    assert_eq!(
        ask(&model, Target::Immediate, TimelineChoice::Latest, None)
            .unwrap()
            .backup
            .id,
        "a"
    );
    let refusal = ask(
        &model,
        Target::Immediate,
        TimelineChoice::Latest,
        Some("standby"),
    )
    .expect_err("incomplete");
    assert!(
        refusal.to_string().contains("000000010000000000000003"),
        "{refusal}"
    );
    model.backups.remove(0);
    let refusal =
        ask(&model, Target::Latest, TimelineChoice::Latest, None).expect_err("nothing complete");
    assert!(
        refusal
            .to_string()
            .contains("standby lacks the WAL segment 000000010000000000000003"),
        "{refusal}"
    );
    model.archive(1, [3]);
    assert_eq!(
        ask(&model, Target::Immediate, TimelineChoice::Latest, None)
            .unwrap()
            .backup
            .id,
        "standby"
    );
}

/// A store that fails.
struct Broken(fn() -> ObjectError);

impl Indexes for Broken {
    async fn index(&self, _: SegmentName) -> Result<SegmentIndex, ObjectError> {
        Err((self.0)())
    }

    async fn records(
        &self,
        _: SegmentName,
        _: &[SegmentName],
        _: impl FnMut(Record) -> ControlFlow<()> + Send,
    ) -> Result<(), ObjectError> {
        Err((self.0)())
    }

    fn major(&self) -> u32 {
        17
    }
}

#[test]
fn trouble_is_not_an_answer() {
    let (model, _) = world();
    let ask = |broken: Broken, target| {
        block_on(plan(&model.catalogue(), &broken, &request(target, false)))
            .expect_err("nothing can be read")
    };
    for target in [
        Target::Latest,
        Target::Immediate,
        Target::Xid(4),
        Target::Time(at(150)),
        Target::Name("x".into()),
    ] {
        let trouble = ask(
            Broken(|| StoreError::invalid("s3://b", "k", "timeout").into()),
            target.clone(),
        );
        assert!(trouble.could_not_tell(), "{target}: {trouble}");
        let damage = ask(Broken(|| ObjectError::damaged("k", "flipped")), target);
        assert!(!damage.could_not_tell(), "{damage}");
    }
}

#[test]
fn a_stop_before_a_fork_follows_the_timeline_that_it_lies_on() {
    let (mut model, switch) = world();
    let two = TimelineChoice::Number(TimelineId(2));
    let targets = [
        (Target::Xid(4), 1),
        (Target::Xid(5), 1),
        (Target::Xid(6), 2),
        (Target::Latest, 2),
    ];
    for (target, timeline) in targets.clone() {
        let plan = ask(&model, target.clone(), two, None).unwrap();
        assert_eq!(plan.timeline, TimelineId(timeline), "{target}");
        assert_eq!(plan.lineage.newest(), plan.timeline);
        if timeline == 1 {
            assert!(plan.stop.lsn <= switch && plan.last_segment.timeline == plan.timeline);
        }
    }
    let plan = ask(&model, Target::Immediate, two, Some("one")).unwrap();
    assert_eq!(plan.timeline, TimelineId(1));
    // Only the child's file holds what was written just before the fork.
    model.files.retain(|name| {
        name.timeline > TimelineId(1) || name.number(crate::reach::sample::size()).unwrap().0 < 3
    });
    for (target, timeline) in [(Target::Xid(4), 1), (Target::Xid(5), 2)] {
        let plan = ask(&model, target.clone(), two, None).unwrap();
        assert_eq!(plan.timeline, TimelineId(timeline), "{target}");
    }
}

#[test]
fn a_history_that_goes_backwards_leads_past_the_lowest_switch_point() {
    let (mut model, switch) = world();
    // Restored along timeline 2 to before it had begun, as Postgres notes it.
    let stop = model.timelines[&TimelineId(1)].1[3].end;
    assert!(stop < switch);
    model.branch(3, 2, stop);
    model.write(3, stop, [commit(80, 200), other(64)]);
    model.fill(3, Lsn(3 * MIB));
    model.archive(3, stop.0 / MIB..3);
    let lineage = model.catalogue().lineage(TimelineId(3)).unwrap();
    let ids: Vec<_> = model
        .catalogue()
        .restorable(&lineage)
        .iter()
        .map(|backup| backup.id.clone())
        .collect();
    assert_eq!(ids, ["one"]);
    let three = TimelineChoice::Number(TimelineId(3));
    let plan = ask(&model, Target::Xid(80), three, None).unwrap();
    assert_eq!((&*plan.backup.id, plan.timeline.0), ("one", 3));
    assert!(matches!(
        ask(&model, Target::Xid(5), three, None),
        Err(Refusal::NotFound { .. })
    ));
}
