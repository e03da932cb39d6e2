//! What may be deleted, and why not the rest: a plain function over what was seen. It deletes nothing.
//!
//! Every moment of the recovery window can be recovered to afterwards if it could before. Order is by incarnation,
//! line of timelines and LSN. Clocks decide one thing alone, whether something ended before the window began, and of the
//! database's clock and the store's the later one counts. Whatever can't be told, such as a manifest that can't be
//! read, makes that nothing is deleted at all.

mod facts;
mod keep;
mod leftovers;
mod plan;
mod refusal;
#[cfg(test)]
mod tests;
mod wal;

pub use facts::{
    Doomed, Incarnation, Observed, PackNumbers, Policy, Reader, Request, State, StoredBackup,
    Wishes,
};
pub use plan::{BackupFate, Fate, IncarnationPlan, Plan, Remove, WalFate};
pub use refusal::Refusal;

use std::time::Duration;

/// Who has shown no sign for so long, by the store's clock, is dead.
pub const LIFE: Duration = Duration::from_secs(15 * 60);
/// For so long what an interrupted backup has sent is kept: the next one may find it useful.
pub const INTERRUPTED_STAYS: Duration = Duration::from_secs(24 * 3600);
/// For so long it stays said that an interrupted backup will never be committed.
pub const ABORTED_STAYS: Duration = Duration::from_secs(30 * 24 * 3600);
/// The store's clock and ours may differ by so much. A clock that jumps would make everything look old.
pub const CLOCKS_DIFFER: Duration = Duration::from_secs(3600);

/// Decides about everything that is there.
pub fn plan(observed: &Observed, policy: &Policy, wishes: &Wishes) -> Result<Plan, Refusal> {
    refusal::check(observed)?;
    let kept = keep::keep(observed, policy, wishes);
    let incarnations = observed
        .incarnations
        .iter()
        .zip(kept)
        .enumerate()
        .map(|(place, (incarnation, kept))| {
            let backups = leftovers::fates(observed.now, incarnation, &kept);
            let wal = wal::fates(observed, policy, place, &kept);
            IncarnationPlan {
                system: incarnation.catalogue.system,
                backups,
                wal,
            }
        })
        .collect();
    Ok(Plan { incarnations })
}
