//! What the server has flushed of the segment that it is writing.

use super::local::{HistoryFile, Local};
use super::{Archiver, NotArchived, Opened, Written, check_copy};
use crate::config::{Repository, Settings};
use crate::data_directory;
use futures::future::join_all;
use holdfast_postgres::{
    Lineage, Lsn, SegmentName, SegmentNumber, SegmentSize, TimelineHistory, TimelineId, WalFileName,
};
use holdfast_repository::catalogue::Catalogue;
use holdfast_repository::wal::PartWriter;
use holdfast_repository::{ArchiveId, ObjectError, WalStore, blocking};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Of every cluster's WAL, by initdb (`BootStrapXLOG`).
const FIRST: SegmentNumber = SegmentNumber(1);
/// How long an archive that was there is taken to be there.
const CONFIRMED: Duration = Duration::from_secs(60);

/// How far each required repository holds what one server flushes on one timeline, in one session.
#[derive(Debug)]
pub struct Writers {
    timeline: TimelineId,
    segment_size: SegmentSize,
    /// None: it is not known yet that all before is stored there.
    by_repository: BTreeMap<String, Option<Holder>>,
    /// Where a server is told what is stored: nothing is missing since the newest backup, and what follows is in order.
    is_unbroken: bool,
}

/// A required repository.
#[derive(Debug)]
struct Holder {
    archive: ArchiveId,
    /// The first segment's start: all before is stored.
    from: Lsn,
    /// It holds all up to here.
    through: Lsn,
    /// Who stores the segment that is being written.
    writer: Option<PartWriter>,
    /// When it was last seen that the archive is there, and nobody's line leaves ours.
    confirmed: Option<Instant>,
}

impl Writers {
    /// Of a session that follows this timeline, with the segment size of pg_control.
    pub fn new(timeline: TimelineId, segment_size: SegmentSize) -> Self {
        Self {
            timeline,
            segment_size,
            by_repository: BTreeMap::new(),
            is_unbroken: false,
        }
    }

    /// Nothing is known, as at the session's beginning.
    pub fn begin_anew(&mut self) {
        *self = Self::new(self.timeline, self.segment_size);
    }

    /// All required repositories hold it up to here; none before that is known.
    fn held(&self) -> Option<Lsn> {
        let each = self.by_repository.values();
        let each = each.map(|holder| Some(holder.as_ref()?.through));
        each.collect::<Option<Vec<Lsn>>>()?.into_iter().min()
    }

    /// What a server may be told: they hold it without a break since the newest backup. Only where it is to be told.
    pub fn through(&self) -> Option<Lsn> {
        self.held().filter(|_| self.is_unbroken)
    }
}

/// What became of what was flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It is stored.
    All,
    /// This segment is not stored yet, and nothing behind it is; none where it can't be told which that is.
    Waits(Option<SegmentName>),
}

/// What the data directory says of what was flushed.
struct Flushed {
    to: Lsn,
    /// The segment with the last byte, and that byte's place after its start, in bytes.
    segment: SegmentName,
    start: Lsn,
    offset: u32,
    local: Local,
    /// As a server is told what is stored.
    synchronous: bool,
}

impl Archiver {
    /// Stores in every required repository what the server has flushed, up to `to`, of the segment that it is writing on
    /// the session's timeline. What came before is the archive_command's: a segment is begun only once the one before it is stored,
    /// for a part behind a hole would say that the WAL goes on there. `as_of`: nothing more was flushed then.
    ///
    /// Returns once all hold it, or where it waits for that. Where a server is told so (`synchronous`) all before it is
    /// held against the server's own files, nothing is missing since the newest backup, and no other timeline leaves this
    /// one before it. `writers` is that of the session: the same settings and server. Safe to drop and to repeat.
    ///
    /// # Errors
    /// As for [`Archiver::archive`]; [`NotArchived::Broken`], [`NotArchived::NoBackup`], [`NotArchived::Forked`]. What is
    /// stored by then is not stored again, and counts for [`Writers::through`].
    pub async fn store_written(
        &self,
        settings: &Arc<Settings>,
        writers: &mut Writers,
        to: Lsn,
        as_of: Timestamp,
    ) -> Result<Stored, NotArchived> {
        if writers.held() == Some(to) && (writers.is_unbroken || !synchronous(settings)) {
            if let Some(written) = &mut self.lock_progress().written {
                written.as_of = as_of;
            }
            return Ok(Stored::All);
        }
        let flushed = self.flushed(settings, writers, to).await?;
        for repository in settings.required_repositories() {
            let known = writers.by_repository.entry(repository.name.clone());
            known.or_default();
        }
        let each = writers
            .by_repository
            .iter_mut()
            .map(async |(name, holder)| {
                let Some(repository) = settings.repository(name) else {
                    return Ok(Stored::Waits(None));
                };
                let done = self.advance(settings, repository, &flushed, holder).await;
                // What is open may be stale after any error.
                if done.is_err() {
                    self.lock().remove(name);
                }
                done
            });
        // Each as far as it gets: one that fails does not hold up another.
        let all: Result<Vec<Stored>, NotArchived> = join_all(each).await.into_iter().collect();
        let waits = all?.into_iter().find(|done| *done != Stored::All);
        if flushed.synchronous && !writers.is_unbroken {
            writers.is_unbroken = self.see_unbroken(settings, writers, &flushed).await?;
        }
        if let Some(waits) = waits {
            return Ok(waits);
        }
        let first = settings.required_repositories().next();
        let first = first.and_then(|first| writers.by_repository.get(&first.name));
        let writer = first.and_then(|holder| holder.as_ref()?.writer.as_ref());
        if let Some(writer) = writer {
            self.lock_progress().written = Some(Written {
                timeline: writers.timeline,
                start: flushed.start,
                stored: to,
                end: writer.valid_through(),
                last_commit: writer.last_commit().map(|commit| commit.to_jiff()),
                as_of,
            });
        }
        Ok(Stored::All)
    }

