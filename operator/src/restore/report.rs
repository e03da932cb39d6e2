//! From what is known of a restore to its status. Pure.

use super::phase::{CHECKED, COMPLETE, FAILED, RESTORED, STARTED};
use crate::conditions::{Finding, Tone, find, settle};
use holdfast_protocol::status::{ConditionStatus, RestoreStatus, is_true};
use jiff::Timestamp;

/// The state of a Restore, as its conditions will say it. Messages are one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It can't be carried out yet.
    Waiting {
        /// One word.
        reason: &'static str,
        /// Why.
        message: String,
        /// Whether somebody has to do something, or it can't be told, or passes by itself.
        tone: Waits,
    },
    /// It won't be carried out. Nothing was touched.
    Refused {
        /// One word.
        reason: &'static str,
        /// Why.
        message: String,
    },
    /// It is planned, and `suspend` holds it there.
    Suspended,
    /// It is ordered, and nothing is written yet.
    Ordered {
        /// One word.
        reason: &'static str,
        /// What is waited for.
        message: String,
    },
    /// The data directory is written.
    Restoring {
        /// One word.
        reason: &'static str,
        /// What is done, or why it does not go on.
        message: String,
        /// Whether people should look.
        bad: bool,
    },
    /// The data directory is whole.
    Restored {
        /// One word.
        reason: &'static str,
        /// What is waited for.
        message: String,
    },
    /// Recovery has ended where it should.
    Complete,
    /// It has ended otherwise.
    Failed {
        /// One word.
        reason: &'static str,
        /// At which step, what state the data is in, and what to do.
        message: String,
    },
}

/// What is waited for before anything is ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    /// It passes.
    Passes,
    /// Somebody has to do something.
    Bad,
    /// Something can't be told.
    Unknown,
}

impl State {
    /// Waits for somebody who has to do something.
    pub fn bad(reason: &'static str, message: impl Into<String>) -> Self {
        Self::waiting(reason, message, Waits::Bad)
    }

    /// Whether it goes on only once somebody has done something.
    pub fn is_for_somebody(&self) -> bool {
        matches!(
            self,
            Self::Refused { .. }
                | Self::Waiting {
                    tone: Waits::Bad,
                    ..
                }
        )
    }

    /// Waits for what can't be told yet.
    pub fn unknown(reason: &'static str, message: impl Into<String>) -> Self {
        Self::waiting(reason, message, Waits::Unknown)
    }

    /// Waits for what passes.
    pub fn passing(reason: &'static str, message: impl Into<String>) -> Self {
        Self::waiting(reason, message, Waits::Passes)
    }

    fn waiting(reason: &'static str, message: impl Into<String>, tone: Waits) -> Self {
        Self::Waiting {
            reason,
            message: message.into(),
            tone,
        }
    }

    /// It won't be carried out.
    pub fn refused(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Refused {
            reason,
            message: message.into(),
        }
    }
}

const NOT_STARTED: &str = "NotStarted";

/// The conditions that a state makes of those that stand.
fn findings(status: &RestoreStatus, state: &State) -> Vec<Finding> {
    let before = |kind| Finding::as_before(kind, &status.conditions);
    let plan = status.plan.as_ref();
    let checked = plan.map(|plan| {
        Finding::good(
            CHECKED,
            "Reachable",
            format!("recovery stops {}", plan.target),
        )
    });
    let started = || {
        let stands = before(STARTED).filter(|finding| finding.status == ConditionStatus::True);
        stands.unwrap_or_else(|| {
            Finding::good(STARTED, "Restoring", "the data directory is being restored")
        })
    };
    let restored = || {
        let stands = before(RESTORED).filter(|finding| finding.status == ConditionStatus::True);
        stands.unwrap_or_else(|| Finding::good(RESTORED, "Restored", "the data directory is whole"))
    };
    let pending = |kind, reason, message: &str| Finding::pending(kind, reason, message);
    let not_begun = || pending(COMPLETE, NOT_STARTED, "it has not begun");
    let mut all: Vec<Finding> = Vec::new();
    match state {
        State::Waiting {
            reason,
            message,
            tone,
        } => {
            let finding = match tone {
                Waits::Passes => pending(CHECKED, reason, message),
                Waits::Bad => Finding::bad(CHECKED, reason, message),
                Waits::Unknown => Finding::unknown(CHECKED, reason, message),
            };
            all.extend([finding, not_begun()]);
        }
        State::Refused { reason, message } => all.extend([
            pending(CHECKED, reason, message),
            pending(
                COMPLETE,
                "Failed",
                "it was refused, and nothing was touched",
            ),
            Finding::failed(FAILED, reason, message),
        ]),
        State::Suspended => {
            let held =
                "spec.suspend is true: it is checked and planned, and begins once that is false";
            all.extend(checked);
            all.extend([pending(STARTED, "Suspended", held), not_begun()]);
        }
        State::Ordered { reason, message } => {
            all.extend(checked);
            all.extend([pending(STARTED, reason, message), not_begun()]);
        }
        State::Restoring {
            reason,
            message,
            bad,
        } => {
            let finding = match bad {
                true => Finding::bad(RESTORED, reason, message),
                false => pending(RESTORED, reason, message),
            };
            all.extend(checked);
            all.extend([
                started(),
                finding,
                pending(COMPLETE, "Restoring", "the data directory is not whole yet"),
            ]);
        }
        State::Restored { reason, message } => {
            all.extend(checked);
            all.extend([started(), restored(), pending(COMPLETE, reason, message)]);
        }
        State::Complete => {
            let reached = "the database is at its target";
            all.extend(checked);
            all.extend([
                started(),
                restored(),
                Finding::good(COMPLETE, "Recovered", reached),
            ]);
        }
        State::Failed { reason, message } => {
            all.extend([CHECKED, STARTED, RESTORED].into_iter().filter_map(before));
            all.extend([
                pending(COMPLETE, "Failed", "it has failed"),
                Finding::failed(FAILED, reason, message),
            ]);
        }
    }
    all
}

