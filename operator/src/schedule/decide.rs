//! What a ScheduledBackup does now. Pure.
//!
//! `status.nextScheduleTime` is the first of the schedule's times that nothing has been decided about: so what passed
//! while nobody looked is seen, and what passed while it was suspended is not.

use super::times::Times;
use crate::conditions::Finding;
use holdfast_crds::{ScheduledBackupSpec, ScheduledBackupStatus};
use jiff::{SignedDuration, Timestamp};

/// The type of the only condition.
pub const READY: &str = "Ready";
/// Why there are no times: somebody wants it so.
pub const SUSPENDED: &str = "Suspended";
/// Why there are no times: the Archive's owner wants it so.
pub const ARCHIVE_SUSPENDED: &str = "ArchiveSuspended";

/// Times that passed are counted one by one up to so many: who comes back after years shall not count for long.
const COUNTED: i64 = 1000;
/// A last time that lies further ahead than this was told by a clock that was wrong.
const CLOCK: SignedDuration = SignedDuration::from_hours(1);

/// What is seen of a ScheduledBackup and around it.
#[derive(Debug, Clone)]
pub struct Seen<'a> {
    /// Its name.
    pub name: &'a str,
    /// When it was made.
    pub created: Timestamp,
    /// What is wanted.
    pub spec: &'a ScheduledBackupSpec,
    /// As it stands.
    pub status: &'a ScheduledBackupStatus,
    /// The Archive: none where it is not there, else whether it is suspended.
    pub archive: Option<bool>,
    /// A Backup of this schedule that has not ended.
    pub running: Option<&'a str>,
}

/// A Backup to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Make {
    /// The time that it is for.
    pub time: Timestamp,
    /// Its name.
    pub name: String,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// To be made; the status holds only once it is there.
    pub make: Option<Make>,
    /// The new status, without conditions.
    pub status: ScheduledBackupStatus,
    /// The condition.
    pub finding: Finding,
    /// When to look again, if nobody wakes us; none: not before something changes.
    pub again: Option<Timestamp>,
    /// Times that were given up just now, for an event: how many, and the last.
    pub missed: Option<(i64, Timestamp)>,
}

/// Deterministic, as a CronJob's: two operators that come to the same decision can't make two.
pub fn backup_name(schedule: &str, time: Timestamp) -> String {
    format!("{schedule}-{}", time.as_second().div_euclid(60))
}

/// The time that a Backup's name tells, if it was made by that schedule.
pub fn time_of(schedule: &str, backup: &str) -> Option<Timestamp> {
    let minutes: i64 = backup
        .strip_prefix(schedule)?
        .strip_prefix('-')?
        .parse()
        .ok()?;
    let time = Timestamp::from_second(minutes.checked_mul(60)?).ok()?;
    (backup_name(schedule, time) == backup).then_some(time)
}

/// Decides what to do at the moment `now`.
pub fn decide(now: Timestamp, seen: &Seen<'_>) -> Decision {
    let Seen {
        spec,
        status,
        archive,
        ..
    } = *seen;
    let mut told = ScheduledBackupStatus {
        conditions: Vec::new(),
        ..status.clone()
    };
    let still = |status: ScheduledBackupStatus, finding: Finding| Decision {
        make: None,
        status,
        finding,
        again: None,
        missed: None,
    };
    let times = match Times::parse(&spec.schedule, spec.time_zone.as_deref(), now) {
        Ok(times) => times,
        Err(bad) => {
            told.next_schedule_time = None;
            return still(told, Finding::bad(READY, bad.reason(), bad.to_string()));
        }
    };
    if spec.suspend || archive == Some(true) {
        told.next_schedule_time = None;
        let (reason, message) = if spec.suspend {
            (SUSPENDED, "spec.suspend is true: no Backups are made")
        } else {
            let message = "spec.suspend of the Archive is true: no Backups are made";
            (ARCHIVE_SUSPENDED, message)
        };
        return still(told, Finding::pending(READY, reason, message));
    }
    let due = Due::find(&times, now, first(&times, now, seen));
    Course {
        seen,
        now,
        times: &times,
        told,
    }
    .take(due)
}

/// The first time that nothing was decided about yet.
fn first(times: &Times, now: Timestamp, seen: &Seen<'_>) -> Option<Timestamp> {
    let status = seen.status;
    let last = status
        .last_schedule_time
        .filter(|last| *last <= now + CLOCK);
    let from_now = || times.next_after(last.map_or(now, |last| last.max(now)));
    match status.next_schedule_time {
        // As it was announced, unless the schedule is another now.
        Some(next) if next <= now && times.has(next) && Some(next) != last => Some(next),
        // A schedule that has changed, or a clock that went back, may have an earlier one.
        Some(_) => from_now(),
        // It was suspended, or could not be read.
        None if !status.conditions.is_empty() => from_now(),
        None => times.next_after(last.map_or(seen.created, |last| last.max(seen.created))),
    }
}

