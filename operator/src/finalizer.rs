//! Puts a finalizer on an object, or takes it away.

use crate::context::Context;
use crate::controller::ReconcileError;
use crate::names::FIELD_MANAGER;
use crate::objects::{Watched, kind_word};
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

/// By server-side apply. An object that is gone needs none taken away.
///
/// Verbs on the kind: patch.
pub async fn set<K: Watched>(
    context: &Context,
    object: &K,
    finalizer: &str,
    there: bool,
) -> Result<(), ReconcileError> {
    let api: Api<K> = Api::namespaced(
        context.client.clone(),
        &object.namespace().unwrap_or_default(),
    );
    let name = object.name_any();
    let mut patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        // The UID: another object of the same name must not be touched, nor made.
        "metadata": {"name": name, "uid": object.uid()},
    });
    if there {
        patch["metadata"]["finalizers"] = json!([finalizer]);
    }
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    match api.patch(&name, &parameters, &Patch::Apply(patch)).await {
        Ok(_) => {
            context.metrics.written(kind_word::<K>());
            Ok(())
        }
        // It is gone.
        Err(kube::Error::Api(refused)) if !there && matches!(refused.code, 404 | 409) => Ok(()),
        Err(error) => Err(ReconcileError::api("can't set a finalizer")(error)),
    }
}
