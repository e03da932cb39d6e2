//! Why a WAL file is not archived, and whether trying again may help.

use crate::data_directory::DataDirectoryError;
use crate::open::ArchiveError;
use crate::origin::OriginError;
use holdfast_postgres::{Lsn, SegmentName, TimelineId, WalFileName, WalNameError};
use holdfast_repository::catalogue::CatalogueError;
use holdfast_repository::{ObjectError, OpenError, PutError};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a file is not archived.
#[derive(Debug, thiserror::Error)]
pub enum NotArchived {
    /// Not a WAL file's name.
    #[error(transparent)]
    Name(#[from] WalNameError),
    /// The local files.
    #[error(transparent)]
    Local(#[from] DataDirectoryError),
    /// holdfast.origin.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// The archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The archive's identity.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Reading it back.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The file.
    #[error(transparent)]
    Put(#[from] PutError),
    /// An empty bucket or a folder where nothing is mounted, or another archive.
    #[error(
        "the archive at {0} is not there any more, or is another than this sidecar has written to: what was acknowledged may \
         be gone. See that the bucket is the right one, or the volume mounted; if the archive was removed on purpose, restart \
         the sidecar and take a backup"
    )]
    Replaced(String),
    /// A copy would archive into its source.
    #[error(
        "this data directory is a copy of the database in {place}, and a copy does not archive into its source: give it an \
         archive of its own"
    )]
    Copy {
        /// The archive.
        place: String,
    },
    /// Nobody waits for it.
    #[error("{0} was not stored within {1:?}, and is tried again later")]
    Slow(WalFileName, Duration),
    /// The memory that it takes is needed.
    #[error("{0} waits for other work (with more memory, limits.memory, both could be done)")]
    InTheWay(WalFileName),
    /// A file beside the socket.
    #[error("a file for what is fetched can't be written beside the socket: {0}")]
    Scratch(#[source] io::Error),
    /// Nobody can tell whose WAL it is.
    #[error(
        "pg_wal has no {history}, so it can't be told whether {name} belongs to the timeline that is archived: copy {history} \
         from the server that this one was cloned from into pg_wal"
    )]
    NoHistory {
        /// The file.
        name: WalFileName,
        /// The file that is missing.
        history: WalFileName,
    },
    /// Two servers promoted to one timeline.
    #[error(
        "{history} in pg_wal (digest {ours}) differs from the one archived in {place} (digest {stored}): two servers were \
         promoted to timeline {timeline}, and the other's is archived; archive this one under another name, or clone it anew"
    )]
    Diverged {
        /// The history file.
        history: WalFileName,
        /// Its timeline.
        timeline: TimelineId,
        /// The archive.
        place: String,
        /// Digest of the local file.
        ours: String,
        /// Digest of the archived file.
        stored: String,
    },
    /// Its own server wrote it, and it can't be read.
    #[error(
        "{name} is not a whole segment ({why}), though this server wrote it: what can be read up to {valid_through} is kept \
         aside, and the archive has a gap there. Check the disk under pg_wal, and take a backup"
    )]
    NotWhole {
        /// The file.
        name: WalFileName,
        /// Why.
        why: String,
        /// The end of its last good record.
        valid_through: Lsn,
    },
    /// The WAL that the server would begin with is not where it belongs.
    #[error(
        "{} has no WAL segment that holds {redo}, where replay from the last checkpoint begins: it can't be told whether WAL is missing from the archive",
        folder.display()
    )]
    NoCheckpoint {
        /// By pg_control.
        redo: Lsn,
        /// pg_wal.
        folder: PathBuf,
    },
    /// WAL that can't be replayed, for what lies before it can't be read.
    #[error(
        "the WAL of the data directory can be read up to {through}, and {beyond} was written after that: what lies between is damaged or missing"
    )]
    Hole {
        /// The end of what is stored.
        through: Lsn,
        /// The first segment behind it.
        beyond: SegmentName,
    },
    /// What is stored last can't be reached from a backup.
    #[error(
        "{missing} is missing in {place}, and with it what was written since the backup {backup} can't be recovered: no commit \
         that waits for it is told to be safe before a new backup is complete"
    )]
    Broken {
        /// The archive.
        place: String,
        /// The newest backup.
        backup: String,
        /// The first that is missing after it.
        missing: SegmentName,
    },
    /// Nothing could be recovered.
    #[error(
        "there is no complete backup in {0} yet, so nothing that is stored can be recovered: no commit that waits for it is \
         told to be safe before there is one"
    )]
    NoBackup(String),
    /// Another server has taken over.
    #[error(
        "timeline {timeline} in {place} has left this server's at {at}: another server was promoted, and what this one has \
         written since is not on the line that is restored. Stop this one, and clone it anew"
    )]
    Forked {
        /// The archive.
        place: String,
        /// The other's.
        timeline: TimelineId,
        /// The switch point.
        at: Lsn,
    },
    /// The archive's contents.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// The store hangs, and somebody waits for the server's end.
    #[error(
        "the server is stopping, and the store has not taken it in time: it is archived once the server has stopped, or runs again"
    )]
    HeldUp,
    /// Not stored ahead. Nobody is ever answered so.
    #[error("it is left until Postgres asks for it")]
    Left,
    /// Only while the program ends.
    #[error("the program is ending")]
    Ending,
}

impl NotArchived {
    /// Whether it is the data directory's own state that stands in the way, which nobody may be able to mend; and not the
    /// store's, or how it is reached.
    pub(crate) fn is_of_the_directory(&self) -> bool {
        match self {
            Self::Archive(_)
            | Self::Open(_)
            | Self::Object(_)
            | Self::Replaced(_)
            | Self::Broken { .. }
            | Self::NoBackup(_)
            | Self::Forked { .. }
            | Self::Catalogue(_)
            | Self::HeldUp
            | Self::Left
            | Self::Ending => false,
            Self::Put(e) => !matches!(e, PutError::Object(_)),
            _ => true,
        }
    }

    /// Whether trying again can't help without somebody changing something.
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            Self::Local(DataDirectoryError::Read { .. } | DataDirectoryError::Control { .. }) => {
                false
            }
            Self::HeldUp => false,
            // A new backup mends it.
            Self::Broken { .. } | Self::NoBackup(_) => false,
            Self::Catalogue(e) => e.is_permanent(),
            Self::Archive(e) => e.is_permanent(),
            Self::Open(e) => e.is_permanent(),
            Self::Object(ObjectError::Store(e)) => e.is_permanent(),
            Self::Put(e) => e.is_permanent(),
            _ => true,
        }
    }
}
