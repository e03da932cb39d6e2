//! What becomes of a backup that was ordered, from what its sidecar and the repository say. Pure.

use super::phase::was_accepted;
use super::report::{Said, State, WAITING_FOR_WAL, of_facts, said, take_over};
use holdfast_protocol::status::BackupStatus;
use holdfast_repository::catalogue::LookedUp;
use jiff::{SignedDuration, Timestamp};

/// Who shows no sign of life for so long is dead: as expiry has it.
const LIFE: SignedDuration = SignedDuration::from_mins(15);
/// How long is waited for the last WAL of a backup whose sidecar is gone.
const WAL_PATIENCE: SignedDuration = SignedDuration::from_hours(1);
/// A sidecar that can't be reached for so long is looked for in the repository.
pub const SILENCE: SignedDuration = SignedDuration::from_secs(60);

/// What the sidecar answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// This.
    Status(Box<BackupStatus>),
    /// It knows no such backup: it was restarted.
    Forgotten,
    /// The pod is gone.
    PodGone,
    /// It can't be reached: why.
    Silent(String),
}

/// What the repository says, where it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// This.
    Found(LookedUp),
    /// It can't be told: why.
    Trouble(String),
}

/// What follows.
#[allow(clippy::large_enum_variant, reason = "there is one at a time")]
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// This is how it is.
    Told {
        /// Without its state.
        status: Box<BackupStatus>,
        /// Its state.
        state: State,
        /// The primary has to close its segment.
        switch: bool,
    },
    /// The repository has to be asked.
    AskRepository,
    /// The order was never taken: choose a pod again.
    OrderAgain,
}

/// Decides from what the sidecar says; `silent_since` is when it was last heard, if it is silent.
pub fn by_sidecar(
    known: &BackupStatus,
    heard: &Heard,
    silent_since: Option<Timestamp>,
    now: Timestamp,
) -> Step {
    match heard {
        Heard::Status(status) => {
            let told = take_over(known, status);
            let (state, switch) = match said(status) {
                Said::Complete => (State::Complete, false),
                Said::Failed(reason, message) => (State::Failed { reason, message }, false),
                Said::Running(Some(waits)) => {
                    // What a person would have to do is done here.
                    let what = waits.split(": ").next().unwrap_or_default();
                    let message = format!("{what}; the primary is told to close it");
                    let reason = WAITING_FOR_WAL;
                    (State::Running { reason, message }, true)
                }
                Said::Running(None) => (running("the backup runs"), false),
            };
            let status = match state {
                State::Running { .. } => told,
                _ => BackupStatus {
                    progress: None,
                    ..told
                },
            };
            Step::Told {
                status: Box::new(status),
                state,
                switch,
            }
        }
        Heard::Forgotten | Heard::PodGone => Step::AskRepository,
        Heard::Silent(why) => {
            let long = silent_since.is_some_and(|since| now.duration_since(since) >= SILENCE);
            if long {
                return Step::AskRepository;
            }
            let state = if was_accepted(known) {
                running("the backup runs")
            } else {
                State::Ordering(format!("it is being ordered; {why}"))
            };
            Step::Told {
                status: Box::new(known.clone()),
                state,
                switch: false,
            }
        }
    }
}

fn running(message: &str) -> State {
    State::Running {
        reason: "Running",
        message: message.to_owned(),
    }
}

