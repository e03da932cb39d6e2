//! What the deletion of a Backup's object does: it cancels a backup that runs, and with deletionPolicy Delete has what
//! is stored deleted. Nothing holds the object for ever: not a pod that is gone, not a namespace that goes, not a
//! Repository that is gone.

use super::finalizer;
use super::follow::Heard;
use super::phase::Phase;
use super::report::{Said, said};
use super::{Backups, Look};
use crate::archive::members;
use crate::controller::{Outcome, ReconcileError};
use crate::names::Key;
use crate::repository::{Access, OpenFailure, open_archive};
use holdfast_crds::{Backup, DeletionPolicy};
use holdfast_repository::Archive;
use holdfast_repository::catalogue::incarnation_of;
use holdfast_repository::expiry::ask_to_delete;
use holdfast_repository::owner::{self, Ownership};
use jiff::SignedDuration;
use kube::api::{Api, PostParams};
use kube::{Client, Resource, ResourceExt};
use std::time::Duration;

/// A sidecar that can't be reached is waited for so long.
const PATIENCE: SignedDuration = SignedDuration::from_mins(5);
/// Until a cancelled backup has ended.
const POLL: Duration = Duration::from_secs(1);

/// Whether a backup that shall end has ended. Pure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// It has.
    Ended,
    /// It has to be told.
    Cancel,
    /// It can't be told; perhaps later.
    Wait,
    /// It can't be told, and was waited for.
    LetGo,
}

fn ending(heard: &Heard, waited: SignedDuration) -> Ending {
    match heard {
        Heard::Forgotten | Heard::PodGone => Ending::Ended,
        Heard::Status(status) => match said(status) {
            Said::Complete | Said::Failed(..) => Ending::Ended,
            Said::Running(_) => Ending::Cancel,
        },
        Heard::Silent(_) if waited < PATIENCE => Ending::Wait,
        Heard::Silent(_) => Ending::LetGo,
    }
}

impl Backups {
    pub(super) async fn part(
        &self,
        look: &Look<'_>,
        phase: Phase,
    ) -> Result<Outcome, ReconcileError> {
        if !finalizer::has(&look.backup) {
            self.has_ended(look, false);
            return Ok(Outcome::Done);
        }
        let ordered = phase == Phase::Ordered && look.backup.spec.existing_id.is_empty();
        if ordered && let Some(again) = self.cancel(look).await? {
            return Ok(again);
        }
        let may_be_stored = ordered || phase == Phase::Complete;
        if look.backup.spec.deletion_policy == DeletionPolicy::Delete && may_be_stored {
            self.delete_stored(look).await?;
        }
        self.set_finalizer(look, false).await?;
        self.has_ended(look, true);
        Ok(Outcome::Done)
    }

    /// Ends the backup; answers when to look again while it has not ended.
    async fn cancel(&self, look: &Look<'_>) -> Result<Option<Outcome>, ReconcileError> {
        let pod = look.status().pod;
        let members = members(&self.context, &look.archive_key);
        let server = members
            .iter()
            .find(|member| Some(&member.name) == pod.as_ref() && !member.finished);
        let heard = self.hear(look, server).await?;
        let since = look.backup.metadata.deletion_timestamp.as_ref();
        let waited = since.map_or(SignedDuration::ZERO, |time| look.now.duration_since(time.0));
        match ending(&heard, waited) {
            Ending::Ended => Ok(None),
            Ending::Cancel => {
                if let Some(sidecar) = server.and_then(|server| server.sidecar())
                    && let Err(error) = self
                        .context
                        .sidecars
                        .cancel_backup(&sidecar, &look.id()?)
                        .await
                {
                    tracing::info!(backup = %look.key, "can't be cancelled yet: {error}");
                }
                Ok(Some(Outcome::Again(POLL)))
            }
            Ending::Wait => Ok(Some(Outcome::Again(POLL * 3))),
            Ending::LetGo => {
                let pod = pod.unwrap_or_default();
                self.say(look, "NotCancelled", &format!("the sidecar of {pod} can't be reached, so the backup may go on there; what it stores expires as the Archive's retention says")).await;
                Ok(None)
            }
        }
    }

    /// Has what is stored deleted, in every repository of the Archive that is ours.
    async fn delete_stored(&self, look: &Look<'_>) -> Result<(), ReconcileError> {
        if namespace_ends(&self.context.client, &look.key.namespace).await? {
            let note = "what is stored stays, for the namespace is being deleted: nothing stored is ever deleted with its namespace";
            self.say(look, "BackupRetained", note).await;
            return Ok(());
        }
        let id = look.id()?.to_string();
        let others = self
            .context
            .watched
            .backups
            .filter(&look.key.namespace, |other| {
                let same = other.uid().as_ref() == Some(&id) || other.spec.existing_id == id;
                same && other.name_any() != look.key.name
                    && other.spec.archive_ref == look.backup.spec.archive_ref
                    && other.metadata.deletion_timestamp.is_none()
            });
        if let Some(other) = others.first() {
            let note = format!(
                "what is stored stays, for the Backup {} stands for it, too",
                other.name_any()
            );
            self.say(look, "BackupRetained", &note).await;
            return Ok(());
        }
        let Some(archive) = &look.archive else {
            self.say(
                look,
                "BackupRetained",
                "what is stored stays, for the Archive that names its Repository is gone",
            )
            .await;
            return Ok(());
        };
        for repository in &archive.spec.repositories {
            let name = &repository.name;
            match open_archive(&self.context, &look.archive_key, name, Access::Maintain).await {
                Ok(archive) => self.delete_in(look, name, &archive).await?,
                Err(failure) if failure.is_not_there() => {}
                Err(failure @ OpenFailure::NoRepository(_)) => {
                    let note = format!("what is stored stays: {failure}");
                    self.say(look, "BackupRetained", &note).await;
                }
                Err(failure) => {
                    let note = format!(
                        "what is stored can't be deleted yet: {failure}; to let the object go without it, set deletionPolicy to Retain"
                    );
                    self.say(look, "NotDeletedYet", &note).await;
                    return Err(ReconcileError::Other(note));
                }
            }
        }
        Ok(())
    }

