//! Pre-flight: whether a recovery target can be reached, from which backup, and where Postgres will stop. Known before
//! a byte is written.
//!
//! What Postgres does at a target is `recoveryStopsBefore` and `recoveryStopsAfter` (xlogrecovery.c), the same in 14 to
//! 18. Indexes narrow the search; the records themselves decide.

mod choose;
mod indexes;
mod refusal;
mod rule;
#[cfg(test)]
pub(crate) mod sample;
mod scan;
#[cfg(test)]
mod tests;
mod window;

pub use indexes::Indexes;
pub use refusal::Refusal;
pub use window::Window;

use crate::catalogue::{Catalogue, Chain};
use crate::facts::{BackupFacts, RecoverySettings};
use choose::{Choice, choose};
use holdfast_postgres::{Lineage, Lsn, PgTimestamp, SegmentName, TimelineId};
use jiff::Timestamp;
use rule::{Rule, Side};
use scan::{Passed, Scan, StopRecord, Tail};
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
    /// `recovery_target_timeline`: the newest of the lineage.
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

/// One lineage and the backups to try along it, newest first.
struct Planner<'a, I> {
    catalogue: &'a Catalogue,
    source: &'a I,
    target: &'a Target,
    exclusive: bool,
    choice: &'a Choice<'a>,
}

/// What the next older backup need not look for again.
struct Known {
    /// Where the backup starts that was tried.
    start: Lsn,
    /// The first stop from there on, if there is one.
    stop: Option<StopRecord>,
    /// As far as was looked for it.
    until: Lsn,
    passed: Passed,
}

