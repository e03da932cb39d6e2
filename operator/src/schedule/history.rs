//! Which of a schedule's Backups are removed as objects, because there are more than anybody wants to see. Pure.
//!
//! That removes objects and never data: an object whose deletionPolicy is Delete is set to Retain first.

use super::decide::time_of;
use crate::backup::Phase;
use jiff::Timestamp;

/// A Backup of a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Its name.
    pub name: String,
    /// When the object was made.
    pub created: Timestamp,
    /// How far it is.
    pub phase: Phase,
    /// Somebody deletes it already.
    pub going: bool,
    /// It shall stay for ever, and only the object says so yet.
    pub unsaid: bool,
}

/// The names of those to be removed, the oldest first.
pub fn surplus(schedule: &str, made: &[Made], successful: i32, failed: i32) -> Vec<String> {
    let of = |limit: i32, phase: fn(&Phase) -> bool| {
        let mut all: Vec<(Timestamp, &str)> = made
            .iter()
            .filter(|one| !one.going && !one.unsaid && phase(&one.phase))
            .map(|one| {
                (
                    time_of(schedule, &one.name).unwrap_or(one.created),
                    one.name.as_str(),
                )
            })
            .collect();
        all.sort_unstable();
        let stay = usize::try_from(limit).unwrap_or(0);
        all.truncate(all.len().saturating_sub(stay));
        all
    };
    // What has expired was complete once.
    let mut surplus = of(successful, |phase| {
        matches!(phase, Phase::Complete | Phase::Expired)
    });
    surplus.extend(of(failed, |phase| matches!(phase, Phase::Failed)));
    surplus.sort_unstable();
    surplus
        .into_iter()
        .map(|(_, name)| name.to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stay_by_their_times_and_whatever_has_not_ended() {
        let made = |minutes: i64, phase| Made {
            name: format!("nightly-{minutes}"),
            created: Timestamp::from_second(1_000_000_000 - minutes).unwrap(),
            phase,
            going: false,
            unsaid: false,
        };
        let all = [
            made(9, Phase::Complete),
            made(10, Phase::Complete),
            made(11, Phase::Failed),
            made(12, Phase::Expired),
            made(13, Phase::Failed),
            made(14, Phase::Complete),
            made(15, Phase::Waiting),
            made(16, Phase::Ordered),
            Made {
                going: true,
                ..made(1, Phase::Complete)
            },
            Made {
                unsaid: true,
                ..made(2, Phase::Complete)
            },
        ];
        for (successful, failed, expected) in [
            (10, 3, vec![]),
            (2, 1, vec!["nightly-9", "nightly-10", "nightly-11"]),
            (
                0,
                0,
                vec![
                    "nightly-9",
                    "nightly-10",
                    "nightly-11",
                    "nightly-12",
                    "nightly-13",
                    "nightly-14",
                ],
            ),
            (
                -1,
                9,
                vec!["nightly-9", "nightly-10", "nightly-12", "nightly-14"],
            ),
        ] {
            assert_eq!(surplus("nightly", &all, successful, failed), expected);
        }
    }
}
