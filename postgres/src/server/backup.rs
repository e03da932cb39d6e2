//! Starting and stopping a base backup.

use std::fmt;

use jiff::Timestamp;

use crate::lsn::Lsn;

use super::{Server, ServerError};

/// A backup has begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackupStart {
    /// Where its replay begins.
    pub start: Lsn,
}

/// A backup has ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackupStop {
    /// All WAL before this belongs to it.
    pub stop: Lsn,
    /// The contents of `backup_label`.
    pub label: Vec<u8>,
    /// The contents of `tablespace_map`; empty if there are no tablespaces.
    pub tablespace_map: Vec<u8>,
}

/// The session that is backing this server up already.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeldBy {
    /// Its server process.
    pub pid: i32,
    /// How it named itself.
    pub application_name: String,
    /// Since when it is connected.
    pub since: Option<Timestamp>,
}

impl fmt::Display for HeldBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' (process {}", self.application_name, self.pid)?;
        if let Some(since) = self.since {
            write!(f, ", since {since}")?;
        }
        f.write_str(")")
    }
}

/// Why the lock was not got.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another backup runs.
    #[error("a backup of this server is already running, by {0}: wait for it, or end that session")]
    Held(HeldBy),
    /// The server could not be asked.
    #[error(transparent)]
    Server(#[from] ServerError),
}

/// The advisory lock that one backup holds: "holdfast" in ASCII. Advisory locks are per database and are not
/// replicated, so each instance has its own.
const BACKUP_LOCK: i64 = i64::from_be_bytes(*b"holdfast");

impl Server {
    /// Begins a backup. `fast` asks for an immediate checkpoint; else it is spread out, which can take minutes.
    /// The backup lives as long as this session.
    pub async fn start_backup(&self, label: &str, fast: bool) -> Result<BackupStart, ServerError> {
        const WHAT: &str = "start a backup";
        let sql = if self.major() >= 15 {
            "SELECT pg_backup_start($1, $2)::text"
        } else {
            "SELECT pg_start_backup($1, $2, false)::text"
        };
        let row = self.query_one(sql, &[&label, &fast], WHAT).await?;
        Ok(BackupStart {
            start: self.lsn(self.column(&row, 0)?, WHAT)?,
        })
    }

    /// Ends it, without waiting for its WAL to be archived.
    pub async fn stop_backup(&self) -> Result<BackupStop, ServerError> {
        const WHAT: &str = "stop the backup";
        let sql = if self.major() >= 15 {
            "SELECT lsn::text, labelfile, spcmapfile FROM pg_backup_stop(wait_for_archive => false)"
        } else {
            "SELECT lsn::text, labelfile, spcmapfile FROM pg_stop_backup(false, false)"
        };
        let row = self.query_one(sql, &[], WHAT).await?;
        let text = |index| -> Result<Vec<u8>, ServerError> {
            Ok(self
                .column::<Option<String>>(&row, index)?
                .unwrap_or_default()
                .into_bytes())
        };
        Ok(BackupStop {
            stop: self.lsn(self.column(&row, 0)?, WHAT)?,
            label: text(1)?,
            tablespace_map: text(2)?,
        })
    }

    /// Takes the lock that keeps a second backup of this server away, until the session ends.
    pub async fn try_lock_backup(&self) -> Result<(), LockError> {
        const WHAT: &str = "lock backups";
        let row = self
            .query_one("SELECT pg_try_advisory_lock($1)", &[&BACKUP_LOCK], WHAT)
            .await?;
        if self.column::<bool>(&row, 0)? {
            return Ok(());
        }
        let holder = self
            .client
            .query_opt(
                "SELECT l.pid, coalesce(a.application_name, ''), \
                 (extract(epoch FROM a.backend_start) * 1000000)::bigint \
                 FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid \
                 WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 \
                 AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
                 AND (l.classid::bigint << 32 | l.objid::bigint) = $1 LIMIT 1",
                &[&BACKUP_LOCK],
            )
            .await
            .map_err(|source| self.failed(WHAT, source))?;
        // It may have let go between the two statements: the next try will get the lock.
        let held = match holder {
            None => HeldBy {
                pid: 0,
                application_name: "a session that has just ended".into(),
                since: None,
            },
            Some(row) => HeldBy {
                pid: self.column(&row, 0)?,
                application_name: self.column(&row, 1)?,
                since: self
                    .column::<Option<i64>>(&row, 2)?
                    .and_then(|us| Timestamp::from_microsecond(us).ok()),
            },
        };
        Err(LockError::Held(held))
    }

    /// The server's own `postmaster.pid`, if this user may read it: the same file stands in its data directory, so it
    /// tells whether a directory is this server's and not another's of the same system identifier.
    pub async fn postmaster_pid(&self) -> Option<String> {
        let sql = "SELECT pg_read_file('postmaster.pid')";
        let row = self.client.query_one(sql, &[]).await.ok()?;
        row.try_get(0).ok()
    }

    /// The WAL position that is written: on a standby, the one that is replayed.
    pub async fn current_lsn(&self) -> Result<Lsn, ServerError> {
        const WHAT: &str = "tell its WAL position";
        let row = self
            .query_one(
                "SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
                 ELSE pg_current_wal_lsn() END)::text",
                &[],
                WHAT,
            )
            .await?;
        self.lsn(
            self.column::<Option<String>>(&row, 0)?.unwrap_or_default(),
            WHAT,
        )
    }

    /// Ends the current segment, so that it is archived. The end of the WAL before the switch.
    pub async fn switch_wal(&self) -> Result<Lsn, ServerError> {
        const WHAT: &str = "switch to a new WAL segment";
        let row = self
            .query_one("SELECT pg_switch_wal()::text", &[], WHAT)
            .await?;
        self.lsn(self.column(&row, 0)?, WHAT)
    }

    pub(super) fn lsn(&self, text: String, what: &'static str) -> Result<Lsn, ServerError> {
        text.parse().map_err(|_| ServerError::Answer {
            what,
            address: self.address.clone(),
            answer: text,
        })
    }
}
