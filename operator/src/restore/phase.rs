//! How far a Restore is, as its status tells: what was written before is all that an operator that starts knows.

use crate::conditions::find;
use holdfast_protocol::status::{RestoreStatus, is_true};

/// The target can be reached, and nothing stands in the way.
pub const CHECKED: &str = "Checked";
/// The pods were told to go on: from now on data directories are written.
pub const STARTED: &str = "Started";
/// The data directory is whole.
pub const RESTORED: &str = "Restored";
/// Recovery has ended where it should.
pub const COMPLETE: &str = "Complete";
/// It has ended otherwise.
pub const FAILED: &str = "Failed";

/// How far a Restore is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing was ordered.
    Waiting,
    /// It is ordered, from the pods in its status.
    Ordered,
    /// The database is at its target.
    Complete,
    /// It has failed, and nothing more is done.
    Failed,
}

impl Phase {
    /// As the status says.
    pub fn of(status: Option<&RestoreStatus>) -> Self {
        let Some(status) = status else {
            return Self::Waiting;
        };
        if is_true(&status.conditions, FAILED) {
            Self::Failed
        } else if is_true(&status.conditions, COMPLETE) {
            Self::Complete
        } else if status.order_id.is_some() {
            Self::Ordered
        } else {
            Self::Waiting
        }
    }

    /// Whether nothing will happen any more.
    pub fn has_ended(self) -> bool {
        match self {
            Self::Waiting | Self::Ordered => false,
            Self::Complete | Self::Failed => true,
        }
    }
}

/// Whether a pod may have been told to go on.
pub fn was_started(status: &RestoreStatus) -> bool {
    is_true(&status.conditions, STARTED)
}

/// Whether it was checked and planned for this generation of the object.
pub fn was_planned(status: &RestoreStatus, generation: Option<i64>) -> bool {
    is_true(&status.conditions, CHECKED)
        && find(&status.conditions, CHECKED).is_some_and(|c| c.observed_generation == generation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_status_tells_how_far_it_is() {
        assert_eq!(Phase::of(None), Phase::Waiting);
        for (order, conditions, phase, started) in [
            (None, &[][..], Phase::Waiting, false),
            (None, &[("Checked", "True")], Phase::Waiting, false),
            (
                None,
                &[("Checked", "False"), ("Failed", "True")],
                Phase::Failed,
                false,
            ),
            (
                Some("o"),
                &[("Checked", "True"), ("Started", "False")],
                Phase::Ordered,
                false,
            ),
            (Some("o"), &[("Started", "True")], Phase::Ordered, true),
            (
                Some("o"),
                &[("Started", "True"), ("Complete", "True")],
                Phase::Complete,
                true,
            ),
            (
                Some("o"),
                &[("Started", "True"), ("Failed", "True")],
                Phase::Failed,
                true,
            ),
        ] {
            let told: Vec<Value> = conditions
                .iter()
                .map(|(kind, status)| {
                    json!({"type": kind, "status": status, "reason": "X", "message": "",
                        "lastTransitionTime": "2026-11-20T00:00:00Z", "observedGeneration": 2})
                })
                .collect();
            let status = json!({"orderId": order, "conditions": told});
            let status: RestoreStatus = serde_json::from_value(status).unwrap();
            assert_eq!(Phase::of(Some(&status)), phase, "{conditions:?}");
            assert_eq!(was_started(&status), started, "{conditions:?}");
            let checked = conditions.contains(&("Checked", "True"));
            assert_eq!(was_planned(&status, Some(2)), checked, "{conditions:?}");
            assert!(!was_planned(&status, Some(3)));
        }
    }
}
