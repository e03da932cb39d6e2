//! Where Postgres stops: `recoveryStopsBefore` and `recoveryStopsAfter` of xlogrecovery.c.

use super::Target;
use holdfast_postgres::wal::{Record, RecordKind, SegmentIndex};
use holdfast_postgres::{Lsn, PgTimestamp};
use jiff::Timestamp;

/// A target at which a record stops recovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rule {
    /// Before the first commit or rollback later than this.
    LaterThan(PgTimestamp),
    /// Before or after the first record that starts here or later.
    At(Lsn, Side),
    /// Before or after the end of this transaction.
    EndOf(u32, Side),
    /// After the first restore point of this name.
    RestorePoint(String),
}

/// Whether the record at which recovery stops is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Before,
    After,
}

impl Rule {
    pub(super) fn of(target: &Target, exclusive: bool) -> Option<Self> {
        let side = if exclusive { Side::Before } else { Side::After };
        Some(match target {
            Target::Latest | Target::Immediate => return None,
            Target::Time(time) if exclusive => {
                Self::LaterThan(PgTimestamp(not_before(*time).0.saturating_sub(1)))
            }
            Target::Time(time) => Self::LaterThan(PgTimestamp::from_jiff(*time)),
            Target::Lsn(lsn) => Self::At(*lsn, side),
            Target::Xid(xid) => Self::EndOf(*xid, side),
            Target::Name(name) => Self::RestorePoint(name.clone()),
        })
    }

    /// Whether a record of the segment may stop recovery. Never false where one does.
    pub(super) fn may_match(&self, index: &SegmentIndex) -> bool {
        let later = |times: Option<(PgTimestamp, PgTimestamp)>, than: &PgTimestamp| {
            times.is_some_and(|(_, latest)| latest > *than)
        };
        match self {
            Self::LaterThan(time) => {
                later(index.commit_times, time) || later(index.abort_times, time)
            }
            Self::At(lsn, _) => index.last_record.is_some_and(|last| last >= *lsn),
            // 0 stands for a prepared transaction whose id the index could not tell.
            Self::EndOf(xid, _) => index.xids.iter().any(|known| known == xid || *known == 0),
            Self::RestorePoint(name) => {
                index.restore_points.iter().any(|point| point.name == *name)
            }
        }
    }

    /// Whether this record stops recovery, and how.
    pub(super) fn stops(&self, record: &Record) -> Option<Side> {
        match (self, &record.kind) {
            (
                Self::LaterThan(bound),
                RecordKind::Commit { time, .. } | RecordKind::Abort { time, .. },
            ) => (time > bound).then_some(Side::Before),
            (Self::At(lsn, side), _) => (record.lsn >= *lsn).then_some(*side),
            (
                Self::EndOf(wanted, side),
                RecordKind::Commit { xid, .. } | RecordKind::Abort { xid, .. },
            ) => (xid == wanted).then_some(*side),
            (Self::RestorePoint(wanted), RecordKind::RestorePoint { name, .. }) => {
                (name == wanted).then_some(Side::After)
            }
            _ => None,
        }
    }
}

/// The first whole microsecond that is not before `time`: Postgres knows no shorter ones.
fn not_before(time: Timestamp) -> PgTimestamp {
    let floor = PgTimestamp::from_jiff(time);
    if floor.to_jiff() < time {
        PgTimestamp(floor.0.saturating_add(1))
    } else {
        floor
    }
}

/// `recovery_target_time`
pub(super) fn setting(time: Timestamp, exclusive: bool) -> String {
    let time = if exclusive {
        not_before(time)
    } else {
        PgTimestamp::from_jiff(time)
    };
    time.to_jiff()
        .strftime("%Y-%m-%d %H:%M:%S%.6f+00")
        .to_string()
}

/// What a record is, for people.
pub(super) fn describe(record: &Record) -> String {
    let what = match &record.kind {
        RecordKind::Commit { xid, time } => format!("the commit of transaction {xid} ({time})"),
        RecordKind::Abort { xid, time } => format!("the rollback of transaction {xid} ({time})"),
        RecordKind::RestorePoint { name, time } => format!("restore point {name:?} ({time})"),
        _ => "the record".to_owned(),
    };
    format!("{what} at {}", record.lsn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_between_microseconds() {
        let time: Timestamp = "2026-11-21T10:00:00.0000005Z".parse().unwrap();
        let floor = PgTimestamp::from_jiff("2026-11-21T10:00:00Z".parse().unwrap());
        // Both stop before the next whole microsecond, and not before the last one.
        assert_eq!(
            Rule::of(&Target::Time(time), false),
            Some(Rule::LaterThan(floor))
        );
        assert_eq!(
            Rule::of(&Target::Time(time), true),
            Some(Rule::LaterThan(floor))
        );
        assert_eq!(setting(time, false), "2026-11-21 10:00:00.000000+00");
        assert_eq!(setting(time, true), "2026-11-21 10:00:00.000001+00");
        assert_eq!(
            Rule::of(&Target::Time(floor.to_jiff()), true),
            Some(Rule::LaterThan(PgTimestamp(floor.0 - 1)))
        );
    }
}
