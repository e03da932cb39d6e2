//! A bounded number of connections. When all are taken, the one that has waited longest without a request makes place:
//! so who connects and says nothing can't keep the API server out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

/// The connections.
#[derive(Debug, Clone)]
pub(super) struct Slots {
    state: Arc<Mutex<State>>,
    most: usize,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// By when they last became idle, or began.
    idle: BTreeMap<u64, CancellationToken>,
    busy: usize,
}

/// A connection's place. Freed when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Slots,
    cancelled: CancellationToken,
    /// In `idle`; none while a request is worked on.
    idle: Mutex<Option<u64>>,
}

impl Slots {
    pub(super) fn new(most: usize) -> Self {
        Self {
            state: Arc::default(),
            most,
        }
    }

    /// A place for a new connection, idle at first. None if all are at work.
    pub(super) fn take(&self) -> Option<Slot> {
        let mut state = lock(&self.state);
        if state.idle.len() + state.busy >= self.most {
            let (_, oldest) = state.idle.pop_first()?;
            oldest.cancel();
        }
        let cancelled = CancellationToken::new();
        let at = state.wait(cancelled.clone());
        drop(state);
        Some(Slot {
            slots: self.clone(),
            cancelled,
            idle: Mutex::new(Some(at)),
        })
    }
}

impl State {
    fn wait(&mut self, connection: CancellationToken) -> u64 {
        let at = self.next;
        self.next += 1;
        self.idle.insert(at, connection);
        at
    }
}

impl Slot {
    /// Ready when another took the place.
    pub(super) fn cancelled(&self) -> CancellationToken {
        self.cancelled.clone()
    }

    /// A request has come: the connection can't be made to leave until the guard is dropped. None if it has to leave.
    pub(super) fn work(self: &Arc<Self>) -> Option<Work> {
        let at = lock(&self.idle).take()?;
        let mut state = lock(&self.slots.state);
        state.idle.remove(&at)?;
        state.busy += 1;
        Some(Work(self.clone()))
    }
}

/// A request is being worked on.
#[derive(Debug)]
pub(super) struct Work(Arc<Slot>);

impl Drop for Work {
    fn drop(&mut self) {
        let mut state = lock(&self.0.slots.state);
        state.busy -= 1;
        let at = state.wait(self.0.cancelled.clone());
        drop(state);
        *lock(&self.0.idle) = Some(at);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(at) = lock(&self.idle).take() {
            lock(&self.slots.state).idle.remove(&at);
        }
    }
}

fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_idle_makes_place() {
        let slots = Slots::new(2);
        let first = Arc::new(slots.take().unwrap());
        let second = Arc::new(slots.take().unwrap());
        // It has worked since: the other one has waited longer.
        drop(first.work().unwrap());
        let third = Arc::new(slots.take().unwrap());
        assert!(second.cancelled().is_cancelled());
        assert!(second.work().is_none());
        assert!(!first.cancelled().is_cancelled());

        let working = (first.work().unwrap(), third.work().unwrap());
        assert!(slots.take().is_none());
        drop(working);
        assert!(slots.take().is_some());
        assert!(first.cancelled().is_cancelled());
    }

    #[test]
    fn a_place_is_freed() {
        let slots = Slots::new(1);
        for _ in 0..3 {
            let slot = Arc::new(slots.take().unwrap());
            drop(slot.work());
            assert!(!slot.cancelled().is_cancelled());
        }
        let slot = Arc::new(slots.take().unwrap());
        let work = slot.work().unwrap();
        drop(slot);
        assert!(slots.take().is_none());
        drop(work);
        assert!(slots.take().is_some());
        let state = lock(&slots.state);
        assert_eq!((state.idle.len(), state.busy), (0, 0));
    }
}
