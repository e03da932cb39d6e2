//! Calls as Postgres makes them, one by one, without a server: WAL that waits, and recovery that asks for it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use holdfast_e2e::World;
use tokio::process::Command;

use super::Bench;
use super::archiver::drain;
use super::samples::{Key, Measure, Program, Requests};
use crate::measure::watched;

/// What a recovery asks for is written there.
pub const TARGET: &str = "pg_wal/RECOVERYXLOG";

impl Bench<'_> {
    /// The key of a row of this round.
    pub fn key(&self, measure: Measure, program: Program) -> Key {
        Key {
            latency: self.store.latency,
            compression: self.variant.name,
            measure,
            program,
        }
    }

    /// Those that are pushed one by one.
    fn pushed(&self) -> &[String] {
        self.segments.get(..self.pushes).unwrap_or(&self.segments)
    }

    /// A data directory with pg_control of the server, and with WAL that waits, under other links.
    pub fn waiting(&self) -> Result<PathBuf> {
        let to = self.directory()?;
        let from = self.database.postgres.dir().join("pg_wal");
        for name in self.pushed() {
            std::fs::hard_link(from.join(name), to.join("pg_wal").join(name))?;
            std::fs::write(to.join(format!("pg_wal/archive_status/{name}.ready")), "")?;
        }
        self.world.own_tree(&to)?;
        Ok(to)
    }

    /// One that recovers, with no WAL of its own.
    pub fn recovering(&self) -> Result<PathBuf> {
        let to = self.directory()?;
        std::fs::write(to.join("recovery.signal"), "")?;
        self.world.own_tree(&to)?;
        Ok(to)
    }

    fn directory(&self) -> Result<PathBuf> {
        let (from, to) = (
            self.database.postgres.dir(),
            self.world.make_dir("waiting")?,
        );
        for folder in ["global", "pg_wal/archive_status"] {
            std::fs::create_dir_all(to.join(folder))?;
        }
        for file in ["global/pg_control", "PG_VERSION"] {
            std::fs::copy(from.join(file), to.join(file))?;
        }
        Ok(to)
    }

    /// Has the server's archiver hand over all with these settings.
    pub async fn drain(&mut self, program: Program, settings: &[(&str, &str)]) -> Result<()> {
        let before = Requests::ask(self.world, self.store).await?;
        let postgres = &mut self.database.postgres;
        let drained = drain(
            self.world,
            postgres,
            settings,
            program.words(),
            &self.segments,
        );
        let (run, calls) = drained.await?;
        let requests = before.since(self.world, self.store).await?;
        let key = self.key(Measure::Drain, program);
        let segments = self.segments.len();
        self.table
            .add(key, Measure::Call, segments, (run, requests), calls);
        Ok(())
    }

    /// Hands over what waits.
    pub async fn push(
        &mut self,
        waiting: &Path,
        program: Program,
        call: impl Fn(&str) -> Result<Command>,
    ) -> Result<()> {
        let status = waiting.join("pg_wal/archive_status");
        let mut calls = Vec::new();
        for name in self.pushed() {
            calls.push(timed(self.world, call(name)?).await?);
            let mark = |end: &str| status.join(format!("{name}.{end}"));
            std::fs::rename(mark("ready"), mark("done"))?;
        }
        let key = self.key(Measure::Push, program);
        self.table.calls(key, Measure::Push, calls);
        Ok(())
    }

    /// Fetches all, and holds each against what it was, which takes no part of the time.
    pub async fn fetch(
        &mut self,
        waiting: &Path,
        program: Program,
        call: impl Fn(&str) -> Result<Command>,
    ) -> Result<()> {
        let original = self.database.postgres.dir().join("pg_wal");
        let target = waiting.join(TARGET);
        let mut calls = Vec::new();
        let mut compared = Duration::ZERO;
        let before = Requests::ask(self.world, self.store).await?;
        let mut run = watched(self.world, program.words(), async {
            for name in &self.segments {
                calls.push(timed(self.world, call(name)?).await?);
                let begun = Instant::now();
                let same = std::fs::read(&target)? == std::fs::read(original.join(name))?;
                ensure!(same, "{} fetched another {name}", program.name());
                std::fs::remove_file(&target)?;
                compared += begun.elapsed();
            }
            Ok(())
        })
        .await?;
        run.seconds -= compared.as_secs_f64();
        let requests = before.since(self.world, self.store).await?;
        let key = self.key(Measure::Fetch, program);
        let segments = self.segments.len();
        self.table
            .add(key, Measure::Get, segments, (run, requests), calls);
        Ok(())
    }
}

async fn timed(world: &World, command: Command) -> Result<f64> {
    let begun = Instant::now();
    world.run(command).await?.success()?;
    Ok(begun.elapsed().as_secs_f64())
}
