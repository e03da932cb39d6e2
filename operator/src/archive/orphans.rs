//! The rendered Secrets of Archives that are gone: each stays while a pod carries the label, for without it no container
//! of that pod starts again, and goes with the last one.

use super::member::Member;
use super::reports::Said;
use super::secret::is_ours;
use super::watched_pod::WatchedPod;
use crate::context::Context;
use crate::controller::{Controller, Outcome, ReconcileError};
use crate::names::{ARCHIVE_LABEL, Key, rendered_secret};
use holdfast_crds::Archive;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, DeleteParams, ListParams, Preconditions};
use kube::{Resource, ResourceExt};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Between two looks while pods are left; their end is seen at once.
const WHILE_USED: Duration = Duration::from_secs(10 * 60);

/// What to do with a rendered Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// Nothing: it is in use, or there is none.
    Leave,
    /// Tell these pods that their Archive is gone, and look again.
    Warn(Vec<String>),
    /// Remove it.
    Remove,
}

fn step(archive_exists: bool, secret_exists: bool, pods: &[Member]) -> Step {
    if archive_exists || !secret_exists {
        return Step::Leave;
    }
    let users: Vec<String> = pods
        .iter()
        .filter(|pod| !pod.finished && pod.injected)
        .map(|pod| pod.name.clone())
        .collect();
    match users.is_empty() {
        true => Step::Remove,
        false => Step::Warn(users),
    }
}

/// Removes what nobody needs any more.
pub struct Orphans {
    context: Arc<Context>,
    /// UIDs of pods that were told.
    told: Mutex<HashSet<String>>,
}

impl Orphans {
    /// Has told nobody anything yet.
    pub fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            told: Mutex::default(),
        }
    }

    async fn warn(&self, pods: &[Arc<WatchedPod>], archive: &Key) {
        for pod in pods {
            let uid = pod.uid().unwrap_or_default();
            let is_new = self
                .told
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(uid);
            if is_new {
                let note = format!(
                    "the Archive {} was deleted and this pod carries its label: archiving goes on by the last settings, and nothing is backed up or expired; make the Archive again, or remove the label from the pod template",
                    archive.name
                );
                self.context
                    .events
                    .warn(&pod.object_ref(&()), "ArchiveDeleted", "Archiving", &note)
                    .await;
            }
        }
    }

    /// By what stands in the cluster now: what is watched may be a moment old.
    async fn remove(&self, archive: &Key) -> Result<Outcome, ReconcileError> {
        let client = &self.context.client;
        let archives: Api<Archive> = Api::namespaced(client.clone(), &archive.namespace);
        let known = archives
            .get_metadata_opt(&archive.name)
            .await
            .map_err(ReconcileError::api("can't read an Archive"))?;
        if known.is_some() {
            return Ok(Outcome::Done);
        }
        let pods: Api<Pod> = Api::namespaced(client.clone(), &archive.namespace);
        let labelled = ListParams::default().labels(&format!("{ARCHIVE_LABEL}={}", archive.name));
        let pods = pods
            .list(&labelled)
            .await
            .map_err(ReconcileError::api("can't list pods"))?;
        let members: Vec<Member> = pods
            .iter()
            .filter_map(|pod| Member::of(pod, |_| Said::Nothing))
            .collect();
        if step(false, true, &members) != Step::Remove {
            return Ok(Outcome::Again(WHILE_USED));
        }
        let secrets: Api<Secret> = Api::namespaced(client.clone(), &archive.namespace);
        let name = rendered_secret(&archive.name);
        let secret = secrets
            .get_opt(&name)
            .await
            .map_err(ReconcileError::api("can't read the pods' Secret"))?;
        let Some(secret) = secret.filter(|secret| is_ours(secret, archive)) else {
            return Ok(Outcome::Done);
        };
        let exactly = DeleteParams {
            preconditions: Some(Preconditions {
                uid: secret.uid(),
                resource_version: secret.resource_version(),
            }),
            ..DeleteParams::default()
        };
        match secrets.delete(&name, &exactly).await {
            Ok(_) => {
                tracing::info!(%archive, "removed the Secret {name}: its Archive and all its pods are gone");
                self.context.metrics.written("Secret");
                Ok(Outcome::Done)
            }
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Outcome::Done),
            Err(error) => Err(ReconcileError::api("can't delete the pods' Secret")(error)),
        }
    }
}

impl Controller for Orphans {
    const KIND: &'static str = "OrphanedSecret";
    const CONCURRENCY: usize = 2;

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ReconcileError> {
        let watched = &self.context.watched;
        let pods = &watched.pods;
        let pods = pods.filter(&key.namespace, |pod| pod.archive() == Some(key));
        let members: Vec<Member> = pods
            .iter()
            .filter_map(|pod| pod.member(|_| Said::Nothing))
            .collect();
        let secret = watched
            .rendered
            .get(&key.beside(rendered_secret(&key.name)));
        match step(
            watched.archives.get(key).is_some(),
            secret.is_some(),
            &members,
        ) {
            Step::Leave => Ok(Outcome::Done),
            Step::Warn(users) => {
                let users: Vec<Arc<WatchedPod>> = pods
                    .into_iter()
                    .filter(|pod| users.contains(&pod.name_any()))
                    .collect();
                self.warn(&users, key).await;
                Ok(Outcome::Again(WHILE_USED))
            }
            Step::Remove => self.remove(key).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::member::tests::member;
    use super::*;
    use serde_json::json;

    #[test]
    fn a_secret_goes_only_when_neither_archive_nor_pods_are_left() {
        let uses = || member(json!({}));
        let finished = || member(json!({"status": {"phase": "Succeeded"}}));
        let plain = || member(json!({"spec": {"initContainers": null}}));
        for (archive, secret, pods, expected) in [
            (true, true, vec![], Step::Leave),
            (true, true, vec![uses()], Step::Leave),
            (false, false, vec![], Step::Leave),
            (
                false,
                true,
                vec![uses()],
                Step::Warn(vec!["orders-0".into()]),
            ),
            (
                false,
                true,
                vec![finished(), uses()],
                Step::Warn(vec!["orders-0".into()]),
            ),
            (false, true, vec![finished()], Step::Remove),
            (false, true, vec![plain()], Step::Remove),
            (false, true, vec![], Step::Remove),
        ] {
            assert_eq!(
                step(archive, secret, &pods),
                expected,
                "{archive} {secret} {pods:?}"
            );
        }
    }
}
