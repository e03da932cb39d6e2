//! How far a Backup is, as its status tells: what was written before is all that an operator that starts knows.

use crate::conditions::find;
use holdfast_protocol::status::{BackupStatus, ConditionStatus, is_true};

/// The order was accepted.
pub const STARTED: &str = "Started";
/// It is stored, with all WAL that it needs.
pub const COMPLETE: &str = "Complete";
/// It has ended, and is no backup.
pub const FAILED: &str = "Failed";
/// The repository says that it stays for ever.
pub const KEPT: &str = "Kept";

/// Why a backup that was complete is not: retention, or somebody, has deleted it.
pub const EXPIRED: &str = "Expired";

/// How far a Backup is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing was ordered.
    Waiting,
    /// It was ordered, or is about to be, from the pod in its status.
    Ordered,
    /// It is a backup.
    Complete,
    /// It is none, and will be none.
    Failed,
    /// It was one.
    Expired,
}

impl Phase {
    /// As the status says.
    pub fn of(status: Option<&BackupStatus>) -> Self {
        let Some(status) = status else {
            return Self::Waiting;
        };
        let holds = |kind| is_true(&status.conditions, kind);
        let expired = find(&status.conditions, COMPLETE)
            .is_some_and(|c| c.status == ConditionStatus::False && c.reason == EXPIRED);
        if holds(FAILED) {
            Self::Failed
        } else if holds(COMPLETE) {
            Self::Complete
        } else if expired {
            Self::Expired
        } else if status.pod.is_some() {
            Self::Ordered
        } else {
            Self::Waiting
        }
    }

    /// Whether nothing will happen to it any more by itself.
    pub fn has_ended(self) -> bool {
        match self {
            Self::Waiting | Self::Ordered => false,
            Self::Complete | Self::Failed | Self::Expired => true,
        }
    }
}

/// Whether the sidecar has said that it takes the backup.
pub fn was_accepted(status: &BackupStatus) -> bool {
    is_true(&status.conditions, STARTED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn status(pod: Option<&str>, conditions: &[(&str, &str, &str)]) -> BackupStatus {
        let conditions: Vec<Value> = conditions
            .iter()
            .map(|(kind, status, reason)| {
                json!({"type": kind, "status": status, "reason": reason, "message": "",
                    "lastTransitionTime": "2026-11-20T00:00:00Z"})
            })
            .collect();
        serde_json::from_value(json!({"pod": pod, "conditions": conditions})).unwrap()
    }

    #[test]
    fn a_status_tells_how_far_it_is() {
        assert_eq!(Phase::of(None), Phase::Waiting);
        for (pod, conditions, phase) in [
            (None, &[][..], Phase::Waiting),
            (
                None,
                &[
                    ("Started", "False", "NoPod"),
                    ("Complete", "False", "NoPod"),
                ][..],
                Phase::Waiting,
            ),
            (
                Some("orders-0"),
                &[("Started", "False", "Ordering")][..],
                Phase::Ordered,
            ),
            (
                Some("orders-0"),
                &[
                    ("Started", "True", "Started"),
                    ("Complete", "False", "Running"),
                ][..],
                Phase::Ordered,
            ),
            (
                Some("orders-0"),
                &[("Started", "True", "Started"), ("Complete", "Unknown", "X")][..],
                Phase::Ordered,
            ),
            (
                Some("orders-0"),
                &[("Complete", "True", "Stored")][..],
                Phase::Complete,
            ),
            (None, &[("Complete", "True", "Stored")][..], Phase::Complete),
            (
                Some("orders-0"),
                &[
                    ("Complete", "False", "SidecarLost"),
                    ("Failed", "True", "SidecarLost"),
                ][..],
                Phase::Failed,
            ),
            (
                None,
                &[("Complete", "False", "Expired")][..],
                Phase::Expired,
            ),
            (
                Some("orders-0"),
                &[
                    ("Started", "True", "Started"),
                    ("Complete", "False", "Expired"),
                ][..],
                Phase::Expired,
            ),
        ] {
            assert_eq!(
                Phase::of(Some(&status(pod, conditions))),
                phase,
                "{conditions:?}"
            );
        }
        assert!(was_accepted(&status(
            None,
            &[("Started", "True", "Started")]
        )));
        assert!(!was_accepted(&status(
            None,
            &[("Started", "False", "Ordering")]
        )));
    }
}
