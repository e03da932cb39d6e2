//! `Archive.status` for people: aligned columns, ages and rounded sizes. Pure.

use crate::status::{ArchiveStatus, BackupStatus, Condition, ConditionStatus, TimelineStatus};
use indicatif::HumanBytes;
use jiff::Timestamp;

/// What stands above the status.
pub(super) struct Head<'a> {
    /// `namespace/name`
    pub(super) archive: &'a str,
    /// As the settings call it.
    pub(super) repository: &'a str,
    /// The store.
    pub(super) place: &'a str,
    pub(super) encrypted: bool,
    /// Why the server told nothing, if it did not.
    pub(super) silent: Option<&'a str>,
}

/// The whole answer.
pub(super) fn text(status: &ArchiveStatus, head: &Head<'_>, now: Timestamp) -> String {
    let mut text = columns(&facts(status, head, now), "");
    text.push_str(&list(
        "\nBackups\n",
        &[
            "ID", "TYPE", "TIMELINE", "START", "STOP", "FINISHED", "AGE", "DATABASE", "STORED",
            "STATE",
        ],
        status.backups.iter().map(|b| backup(b, now)),
    ));
    text.push_str(&list(
        "\nWAL\n",
        &[
            "TIMELINE",
            "PARENT",
            "BRANCHED AT",
            "FIRST",
            "LAST",
            "SEGMENTS",
            "STORED",
            "GAPS",
        ],
        status.timelines.iter().map(timeline),
    ));
    text
}

/// Where only the sidecar could be asked.
pub(super) fn without_store(status: &ArchiveStatus, now: Timestamp) -> String {
    let mut rows: Vec<_> = server(status).into_iter().collect();
    rows.extend(archived(status, None, now));
    rows.extend(troubles(status));
    columns(&rows, "")
}

fn facts(status: &ArchiveStatus, head: &Head<'_>, now: Timestamp) -> Vec<Vec<String>> {
    let sealed = if head.encrypted {
        "encrypted"
    } else {
        "not encrypted"
    };
    let mut rows = vec![row([
        "Archive",
        &format!(
            "{} in repository {} ({}, {sealed})",
            head.archive, head.repository, head.place
        ),
    ])];
    rows.extend(server(status));
    rows.extend(archived(status, head.silent, now));
    match &status.recovery_window {
        Some(window) => {
            let moment = |time: &Option<Timestamp>, lsn: &Option<String>| {
                format!("{} ({})", or_none(time), or_none(lsn))
            };
            rows.push(row([
                "Recoverable",
                &format!(
                    "from {}",
                    moment(&window.earliest_time, &window.earliest_lsn)
                ),
            ]));
            rows.push(row([
                "",
                &format!("to   {}", moment(&window.latest_time, &window.latest_lsn)),
            ]));
        }
        None => rows.push(row(["Recoverable", "nothing"])),
    }
    rows.extend(troubles(status));
    rows
}

fn server(status: &ArchiveStatus) -> Option<Vec<String>> {
    let system = status.system_identifier.as_ref()?;
    let version = status.postgres_version.as_deref().unwrap_or("?");
    Some(row([
        "PostgreSQL",
        &format!(
            "{version}, system identifier {system}, timeline {}",
            or_none(&status.timeline)
        ),
    ]))
}

/// `silent`: why the server told nothing, if it did not.
fn archived(status: &ArchiveStatus, silent: Option<&str>, now: Timestamp) -> Vec<Vec<String>> {
    let Some(moment) = &status.archived_through else {
        return Vec::new();
    };
    let time = moment
        .time
        .map(|time| format!(", last change {time} ({} ago)", age(now, time)))
        .unwrap_or_default();
    let lag = match (status.lag.and_then(|lag| lag.bytes), silent) {
        (Some(bytes), _) => format!("{} of WAL not archived yet", HumanBytes(bytes)),
        (None, Some(why)) => format!("unknown: {why}"),
        (None, None) => "unknown: the server's timeline is not archived".to_owned(),
    };
    vec![
        row([
            "Archived",
            &format!("through {}{time}", or_none(&moment.lsn)),
        ]),
        row(["Lag", &lag]),
    ]
}

