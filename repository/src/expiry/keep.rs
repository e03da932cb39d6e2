//! That a backup stays for ever is said in the repository, so that it outlives whoever said it.

use super::proto;
use crate::archive::Archive;
use crate::backup::BackupId;
use crate::layout;
use crate::object::{ObjectError, ObjectKind};
use crate::store::Created;
use futures::TryStreamExt;
use holdfast_postgres::SystemIdentifier;
use jiff::Timestamp;
use prost::Message;

/// No such object is larger, in bytes.
const LARGEST_KEEP: u64 = 64 << 10;
/// Somebody else may change it at the same time, but not for ever.
const TRIES: u32 = 10;

/// Whether the repository says that a backup stays for ever.
pub async fn kept_for_ever(
    archive: &Archive,
    system: SystemIdentifier,
    id: &BackupId,
) -> Result<bool, ObjectError> {
    match newest(archive, system, id).await? {
        Some(n) => read(archive, system, id, n).await,
        None => Ok(false),
    }
}

/// Says whether a backup stays for ever. Says nothing where that is said already. For the archive's owner alone.
pub async fn set_keep(
    archive: &Archive,
    system: SystemIdentifier,
    id: &BackupId,
    forever: bool,
) -> Result<(), ObjectError> {
    for _ in 0..TRIES {
        let newest = newest(archive, system, id).await?;
        let said = match newest {
            Some(n) => read(archive, system, id, n).await?,
            None => false,
        };
        if said == forever {
            return Ok(());
        }
        let next = newest.map_or(1, |n| n.saturating_add(1));
        let keep = proto::Keep {
            oldest_reader: 1,
            forever,
            time: Timestamp::now().as_microsecond(),
        };
        let key = layout::keep(system, id.as_str(), next);
        let created = archive
            .create_single(ObjectKind::Keep, &key, &keep.encode_to_vec())
            .await?;
        if let Created::New = created {
            return Ok(());
        }
    }
    let key = layout::keeps(system, id.as_str());
    Err(ObjectError::damaged(
        &key,
        "somebody else goes on changing it",
    ))
}

async fn newest(
    archive: &Archive,
    system: SystemIdentifier,
    id: &BackupId,
) -> Result<Option<u32>, ObjectError> {
    let folder = layout::keeps(system, id.as_str());
    let mut newest = None;
    let mut listing = archive.store().list(&folder);
    while let Some(object) = listing.try_next().await? {
        newest = newest.max(number(&object.key));
    }
    Ok(newest)
}

/// The last part of a key, if it is a number.
pub(super) fn number(key: &str) -> Option<u32> {
    key.rsplit_once('/')?.1.parse().ok()
}

pub(super) async fn read(
    archive: &Archive,
    system: SystemIdentifier,
    id: &BackupId,
    n: u32,
) -> Result<bool, ObjectError> {
    let key = layout::keep(system, id.as_str(), n);
    let bytes = archive.store().get(&key, LARGEST_KEEP).await?;
    let content = archive.open_single(ObjectKind::Keep, &key, &bytes)?;
    let keep = proto::Keep::decode(content.as_slice())
        .map_err(|e| ObjectError::damaged(&key, e.to_string()))?;
    if keep.oldest_reader > 1 {
        return Err(ObjectError::damaged(&key, "it needs a newer holdfast"));
    }
    Ok(keep.forever)
}
