//! The backups that this process takes: one at a time, the last ones remembered.

use super::{BackupService, OrderError};
use crate::exit::Failure;
use crate::progress::Counters;
use crate::status::{BackupSize, BackupStatus, Condition, ConditionStatus, set_condition};
use holdfast_protocol::control::{BackupKind, BackupOrder};
use holdfast_repository::backup::BackupId;
use jiff::Timestamp;
use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

/// The reason of the condition `Complete` while a backup is stored and its last WAL is not.
pub const WAITING: &str = "WaitingForWal";

/// How many are remembered; the repository knows the others.
const REMEMBERED: usize = 32;

/// Takes one backup.
pub trait TakeBackup: Send + Sync + 'static {
    /// Returns the status of the complete backup. Counts into `counters` while it runs. Dropping it ends the backup
    /// and leaves no session of Postgres behind.
    fn take(
        &self,
        id: BackupId,
        kind: BackupKind,
        counters: Arc<Counters>,
    ) -> impl Future<Output = Result<BackupStatus, Failure>> + Send;
}

/// How backups go, since the start of this process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackupFigures {
    /// The id of the one that runs.
    pub running: Option<String>,
    /// Those that have failed. One that somebody cancelled has not.
    pub failures: u64,
    /// The last that is complete.
    pub completed: Option<Completed>,
}

/// A backup that is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completed {
    /// When it was.
    pub time: Timestamp,
    /// How long it took.
    pub duration: Duration,
    /// Its sizes.
    pub size: BackupSize,
}

/// Orders and their outcome.
pub struct Backups<T> {
    taker: Arc<T>,
    pod: Option<String>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    running: Option<Running>,
    /// The newest last.
    ended: VecDeque<BackupStatus>,
    failures: u64,
    completed: Option<Completed>,
}

struct Running {
    status: BackupStatus,
    counters: Arc<Counters>,
    task: Option<JoinHandle<()>>,
    cancelled: bool,
}

impl<T: TakeBackup> Backups<T> {
    /// Takes backups with `taker`, in the pod of that name.
    pub fn new(taker: T, pod: Option<String>) -> Self {
        Self {
            taker: Arc::new(taker),
            pod,
            state: Arc::default(),
        }
    }

    /// How they go.
    pub fn figures(&self) -> BackupFigures {
        let state = lock(&self.state);
        BackupFigures {
            running: state.running.as_ref().map(|r| r.status.id.clone()),
            failures: state.failures,
            completed: state.completed,
        }
    }

    fn start_now(&self, order: BackupOrder) -> Result<String, OrderError> {
        let id: BackupId = match order.id {
            None => BackupId::generate(Timestamp::now()),
            Some(id) => match id.parse() {
                Ok(id) => id,
                Err(error) => return Err(OrderError::Refused(format!("{error}"))),
            },
        };
        let mut state = lock(&self.state);
        if state.find(id.as_str()).is_some() {
            return Ok(id.to_string());
        }
        if let Some(running) = &state.running {
            let since = running.status.start_time.unwrap_or_default();
            return Err(OrderError::Busy(format!(
                "backup {} runs in this sidecar since {since:.0}: wait until it has ended",
                running.status.id
            )));
        }
        let counters = Arc::new(Counters::default());
        state.running = Some(Running {
            status: begun(&id, self.pod.clone()),
            counters: counters.clone(),
            task: None,
            cancelled: false,
        });
        let (taker, shared, name) = (self.taker.clone(), self.state.clone(), id.clone());
        let pod = self.pod.clone();
        let task = tokio::spawn(async move {
            // Ends the order on a panic and when it is dropped, too: an order that runs for ever would block all others.
            let mut end = End {
                state: shared,
                outcome: None,
            };
            let taken = taker.take(name, order.r#type, counters).await;
            end.outcome = Some(taken.map(|status| BackupStatus { pod, ..status }));
        });
        if let Some(running) = &mut state.running {
            running.task = Some(task);
        }
        Ok(id.to_string())
    }
}

impl<T: TakeBackup> BackupService for Backups<T> {
    async fn start(&self, order: BackupOrder) -> Result<String, OrderError> {
        self.start_now(order)
    }

    async fn backup(&self, id: &str) -> Option<BackupStatus> {
        lock(&self.state).find(id)
    }

    async fn cancel(&self, id: &str) -> bool {
        let mut state = lock(&self.state);
        match &mut state.running {
            Some(running) if running.status.id == id => {
                running.cancelled = true;
                if let Some(task) = &running.task {
                    task.abort();
                }
                true
            }
            _ => state.find(id).is_some(),
        }
    }

    async fn stop(&self) {
        let task = lock(&self.state)
            .running
            .as_mut()
            .and_then(|r| r.task.take());
        if let Some(task) = task {
            task.abort();
            // Cancelled, as asked.
            let _ = task.await;
        }
    }
}

impl State {
    fn find(&self, id: &str) -> Option<BackupStatus> {
        if let Some(running) = self.running.as_ref().filter(|r| r.status.id == id) {
            let mut status = running.status.clone();
            status.progress = Some(running.counters.status());
            if let Some(what) = running.counters.waiting() {
                set_condition(
                    &mut status.conditions,
                    Condition::new("Complete", ConditionStatus::False, WAITING, what),
                );
            }
            return Some(status);
        }
        self.ended.iter().find(|status| status.id == id).cloned()
    }
}

struct End {
    state: Arc<Mutex<State>>,
    outcome: Option<Result<BackupStatus, Failure>>,
}

impl Drop for End {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        let Some(running) = state.running.take() else {
            return;
        };
        let status = match self.outcome.take() {
            Some(Ok(status)) => {
                state.completed = Some(completed(&status));
                status
            }
            Some(Err(failure)) => {
                state.failures += 1;
                failed(running.status, failure.class.reason(), failure.message)
            }
            None if running.cancelled => failed(
                running.status,
                "Cancelled",
                "it was cancelled before it was complete".to_owned(),
            ),
            None => {
                state.failures += 1;
                failed(
                    running.status,
                    "Stopped",
                    "the sidecar was stopped before the backup was complete".to_owned(),
                )
            }
        };
        while state.ended.len() >= REMEMBERED {
            state.ended.pop_front();
        }
        state.ended.push_back(status);
    }
}

fn completed(status: &BackupStatus) -> Completed {
    let time = status.completion_time.unwrap_or_else(Timestamp::now);
    let begun = status.start_time.unwrap_or(time);
    Completed {
        time,
        // None if a clock was set back meanwhile.
        duration: time.duration_since(begun).try_into().unwrap_or_default(),
        size: status.size.unwrap_or_default(),
    }
}

fn begun(id: &BackupId, pod: Option<String>) -> BackupStatus {
    BackupStatus {
        id: id.to_string(),
        pod,
        start_time: Some(Timestamp::now()),
        conditions: vec![Condition::new(
            "Started",
            ConditionStatus::True,
            "Started",
            "the backup runs",
        )],
        ..BackupStatus::default()
    }
}

fn failed(mut status: BackupStatus, reason: &str, message: String) -> BackupStatus {
    set_condition(
        &mut status.conditions,
        Condition::new("Failed", ConditionStatus::True, reason, message),
    );
    status
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
