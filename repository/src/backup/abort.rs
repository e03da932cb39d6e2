//! Giving up a backup that has shown no sign of life: its manifest is created in its stead, so that a late commit fails.

use super::BackupId;
use super::root::Aborted;
use crate::archive::Archive;
use crate::layout;
use crate::object::{ObjectError, ObjectKind};
use crate::store::Created;
use holdfast_postgres::SystemIdentifier;

/// Says that a backup will never be committed. False: it is committed, or was given up already. For the archive's owner
/// alone.
pub async fn abort(
    archive: &Archive,
    system: SystemIdentifier,
    id: &BackupId,
    aborted: &Aborted,
) -> Result<bool, ObjectError> {
    let key = layout::manifest(system, id.as_str());
    let content = aborted.encode(system, id);
    let created = archive
        .create_single(ObjectKind::Manifest, &key, &content)
        .await?;
    Ok(matches!(created, Created::New))
}
