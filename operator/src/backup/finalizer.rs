//! The finalizer: only where deleting the object has to do something, so that nothing hangs when nobody is there.

use super::phase::Phase;
use super::{Backups, Look};
use crate::controller::ReconcileError;
use crate::finalizer;
use holdfast_crds::{Backup, DeletionPolicy};
use kube::ResourceExt;

/// On a Backup that runs, or whose deletion deletes what is stored.
pub const FINALIZER: &str = "holdfast.dev/backup";

/// Whether a Backup has to have the finalizer. Pure.
pub fn is_needed(phase: Phase, policy: DeletionPolicy) -> bool {
    match (phase, policy) {
        (Phase::Ordered, _) | (Phase::Complete, DeletionPolicy::Delete) => true,
        (Phase::Waiting | Phase::Failed | Phase::Expired, _)
        | (Phase::Complete, DeletionPolicy::Retain) => false,
    }
}

pub fn has(backup: &Backup) -> bool {
    backup.finalizers().iter().any(|name| name == FINALIZER)
}

impl Backups {
    /// Puts the finalizer there, or takes it away.
    pub(super) async fn sync_finalizer(
        &self,
        look: &Look<'_>,
        phase: Phase,
    ) -> Result<(), ReconcileError> {
        let needed = is_needed(phase, look.backup.spec.deletion_policy);
        if needed == has(&look.backup) {
            return Ok(());
        }
        self.set_finalizer(look, needed).await
    }

    /// Verbs on backups: patch.
    pub(super) async fn set_finalizer(
        &self,
        look: &Look<'_>,
        there: bool,
    ) -> Result<(), ReconcileError> {
        finalizer::set(&self.context, look.backup.as_ref(), FINALIZER, there).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DeletionPolicy::{Delete, Retain};

    #[test]
    fn only_what_runs_or_deletes_data_is_held() {
        for (phase, policy, needed) in [
            (Phase::Waiting, Retain, false),
            (Phase::Waiting, Delete, false),
            (Phase::Ordered, Retain, true),
            (Phase::Ordered, Delete, true),
            (Phase::Complete, Retain, false),
            (Phase::Complete, Delete, true),
            (Phase::Failed, Delete, false),
            (Phase::Expired, Delete, false),
        ] {
            assert_eq!(is_needed(phase, policy), needed, "{phase:?} {policy:?}");
        }
    }
}
