//! A restored directory, from the command to the rows.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::daemon::Daemon;
use crate::holdfast::Holdfast;
use crate::postgres::Postgres;
use crate::snapshot::folder_bytes;
use crate::world::World;

/// Settings that belong to a recovery and must be gone after it.
pub const RECOVERY_SETTINGS: [&str; 11] = [
    "recovery_target",
    "recovery_target_time",
    "recovery_target_xid",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_inclusive",
    "recovery_target_timeline",
    "recovery_target_action",
    "restore_command",
    "recovery_end_command",
    "primary_conninfo",
];

/// A restored directory, with its server, which was not started yet.
#[derive(Debug)]
pub struct Restored {
    /// Restore.status
    pub status: Value,
    /// The server on it. It archives nothing.
    pub postgres: Postgres,
}

impl World {
    /// Restores to `NAME/data`, with tablespaces beside it, and has pg_verifybackup look at it.
    ///
    /// # Errors
    /// With all that a program said.
    pub async fn restored(
        &self,
        name: &str,
        major: u32,
        holdfast: &Holdfast,
        tablespaces: &[u32],
        arguments: &[&str],
    ) -> Result<Restored> {
        self.make_dir(name)?;
        let dir = self.path(&format!("{name}/data"));
        let mut all: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
        for oid in tablespaces {
            let folder = self.path(&format!("{name}/tablespace-{oid}"));
            all.extend([
                "--tablespace".to_owned(),
                format!("{oid}={}", folder.display()),
            ]);
        }
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let status = holdfast.restore(&dir, &all).await?;
        self.verify_backup(&dir, major).await?;
        Ok(Restored {
            status,
            postgres: self.copy_on(name, major, &dir)?,
        })
    }

    /// Starts a restore and holds it still (SIGSTOP) once so many bytes are there.
    ///
    /// # Errors
    /// If it was never seen so; with its log.
    pub async fn held_restore(
        &self,
        holdfast: &Holdfast,
        dir: &Path,
        arguments: &[&str],
        bytes: u64,
    ) -> Result<Daemon> {
        let to = dir.to_string_lossy();
        let mut words = vec!["restore", "--to", &to];
        words.extend_from_slice(arguments);
        self.held_writer(holdfast, dir, &words, bytes).await
    }

    /// The same for any command that restores into a directory.
    ///
    /// # Errors
    /// If it was never seen so; with its log.
    pub async fn held_writer(
        &self,
        holdfast: &Holdfast,
        dir: &Path,
        words: &[&str],
        bytes: u64,
    ) -> Result<Daemon> {
        let existed = dir.exists();
        let command = || {
            if !existed && dir.exists() {
                std::fs::remove_dir_all(dir)?;
            }
            holdfast.command(words)
        };
        let on_its_way =
            async || Ok(dir.join("holdfast.unfinished").exists() && folder_bytes(dir) >= bytes);
        let log = self.path("log/restore.log");
        Daemon::held("holdfast restore", &log, command, on_its_way).await
    }

    /// A server on a restored directory that archives nothing, whatever its settings say: it is a copy.
    ///
    /// # Errors
    /// If the server's part is missing.
    pub fn copy_on(&self, name: &str, major: u32, dir: &Path) -> Result<Postgres> {
        let mut postgres = self.postgres_on(name, major, dir)?;
        postgres.option("archive_mode", "off");
        Ok(postgres)
    }
}

/// Holds a promoted directory against what must be left of the recovery: nothing.
///
/// # Errors
/// With what is left.
pub fn ensure_no_recovery_settings(dir: &Path) -> Result<()> {
    let path = dir.join("postgresql.auto.conf");
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    for line in text.lines() {
        let name = line.split(['=', ' ']).next().unwrap_or_default().trim();
        ensure!(
            !RECOVERY_SETTINGS.contains(&name),
            "{} still has after the recovery: {line}",
            path.display()
        );
    }
    for file in ["recovery.signal", "standby.signal"] {
        ensure!(!dir.join(file).exists(), "{file} is still there");
    }
    Ok(())
}

/// Proves that Postgres does not start on what a restore left unfinished.
///
/// # Errors
/// If it does start, or could.
pub async fn ensure_not_startable(world: &World, major: u32, dir: &Path) -> Result<()> {
    ensure!(
        !dir.join("global/pg_control").exists(),
        "an unfinished restore left global/pg_control in {}",
        dir.display()
    );
    let mut postgres = world.postgres_on("unfinished", major, dir)?;
    let started = postgres.start().await;
    ensure!(
        started.is_err(),
        "Postgres started on what an unfinished restore left in {}",
        dir.display()
    );
    Ok(())
}

/// Where a restored server's folder is.
pub fn folder(world: &World, name: &str) -> PathBuf {
    world.path(&format!("{name}/data"))
}
