//! Reconciles Backup: waits for its turn, chooses a server, orders, follows, and tells what became of it.
//!
//! What was decided is written into the status before anything is ordered, and the order carries the object's UID as its
//! id: so an operator that starts goes on from the status alone, and ordering twice does nothing. An object with
//! `existingId` stands for what is stored, and is never carried out; the catalogue fills its status.

mod choose;
mod finalizer;
mod follow;
mod follower;
mod keep;
mod order;
mod parting;
mod phase;
mod report;
mod turn;

pub use choose::{Needs, NoServer, choose};
pub(crate) use finalizer::FINALIZER;
pub use follow::{Asked, Heard, Step, by_repository, by_sidecar};
pub(crate) use parting::namespace_ends;
pub use phase::{COMPLETE, EXPIRED, FAILED, KEPT, Phase, STARTED};
pub use report::{State, is_kept, of_facts, settle_into};
pub use turn::{InLine, before};

use crate::conditions::{Finding, find};
use crate::context::Context;
use crate::controller::{Controller, Outcome, ReconcileError};
use crate::names::Key;
use crate::status::StatusWriter;
use holdfast_crds::{Archive, Backup};
use holdfast_protocol::status::BackupStatus;
use holdfast_repository::backup::BackupId;
use jiff::Timestamp;
use kube::ResourceExt;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// While a backup runs.
const POLL: Duration = Duration::from_secs(2);
/// While it waits.
const WAITING: Duration = Duration::from_secs(10);
/// Figures that move are written this often at most.
const FIGURES: Duration = Duration::from_secs(5);

/// The controller.
pub struct Backups {
    context: Arc<Context>,
    status: StatusWriter<BackupStatus>,
    /// Of those that run.
    paces: Mutex<HashMap<Key, Pace>>,
    /// By Archive: the Backup that was given its turn last.
    turns: Mutex<HashMap<Key, Key>>,
}

/// When something was done last for a backup that runs.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    /// Its figures were written.
    written: Option<Instant>,
    /// The primary was told to close its segment.
    switched: Option<Instant>,
    /// The repository was asked.
    asked: Option<Instant>,
    /// The sidecar answered.
    heard: Option<Timestamp>,
}

/// One Backup, as a look begins.
struct Look<'a> {
    key: &'a Key,
    backup: Arc<Backup>,
    /// As it stands, also what the watch has not shown yet.
    known: Option<BackupStatus>,
    archive_key: Key,
    archive: Option<Arc<Archive>>,
    now: Timestamp,
}

impl Look<'_> {
    fn status(&self) -> BackupStatus {
        self.known.clone().unwrap_or_default()
    }

    /// The backup's id: the object's UID, or what it stands for.
    fn id(&self) -> Result<BackupId, ReconcileError> {
        let id = match self.backup.spec.existing_id.as_str() {
            "" => self.backup.uid().unwrap_or_default(),
            existing => existing.to_owned(),
        };
        id.parse()
            .map_err(|error| ReconcileError::Other(format!("{error}")))
    }

    /// The Repositories that the backup may lie in: those that its sidecar named, else all of the Archive's.
    fn repositories(&self) -> Vec<String> {
        let known = self.known.iter().flat_map(|status| &status.repositories);
        let named: Vec<String> = known.map(|stored| stored.name.clone()).collect();
        if !named.is_empty() {
            return named;
        }
        let archive = self.archive.iter();
        archive
            .flat_map(|archive| &archive.spec.repositories)
            .map(|repository| repository.name.clone())
            .collect()
    }
}

impl Backups {
    /// Nothing is remembered but what the objects say.
    pub fn new(context: Arc<Context>) -> Self {
        Self {
            status: context.backup_status.clone(),
            context,
            paces: Mutex::default(),
            turns: Mutex::default(),
        }
    }

    fn pace(&self, key: &Key) -> Pace {
        self.paces().get(key).copied().unwrap_or_default()
    }

    fn set_pace(&self, key: &Key, change: impl FnOnce(&mut Pace)) {
        change(self.paces().entry(key.clone()).or_default());
    }

