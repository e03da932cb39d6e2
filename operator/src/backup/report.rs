//! A Backup's status, from what the sidecar says and from what is stored. Pure.

use super::phase::{COMPLETE, FAILED, KEPT, STARTED};
use crate::conditions::{Finding, find, settle};
use crate::text;
use holdfast_crds::limits;
use holdfast_protocol::status::{
    BackupRepository, BackupSize, BackupStatus, Condition, ConditionStatus,
};
use holdfast_repository::facts::BackupFacts;
use jiff::Timestamp;
use std::collections::BTreeSet;

/// The reason of the condition Complete while a backup is stored and its last WAL is not: as sidecars have it.
pub const WAITING_FOR_WAL: &str = "WaitingForWal";

/// What a sidecar says of a backup, in its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It runs. With what its last WAL waits for, if it does.
    Running(Option<String>),
    /// It is complete.
    Complete,
    /// It has failed: reason and message.
    Failed(String, String),
}

/// What a sidecar's status of a backup comes to.
pub fn said(status: &BackupStatus) -> Said {
    let of = |kind, value| {
        find(&status.conditions, kind).filter(|condition: &&Condition| condition.status == value)
    };
    if let Some(failed) = of(FAILED, ConditionStatus::True) {
        return Said::Failed(word(&failed.reason), text::line(&failed.message));
    }
    if of(COMPLETE, ConditionStatus::True).is_some() {
        return Said::Complete;
    }
    let waiting = of(COMPLETE, ConditionStatus::False).filter(|c| c.reason == WAITING_FOR_WAL);
    Said::Running(waiting.map(|c| text::line(&c.message)))
}

/// A reason has to be a word; who says another is not quoted.
fn word(reason: &str) -> String {
    let good = (1..=64).contains(&reason.len())
        && reason.bytes().all(|b| b.is_ascii_alphanumeric())
        && reason.starts_with(|c: char| c.is_ascii_alphabetic());
    if good { reason } else { "Failed" }.to_owned()
}

