//! Reconciles Restore: checks that the target can be reached, orders, lets the pods go on, and tells where recovery
//! ended.
//!
//! What was decided is written into the status before anything is done, so an operator that starts goes on from the
//! status alone. The order itself reaches the pods in the settings of their Archive, which that Archive's controller
//! renders from the Restore's status ([`ordered`]); a pod that finds it holds until it is told to go on, and is told
//! only once every pod of before is gone.

mod begin;
mod check;
mod claim;
mod drain;
mod finalizer;
mod follower;
mod order;
mod parting;
mod phase;
mod preflight;
mod report;
mod step;
mod wipe;

pub use check::{Observed, Rival, check};
pub(crate) use finalizer::FINALIZER;
pub use order::{archive_of, needed, order_id, order_of, ordered, under_way};
pub use phase::{CHECKED, COMPLETE, FAILED, Phase, RESTORED, STARTED};
pub use report::{State, Waits, settle_into};
pub use step::{Act, Seen, Step, step};

use crate::archive::{Member, Said, members};
use crate::backup;
use crate::context::Context;
use crate::controller::{Controller, Outcome, ReconcileError};
use crate::names::Key;
use crate::status::StatusWriter;
use crate::text;
use holdfast_crds::Restore;
use holdfast_protocol::status::RestoreStatus;
use jiff::Timestamp;
use kube::ResourceExt;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// While something is on its way.
const POLL: Duration = Duration::from_secs(2);
/// While it waits.
const WAITING: Duration = Duration::from_secs(10);
/// Figures that move are written this often at most.
const FIGURES: Duration = Duration::from_secs(5);

/// The controller.
pub struct Restores {
    context: Arc<Context>,
    status: StatusWriter<RestoreStatus>,
    /// Of those that have not ended.
    paces: Mutex<HashMap<Key, Pace>>,
    /// Held from the last look at the others until an order is written down.
    ordering: tokio::sync::Mutex<()>,
}

/// When something was done last for a Restore. An operator that starts may do it once more.
#[derive(Debug, Clone, Default)]
struct Pace {
    /// Its figures were written.
    written: Option<Instant>,
    /// The drain began.
    draining: Option<Instant>,
    /// UIDs of pods that have nothing more to drain.
    drained: HashSet<String>,
    /// Pods that had come with older settings were deleted.
    deleted: Option<Instant>,
    /// Since when a pod, by its UID, answers and has nothing to do.
    idle: HashMap<String, Instant>,
    /// No pod needs the order any more.
    is_spent: bool,
}

/// One Restore, as a look begins.
struct Look<'a> {
    key: &'a Key,
    restore: Arc<Restore>,
    /// As it stands, also what the watch has not shown yet.
    known: Option<RestoreStatus>,
    /// Whose pods are restored. Until that is checked: or what the source calls so.
    archive: Key,
    now: Timestamp,
}

impl Look<'_> {
    fn status(&self) -> RestoreStatus {
        self.known.clone().unwrap_or_default()
    }
}

/// The pods that a StatefulSet has made for an archive.
fn members_of(context: &Context, archive: &Key, set: &str) -> Vec<Member> {
    let is_own = |member: &Member| {
        let made_by = member.controller.as_ref();
        made_by.is_some_and(|(kind, name)| kind == "StatefulSet" && name == set)
    };
    let mut members = members(context, archive);
    members.retain(is_own);
    members
}

impl Restores {
    /// Nothing is remembered but what the objects say.
    pub fn new(context: Arc<Context>) -> Self {
        Self {
            status: context.restore_status.clone(),
            context,
            paces: Mutex::default(),
            ordering: tokio::sync::Mutex::default(),
        }
    }

    /// Has each say what it says now.
    async fn ask(&self, members: &mut [Member]) {
        let answers = futures::future::join_all(members.iter().map(|member| async move {
            match member.sidecar() {
                None => Said::Nothing,
                Some(sidecar) => match self.context.sidecars.status(&sidecar).await {
                    Ok(report) => Said::Report(Arc::new(report)),
                    Err(error) => Said::Silent(text::line(&error.to_string())),
                },
            }
        }))
        .await;
        for (member, said) in members.iter_mut().zip(answers) {
            member.said = said;
        }
    }

