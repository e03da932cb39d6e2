//! Before anything is touched: resolve, refuse, drain, plan; then the order is written down.

use super::check::{Observed, Rival, another, check, label_of};
use super::order::{archive_of, order_id};
use super::phase::{Phase, was_planned};
use super::preflight::Planned;
use super::report::State;
use super::{Look, POLL, Restores, WAITING, members_of};
use crate::archive::{Member, first_repository};
use crate::controller::{Outcome, ReconcileError};
use crate::inject::names::BOOTSTRAP_CONTAINER;
use crate::names::rendered_secret;
use crate::text;
use holdfast_crds::{Archive, InPlace, Restore};
use holdfast_postgres::outside;
use holdfast_protocol::control::{InstanceReport, Outside};
use holdfast_protocol::status::{RestorePod, RestoreStatus};
use holdfast_repository::facts::BackupFacts;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::Api;
use std::sync::Arc;

/// What was found to restore.
struct Found {
    archive: Option<Arc<Archive>>,
    members: Vec<Member>,
    pods: Vec<String>,
    order: String,
}

impl Restores {
    /// Goes on with one that was not ordered.
    pub(super) async fn begin(
        &self,
        look: &mut Look<'_>,
        in_place: &InPlace,
    ) -> Result<Outcome, ReconcileError> {
        let found = match self.find(look, in_place).await? {
            Ok(found) => found,
            Err(state) => return self.stay(look, &state).await,
        };
        let spec = &look.restore.spec;
        let (suspend, generation) = (spec.suspend, look.restore.metadata.generation);
        if suspend && was_planned(&look.status(), generation) {
            return Ok(Outcome::Done);
        }
        let source = spec.source.repository_ref.as_ref();
        let repository = source.map(|repository| repository.name.as_str());
        let first = || found.archive.as_deref().and_then(first_repository);
        let Some(repository) = repository.or_else(first) else {
            let message = "the Archive names no Repository: correct its spec.repositories";
            let state = State::bad("RepositoryNotFound", message);
            return self.stay(look, &state).await;
        };
        let (unusable, drained) = tokio::join!(
            self.unusable(look, &look.archive, repository),
            self.drain(look, &found.members, spec.force)
        );
        if let Some(state) = unusable {
            return self.stay(look, &state).await;
        }
        if let Err(state) = drained {
            self.write(look, look.status(), &state).await?;
            return Ok(Outcome::Again(POLL));
        }
        let planned = self.preflight(look, &look.archive, repository).await;
        self.drained(look);
        let Planned {
            plan,
            system,
            backup,
        } = match planned {
            Ok(planned) => planned,
            Err(state) => return self.stay(look, &state).await,
        };
        let restored = found
            .members
            .iter()
            .find(|m| Some(&m.name) == found.pods.first());
        let report = restored.and_then(Member::report);
        if let Some(state) = report.and_then(|report| too_small(report, &backup)) {
            return self.stay(look, &state).await;
        }
        if !spec.force
            && let Some(state) = self.lacking(&found.members, &backup).await
        {
            return self.stay(look, &state).await;
        }
        let status = RestoreStatus {
            backup: Some(plan.backup.clone()),
            plan: Some(plan),
            ..look.status()
        };
        if suspend {
            self.write(look, status, &State::Suspended).await?;
            return Ok(Outcome::Done);
        }
        let status = RestoreStatus {
            order_id: Some(found.order),
            system_identifier: Some(system.to_string()),
            pods: match self.standing(look, &found.pods).await? {
                Ok(pods) => pods,
                Err(state) => return self.stay(look, &state).await,
            },
            ..status
        };
        // Planning takes its time, and two may have begun it before either was ordered.
        let ordering = self.ordering.lock().await;
        let mut rivals = self.rivals(look, in_place).into_iter();
        if let Some(rival) = rivals.find(|rival| rival.phase == Phase::Ordered && !rival.going) {
            let state = State::refused("AnotherRestore", another(&rival.name));
            return self.stay(look, &state).await;
        }
        self.set_finalizer(look, true).await?;
        let state = State::Ordered {
            reason: "Ordering",
            message: "the order is being written into the settings of the Archive's pods"
                .to_owned(),
        };
        self.write(look, status, &state).await?;
        drop(ordering);
        self.context.wakers.archives.wake(look.archive.clone());
        Ok(Outcome::Again(POLL))
    }