/// Takes over what a sidecar says of a backup, but its state.
pub fn take_over(known: &BackupStatus, said: &BackupStatus) -> BackupStatus {
    let mut status = BackupStatus {
        id: known.id.clone(),
        pod: known.pod.clone(),
        conditions: known.conditions.clone(),
        verification_time: known.verification_time,
        ..said.clone()
    };
    status.bad_pages.truncate(limits::BAD_PAGES);
    for page in &mut status.bad_pages {
        page.file = text::line(&page.file);
        page.reason = text::line(&page.reason);
    }
    // The API server refuses a whole status with one name twice.
    let mut names = BTreeSet::new();
    let first = |repository: &BackupRepository| names.insert(repository.name.clone());
    status.repositories = status.repositories.into_iter().filter(first).collect();
    status.repositories.truncate(limits::REPOSITORIES);
    for repository in &mut status.repositories {
        repository.name = text::line(&repository.name);
        let mut kinds = BTreeSet::new();
        let first = |condition: &Condition| kinds.insert(condition.r#type.clone());
        repository.conditions.retain(first);
        repository.conditions.truncate(limits::CONDITIONS);
        for condition in &mut repository.conditions {
            condition.reason = word(&condition.reason);
            condition.r#type = word(&condition.r#type);
            condition.message = text::line(&condition.message);
            condition.last_transition_time = whole(condition.last_transition_time);
            condition.observed_generation = None;
        }
    }
    status
}

/// The API server keeps whole seconds of conditions.
fn whole(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// The figures of a backup that is stored.
pub fn of_facts(known: &BackupStatus, facts: &BackupFacts, repository: &str) -> BackupStatus {
    BackupStatus {
        id: facts.id.clone(),
        pod: known.pod.clone(),
        r#type: facts.kind().to_owned(),
        progress: None,
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
        bad_pages: known.bad_pages.clone(),
        repositories: vec![BackupRepository {
            name: repository.to_owned(),
            stored_bytes: facts.stored_bytes,
            conditions: Vec::new(),
        }],
        verification_time: known.verification_time,
        conditions: known.conditions.clone(),
    }
}

/// The state of a Backup, as its conditions will say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Nothing was ordered: why.
    Waiting {
        /// One word.
        reason: &'static str,
        /// One sentence.
        message: String,
        /// Somebody has to do something.
        bad: bool,
    },
    /// It is about to be ordered, or was and nobody knows.
    Ordering(String),
    /// It runs.
    Running {
        /// One word.
        reason: &'static str,
        /// One sentence.
        message: String,
    },
    /// It ran, and what became of it can't be told.
    Unknown {
        /// One word.
        reason: &'static str,
        /// One sentence.
        message: String,
    },
    /// It is stored, with all its WAL.
    Complete,
    /// It is none.
    Failed {
        /// One word.
        reason: String,
        /// One sentence.
        message: String,
    },
    /// It was complete, and is gone.
    Expired(String),
}

/// Writes a state, and that the backup is `kept` for ever, into a status. Returns what is news.
pub fn settle_into(
    status: &mut BackupStatus,
    state: &State,
    kept: bool,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Finding> {
    let not = |reason: &'static str, message: &str| Finding::pending(COMPLETE, reason, message);
    let started = || Finding::good(STARTED, "Started", "the sidecar has taken the order");
    let before = |kind| Finding::as_before(kind, &status.conditions);
    let mut findings = match state {
        State::Waiting {
            reason,
            message,
            bad,
        } => {
            let finding = if *bad {
                Finding::bad(STARTED, reason, message)
            } else {
                Finding::pending(STARTED, reason, message)
            };
            vec![finding, not("NotStarted", "it has not begun")]
        }
        State::Ordering(message) => vec![
            Finding::pending(STARTED, "Ordering", message),
            not("NotStarted", "it has not begun"),
        ],
        State::Running { reason, message } => vec![started(), not(reason, message)],
        State::Unknown { reason, message } => vec![
            before(STARTED).unwrap_or_else(started),
            Finding::unknown(COMPLETE, reason, message),
        ],
        State::Complete => {
            let stored = "the manifest and all WAL from start to stop are in the repository";
            vec![
                before(STARTED)
                    .filter(|finding| finding.status == ConditionStatus::True)
                    .unwrap_or_else(|| Finding::good(STARTED, "Started", "")),
                Finding::good(COMPLETE, "Stored", stored),
            ]
        }
        State::Failed { reason, message } => {
            let failed = Finding {
                reason: reason.clone().into(),
                ..Finding::failed(FAILED, "Failed", message)
            };
            let mut findings: Vec<Finding> = before(STARTED).into_iter().collect();
            findings.push(not("Failed", "it has failed"));
            findings.push(failed);
            findings
        }
        State::Expired(message) => {
            let mut findings: Vec<Finding> = before(STARTED).into_iter().collect();
            findings.push(not(super::phase::EXPIRED, message));
            findings
        }
    };
    if kept {
        let message = "the repository says that it stays for ever";
        findings.push(Finding::good(KEPT, "Forever", message));
    }
    let settled = settle(&status.conditions, findings, generation, now);
    status.conditions = settled.conditions;
    // That it is complete is worth telling also where nothing stood before.
    let mut news = settled.news;
    news.retain(|finding| finding.kind != STARTED || finding.tone == crate::conditions::Tone::Bad);
    news
}

/// Whether the status says that the repository keeps it for ever.
pub fn is_kept(status: &BackupStatus) -> bool {
    find(&status.conditions, KEPT).is_some_and(|c| c.status == ConditionStatus::True)
}

#[cfg(test)]
mod tests {
    use super::super::phase::Phase;
    use super::*;
    use serde_json::json;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn what_a_sidecar_says_is_understood_and_not_believed_in_every_word() {
        let of =
            |conditions| said(&serde_json::from_value(json!({"conditions": conditions})).unwrap());
        let condition = |kind: &str, status: &str, reason: &str| {
            json!({"type": kind, "status": status, "reason": reason, "message": "why\nnot",
                "lastTransitionTime": "2026-11-20T00:00:00Z"})
        };
        for (conditions, expected) in [
            (json!([]), Said::Running(None)),
            (
                json!([condition("Started", "True", "Started")]),
                Said::Running(None),
            ),
            (
                json!([condition("Complete", "False", "Other")]),
                Said::Running(None),
            ),
            (
                json!([condition("Complete", "False", WAITING_FOR_WAL)]),
                Said::Running(Some("why not".into())),
            ),
            (
                json!([condition("Complete", "True", "Stored")]),
                Said::Complete,
            ),
            (
                json!([
                    condition("Complete", "True", "Stored"),
                    condition("Failed", "True", "Refused")
                ]),
                Said::Failed("Refused".into(), "why not".into()),
            ),
            (
                json!([condition("Failed", "True", "no\nword")]),
                Said::Failed("Failed".into(), "why not".into()),
            ),
            (
                json!([condition("Failed", "False", "X")]),
                Said::Running(None),
            ),
        ] {
            assert_eq!(of(conditions.clone()), expected, "{conditions}");
        }
        let said: BackupStatus = serde_json::from_value(json!({
            "id": "another", "pod": "another", "type": "Full", "startLsn": "0/28",
            "repositories": [{"name": "s3", "storedBytes": 1}, {"name": "s3", "storedBytes": 2}],
            "badPages": (0..500).map(|n| json!({"file": format!("f{n}\n"), "block": n, "reason": "x"})).collect::<Vec<_>>(),
        }))
        .unwrap();
        let known = BackupStatus {
            id: "u".into(),
            pod: Some("orders-0".into()),
            ..BackupStatus::default()
        };
        let taken = take_over(&known, &said);
        assert_eq!(
            (taken.id.as_str(), taken.pod.as_deref()),
            ("u", Some("orders-0"))
        );
        assert_eq!(taken.start_lsn.as_deref(), Some("0/28"));
        assert_eq!(taken.repositories.len(), 1);
        assert_eq!(
            (taken.bad_pages.len(), taken.bad_pages[0].file.as_str()),
            (100, "f0")
        );
    }

    #[test]
    fn a_state_is_a_phase_and_conditions_for_kubectl_wait() {
        let mut status = BackupStatus::default();
        let mut story = Vec::new();
        for (pod, state, phase, news) in [
            (
                None,
                State::Waiting {
                    reason: "NoPod",
                    message: "m".into(),
                    bad: false,
                },
                Phase::Waiting,
                "",
            ),
            (Some("p"), State::Ordering("m".into()), Phase::Ordered, ""),
            (
                Some("p"),
                State::Running {
                    reason: "Running",
                    message: "m".into(),
                },
                Phase::Ordered,
                "",
            ),
            (
                Some("p"),
                State::Unknown {
                    reason: "StoreUnreachable",
                    message: "m".into(),
                },
                Phase::Ordered,
                "",
            ),
            (Some("p"), State::Complete, Phase::Complete, "Stored"),
            (Some("p"), State::Expired("m".into()), Phase::Expired, ""),
        ] {
            status.pod = pod.map(str::to_owned);
            let told = settle_into(
                &mut status,
                &state,
                false,
                Some(1),
                at("2026-11-20T10:00:00.5Z"),
            );
            assert_eq!(Phase::of(Some(&status)), phase, "{state:?}");
            let told: Vec<_> = told.iter().map(|finding| finding.reason.as_ref()).collect();
            assert_eq!(told.join(" "), news, "{state:?}");
            let conditions = status.conditions.iter();
            story.push(
                conditions
                    .map(|c| format!("{}={:?}", c.r#type, c.status))
                    .collect::<Vec<_>>()
                    .join(" "),
            );
        }
        assert_eq!(
            story,
            [
                "Started=False Complete=False",
                "Started=False Complete=False",
                "Started=True Complete=False",
                "Started=True Complete=Unknown",
                "Started=True Complete=True",
                "Started=True Complete=False",
            ]
        );
        let failed = State::Failed {
            reason: "SidecarLost".into(),
            message: "m".into(),
        };
        let news = settle_into(
            &mut status,
            &failed,
            true,
            Some(1),
            at("2026-11-20T10:00:00Z"),
        );
        assert_eq!(news.len(), 1);
        assert_eq!(Phase::of(Some(&status)), Phase::Failed);
        assert!(is_kept(&status));
        // Nothing is news twice.
        assert!(
            settle_into(
                &mut status,
                &failed,
                true,
                Some(1),
                at("2026-11-20T11:00:00Z")
            )
            .is_empty()
        );
    }
}
