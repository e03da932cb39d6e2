//! What is about to be deleted, said in the repository beforehand.

use super::keep::number;
use super::proto;
use crate::archive::Archive;
use crate::backup::BackupId;
use crate::catalogue::{Run, Runs};
use crate::layout;
use crate::object::{ObjectError, ObjectKind};
use crate::owner::InstallationId;
use crate::retention::{Doomed, Request};
use crate::store::Created;
use futures::TryStreamExt;
use holdfast_postgres::{SegmentNumber, SystemIdentifier, TimelineId};
use jiff::Timestamp;
use prost::Message;
use std::collections::BTreeMap;

/// No tombstone is larger, in bytes.
const LARGEST_TOMBSTONE: u64 = 8 << 20;
/// Backups and stretches of WAL that one tombstone names.
const NAMED: usize = 5_000;
/// Somebody else may write one at the same time, but not for ever.
const TRIES: u32 = 10;

/// What was announced, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tombstone {
    pub(super) number: u32,
    /// By the store's clock.
    pub(super) written: Timestamp,
    pub(super) doomed: Doomed,
}

/// Everything that any tombstone names.
pub async fn doomed(archive: &Archive, system: SystemIdentifier) -> Result<Doomed, ObjectError> {
    let mut all = Doomed::default();
    for tombstone in list(archive, system).await? {
        all.add(&tombstone.doomed);
    }
    Ok(all)
}

/// What is announced to go, and may be gone at any moment. What persons want to go is not announced by that alone.
pub async fn announced(archive: &Archive, system: SystemIdentifier) -> Result<Doomed, ObjectError> {
    let mut all = Doomed::default();
    for tombstone in list(archive, system).await? {
        all.add(&tombstone.doomed.announced());
    }
    Ok(all)
}

/// Asks that a backup be deleted: it is announced as soon as the recovery window can do without it, and goes when the
/// grace period is over.
/// Does nothing where that was asked already. For the archive's owner alone.
pub async fn ask_to_delete(
    archive: &Archive,
    system: SystemIdentifier,
    id: &BackupId,
    installation: &InstallationId,
    version: &str,
    reason: &str,
) -> Result<(), ObjectError> {
    let known = doomed(archive, system).await?;
    if known
        .backups
        .get(id.as_str())
        .is_some_and(|request| request.by_person)
    {
        return Ok(());
    }
    let mut asked = Doomed::default();
    let request = Request {
        reason: reason.to_owned(),
        by_person: true,
    };
    asked.backups.insert(id.to_string(), request);
    write(archive, system, installation, version, &asked).await
}

/// All tombstones, the oldest first. One that can't be read is an error: then nobody can tell what is half deleted.
pub(super) async fn list(
    archive: &Archive,
    system: SystemIdentifier,
) -> Result<Vec<Tombstone>, ObjectError> {
    let folder = layout::tombstones(system);
    let objects: Vec<_> = archive.store().list(&folder).try_collect().await?;
    let mut tombstones = Vec::with_capacity(objects.len());
    for object in objects {
        let Some(number) =
            number(&object.key).filter(|n| layout::tombstone(system, *n) == object.key)
        else {
            continue;
        };
        let doomed = match read(archive, &object.key).await {
            // Somebody else has just taken it away.
            Err(e) if e.is_not_found() => continue,
            other => other?,
        };
        tombstones.push(Tombstone {
            number,
            written: object.modified,
            doomed,
        });
    }
    tombstones.sort_by_key(|tombstone| tombstone.number);
    Ok(tombstones)
}

/// Announces it, in as many tombstones as it needs.
pub(super) async fn write(
    archive: &Archive,
    system: SystemIdentifier,
    installation: &InstallationId,
    version: &str,
    doomed: &Doomed,
) -> Result<(), ObjectError> {
    for piece in pieces(doomed) {
        write_one(archive, system, &encode(installation, version, &piece)).await?;
    }
    Ok(())
}

