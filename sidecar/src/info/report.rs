//! From what was found to `Archive.status`. Pure.

use super::{Answer, Found, Incarnation};
use crate::status::{
    ArchiveStatus, BackupRepository, BackupSize, BackupStatus, Condition, ConditionStatus, Gap,
    Instance, Lag, Moment, RecoveryWindow, TimelineStatus,
};
use holdfast_postgres::server::Settings as ServerSettings;
use holdfast_postgres::{Lsn, SegmentSize, TimelineId};
use holdfast_protocol::control::InstanceReport;
use holdfast_repository::catalogue::{Catalogue, CataloguedBackup};
use holdfast_repository::reach::{Window, hole_after, newest_complete};

/// Of the newest incarnation; backups of all.
pub(super) fn status(found: &Found, repository: &str) -> ArchiveStatus {
    let mut status = ArchiveStatus::default();
    for incarnation in &found.incarnations {
        status
            .backups
            .extend(backups(&incarnation.catalogue, repository));
    }
    let Some(newest) = found.incarnations.last() else {
        status.conditions = vec![not(
            "Recoverable",
            "NothingStored",
            "nothing is archived yet",
        )];
        return status;
    };
    let Incarnation {
        catalogue,
        ends,
        window,
    } = newest;
    status.system_identifier = Some(catalogue.system.to_string());
    status.postgres_version = Some(catalogue.major.to_string());
    status.timelines = catalogue
        .timelines
        .iter()
        .map(|timeline| timeline_status(catalogue, timeline.id, ends.get(&timeline.id).copied()))
        .collect();
    let last = ends.last_key_value();
    status.timeline = catalogue.timelines.last().map(|timeline| timeline.id.0);
    let window_of = window.as_ref().ok().and_then(Option::as_ref);
    status.archived_through = last.map(|(_, end)| Moment {
        lsn: Some(end.to_string()),
        // Known only where the window reaches as far.
        time: window_of
            .filter(|window| window.latest_lsn == *end)
            .map(|window| window.latest_time),
    });
    status.recovery_window = window_of.map(recovery_window);
    status.last_backup = newest_complete(catalogue).map(|facts| facts.id.clone());
    status.conditions = vec![recoverable(newest)];
    if let Answer::Told(settings, current) = &found.server {
        add_server(&mut status, newest, settings, *current);
    }
    if let (Some(report), [instance]) = (&found.sidecar, status.instances.as_mut_slice()) {
        let wal = &report.wal;
        instance.streaming = wal.streaming.as_ref().is_some_and(|one| one.active);
        instance.sidecar_version = Some(report.sidecar_version.clone());
        // It knows what is stored of the segment that is being written.
        status.lag = wal.lag.or(status.lag);
        if is_further(report, last, catalogue.segment_size) {
            status.archived_through = wal.archived_through.clone();
        }
    }
    status
}

/// Whether a sidecar has stored more than this, by timeline: of the segment that its server is writing. What it remembers of
/// segments after that one is not there any more, or was another timeline's.
fn is_further(
    report: &InstanceReport,
    last: Option<(&TimelineId, &Lsn)>,
    size: SegmentSize,
) -> bool {
    let through = report.wal.archived_through.as_ref();
    let through: Option<Lsn> = through.and_then(|through| through.lsn.as_ref()?.parse().ok());
    match (last, through) {
        (Some((timeline, end)), Some(through)) => {
            let unfinished = Lsn(end.0.saturating_sub(1)).segment(size).next();
            report.postgres.timeline >= Some(timeline.0)
                && *end < through
                && through < unfinished.end(size)
        }
        (None, through) => through.is_some(),
        (_, None) => false,
    }
}

