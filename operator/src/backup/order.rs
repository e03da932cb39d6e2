//! Waiting for a turn and for a server, and ordering.

use super::choose::{Needs, choose, is_for_a_server};
use super::phase::Phase;
use super::report::State;
use super::turn::before;
use super::{Backups, Look, POLL, WAITING};
use crate::archive::{Member, members};
use crate::conditions::find;
use crate::controller::{Outcome, ReconcileError};
use crate::names::{GENERATION_ANNOTATION, rendered_secret};
use crate::sidecar_client::SidecarError;
use holdfast_protocol::control::BackupOrder;
use holdfast_protocol::status::BackupStatus;
use kube::ResourceExt;
use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::Duration;

/// After an order was accepted: small databases are quick.
const FIRST_POLL: Duration = Duration::from_secs(1);

/// Why a backup does not begin.
struct Wait {
    reason: &'static str,
    message: String,
    bad: bool,
}

impl Wait {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        // Somebody has to do something about it; the others pass by themselves.
        let bad = matches!(
            reason,
            "NoPod" | "ArchivingOff" | "ArchivingFails" | "SeveralPrimaries"
        );
        Self {
            reason,
            message,
            bad,
        }
    }
}

impl Backups {
    pub(super) async fn order_in_turn(&self, look: &Look<'_>) -> Result<Outcome, ReconcileError> {
        match self.find_server(look) {
            Err(wait) => {
                self.give_back(&look.archive_key, look.key);
                let Wait {
                    reason,
                    message,
                    bad,
                } = wait;
                let state = State::Waiting {
                    reason,
                    message,
                    bad,
                };
                let status = BackupStatus {
                    id: look.id()?.to_string(),
                    pod: None,
                    ..look.status()
                };
                self.write(look, status, &state).await?;
                Ok(Outcome::Again(WAITING))
            }
            Ok(server) => self.order(look, &server).await,
        }
    }

    /// The server to be read, and the turn.
    fn find_server(&self, look: &Look<'_>) -> Result<Member, Wait> {
        let Some(archive) = &look.archive else {
            let name = &look.archive_key.name;
            return Err(Wait::new(
                "ArchiveNotFound",
                format!("the Archive {name} does not exist in this namespace: make it"),
            ));
        };
        if archive.metadata.deletion_timestamp.is_some() {
            return Err(Wait::new("ArchiveNotFound", "the Archive is being deleted"));
        }
        if archive.spec.suspend {
            return Err(Wait::new(
                "ArchiveSuspended",
                "spec.suspend of the Archive is true: no backups begin",
            ));
        }
        if let Some(restore) = crate::restore::under_way(&self.context, &look.archive_key) {
            let message =
                format!("the Restore {restore} is carried out: the backup begins after it");
            return Err(Wait::new("RestoreRuns", message));
        }
        let rendered = look.key.beside(rendered_secret(&look.archive_key.name));
        let generation = self.context.watched.rendered.get(&rendered);
        let generation = generation.and_then(|secret| {
            let annotation = secret.annotations().get(GENERATION_ANNOTATION)?;
            annotation.parse::<i64>().ok()
        });
        let Some(generation) = generation else {
            let conditions = archive.status.as_ref().map(|s| s.conditions.as_slice());
            let ready = find(conditions.unwrap_or_default(), "Ready");
            let why = ready.map_or("", |ready| ready.message.as_str());
            return Err(Wait::new(
                "ArchiveNotReady",
                format!("the Archive's settings are not there yet: {why}"),
            ));
        };
        // The turn is taken under the lock, so that of two that look at once one goes first.
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let line = self.in_line(look);
        if let Some(own) = line.iter().find(|one| one.name == look.key.name)
            && let Some((other, runs)) = before(own, &line)
        {
            let message = if runs {
                format!("the backup {other} runs")
            } else {
                format!("it is the turn of {other}")
            };
            return Err(Wait::new("AnotherBackup", message));
        }
        if let Some(taken) = turns.get(&look.archive_key).filter(|key| *key != look.key) {
            return Err(Wait::new(
                "AnotherBackup",
                format!("it is the turn of {}", taken.name),
            ));
        }
        let members = members(&self.context, &look.archive_key);
        let wanted = look.backup.spec.from.unwrap_or(archive.spec.backup.from);
        let ended = self.ended(look);
        let needs = Needs {
            generation,
            ended: &ended,
        };
        let server = choose(&members, wanted, needs)
            .map_err(|no| Wait::new(no.reason, no.message))?
            .clone();
        turns.insert(look.archive_key.clone(), look.key.clone());
        Ok(server)
    }

