//! The upkeep of archives: who owns them, what expires, and the Backup objects that stand for what is stored.
//!
//! A controller of its own, for a look at an archive reads all of its listings: once an hour, a few archives at a time,
//! and at once when the Archive has changed. Nothing is done while an Archive is suspended.

mod maintain;
mod sync;

pub use maintain::{Upkeep, maintain};
pub use sync::{About, Actions, New, Object, Stored, plan};

use crate::backup::{Phase, State, of_facts, settle_into};
use crate::context::Context;
use crate::controller::{Controller, Outcome, ReconcileError, jitter};
use crate::names::{ARCHIVE_LABEL, Key, MANAGED_BY, MANAGED_BY_LABEL};
use crate::status::StatusWriter;
use holdfast_crds::{Archive, ArchiveReference, Backup, BackupKeep, BackupSpec, DeletionPolicy};
use holdfast_protocol::status::BackupStatus;
use jiff::Timestamp;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use kube::{Resource, ResourceExt};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// While nothing is stored, so that the first WAL finds an owner soon.
const EMPTY: Duration = Duration::from_secs(60);
/// Until the rest of many objects is made.
const MORE: Duration = Duration::from_secs(2);

/// The controller.
pub struct Catalogue {
    context: Arc<Context>,
    status: StatusWriter<BackupStatus>,
    due: Mutex<HashMap<Key, Due>>,
    /// By Archive: why nothing is deleted, as it was told last.
    told: Mutex<HashMap<Key, Vec<String>>>,
}

/// When an archive is looked at again.
#[derive(Debug, Clone, Copy)]
struct Due {
    /// Of the Archive, as it was looked at.
    generation: Option<i64>,
    at: Instant,
}

/// The backup that an object stands for.
fn id_of(backup: &Backup) -> String {
    match backup.spec.existing_id.as_str() {
        "" => backup.uid().unwrap_or_default(),
        existing => existing.to_owned(),
    }
}

fn is_ours(backup: &Backup) -> bool {
    let label = backup.labels().get(MANAGED_BY_LABEL);
    label.is_some_and(|value| value == MANAGED_BY)
}

impl Catalogue {
    /// Nothing was looked at yet.
    pub fn new(context: Arc<Context>) -> Self {
        Self {
            status: context.backup_status.clone(),
            context,
            due: Mutex::default(),
            told: Mutex::default(),
        }
    }

    fn due(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Due>> {
        // Plain values, whole whatever happened to who held them.
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The Backups of an Archive.
    fn backups(&self, key: &Key) -> Vec<Arc<Backup>> {
        self.context
            .watched
            .backups
            .filter(&key.namespace, |b| b.spec.archive_ref.name == key.name)
    }

    /// How long nobody need look, if it was looked at already.
    fn rest(&self, key: &Key, generation: Option<i64>) -> Option<Duration> {
        let due = self.due().get(key).copied()?;
        let now = Instant::now();
        (due.generation == generation && now < due.at).then(|| due.at.duration_since(now))
    }

    /// Tells why nothing is deleted, once for each reason.
    async fn tell(&self, key: &Key, archive: &Archive, blocked: Vec<String>) {
        let before = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            told.insert(key.clone(), blocked.clone())
                .unwrap_or_default()
        };
        let about = archive.object_ref(&());
        for why in blocked.iter().filter(|why| !before.contains(why)) {
            tracing::warn!(archive = %key, "{why}");
            self.context
                .events
                .warn(&about, "RetentionBlocked", "Expire", why)
                .await;
        }
    }

    /// Makes, fills and removes objects. Whether there is more to do.
    async fn apply(
        &self,
        key: &Key,
        archive: &Archive,
        backups: &[Arc<Backup>],
        upkeep: &Upkeep,
    ) -> Result<bool, ReconcileError> {
        let now = Timestamp::now();
        let created = archive.metadata.creation_timestamp.as_ref();
        let about = About {
            name: key.name.clone(),
            created: created.map_or(now, |time| time.0),
            is_owner: upkeep.is_owner,
            all_read: upkeep.all_read,
        };
        let objects: Vec<Object> = backups
            .iter()
            .map(|backup| Object {
                name: backup.name_any(),
                id: id_of(backup),
                existing: !backup.spec.existing_id.is_empty(),
                ours: is_ours(backup),
                phase: Phase::of(backup.status.as_ref()),
                going: backup.metadata.deletion_timestamp.is_some(),
            })
            .collect();
        let actions = plan(&about, &upkeep.stored, &objects);
        let by_name = |name: &String| backups.iter().find(|backup| backup.name_any() == *name);
        // Made while the repositories were read.
        let since: BTreeSet<String> = self
            .backups(key)
            .iter()
            .map(|backup| id_of(backup))
            .collect();
        for new in actions.make.iter().filter(|new| !since.contains(&new.id)) {
            if let Some(stored) = upkeep.stored.get(&new.id)
                && let Some(made) = self.make(key, new).await?
            {
                self.fill(&made, stored, now).await?;
            }
        }
        for backup in actions.fill.iter().filter_map(by_name) {
            if let Some(stored) = upkeep.stored.get(&id_of(backup)) {
                self.fill(backup, stored, now).await?;
            }
        }
        for backup in actions.expire.iter().filter_map(by_name) {
            self.expire(backup, now).await?;
        }
        for backup in actions.remove.iter().filter_map(by_name) {
            self.remove(key, backup).await?;
        }
        Ok(actions.more)
    }

    /// Makes an object; none where somebody else was faster.
    ///
    /// Verbs on backups: create.
    async fn make(&self, key: &Key, new: &New) -> Result<Option<Backup>, ReconcileError> {
        let api: Api<Backup> = Api::namespaced(self.context.client.clone(), &key.namespace);
        match api.create(&PostParams::default(), &object(key, new)).await {
            Ok(made) => {
                self.context.metrics.written("Backup");
                Ok(Some(made))
            }
            Err(kube::Error::Api(refused)) if refused.reason == "AlreadyExists" => Ok(None),
            Err(error) => Err(ReconcileError::api(
                "can't make a Backup for what is stored",
            )(error)),
        }
    }

    async fn fill(
        &self,
        backup: &Backup,
        stored: &Stored,
        now: Timestamp,
    ) -> Result<(), ReconcileError> {
        let known = self.status.known(backup, backup.status.as_ref());
        let before = known.clone().unwrap_or_default();
        let mut status = match &stored.facts {
            Ok(facts) => of_facts(&before, facts, &stored.repository),
            Err(_) => BackupStatus {
                id: backup.spec.existing_id.clone(),
                ..before
            },
        };
        let state = sync::state(stored);
        let generation = backup.metadata.generation;
        // What it was is no news.
        settle_into(&mut status, &state, stored.forever, generation, now);
        self.status
            .write(backup, known.as_ref(), status, &[])
            .await
            .map(|_| ())
    }

    async fn expire(&self, backup: &Backup, now: Timestamp) -> Result<(), ReconcileError> {
        let known = self.status.known(backup, backup.status.as_ref());
        let mut status = known.clone().unwrap_or_default();
        let message =
            "no repository of the Archive has it any more: it has expired, or was deleted";
        let state = State::Expired(message.to_owned());
        let generation = backup.metadata.generation;
        settle_into(&mut status, &state, false, generation, now);
        self.status
            .write(backup, known.as_ref(), status, &[])
            .await
            .map(|_| ())
    }

    /// Verbs on backups: delete.
    async fn remove(&self, key: &Key, backup: &Backup) -> Result<(), ReconcileError> {
        let api: Api<Backup> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: backup.uid(),
                resource_version: None,
            }),
            ..DeleteParams::background()
        };
        match api.delete(&backup.name_any(), &parameters).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(refused)) if matches!(refused.code, 404 | 409) => Ok(()),
            Err(error) => Err(ReconcileError::api(
                "can't remove a Backup whose data is gone",
            )(error)),
        }
    }
}

