//! What the server has flushed of the segment that it is writing.

use super::local::{HistoryFile, Local, local_history};
use super::{Archiver, NotArchived, Opened, Written};
use crate::config::{Repository, Settings};
use crate::data_directory;
use holdfast_postgres::{
    Lineage, Lsn, SegmentName, SegmentNumber, TimelineHistory, TimelineId, WalFileName,
};
use holdfast_repository::catalogue::Catalogue;
use holdfast_repository::wal::PartWriter;
use holdfast_repository::{ArchiveId, ObjectError, WalStore, blocking};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Of every cluster's WAL, by initdb (`BootStrapXLOG`).
const FIRST: SegmentNumber = SegmentNumber(1);
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
    /// Where the WAL was seen to lead here from the newest backup without a hole. What follows is stored in order.
    unbroken: BTreeSet<String>,
}

/// What became of what was flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It is stored, but for what the archive_command has still to hand over.
    All,
    /// The segment is not begun: this one before it is not stored yet; none where that can't be told.
    Waits(Option<SegmentName>),
}

impl Archiver {
    /// Stores in every required repository what the server has flushed, up to `to`, of the segment that it is writing on
    /// that timeline. What came before is the archive_command's: a segment is begun only once the one before it is stored,
    /// for a part behind a hole would say that the WAL goes on there. `as_of`: nothing more was flushed then.
    ///
    /// Returns once all hold it, or where it waits for that. Where a server is told so (`synchronous`), all before it is
    /// stored, too, and nothing is missing since the newest backup. Safe to drop and to repeat.
    ///
    /// # Errors
    /// As for [`Archiver::archive`]; [`NotArchived::Broken`]. What is stored by then is not stored again.
    pub async fn store_written(
        &self,
        settings: &Arc<Settings>,
        writers: &mut Writers,
        (timeline, to): (TimelineId, Lsn),
        as_of: Timestamp,
    ) -> Result<Stored, NotArchived> {
        if writers.stored == Some((timeline, to)) {
            if let Some(written) = &mut self.lock_progress().written {
                written.as_of = as_of;
            }
            return Ok(Stored::All);
        }
        let control = {
            let settings = settings.clone();
            let control = move || data_directory::control_file(&settings.postgres.data_directory);
            blocking(control).await?
        };
        let size = control.segment_size;
        let number = to.segment(size);
        let (start, offset) = (number.start(size), to.segment_offset(size));
        let synchronous = settings.streaming.is_some_and(|mode| mode.synchronous);
        // The segment is whole, and the next not begun.
        if offset == 0 {
            if synchronous {
                let last = SegmentName::new(timeline, to.segment_before(size), size);
                for repository in settings.required_repositories() {
                    let opened = self.opened(settings, repository, &control).await?;
                    if !opened.wal.has(last).await.map_err(ObjectError::from)? {
                        return Ok(Stored::Waits(Some(last)));
                    }
                    let history = self.history(settings, timeline).await?;
                    let Some(lineage) = lineage(timeline, history.as_ref()) else {
                        return Ok(Stored::Waits(None));
                    };
                    writers
                        .see_unbroken(repository, &opened, &lineage, to)
                        .await?;
                }
            }
            writers.stored = Some((timeline, to));
            return Ok(Stored::All);
        }
        let segment = SegmentName::new(timeline, number, size);
        let name = WalFileName::Segment(segment);
        let local = self
            .local(settings, name, &format!("pg_wal/{name}"))
            .await?;
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
                    // All segments are stored in order: with this one all before it are.
                    let before = before(segment, start, &local);
                    let follows = match before {
                        Some(before) => opened.wal.has(before).await.map_err(ObjectError::from)?,
                        // A cluster's WAL begins with segment 1.
                        None => number <= FIRST,
                    };
                    if !follows {
                        return Ok(Stored::Waits(before));
                    }
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
            if synchronous {
                let Some(lineage) = lineage(timeline, local.history.as_ref()) else {
                    return Ok(Stored::Waits(None));
                };
                writers
                    .see_unbroken(repository, &opened, &lineage, start)
                    .await?;
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
        Ok(Stored::All)
    }

    async fn history(
        &self,
        settings: &Arc<Settings>,
        timeline: TimelineId,
    ) -> Result<Option<HistoryFile>, NotArchived> {
        let settings = settings.clone();
        blocking(move || local_history(&settings.postgres.data_directory, timeline)).await
    }
}

impl Writers {
    /// Finds, once for each repository, that no WAL up to `to` is missing in it since the newest backup along this line.
    async fn see_unbroken(
        &mut self,
        repository: &Repository,
        opened: &Opened,
        lineage: &Lineage,
        to: Lsn,
    ) -> Result<(), NotArchived> {
        if self.unbroken.contains(&repository.name) {
            return Ok(());
        }
        let archive = opened.wal.archive();
        let catalogue = Catalogue::load(archive, opened.wal.system()).await?;
        if let Some((backup, missing)) = missing_since_backup(&catalogue, lineage, to) {
            return Err(NotArchived::Broken {
                place: archive.store().description().to_owned(),
                backup,
                missing,
            });
        }
        self.unbroken.insert(repository.name.clone());
        Ok(())
    }
}

/// The newest backup along the line, and what is missing between it and `to`.
fn missing_since_backup(
    catalogue: &Catalogue,
    lineage: &Lineage,
    to: Lsn,
) -> Option<(String, SegmentName)> {
    let backups = catalogue.backups.iter().map(|backup| &backup.facts);
    let newest = backups
        .filter(|facts| catalogue.is_on(facts, lineage))
        .max_by_key(|facts| facts.start)?;
    let from = newest.start.segment(catalogue.segment_size);
    let chain = catalogue.chain(lineage, from);
    (chain.end < to).then(|| (newest.id.to_string(), chain.missing))
}

/// The line of timelines that leads to this one; none where that can't be told.
fn lineage(timeline: TimelineId, history: Option<&HistoryFile>) -> Option<Lineage> {
    let Some((_, content)) = history else {
        return (timeline == TimelineId(1)).then(|| Lineage::single(timeline));
    };
    let history = TimelineHistory::parse(timeline, content).ok()?;
    Some(Lineage::from(&history))
}

/// The segment before this one on the line of timelines that leads to it; none where that can't be told.
fn before(segment: SegmentName, start: Lsn, local: &Local) -> Option<SegmentName> {
    let size = local.control.segment_size;
    if start.segment(size) <= FIRST {
        return None;
    }
    let last = Lsn(start.0.checked_sub(1)?);
    let lineage = lineage(segment.timeline, local.history.as_ref())?;
    let mut spans = lineage.spans().iter();
    let span = spans.find(|span| span.begin <= last && span.end.is_none_or(|end| last < end))?;
    Some(SegmentName::new(span.timeline, last.segment(size), size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal_bench::Bench;
    use holdfast_repository::wal::sample::Fill;

    #[test]
    fn the_segment_before_is_found_along_the_line() {
        let bench = Bench::new();
        // Left within segment 5.
        bench.history(2, "1\t0/580000\tx\n");
        let size = bench.cluster.segment_size;
        for (timeline, number, expected) in [
            (1, 5, Some((1, 4))),
            (2, 5, Some((1, 4))),
            (2, 6, Some((2, 5))),
            (1, 2, Some((1, 1))),
            (1, 1, None),
        ] {
            let (name, path) = bench.segment(timeline, number, Fill::Pages(1));
            let local = Local::look(&bench.settings(), name.parse().unwrap(), &path).unwrap();
            let segment = bench.name(timeline, number);
            let start = segment.number(size).unwrap().start(size);
            let expected = expected.map(|(timeline, number)| bench.name(timeline, number));
            assert_eq!(before(segment, start, &local), expected, "{segment}");
        }
    }
}
