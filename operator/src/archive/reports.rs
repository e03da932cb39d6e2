//! What sidecars said last, and when each is asked again: at ease as a rule, closely while something is on its way,
//! less and less often while it does not answer.

use super::member::Member;
use crate::names::Key;
use crate::sidecar_client::SidecarClient;
use holdfast_protocol::control::InstanceReport;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// At ease.
const EASY: Duration = Duration::from_secs(15);
/// While a backup or a restore runs, or a server starts.
const CLOSE: Duration = Duration::from_secs(3);
/// While it does not answer, at most.
const PATIENT: Duration = Duration::from_secs(60);
/// Requests a second to all sidecars together, when all are at ease.
const MOST_A_SECOND: u32 = 100;
/// One lost answer is no news: so long what was said before counts.
const COUNTS: Duration = Duration::from_secs(60);

/// What a sidecar said last.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Said {
    /// It was not asked yet.
    #[default]
    Nothing,
    /// This, within the last minute.
    Report(Arc<InstanceReport>),
    /// It did not answer: why.
    Silent(String),
}

#[derive(Debug, Clone)]
struct Entry {
    report: Option<(Arc<InstanceReport>, Instant)>,
    trouble: Option<String>,
    failures: u32,
    due: Instant,
}

/// What sidecars said last, by archive and pod.
#[derive(Debug, Default)]
pub struct Reports {
    archives: Mutex<HashMap<Key, HashMap<String, Entry>>>,
}

impl Reports {
    /// What the sidecar of a pod said last.
    pub fn said(&self, archive: &Key, uid: &str) -> Said {
        let archives = self.lock();
        match archives.get(archive).and_then(|pods| pods.get(uid)) {
            Some(entry) => said(entry, Instant::now()),
            None => Said::Nothing,
        }
    }

    /// Asks those whose turn it is, all at once, and returns how long nobody need be asked. What pods that are gone
    /// said is forgotten. `everybody` is how many pods there are in all.
    pub async fn ask(
        &self,
        client: &SidecarClient,
        archive: &Key,
        members: &mut [Member],
        everybody: usize,
    ) -> Duration {
        let now = Instant::now();
        let due: Vec<_> = {
            let mut archives = self.lock();
            if members.is_empty() {
                archives.remove(archive);
                return EASY;
            }
            let pods = archives.entry(archive.clone()).or_default();
            pods.retain(|uid, _| members.iter().any(|member| member.uid == *uid));
            let is_due = |uid: &str| pods.get(uid).is_none_or(|entry| now >= entry.due);
            members
                .iter()
                .filter(|member| member.counts() && is_due(&member.uid))
                .filter_map(|member| member.sidecar())
                .collect()
        };
        let answers =
            futures::future::join_all(due.iter().map(|sidecar| async move {
                (sidecar.pod_uid.clone(), client.status(sidecar).await)
            }))
            .await;
        let now = Instant::now();
        let mut archives = self.lock();
        let pods = archives.entry(archive.clone()).or_default();
        for (uid, answer) in answers {
            let before = pods.get(&uid);
            let entry = match answer {
                Ok(report) => Entry {
                    due: now + spread(pause(&report, everybody)),
                    report: Some((Arc::new(report), now)),
                    trouble: None,
                    failures: 0,
                },
                Err(error) => {
                    let failures = before.map_or(0, |entry| entry.failures).saturating_add(1);
                    Entry {
                        report: before.and_then(|entry| entry.report.clone()),
                        trouble: Some(error.to_string()),
                        failures,
                        due: now + spread(retry(failures)),
                    }
                }
            };
            pods.insert(uid, entry);
        }
        for member in members.iter_mut() {
            if let Some(entry) = pods.get(&member.uid) {
                member.said = said(entry, now);
            }
        }
        let next = pods.values().map(|entry| entry.due).min();
        next.map_or(EASY, |next| next.saturating_duration_since(now))
            .min(EASY.max(PATIENT))
    }

    /// Has a pod's sidecar asked at the next look: something was ordered from it.
    pub fn hurry(&self, archive: &Key, uid: &str) {
        let mut archives = self.lock();
        if let Some(entry) = archives.get_mut(archive).and_then(|pods| pods.get_mut(uid)) {
            entry.due = Instant::now();
        }
    }

    /// Forgets an archive that is gone.
    pub fn forget(&self, archive: &Key) {
        self.lock().remove(archive);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, HashMap<String, Entry>>> {
        // Entries are whole or not there.
        self.archives.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn said(entry: &Entry, now: Instant) -> Said {
    match (&entry.report, &entry.trouble) {
        (Some((report, _)), None) => Said::Report(report.clone()),
        (Some((report, at)), Some(_)) if now.duration_since(*at) < COUNTS => {
            Said::Report(report.clone())
        }
        (_, Some(trouble)) => Said::Silent(trouble.clone()),
        (None, None) => Said::Nothing,
    }
}

fn pause(report: &InstanceReport, everybody: usize) -> Duration {
    let starts = report.postgres.unreachable.is_some() || report.postgres.role.is_none();
    if report.running_backup.is_some() || report.bootstrap.is_some() || starts {
        CLOSE
    } else {
        let everybody = u32::try_from(everybody).unwrap_or(u32::MAX);
        EASY.max(Duration::from_secs(1).mul_f64(f64::from(everybody) / f64::from(MOST_A_SECOND)))
    }
}

fn retry(failures: u32) -> Duration {
    let doubled = CLOSE.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(PATIENT)
}

/// So that thousands are not asked in the same moment.
fn spread(duration: Duration) -> Duration {
    duration.mul_f64(0.9 + crate::controller::jitter() / 5.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn closely_while_something_is_on_its_way_and_never_too_many_at_once() {
        let report = |value| serde_json::from_value::<InstanceReport>(value).unwrap();
        let easy = || json!({"postgres": {"role": "Primary"}});
        let mut running = easy();
        running["runningBackup"] = "b".into();
        for (value, everybody, seconds) in [
            (easy(), 1, 15),
            (easy(), 1500, 15),
            (easy(), 3000, 30),
            (running, 3000, 3),
            (json!({}), 1, 3),
            (
                json!({"postgres": {"role": "Primary", "unreachable": "starts"}}),
                1,
                3,
            ),
        ] {
            assert_eq!(
                pause(&report(value.clone()), everybody).as_secs(),
                seconds,
                "{value}"
            );
        }
        let retries: Vec<u64> = [1, 2, 3, 4, 5, 6, 99].map(|n| retry(n).as_secs()).into();
        assert_eq!(retries, [3, 6, 12, 24, 48, 60, 60]);
    }

    #[test]
    fn one_lost_answer_is_no_news() {
        let begin = Instant::now();
        let entry = |trouble: Option<&str>| Entry {
            report: Some((Arc::default(), begin)),
            trouble: trouble.map(str::to_owned),
            failures: 1,
            due: begin,
        };
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert!(matches!(
            said(&entry(Some("gone")), at(59)),
            Said::Report(_)
        ));
        assert_eq!(
            said(&entry(Some("gone")), at(60)),
            Said::Silent("gone".into())
        );
        assert!(matches!(said(&entry(None), at(600)), Said::Report(_)));
        let never = Entry {
            report: None,
            ..entry(Some("gone"))
        };
        assert_eq!(said(&never, begin), Said::Silent("gone".into()));
    }
}
