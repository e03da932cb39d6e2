//! Archives in a few words, and what retention decides about them.

mod leftovers;
mod property;
mod requests;
mod rows;

use super::*;
use crate::catalogue::{Catalogue, Timeline};
use crate::reach::sample::{MIB, backup, size};
use holdfast_postgres::{
    Ancestor, Lsn, SegmentName, SegmentNumber, SystemIdentifier, TimelineHistory, TimelineId,
};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// It is day 100.
const NOW: f64 = 100.0;

fn day(day: f64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs_f64(day * 86_400.0)
}

fn days(days: f64) -> Duration {
    Duration::from_secs_f64(days * 86_400.0)
}

/// One archive, put together step by step; what is added belongs to the newest incarnation.
struct World {
    observed: Observed,
    policy: Policy,
    wishes: Wishes,
}

impl World {
    /// Seven days, one backup at least.
    fn new() -> Self {
        let mut world = Self {
            observed: Observed {
                now: day(NOW),
                our_clock: day(NOW),
                incarnations: Vec::new(),
            },
            policy: Policy {
                recovery_window: Some(days(7.0)),
                minimum_backups: 1,
            },
            wishes: Wishes::default(),
        };
        world.incarnation(0.0);
        world
    }

    fn incarnation(&mut self, began: f64) {
        let system = SystemIdentifier(7 + self.observed.incarnations.len() as u64);
        self.observed.incarnations.push(Incarnation {
            catalogue: Catalogue::new(system, size(), 17, Vec::new(), Vec::new()),
            began: day(began),
            stored: BTreeMap::new(),
            readers: Vec::new(),
            doomed: Doomed::default(),
        });
    }

    fn last(&mut self) -> &mut Incarnation {
        self.observed.incarnations.last_mut().unwrap()
    }

    /// `parents`: a timeline, and the segment in whose middle it was left.
    fn timeline(
        &mut self,
        id: u32,
        parents: &[(u32, u64)],
        segments: RangeInclusive<u64>,
        began: f64,
        newest: f64,
    ) {
        let ancestors = parents
            .iter()
            .map(|(timeline, segment)| Ancestor {
                timeline: TimelineId(*timeline),
                switch: Lsn(segment * MIB + 500),
                reason: String::new(),
            })
            .collect();
        let timeline = TimelineId(id);
        let history = TimelineHistory {
            timeline,
            ancestors,
        };
        let timeline = Timeline {
            id: timeline,
            history: (id > 1).then_some(history),
            runs: segments.map(SegmentNumber).collect(),
            began: if id > 1 {
                day(began)
            } else {
                Timestamp::UNIX_EPOCH
            },
            newest: day(newest),
            ..Timeline::default()
        };
        self.last().catalogue.timelines.push(timeline);
    }

    /// From one segment to another.
    fn backup(&mut self, id: &str, timeline: u32, start: u64, stop: u64, ended: f64) {
        let facts = crate::facts::BackupFacts {
            stop_time: day(ended),
            ..backup(
                id,
                TimelineId(timeline),
                Lsn(start * MIB + 100),
                Lsn(stop * MIB + 200),
                size(),
            )
        };
        let packs = PackNumbers::from_iter(0..2);
        let stored = StoredBackup {
            state: State::Committed(day(ended)),
            last_sign: day(ended),
            forever: false,
            signs: true,
            uses: BTreeMap::from([(id.to_owned(), packs.clone())]),
            packs,
        };
        let last = self.last();
        last.stored.insert(id.to_owned(), stored);
        let backup = crate::catalogue::CataloguedBackup {
            facts,
            missing: None,
        };
        last.catalogue.backups.push(backup);
    }

    /// One without a manifest.
    fn open(&mut self, id: &str, state: State, last_sign: f64) {
        let stored = StoredBackup {
            state,
            last_sign: day(last_sign),
            forever: false,
            signs: true,
            packs: PackNumbers::from_iter(0..3),
            uses: BTreeMap::new(),
        };
        self.last().stored.insert(id.to_owned(), stored);
    }

    fn stored(&mut self, id: &str) -> &mut StoredBackup {
        let all = self.observed.incarnations.iter_mut();
        all.filter_map(|i| i.stored.get_mut(id)).next().unwrap()
    }

    fn reader(&mut self, last_sign: f64, backups: &[&str]) {
        let backups = backups.iter().map(|id| (*id).to_owned()).collect();
        self.last().readers.push(Reader {
            name: "r".into(),
            what: "a restore".into(),
            last_sign: day(last_sign),
            backups,
        });
    }

    fn ask(&mut self, id: &str) {
        let request = Request {
            reason: "its object was deleted".into(),
            by_person: true,
        };
        for incarnation in &mut self.observed.incarnations {
            if incarnation.stored.contains_key(id) {
                incarnation
                    .doomed
                    .backups
                    .insert(id.to_owned(), request.clone());
            }
        }
    }

    fn plan(&mut self) -> Result<Plan, Refusal> {
        // What a backup lacks is computed once all is there.
        for incarnation in &mut self.observed.incarnations {
            let Catalogue {
                system,
                segment_size,
                major,
                timelines,
                backups,
                unfinished,
                unreadable,
            } = incarnation.catalogue.clone();
            let backups = backups.into_iter().map(|backup| backup.facts).collect();
            incarnation.catalogue = Catalogue {
                unfinished,
                unreadable,
                ..Catalogue::new(system, segment_size, major, timelines, backups)
            };
        }
        plan(&self.observed, &self.policy, &self.wishes)
    }

    /// A part in each of these segments.
    fn parts(&mut self, timeline: u32, segments: &[u64]) {
        let timelines = &mut self.last().catalogue.timelines;
        let timeline = timelines.iter_mut().find(|t| t.id == TimelineId(timeline));
        let timeline = timeline.unwrap();
        for number in segments.iter().copied().map(SegmentNumber) {
            timeline.with_parts.insert(number);
            if timeline.runs.holding(number).is_none() {
                timeline.parts.insert(number, 8192);
            }
        }
    }

    /// What goes: backups, then WAL as `timeline:first-last`, then parts as `part:timeline:first-last`.
    fn gone(&mut self) -> String {
        words(&self.plan().unwrap())
    }
}

fn words(plan: &Plan) -> String {
    let mut words = Vec::new();
    for incarnation in &plan.incarnations {
        let doomed = incarnation.doomed();
        words.extend(doomed.backups.into_keys());
        for (what, segments) in [("", doomed.wal), ("part:", doomed.parts)] {
            for (timeline, runs) in segments {
                for run in runs.iter() {
                    words.push(match (run.first.0, run.last.0) {
                        (first, last) if first == last => format!("{what}{timeline}:{first}"),
                        (first, last) => format!("{what}{timeline}:{first}-{last}"),
                    });
                }
            }
        }
    }
    words.join(" ")
}

fn reason(plan: &Plan, id: &str) -> String {
    let all = plan.incarnations.iter().flat_map(|i| &i.backups);
    all.filter(|b| b.id == id)
        .map(|b| b.reason.clone())
        .collect()
}
