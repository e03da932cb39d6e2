//! Reconciles Archive: renders the Secret of its pods, asks its sidecars, tells what can be recovered.
//!
//! Observe (Repositories, the Secrets that they name, pods, what sidecars say, what is stored), validate
//! ([`validate()`]), plan ([`render()`], [`Observed`], [`status()`]), apply (the Secret), write status. Nothing is
//! written while nothing changes.

mod figures;
mod histories;
mod identity;
mod member;
mod orphans;
mod plan;
mod render;
mod reports;
mod secret;
mod stored;
mod stores;
mod validate;
mod watched_pod;

pub use figures::{is_due, status};
pub use histories::Histories;
pub use identity::{IDENTITY_ACCEPTED, Identity};
pub use member::Member;
pub use orphans::Orphans;
pub use plan::{
    ARCHIVING, CONFIGURATION_APPLIED, INJECTED, OWNER, Observed, READY, RECOVERABLE, Rendering,
};
pub(crate) use render::{CONFIG, target};
pub use render::{Entries, Loaded, Own, Present, RenderError, render};
pub use reports::{Reports, Said, Wait};
pub(crate) use secret::present;
pub use stored::{Incarnation, Known, Stored, StoredArchives};
pub(crate) use stores::repository;
pub use validate::{Fault, Repositories, Wanted, WantedRepository, validate, wanted_repositories};
pub use watched_pod::WatchedPod;

use crate::conditions::settle;
use crate::context::Context;
use crate::controller::{Controller, Outcome, ReconcileError};
use crate::names::{Key, rendered_secret};
use crate::status::StatusWriter;
use holdfast_crds::{Archive, ArchiveStatus, Backup, Repository, RepositoryMode};
use holdfast_protocol::control::Role;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use secret::Written;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::time::Instant;

/// The controller.
pub struct Archives {
    context: Arc<Context>,
    status: StatusWriter<ArchiveStatus>,
    /// When figures were last written.
    figures: Mutex<HashMap<Key, Instant>>,
}

/// The pods that carry an archive's label, by name, with what their sidecars said last.
pub fn members(context: &Context, archive: &Key) -> Vec<Member> {
    let pods = &context.watched.pods;
    let pods = pods.filter(&archive.namespace, |pod| pod.archive() == Some(archive));
    let said = |uid: &str| context.reports.said(archive, uid);
    let mut members: Vec<Member> = pods.iter().filter_map(|pod| pod.member(said)).collect();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    members
}

/// The repository that an archive is read from: the first that has all of it.
pub fn first_repository(archive: &Archive) -> Option<&str> {
    let all = &archive.spec.repositories;
    all.iter()
        .find(|repository| repository.mode == RepositoryMode::Required)
        .or(all.first())
        .map(|repository| repository.name.as_str())
}

impl Archives {
    /// Has seen nothing yet.
    pub fn new(context: Arc<Context>) -> Self {
        Self {
            status: context.status_writer(),
            context,
            figures: Mutex::default(),
        }
    }

    fn forget(&self, key: &Key) {
        self.context.reports.forget(key);
        self.context.stored.forget(key);
        self.context.metrics.conditions(Self::KIND, key, &[]);
        self.lock().remove(key);
    }

    /// Has the Secret stand as it should.
    async fn render(
        &self,
        key: &Key,
        wanted: &Wanted,
        members: &[Member],
        identity: &Identity,
    ) -> Result<Rendering, ReconcileError> {
        let name = rendered_secret(&key.name);
        let seen = self.context.watched.rendered.get(&key.beside(&name));
        let present = seen.as_deref().map(secret::present);
        let keyring = self.context.authority.keyring();
        let standing = present.as_ref().and_then(Present::signed);
        let signed = match keyring.sidecar(key, standing, Timestamp::now()) {
            Ok(signed) => signed,
            Err(error) => {
                let why = format!("the sidecars' certificate can't be made: {error}");
                return Ok(Rendering::Failed("NoCertificate", why));
            }
        };
        let (histories, system) =
            histories_of(seen.as_deref(), present.as_ref(), members, identity);
        let order = crate::restore::ordered(&self.context, key);
        let own = Own {
            bundle: keyring.bundle(),
            signed: &signed,
            histories: &histories,
            system,
            order: order.as_ref(),
        };
        let content = match render(key, wanted, &own, present.as_ref(), loaded(members)) {
            Ok(content) => content,
            Err(error) => return Ok(Rendering::Failed("TooLarge", error.to_string())),
        };
        // Whose histories they are is told along.
        let content = match (content, present) {
            (None, Some(present)) if seen.as_deref().and_then(secret::system) != system => {
                Some(present)
            }
            (None, present) => {
                return Ok(Rendering::Stands(present.map_or(0, |p| p.generation)));
            }
            (content, _) => content,
        };
        let Some(content) = content else {
            return Ok(Rendering::Stands(0));
        };
        let Context {
            client, metrics, ..
        } = self.context.as_ref();
        match secret::write(client, metrics, key, &content, system, seen.as_deref()).await? {
            Written::Done => {
                // Another key, other credentials: whether they open what is stored is seen now and not in ten minutes.
                self.context.stored.stale(&self.context, key);
                Ok(Rendering::Stands(content.generation))
            }
            Written::Taken => {
                let why = format!(
                    "a Secret {name} that Holdfast did not make stands where the pods look for theirs: rename it, or give the Archive another name"
                );
                Ok(Rendering::Failed("SecretTaken", why))
            }
        }
    }

