//! Writes status: what is not there yet, and nothing else.

use crate::conditions::Finding;
use crate::controller::ReconcileError;
use crate::events::Events;
use crate::metrics::Metrics;
use crate::names::FIELD_MANAGER;
use crate::objects::Watched;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde::Serialize;
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Writes the status of objects of one kind, by server-side apply, and remembers what it wrote until the watch has
/// shown it: what follows from a status must not follow from an old one. Clones remember together, so that of several
/// who write one kind each knows what the others wrote, and whoever is woken by the watch forgets it for all.
///
/// Verbs on the kind's `status`: patch.
pub struct StatusWriter<S> {
    client: Client,
    metrics: Arc<Metrics>,
    events: Events,
    written: Arc<Mutex<HashMap<String, Written<S>>>>,
}

struct Written<S> {
    /// The version of the object that it was written over.
    over: Option<String>,
    status: S,
}

impl<S> Clone for StatusWriter<S> {
    fn clone(&self) -> Self {
        Self {
            client: self.client.clone(),
            metrics: self.metrics.clone(),
            events: self.events.clone(),
            written: self.written.clone(),
        }
    }
}

impl<S: Clone + PartialEq + Serialize> StatusWriter<S> {
    /// For one kind.
    pub fn new(client: Client, metrics: Arc<Metrics>, events: Events) -> Self {
        Self {
            client,
            metrics,
            events,
            written: Arc::default(),
        }
    }

    /// The status as it stands: the object's, or what was written since that version of it.
    pub fn known<K: Watched>(&self, object: &K, own: Option<&S>) -> Option<S> {
        let uid = object.uid().unwrap_or_default();
        let mut written = self.lock();
        match written.get(&uid) {
            Some(last) if last.over == object.resource_version() => Some(last.status.clone()),
            Some(_) => {
                written.remove(&uid);
                own.cloned()
            }
            None => own.cloned(),
        }
    }

    /// Writes `status` unless it stands already, and then tells the news. Whether anything was written.
    pub async fn write<K: Watched>(
        &self,
        object: &K,
        known: Option<&S>,
        status: S,
        news: &[Finding],
    ) -> Result<bool, ReconcileError> {
        if known == Some(&status) {
            return Ok(false);
        }
        let namespace = object.namespace().unwrap_or_default();
        let api: Api<K> = Api::namespaced(self.client.clone(), &namespace);
        let name = object.name_any();
        // The UID: another object of the same name must not get it.
        let patch = json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            "metadata": {"name": name, "uid": object.uid()},
            "status": status,
        });
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        api.patch_status(&name, &parameters, &Patch::Apply(patch))
            .await
            .map_err(ReconcileError::api("can't write the status"))?;
        self.metrics.written(crate::objects::kind_word::<K>());
        let written = Written {
            over: object.resource_version(),
            status,
        };
        self.lock()
            .insert(object.uid().unwrap_or_default(), written);
        self.events.tell(&object.object_ref(&()), news).await;
        Ok(true)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Written<S>>> {
        // A panic elsewhere leaves at worst what was written before.
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
