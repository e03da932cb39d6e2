//! Runs a controller: takes keys from the queue, looks at a bounded number at a time, and logs what failed, once, here.

use super::queue::{Outcome, WorkQueue};
use super::waker::Waker;
use crate::metrics::Metrics;
use crate::names::Key;
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// After somebody else was faster.
const AFTER_CONFLICT: Duration = Duration::from_secs(1);

/// For what runs when the program is told to end.
const GRACE: Duration = Duration::from_secs(10);

/// A look that failed. What can't be told to people in a condition, and will be tried again.
#[derive(Debug, Error)]
pub enum ReconcileError {
    /// The API server.
    #[error("{what}: {source}")]
    Api {
        /// What was tried, such as `can't write the status`.
        what: &'static str,
        /// What it said.
        source: Box<kube::Error>,
    },
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl ReconcileError {
    /// For `map_err` of a call of the API server.
    pub fn api(what: &'static str) -> impl Fn(kube::Error) -> Self + Copy {
        move |source| Self::Api {
            what,
            source: Box::new(source),
        }
    }

    /// Whether somebody else was faster, so that what was planned is out of date. Nothing to tell anybody.
    pub fn is_conflict(&self) -> bool {
        match self {
            Self::Api { source, .. } => {
                matches!(source.as_ref(), kube::Error::Api(status) if status.code == 409)
            }
            Self::Other(_) => false,
        }
    }
}

/// Looks at objects of one kind.
pub trait Controller: Send + Sync + 'static {
    /// The kind, for logs and metrics.
    const KIND: &'static str;

    /// How many are looked at together.
    const CONCURRENCY: usize;

    /// Makes one object what it should be. Called for keys of objects that are gone, too: then what is remembered of
    /// them has to be forgotten, and the answer is [`Outcome::Done`]. May be dropped at any `await` when the program
    /// ends.
    fn reconcile(&self, key: &Key) -> impl Future<Output = Result<Outcome, ReconcileError>> + Send;
}

/// Runs until `stop`, and then as long as what has begun, but no more than ten seconds.
pub async fn run<C: Controller>(
    controller: Arc<C>,
    waker: Waker,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let mut queue: WorkQueue<Key> = WorkQueue::default();
    let mut running: JoinSet<Outcome> = JoinSet::new();
    let mut keys: HashMap<Id, Key> = HashMap::new();
    loop {
        while running.len() < C::CONCURRENCY
            && let Some(key) = queue.start(Instant::now())
        {
            let task = running.spawn(look(controller.clone(), metrics.clone(), key.clone()));
            keys.insert(task.id(), key);
        }
        metrics.queue(C::KIND, queue.waiting(), queue.running());
        let full = running.len() >= C::CONCURRENCY;
        let next = queue.next();
        tokio::select! {
            () = stop.cancelled() => break,
            woken = waker.woken() => {
                let now = Instant::now();
                for key in woken {
                    queue.wake(key, now);
                }
            }
            () = until(next), if !full => {}
            Some(ended) = running.join_next_with_id() => {
                let (id, outcome) = match ended {
                    Ok((id, outcome)) => (id, outcome),
                    // A bug, whose message the panic has printed; the others go on.
                    Err(error) => {
                        tracing::error!(kind = C::KIND, "a look ended early: {error}");
                        (error.id(), Outcome::Failed)
                    }
                };
                if let Some(key) = keys.remove(&id) {
                    queue.finish(key, outcome, Instant::now(), jitter());
                }
            }
        }
    }
    let rest = async { while running.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, rest).await.is_err() {
        tracing::warn!(kind = C::KIND, "ended in the middle of work");
    }
}

async fn look<C: Controller>(controller: Arc<C>, metrics: Arc<Metrics>, key: Key) -> Outcome {
    let begin = Instant::now();
    let result = controller.reconcile(&key).await;
    let (outcome, word) = match result {
        Ok(outcome) => (outcome, "success"),
        Err(error) if error.is_conflict() => (Outcome::Again(AFTER_CONFLICT), "conflict"),
        Err(error) => {
            tracing::warn!(kind = C::KIND, object = %key, "{error}");
            (Outcome::Failed, "error")
        }
    };
    metrics.reconciled(C::KIND, word, begin.elapsed());
    outcome
}

async fn until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

/// 0 to 1. Without random numbers things happen together, which is no harm.
pub(crate) fn jitter() -> f64 {
    let mut random = [0; 2];
    let _ = getrandom::fill(&mut random);
    f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Looker {
        looks: Mutex<Vec<String>>,
        together: AtomicUsize,
        most: AtomicUsize,
    }

    impl Controller for Looker {
        const KIND: &'static str = "Thing";
        const CONCURRENCY: usize = 2;

        async fn reconcile(&self, key: &Key) -> Result<Outcome, ReconcileError> {
            let together = self.together.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(together, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(10)).await;
            self.together.fetch_sub(1, Ordering::SeqCst);
            let before = {
                let mut looks = self.looks.lock().unwrap();
                looks.push(key.name.clone());
                looks.iter().filter(|name| **name == key.name).count()
            };
            match key.name.as_str() {
                "fails" if before < 2 => Err(ReconcileError::Other("not yet".into())),
                "panics" if before < 2 => panic!("as asked"),
                _ => Ok(Outcome::Done),
            }
        }
    }

    #[tokio::test]
    async fn looks_are_bounded_and_what_fails_or_panics_is_tried_again() {
        let looker = Arc::new(Looker::default());
        let (waker, stop) = (Waker::default(), CancellationToken::new());
        let names = ["a", "b", "c", "fails", "panics"];
        for name in names {
            waker.wake(Key::new("n", name));
        }
        let metrics = Arc::new(Metrics::new());
        let running = tokio::spawn(run(looker.clone(), waker.clone(), metrics, stop.clone()));
        let looked = async |name: &str, times: usize| {
            let count = || {
                let looks = looker.looks.lock().unwrap();
                looks.iter().filter(|look| *look == name).count()
            };
            while count() < times {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        // Each is looked at, and what went wrong again.
        for (name, times) in names.iter().zip([1, 1, 1, 2, 2]) {
            looked(name, times).await;
        }
        waker.wake(Key::new("n", "a"));
        looked("a", 2).await;
        stop.cancel();
        running.await.unwrap();
        let looks = looker.looks.lock().unwrap();
        for (name, times) in names.iter().zip([2, 1, 1]) {
            let count = looks.iter().filter(|look| look == name).count();
            assert_eq!(count, times, "{name}");
        }
        assert_eq!(looker.most.load(Ordering::SeqCst), 2);
    }
}
