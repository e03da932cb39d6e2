//! The finalizer: only while an order stands, so that nothing hangs when nobody is there.

use super::phase::Phase;
use super::{Look, Restores};
use crate::controller::ReconcileError;
use crate::names::FIELD_MANAGER;
use holdfast_crds::Restore;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

/// On a Restore that is carried out.
pub const FINALIZER: &str = "holdfast.dev/restore";

pub fn has(restore: &Restore) -> bool {
    restore.finalizers().iter().any(|name| name == FINALIZER)
}

impl Restores {
    /// Puts the finalizer there, or takes it away.
    ///
    /// Verbs on restores: patch.
    pub(super) async fn sync_finalizer(
        &self,
        look: &Look<'_>,
        phase: Phase,
    ) -> Result<(), ReconcileError> {
        let needed = phase == Phase::Ordered;
        let is_deleted = look.restore.metadata.deletion_timestamp.is_some();
        // The API server lets nobody add one to what is being deleted.
        if needed == has(&look.restore) || (needed && is_deleted) {
            return Ok(());
        }
        self.set_finalizer(look, needed).await
    }

    pub(super) async fn set_finalizer(
        &self,
        look: &Look<'_>,
        there: bool,
    ) -> Result<(), ReconcileError> {
        let api: Api<Restore> = Api::namespaced(self.context.client.clone(), &look.key.namespace);
        let mut patch = json!({
            "apiVersion": "holdfast.dev/v1alpha1",
            "kind": "Restore",
            // The UID: another object of the same name must not be touched, nor made.
            "metadata": {"name": look.key.name, "uid": look.restore.uid()},
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
                self.context.metrics.written("Restore");
                Ok(())
            }
            // It is gone.
            Err(kube::Error::Api(refused)) if !there && matches!(refused.code, 404 | 409) => Ok(()),
            Err(error) => Err(ReconcileError::api("can't set a Restore's finalizer")(
                error,
            )),
        }
    }
}
