//! Where a recovery stops, as people write it on the command line and in settings.

use super::{Target, TimelineChoice};
use holdfast_postgres::TimelineId;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// Reads RFC 3339, or what PostgreSQL prints (`2026-11-20 10:00:00.5+01`, `… UTC`). A time without a zone is refused:
/// PostgreSQL would take its server's, which need not be this machine's.
pub fn parse_time(text: &str) -> Result<Timestamp, String> {
    let text = text.trim();
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(moment);
    }
    for suffix in [" UTC", " GMT", " Z"] {
        if let Some(Ok(civil)) = text.strip_suffix(suffix).map(str::parse::<DateTime>)
            && let Ok(zoned) = civil.to_zoned(TimeZone::UTC)
        {
            return Ok(zoned.timestamp());
        }
    }
    match text.parse::<DateTime>() {
        Ok(civil) => Err(format!(
            "{text} has no time zone: write {civil}Z for UTC, or your offset behind it, such as {civil}+01:00"
        )),
        Err(_) => Err(format!(
            "{text:?} is no time: write it as 2026-11-20T10:00:00Z or 2026-11-20 10:00:00+01"
        )),
    }
}

/// `latest`, `current` or a number.
pub fn parse_timeline(text: &str) -> Result<TimelineChoice, String> {
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
pub fn parse_xid(text: &str) -> Result<u32, String> {
    let wrong = || "a transaction is a number from 3, as pg_current_xact_id() prints it".to_owned();
    let full: u64 = text.parse().map_err(|_| wrong())?;
    let xid = (full & u64::from(u32::MAX)) as u32;
    if xid < 3 { Err(wrong()) } else { Ok(xid) }
}

/// MAXFNAMELEN of Postgres is 64, with the zero at the end.
pub fn parse_name(text: &str) -> Result<String, String> {
    if (1..=63).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err("a restore point's name has 1 to 63 bytes".to_owned())
    }
}

/// Whether "just before it" means something.
pub fn may_be_exclusive(target: &Target) -> bool {
    matches!(target, Target::Time(_) | Target::Lsn(_) | Target::Xid(_))
}

#[cfg(test)]
mod tests {
    use super::parse_time;

    #[test]
    fn times_as_people_write_them() {
        let ten = "2026-11-20T09:00:00Z".parse().unwrap();
        for text in [
            "2026-11-20T10:00:00+01:00",
            "2026-11-20 10:00:00+01",
            "2026-11-20 10:00:00.000000+01",
            "2026-11-20T09:00:00Z",
            "2026-11-20 09:00:00Z",
            "2026-11-20 09:00:00 UTC",
            "2026-11-20 09:00:00+00",
            " 2026-11-20 04:30:00-04:30 ",
        ] {
            assert_eq!(parse_time(text), Ok(ten), "{text}");
        }
        for (text, sentence) in [
            ("2026-11-20 10:00:00", "write 2026-11-20T10:00:00Z for UTC"),
            ("2026-11-20T10:00:00", "no time zone"),
            ("2026-11-20", "no time zone"),
            ("2026-13-01T00:00:00Z", "is no time"),
            ("yesterday", "is no time"),
            ("", "is no time"),
            ("1763632800", "is no time"),
        ] {
            let error = parse_time(text).unwrap_err();
            assert!(error.contains(sentence), "{text}: {error}");
        }
    }
}
