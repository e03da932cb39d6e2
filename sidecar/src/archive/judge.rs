//! What an outcome in the store means for the server that asked.

use super::NotArchived;
use holdfast_postgres::{ClusterState, ControlFile, WalFileName};
use holdfast_repository::PutOutcome;

/// What Postgres is answered. A segment that is not whole is nothing to be sorry for where a standby was left behind
/// by a switch of timelines; the server that is writing this very timeline has lost WAL.
pub(super) fn judge(
    name: &WalFileName,
    outcome: PutOutcome,
    control: &ControlFile,
) -> Result<String, NotArchived> {
    // The last segments are archived while the server stops, and right after a promotion pg_control may still have the
    // old timeline's checkpoint.
    let writes = matches!(
        control.state,
        ClusterState::InProduction | ClusterState::ShuttingDown | ClusterState::ShutDown
    );
    let stands_on = control.timeline.max(control.min_recovery_timeline);
    let own = |timeline| writes && timeline == stands_on;
    match (outcome, name) {
        (PutOutcome::Stored, _) => Ok(String::new()),
        (PutOutcome::AlreadyThere, _) => Ok("was there, with the same content".to_owned()),
        (PutOutcome::PrefixOfStored, _) => {
            Ok("is the beginning of the segment that is stored".to_owned())
        }
        (PutOutcome::Aside { valid_through, why }, WalFileName::Segment(segment))
            if own(segment.timeline) =>
        {
            Err(NotArchived::NotWhole {
                name: *name,
                why,
                valid_through,
            })
        }
        (PutOutcome::Aside { why, .. }, _) => Ok(format!("kept aside: {why}")),
    }
}
