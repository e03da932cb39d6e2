//! Why a target can't be reached, and what can be.

use super::choose::elsewhere;
use super::{Target, Window};
use crate::catalogue::Catalogue;
use crate::object::ObjectError;
use holdfast_postgres::{Lsn, SegmentName, TimelineId};
use thiserror::Error;

/// A request that can't be carried out. Nothing was changed.
#[derive(Debug, Error)]
pub enum Refusal {
    /// `--exclusive` with a target that has no before.
    #[error("exclusive means nothing for {target}: it is for a time, an LSN or a transaction")]
    Exclusive {
        /// What was asked for.
        target: Target,
    },
    /// Nothing to start from.
    #[error("the archive has no complete backup to start from{}", list(.incomplete))]
    NoBackup {
        /// What there is, and why it does not do.
        incomplete: Vec<String>,
    },
    /// Nothing to start from on that timeline.
    #[error("no complete backup leads to timeline {timeline}{}", timelines(.elsewhere))]
    NoBackupOn {
        /// The timeline.
        timeline: TimelineId,
        /// Timelines that can be followed.
        elsewhere: Vec<TimelineId>,
    },
    /// No such timeline, or no history of it.
    #[error("timeline {timeline} can't be followed: {why}{}", timelines(.elsewhere))]
    UnknownTimeline {
        /// The timeline.
        timeline: TimelineId,
        /// What is wrong with it.
        why: String,
        /// Timelines that can be followed.
        elsewhere: Vec<TimelineId>,
    },
    /// No such backup.
    #[error("there is no backup {id}: `holdfast info` lists those that are there")]
    UnknownBackup {
        /// As it was given.
        id: String,
    },
    /// No manifest.
    #[error("backup {id} was never finished: it runs still, or was interrupted")]
    Unfinished {
        /// The backup.
        id: String,
    },
    /// A damaged manifest.
    #[error("backup {id} can't be restored: {why}")]
    DamagedBackup {
        /// The backup.
        id: String,
        /// What is wrong.
        why: String,
    },
    /// WAL between start and stop is missing.
    #[error(
        "backup {id} is not complete: the WAL segment {missing} is not archived, and without it the backup is not consistent"
    )]
    Incomplete {
        /// The backup.
        id: String,
        /// The first missing file.
        missing: SegmentName,
    },
    /// The timeline was left before the backup had ended.
    #[error("backup {id} does not lead to timeline {timeline}: {}", branch(*.own, *.stop, *.left))]
    OtherBranch {
        /// The backup.
        id: String,
        /// Its end.
        stop: Lsn,
        /// Its timeline.
        own: TimelineId,
        /// What was asked for.
        timeline: TimelineId,
        /// Where its timeline was left on the way there, if it is on the way at all.
        left: Option<Lsn>,
    },
    /// Before the earliest moment.
    #[error("{target} lies before the end of the earliest backup that leads there{}", can_be_reached(.reachable))]
    TooEarly {
        /// What was asked for.
        target: Target,
        /// What can be reached.
        reachable: Option<Window>,
    },
    /// After the latest moment.
    #[error("{target} lies after the end of the archived WAL{}", can_be_reached(.reachable))]
    TooLate {
        /// What was asked for.
        target: Target,
        /// What can be reached.
        reachable: Option<Window>,
    },
    /// A transaction or restore point that is not there.
    #[error("{}{}", not_found(.target, *.timeline), can_be_reached(.reachable))]
    NotFound {
        /// What was asked for.
        target: Target,
        /// Along which it was looked for.
        timeline: TimelineId,
        /// What can be reached.
        reachable: Option<Window>,
    },
    /// A hole in the WAL.
    #[error("{target} can't be reached: the WAL segment {missing} is missing, although later WAL is archived{}", can_be_reached(.reachable))]
    Gap {
        /// What was asked for.
        target: Target,
        /// The first missing file.
        missing: SegmentName,
        /// What can be reached.
        reachable: Option<Window>,
    },
    /// Postgres does not replay on from there.
    #[error(
        "{target} can't be reached from backup {backup}: at {lsn} the server was started with wal_level = minimal, and recovery ends there with an error; restore from a later backup, or to a moment before{}", can_be_reached(.reachable)
    )]
    MinimalWal {
        /// What was asked for.
        target: Target,
        /// The newest that could serve.
        backup: String,
        /// The record that says so.
        lsn: Lsn,
        /// What can be reached.
        reachable: Option<Window>,
    },
    /// The WAL on the way could not be read.
    #[error("the WAL on the way can't be read: {0}")]
    Unreadable(#[from] ObjectError),
}

impl Refusal {
    /// Whether the store's trouble, and not what it holds, is the reason: trying again may help.
    pub fn could_not_tell(&self) -> bool {
        matches!(self, Self::Unreadable(error) if !error.is_damage())
    }

    pub(super) fn no_backup(catalogue: &Catalogue) -> Self {
        let incomplete = catalogue
            .backups
            .iter()
            .filter_map(|backup| Some((&backup.facts.id, backup.missing?)));
        let unfinished = catalogue
            .unfinished
            .iter()
            .map(|id| format!("{id} was never finished"));
        let unreadable = catalogue
            .unreadable
            .iter()
            .map(|(id, why)| format!("{id}: {why}"));
        Self::NoBackup {
            incomplete: incomplete
                .map(|(id, missing)| format!("{id} lacks the WAL segment {missing}"))
                .chain(unfinished)
                .chain(unreadable)
                .collect(),
        }
    }

    pub(super) fn unknown_timeline(catalogue: &Catalogue, timeline: TimelineId) -> Self {
        let why = match catalogue.timeline(timeline) {
            None => "nothing of it is archived".to_owned(),
            Some(known) => match &known.damaged_history {
                Some(why) => why.clone(),
                None => format!(
                    "its history file {}.history is not archived",
                    timeline.hex()
                ),
            },
        };
        Self::UnknownTimeline {
            timeline,
            why,
            elsewhere: elsewhere(catalogue),
        }
    }
}

fn list(incomplete: &[String]) -> String {
    if incomplete.is_empty() {
        "; take one with `holdfast backup`".to_owned()
    } else {
        format!(": {}", incomplete.join("; "))
    }
}

fn timelines(elsewhere: &[TimelineId]) -> String {
    match elsewhere {
        [] => String::new(),
        known => format!(
            "; those that can be followed: {}",
            known
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", ")
        ),
    }
}

fn branch(own: TimelineId, stop: Lsn, left: Option<Lsn>) -> String {
    match left {
        Some(left) => format!(
            "it ended at {stop} on timeline {own}, which that one had left at {left}; take an older backup, or --timeline {own}"
        ),
        None => format!("it was taken on timeline {own}, which that one does not descend from"),
    }
}

fn can_be_reached(window: &Option<Window>) -> String {
    window
        .as_ref()
        .map_or_else(String::new, |window| format!("; {window}"))
}

fn not_found(target: &Target, timeline: TimelineId) -> String {
    let where_ = format!("in the archived WAL that leads from a backup to timeline {timeline}");
    match target {
        Target::Xid(xid) => format!(
            "transaction {xid} neither commits nor rolls back {where_} (only top-level transactions that wrote something can be targets)"
        ),
        other => format!("there is no {other} {where_}"),
    }
}