/// Cuts it so that each piece fits a tombstone.
fn pieces(doomed: &Doomed) -> Vec<Doomed> {
    let mut pieces = vec![Doomed::default()];
    let mut room = NAMED;
    let mut last = |pieces: &mut Vec<Doomed>| {
        if room == 0 {
            pieces.push(Doomed::default());
            room = NAMED;
        }
        room -= 1;
        pieces.len() - 1
    };
    for (id, request) in &doomed.backups {
        let place = last(&mut pieces);
        pieces[place].backups.insert(id.clone(), request.clone());
    }
    for (timeline, runs) in &doomed.wal {
        for run in runs.iter() {
            let place = last(&mut pieces);
            let wal = &mut pieces[place].wal;
            wal.entry(*timeline).or_default().insert_run(run);
        }
    }
    for (timeline, runs) in &doomed.parts {
        for run in runs.iter() {
            let place = last(&mut pieces);
            let parts = &mut pieces[place].parts;
            parts.entry(*timeline).or_default().insert_run(run);
        }
    }
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

async fn write_one(
    archive: &Archive,
    system: SystemIdentifier,
    message: &[u8],
) -> Result<(), ObjectError> {
    for _ in 0..TRIES {
        let newest = list_numbers(archive, system).await?.into_iter().max();
        let next = newest.map_or(1, |n| n.saturating_add(1));
        let key = layout::tombstone(system, next);
        let created = archive
            .create_single(ObjectKind::Tombstone, &key, message)
            .await?;
        if let Created::New = created {
            return Ok(());
        }
    }
    Err(ObjectError::damaged(
        &layout::tombstones(system),
        "somebody else goes on writing there",
    ))
}

async fn list_numbers(
    archive: &Archive,
    system: SystemIdentifier,
) -> Result<Vec<u32>, ObjectError> {
    let folder = layout::tombstones(system);
    let mut numbers = Vec::new();
    let mut listing = archive.store().list(&folder);
    while let Some(object) = listing.try_next().await? {
        numbers.extend(number(&object.key));
    }
    Ok(numbers)
}

fn encode(installation: &InstallationId, version: &str, doomed: &Doomed) -> Vec<u8> {
    let segments = |named: &BTreeMap<TimelineId, Runs>| {
        let runs = |(timeline, runs): (&TimelineId, &Runs)| {
            let timeline = timeline.0;
            let told = runs.iter().map(|Run { first, last }| proto::DoomedWal {
                timeline,
                first: first.0,
                last: last.0,
            });
            told.collect::<Vec<_>>()
        };
        named.iter().flat_map(runs).collect()
    };
    proto::Tombstone {
        oldest_reader: 1,
        installation: installation.to_string(),
        version: version.to_owned(),
        time: Timestamp::now().as_microsecond(),
        backups: doomed
            .backups
            .iter()
            .map(|(id, request)| proto::DoomedBackup {
                id: id.clone(),
                reason: request.reason.chars().take(500).collect(),
                requested: request.by_person,
            })
            .collect(),
        wal: segments(&doomed.wal),
        parts: segments(&doomed.parts),
    }
    .encode_to_vec()
}

async fn read(archive: &Archive, key: &str) -> Result<Doomed, ObjectError> {
    let bytes = archive.store().get(key, LARGEST_TOMBSTONE).await?;
    let content = archive.open_single(ObjectKind::Tombstone, key, &bytes)?;
    let tombstone = proto::Tombstone::decode(content.as_slice())
        .map_err(|e| ObjectError::damaged(key, e.to_string()))?;
    if tombstone.oldest_reader > 1 {
        return Err(ObjectError::damaged(key, "it needs a newer holdfast"));
    }
    let mut doomed = Doomed::default();
    for proto::DoomedBackup {
        id,
        reason,
        requested,
    } in tombstone.backups
    {
        let request = Request {
            reason,
            by_person: requested,
        };
        doomed.backups.insert(id, request);
    }
    for (named, read) in [
        (tombstone.wal, &mut doomed.wal),
        (tombstone.parts, &mut doomed.parts),
    ] {
        for proto::DoomedWal {
            timeline,
            first,
            last,
        } in named
        {
            let run = Run {
                first: SegmentNumber(first),
                last: SegmentNumber(last),
            };
            let runs = read.entry(TimelineId(timeline)).or_default();
            runs.insert_run(run);
        }
    }
    Ok(doomed)
}
