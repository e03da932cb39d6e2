//! From what was found to the report. Pure.

use super::lag::{Position, lag};
use super::{Answer, Found};
use crate::archive::{ArchiveProgress, BestEffort, Streaming, Through};
use crate::check::Verdict;
use crate::check::database::archiving;
use crate::config::Settings;
use crate::environment::Pod;
use crate::status::{Lag, Moment};
use crate::wal_command::WalCommand;
use holdfast_protocol::control::{
    ArchivedFile, BestEffortReport, BootstrapReport, FailedFile, HistoryFile, InstanceReport,
    PostgresReport, RecoveryReport, Role, StreamingReport, WalReport,
};
use jiff::Timestamp;
use std::hash::{DefaultHasher, Hash, Hasher};

/// All that a report is made of.
pub(super) struct Parts<'a> {
    pub settings: &'a Settings,
    pub trouble: Option<String>,
    pub pod: &'a Pod,
    pub found: &'a Found,
    pub not_configured: Option<String>,
    pub progress: ArchiveProgress,
    pub histories: Vec<HistoryFile>,
    pub running_backup: Option<String>,
    pub bootstrap: Option<BootstrapReport>,
    pub now: Timestamp,
}

/// What differs once archiving, streaming or the settings have turned, and not while figures move.
pub(super) fn mark(
    progress: &ArchiveProgress,
    generation: Option<i64>,
    trouble: Option<&str>,
    not_configured: Option<&str>,
) -> String {
    let ArchiveProgress {
        last_archived,
        last_failure,
        streaming,
        ..
    } = progress;
    let archived = last_archived.as_ref().map(|(_, time)| time);
    let fails = last_failure
        .as_ref()
        .filter(|(_, _, time)| archived < Some(time))
        .map(|(name, why, _)| (name, why));
    let mut hasher = DefaultHasher::new();
    (fails, archived.is_some(), streaming, generation).hash(&mut hasher);
    (trouble, not_configured).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

pub(super) fn report(parts: Parts<'_>) -> InstanceReport {
    let Parts {
        settings,
        trouble,
        pod,
        found,
        not_configured,
        progress,
        histories,
        running_backup,
        bootstrap,
        now,
    } = parts;
    let mark = mark(
        &progress,
        settings.generation,
        trouble.as_deref(),
        not_configured.as_deref(),
    );
    let postgres = postgres(found, &WalCommand::of(&settings.socket), not_configured);
    let lag = match &found.server {
        Ok(answer) if archives(answer, &postgres) => behind(found, answer, &progress, now),
        _ => None,
    };
    let through = progress.reaches();
    let ArchiveProgress {
        archived,
        failed,
        last_archived,
        last_failure,
        streaming,
        best_effort,
        ..
    } = progress;
    InstanceReport {
        archive: settings.archive.clone(),
        pod_uid: pod.uid.clone(),
        sidecar_version: env!("CARGO_PKG_VERSION").to_owned(),
        configuration_generation: settings.generation,
        configuration_error: trouble,
        postgres,
        wal: WalReport {
            archived_count: archived,
            failed_count: failed,
            last_archived: last_archived.map(|(name, time)| ArchivedFile { name, time }),
            last_failure: last_failure.map(|(name, reason, time)| FailedFile {
                name,
                reason,
                time,
            }),
            ready_count: found.queue.as_ref().map(|queue| queue.names.len() as u64),
            archived_through: through.map(moment),
            lag,
            streaming: followed(streaming),
            volume: None,
            best_effort: best_effort.into_iter().map(behind_elsewhere).collect(),
            histories,
        },
        running_backup,
        mark: Some(mark),
        bootstrap,
    }
}

/// Whether this server hands its WAL to us: a standby does so only where it always archives.
fn archives(answer: &Answer, report: &PostgresReport) -> bool {
    report.archiving_off.is_none()
        && (!answer.settings.in_recovery || answer.settings.archive_mode == "always")
}

fn behind(
    found: &Found,
    answer: &Answer,
    progress: &ArchiveProgress,
    now: Timestamp,
) -> Option<Lag> {
    let position = Position {
        lsn: answer.lsn,
        timeline: answer.timeline,
        segment_size: found.control.as_ref().ok()?.segment_size,
        queue: found.queue.as_ref(),
        through: progress.through.as_ref(),
        written: progress.written.as_ref(),
        left: progress.left.as_ref(),
        last_archived: progress.last_archived.as_ref().map(|(_, time)| *time),
    };
    lag(&position, now)
}

/// In bytes, the WAL that waits to be stored; none if it can't be told. One segment and what is being written wait on every
/// server, now and then. What a dead primary left does not count: it is there at once, and Postgres doesn't keep it.
pub(super) fn waiting(
    wal: &WalReport,
    found: &Found,
    progress: &ArchiveProgress,
    now: Timestamp,
) -> Option<u64> {
    match wal.ready_count? {
        0 | 1 => Some(0),
        _ => {
            // Only where this server archives.
            wal.lag?;
            let own = ArchiveProgress {
                left: None,
                ..progress.clone()
            };
            behind(found, found.server.as_ref().ok()?, &own, now)?.bytes
        }
    }
}

fn followed(streaming: Streaming) -> Option<StreamingReport> {
    let trouble = match streaming {
        Streaming::Off => return None,
        Streaming::Follows => None,
        Streaming::Fails(why) => Some(why),
    };
    Some(StreamingReport {
        active: trouble.is_none(),
        trouble,
    })
}

fn behind_elsewhere(repository: BestEffort) -> BestEffortReport {
    BestEffortReport {
        name: repository.name,
        waiting_count: repository.waiting,
        behind_seconds: repository.behind.map(|behind| behind.as_secs()),
        trouble: repository.trouble,
    }
}

fn moment(through: Through) -> Moment {
    Moment {
        lsn: Some(through.end.to_string()),
        time: through.last_commit,
    }
}

fn postgres(found: &Found, command: &WalCommand, not_configured: Option<String>) -> PostgresReport {
    let control = found.control.as_ref().ok();
    let known = PostgresReport {
        system_identifier: control.map(|control| control.system_identifier.to_string()),
        major: control.map(|control| control.major),
        timeline: control.map(|control| control.timeline.max(control.min_recovery_timeline).0),
        last_order: found.last_order.clone(),
        volume_bytes: found.volume_bytes,
        ..PostgresReport::default()
    };
    let answer = match &found.server {
        Ok(answer) => answer,
        Err(why) => {
            return PostgresReport {
                unreachable: Some(why.clone()),
                ..known
            };
        }
    };
    let server = &answer.settings;
    let version = server.server_version_num;
    PostgresReport {
        unreachable: None,
        role: Some(if server.in_recovery {
            Role::Standby
        } else {
            Role::Primary
        }),
        system_identifier: Some(server.system_identifier.to_string()),
        version: Some(format!("{}.{}", version / 10_000, version % 10_000)),
        major: Some(version / 10_000),
        last_order: known.last_order,
        volume_bytes: known.volume_bytes,
        timeline: known.timeline.max(Some(answer.timeline.0)),
        recovery: recovery(found, answer),
        archiving_off: archiving_off(answer, command, not_configured),
        pending_restart: server.pending_restart.clone(),
    }
}

/// The server tells of its last recovery, which after a crash is another one. Where its timeline began, a promotion ended
/// one, and the history file says where for ever.
fn recovery(found: &Found, answer: &Answer) -> Option<RecoveryReport> {
    // Looked at in another moment: before a promotion it is another timeline's.
    let ended = found
        .branched
        .filter(|(timeline, _)| *timeline == answer.timeline && !answer.settings.in_recovery);
    let ended = ended.map(|(_, switch)| switch);
    let lsn = ended.or(answer.recovery.map(|recovery| recovery.lsn))?;
    Some(RecoveryReport {
        lsn: lsn.to_string(),
        time: answer.recovery.and_then(|recovery| recovery.time),
        paused: answer.recovery.is_some_and(|recovery| recovery.paused),
    })
}

/// Each thing that keeps archiving from being on, with the line that mends it.
fn archiving_off(
    answer: &Answer,
    command: &WalCommand,
    not_configured: Option<String>,
) -> Option<String> {
    let mut reasons: Vec<String> = archiving(&answer.settings, command)
        .into_iter()
        .filter(|finding| finding.verdict != Verdict::Good)
        .map(|finding| match finding.mend {
            Some(mend) => format!(
                "{}: {}, mend it with: {mend}",
                finding.subject, finding.message
            ),
            None => format!("{}: {}", finding.subject, finding.message),
        })
        .collect();
    if reasons.is_empty() {
        return None;
    }
    reasons.extend(not_configured);
    Some(reasons.join("; "))
}

#[cfg(test)]
mod tests;
