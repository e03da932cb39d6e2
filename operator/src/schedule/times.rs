//! A schedule's times. Pure.
//!
//! Five fields as in a CronJob, in a time zone. A time that the clocks skip in spring counts when they have moved on; one
//! that comes twice in autumn counts the first time. What has a wildcard, a range or a step in its minutes or hours, such
//! as every hour, goes on evenly instead.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use thiserror::Error;

/// Lists of minutes and hours with more times a day than this are no list of fixed times.
const FIXED_TIMES: usize = 24;

/// A schedule that can't be followed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadSchedule {
    /// Not five fields, or fields that can't be.
    #[error("spec.schedule {schedule:?} can't be read: {why}")]
    Fields {
        /// As it is written.
        schedule: String,
        /// What is wrong.
        why: String,
    },
    /// No such time zone.
    #[error(
        "spec.timeZone {0:?} is no time zone: write a name such as Europe/Berlin, or leave it out for UTC"
    )]
    Zone(String),
    /// No day has it.
    #[error("spec.schedule {0:?} names a time that never comes, such as 30 February")]
    Never(String),
}

impl BadSchedule {
    /// One word, for a condition.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Fields { .. } => "ScheduleInvalid",
            Self::Zone(_) => "TimeZoneUnknown",
            Self::Never(_) => "ScheduleNeverComes",
        }
    }
}

/// A schedule in its time zone.
#[derive(Debug, Clone)]
pub struct Times {
    /// Whoever comes first counts.
    crons: Vec<Cron>,
    zone: TimeZone,
}

impl Times {
    /// Reads a schedule, and makes sure that it has a time after `now`.
    pub fn parse(schedule: &str, zone: Option<&str>, now: Timestamp) -> Result<Self, BadSchedule> {
        let zone = match zone {
            None | Some("") => TimeZone::UTC,
            Some(name) => TimeZone::get(name)
                .map_err(|_| BadSchedule::Zone(name.chars().take(64).collect()))?,
        };
        let short = || schedule.chars().take(128).collect::<String>();
        let bad = |why: String| BadSchedule::Fields {
            schedule: short(),
            why,
        };
        let fields: Vec<&str> = schedule.split_whitespace().collect();
        if fields.len() != 5 && !schedule.trim().starts_with('@') {
            return Err(bad(format!(
                "it has {} fields, and five are wanted: minute, hour, day of the month, month, day of the week",
                fields.len()
            )));
        }
        let parser = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build();
        let crons = fixed_times(&fields)
            .unwrap_or_else(|| vec![schedule.to_owned()])
            .iter()
            .map(|one| parser.parse(one).map_err(|e| bad(e.to_string())))
            .collect::<Result<Vec<_>, _>>()?;
        let times = Self { crons, zone };
        match times.next_after(now) {
            Some(_) => Ok(times),
            None => Err(BadSchedule::Never(short())),
        }
    }

    /// The first time after a moment.
    pub fn next_after(&self, moment: Timestamp) -> Option<Timestamp> {
        let moment = moment.to_zoned(self.zone.clone());
        let all = self.crons.iter();
        all.filter_map(|cron| cron.find_next_occurrence(&moment, false).ok())
            .map(|time| time.timestamp())
            .min()
    }

    /// The last time before or at a moment.
    pub fn last_until(&self, moment: Timestamp) -> Option<Timestamp> {
        let zoned = moment.to_zoned(self.zone.clone());
        let all = self.crons.iter();
        all.filter_map(|cron| cron.find_previous_occurrence(&zoned, true).ok())
            .map(|time| time.timestamp())
            // What was carried past a gap may be found by its way back alone.
            .filter(|time| *time <= moment)
            .max()
    }

    /// Whether a moment is one of the times.
    pub fn has(&self, moment: Timestamp) -> bool {
        moment
            .checked_sub(SignedDuration::from_secs(1))
            .ok()
            .and_then(|before| self.next_after(before))
            == Some(moment)
    }
}

