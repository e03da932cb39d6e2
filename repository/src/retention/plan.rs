//! What was decided, with the reason for each.

use super::facts::{Doomed, PackNumbers, Request};
use crate::catalogue::Run;
use holdfast_postgres::{SystemIdentifier, TimelineId};
use std::fmt;

/// What happens to everything that is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The oldest first.
    pub incarnations: Vec<IncarnationPlan>,
}

/// What happens to one incarnation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncarnationPlan {
    /// Which.
    pub system: SystemIdentifier,
    /// All that has a folder under `backups/`, or packs.
    pub backups: Vec<BackupFate>,
    /// Every segment, by timeline, and all that is stored of unfinished ones.
    pub wal: Vec<WalFate>,
}

/// What happens to one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It stays.
    Keep,
    /// It shows no sign of life: it is said that it will never be committed.
    GiveUp,
    /// It goes, once that was announced for long enough.
    Delete(Remove),
}

/// What of a backup goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remove {
    /// Its manifest. False where it goes on saying that the backup was given up.
    pub manifest: bool,
    /// Its own packs that nobody else needs.
    pub packs: PackNumbers,
}

/// A backup, and what happens to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupFate {
    /// Which.
    pub id: String,
    /// What.
    pub fate: Fate,
    /// Why.
    pub reason: String,
}

/// Consecutive segments of one timeline, and what happens to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalFate {
    /// Which timeline.
    pub timeline: TimelineId,
    /// Which segments.
    pub run: Run,
    /// As their files are called.
    pub names: (String, String),
    /// It is about their parts, and not about the whole segments.
    pub parts: bool,
    /// Whether they go.
    pub delete: bool,
    /// Why, or why not.
    pub reason: String,
}

impl Plan {
    /// The part of one incarnation.
    pub fn incarnation(&self, system: SystemIdentifier) -> Option<&IncarnationPlan> {
        self.incarnations.iter().find(|plan| plan.system == system)
    }
}

impl IncarnationPlan {
    /// What goes.
    pub fn doomed(&self) -> Doomed {
        let mut doomed = Doomed::default();
        for backup in &self.backups {
            if let Fate::Delete(_) = backup.fate {
                let request = Request {
                    reason: backup.reason.clone(),
                    by_person: false,
                };
                doomed.backups.insert(backup.id.clone(), request);
            }
        }
        for wal in self.wal.iter().filter(|wal| wal.delete) {
            let kind = if wal.parts {
                &mut doomed.parts
            } else {
                &mut doomed.wal
            };
            kind.entry(wal.timeline).or_default().insert_run(wal.run);
        }
        doomed
    }
}

impl fmt::Display for Plan {
    /// A line for each backup and each stretch of WAL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for incarnation in &self.incarnations {
            for BackupFate { id, fate, reason } in &incarnation.backups {
                let word = match fate {
                    Fate::Keep => "keep",
                    Fate::GiveUp => "give up",
                    Fate::Delete(_) => "delete",
                };
                writeln!(f, "{word:8}backup {id}: {reason}")?;
            }
            for wal in &incarnation.wal {
                let word = if wal.delete { "delete" } else { "keep" };
                let (first, last) = &wal.names;
                let WalFate { run, reason, .. } = wal;
                let what = if wal.parts { "parts of WAL" } else { "WAL" };
                match run.last.0.saturating_sub(run.first.0).saturating_add(1) {
                    1 => writeln!(f, "{word:8}{what} {first}: {reason}")?,
                    count => writeln!(f, "{word:8}{what} {first} to {last} ({count}): {reason}")?,
                }
            }
        }
        Ok(())
    }
}
