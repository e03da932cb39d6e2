//! Signs of life of those who read a backup and its WAL, so that it is not deleted under them.

use super::keep::number;
use super::proto;
use crate::archive::Archive;
use crate::backup::BackupId;
use crate::layout;
use crate::object::{ObjectError, ObjectKind};
use crate::retention::{INTERRUPTED_STAYS, Reader};
use futures::TryStreamExt;
use holdfast_postgres::SystemIdentifier;
use jiff::{SignedDuration, Timestamp};
use prost::Message;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

/// A sign of life is written this often: well within the 15 minutes after which a reader counts as gone.
const ALIVE_EVERY: Duration = Duration::from_secs(300);
/// Where one could not be written, another is tried after this.
const AGAIN: Duration = Duration::from_secs(30);
/// No marker is larger, in bytes.
const LARGEST_MARKER: u64 = 1 << 20;
/// No backup is called so: whoever reads it needs nothing. An empty list would mean everything.
pub(super) const NOTHING: &str = "-";

/// Keeps what is read from being deleted, until it is ended. Dropped without [`Reading::end`], or killed, its last sign
/// of life counts for 15 minutes more.
///
/// What [`announced`](super::announced) names once this has begun may be gone at any moment all the same.
#[derive(Debug)]
pub struct Reading {
    signs: Arc<Signs>,
    alive: tokio::task::JoinHandle<()>,
}

impl Reading {
    /// Says that anything may be read, by `what` (for people). Returns once that is seen by whoever would delete
    /// something.
    ///
    /// # Errors
    /// Where no marker can be written. Then nothing but the grace period covers the reader.
    pub async fn begin(
        archive: &Archive,
        system: SystemIdentifier,
        what: &str,
    ) -> Result<Self, ObjectError> {
        Self::at_this_pace(archive, system, what, (ALIVE_EVERY, AGAIN)).await
    }

    async fn at_this_pace(
        archive: &Archive,
        system: SystemIdentifier,
        what: &str,
        (every, again): (Duration, Duration),
    ) -> Result<Self, ObjectError> {
        let signs = Arc::new(Signs {
            archive: archive.clone(),
            system,
            reader: format!("{:08x}{:08x}", random(), random()),
            what: what.to_owned(),
            every,
            again,
            said: Mutex::default(),
        });
        signs.give().await?;
        let alive = tokio::spawn({
            let signs = signs.clone();
            async move {
                let mut pause = every;
                loop {
                    sleep(pause).await;
                    pause = signs.give_or_tell().await;
                }
            }
        });
        Ok(Self { signs, alive })
    }

    /// From now on no more is read than these backups, with all WAL from their start on.
    pub async fn only(&self, backups: &[BackupId]) {
        self.signs.said.lock().await.backups = backups.iter().map(ToString::to_string).collect();
        // Until it is written, more is kept than is needed.
        self.signs.give_or_tell().await;
    }

    /// Takes the marker away, where that is allowed; otherwise it lapses.
    pub async fn end(self) {
        let Signs {
            archive,
            system,
            reader,
            said,
            ..
        } = &*self.signs;
        // One that is being written would come after all are taken away.
        let Ok(said) = timeout(AGAIN, said.lock()).await else {
            return;
        };
        self.alive.abort();
        for number in 0..said.number {
            let key = layout::marker(*system, reader, number);
            if let Err(e) = archive.store().delete(&key).await {
                tracing::debug!("the marker of this reader lapses by itself: {e}");
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

/// One reader's.
#[derive(Debug)]
struct Signs {
    archive: Archive,
    system: SystemIdentifier,
    reader: String,
    what: String,
    every: Duration,
    again: Duration,
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    /// What is read; none: anything.
    backups: Vec<String>,
    /// Of the next one.
    number: u32,
}

impl Signs {
    async fn give(&self) -> Result<(), ObjectError> {
        let mut said = self.said.lock().await;
        let key = layout::marker(self.system, &self.reader, said.number);
        // Also after an error it may be there.
        said.number += 1;
        let backups: Vec<&str> = said.backups.iter().map(String::as_str).collect();
        write(&self.archive, &key, &self.what, &backups).await
    }

    /// Answers how long to wait for the next one.
    async fn give_or_tell(&self) -> Duration {
        match self.give().await {
            Ok(()) => self.every,
            Err(e) => {
                tracing::warn!("can't write a sign of life: {e}");
                self.again
            }
        }
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
    let mut newest: BTreeMap<String, (Option<u32>, String, Timestamp)> = BTreeMap::new();
    let mut listing = archive.store().list(&folder);
    while let Some(object) = listing.try_next().await? {
        let name = object
            .key
            .strip_prefix(&folder)
            .and_then(|rest| rest.strip_prefix('/')?.split_once('/'))
            .map(|(name, _)| name.to_owned());
        if let Some(name) = name {
            // By number: a store's times may be whole seconds.
            let number = number(&object.key);
            let known = newest
                .entry(name)
                .or_insert_with(|| (number, object.key.clone(), object.modified));
            if number > known.0 {
                (known.0, known.1) = (number, object.key);
            }
            known.2 = known.2.max(object.modified);
        }
    }
    let mut readers = Vec::with_capacity(newest.len());
    for (name, (_, key, last_sign)) in newest {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::StoreSettings;
    use crate::store::conformance::Fault;
    use tokio::time::Instant;

    const SYSTEM: SystemIdentifier = SystemIdentifier(7);
    const SOON: Duration = Duration::from_millis(5);

    #[tokio::test]
    async fn a_long_reading_goes_on_giving_signs_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let store = StoreSettings::Filesystem { path }.open("a/b").unwrap();
        let (through, fault) = store.faulty();
        let archive = Archive::open_or_create(through, None).await.unwrap();
        let look = async || list(&archive, SYSTEM).await.unwrap();
        let reading = Reading::at_this_pace(&archive, SYSTEM, "a restore", (SOON, SOON))
            .await
            .unwrap();
        let first = look().await;
        assert_eq!((first.len(), first[0].what.as_str()), (1, "a restore"));
        assert!(first[0].backups.is_empty());
        // The newest sign counts, also of the tenth and the ninth.
        reading.only(&["b1".parse().unwrap()]).await;
        let signs = async || {
            let folder = layout::markers(SYSTEM);
            let all: Vec<_> = archive.store().list(&folder).try_collect().await.unwrap();
            all.len()
        };
        let patience = Instant::now() + Duration::from_secs(120);
        let wait = async || {
            assert!(Instant::now() < patience, "no more signs are given");
            sleep(SOON).await;
        };
        while signs().await < 12 {
            wait().await;
            assert_eq!(look().await[0].backups, ["b1"]);
        }
        // The store is away for a while.
        fault.set(Fault::FailWrites(3));
        let before = signs().await;
        while signs().await < before + 3 {
            wait().await;
        }
        let later = look().await;
        assert_eq!(later.len(), 1);
        assert!(later[0].last_sign > first[0].last_sign);
        reading.end().await;
        assert_eq!(signs().await, 0);
        sleep(SOON * 4).await;
        assert!(look().await.is_empty());
    }

    #[tokio::test]
    async fn one_that_was_dropped_leaves_its_last_sign() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let store = StoreSettings::Filesystem { path }.open("a/b").unwrap();
        let archive = Archive::open_or_create(store, None).await.unwrap();
        let reading = Reading::begin(&archive, SYSTEM, "a restore").await.unwrap();
        drop(reading);
        assert_eq!(list(&archive, SYSTEM).await.unwrap().len(), 1);
    }
}
