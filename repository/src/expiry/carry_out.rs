//! Deleting what is ripe: manifests, packs, WAL, parts, in this order.

use super::ExpiryError;
use crate::archive::Archive;
use crate::catalogue::Runs;
use crate::layout;
use crate::owner::{self, InstallationId, Ownership};
use crate::retention::{Doomed, Fate, IncarnationPlan, Remove};
use crate::wal::{CHUNK_BYTES, PartName};
use futures::{StreamExt, TryStreamExt};
use holdfast_postgres::{SegmentSize, SystemIdentifier, TimelineId, WalFileName};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Objects deleted at once.
const PARALLEL: usize = 16;
/// Whose the archive is was read no longer ago than this when an object is deleted.
const OWNER_FRESH: Duration = Duration::from_secs(10);

/// Deletes objects of an archive as long as it is ours.
pub(super) struct Deleter<'a> {
    archive: &'a Archive,
    installation: &'a InstallationId,
    confirmed: Mutex<Option<Instant>>,
    deleted: AtomicU64,
}

impl<'a> Deleter<'a> {
    pub(super) fn new(archive: &'a Archive, installation: &'a InstallationId) -> Self {
        Self {
            archive,
            installation,
            confirmed: Mutex::new(None),
            deleted: AtomicU64::new(0),
        }
    }

    /// How many objects were deleted.
    pub(super) fn deleted(&self) -> u64 {
        self.deleted.load(Ordering::Relaxed)
    }

    /// That the archive is ours still.
    pub(super) async fn confirm(&self) -> Result<(), ExpiryError> {
        let mut confirmed = self.confirmed.lock().await;
        if confirmed.is_some_and(|at| at.elapsed() < OWNER_FRESH) {
            return Ok(());
        }
        let asked = Instant::now();
        let place = || self.archive.store().description().to_owned();
        let owner = owner::present(self.archive).await?;
        match owner::ownership(owner.as_ref(), self.installation) {
            Ownership::Ours => *confirmed = Some(asked),
            Ownership::None => return Err(ExpiryError::NoOwner(place())),
            Ownership::Other { id, since } => {
                let (place, owner) = (place(), id);
                return Err(ExpiryError::NotOurs {
                    place,
                    owner,
                    since,
                });
            }
        }
        Ok(())
    }

