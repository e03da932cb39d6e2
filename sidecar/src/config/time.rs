//! Moments as people write them.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// Reads RFC 3339, or what PostgreSQL prints (`2026-11-20 10:00:00.5+01`, `… UTC`). A time without a zone is refused:
/// PostgreSQL would take its server's, which need not be this machine's.
pub(crate) fn parse_moment(text: &str) -> Result<Timestamp, String> {
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

#[cfg(test)]
mod tests {
    use super::parse_moment;

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
            assert_eq!(parse_moment(text), Ok(ten), "{text}");
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
            let error = parse_moment(text).unwrap_err();
            assert!(error.contains(sentence), "{text}: {error}");
        }
    }
}
