//! pgBackRest, with bundling and block incremental on as its manual advises for object stores.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::World;
use holdfast_e2e::minio::{ACCESS_KEY, SECRET_KEY};
use tokio::process::Command;

use crate::database::Database;
use crate::measure::{Run, Samples, folder_bytes, timed};
use crate::{Store, Variant};

const NAME: &str = "pgbackrest";

/// A repository of its own in the bucket `pgbackrest`.
#[derive(Debug)]
pub struct PgBackRest {
    variant: Variant,
    program: PathBuf,
    config: PathBuf,
    store: PathBuf,
    spool: PathBuf,
}

impl PgBackRest {
    /// Writes its configuration and creates its stanza. `asynchronous`: `archive-async`, with two workers.
    pub async fn create(
        world: &World,
        store: &Store<'_>,
        database: &Database,
        variant: Variant,
        asynchronous: bool,
    ) -> Result<Self> {
        let program = world.client_program(NAME, 17)?;
        let bucket = store.bucket(NAME)?;
        let port = bucket
            .endpoint
            .rsplit(':')
            .next()
            .context("an endpoint has a port")?;
        let (kind, level) = variant.pgbackrest;
        let name = format!(
            "{}-{}{}",
            variant.name,
            store.latency,
            if asynchronous { "-async" } else { "" }
        );
        let folder = world.make_dir(&format!("pgbackrest-{name}"))?;
        let folder = folder.display();
        let text = format!(
            "[global]
repo1-type=s3
repo1-path=/{name}
repo1-s3-bucket={NAME}
repo1-s3-endpoint=127.0.0.1
repo1-storage-host=127.0.0.1
repo1-storage-port={port}
repo1-storage-verify-tls=n
repo1-s3-region=us-east-1
repo1-s3-uri-style=path
repo1-s3-key={ACCESS_KEY}
repo1-s3-key-secret={SECRET_KEY}
repo1-bundle=y
repo1-block=y
repo1-retention-full=1
expire-auto=n
process-max=2
start-fast=y
compress-type={kind}
compress-level={level}
cmd={program}
lock-path={folder}/lock
spool-path={folder}/spool
log-path={folder}/log
log-level-console=warn
log-level-file=off
archive-async={asynchronous}

[bench]
pg1-path={data}
pg1-socket-path={host}
pg1-port={pg_port}
pg1-user=postgres
",
            asynchronous = if asynchronous { "y" } else { "n" },
            program = program.display(),
            data = database.postgres.dir().display(),
            host = database.postgres.host().display(),
            pg_port = database.postgres.port(),
        );
        let config = world.write(&format!("home/pgbackrest-{name}.conf"), text)?;
        let stored = store.minio.data().join(NAME).join(&name);
        let this = Self {
            variant,
            program,
            config,
            store: stored,
            spool: world.path(&format!("pgbackrest-{name}/spool")),
        };
        let output = world.run(this.command(world, &["stanza-create"])).await?;
        output.success()?;
        Ok(this)
    }

    fn command(&self, world: &World, arguments: &[&str]) -> Command {
        let mut command = world.command(&self.program);
        command
            .arg(format!("--config={}", self.config.display()))
            .arg("--stanza=bench")
            .args(arguments);
        command
    }

    /// On another data directory.
    pub fn command_for(&self, world: &World, directory: &Path, arguments: &[&str]) -> Command {
        let mut command = self.command(world, &[]);
        command
            .arg(format!("--pg1-path={}", directory.display()))
            .args(arguments);
        command
    }

    /// The text of archive_command, for the server on this data directory.
    pub fn archive_command(&self, directory: &Path) -> String {
        format!(
            "{} --config={} --stanza=bench --pg1-path={} archive-push %p",
            self.program.display(),
            self.config.display(),
            directory.display()
        )
    }

    /// Has it archive the same WAL again: what is stored goes, and what it remembers. MinIO is not asked.
    pub fn forget_wal(&self) -> Result<()> {
        let archive = self.store.join("archive/bench");
        for entry in std::fs::read_dir(&archive)? {
            let path = entry?.path();
            // Beside the folders of WAL there is archive.info, which MinIO keeps as a folder, too.
            if !path.to_string_lossy().contains("archive.info") {
                std::fs::remove_dir_all(path)?;
            }
        }
        if self.spool.exists() {
            std::fs::remove_dir_all(&self.spool)?;
        }
        Ok(())
    }

    /// Archives, backs up, restores, and expires what is no longer needed.
    pub async fn measure(
        &self,
        world: &World,
        database: &Database,
        segments: &[&String],
        samples: &mut Samples,
    ) -> Result<()> {
        let variant = self.variant.name;
        let postgres = &database.postgres;
        for segment in segments {
            let mut command = self.command(world, &["archive-push", &format!("pg_wal/{segment}")]);
            command.current_dir(postgres.dir());
            let (run, _) = timed(world, NAME, command).await?;
            samples.add("archive", variant, NAME, run);
        }
        let archive = self.archive_command(postgres.dir());
        postgres
            .configure(&[("archive_command", archive.as_str())])
            .await?;
        postgres.execute("CHECKPOINT").await?;
        let before = folder_bytes(&self.store.join("backup"));
        let (run, _) = timed(world, NAME, self.command(world, &["--type=full", "backup"])).await?;
        let stored_bytes = folder_bytes(&self.store.join("backup")) - before;
        samples.add(
            "backup",
            variant,
            NAME,
            Run {
                stored_bytes,
                ..run
            },
        );
        postgres
            .configure(&[("archive_command", "/bin/true")])
            .await?;

        let to = world.make_dir("restored")?;
        let target = format!("--pg1-path={}", to.display());
        let (run, _) = timed(world, NAME, self.command(world, &[&target, "restore"])).await?;
        samples.add("restore", variant, NAME, run);
        ensure!(
            folder_bytes(&to) >= database.bytes / 100 * 99,
            "pgBackRest restored {} bytes of {}",
            folder_bytes(&to),
            database.bytes
        );
        std::fs::remove_dir_all(&to)?;
        let expire = self.command(world, &["expire"]);
        world.run(expire).await?.success()?;
        Ok(())
    }
}
