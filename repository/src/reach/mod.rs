//! Pre-flight: whether a recovery target can be reached, from which backup, and where Postgres will stop. Known before
//! a byte is written.
//!
//! What Postgres does at a target is `recoveryStopsBefore` and `recoveryStopsAfter` (xlogrecovery.c), the same in 14 to
//! 18. Indexes narrow the search; the records themselves decide.

mod choose;
mod indexes;
mod planner;
mod refusal;
mod rule;
#[cfg(test)]
pub(crate) mod sample;
mod scan;
mod standing;
#[cfg(test)]
mod tests;
pub mod text;
mod window;

pub use indexes::Indexes;
pub use refusal::Refusal;
pub use standing::{Standing, hole_after, newest_complete};
pub use window::Window;

use crate::catalogue::Catalogue;
use crate::facts::{BackupFacts, RecoverySettings};
use choose::choose;
use holdfast_postgres::{Lineage, Lsn, SegmentName, TimelineId};
use jiff::Timestamp;
use planner::Planner;
use std::fmt;

/// Where recovery shall end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The end of what is archived.
    Latest,
    /// As soon as the backup is consistent.
    Immediate,
    /// By the time of commits and rollbacks.
    Time(Timestamp),
    /// By position.
    Lsn(Lsn),
    /// By top-level transaction: the low 32 bits of what `pg_current_xact_id` gives, which is all that WAL has.
    Xid(u32),
    /// A named restore point; the first of that name.
    Name(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("the end of the archived WAL"),
            Self::Immediate => f.write_str("the end of the backup"),
            Self::Time(time) => write!(f, "time {time}"),
            Self::Lsn(lsn) => write!(f, "LSN {lsn}"),
            Self::Xid(xid) => write!(f, "transaction {xid}"),
            Self::Name(name) => write!(f, "restore point {name:?}"),
        }
    }
}

/// The timeline that recovery follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimelineChoice {
    /// The highest that descends from a complete backup.
    Latest,
    /// The backup's own.
    Current,
    /// This one.
    Number(TimelineId),
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Where to stop.
    pub target: Target,
    /// Just before the target instead of just after it.
    pub exclusive: bool,
    /// Which way to go.
    pub timeline: TimelineChoice,
    /// Start from this backup; else from the newest from which Postgres stops at the target.
    pub backup: Option<String>,
}

/// How recovery ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopKind {
    /// When the backup is consistent.
    Consistent,
    /// Just before a record.
    Before,
    /// Just after a record.
    After,
    /// After the last archived record.
    EndOfWal,
}

/// Where recovery ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// How.
    pub kind: StopKind,
    /// Everything before this is replayed, and nothing after it.
    pub lsn: Lsn,
    /// The newest commit that will be there; none if none is known from the backup's first segment on.
    pub time: Option<Timestamp>,
    /// In words, such as `before the commit of transaction 741 at 0/5000148`.
    pub words: String,
}

/// How a target will be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Where it starts.
    pub backup: BackupFacts,
    /// The way.
    pub lineage: Lineage,
    /// `recovery_target_timeline`: the newest of the lineage. An older one than was asked for, if recovery stops before
    /// that one begins.
    pub timeline: TimelineId,
    /// Where it stops.
    pub stop: Stop,
    /// The file that replay begins in.
    pub first_segment: SegmentName,
    /// The last file that replay needs.
    pub last_segment: SegmentName,
    /// From the first to the last.
    pub wal_segments: u64,
    /// The end of what is archived without a hole on this lineage. What is missing before it is a gap; what begins at
    /// or after it is absent, even where something later is there.
    pub end: Lsn,
    /// The timeline of the file before `end`.
    pub end_timeline: TimelineId,
    /// `recovery_target*` but for timeline and action. At the end of the WAL they name the last record, so that
    /// Postgres stops there by itself and can pause or shut down as well as promote.
    pub recovery_settings: Vec<(String, String)>,
    /// What the settings that recovery checks must at least be, on the whole way.
    pub minimum_settings: RecoverySettings,
}

/// Proves that a target can be reached, or says why not and which moments can be.
///
/// Reads the index of each segment on the way once, a few ahead, and the records of those in which a stop may lie.
pub async fn plan(
    catalogue: &Catalogue,
    source: &impl Indexes,
    request: &Request,
) -> Result<Plan, Refusal> {
    let Request {
        target, exclusive, ..
    } = request;
    if *exclusive && matches!(target, Target::Latest | Target::Immediate | Target::Name(_)) {
        return Err(Refusal::Exclusive {
            target: target.clone(),
        });
    }
    let mut first = None;
    for choice in choose(catalogue, request)? {
        match (Planner {
            catalogue,
            source,
            target,
            exclusive: *exclusive,
            choice: &choice,
        })
        .plan()
        .await
        {
            Err(refusal) if !refusal.could_not_tell() => first = first.or(Some(refusal)),
            other => return other,
        }
    }
    Err(first.unwrap_or_else(|| Refusal::no_backup(catalogue)))
}
