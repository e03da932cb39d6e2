//! Reconciles ScheduledBackup: makes Backups by the clock.
//!
//! Observe (the Archive, the Backups of this schedule), plan ([`decide()`]), apply (make one Backup, remove objects that
//! are too many), write status.

mod decide;
mod history;
mod object;
mod times;

pub use decide::{Decision, Make, Seen, backup_name, decide, time_of};
pub use history::{Made, surplus};
pub use object::{SCHEDULE_LABEL, TIME_ANNOTATION, backup, is_of};
pub use times::{BadSchedule, Times};

use crate::backup::{Phase, is_kept};
use crate::conditions::{Finding, settle};
use crate::context::Context;
use crate::controller::{Controller, Outcome, ReconcileError};
use crate::names::Key;
use crate::status::StatusWriter;
use holdfast_crds::{Backup, BackupKeep, DeletionPolicy, ScheduledBackup, ScheduledBackupStatus};
use jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Resource, ResourceExt};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// While a Backup runs that the next one waits for, or the Archive is not there.
const WAITING: Duration = Duration::from_secs(10);

/// However far the next time is away: clocks are set, and time zones change.
const LONGEST: Duration = Duration::from_secs(3600);

/// Objects removed in one look.
const REMOVED: usize = 50;

/// The controller.
pub struct Schedules {
    context: Arc<Context>,
    status: StatusWriter<ScheduledBackupStatus>,
}

impl Schedules {
    /// Nothing is remembered but what the objects say.
    pub fn new(context: Arc<Context>) -> Self {
        Self {
            status: context.status_writer(),
            context,
        }
    }

    /// Makes the Backup. That it is there already is as good: somebody came to the same decision. Returns what is wrong
    /// if the name is taken by another.
    ///
    /// Verbs on backups: create, get.
    async fn make(
        &self,
        key: &Key,
        schedule: &ScheduledBackup,
        make: &Make,
    ) -> Result<Option<Finding>, ReconcileError> {
        let api: Api<Backup> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let wanted = backup(key, &schedule.spec, make);
        match api.create(&PostParams::default(), &wanted).await {
            Ok(_) => {
                self.context.metrics.written("Backup");
                let note = format!("made the Backup {} for {}", make.name, make.time);
                let about = schedule.object_ref(&());
                self.context
                    .events
                    .note(&about, "BackupMade", "Schedule", &note)
                    .await;
                Ok(None)
            }
            Err(kube::Error::Api(refused)) if refused.reason == "AlreadyExists" => {
                let there = api
                    .get_opt(&make.name)
                    .await
                    .map_err(ReconcileError::api("can't read a Backup"))?;
                let stranger = there.filter(|there| !is_of(there, &key.name));
                Ok(stranger.map(|_| {
                    let message = format!(
                        "the Backup {} was not made by this ScheduledBackup, which needs its name: delete it",
                        make.name
                    );
                    Finding::bad(decide::READY, "NameTaken", message)
                }))
            }
            Err(error) => Err(ReconcileError::api("can't make a Backup")(error)),
        }
    }

    /// Removes objects, and never what they stand for.
    ///
    /// Verbs on backups: patch, delete.
    async fn remove(&self, key: &Key, names: &[String]) -> Result<(), ReconcileError> {
        let api: Api<Backup> = Api::namespaced(self.context.client.clone(), &key.namespace);
        for name in names.iter().take(REMOVED) {
            let Some(backup) = self.context.watched.backups.get(&key.beside(name)) else {
                continue;
            };
            let mut version = backup.resource_version();
            if backup.spec.deletion_policy == DeletionPolicy::Delete {
                let retain = json!({
                    "metadata": {"uid": backup.uid(), "resourceVersion": version},
                    "spec": {"deletionPolicy": "Retain"},
                });
                let patched = api
                    .patch(name, &PatchParams::default(), &Patch::Merge(retain))
                    .await
                    .map_err(ReconcileError::api("can't set a Backup's deletionPolicy"))?;
                version = patched.resource_version();
            }
            let parameters = DeleteParams {
                preconditions: Some(Preconditions {
                    uid: backup.uid(),
                    resource_version: version,
                }),
                ..DeleteParams::background()
            };
            match api.delete(name, &parameters).await {
                Ok(_) => {}
                Err(kube::Error::Api(refused)) if refused.code == 404 => {}
                Err(error) => {
                    return Err(ReconcileError::api("can't remove a Backup's object")(error));
                }
            }
        }
        Ok(())
    }
}