/// Where the store can't be asked: what the sidecar knows without it.
pub(super) fn without_store(report: &InstanceReport, why: &str) -> ArchiveStatus {
    let InstanceReport { postgres, wal, .. } = report;
    let unread = Condition::new("Recoverable", ConditionStatus::Unknown, "NotRead", why);
    let mut conditions = vec![unread];
    if let Some(trouble) = wal.streaming.as_ref().and_then(|one| one.trouble.as_ref()) {
        let message = format!("what is committed is not stored at once: {trouble}");
        conditions.push(not("Streaming", "StreamingFails", message));
    }
    ArchiveStatus {
        system_identifier: postgres.system_identifier.clone(),
        postgres_version: postgres.version.clone(),
        timeline: postgres.timeline,
        instances: vec![Instance {
            role: postgres.role.map(|role| format!("{role:?}")),
            sidecar_version: Some(report.sidecar_version.clone()),
            streaming: wal.streaming.as_ref().is_some_and(|one| one.active),
            ..Instance::default()
        }],
        archived_through: wal.archived_through.clone(),
        lag: wal.lag,
        conditions,
        ..ArchiveStatus::default()
    }
}

fn recovery_window(window: &Window) -> RecoveryWindow {
    let Window {
        timeline: _,
        earliest_lsn,
        earliest_time,
        latest_lsn,
        latest_time,
    } = window;
    RecoveryWindow {
        earliest_time: Some(*earliest_time),
        earliest_lsn: Some(earliest_lsn.to_string()),
        latest_time: Some(*latest_time),
        latest_lsn: Some(latest_lsn.to_string()),
    }
}

fn recoverable(incarnation: &Incarnation) -> Condition {
    match &incarnation.window {
        Err(why) => Condition::new("Recoverable", ConditionStatus::Unknown, "Damaged", why),
        Ok(None) => not(
            "Recoverable",
            "NoCompleteBackup",
            "there is no complete backup",
        ),
        Ok(Some(window)) => match hole_after(&incarnation.catalogue, window) {
            Some(missing) => not(
                "Recoverable",
                "Gap",
                format!(
                    "the WAL segment {missing} is missing: what is archived after it can't be recovered; take a backup"
                ),
            ),
            None => Condition::new(
                "Recoverable",
                ConditionStatus::True,
                "Recoverable",
                format!("along timeline {}", window.timeline),
            ),
        },
    }
}

fn add_server(
    status: &mut ArchiveStatus,
    newest: &Incarnation,
    server: &ServerSettings,
    current: Lsn,
) {
    if server.system_identifier != newest.catalogue.system {
        let message = format!(
            "the server that answers has system identifier {}, and the archive's newest is {}",
            server.system_identifier, newest.catalogue.system
        );
        status
            .conditions
            .push(not("IdentityAccepted", "OtherDatabase", message));
        return;
    }
    let version = server.server_version_num;
    status.postgres_version = Some(format!("{}.{}", version / 10_000, version % 10_000));
    let role = if server.in_recovery {
        "Standby"
    } else {
        "Primary"
    };
    status.instances = vec![Instance {
        role: Some(role.into()),
        ..Instance::default()
    }];
    status.timeline = status.timeline.max(Some(server.timeline.0));
    // WAL of a branch says nothing of how far another was archived.
    status.lag = newest
        .ends
        .get(&server.timeline)
        .or_else(|| at_the_switch(newest, server.timeline))
        .map(|end| {
            let bytes = current.0.saturating_sub(end.0);
            Lag {
                bytes: Some(bytes),
                seconds: (bytes == 0).then_some(0),
            }
        });
}

/// A timeline that has archived nothing yet is as far as its parent.
fn at_the_switch(newest: &Incarnation, timeline: TimelineId) -> Option<&Lsn> {
    let parent = newest
        .catalogue
        .timeline(timeline)?
        .history
        .as_ref()?
        .parent()?;
    Some(newest.ends.get(&parent.timeline)?.min(&parent.switch))
}

fn timeline_status(catalogue: &Catalogue, id: TimelineId, end: Option<Lsn>) -> TimelineStatus {
    let Some(timeline) = catalogue.timeline(id) else {
        return TimelineStatus::default();
    };
    let parent = timeline
        .history
        .as_ref()
        .and_then(|history| history.parent());
    TimelineStatus {
        id: id.0,
        parent: parent.map(|parent| parent.timeline.0),
        switch_lsn: parent.map(|parent| parent.switch.to_string()),
        first_lsn: timeline
            .runs
            .first()
            .map(|first| first.start(catalogue.segment_size).to_string()),
        last_lsn: end.map(|end| end.to_string()),
        segments: timeline.runs.count(),
        stored_bytes: timeline.stored_bytes,
        gaps: catalogue
            .gaps(timeline)
            .into_iter()
            .map(|gap| Gap {
                from: gap.from.to_string(),
                to: gap.to.to_string(),
            })
            .collect(),
    }
}

