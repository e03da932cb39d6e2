//! Ahead of replay: while recovery replays one segment, those that it will ask for next are fetched.
//!
//! Only whole segments are kept, and only in memory, verified like any other. What is kept is looked up by its name where it
//! would have been fetched: whether recovery may have it, and up to where, is decided when it asks. That a segment was not
//! found, or could not be read, is never kept.

use crate::budget::{Budget, Room};
use futures::FutureExt;
use futures::future::RemoteHandle;
use holdfast_postgres::{
    Lineage, Lsn, SegmentName, SegmentNumber, SegmentSize, SystemIdentifier, WalFileName,
};
use holdfast_repository::wal::{CHUNK_BYTES, WalFile};
use holdfast_repository::{ArchiveId, WalStore};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Segments that are fetched ahead, where the memory is there for them.
const MOST: usize = 8;
/// Recovery that has not asked for so long has ended, or is held up by something else.
const KEPT: Duration = Duration::from_secs(120);

/// How long whoever asks waits for what is being fetched, before it is fetched anew.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was or is being fetched, by its name.
#[derive(Debug, Default)]
pub(super) struct Ahead(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    files: BTreeMap<SegmentName, RemoteHandle<Option<Fetched>>>,
    /// When recovery last asked.
    since: Option<Instant>,
}

/// A whole segment, and where it comes from.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) file: WalFile,
    pub(super) room: Room,
    from: (ArchiveId, SystemIdentifier),
}

impl Ahead {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This segment, if it was or is being fetched from one of these stores. Dropped in the middle, it is gone.
    pub(super) async fn take(&self, name: WalFileName, stores: &[WalStore]) -> Option<Fetched> {
        let WalFileName::Segment(segment) = name else {
            return None;
        };
        let fetching = self.lock().files.remove(&segment)?;
        // Whoever asks has better things to do than to wait for a connection that hangs.
        let fetched = timeout(PATIENCE, fetching).await.ok()??;
        let mut stores = stores.iter();
        stores
            .any(|store| origin(store) == fetched.from)
            .then_some(fetched)
    }

    /// Gives back all that was kept for a recovery that last asked then.
    pub(super) fn expire(&self, since: Instant) {
        let mut kept = self.lock();
        if kept.since == Some(since) {
            *kept = Kept::default();
        }
    }

    #[cfg(test)]
    pub(super) fn since(&self) -> Option<Instant> {
        self.lock().since
    }

    /// What is being fetched or kept.
    #[cfg(test)]
    pub(super) fn names(&self) -> Vec<SegmentName> {
        self.lock().files.keys().copied().collect()
    }
}

/// Fetches what comes next, as far as there is room, and forgets what does not.
pub(super) fn fetch_ahead(
    ahead: &Arc<Ahead>,
    budget: &Budget,
    stores: &[WalStore],
    next: &[SegmentName],
) {
    let since = Instant::now();
    {
        let mut kept = ahead.lock();
        kept.since = Some(since);
        kept.files.retain(|name, _| next.contains(name));
        for name in next {
            if kept.files.contains_key(name) {
                continue;
            }
            // In order: what comes first is wanted first.
            let Some(room) = budget.spare(WalStore::READ_MEMORY) else {
                break;
            };
            let fetching = fetch(stores.to_vec(), *name, room);
            let (name, ahead) = (*name, Arc::downgrade(ahead));
            let work = async move {
                let fetched = fetching.await;
                // It may be there the next time.
                if let (None, Some(ahead)) = (&fetched, ahead.upgrade()) {
                    ahead.lock().files.remove(&name);
                }
                fetched
            };
            let (work, handle) = work.remote_handle();
            tokio::spawn(work);
            kept.files.insert(name, handle);
        }
    }
    let ahead = Arc::downgrade(ahead);
    tokio::spawn(async move {
        sleep(KEPT).await;
        if let Some(ahead) = ahead.upgrade() {
            ahead.expire(since);
        }
    });
}

async fn fetch(stores: Vec<WalStore>, name: SegmentName, mut room: Room) -> Option<Fetched> {
    for store in &stores {
        match store.read_file(&WalFileName::Segment(name)).await {
            Ok(file) => {
                room.shrink(file.length());
                let from = origin(store);
                return Some(Fetched { file, room, from });
            }
            Err(error) if error.is_not_found() => {}
            // Whoever asks for it will be told.
            Err(error) => tracing::debug!(%name, %error, "not fetched ahead"),
        }
    }
    None
}

fn origin(store: &WalStore) -> (ArchiveId, SystemIdentifier) {
    (store.archive().id(), store.system())
}

/// The segments that recovery asks for after this one, as far as it goes: of each the newest timeline that has begun by then,
/// as `XLogFileReadAnyTLI` (xlogrecovery.c) begins. Those over 16 MiB are not held in memory.
pub(super) fn next(
    served: SegmentName,
    size: SegmentSize,
    lineage: &Lineage,
    end: Option<Lsn>,
) -> Vec<SegmentName> {
    let Ok(SegmentNumber(number)) = served.number(size) else {
        return Vec::new();
    };
    if u64::from(size.bytes()) > CHUNK_BYTES {
        return Vec::new();
    }
    (1..=MOST as u64)
        .map_while(|n| number.checked_add(n).map(SegmentNumber))
        .take_while(|number| end.is_none_or(|end| number.start(size) < end))
        .map(|number| {
            let mut spans = lineage.spans().iter().rev();
            let newest = spans.find(|span| span.begin.segment(size) <= number);
            let timeline = newest.map_or(served.timeline, |span| span.timeline);
            SegmentName::new(timeline, number, size)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_postgres::{TimelineHistory, TimelineId};

    #[test]
    fn what_comes_next_is_of_the_line() {
        let size = SegmentSize::new(1 << 20).unwrap();
        let at = |mib: f64| Lsn((mib * f64::from(1u32 << 20)) as u64);
        // Timeline 1 up to within 5, 2 up to within 7, 4 from there on.
        let history = b"1\t0/580000\tx\n2\t0/700000\tx\n";
        let history = TimelineHistory::parse(TimelineId(4), history).unwrap();
        let line = Lineage::from(&history);
        let single = Lineage::single(TimelineId(1));
        let name =
            |timeline, number| SegmentName::new(TimelineId(timeline), SegmentNumber(number), size);
        let plain = |timeline: u32, numbers: std::ops::RangeInclusive<u64>| {
            numbers.map(|number| (timeline, number)).collect::<Vec<_>>()
        };
        for (served, lineage, end, expected) in [
            ((1, 3), &single, None, plain(1, 4..=11)),
            ((1, 3), &single, Some(at(5.0)), plain(1, 4..=4)),
            ((1, 3), &single, Some(at(5.1)), plain(1, 4..=5)),
            ((1, 3), &single, Some(at(3.5)), vec![]),
            (
                (1, 3),
                &line,
                Some(at(9.5)),
                vec![(1, 4), (2, 5), (2, 6), (4, 7), (4, 8), (4, 9)],
            ),
        ] {
            let names = next(name(served.0, served.1), size, lineage, end);
            let expected: Vec<_> = expected.iter().map(|(t, n)| name(*t, *n)).collect();
            assert_eq!(names, expected, "{served:?} {end:?}");
        }
        let large = SegmentSize::new(64 << 20).unwrap();
        let served = SegmentName::new(TimelineId(1), SegmentNumber(3), large);
        assert_eq!(next(served, large, &single, None), []);
    }
}
