//! One backup, by its id alone: how far it has come, without reading what else is there.

use super::{Catalogue, CatalogueError};
use crate::archive::Archive;
use crate::backup::{BackupId, Manifest, read_manifest};
use crate::facts::BackupFacts;
use crate::layout;
use crate::object::ObjectError;
use crate::store::StoreError;
use futures::TryStreamExt;
use holdfast_postgres::{Lsn, SegmentName, SystemIdentifier};
use jiff::Timestamp;

/// What the repository has of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookedUp {
    /// Nothing.
    Nothing,
    /// It was begun, and has no manifest.
    Begun {
        /// When its newest sign of life was stored, by the store's clock. Packs are not looked at.
        last_sign: Timestamp,
    },
    /// The archive's owner has given it up as interrupted.
    GivenUp,
    /// Its manifest is damaged: why.
    Unreadable(String),
    /// Its manifest is there.
    Stored {
        /// As it says.
        facts: Box<BackupFacts>,
        /// The first segment between its start and its stop that is not there. Without one the backup is complete.
        missing: Option<SegmentName>,
    },
}

/// The incarnation that has anything under that id, the newest first.
pub async fn incarnation_of(
    archive: &Archive,
    id: &BackupId,
) -> Result<Option<SystemIdentifier>, CatalogueError> {
    for (system, _) in archive.incarnations().await?.into_iter().rev() {
        let folder = format!("{}/{id}", layout::backups(system));
        if archive.store().list(&folder).try_next().await?.is_some() {
            return Ok(Some(system));
        }
    }
    Ok(None)
}

/// Looks a backup up. What is there of its WAL costs a request for every 4 GiB of it.
pub async fn look_up(archive: &Archive, id: &BackupId) -> Result<LookedUp, CatalogueError> {
    let Some(system) = incarnation_of(archive, id).await? else {
        return Ok(LookedUp::Nothing);
    };
    let facts = match read_manifest(archive, system, id).await {
        Ok(Manifest::Committed(root)) => Box::new(root.facts),
        Ok(Manifest::Aborted(_)) => return Ok(LookedUp::GivenUp),
        Err(error) if error.is_not_found() => return Ok(begun(archive, system, id).await?),
        Err(error) if error.is_damage() => return Ok(LookedUp::Unreadable(error.to_string())),
        Err(error) => return Err(error.into()),
    };
    let missing = match missing_on_its_timeline(archive, &facts).await? {
        None => None,
        // It may lie on a timeline that took over before its last segment was archived.
        Some(missing) => {
            let catalogue = Catalogue::load(archive, system).await?;
            let known = catalogue
                .backups
                .into_iter()
                .find(|backup| backup.facts.id == facts.id);
            known.map_or(Some(missing), |backup| backup.missing)
        }
    };
    Ok(LookedUp::Stored { facts, missing })
}

async fn begun(
    archive: &Archive,
    system: SystemIdentifier,
    id: &BackupId,
) -> Result<LookedUp, StoreError> {
    let folder = format!("{}/{id}", layout::backups(system));
    let mut last_sign = None;
    let mut listing = archive.store().list(&folder);
    while let Some(object) = listing.try_next().await? {
        last_sign = last_sign.max(Some(object.modified));
    }
    Ok(last_sign.map_or(LookedUp::Nothing, |last_sign| LookedUp::Begun { last_sign }))
}

async fn missing_on_its_timeline(
    archive: &Archive,
    facts: &BackupFacts,
) -> Result<Option<SegmentName>, ObjectError> {
    let size = facts.segment_size;
    let first = facts.start.segment(size);
    let last = facts.stop.max(Lsn(facts.start.0.saturating_add(1)));
    let last = last.segment_before(size);
    let folder = layout::wal_timeline(facts.system, facts.timeline);
    let mut next = first;
    while next <= last {
        let log = SegmentName::new(facts.timeline, next, size).log;
        let mut there = super::Runs::default();
        let inner = format!("{folder}/{log:08X}");
        let mut listing = archive.store().list(&inner);
        while let Some(object) = listing.try_next().await? {
            let name = object.key.rsplit_once('/').map(|(_, name)| name.parse());
            if let Some(Ok::<SegmentName, _>(name)) = name
                && name.timeline == facts.timeline
                && let Ok(number) = name.number(size)
            {
                there.insert(number);
            }
        }
        // To the end of this log, or to the first hole.
        match there.holding(next) {
            Some(run) => next = run.last.next(),
            None => return Ok(Some(SegmentName::new(facts.timeline, next, size))),
        }
    }
    Ok(None)
}
