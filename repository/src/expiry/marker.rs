//! Signs of life of those who read a backup and its WAL, so that it is not deleted under them.

use super::{proto, tombstone};
use crate::archive::Archive;
use crate::backup::BackupId;
use crate::layout;
use crate::object::{ObjectError, ObjectKind};
use crate::retention::{INTERRUPTED_STAYS, Reader};
use crate::store::Store;
use futures::TryStreamExt;
use holdfast_postgres::SystemIdentifier;
use jiff::{SignedDuration, Timestamp};
use prost::Message;
use std::collections::BTreeMap;
use std::time::Duration;
use thiserror::Error;

/// A sign of life is written this often: well within the 15 minutes after which a reader counts as gone.
const ALIVE_EVERY: Duration = Duration::from_secs(300);
/// No marker is larger, in bytes.
const LARGEST_MARKER: u64 = 1 << 20;
/// No backup is called so: whoever reads it needs nothing. An empty list would mean everything.
pub(super) const NOTHING: &str = "-";

/// Keeps what is read from being deleted, as long as it is not dropped. Dropped without [`Reading::end`], or killed, its
/// last sign of life counts for 15 minutes more.
#[derive(Debug)]
pub struct Reading {
    store: Store,
    folder: String,
    alive: tokio::task::JoinHandle<()>,
}

/// What is to be read can't be protected.
#[derive(Debug, Error)]
pub enum ReadingError {
    /// It goes.
    #[error(
        "backup {id} is about to be deleted ({reason}): choose another, or wait and look again"
    )]
    Doomed {
        /// The backup.
        id: String,
        /// As the tombstone says.
        reason: String,
    },
    /// No marker can be written; only the grace period covers the reader.
    #[error(transparent)]
    Object(#[from] ObjectError),
}

impl Reading {
    /// Says that these backups are read, with all WAL from their start on, by `what` (for people). None at all: anything
    /// may be read. Returns once that is seen by whoever would delete them.
    pub async fn begin(
        archive: &Archive,
        system: SystemIdentifier,
        what: &str,
        backups: &[BackupId],
    ) -> Result<Self, ReadingError> {
        let name = format!("{:08x}{:08x}", random(), random());
        let names: Vec<&str> = backups.iter().map(BackupId::as_str).collect();
        write(archive, &layout::marker(system, &name, 0), what, &names).await?;
        let folder = format!("{}/{name}", layout::markers(system));
        let alive = {
            let (archive, what, backups) = (archive.clone(), what.to_owned(), backups.to_vec());
            tokio::spawn(async move {
                let names: Vec<&str> = backups.iter().map(BackupId::as_str).collect();
                for n in 1.. {
                    tokio::time::sleep(ALIVE_EVERY).await;
                    let key = layout::marker(system, &name, n);
                    if let Err(e) = write(&archive, &key, &what, &names).await {
                        tracing::warn!("can't write a sign of life: {e}");
                    }
                }
            })
        };
        let reading = Self {
            store: archive.store().clone(),
            folder,
            alive,
        };
        let doomed = tombstone::doomed(archive, system)
            .await
            .map_err(ReadingError::Object);
        let gone = doomed.map(|doomed| {
            names
                .iter()
                .find_map(|id| Some(((*id).to_owned(), doomed.backups.get(*id)?.reason.clone())))
        });
        match gone {
            Ok(None) => Ok(reading),
            Ok(Some((id, reason))) => {
                reading.end().await;
                Err(ReadingError::Doomed { id, reason })
            }
            Err(e) => {
                reading.end().await;
                Err(e)
            }
        }
    }

    /// Takes the marker away, where that is allowed; otherwise it lapses.
    pub async fn end(self) {
        self.alive.abort();
        let listed: Result<Vec<_>, _> = self.store.list(&self.folder).try_collect().await;
        for object in listed.unwrap_or_default() {
            if self.store.delete(&object.key).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.alive.abort();
    }
}

/// A number that nobody else is likely to have.
pub(super) fn random() -> u32 {
    // Without random numbers the time has to do: it is only a name.
    getrandom::u32().unwrap_or(Timestamp::now().subsec_nanosecond().unsigned_abs())
}

pub(super) async fn write(
    archive: &Archive,
    key: &str,
    what: &str,
    backups: &[&str],
) -> Result<(), ObjectError> {
    let marker = proto::Marker {
        oldest_reader: 1,
        what: what.to_owned(),
        backups: backups.iter().map(|id| (*id).to_owned()).collect(),
        time: Timestamp::now().as_microsecond(),
    };
    let content = marker.encode_to_vec();
    // Its name is random: what stands there is ours.
    let _ = archive
        .create_single(ObjectKind::Marker, key, &content)
        .await?;
    Ok(())
}

/// All readers, also those that are gone. One whose marker can't be read may need anything.
pub(super) async fn list(
    archive: &Archive,
    system: SystemIdentifier,
) -> Result<Vec<Reader>, ObjectError> {
    let folder = layout::markers(system);
    let mut newest: BTreeMap<String, (String, Timestamp)> = BTreeMap::new();
    let mut listing = archive.store().list(&folder);
    while let Some(object) = listing.try_next().await? {
        let name = object
            .key
            .strip_prefix(&folder)
            .and_then(|rest| rest.strip_prefix('/')?.split_once('/'))
            .map(|(name, _)| name.to_owned());
        if let Some(name) = name {
            let known = newest
                .entry(name)
                .or_insert_with(|| (object.key.clone(), object.modified));
            if object.modified >= known.1 {
                *known = (object.key, object.modified);
            }
        }
    }
    let mut readers = Vec::with_capacity(newest.len());
    for (name, (key, last_sign)) in newest {
        let (what, backups) = match read(archive, &key).await {
            Ok(marker) => (marker.what, marker.backups),
            // It has ended meanwhile.
            Err(e) if e.is_not_found() => continue,
            Err(e) if e.is_damage() => (format!("somebody ({e})"), Vec::new()),
            Err(e) => return Err(e),
        };
        readers.push(Reader {
            what: what.chars().take(200).collect(),
            name,
            last_sign,
            backups,
        });
    }
    Ok(readers)
}

async fn read(archive: &Archive, key: &str) -> Result<proto::Marker, ObjectError> {
    let bytes = archive.store().get(key, LARGEST_MARKER).await?;
    let content = archive.open_single(ObjectKind::Marker, key, &bytes)?;
    let marker = proto::Marker::decode(content.as_slice())
        .map_err(|e| ObjectError::damaged(key, e.to_string()))?;
    if marker.oldest_reader > 1 {
        return Err(ObjectError::damaged(key, "it needs a newer holdfast"));
    }
    Ok(marker)
}

/// Deletes the markers of readers that have shown no sign of life for a day.
pub(super) async fn sweep(
    archive: &Archive,
    system: SystemIdentifier,
    now: Timestamp,
    readers: &[Reader],
) -> Result<(), ObjectError> {
    let day = SignedDuration::try_from(INTERRUPTED_STAYS).unwrap_or(SignedDuration::MAX);
    for reader in readers {
        if now.duration_since(reader.last_sign) < day {
            continue;
        }
        let folder = format!("{}/{}", layout::markers(system), reader.name);
        let objects: Vec<_> = archive.store().list(&folder).try_collect().await?;
        for object in objects {
            archive.store().delete(&object.key).await?;
        }
    }
    Ok(())
}
