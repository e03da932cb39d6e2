//! `keep: Forever` is said in the repository too, so that the object may go.

use super::report::{State, is_kept, settle_into};
use super::{Backups, Look};
use crate::controller::ReconcileError;
use crate::repository::{Access, open_archive};
use holdfast_crds::BackupKeep;
use holdfast_repository::catalogue::incarnation_of;
use holdfast_repository::expiry::set_keep;
use holdfast_repository::owner::{self, Ownership};

impl Backups {
    /// Has the repositories say what the object says. Waits for who owns the archive.
    pub(super) async fn sync_keep(&self, look: &Look<'_>) -> Result<(), ReconcileError> {
        let Some(known) = &look.known else {
            return Ok(());
        };
        let forever = look.backup.spec.keep == BackupKeep::Forever;
        let Some(archive) = look.archive.as_ref().filter(|_| is_kept(known) != forever) else {
            return Ok(());
        };
        let id = look.id()?;
        let other = |error: &dyn std::error::Error| {
            ReconcileError::Other(format!(
                "can't say in the repository that it stays: {error}"
            ))
        };
        let mut said = false;
        for repository in &archive.spec.repositories {
            let name = &repository.name;
            let opened = open_archive(&self.context, &look.archive_key, name, Access::Read).await;
            let archive = match opened {
                Err(failure) if failure.is_not_there() => continue,
                other_or => other_or.map_err(|e| other(&e))?,
            };
            let owner = owner::present(&archive).await.map_err(|e| other(&e))?;
            if owner::ownership(owner.as_ref(), &self.context.installation) != Ownership::Ours {
                continue;
            }
            let Some(system) = incarnation_of(&archive, &id).await.map_err(|e| other(&e))? else {
                continue;
            };
            set_keep(&archive, system, &id, forever)
                .await
                .map_err(|e| other(&e))?;
            said = true;
        }
        if said {
            let mut status = known.clone();
            let generation = look.backup.metadata.generation;
            let news = settle_into(&mut status, &State::Complete, forever, generation, look.now);
            self.write_settled(look, status, &news).await?;
        }
        Ok(())
    }
}
