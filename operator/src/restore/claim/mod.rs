//! A restore into a claim, beside the database or where there is none: a Job does it.
//!
//! What pre-flight has planned is written into the status; then the Secret, the claim and the Job are made, each only
//! where it is not there yet. From then on the Job says how far it is. Secret and Job belong to the Restore and go with
//! it; the claim belongs to nobody. What it holds is a copy, which never archives into its source.

mod job;
mod layout;
mod names;
mod outcome;
mod secret;
mod shape;
mod volume;

use super::begin::created;
use super::phase::{COMPLETE, Phase, was_planned, was_started};
use super::preflight::Planned;
use super::report::State;
use super::{Look, POLL, Restores};
use crate::archive::{Member, WantedRepository, first_repository, members};
use crate::controller::{Outcome, ReconcileError};
use crate::names::{FIELD_MANAGER, Key};
use crate::objects::Watched;
use crate::repository::{OpenFailure, resolved};
use holdfast_crds::{ClaimTemplate, IntoClaim, RestoreAction};
use holdfast_protocol::status::{RestoreStatus, is_true};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Resource, ResourceExt};
use layout::{Layout, claims, layout};
use names::{is_of, name_of};
use outcome::{Told, outcome};
use secret::Source;
use serde::Serialize;
use serde_json::Value;
use shape::Shape;
use volume::Rival;

/// The label that Kubernetes puts on a Job's pods.
const JOB_LABEL: &str = "batch.kubernetes.io/job-name";

/// What the objects are made of.
struct Making {
    shape: Shape,
    repository: String,
}

