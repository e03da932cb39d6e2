//! What Postgres does with a backup, WAL and settings, record by record, without any index.

use crate::facts::BackupFacts;
use crate::reach::sample::{MIB, Model, size};
use crate::reach::{Plan, Target};
use holdfast_postgres::wal::{Record, RecordKind};
use holdfast_postgres::{Lineage, Lsn, PgTimestamp, SegmentName};

/// How a recovery ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Recovered {
    /// At its target: everything before this position was replayed.
    Stopped(Lsn),
    /// `requested recovery stop point is before consistent recovery point`
    NotConsistent,
    /// No more WAL: `recovery ended before configured recovery target was reached` if there was one.
    Ended(Lsn),
}

/// `recovery_target*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Setting {
    None,
    Immediate,
    Time(PgTimestamp),
    Lsn(Lsn),
    Xid(u32),
    Name(String),
}

impl Setting {
    pub(super) fn of(target: &Target) -> Self {
        match target {
            Target::Latest => Self::None,
            Target::Immediate => Self::Immediate,
            Target::Time(time) => Self::Time(PgTimestamp::from_jiff(*time)),
            Target::Lsn(lsn) => Self::Lsn(*lsn),
            Target::Xid(xid) => Self::Xid(*xid),
            Target::Name(name) => Self::Name(name.clone()),
        }
    }

    /// As Postgres reads what a plan sets; and whether it is inclusive.
    pub(super) fn read(plan: &Plan) -> (Self, bool) {
        let value = |name: &str| {
            plan.recovery_settings
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, value)| value.as_str())
        };
        let inclusive = value("recovery_target_inclusive") != Some("off");
        let time = |text: &str| {
            let parsed = jiff::fmt::strtime::parse("%Y-%m-%d %H:%M:%S%.f%z", format!("{text}00"))
                .and_then(|parsed| parsed.to_timestamp());
            PgTimestamp::from_jiff(parsed.expect("a time with a zone"))
        };
        let setting = match (
            value("recovery_target"),
            value("recovery_target_time"),
            value("recovery_target_lsn"),
        ) {
            (Some("immediate"), None, None) => Self::Immediate,
            (None, Some(text), None) => Self::Time(time(text)),
            (None, None, Some(text)) => Self::Lsn(text.parse().unwrap()),
            (None, None, None) => {
                match (value("recovery_target_xid"), value("recovery_target_name")) {
                    (Some(text), None) => Self::Xid(text.parse().unwrap()),
                    (None, Some(name)) => Self::Name(name.to_owned()),
                    _ => Self::None,
                }
            }
            several => panic!("{several:?}"),
        };
        (setting, inclusive)
    }
}

/// How far bytes are there along a line, from a position on: of each segment some file that holds them.
pub(super) fn available(model: &Model, lineage: &Lineage, from: Lsn) -> Lsn {
    let mut number = from.0 / MIB;
    loop {
        let (start, end) = (number * MIB, (number + 1) * MIB);
        let there: Vec<u64> = lineage
            .spans()
            .iter()
            .filter(|span| {
                span.begin.0 < end
                    && model.files.contains(&SegmentName::new(
                        span.timeline,
                        holdfast_postgres::SegmentNumber(number),
                        size(),
                    ))
            })
            // What a file says after its timeline was left does not count.
            .map(|span| span.end.map_or(end, |left| left.0.min(end)))
            .filter(|reach| *reach > start)
            .collect();
        match there.iter().max() {
            Some(reach) if *reach == end => number += 1,
            Some(reach) => return Lsn(*reach),
            None => return Lsn(start),
        }
    }
}

fn end_of_transaction(record: &Record) -> Option<(u32, PgTimestamp)> {
    match record.kind {
        RecordKind::Commit { xid, time } | RecordKind::Abort { xid, time } => Some((xid, time)),
        _ => None,
    }
}

/// `PerformWalRecovery`.
pub(super) fn recover(
    model: &Model,
    lineage: &Lineage,
    backup: &BackupFacts,
    setting: &Setting,
    inclusive: bool,
) -> Recovered {
    let limit = available(model, lineage, backup.start);
    let mut replayed = backup.start;
    let mut consistent = false;
    for record in model
        .line(lineage.newest())
        .into_iter()
        .filter(|record| record.lsn >= backup.start && record.end <= limit)
    {
        let transaction = end_of_transaction(record);
        let before = match setting {
            Setting::Immediate => consistent,
            Setting::Lsn(lsn) => !inclusive && record.lsn >= *lsn,
            Setting::Xid(wanted) => {
                !inclusive && transaction.is_some_and(|(xid, _)| xid == *wanted)
            }
            Setting::Time(wanted) => transaction.is_some_and(|(_, time)| {
                if inclusive {
                    time > *wanted
                } else {
                    time >= *wanted
                }
            }),
            Setting::None | Setting::Name(_) => false,
        };
        if before {
            return if consistent {
                Recovered::Stopped(replayed)
            } else {
                Recovered::NotConsistent
            };
        }
        replayed = record.end;
        consistent = consistent || replayed >= backup.stop;
        let after = match setting {
            Setting::Name(wanted) => {
                matches!(&record.kind, RecordKind::RestorePoint { name, .. } if name == wanted)
            }
            Setting::Lsn(lsn) => inclusive && record.lsn >= *lsn,
            Setting::Xid(wanted) => inclusive && transaction.is_some_and(|(xid, _)| xid == *wanted),
            Setting::Immediate => consistent,
            Setting::None | Setting::Time(_) => false,
        };
        if after {
            return if consistent {
                Recovered::Stopped(replayed)
            } else {
                Recovered::NotConsistent
            };
        }
    }
    Recovered::Ended(replayed)
}