/// Decides where the sidecar can't tell, from what the repository says.
pub fn by_repository(
    known: &BackupStatus,
    heard: &Heard,
    asked: &Asked,
    repository: &str,
    now: Timestamp,
) -> Step {
    let told = |state| Step::Told {
        status: Box::new(known.clone()),
        state,
        switch: false,
    };
    let pod = known.pod.as_deref().unwrap_or_default();
    let lost = match heard {
        Heard::PodGone => format!("the pod {pod} is gone, and the backup with it"),
        Heard::Forgotten => {
            format!("the sidecar of {pod} was restarted, and the backup ended with it")
        }
        Heard::Silent(why) => format!("the sidecar of {pod} is lost: {why}"),
        Heard::Status(_) => format!("the sidecar of {pod} is lost"),
    };
    let failed = |message: String| {
        told(State::Failed {
            reason: "SidecarLost".to_owned(),
            message,
        })
    };
    let is_silent = matches!(heard, Heard::Silent(_));
    match asked {
        Asked::Trouble(why) => told(State::Unknown {
            reason: "StoreUnreachable",
            message: format!("{lost}; whether it was stored before can't be told: {why}"),
        }),
        Asked::Found(LookedUp::Stored { facts, missing }) => {
            let status = of_facts(known, facts, repository);
            let waited = now.duration_since(facts.stop_time);
            let (state, switch) = match missing {
                None => (State::Complete, false),
                Some(segment) if waited < WAL_PATIENCE => {
                    let message = format!(
                        "waiting for WAL segment {segment} to be archived; the primary is told to close it"
                    );
                    let reason = WAITING_FOR_WAL;
                    (State::Running { reason, message }, true)
                }
                Some(segment) => {
                    let reason = "WalMissing".to_owned();
                    let message = format!(
                        "it is stored, but WAL segment {segment} that it needs was not archived: see the Archive's condition Archiving for why"
                    );
                    (State::Failed { reason, message }, false)
                }
            };
            Step::Told {
                status: Box::new(status),
                state,
                switch,
            }
        }
        Asked::Found(LookedUp::Begun { last_sign })
            if is_silent && now.duration_since(*last_sign) < LIFE =>
        {
            told(running(&format!(
                "the sidecar of {pod} can't be reached, and goes on writing the backup"
            )))
        }
        Asked::Found(LookedUp::Nothing) if !was_accepted(known) => Step::OrderAgain,
        Asked::Found(LookedUp::Nothing | LookedUp::Begun { .. } | LookedUp::GivenUp) => {
            failed(lost)
        }
        Asked::Found(LookedUp::Unreadable(why)) => told(State::Failed {
            reason: "Damaged".to_owned(),
            message: why.clone(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_repository::facts::BackupFacts;
    use serde_json::{Value, json};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    const NOW: &str = "2026-11-20T12:00:00Z";

    fn known(accepted: bool) -> BackupStatus {
        let started = if accepted { "True" } else { "False" };
        serde_json::from_value(json!({"id": "u", "pod": "orders-0", "conditions": [
            {"type": "Started", "status": started, "reason": "X", "message": "", "lastTransitionTime": NOW}]}))
        .unwrap()
    }

    fn answers(conditions: Value) -> Heard {
        let status = json!({"id": "u", "type": "Full", "progress": {"bytesDone": 5, "bytesTotal": 10, "percent": 50},
            "conditions": conditions});
        Heard::Status(Box::new(serde_json::from_value(status).unwrap()))
    }

    fn word(step: &Step) -> String {
        match step {
            Step::AskRepository => "ask".to_owned(),
            Step::OrderAgain => "again".to_owned(),
            Step::Told { state, switch, .. } => {
                let word = match state {
                    State::Waiting { reason, .. } => format!("waiting {reason}"),
                    State::Ordering(_) => "ordering".to_owned(),
                    State::Running { reason, .. } => (*reason).to_owned(),
                    State::Unknown { reason, .. } => format!("unknown {reason}"),
                    State::Complete => "complete".to_owned(),
                    State::Failed { reason, .. } => format!("failed {reason}"),
                    State::Expired(_) => "expired".to_owned(),
                };
                if *switch {
                    format!("{word} switch")
                } else {
                    word
                }
            }
        }
    }

    #[test]
    fn a_sidecar_that_answers_is_believed() {
        let condition = |kind: &str, status: &str, reason: &str| json!([{"type": kind, "status": status, "reason": reason, "message": "m", "lastTransitionTime": NOW}]);
        for (heard, silent_since, accepted, expected) in [
            (answers(json!([])), None, true, "Running"),
            (
                answers(condition("Complete", "False", "WaitingForWal")),
                None,
                true,
                "WaitingForWal switch",
            ),
            (
                answers(condition("Complete", "True", "Stored")),
                None,
                true,
                "complete",
            ),
            (
                answers(condition("Failed", "True", "Refused")),
                None,
                true,
                "failed Refused",
            ),
            (Heard::Forgotten, None, true, "ask"),
            (Heard::PodGone, None, true, "ask"),
            (Heard::Silent("no".into()), None, true, "Running"),
            (
                Heard::Silent("no".into()),
                Some("2026-11-20T11:59:01Z"),
                true,
                "Running",
            ),
            (
                Heard::Silent("no".into()),
                Some("2026-11-20T11:59:00Z"),
                true,
                "ask",
            ),
            (Heard::Silent("no".into()), None, false, "ordering"),
        ] {
            let step = by_sidecar(&known(accepted), &heard, silent_since.map(at), at(NOW));
            assert_eq!(word(&step), expected, "{heard:?} {silent_since:?}");
            if let Step::Told { status, state, .. } = step {
                let runs =
                    matches!(state, State::Running { .. }) && matches!(heard, Heard::Status(_));
                assert_eq!(status.progress.is_some(), runs, "{expected}");
            }
        }
    }

    #[test]
    fn what_a_lost_sidecar_did_is_looked_up() {
        let facts = |stop_time: &str| {
            let mut facts = BackupFacts {
                stop_time: at(stop_time),
                ..facts()
            };
            facts.id = "u".into();
            Box::new(facts)
        };
        let segment = || Some("00000001000000000000000A".parse().unwrap());
        let stored = |stop: &str, missing: bool| LookedUp::Stored {
            facts: facts(stop),
            missing: segment().filter(|_| missing),
        };
        let begun = |sign: &str| LookedUp::Begun {
            last_sign: at(sign),
        };
        let silent = || Heard::Silent("no".into());
        for (heard, found, accepted, expected) in [
            (
                Heard::PodGone,
                stored("2026-11-20T11:30:00Z", false),
                true,
                "complete",
            ),
            (
                Heard::Forgotten,
                stored("2026-11-20T11:30:00Z", false),
                false,
                "complete",
            ),
            (
                Heard::PodGone,
                stored("2026-11-20T11:30:00Z", true),
                true,
                "WaitingForWal switch",
            ),
            (
                Heard::PodGone,
                stored("2026-11-20T10:59:00Z", true),
                true,
                "failed WalMissing",
            ),
            (
                Heard::PodGone,
                begun("2026-11-20T11:59:59Z"),
                true,
                "failed SidecarLost",
            ),
            (
                Heard::Forgotten,
                begun("2026-11-20T11:59:59Z"),
                false,
                "failed SidecarLost",
            ),
            (silent(), begun("2026-11-20T11:46:00Z"), true, "Running"),
            (
                silent(),
                begun("2026-11-20T11:45:00Z"),
                true,
                "failed SidecarLost",
            ),
            (
                Heard::PodGone,
                LookedUp::Nothing,
                true,
                "failed SidecarLost",
            ),
            // Nobody has begun it: another pod may.
            (Heard::PodGone, LookedUp::Nothing, false, "again"),
            (Heard::Forgotten, LookedUp::Nothing, false, "again"),
            (silent(), LookedUp::Nothing, false, "again"),
            (
                Heard::PodGone,
                LookedUp::GivenUp,
                true,
                "failed SidecarLost",
            ),
            (
                Heard::PodGone,
                LookedUp::Unreadable("bad".into()),
                true,
                "failed Damaged",
            ),
        ] {
            let asked = Asked::Found(found);
            let step = by_repository(&known(accepted), &heard, &asked, "s3", at(NOW));
            assert_eq!(word(&step), expected, "{heard:?} {asked:?}");
            if let (Step::Told { status, .. }, Asked::Found(LookedUp::Stored { .. })) =
                (&step, &asked)
            {
                assert_eq!(status.pod.as_deref(), Some("orders-0"));
                assert_eq!(status.repositories[0].name, "s3");
            }
        }
        let trouble = Asked::Trouble("away".into());
        let step = by_repository(&known(true), &Heard::PodGone, &trouble, "s3", at(NOW));
        assert_eq!(word(&step), "unknown StoreUnreachable");
    }

    fn facts() -> BackupFacts {
        use holdfast_postgres::{Lsn, SegmentSize, SystemIdentifier, TimelineId};
        BackupFacts {
            id: String::new(),
            system: SystemIdentifier(7),
            timeline: TimelineId(1),
            start: Lsn(40),
            stop: Lsn(100),
            start_time: Timestamp::UNIX_EPOCH,
            stop_time: Timestamp::UNIX_EPOCH,
            postgres_major: 17,
            segment_size: SegmentSize::DEFAULT,
            from_standby: false,
            database_bytes: 1,
            stored_bytes: 1,
            files: 1,
            data_checksums: true,
            page_errors: 0,
            tablespaces: Vec::new(),
            settings: Default::default(),
            outside: Vec::new(),
            reference: None,
            changed_bytes: 0,
        }
    }
}