    /// Ids of the Archive's backups that have ended.
    fn ended(&self, look: &Look<'_>) -> BTreeSet<String> {
        let archive = &look.backup.spec.archive_ref.name;
        let backups = self
            .context
            .watched
            .backups
            .filter(&look.key.namespace, |b| {
                b.spec.archive_ref.name == *archive && b.spec.existing_id.is_empty()
            });
        backups
            .iter()
            .filter(|backup| {
                let status = self.status.known(backup.as_ref(), backup.status.as_ref());
                Phase::of(status.as_ref()).has_ended()
            })
            .filter_map(|backup| backup.uid())
            .collect()
    }

    async fn order(&self, look: &Look<'_>, server: &Member) -> Result<Outcome, ReconcileError> {
        self.sync_finalizer(look, Phase::Ordered).await?;
        let status = BackupStatus {
            id: look.id()?.to_string(),
            pod: Some(server.name.clone()),
            ..look.status()
        };
        let state = State::Ordering(format!("it is being ordered from {}", server.name));
        self.write(look, status.clone(), &state).await?;
        let look = Look {
            known: self
                .status
                .known(look.backup.as_ref(), look.backup.status.as_ref()),
            archive: look.archive.clone(),
            archive_key: look.archive_key.clone(),
            backup: look.backup.clone(),
            ..*look
        };
        self.send_order(&look, server).await
    }

    /// Orders from the server in the status. Also where it was ordered already, and whether it was taken is unknown.
    pub(super) async fn send_order(
        &self,
        look: &Look<'_>,
        server: &Member,
    ) -> Result<Outcome, ReconcileError> {
        let Some(sidecar) = server.sidecar() else {
            return Ok(Outcome::Again(POLL));
        };
        let order = BackupOrder {
            r#type: look.backup.spec.r#type,
            id: Some(look.id()?.to_string()),
            pod_uid: Some(server.uid.clone()),
        };
        match self.context.sidecars.start_backup(&sidecar, &order).await {
            Ok(_) => {
                self.set_pace(look.key, |pace| pace.heard = Some(look.now));
                self.context.reports.hurry(&look.archive_key, &server.uid);
                let state = State::Running {
                    reason: "Running",
                    message: "the backup runs".to_owned(),
                };
                self.write(look, look.status(), &state).await?;
                Ok(Outcome::Again(FIRST_POLL))
            }
            Err(SidecarError::Refused { code: 422, message }) => {
                let reason = "Refused".to_owned();
                let state = State::Failed { reason, message };
                self.write(look, look.status(), &state).await?;
                Ok(Outcome::Done)
            }
            Err(SidecarError::Refused { message, .. }) => {
                // It was not taken: another server may do, or this one later.
                self.give_back(&look.archive_key, look.key);
                let message = format!("{} does not take it now: {message}", server.name);
                let state = State::Waiting {
                    reason: "ServerBusy",
                    message,
                    bad: false,
                };
                debug_assert!(is_for_a_server("ServerBusy"));
                let status = BackupStatus {
                    pod: None,
                    ..look.status()
                };
                self.write(look, status, &state).await?;
                Ok(Outcome::Again(WAITING))
            }
            Err(error @ (SidecarError::Unreachable { .. } | SidecarError::Protocol { .. })) => {
                let state = State::Ordering(format!(
                    "it is being ordered from {}; whether the order was taken is not known: {error}",
                    server.name
                ));
                self.write(look, look.status(), &state).await?;
                Ok(Outcome::Again(POLL))
            }
        }
    }
}
