use super::*;
use crate::archive::{Left, Written};
use crate::config::{Overrides, parse};
use crate::queue::Queue;
use crate::wal_bench::{Bench, IN_RECOVERY};
use holdfast_postgres::server::{Recovery, Settings as ServerSettings};
use holdfast_postgres::{
    Lsn, SegmentName, SegmentNumber, SegmentSize, SystemIdentifier, TimelineId, WalFileName,
    WalLevel,
};
use std::path::Path;

fn settings() -> Settings {
    let text = "archive: shop/orders\ngeneration: 4\npostgres: {dataDirectory: /d}\n\
                repositories: [{name: r, filesystem: {path: /b}}]\n";
    parse(Path::new("/f"), text, &Overrides::default()).unwrap()
}

fn answer() -> Answer {
    Answer {
        settings: ServerSettings {
            server_version_num: 170_006,
            data_directory: "/d".into(),
            archive_mode: "on".into(),
            archive_command: "/holdfast/bin/holdfast-wal archive %f %p".into(),
            archive_library: None,
            wal_level: WalLevel::Replica,
            restore_command: String::new(),
            in_recovery: false,
            timeline: TimelineId(1),
            system_identifier: SystemIdentifier(7),
            data_checksums: true,
            full_page_writes: true,
            synchronous_standby_names: String::new(),
            pending_restart: Vec::new(),
        },
        lsn: Lsn(0x50_0007),
        timeline: TimelineId(2),
        recovery: Some(Recovery {
            lsn: Lsn(0x50_0000),
            time: None,
            paused: false,
        }),
    }
}

fn found(server: Result<Answer, String>) -> Found {
    let bench = Bench::new();
    bench.control(1, IN_RECOVERY);
    Found {
        control: Ok(crate::data_directory::control_file(&bench.data()).unwrap()),
        last_order: Some("5f0c".into()),
        branched: Some((TimelineId(2), Lsn(0x4F_0000))),
        queue: Some(Queue::default()),
        volume_bytes: Some(1 << 30),
        wal_available: None,
        server,
    }
}

fn of(found: &Found, progress: ArchiveProgress, not_configured: Option<&str>) -> InstanceReport {
    report(Parts {
        settings: &settings(),
        trouble: Some("told".into()),
        pod: &Pod {
            name: None,
            uid: Some("u".into()),
        },
        found,
        not_configured: not_configured.map(str::to_owned),
        progress,
        histories: Vec::new(),
        running_backup: Some("b".into()),
        bootstrap: None,
        now: Timestamp::from_second(1000).unwrap(),
    })
}

#[test]
fn a_report_has_what_was_found() {
    let progress = ArchiveProgress {
        archived: 3,
        failed: 1,
        last_archived: Some(("x".into(), Timestamp::from_second(970).unwrap())),
        last_failure: None,
        through: Some(Through {
            timeline: TimelineId(2),
            boundary: Lsn(0x50_0000),
            end: Lsn(0x4F_FFF0),
            last_commit: Timestamp::from_second(900).ok(),
        }),
        ..ArchiveProgress::default()
    };
    let mut report = of(&found(Ok(answer())), progress, None);
    // What it says is of no importance.
    assert!(report.mark.take().is_some());
    let value = serde_json::to_value(report).unwrap();
    assert_eq!(
        value,
        serde_json::json!({
            "archive": "shop/orders",
            "podUid": "u",
            "sidecarVersion": env!("CARGO_PKG_VERSION"),
            "configurationGeneration": 4,
            "configurationError": "told",
            "postgres": {
                "role": "Primary",
                "systemIdentifier": "7",
                "version": "17.6",
                "major": 17,
                "timeline": 2,
                "lastOrder": "5f0c", "volumeBytes": 1 << 30,
                "recovery": {"lsn": "0/4F0000", "paused": false},
            },
            "wal": {
                "archivedCount": 3,
                "failedCount": 1,
                "lastArchived": {"name": "x", "time": "1970-01-01T00:16:10Z"},
                "readyCount": 0,
                "archivedThrough": {"lsn": "0/4FFFF0", "time": "1970-01-01T00:15:00Z"},
                "lag": {"bytes": 7, "seconds": 30},
            },
            "runningBackup": "b",
        })
    );
}

#[test]
fn what_is_stored_of_the_segment_that_is_being_written_counts() {
    let written = |start, seconds| Written {
        timeline: TimelineId(2),
        start: Lsn(start),
        stored: Lsn(0x50_0004),
        end: Lsn(0x50_0002),
        last_commit: None,
        as_of: Timestamp::from_second(seconds).unwrap(),
    };
    let progress = |written| ArchiveProgress {
        through: Some(Through {
            timeline: TimelineId(2),
            boundary: Lsn(0x50_0000),
            end: Lsn(0x4F_FFF0),
            last_commit: Timestamp::from_second(900).ok(),
        }),
        written: Some(written),
        streaming: Streaming::Follows,
        ..ArchiveProgress::default()
    };
    let wal = of(
        &found(Ok(answer())),
        progress(written(0x50_0000, 998)),
        None,
    )
    .wal;
    let through = wal.archived_through.unwrap();
    assert_eq!(through.lsn.as_deref(), Some("0/500002"));
    assert_eq!(through.time, Timestamp::from_second(900).ok());
    let lag = wal.lag.unwrap();
    assert_eq!((lag.bytes, lag.seconds), (Some(3), Some(2)));
    assert!(wal.streaming.unwrap().active);
    // Of a segment before which something may be missing.
    let wal = of(
        &found(Ok(answer())),
        progress(written(0x60_0000, 998)),
        None,
    )
    .wal;
    assert_eq!(
        wal.archived_through.unwrap().lsn.as_deref(),
        Some("0/4FFFF0")
    );
    assert_eq!(wal.lag.unwrap().bytes, Some(7));
}

