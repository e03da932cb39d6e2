//! Whether this program works, and whether archiving does.

use holdfast_protocol::control::InstanceReport;
use jiff::Timestamp;
use serde::Serialize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How often the heart beats.
const BEAT: Duration = Duration::from_secs(1);
/// An event loop that has not turned for so long hangs.
const HANGS: Duration = Duration::from_secs(10);

/// When the event loop last turned.
#[derive(Debug, Clone)]
pub struct Heartbeat(Arc<Mutex<Instant>>);

impl Default for Heartbeat {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Heartbeat {
    /// Beats for ever.
    pub async fn run(self) {
        loop {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            tokio::time::sleep(BEAT).await;
        }
    }

    /// Whether it still does.
    pub fn judge(&self) -> Result<(), String> {
        self.judge_at(Instant::now())
    }

    fn judge_at(&self, now: Instant) -> Result<(), String> {
        let beat = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let age = now.saturating_duration_since(beat);
        if age > HANGS {
            return Err(format!("the event loop has not turned for {age:.0?}"));
        }
        Ok(())
    }
}

/// How archiving is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Readiness {
    /// Whether there is nothing to complain of.
    pub ready: bool,
    /// What there is, a sentence each.
    pub problems: Vec<String>,
    /// When the store last confirmed a WAL file; none since the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_archived_time: Option<Timestamp>,
    /// Files that wait to be archived.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_files: Option<u64>,
}

/// What a report says of it. Pure.
pub(super) fn readiness(report: &InstanceReport) -> Readiness {
    let mut problems = Vec::new();
    if let Some(why) = &report.postgres.unreachable {
        problems.push(format!("Postgres can't be asked: {why}"));
    }
    if let Some(why) = &report.postgres.archiving_off {
        problems.push(format!("archiving is not on: {why}"));
    }
    if let Some(failure) = &report.wal.last_failure {
        problems.push(format!(
            "{} is not archived: {}",
            failure.name, failure.reason
        ));
    }
    if let Some(within) = report.wal.volume.and_then(|volume| volume.full_within()) {
        problems.push(format!(
            "WAL is written faster than it is stored: the volume of pg_wal is full within {within}"
        ));
    }
    if let Some(why) = &report.configuration_error {
        problems.push(format!("new settings are not in use: {why}"));
    }
    Readiness {
        ready: problems.is_empty(),
        problems,
        last_archived_time: report.wal.last_archived.as_ref().map(|last| last.time),
        ready_files: report.wal.ready_count,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_protocol::control::{FailedFile, PostgresReport, WalReport, WalVolume};

    #[test]
    fn every_trouble_is_told() {
        let good = InstanceReport::default();
        assert!(readiness(&good).ready);
        let bad = InstanceReport {
            configuration_error: Some("one".into()),
            postgres: PostgresReport {
                unreachable: Some("two".into()),
                archiving_off: Some("three".into()),
                ..Default::default()
            },
            wal: WalReport {
                last_failure: Some(FailedFile {
                    name: "0001".into(),
                    reason: "four".into(),
                    time: Timestamp::UNIX_EPOCH,
                }),
                ready_count: Some(3),
                volume: Some(WalVolume::new(3_600_000, Some(1000))),
                ..Default::default()
            },
            ..good
        };
        let told = readiness(&bad);
        assert!(!told.ready && told.ready_files == Some(3));
        let all = told.problems.join("\n");
        for part in ["one", "two", "three", "0001", "four", "within an hour"] {
            assert!(all.contains(part), "{all}");
        }
        assert_eq!(told.problems.len(), 5);
    }

    #[tokio::test]
    async fn an_event_loop_that_stands_still_is_found() {
        let begun = Instant::now();
        let heartbeat = Heartbeat::default();
        let last = || *heartbeat.0.lock().unwrap();
        let first = last();
        assert_eq!(heartbeat.judge_at(begun + HANGS), Ok(()));
        let late = begun + HANGS * 2;
        let why = heartbeat.judge_at(late).unwrap_err();
        assert!(why.contains("has not turned for 2"), "{why}");
        tokio::spawn(heartbeat.clone().run());
        while last() == first {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(heartbeat.judge(), Ok(()));
    }
}
