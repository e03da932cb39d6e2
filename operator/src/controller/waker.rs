//! Wakes a controller for a key, from anywhere.

use crate::names::Key;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// Keys that somebody wants looked at. Holds each once; cheap to clone; never blocks for long.
#[derive(Debug, Clone, Default)]
pub struct Waker {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    keys: Mutex<HashSet<Key>>,
    notify: Notify,
}

impl Waker {
    /// Has the controller look at this key soon.
    pub fn wake(&self, key: Key) {
        self.keys().insert(key);
        self.shared.notify.notify_one();
    }

    /// All keys that were woken since the last call; waits for the first.
    pub(super) async fn woken(&self) -> HashSet<Key> {
        loop {
            let keys = std::mem::take(&mut *self.keys());
            if !keys.is_empty() {
                return keys;
            }
            self.shared.notify.notified().await;
        }
    }

    fn keys(&self) -> std::sync::MutexGuard<'_, HashSet<Key>> {
        // A set of plain values is whole whatever happened to who held it.
        self.shared
            .keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_that_was_woken_is_lost() {
        let waker = Waker::default();
        let (one, two) = (Key::new("a", "one"), Key::new("a", "two"));
        waker.wake(one.clone());
        waker.wake(two.clone());
        waker.wake(one.clone());
        assert_eq!(waker.woken().await, HashSet::from([one.clone(), two]));
        let waiting = tokio::spawn({
            let waker = waker.clone();
            async move { waker.woken().await }
        });
        tokio::task::yield_now().await;
        waker.wake(one.clone());
        assert_eq!(waiting.await.unwrap(), HashSet::from([one]));
    }
}
