//! The backup that a new one is compared with, so that only what differs is stored.

use super::{BackupError, Order};
use crate::reading::Reader;
use holdfast_postgres::SystemIdentifier;
use holdfast_repository::backup::{self, BackupId, BackupReader};
use holdfast_repository::facts::BackupFacts;
use holdfast_repository::retention::Doomed;
use std::sync::Arc;

/// So many are tried until one can be used.
const TRIED: usize = 3;

/// An earlier backup, which is not deleted as long as this is held.
pub struct Reference {
    /// It.
    pub reader: Arc<BackupReader>,
    reading: Reader,
}

impl Reference {
    /// The newest that can be used. None: there is none, which is told.
    ///
    /// # Errors
    /// If the store is in trouble.
    pub async fn find(
        order: &Order,
        system: SystemIdentifier,
    ) -> Result<Option<Self>, BackupError> {
        let what = format!("backup {}", order.id);
        let begun = Reader::begin(&order.archive, &[system], &what).await;
        let mut reading = begun.map_err(|failure| BackupError::Reference(failure.message))?;
        let found = open(order, system, &reading.announced(system)).await;
        match found {
            Ok(Some((id, reader))) => {
                reading.only(system, &id).await;
                let reader = Arc::new(reader);
                Ok(Some(Self { reader, reading }))
            }
            Ok(None) => {
                reading.end().await;
                tracing::info!(backup = %order.id, "there is no earlier backup to compare with: everything is stored");
                Ok(None)
            }
            Err(e) => {
                reading.end().await;
                Err(e)
            }
        }
    }

    /// It may be deleted.
    pub async fn end(self) {
        self.reading.end().await;
    }
}

async fn open(
    order: &Order,
    system: SystemIdentifier,
    announced: &Doomed,
) -> Result<Option<(BackupId, BackupReader)>, BackupError> {
    let listing = backup::list(&order.archive, system).await?;
    for id in candidates(listing.backups, announced) {
        let opened = async {
            let reader = BackupReader::open(order.archive.clone(), system, &id).await?;
            reader.has_packs().await.map(|()| reader)
        };
        match opened.await {
            Ok(reader) => return Ok(Some((id, reader))),
            Err(e) if e.is_damage() || e.is_not_found() => {
                tracing::warn!(reference = %id, "the backup can't be restored, and nothing is compared with it: {e}");
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(None)
}

/// The newest first, without what is about to be deleted. Pure.
fn candidates(mut backups: Vec<BackupFacts>, announced: &Doomed) -> Vec<BackupId> {
    backups.retain(|facts| !announced.backups.contains_key(&facts.id));
    backups.sort_by(|a, b| (b.stop_time, &b.id).cmp(&(a.stop_time, &a.id)));
    let ids = backups.iter().filter_map(|facts| facts.id.parse().ok());
    ids.take(TRIED).collect()
}