fn troubles(status: &ArchiveStatus) -> impl Iterator<Item = Vec<String>> {
    let conditions = status.conditions.iter();
    conditions
        .filter(|condition| condition.status != ConditionStatus::True)
        .map(|condition| row(["Attention", &condition.message]))
}

fn backup(backup: &BackupStatus, now: Timestamp) -> Vec<String> {
    let size = |of: fn(&crate::status::BackupSize) -> u64| {
        backup
            .size
            .as_ref()
            .map_or("-".to_owned(), |size| HumanBytes(of(size)).to_string())
    };
    let complete = backup
        .conditions
        .iter()
        .find(|condition| condition.r#type == "Complete");
    let state = match complete {
        Some(Condition {
            status: ConditionStatus::True,
            ..
        }) if backup.page_errors > 0 => format!("Complete, {} bad pages", backup.page_errors),
        Some(Condition {
            status: ConditionStatus::True,
            ..
        }) => "Complete".to_owned(),
        Some(condition) => format!("{}: {}", condition.reason, condition.message),
        None => "-".to_owned(),
    };
    let kind = if backup.r#type.is_empty() {
        "-"
    } else {
        &backup.r#type
    };
    row([
        &backup.id,
        kind,
        &or_none(&backup.timeline),
        &or_none(&backup.start_lsn),
        &or_none(&backup.stop_lsn),
        &or_none(&backup.completion_time),
        &backup
            .completion_time
            .map_or("-".to_owned(), |time| age(now, time)),
        &size(|size| size.database),
        &size(|size| size.stored),
        &state,
    ])
}