#[test]
fn what_a_primary_has_left_does_not_fill_the_volume() {
    let size = SegmentSize::new(1 << 20).unwrap();
    let segment = |number| SegmentName::new(TimelineId(2), SegmentNumber(number), size);
    let mut found = found(Ok(answer()));
    found.queue = Some(Queue {
        names: [3, 4].map(|n| WalFileName::Segment(segment(n))).into(),
        since: None,
    });
    let progress = ArchiveProgress {
        left: Some(Left {
            segment: segment(1),
            since: None,
        }),
        ..ArchiveProgress::default()
    };
    let wal = of(&found, progress.clone(), None).wal;
    assert_eq!(wal.lag.unwrap().bytes, Some((4 << 20) + 7));
    let waits = waiting(&wal, &found, &progress, Timestamp::UNIX_EPOCH);
    assert_eq!(waits, Some((2 << 20) + 7));
}

#[test]
fn without_a_server_pg_control_tells() {
    let report = of(&found(Err("it is down".into())), Default::default(), None);
    let postgres = report.postgres;
    assert_eq!(postgres.unreachable.as_deref(), Some("it is down"));
    assert_eq!((postgres.major, postgres.timeline), (Some(17), Some(1)));
    assert_eq!(
        (postgres.role, postgres.version, postgres.archiving_off),
        (None, None, None)
    );
    assert!(postgres.system_identifier.is_some());
    assert_eq!(report.wal.lag, None);
}

#[test]
fn what_keeps_archiving_off_is_told_with_the_line_that_mends_it() {
    let with = |change: fn(&mut ServerSettings)| {
        let mut answer = answer();
        change(&mut answer.settings);
        answer
    };
    for (answer, parts, lag) in [
        (answer(), [].as_slice(), true),
        (
            with(|s| s.archive_mode = "off".into()),
            &["archive_mode: off, mend it with: ALTER SYSTEM SET archive_mode = on"],
            false,
        ),
        (
            with(|s| {
                s.archive_mode = "off".into();
                s.pending_restart = vec!["archive_mode".into()];
            }),
            &["archive_mode: off until Postgres is restarted, mend it with: restart Postgres"],
            false,
        ),
        (
            with(|s| {
                s.archive_mode = "off".into();
                s.archive_command = "cp %p /x/%f".into();
            }),
            &[
                "archive_mode: off",
                "archive_command: \"cp %p /x/%f\" is not holdfast-wal's, mend it with: ALTER SYSTEM SET archive_command = 'holdfast-wal archive %f %p'; SELECT pg_reload_conf();",
                "; it is not overwritten",
            ],
            false,
        ),
        (
            with(|s| s.archive_library = Some("basic_archive".into())),
            &["archive_library: basic_archive archives instead"],
            false,
        ),
        (
            with(|s| s.wal_level = WalLevel::Minimal),
            &["wal_level: minimal"],
            false,
        ),
        // A standby hands nothing over, unless it always does.
        (with(|s| s.in_recovery = true), &[], false),
        (
            with(|s| {
                s.in_recovery = true;
                s.archive_mode = "always".into();
            }),
            &[],
            true,
        ),
    ] {
        let not_configured = parts.last().filter(|part| part.starts_with("; "));
        let not_configured = not_configured.map(|part| part.trim_start_matches("; "));
        let report = of(&found(Ok(answer)), Default::default(), not_configured);
        let off = report.postgres.archiving_off.unwrap_or_default();
        assert_eq!(off.is_empty(), parts.is_empty(), "{off}");
        for part in parts {
            assert!(off.contains(part), "{off}");
        }
        assert_eq!(report.wal.lag.is_some(), lag, "{off}");
    }
}

#[test]
fn the_mark_turns_with_what_people_are_told_and_not_with_figures() {
    let at = |second| Timestamp::from_second(second).unwrap();
    let failure = |why: &str, second| Some(("a".to_owned(), why.to_owned(), at(second)));
    let archived = |second| Some(("b".to_owned(), at(second)));
    let of = |last_failure, last_archived, streaming, trouble| {
        let progress = ArchiveProgress {
            last_failure,
            last_archived,
            streaming,
            archived: 7,
            ..ArchiveProgress::default()
        };
        mark(&progress, Some(4), trouble, None)
    };
    use Streaming::{Fails, Follows, Off};
    let usual = of(None, archived(10), Follows, None);
    for (same, other) in [
        (true, of(None, archived(20), Follows, None)),
        // It passed.
        (true, of(failure("refused", 5), archived(10), Follows, None)),
        (false, of(None, None, Follows, None)),
        (false, of(None, archived(10), Off, None)),
        (false, of(None, archived(10), Follows, Some("no such key"))),
    ] {
        assert_eq!(same, other == usual);
    }
    let fails = of(failure("refused", 15), archived(10), Follows, None);
    assert_ne!(fails, usual);
    // Tried again; for another reason.
    assert_eq!(
        fails,
        of(failure("refused", 25), archived(10), Follows, None)
    );
    assert_ne!(
        fails,
        of(failure("denied", 25), archived(10), Follows, None)
    );
    let streams = |why: &str| of(None, archived(10), Fails(why.to_owned()), None);
    assert_eq!(streams("refused"), streams("refused"));
    assert_ne!(streams("refused"), streams("denied"));
}
