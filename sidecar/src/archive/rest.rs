//! WAL that nobody has handed over: what a server was about to archive, what it had not even marked, and the beginning
//! of the segment that it was writing.
//!
//! A server that is gone, or that will not come back as it is, archives nothing any more; and what is not in the archive
//! when its data directory is replaced is lost.

use super::{Archiver, NotArchived, Opened, check_copy};
use crate::config::Settings;
use crate::data_directory::{self, DataDirectoryError, Recovery};
use crate::queue::{MOST_ENTRIES, Queue};
use holdfast_postgres::wal::SegmentHeader;
use holdfast_postgres::{
    ClusterState, ControlFile, Lsn, SegmentName, SegmentNumber, SegmentSize, TimelineId,
    WalFileName,
};
use holdfast_repository::wal::PartOutcome;
use holdfast_repository::{ObjectError, blocking};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a data directory holds.
#[derive(Debug)]
struct Rest {
    control: ControlFile,
    /// What Postgres has marked.
    queue: Queue,
    /// Written before the last checkpoint, or on a timeline that was left: whole, whatever Postgres has marked them as. A
    /// standby marks as done what its primary was to archive.
    older: BTreeSet<SegmentName>,
    /// From the last checkpoint on, without a hole.
    segments: Vec<SegmentName>,
    /// Written after a hole.
    beyond: Option<SegmentName>,
    /// What recovery replays comes from elsewhere, and need not be here.
    fetched: bool,
}

impl Archiver {
    /// Stores all WAL of the data directory that the archive lacks, up to its last valid record: what is marked, every
    /// whole segment whatever it is marked as, and the beginning of an unfinished one as a part. `until`: no further
    /// than the segment that ends there or holds it; a server that lives goes on writing behind it.
    ///
    /// Returns the end of what is stored; none where the directory's WAL comes from the archive. `files` counts up.
    /// Safe to drop and to repeat.
    ///
    /// # Errors
    /// Nothing of the directory may be lost then: not all of its WAL is stored, or it can't be told.
    pub async fn archive_rest(
        &self,
        until: Option<Lsn>,
        files: &AtomicU64,
    ) -> Result<Option<Lsn>, NotArchived> {
        let settings = self.settings.get();
        let rest = {
            let settings = settings.clone();
            blocking(move || Rest::look(&settings.postgres.data_directory)).await?
        };
        for name in &rest.queue.names {
            let directory = &settings.postgres.data_directory;
            // A mark without its file is an orphan, which Postgres forgets, too.
            if data_directory::find_wal_file(directory, name)?.is_some() {
                self.archive_left_behind(*name).await?;
                files.fetch_add(1, Ordering::Relaxed);
            }
        }
        let size = rest.control.segment_size;
        for name in self.not_stored(&settings, &rest).await? {
            self.rest_of(&settings, name, &rest.control).await?;
            files.fetch_add(1, Ordering::Relaxed);
        }
        let last = until.map(|until| until.segment_before(size));
        let mut through = None;
        let mut unread = rest.segments.iter().peekable();
        while let Some(name) = unread.next_if(|name| {
            last.is_none_or(|last| name.number(size).is_ok_and(|number| number <= last))
        }) {
            let Some((end, whole)) = self.rest_of(&settings, *name, &rest.control).await? else {
                break;
            };
            files.fetch_add(1, Ordering::Relaxed);
            through = Some(end);
            if !whole {
                break;
            }
        }
        // A server that lives writes on behind what was to be stored.
        if until.is_none() && !rest.fetched {
            let beyond = unread.next().copied().or(rest.beyond);
            if let Some(beyond) = beyond {
                return Err(NotArchived::Hole {
                    through: through.unwrap_or(rest.control.redo),
                    beyond,
                });
            }
            if through.is_none_or(|through| through <= rest.control.checkpoint) {
                return Err(NotArchived::NoCheckpoint {
                    redo: rest.control.redo,
                    folder: settings.postgres.data_directory.join("pg_wal"),
                });
            }
        }
        Ok(through)
    }

