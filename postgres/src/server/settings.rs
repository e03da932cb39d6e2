//! The settings that archiving, backups and recovery depend on.

use crate::control_file::WalLevel;
use crate::timeline::{SystemIdentifier, TimelineId};

use super::{Server, ServerError};

/// What the server runs with now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// As in 170002.
    pub server_version_num: u32,
    /// Where the server thinks that its data directory is.
    pub data_directory: String,
    /// `off`, `on` or `always`.
    pub archive_mode: String,
    /// Empty if a library archives.
    pub archive_command: String,
    /// From 15 on; none where empty.
    pub archive_library: Option<String>,
    /// `wal_level`.
    pub wal_level: WalLevel,
    /// `restore_command`.
    pub restore_command: String,
    /// Whether it replays: a standby, or a recovery that has not ended.
    pub in_recovery: bool,
    /// The timeline of its last checkpoint or restartpoint.
    pub timeline: TimelineId,
    /// Whose cluster it is.
    pub system_identifier: SystemIdentifier,
    /// Whether data pages carry checksums.
    pub data_checksums: bool,
    /// `full_page_writes`: a backup from a standby needs it.
    pub full_page_writes: bool,
}

impl Server {
    /// Reads them.
    pub async fn settings(&self) -> Result<Settings, ServerError> {
        const WHAT: &str = "tell its settings";
        let row = self
            .query_one(
                "SELECT current_setting('data_directory'), current_setting('archive_mode'), \
                 current_setting('archive_command'), coalesce(current_setting('archive_library', true), ''), \
                 current_setting('wal_level'), current_setting('restore_command'), pg_is_in_recovery(), \
                 (SELECT timeline_id FROM pg_control_checkpoint()), \
                 (SELECT system_identifier FROM pg_control_system()), \
                 current_setting('data_checksums') <> 'off', current_setting('full_page_writes') = 'on'",
                &[],
                WHAT,
            )
            .await?;
        let answer = |text: String| ServerError::Answer {
            what: WHAT,
            address: self.address.clone(),
            answer: text,
        };
        let wal_level = match self.column::<String>(&row, 4)?.as_str() {
            "minimal" => WalLevel::Minimal,
            "replica" => WalLevel::Replica,
            "logical" => WalLevel::Logical,
            other => return Err(answer(other.to_owned())),
        };
        let library: String = self.column(&row, 3)?;
        // bigint and integer are signed, what they carry is not.
        let system_identifier = self.column::<i64>(&row, 8)? as u64;
        let timeline = self.column::<i32>(&row, 7)? as u32;
        Ok(Settings {
            server_version_num: self.version,
            data_directory: self.column(&row, 0)?,
            archive_mode: self.column(&row, 1)?,
            archive_command: self.column(&row, 2)?,
            archive_library: (!library.is_empty()).then_some(library),
            wal_level,
            restore_command: self.column(&row, 5)?,
            in_recovery: self.column(&row, 6)?,
            timeline: TimelineId(timeline),
            system_identifier: SystemIdentifier(system_identifier),
            data_checksums: self.column(&row, 9)?,
            full_page_writes: self.column(&row, 10)?,
        })
    }
}