    async fn delete_in(
        &self,
        look: &Look<'_>,
        repository: &str,
        archive: &Archive,
    ) -> Result<(), ReconcileError> {
        let id = look.id()?;
        let failed = |error: &dyn std::error::Error| {
            ReconcileError::Other(format!("what is stored can't be deleted yet: {error}"))
        };
        let present = owner::present(archive).await.map_err(|e| failed(&e))?;
        if let Ownership::Other { id, .. } =
            owner::ownership(present.as_ref(), &self.context.installation)
        {
            let note = format!(
                "what is stored in {repository} stays, for {id} owns this archive: only the owner deletes"
            );
            self.say(look, "BackupRetained", &note).await;
            return Ok(());
        }
        let Some(system) = incarnation_of(archive, &id).await.map_err(|e| failed(&e))? else {
            return Ok(());
        };
        let Key { namespace, name } = look.key;
        let reason =
            format!("the Backup {namespace}/{name} was deleted, and its deletionPolicy is Delete");
        let (installation, version) = (&self.context.installation, env!("CARGO_PKG_VERSION"));
        ask_to_delete(archive, system, &id, installation, version, &reason)
            .await
            .map_err(|e| failed(&e))?;
        let note = format!(
            "what is stored in {repository} will be deleted, once the recovery window can do without it"
        );
        self.context
            .events
            .note(
                &look.backup.object_ref(&()),
                "BackupDeletion",
                "Delete",
                &note,
            )
            .await;
        Ok(())
    }

    async fn say(&self, look: &Look<'_>, reason: &str, note: &str) {
        let about = look.backup.object_ref(&());
        self.context
            .events
            .warn(&about, reason, "Delete", note)
            .await;
    }
}

/// Whether a namespace is being deleted: then nothing can be made in it any more, which is asked without making
/// anything. Reading the namespace itself would take a right over the whole cluster.
///
/// Verbs on backups: create.
pub(crate) async fn namespace_ends(
    client: &Client,
    namespace: &str,
) -> Result<bool, ReconcileError> {
    let api: Api<Backup> = Api::namespaced(client.clone(), namespace);
    let parameters = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let spec = serde_json::from_value(serde_json::json!({"archiveRef": {"name": "none"}}))
        .map_err(|error| ReconcileError::Other(error.to_string()))?;
    let mut probe = Backup::new("holdfast-", spec);
    probe.metadata.generate_name = probe.metadata.name.take();
    match api.create(&parameters, &probe).await {
        Ok(_) => Ok(false),
        Err(kube::Error::Api(refused)) if is_ending(&refused) => Ok(true),
        Err(kube::Error::Api(refused)) if refused.code == 404 => Ok(true),
        Err(error) => Err(ReconcileError::api(
            "can't tell whether the namespace is being deleted",
        )(error)),
    }
}

/// What the API server's admission says of everything that is new in such a namespace.
fn is_ending(refused: &kube::core::Status) -> bool {
    let causes = refused.details.iter().flat_map(|details| &details.causes);
    refused.code == 403
        && causes
            .into_iter()
            .any(|cause| cause.reason == "NamespaceTerminating")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nothing_holds_an_object_for_ever() {
        let status = |conditions| {
            let status = json!({"id": "u", "conditions": conditions});
            Heard::Status(Box::new(serde_json::from_value(status).unwrap()))
        };
        let condition = |kind: &str| json!([{"type": kind, "status": "True", "reason": "X", "message": "", "lastTransitionTime": "2026-11-20T00:00:00Z"}]);
        for (heard, minutes, expected) in [
            (status(json!([])), 0, Ending::Cancel),
            (status(json!([])), 600, Ending::Cancel),
            (status(condition("Failed")), 0, Ending::Ended),
            (status(condition("Complete")), 0, Ending::Ended),
            (Heard::Forgotten, 0, Ending::Ended),
            (Heard::PodGone, 0, Ending::Ended),
            (Heard::Silent(String::new()), 4, Ending::Wait),
            (Heard::Silent(String::new()), 5, Ending::LetGo),
        ] {
            let waited = SignedDuration::from_mins(minutes);
            assert_eq!(ending(&heard, waited), expected, "{heard:?} {minutes}");
        }
    }

    #[test]
    fn a_namespace_that_goes_is_told_by_its_refusal() {
        let refusal = |reason: &str, code: u16| {
            serde_json::from_value(json!({
                "status": "Failure", "code": code, "reason": "Forbidden",
                "message": "backups is forbidden: unable to create new content in namespace x because it is being terminated",
                "details": {"causes": [{"reason": reason, "message": "namespace x is being terminated", "field": "metadata.namespace"}]},
            }))
            .unwrap()
        };
        assert!(is_ending(&refusal("NamespaceTerminating", 403)));
        assert!(!is_ending(&refusal("FieldValueInvalid", 403)));
        assert!(!is_ending(&refusal("NamespaceTerminating", 422)));
    }
}
