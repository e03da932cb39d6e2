//! pgBackRest and barman-cloud.

use std::path::Path;

use anyhow::Result;
use holdfast_e2e::World;
use tokio::process::Command;

use super::Bench;
use super::calls::TARGET;
use super::samples::Program;
use crate::barman::Barman;
use crate::database::Database;
use crate::pgbackrest::PgBackRest;
use crate::{Store, Variant};

/// One that archives into a place of its own.
#[derive(Debug)]
pub struct Peer {
    /// Which.
    pub program: Program,
    /// How it compresses.
    pub variant: &'static str,
    set_up: SetUp,
}

#[derive(Debug)]
enum SetUp {
    PgBackRest(PgBackRest),
    Barman(Barman),
}

impl Peer {
    /// Configures it. The server must run, for pgBackRest looks at it.
    pub async fn create(
        world: &World,
        store: &Store<'_>,
        database: &Database,
        variant: Variant,
        program: Program,
    ) -> Result<Self> {
        let set_up = match program {
            Program::Barman => SetUp::Barman(Barman::create(world, store, variant)?),
            _ => {
                let asynchronous = program == Program::Async;
                let peer = PgBackRest::create(world, store, database, variant, asynchronous);
                SetUp::PgBackRest(peer.await?)
            }
        };
        Ok(Self {
            program,
            variant: variant.name,
            set_up,
        })
    }

    fn archive_command(&self, directory: &Path) -> String {
        match &self.set_up {
            SetUp::PgBackRest(peer) => peer.archive_command(directory),
            SetUp::Barman(peer) => peer.archive_command(),
        }
    }

    fn push(&self, world: &World, directory: &Path, name: &str) -> Command {
        let path = format!("pg_wal/{name}");
        let mut command = match &self.set_up {
            SetUp::PgBackRest(peer) => peer.command_for(world, directory, &["archive-push", &path]),
            SetUp::Barman(peer) => peer.archive(world, &path),
        };
        command.current_dir(directory);
        command
    }

    fn get(&self, world: &World, directory: &Path, name: &str) -> Command {
        let mut command = match &self.set_up {
            SetUp::PgBackRest(peer) => {
                peer.command_for(world, directory, &["archive-get", name, TARGET])
            }
            SetUp::Barman(peer) => peer.restore(world, name, TARGET),
        };
        command.current_dir(directory);
        command
    }

    fn forget_wal(&self) -> Result<()> {
        match &self.set_up {
            SetUp::PgBackRest(peer) => peer.forget_wal(),
            SetUp::Barman(peer) => peer.forget_wal(),
        }
    }
}

/// Drains, fetches, and pushes once more from nothing.
pub async fn measure(bench: &mut Bench<'_>, peer: &Peer) -> Result<()> {
    let (world, program) = (bench.world, peer.program);
    let command = peer.archive_command(bench.database.postgres.dir());
    let settings = [
        ("archive_command", command.as_str()),
        ("archive_library", ""),
    ];
    bench.drain(program, &settings).await?;

    let directory = bench.recovering()?;
    bench
        .fetch(&directory, program, |name| {
            Ok(peer.get(world, &directory, name))
        })
        .await?;
    std::fs::remove_dir_all(&directory)?;
    peer.forget_wal()?;

    let directory = bench.waiting()?;
    bench
        .push(&directory, program, |name| {
            Ok(peer.push(world, &directory, name))
        })
        .await?;
    std::fs::remove_dir_all(&directory)?;
    peer.forget_wal()
}
