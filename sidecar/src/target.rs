//! Where a recovery stops, as people write it on the command line and in settings.

pub(crate) use crate::config::parse_moment as parse_time;
use holdfast_postgres::TimelineId;
use holdfast_repository::reach::{Target, TimelineChoice};

/// `latest`, `current` or a number.
pub(crate) fn parse_timeline(text: &str) -> Result<TimelineChoice, String> {
    match text {
        "latest" => Ok(TimelineChoice::Latest),
        "current" => Ok(TimelineChoice::Current),
        number => match number.parse() {
            Ok(number @ 1..) => Ok(TimelineChoice::Number(TimelineId(number))),
            _ => Err("a timeline is a number from 1, latest or current".to_owned()),
        },
    }
}

/// Postgres drops the epoch of a 64-bit transaction id as well (recovery_target_xid).
pub(crate) fn parse_xid(text: &str) -> Result<u32, String> {
    let wrong = || "a transaction is a number from 3, as pg_current_xact_id() prints it".to_owned();
    let full: u64 = text.parse().map_err(|_| wrong())?;
    let xid = (full & u64::from(u32::MAX)) as u32;
    if xid < 3 { Err(wrong()) } else { Ok(xid) }
}

/// MAXFNAMELEN of Postgres is 64, with the zero at the end.
pub(crate) fn parse_name(text: &str) -> Result<String, String> {
    if (1..=63).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err("a restore point's name has 1 to 63 bytes".to_owned())
    }
}

/// Whether "just before it" means something.
pub(crate) fn may_be_exclusive(target: &Target) -> bool {
    matches!(target, Target::Time(_) | Target::Lsn(_) | Target::Xid(_))
}
