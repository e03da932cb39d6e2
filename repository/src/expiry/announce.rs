//! What is announced, what of it may be deleted now, and which tombstones have served. Pure.

use super::tombstone::Tombstone;
use crate::retention::Doomed;
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// What to do with tombstones.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Announcements {
    /// To be announced.
    pub(super) write: Doomed,
    /// What persons want to go, to be said again.
    pub(super) ask: Doomed,
    /// Tombstones to be taken away once that is written: all that they name is gone, or some of it stays after all.
    pub(super) withdraw: Vec<u32>,
    /// Announced for long enough, and still to go.
    pub(super) ripe: Doomed,
}

/// `doomed` is what shall go as of now, `there` is what there is.
///
/// What a person wants to go is not announced by that alone: it may be needed for years, and restored from meanwhile.
pub(super) fn decide(
    tombstones: &[Tombstone],
    doomed: &Doomed,
    there: &Doomed,
    now: Timestamp,
    grace: Duration,
) -> Announcements {
    let grace = SignedDuration::try_from(grace).unwrap_or(SignedDuration::MAX);
    let mut decided = Announcements::default();
    let mut announced = Doomed::default();
    let mut asked = Doomed::default();
    for tombstone in tombstones {
        let left = tombstone.doomed.both(there);
        let (named, wanted) = (left.announced(), left.asked());
        let stays_after_all = named.without(doomed);
        if left.is_empty() {
            decided.withdraw.push(tombstone.number);
        } else if !stays_after_all.is_empty() {
            // Were it announced still, it would go without notice when it is doomed again.
            decided.withdraw.push(tombstone.number);
            decided.ask.add(&wanted);
        } else {
            asked.add(&wanted);
            announced.add(&named);
            if now.duration_since(tombstone.written) >= grace {
                decided.ripe.add(&named);
            }
        }
    }
    decided.write = doomed.without(&announced);
    decided.ask = decided.ask.without(&asked);
    decided
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Run;
    use crate::retention::Request;
    use holdfast_postgres::{SegmentNumber, TimelineId};

    /// `b` is a backup, `!b` one that a person wants to go, `1:3-5` WAL.
    fn named(text: &str) -> Doomed {
        let mut doomed = Doomed::default();
        for word in text.split_whitespace() {
            if let Some((timeline, run)) = word.split_once(':') {
                let (first, last) = run.split_once('-').unwrap_or((run, run));
                let number = |text: &str| SegmentNumber(text.parse().unwrap_or_default());
                let timeline = TimelineId(timeline.parse().unwrap_or_default());
                let run = Run {
                    first: number(first),
                    last: number(last),
                };
                doomed.wal.entry(timeline).or_default().insert_run(run);
            } else {
                let id = word.trim_start_matches('!').to_owned();
                let by_person = word.starts_with('!');
                let reason = String::new();
                doomed.backups.insert(id, Request { reason, by_person });
            }
        }
        doomed
    }

    #[test]
    fn what_was_announced_long_enough_goes_and_nothing_else() {
        struct Case {
            tombstones: &'static [(i64, &'static str)],
            doomed: &'static str,
            there: &'static str,
            write: &'static str,
            ask: &'static str,
            withdraw: &'static [u32],
            ripe: &'static str,
        }
        let there = "a b c 1:1-20";
        // The grace period is 100 seconds, and it is second 1000.
        for Case {
            tombstones,
            doomed,
            there,
            write,
            ask,
            withdraw,
            ripe,
        } in [
            Case {
                tombstones: &[],
                doomed: "",
                there,
                write: "",
                ask: "",
                withdraw: &[],
                ripe: "",
            },
            Case {
                tombstones: &[],
                doomed: "a 1:1-5",
                there,
                write: "a 1:1-5",
                ask: "",
                withdraw: &[],
                ripe: "",
            },
            // Not yet.
            Case {
                tombstones: &[(901, "a 1:1-5")],
                doomed: "a 1:1-5",
                there,
                write: "",
                ask: "",
                withdraw: &[],
                ripe: "",
            },
            Case {
                tombstones: &[(900, "a 1:1-5")],
                doomed: "a 1:1-5",
                there,
                write: "",
                ask: "",
                withdraw: &[],
                ripe: "a 1:1-5",
            },
            // More has fallen out meanwhile: that waits for itself.
            Case {
                tombstones: &[(900, "a 1:1-5")],
                doomed: "a b 1:1-9",
                there,
                write: "b 1:6-9",
                ask: "",
                withdraw: &[],
                ripe: "a 1:1-5",
            },
            // Some of it stays after all: the rest is announced anew.
            Case {
                tombstones: &[(0, "a b 1:1-5")],
                doomed: "b 1:1-5",
                there,
                write: "b 1:1-5",
                ask: "",
                withdraw: &[1],
                ripe: "",
            },
            Case {
                tombstones: &[(0, "a 1:1-5")],
                doomed: "a 1:1-4",
                there,
                write: "a 1:1-4",
                ask: "",
                withdraw: &[1],
                ripe: "",
            },
            Case {
                tombstones: &[(0, "a 1:1-5")],
                doomed: "",
                there,
                write: "",
                ask: "",
                withdraw: &[1],
                ripe: "",
            },
            // Done, and half done.
            Case {
                tombstones: &[(0, "x 2:1")],
                doomed: "",
                there,
                write: "",
                ask: "",
                withdraw: &[1],
                ripe: "",
            },
            Case {
                tombstones: &[(0, "x a 1:0-5")],
                doomed: "a 1:1-5",
                there,
                write: "",
                ask: "",
                withdraw: &[],
                ripe: "a 1:1-5",
            },
            // What a person wants stays wanted while it is needed still, and is announced when it is not.
            Case {
                tombstones: &[(0, "!a")],
                doomed: "",
                there,
                write: "",
                ask: "",
                withdraw: &[],
                ripe: "",
            },
            Case {
                tombstones: &[(0, "!a")],
                doomed: "a",
                there,
                write: "a",
                ask: "",
                withdraw: &[],
                ripe: "",
            },
            Case {
                tombstones: &[(0, "!a"), (901, "a")],
                doomed: "a",
                there,
                write: "",
                ask: "",
                withdraw: &[],
                ripe: "",
            },
            Case {
                tombstones: &[(0, "!a"), (900, "a")],
                doomed: "a",
                there,
                write: "",
                ask: "",
                withdraw: &[],
                ripe: "a",
            },
            // Somebody reads it.
            Case {
                tombstones: &[(0, "!a"), (0, "a")],
                doomed: "",
                there,
                write: "",
                ask: "",
                withdraw: &[2],
                ripe: "",
            },
            Case {
                tombstones: &[(0, "!a b")],
                doomed: "",
                there,
                write: "",
                ask: "!a",
                withdraw: &[1],
                ripe: "",
            },
            Case {
                tombstones: &[(0, "!a b"), (950, "!a")],
                doomed: "a",
                there,
                write: "a",
                ask: "",
                withdraw: &[1],
                ripe: "",
            },
            Case {
                tombstones: &[(0, "!x"), (0, "x")],
                doomed: "",
                there,
                write: "",
                ask: "",
                withdraw: &[1, 2],
                ripe: "",
            },
            // Its clock is ahead.
            Case {
                tombstones: &[(2000, "a")],
                doomed: "a",
                there,
                write: "",
                ask: "",
                withdraw: &[],
                ripe: "",
            },
        ] {
            let at = |second| Timestamp::from_second(second).unwrap_or_default();
            let tombstones: Vec<Tombstone> = tombstones
                .iter()
                .zip(1..)
                .map(|((second, names), number)| Tombstone {
                    number,
                    written: at(*second),
                    doomed: named(names),
                })
                .collect();
            let decided = decide(
                &tombstones,
                &named(doomed),
                &named(there),
                at(1000),
                Duration::from_secs(100),
            );
            let expected = Announcements {
                write: named(write),
                ask: named(ask),
                withdraw: withdraw.to_vec(),
                ripe: named(ripe),
            };
            assert_eq!(decided, expected, "{tombstones:?}, doomed {doomed}");
        }
    }
}
