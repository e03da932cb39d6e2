//! The finalizer: only while an order stands, so that nothing hangs when nobody is there.

use super::phase::Phase;
use super::{Look, Restores};
use crate::controller::ReconcileError;
use crate::finalizer;
use holdfast_crds::Restore;
use kube::ResourceExt;

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
        finalizer::set(&self.context, look.restore.as_ref(), FINALIZER, there).await
    }
}
