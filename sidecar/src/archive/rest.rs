//! WAL that nobody has handed over: what a server was about to archive, what it had not even marked, and the beginning
//! of the segment that it was writing.
//!
//! A server that is gone, or that will not come back as it is, archives nothing any more; and what is not in the archive
//! when its data directory is replaced is lost.

use super::{Archiver, NotArchived, Opened};
use crate::config::{Mode, Settings};
use crate::data_directory::{self, DataDirectoryError, Recovery};
use crate::queue::Queue;
use holdfast_postgres::wal::SegmentHeader;
use holdfast_postgres::{
    ClusterState, ControlFile, Lsn, SegmentName, SegmentNumber, TimelineId, WalFileName,
};
use holdfast_repository::blocking;
use holdfast_repository::wal::PartOutcome;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// More wait only on a server that was left alone for months.
const MOST: usize = 1_000_000;

/// What a data directory holds.
#[derive(Debug)]
struct Rest {
    control: ControlFile,
    /// What Postgres has marked.
    queue: Queue,
    /// From the last checkpoint on, without a hole.
    segments: Vec<SegmentName>,
}

impl Archiver {
    /// Stores all WAL of the data directory that the archive lacks, up to its last valid record: what is marked, every
    /// whole segment since the last checkpoint, and the beginning of an unfinished one as a part. `until`: no further
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
        let last = until.map(|until| until.segment_before(size));
        let mut through = None;
        for name in &rest.segments {
            let number = name.number(size)?;
            if last.is_some_and(|last| number > last) {
                break;
            }
            let Some((end, whole)) = self.rest_of(&settings, *name, &rest.control).await? else {
                break;
            };
            files.fetch_add(1, Ordering::Relaxed);
            through = Some(end);
            if !whole {
                break;
            }
        }
        Ok(through)
    }

    /// The end of what is stored of a segment, and whether that is all of it; none: it holds no record.
    async fn rest_of(
        &self,
        settings: &Arc<Settings>,
        name: SegmentName,
        control: &ControlFile,
    ) -> Result<Option<(Lsn, bool)>, NotArchived> {
        let mut stored = None;
        let required = settings
            .repositories
            .iter()
            .filter(|repository| repository.mode == Mode::Required);
        for repository in required {
            let local = {
                let (settings, name) = (settings.clone(), WalFileName::Segment(name));
                blocking(move || {
                    super::local::Local::look(&settings, name, &format!("pg_wal/{name}"))
                })
            };
            let local = local.await?;
            let opened: Opened = self.opened(settings, repository, control).await?;
            self.check_copy(&opened, &local)?;
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
        let queue = match Queue::look(directory, MOST) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Queue::default(),
            other => other.map_err(|source| DataDirectoryError::Read {
                file: directory.join("pg_wal/archive_status"),
                source,
            })?,
        };
        let first = control.redo.segment(control.segment_size);
        let segments = written(directory, &control, first)?;
        if segments.is_empty() && !comes_from_archive(directory, &control) {
            return Err(NotArchived::NoCheckpoint {
                redo: control.redo,
                folder: directory.join("pg_wal"),
            });
        }
        Ok(Self {
            control,
            queue,
            segments,
        })
    }
}

/// Whether the WAL from the last checkpoint on need not be in the directory.
fn comes_from_archive(directory: &Path, control: &ControlFile) -> bool {
    data_directory::recovery(directory) != Recovery::None
        || control.state == ClusterState::InArchiveRecovery
}

/// The segments that were written from `first` on, without a hole; of several timelines the newest that the server has
/// reached. What Postgres has made ready for later, by giving an old file a new name, is not among them.
fn written(
    directory: &Path,
    control: &ControlFile,
    first: SegmentNumber,
) -> Result<Vec<SegmentName>, NotArchived> {
    let folder = directory.join("pg_wal");
    let failed = |file: PathBuf| move |source| DataDirectoryError::Read { file, source };
    let reached = control.timeline.max(control.min_recovery_timeline);
    let mut newest: BTreeMap<SegmentNumber, TimelineId> = BTreeMap::new();
    for entry in fs::read_dir(&folder).map_err(failed(folder.clone()))? {
        let entry = entry.map_err(failed(folder.clone()))?.file_name();
        let Some(Ok(name)) = entry.to_str().map(str::parse::<SegmentName>) else {
            continue;
        };
        if name.timeline > reached {
            continue;
        }
        let number = name.number(control.segment_size)?;
        let known = newest.entry(number).or_insert(name.timeline);
        *known = name.timeline.max(*known);
    }
    let mut segments = Vec::new();
    let mut number = first;
    while let Some(timeline) = newest.get(&number) {
        let name = SegmentName::new(*timeline, number, control.segment_size);
        let file = data_directory::find_wal_file(directory, &WalFileName::Segment(name))?;
        let mut page = [0; SegmentHeader::SIZE];
        let read = file.map(|file| file.read_exact_at(&mut page, 0));
        let begun = matches!(read, Some(Ok(())))
            && SegmentHeader::parse(&page)
                .is_ok_and(|header| header.page_address == number.start(control.segment_size));
        if !begun {
            break;
        }
        segments.push(name);
        number = number.next();
    }
    Ok(segments)
}