    async fn flushed(
        &self,
        settings: &Arc<Settings>,
        writers: &Writers,
        to: Lsn,
    ) -> Result<Flushed, NotArchived> {
        let size = writers.segment_size;
        let number = to.segment_before(size);
        let segment = SegmentName::new(writers.timeline, number, size);
        let start = number.start(size);
        let name = WalFileName::Segment(segment);
        let local = self
            .local(settings, name, &format!("pg_wal/{name}"))
            .await?;
        Ok(Flushed {
            to,
            segment,
            start,
            offset: (to.0 - start.0) as u32,
            local,
            synchronous: synchronous(settings),
        })
    }

    /// Finds that all before the segment is stored there, and that the server may write there at all; or for what it waits.
    async fn begin(
        &self,
        settings: &Arc<Settings>,
        opened: &Opened,
        flushed: &Flushed,
    ) -> Result<Result<Holder, Stored>, NotArchived> {
        let (start, local) = (flushed.start, &flushed.local);
        let before = before(flushed.segment, start, local);
        let follows = match before {
            Some(before) => self.holds(settings, opened, before, flushed).await?,
            // A cluster's WAL begins with segment 1.
            None => start.segment(local.control.segment_size) <= FIRST,
        };
        if !follows {
            return Ok(Err(Stored::Waits(before)));
        }
        if flushed.synchronous {
            see_no_fork(&opened.wal, flushed.segment.timeline, start).await?;
        }
        Ok(Ok(Holder {
            archive: opened.wal.archive().id(),
            from: start,
            through: start,
            writer: None,
            confirmed: None,
        }))
    }

    /// Whether no WAL is missing since the newest backup up to where each began. False: not all of them have begun.
    async fn see_unbroken(
        &self,
        settings: &Arc<Settings>,
        writers: &Writers,
        flushed: &Flushed,
    ) -> Result<bool, NotArchived> {
        let local = &flushed.local;
        let Some(lineage) = lineage(writers.timeline, local.history.as_ref()) else {
            return Ok(false);
        };
        let mut held = Vec::new();
        for repository in settings.required_repositories() {
            let Some(Some(holder)) = writers.by_repository.get(&repository.name) else {
                return Ok(false);
            };
            let opened = self.opened(settings, repository, &local.control).await?;
            let archive = opened.wal.archive();
            held.push(Held {
                place: archive.store().description().to_owned(),
                catalogue: Catalogue::load(archive, opened.wal.system()).await?,
                from: holder.from,
            });
        }
        unbroken(&held, &lineage)?;
        Ok(true)
    }

    /// Whether the whole segment is stored; where a server is told so, as its own file of it has it. A file that is not
    /// there any more was stored: until then Postgres keeps it.
    async fn holds(
        &self,
        settings: &Arc<Settings>,
        opened: &Opened,
        segment: SegmentName,
        flushed: &Flushed,
    ) -> Result<bool, NotArchived> {
        let is_there = opened.wal.has(segment).await.map_err(ObjectError::from)?;
        if !is_there || !flushed.synchronous {
            return Ok(is_there);
        }
        let settings = settings.clone();
        let file = blocking(move || {
            let name = WalFileName::Segment(segment);
            data_directory::find_wal_file(&settings.postgres.data_directory, &name)
        });
        let Some(_room) = self.budget.take(WalStore::PUT_MEMORY).await else {
            return Err(NotArchived::Ending);
        };
        match file.await? {
            Some(file) => Ok(opened.wal.holds(segment, &Arc::new(file)).await?),
            None => Ok(true),
        }
    }