    fn paces(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Pace>> {
        // Plain values, whole whatever happened to who held them.
        self.paces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a state, and the figures in `status`. Figures that moved alone are written now and then.
    async fn write(
        &self,
        look: &Look<'_>,
        mut status: BackupStatus,
        state: &State,
    ) -> Result<(), ReconcileError> {
        let known = look.known.as_ref();
        if !matches!(state, State::Running { .. }) {
            status.progress = None;
        }
        let kept = known.is_some_and(report::is_kept);
        let generation = look.backup.metadata.generation;
        let news = settle_into(&mut status, state, kept, generation, look.now);
        self.write_settled(look, status, &news).await
    }

    async fn write_settled(
        &self,
        look: &Look<'_>,
        status: BackupStatus,
        news: &[Finding],
    ) -> Result<(), ReconcileError> {
        let known = look.known.as_ref();
        self.context
            .metrics
            .conditions(Self::KIND, look.key, &status.conditions);
        let only_figures = known.is_some_and(|known| {
            known.conditions == status.conditions
                && known.pod == status.pod
                && known.progress.is_some() == status.progress.is_some()
        });
        let just_written = self
            .pace(look.key)
            .written
            .is_some_and(|at| at.elapsed() < FIGURES);
        if only_figures && just_written {
            return Ok(());
        }
        let phase = Phase::of(Some(&status));
        let written = self
            .status
            .write(look.backup.as_ref(), known, status, news)
            .await?;
        if written {
            self.set_pace(look.key, |pace| pace.written = Some(Instant::now()));
        }
        if phase.has_ended() {
            self.has_ended(look, written);
        }
        Ok(())
    }

    /// Lets others begin.
    fn has_ended(&self, look: &Look<'_>, just_now: bool) {
        self.paces().remove(look.key);
        self.give_back(&look.archive_key, look.key);
        if !just_now {
            return;
        }
        self.context.stored.stale(&self.context, &look.archive_key);
        for other in self.in_line(look) {
            self.context
                .wakers
                .backups
                .wake(look.key.beside(other.name));
        }
        let label = look.backup.labels().get(crate::schedule::SCHEDULE_LABEL);
        if let Some(schedule) = label {
            self.context
                .wakers
                .schedules
                .wake(look.key.beside(schedule.clone()));
        }
    }

    /// The Backups of the same Archive that have not ended, itself included.
    fn in_line(&self, look: &Look<'_>) -> Vec<InLine> {
        let archive = &look.backup.spec.archive_ref.name;
        let default = look
            .archive
            .as_ref()
            .map(|archive| archive.spec.backup.from)
            .unwrap_or_default();
        let all = self
            .context
            .watched
            .backups
            .filter(&look.key.namespace, |other| {
                other.spec.archive_ref.name == *archive && other.spec.existing_id.is_empty()
            });
        all.iter()
            .map(|other| {
                let status = self.status.known(other.as_ref(), other.status.as_ref());
                let conditions = status.as_ref().map_or(&[][..], |s| &s.conditions);
                let reason = find(conditions, STARTED).map(|c| c.reason.as_str());
                let created = other.metadata.creation_timestamp.as_ref();
                InLine {
                    name: other.name_any(),
                    created: created.map_or(look.now, |time| time.0),
                    phase: Phase::of(status.as_ref()),
                    wanted: other.spec.from.unwrap_or(default),
                    blocked: reason.is_some_and(choose::is_for_a_server),
                    going: other.metadata.deletion_timestamp.is_some(),
                }
            })
            .filter(|other| !other.phase.has_ended())
            .collect()
    }

    fn give_back(&self, archive: &Key, backup: &Key) {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if turns.get(archive) == Some(backup) {
            turns.remove(archive);
        }
    }
}

impl Controller for Backups {
    const KIND: &'static str = "Backup";
    const CONCURRENCY: usize = 16;

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ReconcileError> {
        let Some(backup) = self.context.watched.backups.get(key) else {
            self.paces().remove(key);
            self.turns
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .retain(|_, backup| backup != key);
            self.context.metrics.conditions(Self::KIND, key, &[]);
            return Ok(Outcome::Done);
        };
        let archive_key = key.beside(&backup.spec.archive_ref.name);
        let look = Look {
            key,
            known: self.status.known(backup.as_ref(), backup.status.as_ref()),
            archive: self.context.watched.archives.get(&archive_key),
            archive_key,
            backup,
            now: Timestamp::now(),
        };
        let conditions = look.known.as_ref().map_or(&[][..], |s| &s.conditions);
        self.context.metrics.conditions(Self::KIND, key, conditions);
        let phase = Phase::of(look.known.as_ref());
        if look.backup.metadata.deletion_timestamp.is_some() {
            return self.part(&look, phase).await;
        }
        if !look.backup.spec.existing_id.is_empty() || phase.has_ended() {
            self.has_ended(&look, false);
            if phase == Phase::Complete {
                self.sync_keep(&look).await?;
            }
            self.sync_finalizer(&look, phase).await?;
            return Ok(Outcome::Done);
        }
        match phase {
            Phase::Ordered => self.follow(&look).await,
            _ => self.order_in_turn(&look).await,
        }
    }
}
