//! The finalizer: only where deleting the object has to do something, so that nothing hangs when nobody is there.

use super::phase::Phase;
use super::{Backups, Look};
use crate::controller::ReconcileError;
use crate::names::FIELD_MANAGER;
use holdfast_crds::{Backup, DeletionPolicy};
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

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
        let api: Api<Backup> = Api::namespaced(self.context.client.clone(), &look.key.namespace);
        let mut patch = json!({
            "apiVersion": "holdfast.dev/v1alpha1",
            "kind": "Backup",
            // The UID: another object of the same name must not be touched, nor made.
            "metadata": {"name": look.key.name, "uid": look.backup.uid()},
        });
        if there {
            patch["metadata"]["finalizers"] = json!([FINALIZER]);
        }
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        match api
            .patch(&look.key.name, &parameters, &Patch::Apply(patch))
            .await
        {
            Ok(_) => {
                self.context.metrics.written("Backup");
                Ok(())
            }
            // It is gone.
            Err(kube::Error::Api(refused)) if !there && matches!(refused.code, 404 | 409) => Ok(()),
            Err(error) => Err(ReconcileError::api("can't set a Backup's finalizer")(error)),
        }
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
