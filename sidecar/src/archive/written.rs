//! What the server has flushed of the segment that it is writing.

use super::local::Local;
use super::{Archiver, NotArchived, Written};
use crate::config::Settings;
use crate::data_directory;
use holdfast_postgres::{Lsn, SegmentName, TimelineId, WalFileName};
use holdfast_repository::wal::PartWriter;
use holdfast_repository::{ArchiveId, WalStore, blocking};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Who stores the segment that is being written, in each required repository.
#[derive(Debug, Default)]
pub struct Writers {
    by_repository: BTreeMap<String, (ArchiveId, PartWriter)>,
    /// All of them have stored this.
    stored: Option<(TimelineId, Lsn)>,
}

impl Archiver {
    /// Stores in every required repository what the server has flushed, up to `to`, of the segment that it is writing on
    /// that timeline. What came before is the archive_command's. `as_of`: nothing more was flushed then.
    ///
    /// Returns once all hold it. Safe to drop and to repeat.
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
                    let wal = opened.wal.clone();
                    (
                        archive,
                        PartWriter::new(wal, segment, settings.wal_compression)?,
                    )
                }
            };
            let Some(_room) = self.budget.take(WalStore::PUT_MEMORY).await else {
                return Err(NotArchived::Ending);
            };
            let appended = async {
                writer.append(&local.file, offset).await?;
                // As for whole segments: what answers is the archive, and not an empty folder in its place.
                if opened.wal.archive().store().is_filesystem() {
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
        self.lock_progress().written = written;
        Ok(())
    }
}