/// The object that stands for a stored backup.
fn object(key: &Key, new: &New) -> Backup {
    let mut backup = Backup::new(
        &new.name,
        BackupSpec {
            archive_ref: ArchiveReference {
                name: key.name.clone(),
            },
            r#type: Default::default(),
            from: None,
            existing_id: new.id.clone(),
            keep: if new.forever {
                BackupKeep::Forever
            } else {
                BackupKeep::Retention
            },
            deletion_policy: DeletionPolicy::Retain,
        },
    );
    backup.metadata.namespace = Some(key.namespace.clone());
    // What is meant for the definition is put on every new object, too.
    backup.metadata.annotations = None;
    let labels = backup.labels_mut();
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    labels.insert(ARCHIVE_LABEL.to_owned(), key.name.clone());
    backup
}

impl Controller for Catalogue {
    const KIND: &'static str = "Catalogue";
    const CONCURRENCY: usize = 3;

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ReconcileError> {
        let Some(archive) = self.context.watched.archives.get(key) else {
            self.due().remove(key);
            self.told
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(key);
            return Ok(Outcome::Done);
        };
        if archive.metadata.deletion_timestamp.is_some() || archive.spec.suspend {
            return Ok(Outcome::Done);
        }
        let generation = archive.metadata.generation;
        if let Some(rest) = self.rest(key, generation) {
            return Ok(Outcome::Again(rest));
        }
        // As they were before the repositories are read: what was complete then is there, or gone.
        let backups = self.backups(key);
        let settings = &self.context.settings;
        let upkeep = maintain(
            &self.context,
            key,
            &archive,
            &backups,
            settings.expiry_grace,
        )
        .await;
        self.tell(key, &archive, upkeep.blocked.clone()).await;
        let more = self.apply(key, &archive, &backups, &upkeep).await?;
        if let Some(trouble) = upkeep.trouble {
            return Err(ReconcileError::Other(trouble));
        }
        let pause = if more {
            MORE
        } else if upkeep.is_there {
            settings.upkeep_period.mul_f64(0.9 + jitter() / 5.0)
        } else {
            EMPTY.min(settings.upkeep_period)
        };
        let at = Instant::now() + pause;
        self.due().insert(key.clone(), Due { generation, at });
        Ok(Outcome::Again(pause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_says_that_it_is_never_carried_out() {
        let new = New {
            name: "orders-3f2a8c10".into(),
            id: "3f2a8c10-aaaa-bbbb-cccc-0123456789ab".into(),
            forever: true,
        };
        let backup = object(&Key::new("shop", "orders"), &new);
        assert_eq!(
            serde_json::to_value(&backup).unwrap(),
            json!({
                "apiVersion": "holdfast.dev/v1alpha1", "kind": "Backup",
                "metadata": {"namespace": "shop", "name": "orders-3f2a8c10",
                    "labels": {"app.kubernetes.io/managed-by": "holdfast", "holdfast.dev/archive": "orders"}},
                "spec": {"archiveRef": {"name": "orders"}, "type": "Auto", "keep": "Forever", "deletionPolicy": "Retain",
                    "existingId": "3f2a8c10-aaaa-bbbb-cccc-0123456789ab"},
            })
        );
        assert!(is_ours(&backup));
        assert_eq!(id_of(&backup), new.id);
    }
}
