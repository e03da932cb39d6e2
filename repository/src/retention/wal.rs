//! Which WAL stays: what the backups that stay can replay.

use super::facts::{Observed, Policy};
use super::keep::{Kept, WalNeed};
use super::plan::WalFate;
use crate::catalogue::{Catalogue, CataloguedBackup, Run, Runs, Timeline};
use holdfast_postgres::{SegmentName, SegmentNumber, TimelineId};
use std::collections::{BTreeMap, BTreeSet};

/// What the backups that stay need of each timeline.
#[derive(Debug, Default)]
struct Needed {
    runs: BTreeMap<TimelineId, Runs>,
    /// Whether a backup that stays with all later WAL leads to the timeline.
    led_to: BTreeSet<TimelineId>,
}

/// Decides about every segment of an incarnation, and about the parts of unfinished ones: these stay and go as their
/// segment would, and go once it is stored whole.
pub(super) fn fates(
    observed: &Observed,
    policy: &Policy,
    place: usize,
    kept: &Kept,
) -> Vec<WalFate> {
    let Some(incarnation) = observed.incarnations.get(place) else {
        return Vec::new();
    };
    let catalogue = &incarnation.catalogue;
    let needed = needed(catalogue, kept);
    let mut fates = Vec::new();
    for timeline in &catalogue.timelines {
        let nothing = Runs::default();
        let wanted = needed.runs.get(&timeline.id).unwrap_or(&nothing);
        let held = why_held(observed, policy, place, kept, timeline, &needed);
        let tell = |run: Run, parts: bool, delete: bool, reason: &str| {
            let name =
                |number| SegmentName::new(timeline.id, number, catalogue.segment_size).to_string();
            WalFate {
                timeline: timeline.id,
                run,
                names: (name(run.first), name(run.last)),
                parts,
                delete,
                reason: reason.to_owned(),
            }
        };
        let superseded = timeline.with_parts.both(&timeline.runs);
        let alone = timeline.with_parts.without(&timeline.runs);
        let mut told = Vec::new();
        for (segments, parts) in [(&timeline.runs, false), (&alone, true)] {
            let (stays, spare) = (segments.both(wanted), segments.without(wanted));
            let why = "backups that stay replay it";
            told.extend(stays.iter().map(|run| tell(run, parts, false, why)));
            let why = held.as_deref().unwrap_or("no backup that stays replays it");
            let spare = spare.iter();
            told.extend(spare.map(|run| tell(run, parts, held.is_none(), why)));
        }
        let hold = kept.hold.as_deref();
        let why = hold.unwrap_or("the whole segment is stored");
        let superseded = superseded.iter();
        told.extend(superseded.map(|run| tell(run, true, hold.is_none(), why)));
        told.sort_by_key(|fate| (fate.run.first, fate.parts));
        fates.extend(told);
    }
    fates
}

/// Why WAL that no backup replays stays all the same.
fn why_held(
    observed: &Observed,
    policy: &Policy,
    place: usize,
    kept: &Kept,
    timeline: &Timeline,
    needed: &Needed,
) -> Option<String> {
    let incarnation = observed.incarnations.get(place)?;
    if let Some(hold) = &kept.hold {
        return Some(hold.clone());
    }
    if policy.recovery_window.is_none() {
        return Some("nothing expires".to_owned());
    }
    // Where it will begin is not known: on a standby, before all that happens now.
    if let Some(id) = incarnation.running(observed.now).next() {
        return Some(format!("backup {id} runs, and may need it"));
    }
    let is_last = place + 1 == observed.incarnations.len();
    if is_last && kept.backups.is_empty() {
        return Some("there is no backup yet".to_owned());
    }
    let cut = observed.cut(policy);
    let lived = observed.lived_until(place, timeline.id);
    (!needed.led_to.contains(&timeline.id) && lived > cut).then(|| {
        format!("its timeline lived until {lived:.0}, within the recovery window, which begins on {cut:.0}")
    })
}

/// Along every line that a backup lies on, also one that was left: whoever can still be restored may go that way.
fn needed(catalogue: &Catalogue, kept: &Kept) -> Needed {
    let mut needed = Needed::default();
    let lineages: Vec<_> = catalogue.lineages().collect();
    for CataloguedBackup { facts, .. } in &catalogue.backups {
        let Some(wal) = kept.backups.get(&facts.id).map(|kept| kept.wal) else {
            continue;
        };
        let size = catalogue.segment_size;
        let first = facts.start.segment(size);
        let last = match wal {
            WalNeed::Onward => SegmentNumber(u64::MAX),
            WalNeed::StartToStop => facts.last_segment(),
        };
        // Whatever its history says, its own timeline is one that it lies on.
        needed.add(facts.timeline, first, last, wal);
        for lineage in &lineages {
            if !catalogue.is_on(facts, lineage) {
                continue;
            }
            for span in lineage.spans() {
                let end = span
                    .end
                    .map_or(last, |end| last.min(end.segment_before(size)));
                needed.add(span.timeline, first.max(span.begin.segment(size)), end, wal);
            }
        }
    }
    needed
}

impl Needed {
    fn add(
        &mut self,
        timeline: TimelineId,
        first: SegmentNumber,
        last: SegmentNumber,
        wal: WalNeed,
    ) {
        if first > last {
            return;
        }
        self.runs
            .entry(timeline)
            .or_default()
            .insert_run(Run { first, last });
        if wal == WalNeed::Onward {
            self.led_to.insert(timeline);
        }
    }
}
