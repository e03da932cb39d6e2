//! How many requests this process has made of its stores, for metrics.
//!
//! One counter for the process, not for each [`Store`](super::Store): stores are opened anew whenever credentials may
//! have changed, and a counter must not go back.

use super::{ErrorKind, StoreError};
use std::sync::atomic::{AtomicU64, Ordering};

/// What is asked of a store. The store's client may try a request several times; it counts as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A create-only write.
    Write,
    /// A read, whole or in part.
    Read,
    /// Size and time of an object.
    Look,
    /// A listing.
    List,
    /// A deletion.
    Delete,
}

/// The counters of all operations, since the process began.
#[derive(Debug)]
pub struct Requests([Counter; 5]);

#[derive(Debug)]
struct Counter {
    made: AtomicU64,
    failed: AtomicU64,
}

impl Counter {
    const fn new() -> Self {
        Self {
            made: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }
}

static REQUESTS: Requests = Requests([const { Counter::new() }; 5]);

/// This process'.
pub fn requests() -> &'static Requests {
    &REQUESTS
}

impl Requests {
    /// Requests that were answered or have failed, errors included.
    pub fn made(&self, operation: Operation) -> u64 {
        self.of(operation).made.load(Ordering::Relaxed)
    }

    /// Those that have failed. That an object is not there is an answer.
    pub fn failed(&self, operation: Operation) -> u64 {
        self.of(operation).failed.load(Ordering::Relaxed)
    }

    fn of(&self, operation: Operation) -> &Counter {
        let [write, read, look, list, delete] = &self.0;
        match operation {
            Operation::Write => write,
            Operation::Read => read,
            Operation::Look => look,
            Operation::List => list,
            Operation::Delete => delete,
        }
    }
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Write,
        Self::Read,
        Self::Look,
        Self::List,
        Self::Delete,
    ];

    /// As a metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Look => "look",
            Self::List => "list",
            Self::Delete => "delete",
        }
    }

    /// Counts a request by its result.
    pub(super) fn count<T>(self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        self.began();
        if let Err(error) = &result {
            self.failed(error);
        }
        result
    }

    /// Counts a request whose result is told later.
    pub(super) fn began(self) {
        REQUESTS.of(self).made.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed(self, error: &StoreError) {
        if error.kind() != ErrorKind::NotFound {
            REQUESTS.of(self).failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Store;
    use super::*;
    use bytes::Bytes;
    use futures::TryStreamExt;
    use object_store::memory::InMemory;
    use std::sync::Arc;

    /// Other tests count at the same time, so only lower bounds are sure.
    #[tokio::test]
    async fn requests_are_counted_by_operation() {
        let figures = || Operation::ALL.map(|o| (requests().made(o), requests().failed(o)));
        let before = figures();
        let store = Store::new(Arc::new(InMemory::new()), "a", "memory").unwrap();
        for _ in 0..3 {
            let parts = vec![Bytes::from_static(b"x")];
            store.create("x/k", parts).await.unwrap();
        }
        store.get("x/k", 1).await.unwrap();
        assert!(store.get("x/k", 0).await.is_err(), "too large");
        assert!(store.get("x/gone", 9).await.is_err());
        store.get_head("x/k", 0..1).await.unwrap();
        store.head("x/k").await.unwrap();
        let _: Vec<_> = store.list("x").try_collect().await.unwrap();
        store.list_folders("").await.unwrap();
        store.delete("x/k").await.unwrap();
        let after = figures();
        let made: Vec<u64> = after.iter().zip(before).map(|(a, b)| a.0 - b.0).collect();
        // Two of the writes found the object there, and read it.
        for (made, least) in made.iter().zip([3, 6, 1, 2, 1]) {
            assert!(*made >= least, "{made} {least}");
        }
        assert!(after[1].1 > before[1].1, "damage is an error");
    }
}
