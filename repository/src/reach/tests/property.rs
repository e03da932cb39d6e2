//! Random histories: what is planned is what a simulated Postgres does, and what is refused it can't do.

use super::simulation::{Recovered, Setting, available, recover};
use super::*;
use crate::facts::BackupFacts;
use crate::reach::sample::{MIB, abort, at, commit, other, restore_point};
use holdfast_postgres::{PgTimestamp, TimelineHistory};
use proptest::prelude::*;

const NAMES: [&str; 3] = ["x", "y", "z"];
/// The first segment that there is.
const FIRST: u64 = 1;

/// What a timeline writes, one after the other.
#[derive(Debug, Clone)]
enum Write {
    Commit(u32, i64),
    /// One that may run over several segments.
    LongCommit(u32, i64, u64),
    Abort(u32, i64),
    RestorePoint(usize, i64),
    Other(u64),
    /// Up to so many bytes before the segment's end.
    FillTo(u64),
}

fn write() -> impl Strategy<Value = Write> {
    // Few values, so that they repeat and come out of order.
    let (xid, time) = (3u32..12, 0i64..40);
    prop_oneof![
        4 => (xid.clone(), time.clone()).prop_map(|(xid, time)| Write::Commit(xid, time)),
        1 => (xid.clone(), time.clone(), 0u64..3 * MIB).prop_map(|(xid, time, length)| Write::LongCommit(xid, time, length)),
        1 => (xid, time.clone()).prop_map(|(xid, time)| Write::Abort(xid, time)),
        2 => (0..NAMES.len(), time).prop_map(|(name, time)| Write::RestorePoint(name, time)),
        3 => (32u64..MIB).prop_map(Write::Other),
        2 => (0u64..6).prop_map(|words| Write::FillTo(words * 8)),
    ]
}

#[derive(Debug, Clone)]
struct History {
    trunk: Vec<Write>,
    /// Each leaves an earlier timeline (by a fraction of all) at one of its records (likewise).
    branches: Vec<(f64, f64, Vec<Write>)>,
    /// On a timeline, from one of its records to a later one, with a stop time.
    backups: Vec<(f64, f64, f64, i64)>,
    /// Segments that are not there, as fractions of all.
    lost: Vec<f64>,
}

fn history() -> impl Strategy<Value = History> {
    let writes = |least| proptest::collection::vec(write(), least..16);
    let branches = proptest::collection::vec((0.0..1.0, 0.0..1.0, writes(0)), 0..3);
    let backups = proptest::collection::vec((0.0..1.0, 0.0..1.0, 0.0..0.3, 0i64..30), 1..4);
    (
        writes(4),
        branches,
        backups,
        proptest::collection::vec(0.0..1.0, 0..2),
    )
        .prop_map(|(trunk, branches, backups, lost)| History {
            trunk,
            branches,
            backups,
            lost,
        })
}

fn pick(count: usize, fraction: f64) -> usize {
    ((count as f64 * fraction) as usize).min(count.saturating_sub(1))
}

fn put(model: &mut Model, timeline: u32, from: Lsn, writes: &[Write]) {
    for write in writes {
        let here = model.position(timeline).0.max(from.0);
        let record = match write {
            Write::Commit(xid, time) => commit(*xid, *time),
            Write::LongCommit(xid, time, length) => (*length, commit(*xid, *time).1),
            Write::Abort(xid, time) => abort(*xid, *time),
            Write::RestorePoint(name, time) => restore_point(NAMES[*name], *time),
            Write::Other(length) => other(*length),
            Write::FillTo(left) => match ((here / MIB + 1) * MIB - left).checked_sub(here) {
                Some(length @ 34..) => other(length),
                _ => continue,
            },
        };
        model.write(timeline, from, [record]);
    }
    // The last segment is filled up, as by a switch.
    let here = model.position(timeline).0.max(from.0);
    let end = here.next_multiple_of(MIB);
    if end > here {
        let length = if end - here < 40 {
            end - here + MIB
        } else {
            end - here
        };
        model.write(timeline, from, [other(length)]);
    }
}

