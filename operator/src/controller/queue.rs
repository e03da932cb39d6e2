//! What a controller has to look at, and when. Synchronous, so that tests need no clock.
//!
//! A key stands here once, however often it is woken; it is never worked on twice at a time; one that is woken while it
//! is worked on comes again; and one that fails comes again later and later. Memory grows with the number of objects.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;
use tokio::time::Instant;

/// After the first failure.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// However often it fails.
const LAST_RETRY: Duration = Duration::from_secs(5 * 60);

/// How work on a key ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Look again after so long, also if nobody wakes it.
    Again(Duration),
    /// Nothing to do until it is woken.
    Done,
    /// It failed: again after a while, which doubles each time.
    Failed,
}

/// The keys and their times.
#[derive(Debug)]
pub struct WorkQueue<K> {
    /// By time; holds exactly what `at` holds.
    order: BTreeSet<(Instant, K)>,
    at: HashMap<K, Instant>,
    /// With when it was asked for again meanwhile.
    running: HashMap<K, Option<Instant>>,
    failures: HashMap<K, u32>,
}

impl<K> Default for WorkQueue<K> {
    fn default() -> Self {
        Self {
            order: BTreeSet::new(),
            at: HashMap::new(),
            running: HashMap::new(),
            failures: HashMap::new(),
        }
    }
}

impl<K: Clone + Ord + Hash> WorkQueue<K> {
    /// Asks for a key at that moment, or earlier if it was asked for earlier.
    pub fn wake(&mut self, key: K, when: Instant) {
        if let Some(again) = self.running.get_mut(&key) {
            *again = Some(again.map_or(when, |known| known.min(when)));
            return;
        }
        match self.at.get(&key) {
            Some(known) if *known <= when => {}
            known => {
                if let Some(known) = known {
                    self.order.remove(&(*known, key.clone()));
                }
                self.at.insert(key.clone(), when);
                self.order.insert((when, key));
            }
        }
    }

    /// The key that has waited longest past its time. It is worked on until [`WorkQueue::finish`].
    pub fn start(&mut self, now: Instant) -> Option<K> {
        if self.order.first()?.0 > now {
            return None;
        }
        let (_, key) = self.order.pop_first()?;
        self.at.remove(&key);
        self.running.insert(key.clone(), None);
        Some(key)
    }

    /// When [`WorkQueue::start`] has something to give.
    pub fn next(&self) -> Option<Instant> {
        self.order.first().map(|(when, _)| *when)
    }

    /// Ends the work on a key. `jitter` (0 to 1) spreads what would come at one time.
    pub fn finish(&mut self, key: K, outcome: Outcome, now: Instant, jitter: f64) {
        let woken = self.running.remove(&key).flatten();
        let planned = match outcome {
            Outcome::Done => {
                self.failures.remove(&key);
                None
            }
            Outcome::Again(after) => {
                self.failures.remove(&key);
                Some(now + spread(after, jitter))
            }
            Outcome::Failed => {
                let failures = self.failures.entry(key.clone()).or_default();
                *failures = failures.saturating_add(1);
                let doubled = FIRST_RETRY.saturating_mul(1 << (*failures - 1).min(16));
                Some(now + spread(doubled.min(LAST_RETRY), jitter))
            }
        };
        // A change may mend what failed: who woke it meanwhile is heard, but not more often than it can fail.
        let next = match (woken, planned, outcome) {
            (Some(woken), Some(planned), Outcome::Failed) => {
                Some(woken.max(now + FIRST_RETRY).min(planned))
            }
            (Some(woken), Some(planned), _) => Some(woken.min(planned)),
            (woken, planned, _) => woken.or(planned),
        };
        if let Some(when) = next {
            self.wake(key, when);
        }
    }

    /// How many wait, those for later included.
    pub fn waiting(&self) -> usize {
        self.order.len()
    }

    /// How many are worked on.
    pub fn running(&self) -> usize {
        self.running.len()
    }
}

/// Up to a tenth more.
fn spread(duration: Duration, jitter: f64) -> Duration {
    duration.mul_f64(1.0 + jitter.clamp(0.0, 1.0) / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_key_stands_once_at_its_earliest_time() {
        let now = Instant::now();
        let mut queue = WorkQueue::default();
        queue.wake("a", now + seconds(5));
        queue.wake("a", now + seconds(9));
        queue.wake("b", now + seconds(3));
        queue.wake("a", now + seconds(1));
        assert_eq!(queue.waiting(), 2);
        assert_eq!(queue.start(now), None);
        assert_eq!(queue.next(), Some(now + seconds(1)));
        assert_eq!(queue.start(now + seconds(9)), Some("a"));
        assert_eq!(queue.start(now + seconds(9)), Some("b"));
        assert_eq!(queue.start(now + seconds(9)), None);
        assert_eq!((queue.waiting(), queue.running()), (0, 2));
    }

    #[test]
    fn what_is_woken_while_it_is_worked_on_comes_again_and_not_beside() {
        let now = Instant::now();
        let mut queue = WorkQueue::default();
        queue.wake("a", now);
        assert_eq!(queue.start(now), Some("a"));
        queue.wake("a", now);
        queue.wake("a", now);
        assert_eq!(queue.start(now), None);
        queue.finish("a", Outcome::Again(seconds(60)), now, 0.0);
        assert_eq!(queue.start(now), Some("a"));
        queue.finish("a", Outcome::Done, now, 0.0);
        assert_eq!((queue.next(), queue.running()), (None, 0));
    }

    #[test]
    fn what_fails_comes_later_and_later_and_after_a_success_soon() {
        let now = Instant::now();
        let mut queue = WorkQueue::default();
        queue.wake("a", now);
        for expected in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            let when = queue.next().unwrap();
            queue.start(when).unwrap();
            queue.finish("a", Outcome::Failed, now, 0.0);
            assert_eq!(queue.next(), Some(now + seconds(expected)));
        }
        queue.wake("a", now);
        queue.start(now).unwrap();
        queue.finish("a", Outcome::Again(seconds(10)), now, 1.0);
        assert_eq!(queue.next(), Some(now + seconds(11)));
        queue.start(now + seconds(11)).unwrap();
        queue.finish("a", Outcome::Failed, now, 0.0);
        assert_eq!(queue.next(), Some(now + seconds(1)));
    }

    #[test]
    fn a_change_is_heard_after_a_failure_but_no_storm() {
        let now = Instant::now();
        let mut queue = WorkQueue::default();
        queue.wake("a", now);
        for _ in 0..8 {
            let when = queue.next().unwrap();
            queue.start(when).unwrap();
            queue.finish("a", Outcome::Failed, now, 0.0);
        }
        let when = queue.next().unwrap();
        queue.start(when).unwrap();
        queue.wake("a", now);
        queue.finish("a", Outcome::Failed, now, 0.0);
        assert_eq!(queue.next(), Some(now + seconds(1)));
    }
}