/// The times that have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Due {
    /// The newest of them, if any.
    newest: Option<Timestamp>,
    /// How many came before it.
    before: i64,
    /// The one that comes next.
    next: Option<Timestamp>,
}

impl Due {
    fn find(times: &Times, now: Timestamp, first: Option<Timestamp>) -> Self {
        let Some(mut newest) = first.filter(|first| *first <= now) else {
            return Self {
                newest: None,
                before: 0,
                next: first,
            };
        };
        let mut before = 0;
        loop {
            match times.next_after(newest) {
                Some(next) if next <= now && before < COUNTED => {
                    newest = next;
                    before += 1;
                }
                Some(next) if next <= now => {
                    newest = times.last_until(now).unwrap_or(next).max(next);
                    let next = times.next_after(now);
                    return Self {
                        newest: Some(newest),
                        before,
                        next,
                    };
                }
                next => {
                    return Self {
                        newest: Some(newest),
                        before,
                        next,
                    };
                }
            }
        }
    }
}

struct Course<'a> {
    seen: &'a Seen<'a>,
    now: Timestamp,
    times: &'a Times,
    told: ScheduledBackupStatus,
}

impl Course<'_> {
    fn take(mut self, due: Due) -> Decision {
        let immediate = self.seen.spec.immediate && self.told.last_backup.is_none();
        let mut given_up = None;
        let time = match due.newest {
            _ if immediate => {
                // Now is as good as whatever has come since.
                self.told.next_schedule_time = due.next;
                Some(self.seen.created)
            }
            None => {
                self.told.next_schedule_time = due.next;
                None
            }
            Some(newest) if self.is_late(newest) => {
                given_up = Some((due.before.saturating_add(1), newest));
                self.told.next_schedule_time = due.next;
                None
            }
            Some(newest) => {
                let last = self.times.last_until(newest - SignedDuration::from_secs(1));
                given_up = (due.before > 0).then(|| (due.before, last.unwrap_or(newest)));
                self.told.next_schedule_time = Some(newest);
                Some(newest)
            }
        };
        if let Some((count, _)) = given_up {
            let before = self.told.missed.unwrap_or(0);
            self.told.missed = Some(before.saturating_add(count));
        }
        let Some(time) = time else {
            return self.decision(None, given_up, None);
        };
        if self.seen.archive.is_none() {
            let name = &self.seen.spec.archive_ref.name;
            let why = format!("the Archive {name} does not exist in this namespace: make it");
            return self.decision(None, given_up, Some(why));
        }
        if self.seen.running.is_some() {
            return self.decision(None, given_up, None);
        }
        let name = backup_name(self.seen.name, time);
        self.told.last_backup = Some(name.clone());
        self.told.missed = None;
        if !immediate {
            self.told.last_schedule_time = Some(time);
            self.told.next_schedule_time = due.next;
        }
        self.decision(Some(Make { time, name }), given_up, None)
    }

    fn is_late(&self, time: Timestamp) -> bool {
        let deadline = self.seen.spec.starting_deadline_seconds;
        deadline.is_some_and(|deadline| {
            self.now.duration_since(time) > SignedDuration::from_secs(deadline.max(0))
        })
    }

    fn decision(
        self,
        make: Option<Make>,
        missed: Option<(i64, Timestamp)>,
        archive: Option<String>,
    ) -> Decision {
        let Self {
            seen, now, told, ..
        } = self;
        let missed_so_far = told.missed.unwrap_or(0);
        let finding = match archive.or_else(|| no_archive(seen)) {
            Some(why) => Finding::bad(READY, "ArchiveNotFound", why),
            None if missed_so_far > 0 => Finding::bad(
                READY,
                "Missed",
                format!(
                    "{} of the schedule's times passed without a Backup{}: the operator was not running, or an earlier Backup took until spec.startingDeadlineSeconds was over",
                    match missed_so_far {
                        many if many >= COUNTED => format!("{COUNTED} or more"),
                        some => some.to_string(),
                    },
                    seen.running
                        .map(|name| format!(" ({name} has not ended yet)"))
                        .unwrap_or_default()
                ),
            ),
            None => Finding::good(READY, "Scheduled", "Backups are made by the schedule"),
        };
        // What waits is looked at when what it waits for changes, and when its deadline passes.
        let deadline = seen.spec.starting_deadline_seconds.and_then(|seconds| {
            let waits = told.next_schedule_time.filter(|time| *time <= now)?;
            waits
                .checked_add(SignedDuration::from_secs(seconds.max(0).saturating_add(1)))
                .ok()
        });
        let upcoming = told.next_schedule_time.filter(|time| *time > now);
        let after = self.times.next_after(now);
        let again = [deadline, upcoming, after].into_iter().flatten().min();
        Decision {
            make,
            status: told,
            finding,
            again,
            missed,
        }
    }
}

fn no_archive(seen: &Seen<'_>) -> Option<String> {
    let name = &seen.spec.archive_ref.name;
    seen.archive
        .is_none()
        .then(|| format!("the Archive {name} does not exist in this namespace: make it"))
}

#[cfg(test)]
mod tests;
