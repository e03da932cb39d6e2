//! Random histories: whatever moment of the window could be recovered to before, can be afterwards.

use super::*;
use crate::reach::sample::{Model, at, commit, other};
use crate::reach::{self, Request as Recovery, Target, TimelineChoice};
use futures::executor::block_on;
use holdfast_postgres::wal::RecordKind;
use proptest::prelude::*;
use proptest::strategy::ValueTree;

const HOUR: i64 = 3_600_000_000;

#[derive(Debug, Clone)]
enum Event {
    /// So many bytes, so many hours later.
    Commit(u64, i64),
    /// With so many commits while it runs.
    Backup(u8),
    /// A new timeline that leaves one at one of its records (both as fractions of all).
    Branch(f64, f64),
    Idle(i64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0u64..2 * MIB, 0i64..10).prop_map(|(bytes, hours)| Event::Commit(bytes, hours)),
        3 => (0u8..3).prop_map(Event::Backup),
        1 => (0.0..1.0, 0.0..1.0).prop_map(|(timeline, place)| Event::Branch(timeline, place)),
        1 => (0i64..100).prop_map(Event::Idle),
    ]
}

#[derive(Debug, Clone)]
struct History {
    events: Vec<Event>,
    /// Segments that are not there, as fractions of all.
    lost: Vec<f64>,
    window_hours: u64,
    minimum: u32,
    /// Backups that shall go, that stay for ever, that are read: as fractions of all.
    asked: Vec<f64>,
    forever: Vec<f64>,
    read: Option<f64>,
}

fn history() -> impl Strategy<Value = History> {
    let some = |most| proptest::collection::vec(0.0..1.0, 0..most);
    (
        proptest::collection::vec(event(), 5..50),
        (some(3), some(4), some(2)),
        0u64..200,
        0u32..4,
        proptest::option::of(0.0..1.0),
    )
        .prop_map(
            |(events, (lost, asked, forever), window_hours, minimum, read)| History {
                events,
                lost,
                window_hours,
                minimum,
                asked,
                forever,
                read,
            },
        )
}

fn pick<T: Clone>(all: &[T], fraction: f64) -> Option<T> {
    let place = (all.len() as f64 * fraction) as usize;
    all.get(place.min(all.len().saturating_sub(1))).cloned()
}

/// What was written, and when each timeline began and was last written to, in hours.
struct Lived {
    model: Model,
    clock: i64,
    current: u32,
    begins: BTreeMap<u32, Lsn>,
    began: BTreeMap<u32, i64>,
    newest: BTreeMap<u32, i64>,
}

impl Lived {
    fn commit(&mut self, bytes: u64) {
        let (_, kind) = commit(self.clock as u32 + 3, self.clock * HOUR);
        let from = self.begins[&self.current];
        self.model.write(self.current, from, [(bytes, kind)]);
        self.newest.insert(self.current, self.clock);
    }

    fn position(&self) -> Lsn {
        self.model
            .position(self.current)
            .max(self.begins[&self.current])
    }
}

fn live(history: &History) -> Lived {
    let mut lived = Lived {
        model: Model::default(),
        clock: 10,
        current: 1,
        begins: BTreeMap::from([(1, Lsn(MIB))]),
        began: BTreeMap::from([(1, 0)]),
        newest: BTreeMap::new(),
    };
    lived.commit(100);
    for event in &history.events {
        lived.clock += 1;
        match event {
            Event::Commit(bytes, hours) => {
                lived.clock += hours;
                lived.commit(*bytes);
            }
            Event::Backup(commits) => {
                let start = lived.position();
                for _ in 0..=*commits {
                    lived.clock += 1;
                    lived.commit(3000);
                }
                let id = format!("b{}", lived.model.backups.len());
                let (stop, at) = (lived.position(), lived.clock * HOUR);
                lived.model.back_up(&id, lived.current, start, stop, at);
            }
            Event::Branch(timeline, place) => {
                let ids: Vec<u32> = lived.begins.keys().copied().collect();
                let Some(parent) = pick(&ids, *timeline) else {
                    continue;
                };
                let records = &lived.model.timelines[&TimelineId(parent)].1;
                let ends: Vec<Lsn> = records.iter().map(|record| record.end).collect();
                let Some(switch) = pick(&ends, *place) else {
                    continue;
                };
                let new = ids.last().map_or(2, |last| last + 1);
                lived.model.branch(new, parent, switch);
                lived.begins.insert(new, switch);
                lived.began.insert(new, lived.clock);
                lived.current = new;
            }
            Event::Idle(hours) => lived.clock += hours,
        }
    }
    lived.clock += 1;
    archive(&mut lived, history);
    lived
}

