//! What the server has flushed of the segment that it is writing.

use super::local::Local;
use super::{Archiver, NotArchived, Written};
use crate::config::Settings;
use crate::data_directory::{self, DataDirectoryError};
use crate::queue::{MOST_ENTRIES, Queue};
use holdfast_postgres::{Lsn, SegmentName, TimelineId, WalFileName};
use holdfast_repository::wal::PartWriter;
use holdfast_repository::{ArchiveId, WalStore, blocking};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// How long an archive that was there is taken to be there.
const CONFIRMED: Duration = Duration::from_secs(60);

/// Who stores the segment that is being written, in each required repository.
#[derive(Debug, Default)]
pub struct Writers {
    by_repository: BTreeMap<String, (ArchiveId, PartWriter)>,
    /// When it was last seen that the archives are there.
    confirmed: Option<Instant>,
    /// All of them have stored this.
    stored: Option<(TimelineId, Lsn)>,
}

impl Archiver {
    /// Stores in every required repository what the server has flushed, up to `to`, of the segment that it is writing on
    /// that timeline. What came before is the archive_command's: as long as some of it waits nothing is stored, for a part
    /// behind a hole would say that the WAL goes on there. `as_of`: nothing more was flushed then.
    ///
    /// Returns once all hold it, or where it waits. Safe to drop and to repeat.
    ///
    /// # Errors
    /// As for [`Archiver::archive`]; what is stored by then is not stored again.
    pub async fn store_written(
        &self,
        settings: &Arc<Settings>,
        writers: &mut Writers,
        (timeline, to): (TimelineId, Lsn),
        as_of: Timestamp,
    ) -> Result<(), NotArchived> {
        if writers.stored == Some((timeline, to)) {
            if let Some(written) = &mut self.lock_progress().written {
                written.as_of = as_of;
            }
            return Ok(());
        }
        let size = {
            let settings = settings.clone();
            let control = move || data_directory::control_file(&settings.postgres.data_directory);
            blocking(control).await?.segment_size
        };
        let number = to.segment(size);
        let (start, offset) = (number.start(size), to.segment_offset(size));
        // The segment is whole, and the next not begun.
        if offset == 0 {
            writers.stored = Some((timeline, to));
            return Ok(());
        }
        let segment = SegmentName::new(timeline, number, size);
        let name = WalFileName::Segment(segment);
        let is_known = |(_, writer): &(ArchiveId, PartWriter)| writer.segment() == segment;
        if !writers.by_repository.values().any(is_known) && self.something_waits(settings).await? {
            return Ok(());
        }
        let local = {
            let settings = settings.clone();
            blocking(move || Local::look(&settings, name, &format!("pg_wal/{name}"))).await?
        };
        let mut written: Option<Written> = None;
        for repository in settings.required_repositories() {
            let opened = self.opened(settings, repository, &local.control).await?;
            self.check_copy(&opened, &local)?;
            if let Some(timeline) = local.timeline {
                self.check_history(repository, &opened, name, timeline, &local)
                    .await?;
            }
            let archive = opened.wal.archive().id();
            let known = writers.by_repository.remove(&repository.name);
            let known = known.filter(|(of, writer)| *of == archive && writer.segment() == segment);
            let (_, mut writer) = match known {
                Some(known) => known,
                None => {
                    writers.confirmed = None;
                    let (wal, compression) = (opened.wal.clone(), settings.wal_compression);
                    let begun =
                        PartWriter::begin(wal, segment, compression, &local.file, offset).await;
                    if begun.is_err() {
                        self.lock().remove(&repository.name);
                    }
                    (archive, begun?)
                }
            };
            let Some(_room) = self.budget.take(WalStore::PUT_MEMORY).await else {
                return Err(NotArchived::Ending);
            };
            let is_old = |at: Instant| at.elapsed() >= CONFIRMED;
            let appended = async {
                writer.append(&local.file, offset).await?;
                // As for whole segments: what answers is the archive, and not an empty folder in its place. A file system
                // may be unmounted at any time; elsewhere a request for each part would be a second one.
                if opened.wal.archive().store().is_filesystem()
                    || writers.confirmed.is_none_or(is_old)
                {
                    opened.wal.archive().confirm().await?;
                }
                Ok::<_, NotArchived>(())
            };
            let appended = appended.await;
            if let Err(error) = appended {
                self.lock().remove(&repository.name);
                if !error.is_permanent() {
                    writers
                        .by_repository
                        .insert(repository.name.clone(), (archive, writer));
                }
                return Err(error);
            }
            let reached = Written {
                timeline,
                start,
                stored: to,
                end: writer.valid_through(),
                last_commit: writer.last_commit().map(|commit| commit.to_jiff()),
                as_of,
            };
            written.get_or_insert(reached);
            writers
                .by_repository
                .insert(repository.name.clone(), (archive, writer));
        }
        writers.stored = Some((timeline, to));
        if writers.confirmed.is_none_or(|at| at.elapsed() >= CONFIRMED) {
            writers.confirmed = Some(Instant::now());
        }
        self.lock_progress().written = written;
        Ok(())
    }

    /// Whether segments before the one that is being written may not be stored. Postgres marks a segment before it flushes
    /// anything of the next (`XLogWrite`).
    async fn something_waits(&self, settings: &Arc<Settings>) -> Result<bool, NotArchived> {
        if self.left_behind.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let directory = settings.postgres.data_directory.clone();
        let look = move || match Queue::look(&directory, MOST_ENTRIES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            other => other.map(|queue| queue.first_segment().is_some()),
        };
        let waits = blocking(look).await;
        Ok(waits.map_err(|source| DataDirectoryError::Read {
            file: settings
                .postgres
                .data_directory
                .join("pg_wal/archive_status"),
            source,
        })?)
    }
}
