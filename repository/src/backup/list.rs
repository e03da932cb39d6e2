//! Which backups there are.

use super::BackupId;
use super::reader::read_manifest;
use super::root::{Manifest, Root};
use crate::archive::Archive;
use crate::facts::BackupFacts;
use crate::layout;
use crate::object::ObjectError;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use holdfast_postgres::SystemIdentifier;

/// Manifests read at once.
const PARALLEL: usize = 8;

/// What stands under `backups/`.
#[derive(Debug, Default)]
pub struct Listing {
    /// Backups with a manifest that can be read, by timeline and start.
    pub backups: Vec<BackupFacts>,
    /// Begun, and without a manifest: running, or interrupted. Not those that the owner has given up.
    pub unfinished: Vec<BackupId>,
    /// With a manifest that is damaged.
    pub unreadable: Vec<Unreadable>,
}

/// A backup whose manifest is damaged.
#[derive(Debug)]
pub struct Unreadable {
    /// The backup.
    pub id: BackupId,
    /// What is wrong.
    pub why: ObjectError,
}

/// What a backup has for a manifest.
#[derive(Debug)]
pub(crate) enum Found {
    /// One.
    Committed(Box<Root>),
    /// One that says that there will be no other.
    Aborted,
    /// None.
    Nothing,
    /// One that is damaged.
    Unreadable(ObjectError),
}

/// Reads these backups' manifests, a few at once, in any order. A damaged one costs that backup alone; an outage is an
/// error.
pub(crate) fn manifests(
    archive: &Archive,
    system: SystemIdentifier,
    ids: Vec<BackupId>,
) -> impl Stream<Item = Result<(BackupId, Found), ObjectError>> {
    stream::iter(ids)
        .map(move |id| async move {
            let found = match read_manifest(archive, system, &id).await {
                Ok(Manifest::Committed(root)) => Found::Committed(root),
                Ok(Manifest::Aborted(_)) => Found::Aborted,
                Err(e) if e.is_not_found() => Found::Nothing,
                Err(e) if e.is_damage() => Found::Unreadable(e),
                Err(e) => return Err(e),
            };
            Ok((id, found))
        })
        .buffer_unordered(PARALLEL)
}

/// Lists backups and reads their roots. A damaged manifest costs that backup alone; an outage is an error.
pub async fn list(archive: &Archive, system: SystemIdentifier) -> Result<Listing, ObjectError> {
    let ids: Vec<BackupId> = archive
        .store()
        .list_folders(&layout::backups(system))
        .await?
        .iter()
        .filter_map(|id| id.parse().ok())
        .collect();
    let mut listing = Listing::default();
    let mut found = std::pin::pin!(manifests(archive, system, ids));
    while let Some((id, found)) = found.try_next().await? {
        match found {
            Found::Committed(root) => listing.backups.push(root.facts),
            Found::Aborted => {}
            Found::Nothing => listing.unfinished.push(id),
            Found::Unreadable(why) => listing.unreadable.push(Unreadable { id, why }),
        }
    }
    listing
        .backups
        .sort_by(|a, b| (a.timeline, a.start, &a.id).cmp(&(b.timeline, b.start, &b.id)));
    listing.unfinished.sort();
    Ok(listing)
}