    /// Those of the older segments that one of the required repositories lacks.
    async fn not_stored(
        &self,
        settings: &Arc<Settings>,
        rest: &Rest,
    ) -> Result<Vec<SegmentName>, NotArchived> {
        let mut lacking: BTreeSet<SegmentName> = BTreeSet::new();
        let timelines: BTreeSet<TimelineId> = rest.older.iter().map(|name| name.timeline).collect();
        if rest.older.is_empty() {
            return Ok(Vec::new());
        }
        for repository in settings.required_repositories() {
            let opened = self.opened(settings, repository, &rest.control).await?;
            for timeline in &timelines {
                let stored = opened.wal.segments(*timeline).await;
                let stored: BTreeSet<SegmentNumber> =
                    stored.map_err(ObjectError::from)?.into_iter().collect();
                for name in rest.older.iter().filter(|name| name.timeline == *timeline) {
                    if !stored.contains(&name.number(rest.control.segment_size)?) {
                        lacking.insert(*name);
                    }
                }
            }
        }
        Ok(lacking.into_iter().collect())
    }

    /// The end of what is stored of a segment, and whether that is all of it; none: it holds no record.
    pub(super) async fn rest_of(
        &self,
        settings: &Arc<Settings>,
        name: SegmentName,
        control: &ControlFile,
    ) -> Result<Option<(Lsn, bool)>, NotArchived> {
        let mut stored = None;
        for repository in settings.required_repositories() {
            let local = self
                .local(
                    settings,
                    WalFileName::Segment(name),
                    &format!("pg_wal/{name}"),
                )
                .await?;
            let opened: Opened = self.opened(settings, repository, control).await?;
            check_copy(&opened, local.origin.as_ref())?;
            if let Some(timeline) = local.timeline {
                let name = WalFileName::Segment(name);
                self.check_history(repository, &opened, name, timeline, &local)
                    .await?;
            }
            let put = opened
                .wal
                .put_part(name, local.file.clone(), settings.wal_compression)
                .await;
            if put.is_err() {
                self.lock().remove(&repository.name);
            }
            stored = match put? {
                PartOutcome::Whole => {
                    self.archive_left_behind(WalFileName::Segment(name)).await?;
                    let end = name.number(control.segment_size)?.end(control.segment_size);
                    // Into every repository.
                    return Ok(Some((end, true)));
                }
                PartOutcome::Empty => None,
                PartOutcome::Stored { end } | PartOutcome::AlreadyThere { end } => {
                    opened.wal.archive().confirm().await?;
                    Some((end, false))
                }
            };
        }
        Ok(stored)
    }
}

impl Rest {
    fn look(directory: &Path) -> Result<Self, NotArchived> {
        let control = data_directory::control_file(directory)?;
        let queue = match Queue::look(directory, MOST_ENTRIES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Queue::default(),
            other => other.map_err(|source| DataDirectoryError::Read {
                file: directory.join("pg_wal/archive_status"),
                source,
            })?,
        };
        let first = control.redo.segment(control.segment_size);
        let mut newest: BTreeMap<SegmentNumber, SegmentName> = BTreeMap::new();
        let mut older = written(directory, &control)?;
        for name in &older {
            // Sorted by timeline: the newest stays.
            newest.insert(name.number(control.segment_size)?, *name);
        }
        let mut segments: Vec<SegmentName> = Vec::new();
        let mut number = first;
        // What a server that was rewound has of the timeline that it left is no continuation.
        let mut timeline = TimelineId(0);
        while let Some(name) = newest.get(&number).filter(|name| name.timeline >= timeline) {
            segments.push(*name);
            older.remove(name);
            timeline = name.timeline;
            number = number.next();
        }
        let mut later = newest.range(number..).map(|(_, name)| *name);
        let beyond = later.find(|name| name.timeline >= timeline);
        let fetched = comes_from_archive(directory, &control);
        if let Some(beyond) = &beyond {
            older.remove(beyond);
        }
        Ok(Self {
            control,
            queue,
            older,
            segments,
            beyond,
            fetched,
        })
    }
}

/// Whether the WAL from the last checkpoint on need not be in the directory.
fn comes_from_archive(directory: &Path, control: &ControlFile) -> bool {
    data_directory::recovery(directory) != Recovery::None
        || control.state == ClusterState::InArchiveRecovery
}

