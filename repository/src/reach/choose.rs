//! Which backups may serve a request, and along which lineage. Pure.

use super::{Refusal, Request, TimelineChoice};
use crate::catalogue::{Catalogue, CataloguedBackup};
use crate::facts::BackupFacts;
use holdfast_postgres::{Lineage, TimelineId};

/// A way to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice<'a> {
    pub(super) lineage: Lineage,
    /// To be tried in this order: the newest first. Never empty.
    pub(super) backups: Vec<&'a BackupFacts>,
}

/// What is the latest can't be told where a newer timeline has lost its history file: going on with the one before
/// would leave its commits out without a word. Who wants that names the timeline.
fn nothing_newer_is_lost(catalogue: &Catalogue, newest: TimelineId) -> Result<(), Refusal> {
    let lost = catalogue.timelines.iter().find(|timeline| {
        timeline.id > newest
            && timeline.history.is_none()
            && (timeline.damaged_history.is_some() || timeline.runs.first().is_some())
    });
    lost.map_or(Ok(()), |timeline| {
        Err(Refusal::unknown_timeline(catalogue, timeline.id))
    })
}

/// The ways to try, the preferred one first.
pub(super) fn choose<'a>(
    catalogue: &'a Catalogue,
    request: &Request,
) -> Result<Vec<Choice<'a>>, Refusal> {
    let named = request
        .backup
        .as_deref()
        .map(|id| find(catalogue, id))
        .transpose()?;
    let lineage = |id| {
        catalogue
            .lineage(id)
            .ok_or_else(|| Refusal::unknown_timeline(catalogue, id))
    };
    match (request.timeline, named) {
        (TimelineChoice::Latest, None) => {
            let lineage = catalogue
                .newest_lineage()
                .ok_or_else(|| Refusal::no_backup(catalogue))?;
            nothing_newer_is_lost(catalogue, lineage.newest())?;
            Ok(vec![Choice {
                backups: catalogue.restorable(&lineage),
                lineage,
            }])
        }
        (TimelineChoice::Latest, Some(backup)) => {
            let newest = catalogue
                .lineages()
                .find(|lineage| serves(catalogue, backup, lineage));
            // Why it serves on no lineage is told by its own.
            match newest {
                Some(lineage) => {
                    nothing_newer_is_lost(catalogue, lineage.newest())?;
                    Ok(vec![Choice {
                        lineage,
                        backups: vec![&backup.facts],
                    }])
                }
                None => Ok(vec![only(
                    catalogue,
                    backup,
                    lineage(backup.facts.timeline)?,
                )?]),
            }
        }
        (TimelineChoice::Number(id), None) => {
            let lineage = lineage(id)?;
            let backups = catalogue.restorable(&lineage);
            if backups.is_empty() {
                return Err(Refusal::NoBackupOn {
                    timeline: id,
                    elsewhere: elsewhere(catalogue),
                });
            }
            Ok(vec![Choice { lineage, backups }])
        }
        (TimelineChoice::Number(id), Some(backup)) => {
            Ok(vec![only(catalogue, backup, lineage(id)?)?])
        }
        (TimelineChoice::Current, None) => {
            let mut own: Vec<TimelineId> = catalogue
                .backups
                .iter()
                .map(|backup| backup.facts.timeline)
                .collect();
            own.dedup();
            let choices: Vec<Choice<'_>> = own
                .iter()
                .rev()
                .filter_map(|id| {
                    let lineage = catalogue.lineage(*id)?;
                    let mut backups = catalogue.restorable(&lineage);
                    backups.retain(|backup| backup.timeline == *id);
                    (!backups.is_empty()).then_some(Choice { lineage, backups })
                })
                .collect();
            if choices.is_empty() {
                Err(Refusal::no_backup(catalogue))
            } else {
                Ok(choices)
            }
        }
        (TimelineChoice::Current, Some(backup)) => Ok(vec![only(
            catalogue,
            backup,
            lineage(backup.facts.timeline)?,
        )?]),
    }
}

fn find<'a>(catalogue: &'a Catalogue, id: &str) -> Result<&'a CataloguedBackup, Refusal> {
    catalogue
        .backups
        .iter()
        .find(|backup| backup.facts.id == id)
        .ok_or_else(|| {
            let id = id.to_owned();
            if catalogue.unfinished.contains(&id) {
                return Refusal::Unfinished { id };
            }
            match catalogue
                .unreadable
                .iter()
                .find(|(broken, _)| *broken == id)
            {
                Some((_, why)) => Refusal::DamagedBackup {
                    id,
                    why: why.clone(),
                },
                None => Refusal::UnknownBackup { id },
            }
        })
}

fn serves(catalogue: &Catalogue, backup: &CataloguedBackup, lineage: &Lineage) -> bool {
    catalogue.is_on(&backup.facts, lineage)
        && catalogue.missing_on(&backup.facts, lineage).is_none()
}

/// This backup along this lineage, or why not.
fn only<'a>(
    catalogue: &Catalogue,
    backup: &'a CataloguedBackup,
    lineage: Lineage,
) -> Result<Choice<'a>, Refusal> {
    let facts = &backup.facts;
    if !catalogue.is_on(facts, &lineage) {
        let left = lineage.span(facts.timeline).and_then(|span| span.end);
        return Err(Refusal::OtherBranch {
            id: facts.id.clone(),
            stop: facts.stop,
            own: facts.timeline,
            timeline: lineage.newest(),
            left,
        });
    }
    if let Some(missing) = catalogue.missing_on(facts, &lineage) {
        return Err(Refusal::Incomplete {
            id: facts.id.clone(),
            missing,
        });
    }
    Ok(Choice {
        lineage,
        backups: vec![facts],
    })
}

/// Timelines with something to restore.
pub(super) fn elsewhere(catalogue: &Catalogue) -> Vec<TimelineId> {
    let mut timelines: Vec<TimelineId> = catalogue
        .lineages()
        .filter(|lineage| !catalogue.restorable(lineage).is_empty())
        .map(|lineage| lineage.newest())
        .collect();
    timelines.sort();
    timelines
}
