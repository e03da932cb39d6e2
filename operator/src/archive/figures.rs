//! What Archive.status tells besides conditions, and when it is worth a write. Pure.

use super::member::Member;
use super::stored::{Incarnation, Known};
use crate::text;
use holdfast_crds::{ArchiveLastBackup, ArchiveStatus};
use holdfast_postgres::{Lsn, SystemIdentifier};
use holdfast_protocol::control::{InstanceReport, Role};
use holdfast_protocol::status::{Condition, Instance, Lag, Moment, RecoveryWindow};
use jiff::Timestamp;
use std::time::Duration;

/// More servers are not listed.
const MOST_INSTANCES: usize = 100;

/// Between two writes for moving figures alone.
const PERIOD: Duration = Duration::from_secs(60);

/// The status with these conditions. `accepted` is the database cluster that is the archive's; `backup_name` finds the
/// Backup object of an id. What only the repository tells stays as it was `before`, until that was read.
pub fn status(
    members: &[Member],
    stored: &Known,
    accepted: Option<SystemIdentifier>,
    backup_name: impl Fn(&str) -> Option<String>,
    conditions: Vec<Condition>,
    before: Option<&ArchiveStatus>,
) -> ArchiveStatus {
    let newest = stored.last().and_then(|stored| stored.newest.as_ref());
    // What is stored of the cluster before says nothing of this one.
    let incarnation = newest.filter(|newest| Some(newest.system) == accepted);
    let reports = || {
        members
            .iter()
            .filter(|member| member.counts() && member.system() == accepted)
            .filter_map(Member::report)
    };
    let primary = reports().find(|report| report.postgres.role == Some(Role::Primary));
    let version = primary
        .or_else(|| reports().next())
        .and_then(|report| report.postgres.version.as_deref())
        .map(short);
    let archived = primary.and_then(|report| moment(report.wal.archived_through.as_ref()?));
    let stored_end = incarnation.and_then(|incarnation| incarnation.end);
    let found = ArchiveStatus {
        system_identifier: accepted.map(|system| system.to_string()),
        postgres_version: version.or(incarnation.map(|one| one.major.to_string())),
        timeline: incarnation
            .and_then(|incarnation| incarnation.timeline)
            .map(|timeline| timeline.0)
            .max(primary.and_then(|report| report.postgres.timeline)),
        instances: instances(members),
        archived_through: match (&archived, stored_end) {
            (Some((lsn, time)), _) => Some(told(*lsn, *time)),
            (None, Some(end)) => Some(told(end, None)),
            (None, None) => None,
        },
        lag: primary.and_then(|report| report.wal.lag),
        recovery_window: incarnation
            .and_then(|incarnation| recovery_window(incarnation, primary, archived)),
        last_backup: incarnation
            .and_then(|incarnation| incarnation.last_backup.as_ref())
            .map(|(id, time)| ArchiveLastBackup {
                name: backup_name(id),
                id: id.clone(),
                completion_time: seconds(*time),
            }),
        conditions,
    };
    match before.filter(|_| stored.last().is_none()) {
        Some(before) => unread(found, before),
        None => found,
    }
}

/// Fills in what is not known yet.
fn unread(found: ArchiveStatus, before: &ArchiveStatus) -> ArchiveStatus {
    let before = before.clone();
    let system = found.system_identifier;
    if system.is_some() && system != before.system_identifier {
        // It was another's.
        return ArchiveStatus {
            system_identifier: system,
            ..found
        };
    }
    ArchiveStatus {
        system_identifier: before.system_identifier,
        postgres_version: found.postgres_version.or(before.postgres_version),
        timeline: found.timeline.max(before.timeline),
        archived_through: found.archived_through.or(before.archived_through),
        recovery_window: before.recovery_window,
        last_backup: before.last_backup,
        instances: found.instances,
        lag: found.lag,
        conditions: found.conditions,
    }
}

fn instances(members: &[Member]) -> Vec<Instance> {
    members
        .iter()
        .filter(|member| member.counts())
        .take(MOST_INSTANCES)
        .map(|member| {
            let report = member.report();
            Instance {
                pod: Some(member.name.clone()),
                image: member.image.clone(),
                role: member.role().map(|role| {
                    match role {
                        Role::Primary => "Primary",
                        Role::Standby => "Standby",
                    }
                    .to_owned()
                }),
                sidecar_version: report
                    .map(|report| short(&report.sidecar_version))
                    .filter(|version| !version.is_empty()),
                configuration_generation: report.and_then(|report| report.configuration_generation),
                streaming: report
                    .and_then(|report| report.wal.streaming.as_ref())
                    .is_some_and(|streaming| streaming.active),
            }
        })
        .collect()
}