    /// The Backup object that stands for what is stored under an id.
    fn backup_name(&self, archive: &Key, id: &str) -> Option<String> {
        let is_it = |backup: &Backup| {
            backup.spec.archive_ref.name == archive.name
                && (backup.spec.existing_id == id
                    || (backup.spec.existing_id.is_empty()
                        && backup.metadata.uid.as_deref() == Some(id)))
        };
        let backups = &self.context.watched.backups;
        let found = backups.filter(&archive.namespace, is_it);
        // Deterministic, should there be several.
        found.iter().map(|backup| backup.name_any()).min()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Instant>> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Controller for Archives {
    const KIND: &'static str = "Archive";
    const CONCURRENCY: usize = 32;

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ReconcileError> {
        let context = &self.context;
        let Some(archive) = context.watched.archives.get(key) else {
            self.forget(key);
            return Ok(Outcome::Done);
        };
        // Observe.
        let repositories: Repositories = wanted_repositories(&archive.spec)
            .map(|name| {
                let found = context.watched.repositories.get(&key.beside(name));
                (name.to_owned(), found)
            })
            .collect();
        let names = validate::wanted_secrets(&archive.spec, &repositories);
        let found = match archive.status {
            Some(_) => context.secrets.get(&key.namespace, names).await?,
            // Who has just made it has often just made its Secrets, too.
            None => context.secrets.get_now(&key.namespace, names).await?,
        };
        let mut members = members(context, key);
        let everybody = context.watched.pods.count();
        let (next_report, waits) = context
            .reports
            .ask(&context.sidecars, key, &mut members, everybody)
            .await;
        for wait in waits {
            wait_for_news(context.clone(), key.clone(), wait);
        }
        let stored_before = context.stored.get(key);
        let next_reading = match first_repository(&archive) {
            Some(repository) => context.stored.refresh(context, key, repository),
            None => next_report,
        };
        let stored = context.stored.get(key);
        let identity = Identity::of(&stored, &members, &archive.spec.accept_system_identifier);
        if is_behind(&stored_before, &members, &identity) {
            context.stored.expect_change(key);
        }

        // Validate, plan and apply.
        let rendering = match validate(&archive.spec, &repositories, &found) {
            Ok(wanted) => self.render(key, &wanted, &members, &identity).await?,
            Err(faults) => Rendering::Faulty(faults),
        };

        // Status.
        let known = self.status.known(archive.as_ref(), archive.status.as_ref());
        let before = known.as_ref().map_or(&[][..], |status| &status.conditions);
        let present: Vec<&Repository> = repositories.values().flatten().map(Arc::as_ref).collect();
        let findings = Observed {
            namespace: &key.namespace,
            name: &key.name,
            repositories: &present,
            members: &members,
            rendering: &rendering,
            stored: &stored,
            identity: &identity,
            before,
        }
        .findings();
        let settled = settle(
            before,
            findings,
            archive.metadata.generation,
            Timestamp::now(),
        );
        context
            .metrics
            .conditions(Self::KIND, key, &settled.conditions);
        let backup_name = |id: &str| self.backup_name(key, id);
        let next = status(
            &members,
            &stored,
            identity.accepted,
            backup_name,
            settled.conditions,
            known.as_ref(),
        );
        let last = self.lock().get(key).map(Instant::elapsed);
        if is_due(known.as_ref(), &next, last) {
            self.status
                .write(archive.as_ref(), known.as_ref(), next, &settled.news)
                .await?;
            self.lock().insert(key.clone(), Instant::now());
        }
        Ok(Outcome::Again(next_report.min(next_reading)))
    }
}

/// Has the Archive looked at as soon as a sidecar has news: what turns is told at once, and not when it is asked next.
fn wait_for_news(context: Arc<Context>, archive: Key, wait: Wait) {
    context.tasks.clone().spawn(async move {
        let news = tokio::select! {
            news = context.sidecars.news(&wait.sidecar, &wait.mark) => news.ok(),
            () = context.stop.cancelled() => return,
        };
        context.reports.heard(&archive, &wait, news);
        context.wakers.archives.wake(archive);
    });
}

/// What every instance is given, and whose they are.
fn histories_of(
    seen: Option<&Secret>,
    present: Option<&Present>,
    members: &[Member],
    identity: &Identity,
) -> (Histories, Option<holdfast_postgres::SystemIdentifier>) {
    let theirs = seen.and_then(secret::system);
    let standing = present.map(Present::histories).unwrap_or_default();
    match identity.accepted {
        // Nothing new is known: what stands stays.
        None => (standing, theirs),
        Some(accepted) => {
            let same = theirs.is_none_or(|theirs| theirs == accepted);
            let standing = if same { standing } else { Histories::new() };
            (
                histories::collect(standing, members, accepted),
                Some(accepted),
            )
        }
    }
}

/// How far the instances are with settings. One that does not answer may use any.
fn loaded(members: &[Member]) -> Loaded {
    let generations = || {
        members
            .iter()
            .filter(|member| member.counts() && member.injected)
            .map(|member| {
                let report = member.report()?;
                report.configuration_generation
            })
    };
    Loaded {
        newest: generations().flatten().max().unwrap_or(0),
        oldest: generations()
            .map(|generation| generation.unwrap_or(0))
            .min(),
    }
}

/// Whether the primary has archived what was not there when the repository was last read: of another cluster, or on
/// another timeline.
fn is_behind(stored: &Known, members: &[Member], identity: &Identity) -> bool {
    let Known::Read(stored) = stored else {
        return false;
    };
    members.iter().any(|member| {
        let Some(report) = member.report() else {
            return false;
        };
        let archives = member.role() == Some(Role::Primary)
            && member.system() == identity.accepted
            && report.wal.last_archived.is_some();
        let known = stored.newest.as_ref();
        let same = known.is_some_and(|newest| {
            Some(newest.system) == identity.accepted
                && newest.timeline.map(|timeline| timeline.0) >= report.postgres.timeline
        });
        archives && !same
    })
}

#[cfg(test)]
mod tests {
    use super::member::tests::{member, reporting};
    use super::plan::tests::stored;
    use super::*;
    use serde_json::json;

    #[test]
    fn an_instance_that_does_not_answer_may_use_any_settings() {
        let at = |n, generation| reporting(n, json!({"configurationGeneration": generation}));
        let plain = || member(json!({"spec": {"initContainers": null}}));
        for (members, newest, oldest) in [
            (vec![], 0, None),
            (vec![plain()], 0, None),
            (vec![at(0, 3)], 3, Some(3)),
            (vec![at(0, 3), at(1, 5)], 5, Some(3)),
            (vec![at(0, 3), member(json!({}))], 3, Some(0)),
        ] {
            assert_eq!(loaded(&members), Loaded { newest, oldest }, "{members:?}");
        }
    }

    #[test]
    fn the_repository_is_read_again_when_the_primary_is_ahead_of_it() {
        let primary = |timeline: u32, archived: bool| {
            let mut report = json!({"postgres": {"role": "Primary", "systemIdentifier": "7", "timeline": timeline}});
            if archived {
                let last = json!({"lastArchived": {"name": "a", "time": "2026-11-21T12:00:00Z"}});
                report["wal"] = last;
            }
            vec![reporting(0, report)]
        };
        for (known, members, behind) in [
            (Known::NotYet, primary(1, true), false),
            (stored(None), primary(1, true), true),
            (stored(None), primary(1, false), false),
            (stored(Some(7)), primary(1, true), false),
            (stored(Some(7)), primary(2, true), true),
            // Not accepted: nothing of it can be there.
            (stored(Some(8)), primary(1, true), false),
        ] {
            let identity = Identity::of(&known, &members, "");
            assert_eq!(is_behind(&known, &members, &identity), behind, "{known:?}");
        }
    }

    #[test]
    fn histories_belong_to_one_cluster() {
        let line = "1\t0/3000000\tno\n";
        let reported = reporting(
            0,
            json!({"postgres": {"systemIdentifier": "8"}, "wal": {"histories": [{"name": "00000003.history", "content": line}]}}),
        );
        let secret: Secret = serde_json::from_value(json!({
            "metadata": {"annotations": {"holdfast.dev/system-identifier": "7"}}
        }))
        .unwrap();
        let present = Present {
            generation: 1,
            entries: Entries::from([("00000002.history".into(), line.into())]),
        };
        let names = |members: &[Member], known: &Known, consent: &str| {
            let identity = Identity::of(known, members, consent);
            let (files, of) = histories_of(Some(&secret), Some(&present), members, &identity);
            (
                files.into_keys().collect::<Vec<_>>(),
                of.map(|system| system.0),
            )
        };
        let members = [reported];
        // Nobody knows more; another database without consent; with consent.
        assert_eq!(
            names(&[], &Known::NotYet, ""),
            (vec!["00000002.history".into()], Some(7))
        );
        assert_eq!(
            names(&members, &stored(Some(7)), ""),
            (vec!["00000002.history".into()], Some(7))
        );
        assert_eq!(
            names(&members, &stored(Some(7)), "8"),
            (vec!["00000003.history".into()], Some(8))
        );
    }
}