/// Each time of a list of fixed times as a schedule of its own: only of a single time a day it is known that it is meant
/// once a day, whatever the clocks do.
fn fixed_times(fields: &[&str]) -> Option<Vec<String>> {
    let [minutes, hours, rest @ ..] = fields else {
        return None;
    };
    let single = |list: &str| -> Option<Vec<String>> {
        let items = list.split(',');
        items
            .map(|item| {
                let digits = !item.is_empty() && item.bytes().all(|b| b.is_ascii_digit());
                digits.then(|| item.to_owned())
            })
            .collect()
    };
    let (minutes, hours) = (single(minutes)?, single(hours)?);
    if minutes.len() * hours.len() > FIXED_TIMES {
        return None;
    }
    let rest = rest.join(" ");
    let times = hours
        .iter()
        .flat_map(|hour| minutes.iter().map(move |minute| (minute, hour)));
    Some(
        times
            .map(|(minute, hour)| format!("{minute} {hour} {rest}"))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn times(schedule: &str, zone: &str) -> Times {
        Times::parse(schedule, Some(zone), at("2026-01-01T00:00:00Z")).unwrap()
    }

    #[test]
    fn times_of_a_schedule() {
        for (schedule, zone, from, expected) in [
            (
                "0 2 * * *",
                "UTC",
                "2026-11-20T02:00:00Z",
                ["2026-11-21T02:00:00Z", "2026-11-22T02:00:00Z"],
            ),
            (
                "0 2 * * *",
                "UTC",
                "2026-11-20T01:59:59.9Z",
                ["2026-11-20T02:00:00Z", "2026-11-21T02:00:00Z"],
            ),
            (
                "@hourly",
                "",
                "2026-11-20T02:00:00Z",
                ["2026-11-20T03:00:00Z", "2026-11-20T04:00:00Z"],
            ),
            (
                "@weekly",
                "UTC",
                "2026-11-20T02:00:00Z",
                ["2026-11-22T00:00:00Z", "2026-11-29T00:00:00Z"],
            ),
            (
                "*/20 8-9 * * mon-fri",
                "UTC",
                "2026-11-20T09:30:00Z",
                ["2026-11-20T09:40:00Z", "2026-11-23T08:00:00Z"],
            ),
            // One of both days is enough, as in cron.
            (
                "0 0 13 * 5",
                "UTC",
                "2026-11-09T00:00:00Z",
                ["2026-11-13T00:00:00Z", "2026-11-20T00:00:00Z"],
            ),
            (
                "0 0 29 2 *",
                "UTC",
                "2026-11-09T00:00:00Z",
                ["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"],
            ),
            (
                "30 2 * * *",
                "Europe/Berlin",
                "2026-11-20T00:00:00Z",
                ["2026-11-20T01:30:00Z", "2026-11-21T01:30:00Z"],
            ),
            // 02:30 does not come on 29 March: then at 03:00, which is 01:00 UTC.
            (
                "30 2 * * *",
                "Europe/Berlin",
                "2026-03-28T02:00:00Z",
                ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"],
            ),
            (
                "30 2,14 * * *",
                "Europe/Berlin",
                "2026-03-28T14:00:00Z",
                ["2026-03-29T01:00:00Z", "2026-03-29T12:30:00Z"],
            ),
            // It comes twice on 25 October: at 00:30 UTC, and not again at 01:30.
            (
                "30 2 * * *",
                "Europe/Berlin",
                "2026-10-24T12:00:00Z",
                ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"],
            ),
            (
                "30 2,14 * * *",
                "Europe/Berlin",
                "2026-10-24T14:00:00Z",
                ["2026-10-25T00:30:00Z", "2026-10-25T13:30:00Z"],
            ),
            // Every hour is every hour.
            (
                "0 * * * *",
                "Europe/Berlin",
                "2026-10-25T00:00:00Z",
                ["2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z"],
            ),
            (
                "0 * * * *",
                "Europe/Berlin",
                "2026-03-29T00:30:00Z",
                ["2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z"],
            ),
        ] {
            let times = times(schedule, zone);
            let mut moment = at(from);
            for expected in expected {
                moment = times.next_after(moment).unwrap();
                assert_eq!(moment, at(expected), "{schedule} {zone} after {from}");
                assert!(times.has(moment), "{schedule} {zone} {moment}");
                assert_eq!(times.last_until(moment), Some(moment), "{schedule} {zone}");
                let later = moment + SignedDuration::from_secs(7);
                assert_eq!(times.last_until(later), Some(moment), "{schedule} {zone}");
                assert!(!times.has(later));
            }
        }
    }

    #[test]
    fn what_can_not_be_followed_is_told() {
        for (schedule, zone, reason) in [
            ("", None, "ScheduleInvalid"),
            ("* * * *", None, "ScheduleInvalid"),
            ("0 0 2 * * *", None, "ScheduleInvalid"),
            ("0 0 2 * * * *", None, "ScheduleInvalid"),
            ("60 * * * *", None, "ScheduleInvalid"),
            ("0 24 * * *", None, "ScheduleInvalid"),
            ("0 2 * * day", None, "ScheduleInvalid"),
            ("@every 1h", None, "ScheduleInvalid"),
            ("@nonsense", None, "ScheduleInvalid"),
            ("0 0 30 2 *", None, "ScheduleNeverComes"),
            ("0 0 31 4,6,9,11 *", None, "ScheduleNeverComes"),
            ("0 2 * * *", Some("Europe/Atlantis"), "TimeZoneUnknown"),
            ("0 2 * * *", Some("../../etc/passwd"), "TimeZoneUnknown"),
        ] {
            let bad = Times::parse(schedule, zone, at("2026-01-01T00:00:00Z")).unwrap_err();
            assert_eq!(bad.reason(), reason, "{schedule} {zone:?}: {bad}");
        }
    }
}