/// What was read from the store, and what was archived since without a gap.
fn recovery_window(
    incarnation: &Incarnation,
    primary: Option<&InstanceReport>,
    archived: Option<(Lsn, Option<Timestamp>)>,
) -> Option<RecoveryWindow> {
    let window = incarnation.window.as_ref()?;
    let same_line = primary.and_then(|report| report.postgres.timeline) == Some(window.timeline.0);
    let further = archived
        .filter(|_| same_line && incarnation.hole.is_none())
        .filter(|(lsn, _)| *lsn > window.latest_lsn);
    let (latest_lsn, latest_time) = match further {
        Some((lsn, time)) => (
            lsn,
            time.unwrap_or(window.latest_time).max(window.latest_time),
        ),
        None => (window.latest_lsn, window.latest_time),
    };
    Some(RecoveryWindow {
        earliest_time: Some(seconds(window.earliest_time)),
        earliest_lsn: Some(window.earliest_lsn.to_string()),
        latest_time: Some(seconds(latest_time)),
        latest_lsn: Some(latest_lsn.to_string()),
    })
}

fn moment(moment: &Moment) -> Option<(Lsn, Option<Timestamp>)> {
    let lsn = moment.lsn.as_deref()?.parse().ok()?;
    Some((lsn, moment.time))
}

fn told(lsn: Lsn, time: Option<Timestamp>) -> Moment {
    Moment {
        lsn: Some(lsn.to_string()),
        time: time.map(seconds),
    }
}

/// Whole ones, as Kubernetes writes times. Downwards: a later moment might not be reachable.
fn seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_microsecond().div_euclid(1_000_000)).unwrap_or(time)
}

/// A version, which a stranger has sent.
fn short(version: &str) -> String {
    text::line(version).chars().take(40).collect()
}

/// Whether `next` is worth a write over `known`: at once where anything but figures differs, and for figures alone
/// once a minute. `last` is how long ago figures were written; none where that is not known.
pub fn is_due(known: Option<&ArchiveStatus>, next: &ArchiveStatus, last: Option<Duration>) -> bool {
    let Some(known) = known else {
        return true;
    };
    if still(known) != still(next) {
        return true;
    }
    figures(known) != figures(next) && last.is_none_or(|last| last >= PERIOD)
}

/// Without what moves.
fn still(status: &ArchiveStatus) -> ArchiveStatus {
    ArchiveStatus {
        archived_through: None,
        lag: None,
        recovery_window: status
            .recovery_window
            .as_ref()
            .map(|_| RecoveryWindow::default()),
        ..status.clone()
    }
}

type Figures = (Option<Moment>, Option<Lag>, Option<RecoveryWindow>);

/// What moves. Seconds of lag pass by themselves: they are written along, and are no reason to write.
fn figures(status: &ArchiveStatus) -> Figures {
    let lag = status.lag.map(|lag| Lag {
        seconds: None,
        ..lag
    });
    (
        status.archived_through.clone(),
        lag,
        status.recovery_window.clone(),
    )
}

#[cfg(test)]
mod tests {
    use super::super::member::tests::reporting;
    use super::super::plan::tests::stored;
    use super::*;
    use serde_json::{Value, json};

    fn primary(changes: Value) -> Member {
        let mut report = json!({"sidecarVersion": "0.1.0", "configurationGeneration": 3,
            "postgres": {"role": "Primary", "systemIdentifier": "7", "version": "17.6", "timeline": 1},
            "wal": {"archivedThrough": {"lsn": "0/5000000", "time": "2026-11-21T13:00:00.9Z"}, "lag": {"bytes": 10, "seconds": 3}}});
        json_patch::merge(&mut report, &changes);
        reporting(0, report)
    }

    fn of(members: &[Member], stored: &Known, accepted: Option<u64>) -> ArchiveStatus {
        let name = |id: &str| (id == "b1").then(|| "nightly-1".to_owned());
        after(members, stored, accepted, name, None)
    }

    fn after(
        members: &[Member],
        stored: &Known,
        accepted: Option<u64>,
        name: impl Fn(&str) -> Option<String>,
        before: Option<&ArchiveStatus>,
    ) -> ArchiveStatus {
        let accepted = accepted.map(SystemIdentifier);
        status(members, stored, accepted, name, vec![], before)
    }