/// The segments that hold what their names say, of the timelines that the server has reached, sorted. What Postgres has made
/// ready for later, by giving an old file a new name, is not among them.
pub(super) fn written(
    directory: &Path,
    control: &ControlFile,
) -> Result<BTreeSet<SegmentName>, NotArchived> {
    let folder = directory.join("pg_wal");
    let failed = |file: PathBuf| move |source| DataDirectoryError::Read { file, source };
    let reached = control.timeline.max(control.min_recovery_timeline);
    // The segment in which a timeline begins.
    let fork = |timeline| {
        let switch = data_directory::switch_point(directory, timeline);
        switch.map(|switch| switch.segment(control.segment_size))
    };
    let mut segments = BTreeSet::new();
    let mut forks: BTreeMap<TimelineId, Option<SegmentNumber>> = BTreeMap::new();
    for entry in fs::read_dir(&folder).map_err(failed(folder.clone()))? {
        let entry = entry.map_err(failed(folder.clone()))?.file_name();
        let Some(Ok(name)) = entry.to_str().map(str::parse::<SegmentName>) else {
            continue;
        };
        if name.timeline > reached {
            continue;
        }
        let Some(file) = data_directory::find_wal_file(directory, &WalFileName::Segment(name))?
        else {
            continue;
        };
        let mut page = [0; SegmentHeader::SIZE];
        file.read_exact_at(&mut page, 0)
            .map_err(failed(folder.join(name.to_string())))?;
        let Ok(header) = SegmentHeader::parse(&page) else {
            continue;
        };
        let fork = *forks
            .entry(name.timeline)
            .or_insert_with(|| fork(name.timeline));
        if holds_its_own(name, control.segment_size, &header, fork)? {
            segments.insert(name);
        }
    }
    Ok(segments)
}

/// Whether a segment's first page was written under its name. Postgres renames old files to what it will write next
/// (`InstallXLogFileSegment`); at a recovery's end they may be an ancestor's, or those of a branch that was left, and
/// stand at their old place by chance. Only a timeline's first segment begins with pages of its ancestor (`XLogFileCopy`).
/// A `fork` that is not known excludes nothing.
fn holds_its_own(
    name: SegmentName,
    size: SegmentSize,
    header: &SegmentHeader,
    fork: Option<SegmentNumber>,
) -> Result<bool, NotArchived> {
    let number = name.number(size)?;
    let ancestral = header.timeline < name.timeline && fork.is_none_or(|fork| number <= fork);
    Ok(
        header.page_address == number.start(size)
            && (header.timeline == name.timeline || ancestral),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_repository::wal::sample::{self, Fill};

    #[test]
    fn a_file_that_postgres_has_made_ready_is_told_from_one_that_it_wrote() {
        let size = SegmentSize::new(1 << 20).unwrap();
        let cluster = sample::Cluster {
            system: crate::wal_bench::SYSTEM,
            segment_size: size,
            major: 17,
        };
        let name =
            |timeline, number| SegmentName::new(TimelineId(timeline), SegmentNumber(number), size);
        // The name, what was written there first, where the name's timeline begins.
        for (called, content, fork, own) in [
            ((1, 4), (1, 4), None, true),
            ((1, 4), (1, 3), None, false),
            // The first segment of a timeline is a copy of its ancestor's, up to where it left that.
            ((8, 3), (1, 3), Some(3), true),
            ((8, 3), (8, 3), Some(3), true),
            ((8, 4), (8, 4), Some(3), true),
            // Fetched from timeline 1 to be replayed, and renamed to be written over.
            ((8, 4), (1, 5), Some(3), false),
            ((8, 6), (1, 6), Some(3), false),
            // Nothing may be lost where it can't be told.
            ((8, 6), (1, 6), None, true),
            // No descendant's page stands in an ancestor's segment.
            ((1, 6), (8, 6), None, false),
        ] {
            let page = sample::segment(cluster, name(content.0, content.1), Fill::Pages(1), 0);
            let header = SegmentHeader::parse(&page).unwrap();
            let named = name(called.0, called.1);
            let told = holds_its_own(named, size, &header, fork.map(SegmentNumber)).unwrap();
            assert_eq!(told, own, "{named} holds {content:?}, {fork:?}");
        }
    }
}
