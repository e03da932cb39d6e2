//! Why nothing is deleted at all.

use super::CLOCKS_DIFFER;
use super::facts::Observed;
use holdfast_postgres::{SystemIdentifier, TimelineId};
use jiff::Timestamp;
use thiserror::Error;

/// What makes that nothing can be decided.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// What a backup needs can't be told.
    #[error(
        "nothing is deleted: the manifest of backup {id} can't be read ({why}), so what it needs can't be told; `holdfast verify` names the damage"
    )]
    Manifest {
        /// The backup.
        id: String,
        /// What is wrong.
        why: String,
    },
    /// Where a timeline came from can't be told.
    #[error(
        "nothing is deleted: {why}, so which backups lead to timeline {timeline} of system {system} can't be told; restore that history file from a copy of the bucket, or from pg_wal of a server of that timeline"
    )]
    History {
        /// The incarnation.
        system: SystemIdentifier,
        /// The timeline.
        timeline: TimelineId,
        /// What is wrong.
        why: String,
    },
    /// One of two clocks is wrong.
    #[error(
        "nothing is deleted: the store's clock says {store:.0} and this machine's {ours:.0}; what is old can't be told before they agree"
    )]
    Clocks {
        /// The store's.
        store: Timestamp,
        /// Ours.
        ours: Timestamp,
    },
}

/// Whether everything is known that a decision needs.
pub(super) fn check(observed: &Observed) -> Result<(), Refusal> {
    let (store, ours) = (observed.now, observed.our_clock);
    if store.duration_since(ours).unsigned_abs() > CLOCKS_DIFFER {
        return Err(Refusal::Clocks { store, ours });
    }
    for incarnation in &observed.incarnations {
        let catalogue = &incarnation.catalogue;
        if let Some((id, why)) = catalogue.unreadable.first() {
            let (id, why) = (id.clone(), why.clone());
            return Err(Refusal::Manifest { id, why });
        }
        for timeline in &catalogue.timelines {
            let why = match &timeline.damaged_history {
                Some(why) => why.clone(),
                None if catalogue.lineage(timeline.id).is_none() => format!(
                    "the history file of timeline {} is not archived",
                    timeline.id
                ),
                None => continue,
            };
            return Err(Refusal::History {
                system: catalogue.system,
                timeline: timeline.id,
                why,
            });
        }
    }
    Ok(())
}