    #[test]
    fn nothing_vanishes_while_the_repository_is_not_read_yet() {
        let name = |_: &str| None;
        let base = of(&[primary(json!({}))], &stored(Some(7)), Some(7));
        let restarted = |members: &[Member], known: &Known, accepted| {
            after(members, known, accepted, name, Some(&base))
        };
        let trouble = Known::Trouble {
            reason: "StoreUnreachable",
            why: "no".into(),
            last: None,
        };
        for known in [&Known::NotYet, &trouble] {
            assert_eq!(restarted(&[primary(json!({}))], known, Some(7)), base);
            let silent = restarted(&[], known, None);
            assert_eq!(silent.recovery_window, base.recovery_window);
            assert_eq!(silent.system_identifier, base.system_identifier);
        }
        let other = json!({"postgres": {"systemIdentifier": "8"}});
        let other = restarted(&[primary(other)], &Known::NotYet, Some(8));
        assert_eq!((other.recovery_window, other.last_backup), (None, None));
        // What was read and is not there has gone.
        let gone = restarted(&[], &stored(None), None);
        assert_eq!((gone.recovery_window, gone.last_backup), (None, None));
    }

    #[test]
    fn what_is_stored_is_carried_on_by_what_was_archived_since() {
        let status = of(&[primary(json!({}))], &stored(Some(7)), Some(7));
        assert_eq!(
            serde_json::to_value(&status).unwrap(),
            json!({
                "systemIdentifier": "7", "postgresVersion": "17.6", "timeline": 1,
                "instances": [{"pod": "orders-0", "image": "postgres:17", "role": "Primary", "sidecarVersion": "0.1.0",
                    "configurationGeneration": 3, "streaming": false}],
                "archivedThrough": {"lsn": "0/5000000", "time": "2026-11-21T13:00:00Z"},
                "lag": {"bytes": 10, "seconds": 3},
                "recoveryWindow": {"earliestTime": "1970-01-01T00:00:00Z", "earliestLsn": "0/100",
                    "latestTime": "2026-11-21T13:00:00Z", "latestLsn": "0/5000000"},
                "lastBackup": {"name": "nightly-1", "id": "b1", "completionTime": "1970-01-01T00:00:00Z"},
            })
        );
        let latest = |status: ArchiveStatus| status.recovery_window.unwrap().latest_lsn.unwrap();
        for (changes, lsn) in [
            (json!({"postgres": {"timeline": 2}}), "0/3000000"),
            (
                json!({"wal": {"archivedThrough": {"lsn": "0/2000000"}}}),
                "0/3000000",
            ),
            (
                json!({"wal": {"archivedThrough": {"lsn": "nonsense"}}}),
                "0/3000000",
            ),
        ] {
            assert_eq!(
                latest(of(&[primary(changes)], &stored(Some(7)), Some(7))),
                lsn
            );
        }
    }

    #[test]
    fn without_servers_the_store_tells_what_it_can() {
        let status = of(&[], &stored(Some(7)), Some(7));
        assert_eq!(status.postgres_version.as_deref(), Some("17"));
        assert_eq!(
            status.archived_through.unwrap().lsn.as_deref(),
            Some("0/3000000")
        );
        // Of another cluster than the accepted one nothing is told.
        let other = of(&[primary(json!({}))], &stored(Some(8)), Some(7));
        assert_eq!((other.recovery_window, other.last_backup), (None, None));
        assert_eq!(of(&[], &Known::NotYet, None), ArchiveStatus::default());
    }

    #[test]
    fn moving_figures_are_written_once_a_minute_and_the_rest_at_once() {
        let base = of(&[primary(json!({}))], &stored(Some(7)), Some(7));
        let with = |changes| of(&[primary(changes)], &stored(Some(7)), Some(7));
        let moved = with(json!({"wal": {"archivedThrough": {"lsn": "0/6000000"}}}));
        let lagging = with(json!({"wal": {"lag": {"bytes": 99}}}));
        let waiting = with(json!({"wal": {"lag": {"seconds": 99}}}));
        let promoted = with(json!({"postgres": {"timeline": 2}}));
        let gone = of(&[primary(json!({}))], &stored(None), Some(7));
        for (next, seconds, due) in [
            (&base, None, false),
            (&base, Some(600), false),
            (&moved, Some(59), false),
            (&moved, Some(60), true),
            (&moved, None, true),
            (&lagging, Some(60), true),
            (&lagging, Some(1), false),
            (&waiting, None, false),
            (&promoted, Some(1), true),
            (&gone, Some(1), true),
        ] {
            let last = seconds.map(Duration::from_secs);
            assert_eq!(is_due(Some(&base), next, last), due, "{next:?} {seconds:?}");
        }
        assert!(is_due(None, &base, Some(Duration::ZERO)));
    }
}
