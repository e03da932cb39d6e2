//! What a restore or a verification reads must not be deleted under it: it says in the repository that it reads, and
//! does without what is announced to go.

use crate::exit::{ExitClass, Failure};
use holdfast_postgres::SystemIdentifier;
use holdfast_repository::Archive;
use holdfast_repository::backup::BackupId;
use holdfast_repository::expiry::{self, Reading};
use holdfast_repository::retention::Doomed;
use std::collections::BTreeMap;

/// A reader of an archive, of all its incarnations until it is known which one it needs.
#[derive(Debug)]
pub struct Reader {
    readings: Vec<(SystemIdentifier, Reading)>,
    announced: BTreeMap<SystemIdentifier, Doomed>,
}

impl Reader {
    /// Says that `what` may read anything. Where that can't be said, for instance with credentials that only read, it
    /// is told and goes on: then the grace period alone covers it.
    pub async fn begin(
        archive: &Archive,
        systems: &[SystemIdentifier],
        what: &str,
    ) -> Result<Self, Failure> {
        let mut readings = Vec::with_capacity(systems.len());
        for system in systems {
            match Reading::begin(archive, *system, what).await {
                Ok(reading) => readings.push((*system, reading)),
                Err(error) => {
                    tracing::warn!(
                        "can't say in the repository that this is read: {error}; should expiry announce it meanwhile, it is deleted when the grace period is over"
                    );
                    break;
                }
            }
        }
        let mut reader = Self {
            readings,
            announced: BTreeMap::new(),
        };
        match announced(archive, systems).await {
            Ok(announced) => {
                reader.announced = announced;
                Ok(reader)
            }
            Err(failure) => {
                reader.end().await;
                Err(failure)
            }
        }
    }

    /// Of who reads nothing yet, and says nothing.
    pub async fn silent(archive: &Archive, systems: &[SystemIdentifier]) -> Result<Self, Failure> {
        Ok(Self {
            readings: Vec::new(),
            announced: announced(archive, systems).await?,
        })
    }

    /// What may be gone at any moment.
    pub fn announced(&self, system: SystemIdentifier) -> Doomed {
        self.announced.get(&system).cloned().unwrap_or_default()
    }

    /// A wanted backup must not be among it.
    pub fn may_read(&self, system: SystemIdentifier, id: &BackupId) -> Result<(), Failure> {
        let announced = self.announced.get(&system);
        match announced.and_then(|announced| announced.backups.get(id.as_str())) {
            None => Ok(()),
            Some(request) => Err(Failure::refused(format!(
                "backup {id} is about to be deleted ({}): choose another, or have it kept and try again once it is no longer announced",
                request.reason
            ))),
        }
    }

    /// From now on no more is read than this backup, with all WAL from its start on.
    pub async fn only(&mut self, system: SystemIdentifier, id: &BackupId) {
        for (marked, reading) in std::mem::take(&mut self.readings) {
            if marked == system {
                reading.only(std::slice::from_ref(id)).await;
                self.readings.push((marked, reading));
            } else {
                reading.end().await;
            }
        }
    }

    /// It reads no more.
    pub async fn end(self) {
        for (_, reading) in self.readings {
            reading.end().await;
        }
    }
}

async fn announced(
    archive: &Archive,
    systems: &[SystemIdentifier],
) -> Result<BTreeMap<SystemIdentifier, Doomed>, Failure> {
    let mut all = BTreeMap::new();
    for system in systems {
        match expiry::announced(archive, *system).await {
            Ok(announced) => {
                all.insert(*system, announced);
            }
            // Then nothing is deleted either.
            Err(error) if error.is_damage() => {
                tracing::warn!("what is about to be deleted can't be told: {error}");
            }
            Err(error) => return Err(Failure::from_error(ExitClass::Unknown, &error)),
        }
    }
    Ok(all)
}
