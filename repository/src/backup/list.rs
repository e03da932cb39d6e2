//! Which backups there are.

use super::BackupId;
use super::reader::read_root;
use super::root::Root;
use crate::archive::Archive;
use crate::facts::BackupFacts;
use crate::layout;
use crate::object::ObjectError;
use futures::{StreamExt, TryStreamExt, stream};
use holdfast_postgres::SystemIdentifier;

/// Manifests read at once.
const PARALLEL: usize = 8;

/// What stands under `backups/`.
#[derive(Debug, Default)]
pub struct Listing {
    /// Backups with a manifest that can be read, by timeline and start.
    pub backups: Vec<BackupFacts>,
    /// Begun, and without a manifest: running, or interrupted.
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

/// Lists backups and reads their roots. A damaged manifest costs that backup alone; an outage is an error.
pub async fn list(archive: &Archive, system: SystemIdentifier) -> Result<Listing, ObjectError> {
    let ids: Vec<BackupId> = archive
        .store()
        .list_folders(&layout::backups(system))
        .await?
        .iter()
        .filter_map(|id| id.parse().ok())
        .collect();
    let roots: Vec<(BackupId, Result<Root, ObjectError>)> = stream::iter(ids)
        .map(|id| async move {
            let root = read_root(archive, system, &id).await;
            match root {
                Err(e) if !e.is_damage() && !e.is_not_found() => Err(e),
                root => Ok((id, root)),
            }
        })
        .buffer_unordered(PARALLEL)
        .try_collect()
        .await?;
    let mut listing = Listing::default();
    for (id, root) in roots {
        match root {
            Ok(root) => listing.backups.push(root.facts),
            Err(e) if e.is_not_found() => listing.unfinished.push(id),
            Err(why) => listing.unreadable.push(Unreadable { id, why }),
        }
    }
    listing
        .backups
        .sort_by(|a, b| (a.timeline, a.start, &a.id).cmp(&(b.timeline, b.start, &b.id)));
    listing.unfinished.sort();
    Ok(listing)
}
