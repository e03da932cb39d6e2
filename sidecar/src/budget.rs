//! The memory that WAL on its way may take, in one account for archiving and restoring.
//!
//! What is asked for waits for its room. What is done ahead takes only what is left when one more file to archive and one
//! more to restore would still fit.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Of the process' memory, one part in so many: packs of a backup, the program itself, and what its allocator has not given
/// back yet have the rest.
const SHARE: u64 = 2;
/// What is accounted at once, in bytes.
const UNIT: u64 = 1 << 20;
/// The most that one who asks takes, in bytes: it always fits, whatever the limit.
const LARGEST: u64 = 34 << 20;

/// The account. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Budget {
    bytes: u64,
    left: Arc<Semaphore>,
    wanted: Arc<Notify>,
}

/// Some of it, until it is dropped.
#[derive(Debug)]
pub struct Room(OwnedSemaphorePermit);

impl Budget {
    /// Of a process that may use `memory` bytes.
    pub fn of(memory: u64) -> Self {
        let bytes = (memory / SHARE).max(LARGEST);
        Self {
            bytes,
            left: Arc::new(Semaphore::new((bytes / UNIT) as usize)),
            wanted: Arc::default(),
        }
    }

    /// Room for `bytes`, at most [`LARGEST`], once there is some.
    pub async fn take(&self, bytes: u64) -> Option<Room> {
        let units = units(bytes.min(LARGEST));
        let mut taken = pin!(self.left.clone().acquire_many_owned(units));
        let taken = match futures::poll!(taken.as_mut()) {
            Poll::Ready(taken) => taken,
            // It stands in the queue: nobody borrows before it.
            Poll::Pending => {
                self.wanted.notify_waiters();
                taken.await
            }
        };
        // It is never closed.
        taken.ok().map(Room)
    }

    /// Whether [`Budget::spare`] may ever have so much.
    pub fn ever_spares(&self, bytes: u64) -> bool {
        bytes + 2 * LARGEST <= self.bytes
    }

    /// Room for `bytes`, if there is some now. Whoever takes it gives it back when somebody [wants it](Budget::wanted).
    pub fn borrow(&self, bytes: u64) -> Option<Room> {
        let taken = self.left.clone().try_acquire_many_owned(units(bytes));
        taken.ok().map(Room)
    }

    /// Returns once somebody has to wait for room, from when it is enabled or first polled.
    pub fn wanted(&self) -> Notified<'_> {
        self.wanted.notified()
    }

    /// Room for `bytes` beside one more of either kind that is asked for, if there is some now.
    pub fn spare(&self, bytes: u64) -> Option<Room> {
        let all = units(bytes) + 2 * units(LARGEST);
        let mut room = Room(self.left.clone().try_acquire_many_owned(all).ok()?);
        room.shrink(bytes);
        Some(room)
    }

    /// In bytes, what nobody has.
    #[cfg(test)]
    pub fn left(&self) -> u64 {
        self.left.available_permits() as u64 * UNIT
    }
}

impl Room {
    /// Gives back what is more than `bytes`.
    pub fn shrink(&mut self, bytes: u64) {
        let more = self.0.num_permits().saturating_sub(units(bytes) as usize);
        drop(self.0.split(more));
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[tokio::test]
    async fn what_is_done_ahead_leaves_room_for_what_is_asked_for() {
        // As the least, the default, and more: how many of 34 MiB fit ahead.
        for (memory, ahead) in [(64, 0), (203, 0), (204, 1), (256, 1), (1024, 13)] {
            let budget = Budget::of(memory * MIB);
            let all = budget.left();
            let mut held: Vec<Room> = std::iter::from_fn(|| budget.spare(LARGEST)).collect();
            assert_eq!(held.len(), ahead, "{memory}");
            assert_eq!(budget.ever_spares(LARGEST), ahead > 0, "{memory}");
            let asked = budget.take(LARGEST).await;
            assert!(
                asked.is_some() && budget.spare(LARGEST).is_none(),
                "{memory}"
            );
            drop(asked);
            for room in &mut held {
                room.shrink(MIB);
                room.shrink(2 * MIB);
            }
            assert_eq!(budget.left(), all - ahead as u64 * MIB, "{memory}");
            drop(held);
            assert_eq!(budget.left(), all, "{memory}");
        }
    }

    #[tokio::test]
    async fn what_is_borrowed_is_given_back_when_somebody_needs_it() {
        let budget = Budget::of(64 * MIB);
        let borrowed = budget.borrow(LARGEST).unwrap();
        assert!(budget.borrow(LARGEST).is_none());
        let wanted = budget.wanted();
        tokio::pin!(wanted);
        wanted.as_mut().enable();
        let lent = async {
            wanted.await;
            drop(borrowed);
        };
        let (asked, ()) = tokio::join!(budget.take(LARGEST), lent);
        assert!(asked.is_some());
    }
}