    /// Brings one repository as far as it gets, or tells for what it waits.
    async fn advance(
        &self,
        settings: &Arc<Settings>,
        repository: &Repository,
        flushed: &Flushed,
        holder: &mut Option<Holder>,
    ) -> Result<Stored, NotArchived> {
        let local = &flushed.local;
        let size = local.control.segment_size;
        let name = WalFileName::Segment(flushed.segment);
        let opened = self.opened(settings, repository, &local.control).await?;
        check_copy(&opened, local.origin.as_ref())?;
        if let Some(timeline) = local.timeline {
            self.check_history(repository, &opened, name, timeline, local)
                .await?;
        }
        let holder = match holder {
            Some(holder) => holder,
            None => match self.begin(settings, &opened, flushed).await? {
                Ok(begun) => holder.insert(begun),
                Err(waits) => return Ok(waits),
            },
        };
        let archive = opened.wal.archive();
        if archive.id() != holder.archive {
            return Err(NotArchived::Replaced(archive.store().description().into()));
        }
        while holder.through < flushed.to {
            let number = holder.through.segment(size);
            let segment = SegmentName::new(flushed.segment.timeline, number, size);
            if flushed.to < number.end(size) {
                self.append(settings, &opened, flushed, holder).await?;
                holder.through = flushed.to;
            } else if self.holds(settings, &opened, segment, flushed).await? {
                holder.writer = None;
                self.confirm(&opened, flushed, holder).await?;
                holder.through = number.end(size);
            } else {
                return Ok(Stored::Waits(Some(segment)));
            }
        }
        Ok(Stored::All)
    }

    /// Stores what there is of the segment that is being written.
    async fn append(
        &self,
        settings: &Arc<Settings>,
        opened: &Opened,
        flushed: &Flushed,
        holder: &mut Holder,
    ) -> Result<(), NotArchived> {
        let (file, offset) = (&flushed.local.file, flushed.offset);
        let Some(_room) = self.budget.take(WalStore::PUT_MEMORY).await else {
            return Err(NotArchived::Ending);
        };
        if holder.writer.is_none() {
            holder.confirmed = None;
            let (wal, compression) = (opened.wal.clone(), settings.wal_compression);
            holder.writer =
                PartWriter::begin(wal, flushed.segment, compression, file, offset).await?;
        }
        if let Some(writer) = &mut holder.writer
            && let Err(error) = writer.append(file, offset).await
        {
            if error.is_permanent() {
                holder.writer = None;
            }
            return Err(error.into());
        }
        self.confirm(opened, flushed, holder).await
    }

    /// As for whole segments: what answers is the archive, and not an empty folder in its place. A file system may be
    /// unmounted at any time; elsewhere a request for each part would be a second one.
    async fn confirm(
        &self,
        opened: &Opened,
        flushed: &Flushed,
        holder: &mut Holder,
    ) -> Result<(), NotArchived> {
        let archive = opened.wal.archive();
        let is_due = holder.confirmed.is_none_or(|at| at.elapsed() >= CONFIRMED);
        if is_due || archive.store().is_filesystem() {
            archive.confirm().await?;
        }
        if is_due && flushed.synchronous {
            see_no_fork(&opened.wal, flushed.segment.timeline, flushed.to).await?;
        }
        if is_due {
            holder.confirmed = Some(Instant::now());
        }
        Ok(())
    }
}

/// That nobody has left this timeline before `to`: who restores the latest moment would follow them.
async fn see_no_fork(wal: &WalStore, timeline: TimelineId, to: Lsn) -> Result<(), NotArchived> {
    let timelines = wal.history_timelines().await.map_err(ObjectError::from)?;
    for other in timelines.into_iter().filter(|other| *other > timeline) {
        let line = Lineage::from(&wal.history(other).await?);
        if let Some(at) = line.span(timeline).and_then(|span| span.end)
            && at < to
        {
            return Err(NotArchived::Forked {
                place: wal.archive().store().description().to_owned(),
                timeline: other,
                at,
            });
        }
    }
    Ok(())
}

/// What a required repository holds.
struct Held {
    place: String,
    catalogue: Catalogue,
    /// Of what is before this, nothing may be missing.
    from: Lsn,
}

/// That nowhere any WAL is missing since the newest backup that can be restored from any of them on this line. Pure.
fn unbroken(held: &[Held], lineage: &Lineage) -> Result<(), NotArchived> {
    let newest = held.iter().filter_map(|one| {
        let newest = one.catalogue.restorable(lineage);
        newest.first().copied()
    });
    let Some(newest) = newest.max_by_key(|facts| facts.start) else {
        let places = held.iter().map(|one| one.place.as_str());
        return Err(NotArchived::NoBackup(places.collect::<Vec<_>>().join(", ")));
    };
    for Held {
        place,
        catalogue,
        from,
    } in held
    {
        let chain = catalogue.chain(lineage, newest.start.segment(catalogue.segment_size));
        if chain.end < *from {
            return Err(NotArchived::Broken {
                place: place.clone(),
                backup: newest.id.to_string(),
                missing: chain.missing,
            });
        }
    }
    Ok(())
}

fn synchronous(settings: &Settings) -> bool {
    settings.streaming.is_some_and(|mode| mode.synchronous)
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