fn timeline(timeline: &TimelineStatus) -> Vec<String> {
    let gaps: Vec<String> = timeline
        .gaps
        .iter()
        .map(|gap| format!("{} to {}", gap.from, gap.to))
        .collect();
    row([
        &timeline.id.to_string(),
        &or_none(&timeline.parent),
        &or_none(&timeline.switch_lsn),
        &or_none(&timeline.first_lsn),
        &or_none(&timeline.last_lsn),
        &timeline.segments.to_string(),
        &HumanBytes(timeline.stored_bytes).to_string(),
        &if gaps.is_empty() {
            "none".to_owned()
        } else {
            gaps.join(", ")
        },
    ])
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

fn or_none<T: ToString>(value: &Option<T>) -> String {
    value.as_ref().map_or("-".to_owned(), T::to_string)
}

fn list(title: &str, head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut all = vec![head.iter().map(|cell| (*cell).to_owned()).collect()];
    all.extend(rows);
    if all.len() == 1 {
        format!("{title}  none\n")
    } else {
        format!("{title}{}", columns(&all, "  "))
    }
}

/// Columns as wide as their widest cell; the last one as long as it is.
fn columns(rows: &[Vec<String>], indent: &str) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let line: String = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}  "))
            .collect();
        text.push_str(indent);
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// As kubectl writes it: the largest unit alone.
fn age(now: Timestamp, then: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(then.as_second()).max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report;
    use super::*;
    use crate::status::{BackupSize, Gap, Moment, RecoveryWindow};

    #[test]
    fn people_see_columns() {
        let time = |text: &str| text.parse::<Timestamp>().ok();
        let complete = Condition::new("Complete", ConditionStatus::True, "Stored", "");
        let status = ArchiveStatus {
            system_identifier: Some("7".into()),
            postgres_version: Some("17".into()),
            timeline: Some(2),
            archived_through: Some(Moment {
                lsn: Some("0/5000000".into()),
                time: None,
            }),
            recovery_window: Some(RecoveryWindow {
                earliest_time: time("2026-11-21T10:00:00.5Z"),
                earliest_lsn: Some("0/2000138".into()),
                latest_time: time("2026-11-21T11:00:00Z"),
                latest_lsn: Some("0/5000000".into()),
            }),
            conditions: vec![Condition::new(
                "Recoverable",
                ConditionStatus::False,
                "Gap",
                "a segment is missing",
            )],
            backups: vec![BackupStatus {
                id: "one".into(),
                r#type: "Full".into(),
                timeline: Some(1),
                completion_time: time("2026-11-21T10:00:00.5Z"),
                size: Some(BackupSize {
                    database: 3 << 20,
                    stored: 1 << 20,
                    changed: 0,
                }),
                conditions: vec![complete],
                ..BackupStatus::default()
            }],
            timelines: vec![TimelineStatus {
                id: 1,
                segments: 4,
                gaps: vec![Gap {
                    from: "0/3000000".into(),
                    to: "0/4000000".into(),
                }],
                ..TimelineStatus::default()
            }],
            ..ArchiveStatus::default()
        };
        let head = Head {
            archive: "shop/orders",
            repository: "main",
            place: "s3://b/shop/orders",
            encrypted: true,
            silent: Some("nobody is there"),
        };
        let now = "2026-11-21T14:00:00Z".parse().unwrap();
        assert_eq!(
            text(&status, &head, now),
            "\
Archive      shop/orders in repository main (s3://b/shop/orders, encrypted)
PostgreSQL   17, system identifier 7, timeline 2
Archived     through 0/5000000
Lag          unknown: nobody is there
Recoverable  from 2026-11-21T10:00:00.5Z (0/2000138)
             to   2026-11-21T11:00:00Z (0/5000000)
Attention    a segment is missing

Backups
  ID   TYPE  TIMELINE  START  STOP  FINISHED                AGE  DATABASE  STORED    STATE
  one  Full  1         -      -     2026-11-21T10:00:00.5Z  4h   3.00 MiB  1.00 MiB  Complete

WAL
  TIMELINE  PARENT  BRANCHED AT  FIRST  LAST  SEGMENTS  STORED  GAPS
  1         -       -            -      -     4         0 B     0/3000000 to 0/4000000
"
        );
        let nothing = text(&ArchiveStatus::default(), &head, now);
        assert!(
            nothing.contains("Recoverable  nothing") && nothing.contains("Backups\n  none"),
            "{nothing}"
        );
    }

    #[test]
    fn without_a_store_the_sidecar_tells_how_far_it_is_behind() {
        let report = serde_json::from_value(serde_json::json!({
            "sidecarVersion": "0.1.0",
            "postgres": {"role": "Primary", "systemIdentifier": "7", "version": "17.6", "timeline": 1},
            "wal": {
                "archivedThrough": {"lsn": "0/5000000"},
                "lag": {"bytes": 2048, "seconds": 7},
                "streaming": {"active": false, "trouble": "refused"},
            },
        }))
        .unwrap();
        let status = report::without_store(&report, "s3://b: refused");
        assert_eq!(
            without_store(&status, Timestamp::UNIX_EPOCH),
            "\
PostgreSQL  17.6, system identifier 7, timeline 1
Archived    through 0/5000000
Lag         2.00 KiB of WAL not archived yet
Attention   s3://b: refused
Attention   what is committed is not stored at once: refused
"
        );
        let (instance, lag) = (&status.instances[0], status.lag.unwrap());
        assert_eq!(instance.role.as_deref(), Some("Primary"));
        assert!(!instance.streaming);
        assert_eq!((lag.bytes, lag.seconds), (Some(2048), Some(7)));
    }

    #[test]
    fn ages() {
        for (seconds, expected) in [
            (-5, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (7_199, "119m"),
            (7_200, "2h"),
            (172_799, "47h"),
            (172_800, "2d"),
        ] {
            let now = Timestamp::from_second(1_000_000).unwrap();
            assert_eq!(
                age(now, Timestamp::from_second(1_000_000 - seconds).unwrap()),
                expected
            );
        }
    }
}