/// Every timeline's segments, the last one filled up, but for those that are lost.
fn archive(lived: &mut Lived, history: &History) {
    for (id, begin) in lived.begins.clone() {
        let here = lived.model.position(id).max(begin).0;
        if lived.model.position(id) == Lsn(0) {
            continue;
        }
        let end = (here + 64).next_multiple_of(MIB);
        lived.model.write(id, begin, [other(end - here)]);
        let last = lived.model.position(id).0.div_ceil(MIB);
        lived.model.archive(id, begin.0 / MIB..last);
    }
    let files: Vec<SegmentName> = lived.model.files.iter().copied().collect();
    for lost in &history.lost {
        if let Some(name) = pick(&files, *lost) {
            lived.model.files.remove(&name);
        }
    }
}

fn hour(hours: i64) -> Timestamp {
    at(hours * HOUR)
}

fn observe(lived: &Lived, history: &History) -> (Observed, Policy, Wishes) {
    let mut catalogue = lived.model.catalogue();
    for timeline in &mut catalogue.timelines {
        let of = |times: &BTreeMap<u32, i64>| times.get(&timeline.id.0).copied().unwrap_or(0);
        timeline.began = hour(of(&lived.began));
        timeline.newest = hour(of(&lived.newest));
    }
    let ids: Vec<String> = lived.model.backups.iter().map(|b| b.id.clone()).collect();
    let stored = lived.model.backups.iter().map(|backup| {
        let stored = StoredBackup {
            state: State::Committed(backup.stop_time),
            last_sign: backup.stop_time,
            forever: false,
            signs: true,
            packs: PackNumbers::default(),
            uses: BTreeMap::new(),
        };
        (backup.id.clone(), stored)
    });
    let asked = history.asked.iter().filter_map(|place| pick(&ids, *place));
    let doomed = Doomed {
        backups: asked
            .map(|id| {
                let request = Request {
                    reason: String::new(),
                    by_person: true,
                };
                (id, request)
            })
            .collect(),
        ..Doomed::default()
    };
    let read = history.read.and_then(|place| pick(&ids, place));
    let readers = read.map(|id| Reader {
        name: "r".into(),
        what: "a restore".into(),
        last_sign: hour(lived.clock),
        backups: vec![id],
    });
    let incarnation = Incarnation {
        catalogue,
        began: hour(0),
        stored: stored.collect(),
        readers: readers.into_iter().collect(),
        doomed,
    };
    let observed = Observed {
        now: hour(lived.clock),
        our_clock: hour(lived.clock),
        incarnations: vec![incarnation],
    };
    let policy = Policy {
        recovery_window: Some(Duration::from_secs(history.window_hours * 3600)),
        minimum_backups: history.minimum,
    };
    let forever = history.forever.iter().filter_map(|p| pick(&ids, *p));
    let wishes = Wishes {
        forever: forever.collect(),
        ..Wishes::default()
    };
    (observed, policy, wishes)
}

/// Every commit after `cut`, as a target by time and by LSN, along the timeline that made it.
fn targets(lived: &Lived, cut: Timestamp) -> Vec<Recovery> {
    let mut targets = Vec::new();
    for (id, (_, records)) in &lived.model.timelines {
        for record in records {
            let RecordKind::Commit { time, .. } = &record.kind else {
                continue;
            };
            let time = time.to_jiff();
            if time <= cut {
                continue;
            }
            for target in [Target::Time(time), Target::Lsn(record.lsn)] {
                targets.push(Recovery {
                    target,
                    exclusive: false,
                    timeline: TimelineChoice::Number(*id),
                    backup: None,
                });
            }
        }
    }
    for target in [Target::Latest, Target::Immediate] {
        targets.push(Recovery {
            target,
            exclusive: false,
            timeline: TimelineChoice::Latest,
            backup: None,
        });
    }
    targets
}

