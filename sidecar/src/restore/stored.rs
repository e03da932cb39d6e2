//! The archive that a restore reads from.

use crate::exit::{ExitClass, Failure};
use crate::reading::Reader;
use holdfast_postgres::SystemIdentifier;
use holdfast_repository::backup::{BackupId, BackupReader};
use holdfast_repository::catalogue::Catalogue;
use holdfast_repository::expiry;
use holdfast_repository::wal::WalStore;
use holdfast_repository::{Archive, Identity, ObjectError};

/// What is stored, and what of it was asked for.
pub(super) struct Stored {
    pub(super) archive: Archive,
    /// The oldest first.
    pub(super) incarnations: Vec<(SystemIdentifier, Identity)>,
    /// The backup that was named.
    pub(super) wanted: Option<BackupId>,
}

impl Stored {
    pub(super) fn systems(&self) -> Vec<SystemIdentifier> {
        self.incarnations
            .iter()
            .map(|(system, _)| *system)
            .collect()
    }

    /// The incarnation that holds the wanted backup, else the newest, without what is announced to go.
    pub(super) async fn incarnation(
        &self,
        reader: &Reader,
    ) -> Result<(SystemIdentifier, WalStore, Catalogue), Failure> {
        let Self {
            archive, wanted, ..
        } = self;
        let mut newest = None;
        for (system, identity) in self.incarnations.iter().rev() {
            let system = *system;
            if let Some(wanted) = wanted {
                reader.may_read(system, wanted)?;
            }
            let catalogue = Catalogue::load(archive, system).await.map_err(|e| {
                let class = if e.is_permanent() {
                    ExitClass::Failed
                } else {
                    ExitClass::Unknown
                };
                Failure::from_error(class, &e)
            })?;
            let catalogue = expiry::leave_out(catalogue, &reader.announced(system));
            let wal = WalStore::of_identity(archive.clone(), system, identity)
                .map_err(Failure::failed)?;
            let is_wanted =
                |id: &BackupId| catalogue.backups.iter().any(|b| b.facts.id == id.as_str());
            let here = wanted.as_ref().is_none_or(is_wanted);
            if here {
                return Ok((system, wal, catalogue));
            }
            newest.get_or_insert((system, wal, catalogue));
        }
        // Planning says what is missing.
        newest.ok_or_else(|| {
            Failure::refused(format!(
                "the archive at {} holds no database yet: nothing was archived or backed up",
                archive.store().description()
            ))
        })
    }

    /// Opens a backup, and sees that everything it is made of is there, while nothing has been touched yet.
    pub(super) async fn open_backup(
        &self,
        system: SystemIdentifier,
        id: &BackupId,
    ) -> Result<BackupReader, Failure> {
        let fail = |e: ObjectError| {
            let class = if e.is_damage() || e.is_not_found() {
                ExitClass::Refused
            } else {
                ExitClass::Unknown
            };
            let mut failure = Failure::from_error(class, &e);
            failure.message = format!(
                "backup {id} can't be restored: {}; nothing was written",
                failure.message
            );
            failure
        };
        let reader = BackupReader::open(self.archive.clone(), system, id)
            .await
            .map_err(fail)?;
        reader.preflight().await.map_err(fail)?;
        Ok(reader)
    }
}