    /// What Postgres of the pods would miss with the backup's configuration. Without a server that answers it can't be told,
    /// and a database that is down is not left so for that.
    async fn lacking(&self, members: &[Member], backup: &BackupFacts) -> Option<State> {
        if backup.outside.is_empty() {
            return None;
        }
        for sidecar in members.iter().filter_map(Member::sidecar) {
            let outside = backup.outside.iter().map(told).collect();
            match self.context.sidecars.lacking(&sidecar, outside).await {
                Ok(lacking) => return lacks(&backup.id, &lacking),
                Err(error) => {
                    tracing::info!(%error, backup = backup.id, "it can't be told whether the pods have what the backup's configuration needs");
                }
            }
        }
        None
    }

    /// The pods as they stand, which all must go; whoever holds no order could not be held.
    ///
    /// Verbs: get on pods.
    async fn standing(
        &self,
        look: &Look<'_>,
        names: &[String],
    ) -> Result<Result<Vec<RestorePod>, State>, ReconcileError> {
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &look.key.namespace);
        let mut standing = Vec::new();
        for name in names {
            let pod = api
                .get_opt(name)
                .await
                .map_err(ReconcileError::api("can't read a pod"))?;
            if let Some(pod) = &pod
                && !is_injected(pod)
            {
                let message = format!(
                    "the pod {name} has no sidecar, so it could not be held back: have it made again, and wait until it has one"
                );
                return Ok(Err(State::bad("NotInjected", message)));
            }
            standing.push(RestorePod {
                name: name.clone(),
                uid: pod.and_then(|pod| pod.uid()),
            });
        }
        Ok(Ok(standing))
    }

    /// What is archived from now on is for the next plan.
    pub(super) fn drained(&self, look: &Look<'_>) {
        self.set_pace(look.key, |pace| {
            pace.draining = None;
            pace.drained.clear();
        });
    }

    /// Tells why it does not begin.
    pub(super) async fn stay(
        &self,
        look: &mut Look<'_>,
        state: &State,
    ) -> Result<Outcome, ReconcileError> {
        self.drained(look);
        self.write(look, look.status(), state).await?;
        Ok(match state {
            State::Refused { .. } => Outcome::Done,
            _ => Outcome::Again(WAITING),
        })
    }

    /// Verbs: get on statefulsets and pods.
    async fn find(
        &self,
        look: &Look<'_>,
        in_place: &InPlace,
    ) -> Result<Result<Found, State>, ReconcileError> {
        let context = &self.context;
        let namespace = &look.key.namespace;
        let sets: Api<StatefulSet> = Api::namespaced(context.client.clone(), namespace);
        let set = sets
            .get_opt(&in_place.name)
            .await
            .map_err(ReconcileError::api("can't read a StatefulSet"))?;
        let label = set.as_ref().and_then(label_of);
        let archive_key = label.map(|label| look.key.beside(label));
        let archive_key = archive_key.as_ref().unwrap_or(&look.archive);
        let archive = context.watched.archives.get(archive_key);
        let mut members = members_of(context, archive_key, &in_place.name);
        self.ask(&mut members).await;
        let several = set.as_ref().and_then(|set| set.spec.as_ref()?.replicas) > Some(1);
        let pod = match members.first().filter(|_| several) {
            Some(member) => {
                let pods: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
                let pod = pods.get_opt(&member.name).await;
                pod.map_err(ReconcileError::api("can't read a pod"))?
            }
            None => None,
        };
        let rendered = archive_key.beside(rendered_secret(&archive_key.name));
        let order = order_id(look.key, &look.restore.spec);
        let checked = check(&Observed {
            key: look.key,
            spec: &look.restore.spec,
            in_place,
            created: created(&look.restore, look.now),
            order: &order,
            stateful_set: set.as_ref(),
            archive: archive.as_deref(),
            rendered: context.watched.rendered.get(&rendered).is_some(),
            members: &members,
            pod: pod.as_ref(),
            rivals: &self.rivals(look, in_place),
            backup: self.running_backup(archive_key).as_deref(),
        });
        Ok(checked.map(|pods| Found {
            archive,
            members,
            pods,
            order,
        }))
    }

    /// The other Restores for the same StatefulSet.
    pub(super) fn rivals(&self, look: &Look<'_>, in_place: &InPlace) -> Vec<Rival> {
        let others = self
            .context
            .watched
            .restores
            .filter(&look.key.namespace, |other| {
                let theirs = other.spec.destination.stateful_set.as_ref();
                theirs.is_some_and(|theirs| theirs.name == in_place.name)
                    && other.name_any() != look.key.name
                    && archive_of(other).is_some()
            });
        others
            .iter()
            .map(|other| {
                let status = self.status.known(other.as_ref(), other.status.as_ref());
                Rival {
                    name: other.name_any(),
                    created: created(other, look.now),
                    phase: Phase::of(status.as_ref()),
                    suspended: other.spec.suspend,
                    going: other.metadata.deletion_timestamp.is_some(),
                }
            })
            .collect()
    }
}

