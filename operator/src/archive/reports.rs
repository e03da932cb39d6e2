//! What sidecars said last, and when each is asked again: at ease as a rule, closely while something is on its way,
//! less and less often while it does not answer.

use super::member::Member;
use crate::names::Key;
use crate::sidecar_client::{Sidecar, SidecarClient};
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
/// Of no more sidecars than this is news waited for: each costs a connection.
const MOST_WAITED_FOR: usize = 500;
/// News is looked at no more often than this.
const LEAST: Duration = Duration::from_secs(1);
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
    /// Whether it is being asked for news, and has not answered yet.
    is_waited_for: bool,
    /// Its news, which nobody has looked at yet.
    news: Option<Arc<InstanceReport>>,
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
    /// said is forgotten. `everybody` is how many pods there are in all. Those who are to be waited for are told.
    pub async fn ask(
        &self,
        client: &SidecarClient,
        archive: &Key,
        members: &mut [Member],
        everybody: usize,
    ) -> (Duration, Vec<(Sidecar, String)>) {
        let now = Instant::now();
        let due: Vec<(Sidecar, Option<Arc<InstanceReport>>)> = {
            let mut archives = self.lock();
            if members.is_empty() {
                archives.remove(archive);
                return (EASY, Vec::new());
            }
            let pods = archives.entry(archive.clone()).or_default();
            pods.retain(|uid, _| members.iter().any(|member| member.uid == *uid));
            let mut due = Vec::new();
            for member in members.iter().filter(|member| member.counts()) {
                let entry = pods.get_mut(&member.uid);
                if entry.as_ref().is_some_and(|entry| now < entry.due) {
                    continue;
                }
                let news = entry.and_then(|entry| entry.news.take());
                due.extend(member.sidecar().map(|sidecar| (sidecar, news)));
            }
            due
        };
        let answers = futures::future::join_all(due.into_iter().map(|(sidecar, news)| async {
            let answer = match news {
                Some(news) => Ok(news),
                None => client.status(&sidecar).await.map(Arc::new),
            };
            (sidecar, answer)
        }))
        .await;
        let mut waited_for = Vec::new();
        let now = Instant::now();
        let mut archives = self.lock();
        let pods = archives.entry(archive.clone()).or_default();
        for (sidecar, answer) in answers {
            let uid = sidecar.pod_uid.clone();
            let before = pods.get(&uid);
            let is_waited_for = before.is_some_and(|entry| entry.is_waited_for);
            let entry = match answer {
                Ok(report) => {
                    let mark = mark_to_wait_for(&report, everybody).filter(|_| !is_waited_for);
                    let is_waited_for = is_waited_for || mark.is_some();
                    waited_for.extend(mark.map(|mark| (sidecar, mark)));
                    Entry {
                        due: now + spread(pause(&report, everybody)),
                        report: Some((report, now)),
                        trouble: None,
                        failures: 0,
                        is_waited_for,
                        news: None,
                    }
                }
                Err(error) => {
                    let failures = before.map_or(0, |entry| entry.failures).saturating_add(1);
                    Entry {
                        report: before.and_then(|entry| entry.report.clone()),
                        trouble: Some(error.to_string()),
                        failures,
                        due: now + spread(retry(failures)),
                        is_waited_for,
                        news: None,
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
        let next = next.map_or(EASY, |next| next.saturating_duration_since(now));
        (next.min(EASY.max(PATIENT)), waited_for)
    }

    /// What became of waiting for a sidecar's news: it is looked at, but no more often than once a second. Where there is none,
    /// the sidecar is asked when it would have been.
    pub fn heard(&self, archive: &Key, uid: &str, news: Option<InstanceReport>) {
        let mut archives = self.lock();
        if let Some(entry) = archives.get_mut(archive).and_then(|pods| pods.get_mut(uid)) {
            entry.is_waited_for = false;
            if let Some(news) = news {
                let last = entry.report.as_ref().map(|(_, at)| *at + LEAST);
                entry.news = Some(Arc::new(news));
                entry.due = last.map_or_else(Instant::now, |last| last.max(Instant::now()));
            }
        }
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

/// Its mark, if it is at ease and there are few enough.
fn mark_to_wait_for(report: &InstanceReport, everybody: usize) -> Option<String> {
    let may_be = everybody <= MOST_WAITED_FOR && pause(report, everybody) == EASY;
    report.mark.clone().filter(|_| may_be)
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
    fn news_is_waited_for_from_few_who_are_at_ease() {
        let report = |value| serde_json::from_value::<InstanceReport>(value).unwrap();
        let easy = json!({"postgres": {"role": "Primary"}, "mark": "a1"});
        for (value, everybody, expected) in [
            (easy.clone(), 1, Some("a1")),
            (easy.clone(), 500, Some("a1")),
            (easy, 501, None),
            (json!({"mark": "a1"}), 1, None),
            // An older one.
            (json!({"postgres": {"role": "Primary"}}), 1, None),
        ] {
            let mark = mark_to_wait_for(&report(value.clone()), everybody);
            assert_eq!(mark.as_deref(), expected, "{value} {everybody}");
        }
    }

    #[test]
    fn news_is_looked_at_once_a_second_and_none_changes_nothing() {
        let (reports, archive) = (Reports::default(), Key::new("shop", "orders"));
        let now = Instant::now();
        let entry = Entry {
            report: Some((Arc::default(), now)),
            trouble: None,
            failures: 0,
            due: now + EASY,
            is_waited_for: true,
            news: None,
        };
        let pods = HashMap::from([("u".to_owned(), entry)]);
        reports.lock().insert(archive.clone(), pods);
        let seen = || {
            let archives = reports.lock();
            let entry = &archives[&archive]["u"];
            (entry.is_waited_for, entry.news.is_some(), entry.due)
        };
        reports.heard(&archive, "u", None);
        assert_eq!(seen(), (false, false, now + EASY));
        reports.heard(&archive, "u", Some(InstanceReport::default()));
        assert_eq!(seen(), (false, true, now + LEAST));
        // A pod that is gone.
        reports.heard(&archive, "v", Some(InstanceReport::default()));
        reports.heard(&Key::new("shop", "gone"), "u", None);
    }

    #[test]
    fn one_lost_answer_is_no_news() {
        let begin = Instant::now();
        let entry = |trouble: Option<&str>| Entry {
            report: Some((Arc::default(), begin)),
            trouble: trouble.map(str::to_owned),
            failures: 1,
            due: begin,
            is_waited_for: false,
            news: None,
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