fn build(history: &History) -> Model {
    let mut model = Model::default();
    put(&mut model, 1, Lsn(FIRST * MIB), &history.trunk);
    for (number, (parent, place, writes)) in history.branches.iter().enumerate() {
        let id = number as u32 + 2;
        let parent = pick(number + 1, *parent) as u32 + 1;
        let own = &model.timelines[&TimelineId(parent)].1;
        let Some(switch) = own.get(pick(own.len(), *place)).map(|record| record.end) else {
            continue;
        };
        model.branch(id, parent, switch);
        put(&mut model, id, switch, writes);
    }
    let ids: Vec<TimelineId> = model.timelines.keys().copied().collect();
    for id in &ids {
        let (history, own) = &model.timelines[id];
        let begin = history
            .parent()
            .map_or(FIRST, |parent| parent.switch.0 / MIB);
        let end = own
            .last()
            .map_or(begin, |record| record.end.0.div_ceil(MIB));
        model.archive(id.0, begin..end);
    }
    let files: Vec<_> = model.files.iter().copied().collect();
    for lost in &history.lost {
        model.files.remove(&files[pick(files.len(), *lost)]);
    }
    for (number, (timeline, from, length, stop_time)) in history.backups.iter().enumerate() {
        let id = ids[pick(ids.len(), *timeline)];
        let own = &model.timelines[&id].1;
        if own.is_empty() {
            continue;
        }
        let first = pick(own.len(), *from);
        let last = first + pick(own.len() - first, *length);
        let (start, stop) = (own[first].lsn, own[last].end);
        model.back_up(&format!("b{number}"), id.0, start, stop, *stop_time);
    }
    model
}

fn target() -> impl Strategy<Value = (Target, bool)> {
    prop_oneof![
        1 => Just((Target::Latest, false)),
        1 => Just((Target::Immediate, false)),
        4 => (0i64..42, any::<bool>()).prop_map(|(time, exclusive)| (Target::Time(at(time)), exclusive)),
        4 => (FIRST * MIB..12 * MIB, any::<bool>()).prop_map(|(lsn, exclusive)| (Target::Lsn(Lsn(lsn)), exclusive)),
        3 => (3u32..13, any::<bool>()).prop_map(|(xid, exclusive)| (Target::Xid(xid), exclusive)),
        2 => (0..NAMES.len()).prop_map(|name| (Target::Name(NAMES[name].into()), false)),
    ]
}

fn timeline() -> impl Strategy<Value = TimelineChoice> {
    prop_oneof![3 => Just(TimelineChoice::Latest), 1 => Just(TimelineChoice::Current), 2 => (1u32..5).prop_map(|id| TimelineChoice::Number(TimelineId(id)))]
}

fn lineage(history: &TimelineHistory) -> Lineage {
    Lineage::from(history)
}

/// By the definition: on the line, and all bytes from start to stop are there.
fn complete<'a>(model: &'a Model, lineage: &Lineage) -> Vec<&'a BackupFacts> {
    let on = |backup: &&BackupFacts| {
        let span = lineage.span(backup.timeline);
        span.is_some_and(|span| {
            span.begin <= backup.start
                && span
                    .end
                    .is_none_or(|end| backup.start < end && backup.stop <= end)
        })
    };
    model
        .backups
        .iter()
        .filter(on)
        .filter(|backup| available(model, lineage, backup.start) >= backup.stop)
        .collect()
}

/// What is asked of a backup beyond Postgres' rules: that it holds nothing from after the target.
fn holds_no_later(backup: &BackupFacts, target: &Target) -> bool {
    match target {
        Target::Time(time) => *time >= backup.stop_time,
        Target::Lsn(lsn) => *lsn > backup.start,
        _ => true,
    }
}

fn reaches(
    model: &Model,
    lineage: &Lineage,
    backup: &BackupFacts,
    target: &Target,
    exclusive: bool,
) -> bool {
    holds_no_later(backup, target)
        && matches!(
            recover(model, lineage, backup, &Setting::of(target), !exclusive),
            Recovered::Stopped(_)
        )
}