impl Controller for Schedules {
    const KIND: &'static str = "ScheduledBackup";
    const CONCURRENCY: usize = 4;

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ReconcileError> {
        let context = &self.context;
        let Some(schedule) = context.watched.schedules.get(key) else {
            context.metrics.conditions(Self::KIND, key, &[]);
            return Ok(Outcome::Done);
        };
        if schedule.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::Done);
        }
        let now = Timestamp::now();
        let made = context
            .watched
            .backups
            .filter(&key.namespace, |backup| is_of(backup, &key.name));
        let made: Vec<Made> = made.iter().map(|backup| seen(backup, now)).collect();
        let running = made.iter().find(|one| !one.phase.has_ended());
        let archive = key.beside(&schedule.spec.archive_ref.name);
        let archive = context.watched.archives.get(&archive);
        let known = self
            .status
            .known(schedule.as_ref(), schedule.status.as_ref());
        let status = known.clone().unwrap_or_default();
        let mut decision = decide(
            now,
            &Seen {
                name: &key.name,
                created: created(schedule.as_ref(), now),
                spec: &schedule.spec,
                status: &status,
                archive: archive.as_ref().map(|archive| archive.spec.suspend),
                running: running.map(|one| one.name.as_str()),
            },
        );
        if let Some(make) = decision.make.clone()
            && let Some(finding) = self.make(key, &schedule, &make).await?
        {
            decision = Decision {
                finding,
                status,
                missed: None,
                ..decision
            };
        }
        self.write(key, &schedule, known.as_ref(), &decision, now)
            .await?;
        let surplus = surplus(
            &key.name,
            &made,
            schedule.spec.successful_backups_history_limit,
            schedule.spec.failed_backups_history_limit,
        );
        self.remove(key, &surplus).await?;
        let waits = running.is_some() || archive.is_none() || !surplus.is_empty();
        Ok(match decision.again {
            _ if waits => Outcome::Again(WAITING),
            Some(again) => Outcome::Again(until(again, now)),
            None => Outcome::Done,
        })
    }
}

impl Schedules {
    async fn write(
        &self,
        key: &Key,
        schedule: &ScheduledBackup,
        known: Option<&ScheduledBackupStatus>,
        decision: &Decision,
        now: Timestamp,
    ) -> Result<(), ReconcileError> {
        let before = known.map_or(&[][..], |status| &status.conditions);
        let finding = decision.finding.clone();
        let settled = settle(before, vec![finding], schedule.metadata.generation, now);
        self.context
            .metrics
            .conditions(Self::KIND, key, &settled.conditions);
        let status = ScheduledBackupStatus {
            conditions: settled.conditions,
            ..decision.status.clone()
        };
        let mut news = settled.news;
        if let Some((count, last)) = decision.missed {
            // The condition tells only what nobody has made up for.
            let message = format!(
                "{count} of the schedule's times passed without a Backup, the last of them {last}"
            );
            news.retain(|finding| finding.reason != "Missed");
            news.push(Finding::bad("Schedule", "Missed", message));
        }
        self.status
            .write(schedule, known, status, &news)
            .await
            .map(|_| ())
    }
}

fn seen(backup: &Arc<Backup>, now: Timestamp) -> Made {
    Made {
        name: backup.name_any(),
        created: created(backup.as_ref(), now),
        phase: Phase::of(backup.status.as_ref()),
        going: backup.metadata.deletion_timestamp.is_some(),
        unsaid: backup.spec.keep == BackupKeep::Forever
            && !backup.status.as_ref().is_some_and(is_kept),
    }
}

/// The API server sets it on every object.
fn created<K: Resource>(object: &K, now: Timestamp) -> Timestamp {
    let time = object.meta().creation_timestamp.as_ref();
    time.map_or(now, |time| time.0)
}

/// Not earlier: a look just before the time would find nothing to do.
fn until(again: Timestamp, now: Timestamp) -> Duration {
    let wait = again.duration_since(now);
    Duration::try_from(wait)
        .unwrap_or_default()
        .saturating_add(Duration::from_millis(50))
        .min(LONGEST)
}
