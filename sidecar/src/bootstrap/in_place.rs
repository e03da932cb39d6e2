//! Carrying out an order: what the directory has and the archive lacks is stored first, and then it is replaced.

use super::decide::Place;
use super::told::Told;
use crate::archive::Archiver;
use crate::commands;
use crate::config::{RestoreOrder, Settings};
use crate::exit::{ExitClass, Failure};
use crate::restore::clear;
use crate::restore::prepare::Wanted;
use holdfast_repository::blocking;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Restores the database of the settings' own archive in its own place.
pub(super) async fn restore(
    settings: &Arc<Settings>,
    order: &RestoreOrder,
    directory: &Path,
    place: &Place,
    told: &Told,
) -> Result<(), Failure> {
    if matches!(place, Place::Database(_)) {
        rescue(settings, order).await?;
    }
    // Of a directory that is replaced the link stays as it is.
    let wal_directory = super::wal_directory().filter(|_| *place == Place::Empty);
    let wanted = Wanted {
        repository: super::repository(settings, &order.repository)?,
        archive: &settings.archive,
        request: order.request.clone(),
        action: order.action,
        to: directory,
        parents: true,
        tablespaces: &[],
        wal_directory: wal_directory.as_deref(),
        overwrite: true,
        dry_run: false,
        order: Some(&order.id),
    };
    super::carry_out(settings, &wanted, told).await
}

/// Empties a data directory that will be cloned again.
pub(super) async fn wipe(
    settings: &Arc<Settings>,
    order: &RestoreOrder,
    directory: &Path,
    place: &Place,
) -> Result<(), Failure> {
    if matches!(place, Place::Database(_)) {
        rescue(settings, order).await?;
    }
    let root = directory.to_owned();
    let wiped = blocking(move || clear::wipe(&root)).await;
    wiped.map_err(|e| Failure::failed(format!("{} can't be emptied: {e}", directory.display())))?;
    commands::print(&format!(
        "{} was emptied, to be cloned again\n",
        directory.display()
    ))
}

/// The same, by force where that is ordered.
async fn rescue(settings: &Arc<Settings>, order: &RestoreOrder) -> Result<(), Failure> {
    match store_the_rest(settings).await {
        Ok(words) => commands::print(&words),
        Err((failure, true)) if order.force => commands::print(&format!(
            "the restore goes on by force: {}\n",
            failure.message
        )),
        Err((mut failure, for_good)) => {
            if for_good {
                failure.message.push_str("; with spec.force it is given up");
            }
            Err(failure)
        }
    }
}

/// Stores what the directory's WAL has and the archive lacks, and says so.
///
/// # Errors
/// Refused: somebody has to do something; unknown: it is worth trying again. And whether it is the directory's own state
/// that stands in the way, which nobody may be able to mend.
pub(super) async fn store_the_rest(settings: &Arc<Settings>) -> Result<String, (Failure, bool)> {
    let (archiver, files) = (Archiver::new(settings.clone()), AtomicU64::new(0));
    match archiver.archive_rest(None, &files).await {
        Ok(through) => {
            let end = through.map_or(String::new(), |end| format!(", up to {end}"));
            Ok(format!(
                "the WAL of the data directory is in the archive{end} ({} files were looked at)\n",
                files.load(Ordering::Relaxed)
            ))
        }
        Err(error) => {
            let class = if error.is_permanent() {
                ExitClass::Refused
            } else {
                ExitClass::Unknown
            };
            let mut failure = Failure::from_error(class, &error);
            failure.message = format!(
                "the data directory holds WAL that the archive lacks, and that could not be stored: {}",
                failure.message
            );
            let for_good = error.is_permanent() && error.is_of_the_directory();
            Err((failure, for_good))
        }
    }
}
