//! What Postgres' recovery does at a target: which records it replays (`recoveryStopsBefore` and `recoveryStopsAfter` in
//! xlogrecovery.c, the same in 14 to 18).

use holdfast_postgres::{Lsn, PgTimestamp};

/// What an [`Event`]'s record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A transaction committed.
    Commit,
    /// A transaction was rolled back.
    Abort,
    /// A named restore point.
    RestorePoint(String),
}

/// A WAL record at which recovery may stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Where the record starts.
    pub lsn: Lsn,
    /// Where the record before it starts.
    pub previous: Lsn,
    /// The transaction (0 for a restore point).
    pub xid: u32,
    /// Its time, as the record has it (of commits and aborts).
    pub time: PgTimestamp,
    /// What it says.
    pub what: What,
}

/// A recovery target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The end of what is archived.
    Latest,
    /// As soon as the backup is consistent.
    Immediate {
        /// The backup's stop LSN.
        stop: Lsn,
    },
    /// `recovery_target_time`
    Time(PgTimestamp),
    /// `recovery_target_lsn`
    Lsn(Lsn),
    /// `recovery_target_xid`
    Xid(u32),
    /// `recovery_target_name`
    Name(String),
}

impl Target {
    /// The arguments of `holdfast restore` that ask for it.
    pub fn arguments(&self, exclusive: bool) -> Vec<String> {
        let mut arguments = match self {
            Self::Latest => vec!["--target".to_owned(), "latest".to_owned()],
            Self::Immediate { .. } => vec!["--target".to_owned(), "immediate".to_owned()],
            Self::Time(time) => vec!["--target-time".to_owned(), time.to_string()],
            Self::Lsn(lsn) => vec!["--target-lsn".to_owned(), lsn.to_string()],
            Self::Xid(xid) => vec!["--target-xid".to_owned(), xid.to_string()],
            Self::Name(name) => vec!["--target-name".to_owned(), name.clone()],
        };
        if exclusive {
            arguments.push("--exclusive".to_owned());
        }
        arguments
    }

    /// How many of these events, which are in the order of their LSNs, recovery replays.
    pub fn replayed(&self, events: &[Event], exclusive: bool) -> usize {
        let first =
            |stops: &dyn Fn(&Event) -> bool| events.iter().position(stops).unwrap_or(events.len());
        let of_a_transaction = |event: &Event| !matches!(event.what, What::RestorePoint(_));
        match self {
            Self::Latest => events.len(),
            Self::Immediate { stop } => first(&|event| event.lsn >= *stop),
            // Before the first transaction's end with a later time; there may be earlier times after it.
            Self::Time(time) => first(&|event| {
                of_a_transaction(event)
                    && if exclusive {
                        event.time >= *time
                    } else {
                        event.time > *time
                    }
            }),
            Self::Lsn(lsn) if exclusive => first(&|event| event.lsn >= *lsn),
            // The first record that starts at the target or after it is replayed too, whatever it is.
            Self::Lsn(lsn) => first(&|event| event.lsn >= *lsn && event.previous >= *lsn),
            Self::Xid(xid) => {
                let at = first(&|event| of_a_transaction(event) && event.xid == *xid);
                if exclusive {
                    at
                } else {
                    (at + 1).min(events.len())
                }
            }
            Self::Name(name) => {
                let at = first(
                    &|event| matches!(&event.what, What::RestorePoint(known) if known == name),
                );
                (at + 1).min(events.len())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(lsn: u64, previous: u64, xid: u32, time: i64, what: What) -> Event {
        Event {
            lsn: Lsn(lsn),
            previous: Lsn(previous),
            xid,
            time: PgTimestamp(time),
            what,
        }
    }

    #[test]
    fn recovery_stops_where_postgres_stops() {
        let events = [
            event(100, 90, 1, 10, What::Commit),
            event(200, 180, 2, 30, What::Abort),
            event(300, 200, 3, 20, What::Commit),
            event(400, 350, 0, 0, What::RestorePoint("p".into())),
            event(500, 400, 4, 40, What::Commit),
        ];
        let name = |text: &str| Target::Name(text.to_owned());
        let cases = [
            (Target::Latest, false, 5),
            (Target::Immediate { stop: Lsn(300) }, false, 2),
            (Target::Immediate { stop: Lsn(301) }, false, 3),
            (Target::Time(PgTimestamp(9)), false, 0),
            (Target::Time(PgTimestamp(10)), false, 1),
            (Target::Time(PgTimestamp(10)), true, 0),
            // An abort stops it, though a commit with an earlier time comes after.
            (Target::Time(PgTimestamp(25)), false, 1),
            (Target::Time(PgTimestamp(30)), false, 4),
            (Target::Time(PgTimestamp(30)), true, 1),
            (Target::Lsn(Lsn(300)), true, 2),
            (Target::Lsn(Lsn(300)), false, 3),
            // Other records lie between.
            (Target::Lsn(Lsn(310)), false, 3),
            // The next record after the target is the event itself.
            (Target::Lsn(Lsn(201)), false, 3),
            (Target::Lsn(Lsn(201)), true, 2),
            (Target::Xid(3), false, 3),
            (Target::Xid(3), true, 2),
            (name("p"), false, 4),
        ];
        for (target, exclusive, replayed) in cases {
            assert_eq!(
                target.replayed(&events, exclusive),
                replayed,
                "{target:?} exclusive: {exclusive}"
            );
        }
    }
}
