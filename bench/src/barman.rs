//! barman-cloud's commands for WAL: one call a segment, which has one worker and keeps nothing for the next.

use std::path::PathBuf;

use anyhow::{Context, Result};
use holdfast_e2e::World;
use holdfast_e2e::minio::{ACCESS_KEY, SECRET_KEY};
use holdfast_e2e::parts;
use tokio::process::Command;

use crate::{Store, Variant};

const NAME: &str = "barman-cloud";
/// How its processes are known.
pub const WORDS: [&str; 2] = [
    "barman.clients.cloud_walarchive",
    "barman.clients.cloud_walrestore",
];

/// A folder of its own in the bucket `barman-cloud`.
#[derive(Debug)]
pub struct Barman {
    programs: PathBuf,
    endpoint: String,
    compression: String,
    url: String,
    stored: PathBuf,
}

impl Barman {
    /// Writes what its S3 library reads in the world's home: whom to be, and the certificate that it verifies.
    pub fn create(world: &World, store: &Store<'_>, variant: Variant) -> Result<Self> {
        let bucket = store.bucket(NAME)?;
        let certificate = store.minio.certificate().context("MinIO speaks TLS")?;
        let programs = parts::folder().join("barman").canonicalize();
        let programs = programs.context("barman-cloud is missing: run e2e/parts/barman")?;
        world.make_dir("home/.aws")?;
        world.write(
            "home/.aws/config",
            format!(
                "[default]\nregion=us-east-1\nca_bundle={}\n",
                certificate.display()
            ),
        )?;
        world.write(
            "home/.aws/credentials",
            format!(
                "[default]\naws_access_key_id={ACCESS_KEY}\naws_secret_access_key={SECRET_KEY}\n"
            ),
        )?;
        let folder = format!("{}-{}", variant.name, store.latency);
        let compression = match variant.algorithm {
            "zstd" => format!("--zstd --compression-level {}", variant.level),
            _ => "--lz4".to_owned(),
        };
        Ok(Self {
            programs: world.reachable(&programs)?,
            endpoint: bucket.endpoint,
            compression,
            url: format!("s3://{NAME}/{folder}"),
            stored: store.minio.data().join(NAME).join(folder),
        })
    }

    fn words(&self, program: &str) -> String {
        format!(
            "{} --endpoint-url {} --addressing-style path",
            self.programs.join(program).display(),
            self.endpoint
        )
    }

    /// The text of archive_command.
    pub fn archive_command(&self) -> String {
        format!(
            "{} {} {} bench %p",
            self.words("barman-cloud-wal-archive"),
            self.compression,
            self.url
        )
    }

    /// One call of it; the caller chooses the directory.
    pub fn archive(&self, world: &World, path: &str) -> Command {
        call(world, &self.archive_command().replace("%p", path))
    }

    /// One call of restore_command; the caller chooses the directory.
    pub fn restore(&self, world: &World, name: &str, path: &str) -> Command {
        let program = self.words("barman-cloud-wal-restore");
        call(
            world,
            &format!("{program} {} bench {name} {path}", self.url),
        )
    }

    /// Has it archive the same WAL again. MinIO is not asked.
    pub fn forget_wal(&self) -> Result<()> {
        if self.stored.exists() {
            std::fs::remove_dir_all(&self.stored)?;
        }
        Ok(())
    }
}

/// No word of it holds a blank.
fn call(world: &World, words: &str) -> Command {
    let mut words = words.split(' ');
    let mut command = world.command(words.next().unwrap_or_default());
    command.args(words);
    command
}