    pub(super) async fn delete(&self, key: &str) -> Result<(), ExpiryError> {
        self.confirm().await?;
        self.archive.store().delete(key).await?;
        self.deleted.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn delete_all(&self, keys: impl Iterator<Item = String>) -> Result<(), ExpiryError> {
        futures::stream::iter(keys)
            .map(|key| async move { self.delete(&key).await })
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await
    }

    /// Everything under a folder but `except`.
    async fn delete_folder(&self, folder: &str, except: Option<&str>) -> Result<(), ExpiryError> {
        self.archive
            .store()
            .list(folder)
            .map_err(ExpiryError::from)
            .try_filter(|object| futures::future::ready(Some(object.key.as_str()) != except))
            .map_ok(|object| async move { self.delete(&object.key).await })
            .try_buffer_unordered(PARALLEL)
            .try_collect()
            .await
    }

    /// Deletes what `ripe` names of what `plan` says goes.
    pub(super) async fn carry_out(
        &self,
        plan: &IncarnationPlan,
        size: SegmentSize,
        ripe: &Doomed,
    ) -> Result<(), ExpiryError> {
        let system = plan.system;
        let doomed: Vec<(&str, &Remove)> = plan
            .backups
            .iter()
            .filter(|backup| ripe.backups.contains_key(&backup.id))
            .filter_map(|backup| match &backup.fate {
                Fate::Delete(remove) => Some((backup.id.as_str(), remove)),
                Fate::Keep | Fate::GiveUp => None,
            })
            .collect();
        // Without its manifest it is no backup any more, however far the rest comes.
        for (id, remove) in &doomed {
            if remove.manifest {
                self.delete(&layout::manifest(system, id)).await?;
            }
        }
        for (id, remove) in &doomed {
            let packs = remove.packs.iter().map(|n| layout::pack(system, id, n));
            self.delete_all(packs).await?;
            // Last, as it is by this folder that the rest is found.
            let folder = format!("{}/{id}", layout::backups(system));
            let manifest = layout::manifest(system, id);
            self.delete_folder(&folder, Some(&manifest)).await?;
        }
        for timeline in ripe.wal.keys() {
            self.delete_wal(plan, size, *timeline, ripe).await?;
        }
        for (timeline, segments) in &ripe.parts {
            self.delete_parts(system, size, *timeline, segments).await?;
        }
        Ok(())
    }

    async fn delete_parts(
        &self,
        system: SystemIdentifier,
        size: SegmentSize,
        timeline: TimelineId,
        segments: &Runs,
    ) -> Result<(), ExpiryError> {
        let goes = |key: &str| {
            PartName::parse(system, size, key)
                .and_then(|part| part.segment.number(size).ok())
                .is_some_and(|number| segments.holding(number).is_some())
        };
        let folder = layout::parts_of_timeline(system, timeline);
        self.archive
            .store()
            .list(&folder)
            .map_err(ExpiryError::from)
            .try_filter(|object| futures::future::ready(goes(&object.key)))
            .map_ok(|object| async move { self.delete(&object.key).await })
            .try_buffer_unordered(PARALLEL)
            .try_collect()
            .await
    }

    async fn delete_wal(
        &self,
        plan: &IncarnationPlan,
        size: SegmentSize,
        timeline: TimelineId,
        ripe: &Doomed,
    ) -> Result<(), ExpiryError> {
        let system = plan.system;
        let chunked = u64::from(size.bytes()) > CHUNK_BYTES;
        let goes = |key: &str| {
            let name: WalFileName = key.rsplit_once('/')?.1.parse().ok()?;
            let segment = match name {
                WalFileName::Segment(segment) | WalFileName::BackupHistory { segment, .. } => {
                    segment
                }
                WalFileName::History(_) | WalFileName::Partial(_) => return None,
            };
            let number = segment.number(size).ok()?;
            let ripe = ripe.wal.get(&timeline)?.holding(number).is_some();
            let in_place = layout::wal_file(system, &name).is_some_and(|place| place == key);
            (ripe && in_place && segment.timeline == timeline).then_some(())
        };
        let folder = layout::wal_timeline(system, timeline);
        self.archive
            .store()
            .list(&folder)
            .map_err(ExpiryError::from)
            .try_filter(|object| futures::future::ready(goes(&object.key).is_some()))
            .map_ok(|object| async move {
                // Its chunks first: they are found by its name.
                if chunked {
                    self.delete_folder(&layout::chunks(system, &object.key), None)
                        .await?;
                }
                self.delete(&object.key).await
            })
            .try_buffer_unordered(PARALLEL)
            .try_collect()
            .await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::StoreSettings;
    use bytes::Bytes;

    #[tokio::test]
    async fn whose_it_is_was_read_just_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let store = StoreSettings::Filesystem { path }.open("a/b").unwrap();
        let archive = Archive::open_or_create(store, None).await.unwrap();
        let (ours, other) = ("ours".parse().unwrap(), "other".parse().unwrap());
        let objects = ["1", "2", "3"];
        for key in objects {
            let content = vec![Bytes::from_static(b"x")];
            let _ = archive.store().create(key, content).await.unwrap();
        }
        let deleter = Deleter::new(&archive, &ours);
        let refused = deleter.delete("1").await.unwrap_err();
        assert!(matches!(refused, ExpiryError::NoOwner(_)), "{refused}");
        owner::claim(&archive, &ours, "1").await.unwrap();
        deleter.delete("1").await.unwrap();
        owner::take_over(&archive, &other, "1", "ours.1")
            .await
            .unwrap();
        // Read within the last ten seconds, and not again.
        deleter.delete("2").await.unwrap();
        let earlier = Instant::now().checked_sub(OWNER_FRESH);
        *deleter.confirmed.lock().await = earlier;
        let refused = deleter.delete("3").await.unwrap_err();
        assert!(matches!(refused, ExpiryError::NotOurs { .. }), "{refused}");
        assert_eq!(deleter.deleted(), 2);
        assert!(archive.store().get("3", 9).await.is_ok());
    }
}
