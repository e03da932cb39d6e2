//! Reading what retention has to know. Memory grows with backups, timelines and holes, not with segments or packs.

use super::{clock, keep, marker, tombstone};
use crate::archive::{Archive, Identity};
use crate::backup::{BackupId, Found, Root, manifests};
use crate::catalogue::{Catalogue, CatalogueError, timelines};
use crate::layout;
use crate::object::ObjectError;
use crate::retention::{Doomed, Incarnation, Observed, PackNumbers, State, StoredBackup};
use crate::wal::WalStore;
use futures::TryStreamExt;
use holdfast_postgres::SystemIdentifier;
use jiff::Timestamp;
use std::collections::BTreeMap;

/// Reads everything, by the store's clock, for which it writes a marker.
pub(super) async fn observe(archive: &Archive) -> Result<Observed, CatalogueError> {
    let known = in_order(archive.incarnations().await?);
    let our_clock = Timestamp::now();
    let now = match known.last() {
        Some((system, _)) => clock::now(archive, *system).await?,
        None => our_clock,
    };
    read(archive, known, now, our_clock).await
}

/// Reads everything and writes nothing: by our own clock, so that nothing may be deleted by it.
pub async fn look(archive: &Archive) -> Result<Observed, CatalogueError> {
    let known = in_order(archive.incarnations().await?);
    let now = Timestamp::now();
    read(archive, known, now, now).await
}

/// WAL first, and last the signs of life and what was announced, so that these are as new as can be when something is
/// deleted.
async fn read(
    archive: &Archive,
    known: Vec<(SystemIdentifier, Identity)>,
    now: Timestamp,
    our_clock: Timestamp,
) -> Result<Observed, CatalogueError> {
    let mut incarnations = Vec::with_capacity(known.len());
    for (system, identity) in known {
        incarnations.push(incarnation(archive, system, &identity, now).await?);
    }
    Ok(Observed {
        now,
        our_clock,
        incarnations,
    })
}

/// Each after the one that it says it came after; where that does not tell, by the clock of whoever began it.
fn in_order(mut left: Vec<(SystemIdentifier, Identity)>) -> Vec<(SystemIdentifier, Identity)> {
    left.sort_by_key(|(system, identity)| (identity.created, *system));
    let mut ordered = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let next = left
            .iter()
            .position(|(_, identity)| {
                identity
                    .previous
                    .is_none_or(|previous| left.iter().all(|(system, _)| *system != previous))
            })
            .unwrap_or(0);
        ordered.push(left.remove(next));
    }
    ordered
}

async fn incarnation(
    archive: &Archive,
    system: SystemIdentifier,
    identity: &Identity,
    now: Timestamp,
) -> Result<Incarnation, CatalogueError> {
    let began = archive.store().head(&layout::identity(system)).await?;
    let wal = WalStore::of_identity(archive.clone(), system, identity)?;
    let timelines = timelines(&wal).await?;
    let mut stored = packs(archive, system).await?;
    let folders = folders(archive, system).await?;
    let ids: Vec<BackupId> = folders.keys().cloned().collect();
    let mut backups = Vec::new();
    let mut unreadable = Vec::new();
    let mut found = std::pin::pin!(manifests(archive, system, ids));
    while let Some((id, found)) = found.try_next().await? {
        let Some(folder) = folders.get(&id) else {
            continue;
        };
        let entry = stored.entry(id.to_string()).or_insert_with(nothing);
        entry.last_sign = entry.last_sign.max(folder.last_sign);
        entry.signs = folder.signs;
        entry.forever = match folder.keep {
            Some(n) => keep::read(archive, system, &id, n).await?,
            None => false,
        };
        // One that was committed since the listing.
        let written = folder.manifest.unwrap_or(now);
        match found {
            Found::Committed(root) => {
                entry.state = State::Committed(written);
                entry.uses = uses(&root);
                backups.push(root.facts);
            }
            Found::Aborted => entry.state = State::Aborted(written),
            Found::Nothing => {}
            Found::Unreadable(why) => unreadable.push((id.to_string(), why.to_string())),
        }
    }
    let mut catalogue = Catalogue::new(system, wal.segment_size(), wal.major(), timelines, backups);
    catalogue.unreadable = unreadable;
    let readers = marker::list(archive, system).await?;
    let mut doomed = Doomed::default();
    for tombstone in tombstone::list(archive, system).await? {
        doomed.add(&tombstone.doomed);
    }
    Ok(Incarnation {
        catalogue,
        began: began.modified,
        stored,
        readers,
        doomed,
    })
}

fn nothing() -> StoredBackup {
    StoredBackup {
        state: State::Open,
        last_sign: Timestamp::MIN,
        forever: false,
        signs: false,
        packs: PackNumbers::default(),
        uses: BTreeMap::new(),
    }
}

/// By the backup that wrote them.
async fn packs(
    archive: &Archive,
    system: SystemIdentifier,
) -> Result<BTreeMap<String, StoredBackup>, ObjectError> {
    let mut stored: BTreeMap<String, StoredBackup> = BTreeMap::new();
    let folder = layout::packs(system);
    let mut listing = archive.store().list(&folder);
    while let Some(object) = listing.try_next().await? {
        let Some((id, number)) =
            layout::pack_of(system, &object.key).filter(|(id, _)| id.parse::<BackupId>().is_ok())
        else {
            continue;
        };
        let entry = match stored.get_mut(id) {
            Some(entry) => entry,
            None => stored.entry(id.to_owned()).or_insert_with(nothing),
        };
        entry.packs.insert(number);
        entry.last_sign = entry.last_sign.max(object.modified);
    }
    Ok(stored)
}

/// What lies in a backup's folder.
struct Folder {
    manifest: Option<Timestamp>,
    last_sign: Timestamp,
    signs: bool,
    /// The highest number.
    keep: Option<u32>,
}

async fn folders(
    archive: &Archive,
    system: SystemIdentifier,
) -> Result<BTreeMap<BackupId, Folder>, ObjectError> {
    let mut folders: BTreeMap<BackupId, Folder> = BTreeMap::new();
    let prefix = layout::backups(system);
    let mut listing = archive.store().list(&prefix);
    while let Some(object) = listing.try_next().await? {
        let place = object
            .key
            .strip_prefix(&prefix)
            .and_then(|rest| rest.strip_prefix('/')?.split_once('/'));
        let Some((Ok(id), rest)) = place.map(|(id, rest)| (id.parse::<BackupId>(), rest)) else {
            continue;
        };
        let folder = folders.entry(id).or_insert(Folder {
            manifest: None,
            last_sign: Timestamp::MIN,
            signs: false,
            keep: None,
        });
        match rest.split_once('/') {
            None if rest == "manifest" => {
                folder.manifest = Some(object.modified);
                continue;
            }
            Some(("keep", n)) => folder.keep = folder.keep.max(n.parse().ok()),
            _ => folder.last_sign = folder.last_sign.max(object.modified),
        }
        folder.signs = true;
    }
    Ok(folders)
}

fn uses(root: &Root) -> BTreeMap<String, PackNumbers> {
    let mut uses: BTreeMap<String, PackNumbers> = BTreeMap::new();
    for pack in &root.packs {
        match uses.get_mut(pack.backup.as_str()) {
            Some(numbers) => numbers.insert(pack.number),
            None => {
                let numbers = PackNumbers::from_iter([pack.number]);
                uses.insert(pack.backup.to_string(), numbers);
            }
        }
    }
    uses
}