    /// The Backup of an Archive that runs.
    fn running_backup(&self, archive: &Key) -> Option<String> {
        let Context {
            watched,
            backup_status,
            ..
        } = self.context.as_ref();
        let backups = watched.backups.filter(&archive.namespace, |backup| {
            backup.spec.archive_ref.name == archive.name && backup.spec.existing_id.is_empty()
        });
        let mut running = backups.iter().filter(|backup| {
            let status = backup_status.known(backup.as_ref(), backup.status.as_ref());
            backup::Phase::of(status.as_ref()) == backup::Phase::Ordered
        });
        running.next().map(|backup| backup.name_any())
    }

    /// Writes a state, and the figures in `status`. Figures that moved alone are written now and then.
    async fn write(
        &self,
        look: &mut Look<'_>,
        mut status: RestoreStatus,
        state: &State,
    ) -> Result<(), ReconcileError> {
        let generation = look.restore.metadata.generation;
        let news = settle_into(&mut status, state, generation, look.now);
        self.context
            .metrics
            .conditions(Self::KIND, look.key, &status.conditions);
        let known = look.known.as_ref();
        let only_figures = known.is_some_and(|known| {
            let still = RestoreStatus {
                progress: status.progress,
                ..known.clone()
            };
            still == status && known.progress.is_some() == status.progress.is_some()
        });
        let just_written = self
            .pace(look.key)
            .written
            .is_some_and(|at| at.elapsed() < FIGURES);
        if only_figures && just_written {
            return Ok(());
        }
        let written = self
            .status
            .write(look.restore.as_ref(), known, status.clone(), &news)
            .await?;
        look.known = Some(status);
        if written {
            self.set_pace(look.key, |pace| pace.written = Some(Instant::now()));
        }
        Ok(())
    }

    fn pace(&self, key: &Key) -> Pace {
        self.paces().get(key).cloned().unwrap_or_default()
    }

    fn set_pace(&self, key: &Key, change: impl FnOnce(&mut Pace)) {
        change(self.paces().entry(key.clone()).or_default());
    }

    fn paces(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Pace>> {
        // Plain values, whole whatever happened to who held them.
        self.paces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Controller for Restores {
    const KIND: &'static str = "Restore";
    const CONCURRENCY: usize = 8;

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ReconcileError> {
        let Some(restore) = self.context.watched.restores.get(key) else {
            self.paces().remove(key);
            self.context.metrics.conditions(Self::KIND, key, &[]);
            return Ok(Outcome::Done);
        };
        let source = restore.spec.source.archive.as_deref().unwrap_or_default();
        let mut look = Look {
            key,
            known: self.status.known(restore.as_ref(), restore.status.as_ref()),
            archive: archive_of(&restore).unwrap_or_else(|| key.beside(source)),
            restore,
            now: Timestamp::now(),
        };
        let conditions = look.known.as_ref().map_or(&[][..], |s| &s.conditions);
        self.context.metrics.conditions(Self::KIND, key, conditions);
        let phase = Phase::of(look.known.as_ref());
        let destination = look.restore.spec.destination.clone();
        let Some(in_place) = destination.stateful_set else {
            return self.restore_claim(&mut look, phase).await;
        };
        if look.restore.metadata.deletion_timestamp.is_some() {
            return self.part(&mut look, phase, &in_place).await;
        }
        match phase {
            Phase::Waiting => self.begin(&mut look, &in_place).await,
            Phase::Ordered => self.follow(&mut look, &in_place.name).await,
            Phase::Complete | Phase::Failed => {
                self.paces().remove(key);
                // The order goes from the settings, and backups begin again.
                self.context.wakers.archives.wake(look.archive.clone());
                self.sync_finalizer(&look, phase).await?;
                Ok(Outcome::Done)
            }
        }
    }
}
