//! What time it is for the store.

use super::marker;
use crate::archive::Archive;
use crate::layout;
use crate::object::ObjectError;
use holdfast_postgres::SystemIdentifier;
use jiff::Timestamp;

/// The store's time: that of an object written just now, a marker of nobody, which is deleted again.
pub(super) async fn now(
    archive: &Archive,
    system: SystemIdentifier,
) -> Result<Timestamp, ObjectError> {
    // Who may not delete would leave one behind with each look; that is told for what is not there, too.
    archive
        .store()
        .delete(&layout::marker(system, "clock", 0))
        .await?;
    let key = layout::marker(system, "clock", marker::random());
    let what = "a look at the store's clock";
    marker::write(archive, &key, what, &[marker::NOTHING]).await?;
    let there = archive.store().head(&key).await;
    archive.store().delete(&key).await?;
    Ok(there?.modified)
}
