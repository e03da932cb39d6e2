//! What sidecars said last, and when each is asked again: at ease as a rule, closely while something is on its way,
//! less and less often while it does not answer.

use super::member::Member;
use crate::names::Key;
use crate::sidecar_client::{Sidecar, SidecarClient};
use holdfast_protocol::control::InstanceReport;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
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
/// News is looked at no more often than this, and less and less often where it comes early time and again.
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
    /// The number of the wait for its news, while there is one.
    waited_for: Option<u64>,
    /// How many waits in a row have ended early.
    early: u32,
    /// Its news, which nobody has looked at yet.
    news: Option<Arc<InstanceReport>>,
}

/// A sidecar whose news is to be waited for.
#[derive(Debug)]
pub struct Wait {
    /// It.
    pub sidecar: Sidecar,
    /// Of what it said last.
    pub mark: String,
    /// No other wait has it: what came of one that nobody counts on any more is no news.
    number: u64,
    begun: Instant,
}

/// What sidecars said last, by archive and pod.
#[derive(Debug, Default)]
pub struct Reports {
    archives: Mutex<HashMap<Key, HashMap<String, Entry>>>,
    /// How many waits there have been.
    waits: AtomicU64,
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
    ) -> (Duration, Vec<Wait>) {
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
        let mut waits = Vec::new();
        let now = Instant::now();
        let mut archives = self.lock();
        let pods = archives.entry(archive.clone()).or_default();
        for (sidecar, answer) in answers {
            let uid = sidecar.pod_uid.clone();
            let before = pods.get(&uid);
            let mut waited_for = before.and_then(|entry| entry.waited_for);
            let early = before.map_or(0, |entry| entry.early);
            let entry = match answer {
                Ok(report) => {
                    let mark = mark_to_wait_for(&report, everybody);
                    if let Some(mark) = mark.filter(|_| waited_for.is_none()) {
                        let number = self.waits.fetch_add(1, Ordering::Relaxed);
                        waited_for = Some(number);
                        waits.push(Wait {
                            sidecar,
                            mark,
                            number,
                            begun: now,
                        });
                    }
                    Entry {
                        due: now + spread(pause(&report, everybody)),
                        report: Some((report, now)),
                        trouble: None,
                        failures: 0,
                        waited_for,
                        early,
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
                        waited_for,
                        early,
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
        (next.min(EASY.max(PATIENT)), waits)
    }

    /// What became of waiting for a sidecar's news: it is looked at, but no more often than once a second, and less often where
    /// it comes early time and again. Where there is none, the sidecar is asked when it would have been.
    pub fn heard(&self, archive: &Key, wait: &Wait, news: Option<InstanceReport>) {
        let mut archives = self.lock();
        let entry = archives
            .get_mut(archive)
            .and_then(|pods| pods.get_mut(&wait.sidecar.pod_uid))
            .filter(|entry| entry.waited_for == Some(wait.number));
        if let Some(entry) = entry {
            let now = Instant::now();
            entry.waited_for = None;
            // No dearer than what is asked closely.
            let lasted = now.duration_since(wait.begun) >= CLOSE;
            entry.early = if lasted {
                0
            } else {
                entry.early.saturating_add(1)
            };
            if let Some(news) = news {
                let pause = least(entry.early);
                let last = entry.report.as_ref().map(|(_, at)| *at + pause);
                entry.due = last.map_or(now, |last| last.min(entry.due).max(now));
                // It would be old by then: the sidecar is asked again.
                entry.news = (entry.due <= now + LEAST).then(|| Arc::new(news));
            }
        }
    }

    /// Has a pod's sidecar asked at the next look: something was ordered from it, and what it has said by then is out of date.
    pub fn hurry(&self, archive: &Key, uid: &str) {
        let mut archives = self.lock();
        if let Some(entry) = archives.get_mut(archive).and_then(|pods| pods.get_mut(uid)) {
            entry.due = Instant::now();
            entry.news = None;
            entry.waited_for = None;
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

/// Before news is looked at.
fn least(early: u32) -> Duration {
    let doubled = LEAST.saturating_mul(1 << early.saturating_sub(1).min(16));
    doubled.min(EASY)
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

    fn wait(number: u64, begun: Instant) -> Wait {
        Wait {
            sidecar: Sidecar {
                archive: Key::new("shop", "orders"),
                address: std::net::Ipv4Addr::LOCALHOST.into(),
                pod_uid: "u".to_owned(),
            },
            mark: "a1".to_owned(),
            number,
            begun,
        }
    }

    /// Somebody who was asked now, and is waited for.
    fn waited_for(number: u64, now: Instant) -> (Reports, Key) {
        let (reports, archive) = (Reports::default(), Key::new("shop", "orders"));
        let entry = Entry {
            report: Some((Arc::default(), now)),
            trouble: None,
            failures: 0,
            due: now + EASY,
            waited_for: Some(number),
            early: 0,
            news: None,
        };
        let pods = HashMap::from([("u".to_owned(), entry)]);
        reports.lock().insert(archive.clone(), pods);
        (reports, archive)
    }

    fn entry(reports: &Reports, archive: &Key) -> Entry {
        reports.lock()[archive]["u"].clone()
    }

    fn news() -> Option<InstanceReport> {
        Some(InstanceReport::default())
    }

    #[test]
    fn news_is_looked_at_once_a_second_and_none_changes_nothing() {
        let now = Instant::now();
        let (reports, archive) = waited_for(1, now);
        let seen = || {
            let entry = entry(&reports, &archive);
            (entry.waited_for, entry.news.is_some(), entry.due)
        };
        // Of another wait.
        reports.heard(&archive, &wait(0, now), news());
        assert_eq!(seen(), (Some(1), false, now + EASY));
        reports.heard(&archive, &wait(1, now), None);
        assert_eq!(seen(), (None, false, now + EASY));
        reports.heard(&archive, &wait(1, now), news());
        assert_eq!(seen(), (None, false, now + EASY));
        let (reports, archive) = waited_for(1, now);
        reports.heard(&archive, &wait(1, now), news());
        let seen = entry(&reports, &archive);
        assert_eq!((seen.news.is_some(), seen.due), (true, now + LEAST));
        // An archive that is gone.
        reports.heard(&Key::new("shop", "gone"), &wait(1, now), news());
    }

    #[test]
    fn what_was_said_before_an_order_is_no_news() {
        let now = Instant::now();
        let (reports, archive) = waited_for(1, now);
        reports.hurry(&archive, "u");
        reports.heard(&archive, &wait(1, now), news());
        assert!(entry(&reports, &archive).news.is_none());
        let (reports, archive) = waited_for(1, now);
        reports.heard(&archive, &wait(1, now), news());
        reports.hurry(&archive, "u");
        let seen = entry(&reports, &archive);
        assert!(seen.news.is_none() && seen.due <= Instant::now());
    }

    #[test]
    fn who_has_news_time_and_again_is_looked_at_less_and_less_often() {
        let pauses: Vec<u64> = [0, 1, 2, 3, 4, 5, 99].map(|n| least(n).as_secs()).into();
        assert_eq!(pauses, [1, 1, 2, 4, 8, 15, 15]);
        let now = Instant::now();
        let (reports, archive) = waited_for(0, now);
        for early in 1..=3 {
            reports.heard(&archive, &wait(0, now), news());
            let mut archives = reports.lock();
            let seen = archives.get_mut(&archive).unwrap().get_mut("u").unwrap();
            assert_eq!((seen.early, seen.due), (early, now + least(early)));
            // It is asked anew, and not told what is old.
            assert_eq!(seen.news.is_some(), early == 1);
            // Looked at.
            (seen.waited_for, seen.due) = (Some(0), now + EASY);
        }
        let begun = now.checked_sub(CLOSE).unwrap();
        reports.heard(&archive, &wait(0, begun), news());
        let seen = entry(&reports, &archive);
        assert_eq!((seen.early, seen.due), (0, now + LEAST));
    }

    #[test]
    fn one_lost_answer_is_no_news() {
        let begin = Instant::now();
        let entry = |trouble: Option<&str>| Entry {
            report: Some((Arc::default(), begin)),
            trouble: trouble.map(str::to_owned),
            failures: 1,
            due: begin,
            waited_for: None,
            early: 0,
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
