//! The database that is measured with, and WAL of real transactions to archive.

use anyhow::{Context, Result};
use holdfast_e2e::{Postgres, World};

/// A running Postgres 17 with pgbench's tables.
#[derive(Debug)]
pub struct Database {
    /// The server.
    pub postgres: Postgres,
    /// Whole segments in pg_wal that no archive has seen, oldest first.
    pub segments: Vec<String>,
    /// All files that a backup copies.
    pub bytes: u64,
}

/// Fills a database, and then `wal` segments by pgbench's transactions.
pub async fn create(world: &World, scale: u32, wal: u32) -> Result<Database> {
    let postgres = world
        .postgres("primary", 17)
        // Until an archive is measured, WAL goes nowhere.
        .set("archive_command", "/bin/true")
        .set("shared_buffers", "256MB")
        .set("max_wal_size", "8GB")
        .set("checkpoint_timeout", "1h")
        .set("synchronous_commit", "off")
        .set("autovacuum", "off")
        .set("wal_keep_size", &format!("{}MB", (wal + 8) * 16))
        .create()
        .await?;
    postgres
        .pgbench(&["-i", "-q", "-s", &scale.to_string()])
        .await?;
    postgres.execute("CHECKPOINT").await?;
    let first = switch(&postgres).await?;
    while segments(&postgres, &first)?.len() <= wal as usize {
        postgres
            .pgbench(&["-n", "-c", "8", "-j", "2", "-T", "3"])
            .await?;
    }
    postgres.execute("CHECKPOINT").await?;
    let last = switch(&postgres).await?;
    postgres.archive_all().await?;
    let mut segments = segments(&postgres, &first)?;
    segments.retain(|name| *name < last);
    let bytes = postgres
        .value("SELECT sum(pg_database_size(oid)) FROM pg_database")
        .await?;
    let bytes = bytes.parse().context("pg_database_size")?;
    Ok(Database {
        postgres,
        segments,
        bytes,
    })
}

/// Closes the current segment, and names it.
async fn switch(postgres: &Postgres) -> Result<String> {
    postgres
        .value("SELECT pg_walfile_name(pg_switch_wal())")
        .await
}

/// Segments after `first` up to the one that is written.
fn segments(postgres: &Postgres, first: &str) -> Result<Vec<String>> {
    let current = std::fs::read_dir(postgres.dir().join("pg_wal/archive_status"))?;
    let mut names: Vec<String> = current
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .filter_map(|name| {
            Some(
                name.strip_suffix(".done")
                    .or(name.strip_suffix(".ready"))?
                    .to_owned(),
            )
        })
        .filter(|name| name.len() == 24 && name.as_str() > first)
        .collect();
    names.sort();
    Ok(names)
}