/// Writes a state into a status, with how long its parts took. Returns what is news: also that the target can be
/// reached, where nothing was told before.
pub fn settle_into(
    status: &mut RestoreStatus,
    state: &State,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Finding> {
    if matches!(state, State::Waiting { .. } | State::Refused { .. }) {
        (status.plan, status.backup) = (None, None);
    }
    let findings = findings(status, state);
    let is_new = find(&status.conditions, CHECKED).is_none();
    let checked = findings.iter().find(|finding| finding.kind == CHECKED);
    let checked = checked.filter(|finding| is_new && finding.tone == Tone::Good);
    let mut news: Vec<Finding> = checked.into_iter().cloned().collect();
    let settled = settle(&status.conditions, findings, generation, now);
    status.conditions = settled.conditions;
    if !matches!(state, State::Restoring { .. }) {
        status.progress = None;
    }
    let between = |from, to| {
        let time = |kind| find(&status.conditions, kind).map(|c| c.last_transition_time);
        let seconds = time(to)?.duration_since(time(from)?).as_secs_f64();
        Some(seconds.max(0.0))
    };
    if is_true(&status.conditions, RESTORED) {
        status.durations.restore_seconds = between(STARTED, RESTORED);
    }
    if is_true(&status.conditions, COMPLETE) {
        status.durations.replay_seconds = between(RESTORED, COMPLETE);
    }
    news.extend(settled.news);
    news
}

#[cfg(test)]
mod tests {
    use super::super::phase::Phase;
    use super::*;
    use holdfast_protocol::status::RestorePlan;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_restore_is_told_step_by_step() {
        let ordered = |reason| State::Ordered {
            reason,
            message: "m".into(),
        };
        let restoring = |reason, bad| State::Restoring {
            reason,
            message: "m".into(),
            bad,
        };
        let mut status = RestoreStatus::default();
        let mut told = Vec::new();
        for (second, state) in [
            (0, State::bad("ArchiveNotFound", "m")),
            (1, State::unknown("Draining", "m")),
            (2, State::Suspended),
            (3, ordered("Ordering")),
            (4, ordered("Holding")),
            (10, restoring("Restoring", false)),
            (11, restoring("Waiting", true)),
            (
                25,
                State::Restored {
                    reason: "Recovering",
                    message: "m".into(),
                },
            ),
            (65, State::Complete),
        ] {
            if state == State::Suspended {
                status.plan = Some(RestorePlan::default());
            }
            if let State::Ordered { .. } = state {
                status.order_id = Some("o".into());
            }
            let now = at("2026-11-20T10:00:00Z") + jiff::SignedDuration::from_secs(second);
            let news = settle_into(&mut status, &state, Some(1), now);
            let news: Vec<&str> = news.iter().map(|finding| finding.reason.as_ref()).collect();
            let conditions: Vec<String> = status
                .conditions
                .iter()
                .map(|c| format!("{}={:?}", c.r#type, c.status))
                .collect();
            told.push(format!(
                "{:?} {} [{}]",
                Phase::of(Some(&status)),
                conditions.join(" "),
                news.join(" ")
            ));
        }
        assert_eq!(
            told,
            [
                "Waiting Checked=False Complete=False [ArchiveNotFound]",
                "Waiting Checked=Unknown Complete=False []",
                "Waiting Checked=True Started=False Complete=False [Reachable]",
                "Ordered Checked=True Started=False Complete=False []",
                "Ordered Checked=True Started=False Complete=False []",
                "Ordered Checked=True Started=True Restored=False Complete=False [Restoring]",
                "Ordered Checked=True Started=True Restored=False Complete=False [Waiting]",
                "Ordered Checked=True Started=True Restored=True Complete=False [Restored]",
                "Complete Checked=True Started=True Restored=True Complete=True [Recovered]",
            ]
        );
        assert_eq!(status.durations.restore_seconds, Some(15.0));
        assert_eq!(status.durations.replay_seconds, Some(40.0));
    }

    #[test]
    fn a_refusal_is_told_once_and_final() {
        let mut status = RestoreStatus::default();
        let refused = State::refused("NoReplicas", "scale it up");
        let now = at("2026-11-20T10:00:00Z");
        let news = settle_into(&mut status, &refused, Some(1), now);
        assert_eq!(news.len(), 1, "{news:?}");
        assert_eq!(Phase::of(Some(&status)), Phase::Failed);
        let checked = find(&status.conditions, CHECKED).unwrap();
        assert_eq!(
            (checked.status, checked.message.as_str()),
            (ConditionStatus::False, "scale it up")
        );
        assert!(settle_into(&mut status, &refused, Some(1), now).is_empty());
    }
}
