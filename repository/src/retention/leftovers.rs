//! What happens to everything that has a folder under `backups/`, or packs: backups, and what is left of those that
//! were interrupted or are half deleted.

use super::facts::{Incarnation, PackNumbers, State, StoredBackup, before};
use super::keep::{Kept, ended};
use super::plan::{BackupFate, Fate, Remove};
use super::{ABORTED_STAYS, INTERRUPTED_STAYS};
use jiff::Timestamp;
use std::collections::BTreeMap;

/// Decides about each.
pub(super) fn fates(now: Timestamp, incarnation: &Incarnation, kept: &Kept) -> Vec<BackupFate> {
    let used = used(incarnation, kept);
    incarnation
        .stored
        .iter()
        .map(|(id, stored)| {
            let (fate, reason) = decide(now, incarnation, kept, id, stored);
            let (fate, reason) = match fate {
                Fate::Delete(Remove { manifest, .. }) => {
                    let packs = match used.get(id) {
                        Some(used) => stored.packs.without(used),
                        None => stored.packs.clone(),
                    };
                    if manifest || stored.signs || !packs.is_empty() {
                        (Fate::Delete(Remove { manifest, packs }), reason)
                    } else {
                        (Fate::Keep, "other backups need its packs".to_owned())
                    }
                }
                other => (other, reason),
            };
            BackupFate {
                id: id.clone(),
                fate,
                reason,
            }
        })
        .collect()
}

/// By who wrote them: the packs that backups that stay need.
fn used(incarnation: &Incarnation, kept: &Kept) -> BTreeMap<String, PackNumbers> {
    let mut used: BTreeMap<String, PackNumbers> = BTreeMap::new();
    let stays = |id: &str| kept.hold.is_some() || kept.backups.contains_key(id);
    for (_, stored) in incarnation.stored.iter().filter(|(id, _)| stays(id)) {
        for (writer, packs) in &stored.uses {
            used.entry(writer.clone()).or_default().add(packs);
        }
    }
    used
}

fn decide(
    now: Timestamp,
    incarnation: &Incarnation,
    kept: &Kept,
    id: &str,
    stored: &StoredBackup,
) -> (Fate, String) {
    let whole = Fate::Delete(Remove {
        manifest: true,
        ..Remove::default()
    });
    let sign = stored.last_sign;
    if let Some(hold) = &kept.hold {
        return (Fate::Keep, hold.clone());
    }
    match stored.state {
        State::Committed(_) => match kept.backups.get(id) {
            Some(kept) => (Fate::Keep, kept.reason.clone()),
            None => (whole, why_not_kept(incarnation, kept.cut, id)),
        },
        State::Open if incarnation.runs(now, id) => (
            Fate::Keep,
            format!("it runs: its last sign of life is from {sign:.0}"),
        ),
        // Its manifest went first. What a person wants to go may never have had one, and is given up before.
        State::Open
            if incarnation
                .doomed
                .backups
                .get(id)
                .is_some_and(|r| !r.by_person) =>
        {
            (whole, "it is half deleted".to_owned())
        }
        State::Open => (
            Fate::GiveUp,
            format!("it has no manifest, and showed its last sign of life on {sign:.0}"),
        ),
        State::Aborted(at) => {
            let nothing_left = stored.packs.is_empty() && !stored.signs;
            if nothing_left && at < before(now, ABORTED_STAYS) {
                return (
                    whole,
                    format!("it was interrupted, and given up on {at:.0}"),
                );
            }
            if nothing_left {
                return (
                    Fate::Keep,
                    format!("that it was given up on {at:.0} stays said for a while"),
                );
            }
            if let Some(running) = incarnation.running(now).next() {
                return (
                    Fate::Keep,
                    format!("it was interrupted, and backup {running} runs and may use its packs"),
                );
            }
            if sign > before(now, INTERRUPTED_STAYS) {
                return (
                    Fate::Keep,
                    format!(
                        "it was interrupted after {sign:.0}, and the next backup may use its packs"
                    ),
                );
            }
            (
                Fate::Delete(Remove::default()),
                format!("it was interrupted after {sign:.0}"),
            )
        }
    }
}

fn why_not_kept(incarnation: &Incarnation, cut: Timestamp, id: &str) -> String {
    if let Some(request) = incarnation
        .doomed
        .backups
        .get(id)
        .filter(|request| request.by_person)
    {
        return request.reason.clone();
    }
    let backups = &incarnation.catalogue.backups;
    let Some(backup) = backups.iter().find(|backup| backup.facts.id == id) else {
        return "nothing needs it".to_owned();
    };
    let ended = ended(incarnation, &backup.facts);
    let past = format!("it ended on {ended:.0}, and the recovery window begins on {cut:.0}");
    match backup.missing {
        Some(segment) => {
            format!("{past}; WAL segment {segment} is missing, so it can't be restored")
        }
        None => format!("{past}; its first moments are reached from a later backup"),
    }
}