impl Restores {
    /// One look at a Restore whose destination is a claim.
    pub(super) async fn restore_claim(
        &self,
        look: &mut Look<'_>,
        phase: Phase,
    ) -> Result<Outcome, ReconcileError> {
        let into = look
            .restore
            .spec
            .destination
            .persistent_volume_claim
            .clone();
        // The API server lets no Restore in without.
        let Some(into) = into else {
            return Ok(Outcome::Done);
        };
        if look.restore.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::Done);
        }
        if phase.has_ended() {
            self.paces().remove(look.key);
            self.delete_secret(look).await?;
            return Ok(Outcome::Done);
        }
        let job: Option<Job> = self.get(look, &name_of(&look.key.name)).await?;
        match job {
            Some(job) if is_of(&job.metadata, &look.restore) => {
                self.follow_job(look, &into, &job).await
            }
            Some(job) => self.stay(look, &taken("Job", &job.name_any())).await,
            None => self.make(look, &into).await,
        }
    }

    /// Checks, plans, and makes what does it.
    async fn make(&self, look: &mut Look<'_>, into: &IntoClaim) -> Result<Outcome, ReconcileError> {
        let spec = look.restore.spec.clone();
        let planned_before = was_planned(&look.status(), look.restore.metadata.generation);
        if spec.suspend && planned_before {
            return Ok(Outcome::Done);
        }
        let mut standing = Vec::new();
        for claim in claims(into) {
            let found: Option<PersistentVolumeClaim> = self.get(look, claim.0).await?;
            if let Err(state) = self.check_claim(look, claim, found.as_ref()).await? {
                return self.stay(look, &state).await;
            }
            standing.push((claim, found));
        }
        let mut known = members(&self.context, &look.archive);
        known.retain(|member| spec.source.archive_ref.is_some() && !member.finished);
        // What can't be archived now is lost to nobody: the database stays as it is.
        if let Err(state) = self.drain(look, &known, true).await {
            self.write(look, look.status(), &state).await?;
            return Ok(Outcome::Again(POLL));
        }
        let made = match self.choose(look, into, &known).await? {
            Ok(making) => making,
            Err(state) => return self.stay(look, &state).await,
        };
        let planned = self
            .preflight(look, &archive_of(look), &made.repository)
            .await;
        self.drained(look);
        let planned = planned.and_then(|planned| {
            let layout = layout(into, &made.shape, &planned.backup)?;
            for (claim, found) in &standing {
                let needed = layout.needed(into, claim.0);
                volume::check_room(*claim, found.as_ref(), needed)?;
            }
            Ok((planned, layout))
        });
        let (Planned { plan, .. }, layout) = match planned {
            Ok(planned) => planned,
            Err(state) => return self.stay(look, &state).await,
        };
        let status = RestoreStatus {
            backup: Some(plan.backup.clone()),
            plan: Some(plan.clone()),
            ..look.status()
        };
        if spec.suspend {
            self.write(look, status, &State::Suspended).await?;
            return Ok(Outcome::Done);
        }
        let message = format!(
            "the Job that restores into {} is being made",
            place(into, &made.shape.path)
        );
        let state = match was_started(&status) {
            false => State::Ordered {
                reason: "Preparing",
                message,
            },
            true => State::Restoring {
                reason: "Restoring",
                message,
                bad: false,
            },
        };
        self.write(look, status, &state).await?;
        let objects = self.make_objects(look, into, &made, &layout, &plan.backup);
        match objects.await? {
            Ok(()) => Ok(Outcome::Again(POLL)),
            Err(state) => self.stay(look, &state).await,
        }
    }

    /// Verbs: list on pods.
    async fn check_claim(
        &self,
        look: &Look<'_>,
        claim: (&str, Option<&ClaimTemplate>),
        standing: Option<&PersistentVolumeClaim>,
    ) -> Result<Result<(), State>, ReconcileError> {
        let (name, _) = claim;
        let users = match standing {
            None => Vec::new(),
            Some(_) => {
                let pods = self.pods(look, &ListParams::default()).await?;
                // Also those of a Job of this Restore that was deleted: two must not run on one directory.
                let job = name_of(&look.key.name);
                let left = volume::users(&pods, name, |owner| *owner == job);
                if !left.is_empty() {
                    let left = crate::text::some(left.iter().map(String::as_str));
                    return Ok(Err(State::passing(
                        "PodsGoing",
                        format!(
                            "waits until {left} of a Job that was deleted has ended: two must not write one directory"
                        ),
                    )));
                }
                volume::users(&pods, name, |owner| *owner != job)
            }
        };
        let own = (created(&look.restore, look.now), &look.key.name);
        let rivals = self
            .context
            .watched
            .restores
            .filter(&look.key.namespace, |other| {
                let theirs = other.spec.destination.persistent_volume_claim.as_ref();
                let theirs = theirs.map(claims).unwrap_or_default();
                theirs.iter().any(|(theirs, _)| *theirs == name)
                    && other.name_any() != look.key.name
            });
        let rivals: Vec<Rival> = rivals
            .iter()
            .map(|other| {
                let status = self.status.known(other.as_ref(), other.status.as_ref());
                let name = other.name_any();
                Rival {
                    phase: Phase::of(status.as_ref()),
                    is_older: (created(other, look.now), &name) < own,
                    name,
                }
            })
            .collect();
        Ok(volume::check(
            &look.restore,
            claim,
            standing,
            &users,
            &rivals,
        ))
    }

    /// By what runs, and from where.
    ///
    /// Verbs on pods: get.
    async fn choose(
        &self,
        look: &Look<'_>,
        into: &IntoClaim,
        members: &[Member],
    ) -> Result<Result<Making, State>, ReconcileError> {
        let spec = &look.restore.spec;
        let repository = match (&spec.source.archive_ref, &spec.source.repository_ref) {
            (Some(own), _) => {
                let archive = self
                    .context
                    .watched
                    .archives
                    .get(&look.key.beside(&own.name));
                let Some(archive) = archive else {
                    let message = format!(
                        "the Archive {} does not exist in this namespace: make it, or restore by repositoryRef",
                        own.name
                    );
                    return Ok(Err(State::bad("ArchiveNotFound", message)));
                };
                first_repository(&archive).map(str::to_owned)
            }
            (None, other) => other.as_ref().map(|other| other.name.clone()),
        };
        let Some(repository) = repository else {
            let message = "the Archive names no Repository: correct its spec.repositories";
            return Ok(Err(State::bad("RepositoryNotFound", message)));
        };
        let pod: Option<Pod> = match members.iter().find(|member| member.injected) {
            Some(member) => self.get(look, &member.name).await?,
            None => None,
        };
        let image = spec
            .postgres
            .as_ref()
            .map(|postgres| postgres.image.as_str());
        let shape = Shape::decide(pod.as_ref(), image, into.path.as_deref());
        Ok(shape.map(|shape| Making { shape, repository }))
    }

    /// The Secret, the claims and the Job, in this order, so that the Job finds the others.
    ///
    /// Verbs: create on persistentvolumeclaims and jobs; get, create and patch on secrets.
    async fn make_objects(
        &self,
        look: &Look<'_>,
        into: &IntoClaim,
        made: &Making,
        layout: &Layout,
        backup: &str,
    ) -> Result<Result<(), State>, ReconcileError> {
        let restore = look.restore.as_ref();
        let name = name_of(&look.key.name);
        let standing: Option<Secret> = self.get(look, &name).await?;
        if standing.is_some_and(|secret| !is_of(&secret.metadata, restore)) {
            return Ok(Err(taken("Secret", &name)));
        }
        let repository = look.key.beside(&made.repository);
        let resolved = match resolved(&self.context, &repository).await {
            Ok(resolved) => resolved,
            Err(OpenFailure::Api(error)) => return Err(error),
            Err(failure) => {
                return Ok(Err(State::bad("RepositoryUnusable", failure.to_string())));
            }
        };
        let source = Source {
            archive: &archive_of(look),
            repository: &WantedRepository {
                name: made.repository.clone(),
                required: true,
                resolved,
            },
            backup,
            target: &restore.spec.target,
        };
        let entries = secret::entries(restore, &source)
            .map_err(|error| ReconcileError::Other(error.to_string()))?;
        self.apply::<Secret>(look, &name, secret::secret(restore, entries))
            .await?;
        for (name, template) in claims(into) {
            if let Some(template) = template {
                let claim = volume::claim(restore, name, template);
                self.create::<PersistentVolumeClaim>(look, claim).await?;
            }
        }
        let inject = &self.context.settings.inject;
        let job = job::job(restore, into, &made.shape, layout, inject);
        self.create::<Job>(look, job).await?;
        Ok(Ok(()))
    }

    /// Tells what the Job says.
    async fn follow_job(
        &self,
        look: &mut Look<'_>,
        into: &IntoClaim,
        job: &Job,
    ) -> Result<Outcome, ReconcileError> {
        let label = format!("{JOB_LABEL}={}", job.name_any());
        let pods = self
            .pods(look, &ListParams::default().labels(&label))
            .await?;
        let status = look.status();
        let place = place(into, &path_of(job));
        let Told { state, reached } = outcome(&status, job, &pods, &place, into.verify);
        let status = RestoreStatus {
            recovered_to: reached.or(status.recovered_to),
            ..status
        };
        self.write(look, status, &state).await?;
        let known = look.status();
        if !Phase::of(Some(&known)).has_ended() {
            return Ok(Outcome::Again(POLL));
        }
        if is_true(&known.conditions, COMPLETE) {
            let left = match (into.verify, look.restore.spec.action) {
                (false, _) => "and recovers when Postgres is started on it",
                (true, RestoreAction::Shutdown) => "at its target, and not promoted",
                (true, _) => "promoted and shut down",
            };
            let note = format!(
                "the database is in {place}, {left}; the claim stays when this Restore is deleted"
            );
            let about = look.restore.object_ref(&());
            self.context
                .events
                .note(&about, "ClaimFilled", "Restore", &note)
                .await;
        }
        // Once more, for what is done when it has ended.
        Ok(Outcome::Again(std::time::Duration::ZERO))
    }

    /// Credentials and keys are not kept longer than they are needed.
    ///
    /// Verbs on secrets: get and delete.
    async fn delete_secret(&self, look: &Look<'_>) -> Result<(), ReconcileError> {
        let name = name_of(&look.key.name);
        let standing: Option<Secret> = self.get(look, &name).await?;
        let Some(secret) = standing.filter(|secret| is_of(&secret.metadata, &look.restore)) else {
            return Ok(());
        };
        let api: Api<Secret> = self.api(look);
        let exactly = DeleteParams {
            preconditions: Some(Preconditions {
                uid: secret.uid(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match api.delete(&name, &exactly).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(refused)) if matches!(refused.code, 404 | 409) => Ok(()),
            Err(error) => Err(ReconcileError::api("can't delete a restore's Secret")(
                error,
            )),
        }
    }

    async fn pods(&self, look: &Look<'_>, which: &ListParams) -> Result<Vec<Pod>, ReconcileError> {
        let api: Api<Pod> = self.api(look);
        let pods = api.list(which).await;
        Ok(pods.map_err(ReconcileError::api("can't list pods"))?.items)
    }

    fn api<K: Watched>(&self, look: &Look<'_>) -> Api<K> {
        Api::namespaced(self.context.client.clone(), &look.key.namespace)
    }

    async fn get<K: Watched>(
        &self,
        look: &Look<'_>,
        name: &str,
    ) -> Result<Option<K>, ReconcileError> {
        let found = self.api::<K>(look).get_opt(name).await;
        found.map_err(ReconcileError::api(
            "can't read what a restore into a claim needs",
        ))
    }

    /// Makes it where it is not there. Whose it is has been looked at.
    async fn create<K: Watched + Serialize>(
        &self,
        look: &Look<'_>,
        object: Value,
    ) -> Result<(), ReconcileError> {
        let object: K = typed(object)?;
        let parameters = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        match self.api::<K>(look).create(&parameters, &object).await {
            Ok(_) => {
                self.context
                    .metrics
                    .written(crate::objects::kind_word::<K>());
                Ok(())
            }
            Err(kube::Error::Api(refused)) if refused.code == 409 => Ok(()),
            Err(error) => Err(ReconcileError::api("can't make what restores into a claim")(error)),
        }
    }

    async fn apply<K: Watched + Serialize>(
        &self,
        look: &Look<'_>,
        name: &str,
        object: Value,
    ) -> Result<(), ReconcileError> {
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let applied = self
            .api::<K>(look)
            .patch(name, &parameters, &Patch::Apply(object))
            .await;
        applied.map_err(ReconcileError::api("can't write a restore's Secret"))?;
        self.context
            .metrics
            .written(crate::objects::kind_word::<K>());
        Ok(())
    }
}

fn typed<K: Watched>(object: Value) -> Result<K, ReconcileError> {
    serde_json::from_value(object).map_err(|error| ReconcileError::Other(error.to_string()))
}

/// As it is named in the repository: by the namespace that it was archived from.
fn archive_of(look: &Look<'_>) -> Key {
    let source = &look.restore.spec.source;
    match (&source.archive_ref, &source.namespace, &source.archive) {
        (None, Some(namespace), Some(archive)) => Key::new(namespace.clone(), archive.clone()),
        _ => look.archive.clone(),
    }
}

fn taken(kind: &str, name: &str) -> State {
    State::bad(
        "NameTaken",
        format!(
            "the {kind} {name} is there and is not of this Restore: delete it, or give another Restore another name"
        ),
    )
}

/// A directory of a claim, in words.
fn place(into: &IntoClaim, path: &str) -> String {
    format!("{path} of the claim {}", into.name)
}

/// Where the Job was told to put the data directory, below the claim's root.
fn path_of(job: &Job) -> String {
    let parts = || {
        let pod = job.spec.as_ref()?.template.spec.as_ref()?;
        let postgres = pod
            .containers
            .iter()
            .find(|one| one.name == job::POSTGRES_CONTAINER)?;
        let mut variables = postgres.env.iter().flatten();
        let directory = variables
            .find(|one| one.name == "PGDATA")?
            .value
            .as_deref()?;
        let mut mounts = postgres.volume_mounts.iter().flatten();
        let mount = mounts.find(|mount| mount.name == job::DATA_VOLUME)?;
        let path = directory.strip_prefix(mount.mount_path.as_str())?;
        Some(path.trim_start_matches('/').to_owned())
    };
    parts().unwrap_or_default()
}

#[cfg(test)]
pub(super) use volume::tests::backup as sample_backup;

#[cfg(test)]
mod tests {
    use holdfast_crds::Restore;
    use serde_json::{Value, json};

    pub fn restore(changes: Value) -> Restore {
        let mut restore = json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "Restore",
            "metadata": {"namespace": "fresh", "name": "copy", "uid": "r", "generation": 1},
            "spec": {"source": {"archiveRef": {"name": "orders"}}, "target": {"lsn": "0/5000000"},
                "destination": {"persistentVolumeClaim": {"name": "orders-copy", "template": {"size": "10Gi"}}}},
        });
        json_patch::merge(&mut restore, &changes);
        serde_json::from_value(restore).unwrap()
    }
}