fn backups(catalogue: &Catalogue, repository: &str) -> Vec<BackupStatus> {
    let mut backups: Vec<&CataloguedBackup> = catalogue.backups.iter().collect();
    backups
        .sort_by(|a, b| (a.facts.start_time, &a.facts.id).cmp(&(b.facts.start_time, &b.facts.id)));
    let told = backups
        .into_iter()
        .map(|backup| with_manifest(backup, repository));
    let unfinished = catalogue.unfinished.iter().map(|id| {
        let conditions = vec![
            Condition::new("Started", ConditionStatus::True, "Started", ""),
            not(
                "Complete",
                "Unfinished",
                "it has no manifest: it runs still, or was interrupted",
            ),
        ];
        BackupStatus {
            id: id.clone(),
            conditions,
            ..BackupStatus::default()
        }
    });
    let unreadable = catalogue.unreadable.iter().map(|(id, why)| BackupStatus {
        id: id.clone(),
        conditions: vec![not("Complete", "Damaged", why)],
        ..BackupStatus::default()
    });
    told.chain(unfinished).chain(unreadable).collect()
}

fn with_manifest(backup: &CataloguedBackup, repository: &str) -> BackupStatus {
    let facts = &backup.facts;
    let complete = match &backup.missing {
        None => Condition::new(
            "Complete",
            ConditionStatus::True,
            "Stored",
            "the manifest and all WAL from start to stop are in the repository",
        ),
        Some(missing) => not(
            "Complete",
            "WalMissing",
            format!("the WAL segment {missing} is not archived"),
        ),
    };
    BackupStatus {
        id: facts.id.clone(),
        r#type: facts.kind().to_owned(),
        start_lsn: Some(facts.start.to_string()),
        stop_lsn: Some(facts.stop.to_string()),
        timeline: Some(facts.timeline.0),
        start_time: Some(facts.start_time),
        completion_time: Some(facts.stop_time),
        size: Some(BackupSize {
            database: facts.database_bytes,
            stored: facts.stored_bytes,
            changed: facts.changed_bytes,
        }),
        page_errors: facts.page_errors,
        repositories: vec![BackupRepository {
            name: repository.to_owned(),
            stored_bytes: facts.stored_bytes,
            conditions: vec![complete.clone()],
        }],
        conditions: vec![
            Condition::new("Started", ConditionStatus::True, "Started", ""),
            complete,
        ],
        ..BackupStatus::default()
    }
}

fn not(r#type: &str, reason: &str, message: impl Into<String>) -> Condition {
    Condition::new(r#type, ConditionStatus::False, reason, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_sidecar_has_stored_of_an_unfinished_segment_is_further() {
        let end = |timeline| Some((TimelineId(timeline), Lsn(0x500_0000)));
        for (timeline, through, last, expected) in [
            (Some(1), Some("0/5000100"), end(1), true),
            (Some(1), Some("0/5FFFFFF"), end(1), true),
            // It was removed since.
            (Some(1), Some("0/6000000"), end(1), false),
            (Some(1), Some("0/5000000"), end(1), false),
            (Some(1), Some("0/4000000"), end(1), false),
            (Some(2), Some("0/5000100"), end(1), true),
            // Another server was promoted.
            (Some(1), Some("0/5000100"), end(2), false),
            (Some(1), Some("0/5000100"), None, true),
            (Some(1), None, end(1), false),
            (None, None, None, false),
        ] {
            let report = serde_json::from_value(json!({
                "postgres": {"timeline": timeline},
                "wal": {"archivedThrough": {"lsn": through}},
            }))
            .unwrap();
            let last = last.as_ref().map(|(timeline, end)| (timeline, end));
            let found = is_further(&report, last, SegmentSize::DEFAULT);
            assert_eq!(found, expected, "{report:?} {last:?}");
        }
    }
}
