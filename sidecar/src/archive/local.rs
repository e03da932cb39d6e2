//! What the data directory says of a WAL file, read anew for each call.

use super::NotArchived;
use crate::config::Settings;
use crate::data_directory::{self, DataDirectoryError};
use crate::origin::Origin;
use holdfast_postgres::{ControlFile, TimelineId, WalFileName};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A history file is a few lines, in bytes.
const LARGEST_HISTORY: u64 = 4 << 20;

/// A timeline's history file in pg_wal, and what it holds.
pub(super) fn local_history(
    directory: &Path,
    timeline: TimelineId,
) -> Result<Option<HistoryFile>, NotArchived> {
    let history = WalFileName::History(timeline);
    let failed = |source| DataDirectoryError::Read {
        file: PathBuf::from(history.to_string()),
        source,
    };
    match data_directory::find_wal_file(directory, &history)? {
        None => Ok(None),
        Some(file) => {
            let content = read_all(&file).map_err(failed)?;
            Ok(Some((Arc::new(file), content)))
        }
    }
}

/// A history file of pg_wal, and what it holds.
pub(super) type HistoryFile = (Arc<File>, Vec<u8>);

/// What the data directory says, read anew for each call.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) control: ControlFile,
    pub(super) origin: Option<Origin>,
    pub(super) file: Arc<File>,
    /// Of the WAL in the file, if it is above 1 and the file is not a history file itself.
    pub(super) timeline: Option<TimelineId>,
    /// Its history file and what it holds.
    pub(super) history: Option<HistoryFile>,
}

impl Local {
    /// The timeline of the WAL in a file of that name, if it is above 1 and that is no history file itself.
    pub(super) fn above_1(name: &WalFileName) -> Option<TimelineId> {
        match name {
            WalFileName::Segment(segment)
            | WalFileName::Partial(segment)
            | WalFileName::BackupHistory { segment, .. } => Some(segment.timeline),
            WalFileName::History(_) => None,
        }
        .filter(|timeline| *timeline > TimelineId(1))
    }

    pub(super) fn look(
        settings: &Settings,
        name: WalFileName,
        path: &str,
    ) -> Result<Self, NotArchived> {
        let directory = &settings.postgres.data_directory;
        let file = Arc::new(data_directory::open_wal_file(directory, &name, path)?);
        let control = data_directory::control_file(directory)?;
        let origin = Origin::read(directory)?;
        let timeline = Self::above_1(&name);
        let history = match timeline {
            None => None,
            Some(timeline) => local_history(directory, timeline)?,
        };
        Ok(Self {
            control,
            origin,
            file,
            timeline,
            history,
        })
    }
}

/// A small file, whole.
pub(super) fn read_all(file: &File) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    if length > LARGEST_HISTORY {
        return Err(io::Error::other(format!(
            "it has {length} bytes, more than a history file can have"
        )));
    }
    let mut content = vec![0; length as usize];
    file.read_exact_at(&mut content, 0)?;
    Ok(content)
}