fn told(outside: &outside::Outside) -> Outside {
    Outside {
        file: outside.file.clone(),
        setting: outside.setting.clone(),
        value: outside.value.clone(),
    }
}

/// A volume that could not hold the database if there were nothing else on it. Whether there is room is looked at by the
/// pod, which knows what comes free.
fn too_small(report: &InstanceReport, backup: &BackupFacts) -> Option<State> {
    let elsewhere: u64 = backup.tablespaces.iter().map(|one| one.bytes).sum();
    let needed = backup.database_bytes.saturating_sub(elsewhere);
    let volume = report
        .postgres
        .volume_bytes
        .filter(|volume| *volume < needed)?;
    Some(State::refused(
        "NoSpace",
        format!(
            "the volume of the data directory has {}Mi, and the database of the backup {} takes {}Mi: enlarge the claim, or restore into a larger one",
            volume >> 20,
            backup.id,
            needed.div_ceil(1 << 20)
        ),
    ))
}

fn lacks(backup: &str, lacking: &[Outside]) -> Option<State> {
    if lacking.is_empty() {
        return None;
    }
    let words: Vec<String> = lacking
        .iter()
        .map(|one| text::line(&format!("{} ({} in {})", one.value, one.setting, one.file)))
        .collect();
    Some(State::refused(
        "Lacking",
        format!(
            "Postgres would not start: the configuration in the backup {backup} names {}, which its pods lack: give them an image or a volume that has it, or name another backup in target.backup; with spec.force it is restored all the same",
            text::some(words.iter().map(String::as_str))
        ),
    ))
}

pub(super) fn created(restore: &Restore, now: Timestamp) -> Timestamp {
    let created = restore.metadata.creation_timestamp.as_ref();
    created.map_or(now, |time| time.0)
}

fn is_injected(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let mut containers = spec
        .and_then(|spec| spec.init_containers.as_ref())
        .into_iter()
        .flatten();
    containers.any(|container| container.name == BOOTSTRAP_CONTAINER)
}

#[cfg(test)]
mod tests {
    use super::super::claim::sample_backup;
    use super::*;

    #[test]
    fn only_what_could_never_fit_is_refused_here() {
        for (volume, bytes, fits) in [
            (None, u64::MAX, true),
            (Some(100), 100, true),
            (Some(99), 100, false),
        ] {
            let mut report = InstanceReport::default();
            report.postgres.volume_bytes = volume;
            let refused = too_small(&report, &sample_backup(bytes));
            assert_eq!(refused.is_none(), fits, "{volume:?} {bytes}: {refused:?}");
        }
    }

    #[test]
    fn what_is_lacking_is_named_with_where_it_is_said() {
        assert_eq!(lacks("b1", &[]), None);
        let one = Outside {
            file: "postgresql.auto.conf".into(),
            setting: "shared_preload_libraries".into(),
            value: "nosuch\nlie".into(),
        };
        let words = format!("{:?}", lacks("b1", &[one]));
        let said = "nosuch lie (shared_preload_libraries in postgresql.auto.conf)";
        assert!(words.contains(said), "{words}");
    }
}