fn reached(model: &Model, request: &Recovery) -> bool {
    block_on(reach::plan(&model.catalogue(), model, request)).is_ok()
}

fn apply(model: &Model, plan: &Plan) -> Model {
    let doomed = plan.incarnations[0].doomed();
    let goes = |name: &SegmentName| {
        let number = name.number(size()).unwrap();
        let runs = doomed.wal.get(&name.timeline);
        runs.is_some_and(|runs| runs.holding(number).is_some())
    };
    Model {
        timelines: model.timelines.clone(),
        files: model
            .files
            .iter()
            .copied()
            .filter(|name| !goes(name))
            .collect(),
        backups: model
            .backups
            .iter()
            .filter(|backup| !doomed.backups.contains_key(&backup.id))
            .cloned()
            .collect(),
        ..Model::default()
    }
}

/// The histories are such that the property says something.
#[test]
fn much_is_deleted_and_much_is_reached() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut backups, mut wal, mut reachable, mut branched) = (0, 0, 0, 0);
    for _ in 0..60 {
        let history = history().new_tree(&mut runner).unwrap().current();
        let lived = live(&history);
        let (observed, policy, wishes) = observe(&lived, &history);
        let plan = plan(&observed, &policy, &wishes).unwrap();
        let doomed = plan.incarnations[0].doomed();
        backups += usize::from(!doomed.backups.is_empty());
        wal += usize::from(!doomed.wal.is_empty());
        branched += usize::from(lived.begins.len() > 1);
        let targets = targets(&lived, observed.cut(&policy));
        reachable += targets.iter().filter(|t| reached(&lived.model, t)).count();
    }
    assert!(
        backups > 15 && wal > 15 && branched > 15 && reachable > 200,
        "{backups} {wal} {branched} {reachable}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_window_never_shrinks(history in history()) {
        let lived = live(&history);
        let (observed, policy, wishes) = observe(&lived, &history);
        let plan = plan(&observed, &policy, &wishes).unwrap();
        let after = apply(&lived.model, &plan);
        let cut = observed.cut(&policy);
        for request in targets(&lived, cut) {
            if reached(&lived.model, &request) {
                prop_assert!(reached(&after, &request), "{:?}\n{}", request, plan);
            }
        }
        // The minimum, and whoever reads.
        let complete = |model: &Model| {
            model.catalogue().backups.iter().filter(|b| b.is_complete()).count()
        };
        let least = (policy.minimum_backups.max(1) as usize).min(complete(&lived.model));
        prop_assert!(complete(&after) >= least, "{}", plan);
        for id in observed.incarnations[0].readers.iter().flat_map(|r| &r.backups) {
            prop_assert!(after.backups.iter().any(|b| b.id == *id), "{} is read\n{}", id, plan);
        }
        // What stays for ever can be restored as before.
        let asked = &observed.incarnations[0].doomed.backups;
        for id in wishes.forever.iter().filter(|id| !asked.contains_key(*id)) {
            let is_complete = |model: &Model| {
                let catalogue = model.catalogue();
                catalogue.backups.iter().any(|b| b.facts.id == *id && b.is_complete())
            };
            prop_assert_eq!(is_complete(&lived.model), is_complete(&after), "{}\n{}", id, plan);
        }
        // Deciding again finds nothing more to do.
        let mut again = observed.clone();
        let timelines = again.incarnations[0].catalogue.timelines.clone();
        let mut catalogue = after.catalogue();
        for timeline in &mut catalogue.timelines {
            if let Some(known) = timelines.iter().find(|known| known.id == timeline.id) {
                (timeline.began, timeline.newest) = (known.began, known.newest);
            }
        }
        again.incarnations[0].catalogue = catalogue;
        again.incarnations[0].stored.retain(|id, _| after.backups.iter().any(|b| b.id == *id));
        let second = super::plan(&again, &policy, &wishes).unwrap();
        prop_assert_eq!(words(&second), "", "{}", second);
    }
}