/// The plan is what Postgres does, and no newer backup would do.
fn check_plan(
    model: &Model,
    line: &Lineage,
    plan: &Plan,
    target: &Target,
    exclusive: bool,
) -> Result<(), TestCaseError> {
    let (setting, inclusive) = Setting::read(plan);
    let along = recover(model, line, &plan.backup, &setting, inclusive);
    prop_assert_eq!(
        along,
        Recovered::Stopped(plan.stop.lsn),
        "along what was asked for"
    );
    let recovered = recover(model, &plan.lineage, &plan.backup, &setting, inclusive);
    prop_assert_eq!(recovered, Recovered::Stopped(plan.stop.lsn), "as it is set");
    prop_assert!(plan.stop.lsn >= plan.backup.stop);
    prop_assert!(holds_no_later(&plan.backup, target));
    prop_assert_eq!(plan.end, available(model, &plan.lineage, plan.backup.start));
    let asked = recover(
        model,
        &plan.lineage,
        &plan.backup,
        &Setting::of(target),
        !exclusive,
    );
    if plan.stop.kind == StopKind::EndOfWal {
        prop_assert_eq!(asked, Recovered::Ended(plan.stop.lsn), "as it was asked");
    } else {
        prop_assert_eq!(asked, Recovered::Stopped(plan.stop.lsn), "as it was asked");
    }
    let own_only = |backup: &&BackupFacts| backup.start > plan.backup.start;
    for newer in complete(model, line).into_iter().filter(own_only) {
        prop_assert!(
            !matches!(target, Target::Latest | Target::Immediate),
            "{} is newer",
            newer.id
        );
        prop_assert!(
            !reaches(model, line, newer, target, exclusive),
            "{} is newer",
            newer.id
        );
    }
    let last = plan.stop.time.map(PgTimestamp::from_jiff);
    let there = model
        .line(plan.timeline)
        .into_iter()
        .filter(|record| record.lsn >= plan.backup.start && record.end <= plan.stop.lsn);
    let newest = there.filter_map(|record| match record.kind {
        holdfast_postgres::wal::RecordKind::Commit { time, .. } => Some(time),
        _ => None,
    });
    prop_assert!(last >= newest.max());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn plans_are_what_postgres_does(history in history(), asked in proptest::collection::vec((target(), timeline()), 12)) {
        let model = build(&history);
        let catalogue = model.catalogue();
        for ((target, exclusive), timeline) in asked {
            let asked = Request { target: target.clone(), exclusive, timeline, backup: None };
            match block_on(plan(&catalogue, &model, &asked)) {
                Ok(plan) => {
                    if timeline == TimelineChoice::Current {
                        // Newer backups of other timelines are not asked.
                        prop_assert_eq!(plan.timeline, plan.backup.timeline);
                        let (setting, inclusive) = Setting::read(&plan);
                        prop_assert_eq!(recover(&model, &plan.lineage, &plan.backup, &setting, inclusive), Recovered::Stopped(plan.stop.lsn));
                    } else {
                        let line = match timeline {
                            TimelineChoice::Number(id) => lineage(&model.timelines[&id].0),
                            _ => catalogue.newest_lineage().expect("a lineage"),
                        };
                        check_plan(&model, &line, &plan, &target, exclusive)?;
                    }
                }
                Err(refusal) => {
                    prop_assert!(!refusal.could_not_tell(), "{}", refusal);
                    let lines: Vec<Lineage> = match timeline {
                        TimelineChoice::Number(id) => model.timelines.get(&id).map(|(history, _)| lineage(history)).into_iter().collect(),
                        TimelineChoice::Current => model.timelines.values().map(|(history, _)| lineage(history)).collect(),
                        TimelineChoice::Latest => model.timelines.values().rev().map(|(history, _)| lineage(history)).find(|line| !complete(&model, line).is_empty()).into_iter().collect(),
                    };
                    for line in lines {
                        let mut backups = complete(&model, &line);
                        backups.sort_by_key(|backup| std::cmp::Reverse((backup.start, backup.stop, backup.id.clone())));
                        if timeline == TimelineChoice::Current {
                            backups.retain(|backup| backup.timeline == line.newest());
                        }
                        match refusal {
                            // By the newest that may serve: later than all it knows. A clock that went back makes no
                            // older one right.
                            Refusal::TooLate { .. } | Refusal::Gap { .. } if matches!(target, Target::Time(_) | Target::Lsn(_)) => {
                                let served: Vec<_> = backups.iter().map(|backup| (holds_no_later(backup, &target), recover(&model, &line, backup, &Setting::of(&target), !exclusive))).collect();
                                let decided = served.iter().find(|(may, outcome)| *may && *outcome != Recovered::NotConsistent);
                                let current = timeline == TimelineChoice::Current && decided.is_none();
                                prop_assert!(current || matches!(decided, Some((_, Recovered::Ended(_)))), "{}: {:?}", refusal, served);
                            }
                            Refusal::Gap { .. } if target == Target::Latest => {}
                            // Each timeline may have had another reason; the first is told.
                            _ if timeline == TimelineChoice::Current && matches!(target, Target::Latest | Target::Time(_)) => {}
                            _ => for backup in &backups {
                                prop_assert!(!reaches(&model, &line, backup, &target, exclusive), "{} from {}: {}", target, backup.id, refusal);
                                prop_assert!(!matches!(target, Target::Latest | Target::Immediate), "{}", refusal);
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_ends_of_the_window_work(history in history()) {
        let model = build(&history);
        let catalogue = model.catalogue();
        if let Some(window) = block_on(Window::of(&catalogue, &model)).expect("readable") {
            for target in [Target::Lsn(window.earliest_lsn), Target::Lsn(window.latest_lsn)] {
                let planned = block_on(plan(&catalogue, &model, &request(target.clone(), false)));
                prop_assert!(planned.is_ok(), "{}: {}", target, planned.unwrap_err());
            }
        }
    }
}