impl<I: Indexes> Planner<'_, I> {
    async fn plan(&self) -> Result<Plan, Refusal> {
        let rule = Rule::of(self.target, self.exclusive);
        let mut known: Option<Known> = None;
        let (mut too_early, mut gap) = (
            matches!(self.target, Target::Time(_) | Target::Lsn(_)),
            None,
        );
        for &backup in &self.choice.backups {
            let chain = self.chain(backup);
            let scan = Scan {
                source: self.source,
                chain: &chain,
                size: self.catalogue.segment_size,
            };
            let Some(rule) = &rule else {
                return self.without_rule(backup, &chain, &scan).await;
            };
            if self.lies_before(backup) {
                continue;
            }
            let (stop, passed) = self.first_stop(&scan, backup, rule, known.as_ref()).await?;
            match stop {
                Some(stop) if stop.reached() >= backup.stop => {
                    return Ok(self.stopping_at(backup, &chain, &stop, passed));
                }
                // Before the backup is consistent: Postgres would give up there. An older one may be consistent.
                Some(stop) => {
                    too_early = true;
                    known = Some(Known {
                        start: backup.start,
                        until: stop.end,
                        stop: Some(stop),
                        passed,
                    });
                }
                None => {
                    if self.is_covered(backup, &scan, &passed).await? {
                        return self.to_the_end(backup, &chain, &scan, passed).await;
                    }
                    let hole = chain.gap.then_some(chain.missing);
                    if matches!(self.target, Target::Time(_) | Target::Lsn(_)) {
                        let (target, reachable) = (self.target.clone(), self.window().await);
                        return Err(match hole {
                            Some(missing) => Refusal::Gap {
                                target,
                                missing,
                                reachable,
                            },
                            None => Refusal::TooLate { target, reachable },
                        });
                    }
                    gap = gap.or(hole);
                    known = Some(Known {
                        start: backup.start,
                        until: chain.end,
                        stop: None,
                        passed,
                    });
                }
            }
        }
        let reachable = self.window().await;
        Err(match gap {
            _ if too_early => Refusal::TooEarly {
                target: self.target.clone(),
                reachable,
            },
            Some(missing) => Refusal::Gap {
                target: self.target.clone(),
                missing,
                reachable,
            },
            None => Refusal::NotFound {
                target: self.target.clone(),
                timeline: self.choice.lineage.newest(),
                reachable,
            },
        })
    }

    fn chain(&self, backup: &BackupFacts) -> Chain {
        self.catalogue.chain(
            &self.choice.lineage,
            backup.start.segment(self.catalogue.segment_size),
        )
    }

    async fn window(&self) -> Option<Window> {
        Window::along(self.catalogue, self.source, &self.choice.lineage)
            .await
            .ok()
            .flatten()
    }

    /// Whether the target lies before what the backup already holds, so that it need not be tried.
    fn lies_before(&self, backup: &BackupFacts) -> bool {
        match self.target {
            // Commits from before its start are in it, and no record on the way tells of them.
            Target::Time(time) => *time < backup.stop_time,
            Target::Lsn(lsn) => *lsn <= backup.start,
            _ => false,
        }
    }

    /// The first record at which Postgres would stop, from the backup's start on.
    async fn first_stop(
        &self,
        scan: &Scan<'_, I>,
        backup: &BackupFacts,
        rule: &Rule,
        known: Option<&Known>,
    ) -> Result<(Option<StopRecord>, Passed), Refusal> {
        let size = self.catalogue.segment_size;
        // What was found from a later start on is the same from here, where the WAL reaches to it.
        let known =
            known.filter(|known| known.until <= scan.chain.end && backup.start <= known.start);
        let until = known.map(|known| known.start.segment(size).next());
        let (stop, mut passed) = scan.first_stop(backup.start, until, Some(rule)).await?;
        match known {
            Some(known) if stop.is_none() => {
                passed.add(&known.passed);
                Ok((known.stop.clone(), passed))
            }
            _ => Ok((stop, passed)),
        }
    }

    /// Whether the target, at which no record stops, lies within what is archived all the same.
    async fn is_covered(
        &self,
        backup: &BackupFacts,
        scan: &Scan<'_, I>,
        passed: &Passed,
    ) -> Result<bool, Refusal> {
        Ok(match self.target {
            Target::Time(time) => {
                *time <= backup.stop_time
                    || passed
                        .latest_time
                        .is_some_and(|latest| *time <= latest.to_jiff())
            }
            Target::Lsn(lsn) => *lsn <= scan.next_position(scan.end().await?),
            _ => false,
        })
    }

    /// Targets at which no record stops.
    async fn without_rule(
        &self,
        backup: &BackupFacts,
        chain: &Chain,
        scan: &Scan<'_, I>,
    ) -> Result<Plan, Refusal> {
        if *self.target == Target::Immediate {
            let passed = scan.passed_until(backup.start, backup.stop).await?;
            let stop = Stop {
                kind: StopKind::Consistent,
                lsn: backup.stop,
                time: passed.last_commit.map(PgTimestamp::to_jiff),
                words: format!(
                    "at {}, where backup {} is consistent",
                    backup.stop, backup.id
                ),
            };
            return Ok(self.finished(
                backup,
                chain,
                stop,
                backup.stop,
                &passed,
                vec![("recovery_target", "immediate".into())],
            ));
        }
        if chain.gap {
            return Err(Refusal::Gap {
                target: self.target.clone(),
                missing: chain.missing,
                reachable: self.window().await,
            });
        }
        let (_, passed) = scan.first_stop(backup.start, None, None).await?;
        self.to_the_end(backup, chain, scan, passed).await
    }

    fn stopping_at(
        &self,
        backup: &BackupFacts,
        chain: &Chain,
        stop: &StopRecord,
        passed: Passed,
    ) -> Plan {
        let kind = match stop.side {
            Side::Before => StopKind::Before,
            Side::After => StopKind::After,
        };
        let words = format!(
            "{} {}",
            if stop.side == Side::Before {
                "before"
            } else {
                "after"
            },
            stop.what
        );
        let end = Stop {
            kind,
            lsn: stop.reached(),
            time: passed.last_commit.map(PgTimestamp::to_jiff),
            words,
        };
        self.finished(backup, chain, end, stop.end, &passed, self.settings())
    }

    async fn to_the_end(
        &self,
        backup: &BackupFacts,
        chain: &Chain,
        scan: &Scan<'_, I>,
        passed: Passed,
    ) -> Result<Plan, Refusal> {
        let Tail { end, last_record } = scan.tail().await?;
        if end < backup.stop {
            return Err(Refusal::Incomplete {
                id: backup.id.clone(),
                missing: chain.missing,
            });
        }
        let time = passed.last_commit.map(PgTimestamp::to_jiff);
        let words = format!("at {end}, the end of the archived WAL");
        let stop = Stop {
            kind: StopKind::EndOfWal,
            lsn: end,
            time,
            words,
        };
        let settings = vec![
            ("recovery_target_lsn", last_record.to_string()),
            ("recovery_target_inclusive", "on".into()),
        ];
        Ok(self.finished(backup, chain, stop, end, &passed, settings))
    }

    /// `recovery_target*` for what was asked.
    fn settings(&self) -> Vec<(&'static str, String)> {
        let inclusive = (
            "recovery_target_inclusive",
            if self.exclusive { "off" } else { "on" }.to_owned(),
        );
        match self.target {
            Target::Latest => vec![],
            Target::Immediate => vec![("recovery_target", "immediate".into())],
            Target::Time(time) => vec![
                ("recovery_target_time", rule::setting(*time, self.exclusive)),
                inclusive,
            ],
            Target::Lsn(lsn) => vec![("recovery_target_lsn", lsn.to_string()), inclusive],
            Target::Xid(xid) => vec![("recovery_target_xid", xid.to_string()), inclusive],
            Target::Name(name) => vec![("recovery_target_name", name.clone())],
        }
    }

    /// `needed`: WAL is read up to here.
    fn finished(
        &self,
        backup: &BackupFacts,
        chain: &Chain,
        stop: Stop,
        needed: Lsn,
        passed: &Passed,
        settings: Vec<(&'static str, String)>,
    ) -> Plan {
        let size = self.catalogue.segment_size;
        let first = backup.start.segment(size);
        let last = needed.segment_before(size).max(first);
        let newest = self.choice.lineage.newest();
        let file = |segment| {
            chain
                .file(segment)
                .unwrap_or(SegmentName::new(newest, segment, size))
        };
        Plan {
            backup: backup.clone(),
            lineage: self.choice.lineage.clone(),
            timeline: newest,
            stop,
            first_segment: file(first),
            last_segment: file(last),
            wal_segments: last.0 - first.0 + 1,
            end: chain.end,
            end_timeline: chain.last_file().map_or(newest, |file| file.timeline),
            recovery_settings: settings
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            minimum_settings: passed.at_least(backup.settings),
        }
    }
}
