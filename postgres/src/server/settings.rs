//! The settings that archiving, backups and recovery depend on.

use crate::control_file::WalLevel;
use crate::lsn::Lsn;
use crate::timeline::{SystemIdentifier, TimelineId};
use jiff::Timestamp;

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
    /// Empty if a library archives. As it is configured: `SHOW` hides it while archive_mode is off.
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
    /// `synchronous_standby_names`.
    pub synchronous_standby_names: String,
    /// Which of [`ARCHIVING`] have another value in the server's files, and take effect only at a restart; by name.
    pub pending_restart: Vec<String>,
}

/// The settings by which a server hands its WAL over, and takes it back.
pub const ARCHIVING: [&str; 5] = [
    "archive_command",
    "archive_library",
    "archive_mode",
    "restore_command",
    "wal_level",
];

/// A recovery, from the server itself: it says the same after its end, until the server is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovery {
    /// `pg_last_wal_replay_lsn`: the end of the last record that was replayed.
    pub lsn: Lsn,
    /// `pg_last_xact_replay_timestamp`: of the last commit or rollback that was replayed.
    pub time: Option<Timestamp>,
    /// It stands still at its target (`pg_get_wal_replay_pause_state`).
    pub paused: bool,
}

impl Server {
    /// Sets one of [`ARCHIVING`] in postgresql.auto.conf. Takes effect with [`Server::reload`], or at a restart.
    /// Needs a superuser.
    pub async fn alter_system(&self, name: &str, value: &str) -> Result<(), ServerError> {
        const WHAT: &str = "change a setting";
        if !ARCHIVING.contains(&name) {
            return Err(ServerError::Answer {
                what: WHAT,
                address: self.address.clone(),
                answer: format!("{name} is none of ours to change"),
            });
        }
        // No parameters are taken here. An E'' string means the same whatever standard_conforming_strings says.
        let literal = value.replace('\\', "\\\\").replace('\'', "''");
        self.client
            .batch_execute(&format!("ALTER SYSTEM SET {name} = E'{literal}'"))
            .await
            .map_err(|source| self.failed(WHAT, source))
    }

    /// Has the server read its configuration files again.
    pub async fn reload(&self) -> Result<(), ServerError> {
        self.query_one("SELECT pg_reload_conf()", &[], "reload its configuration")
            .await
            .map(drop)
    }

    /// The newest timeline that it has reached. The last checkpoint's may be older, right after a promotion.
    pub async fn current_timeline(&self) -> Result<TimelineId, ServerError> {
        let row = self
            .query_one(
                "SELECT CASE WHEN pg_is_in_recovery() \
                 THEN (SELECT greatest(c.timeline_id, r.min_recovery_end_timeline) \
                       FROM pg_control_checkpoint() c, pg_control_recovery() r) \
                 ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END",
                &[],
                "tell its timeline",
            )
            .await?;
        // integer is signed, what it carries is not.
        Ok(TimelineId(self.column::<i32>(&row, 0)? as u32))
    }

    /// What the server says of the recovery that it began with; none where it has had none since its start.
    pub async fn recovery(&self) -> Result<Option<Recovery>, ServerError> {
        const WHAT: &str = "tell how far it has recovered";
        let row = self
            .query_one(
                "SELECT pg_last_wal_replay_lsn()::text, \
                 (extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000000)::int8, \
                 CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() = 'paused' ELSE false END",
                &[],
                WHAT,
            )
            .await?;
        let Some(lsn) = self.column::<Option<String>>(&row, 0)? else {
            return Ok(None);
        };
        let time = self
            .column::<Option<i64>>(&row, 1)?
            .and_then(|micros| Timestamp::from_microsecond(micros).ok());
        Ok(Some(Recovery {
            lsn: self.lsn(lsn, WHAT)?,
            time,
            paused: self.column(&row, 2)?,
        }))
    }

    /// Reads them.
    pub async fn settings(&self) -> Result<Settings, ServerError> {
        const WHAT: &str = "tell its settings";
        let row = self
            .query_one(
                "SELECT current_setting('data_directory'), current_setting('archive_mode'), \
                 CASE current_setting('archive_command') WHEN '(disabled)' THEN \
                 coalesce((SELECT reset_val FROM pg_settings WHERE name = 'archive_command'), '') \
                 ELSE current_setting('archive_command') END, coalesce(current_setting('archive_library', true), ''), \
                 current_setting('wal_level'), current_setting('restore_command'), pg_is_in_recovery(), \
                 (SELECT timeline_id FROM pg_control_checkpoint()), \
                 (SELECT system_identifier FROM pg_control_system()), \
                 current_setting('data_checksums') <> 'off', current_setting('full_page_writes') = 'on', \
                 (SELECT coalesce(array_agg(name::text ORDER BY name), '{}') FROM pg_settings \
                 WHERE pending_restart AND name = ANY ($1)), current_setting('synchronous_standby_names')",
                &[&ARCHIVING.as_slice()],
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
            pending_restart: self.column(&row, 11)?,
            synchronous_standby_names: self.column(&row, 12)?,
        })
    }
}
