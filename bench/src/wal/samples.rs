//! What is measured, and all samples of it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use holdfast_e2e::World;

use crate::Store;
use crate::barman;
use crate::measure::{Run, median};

/// Who; in the table's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// Holdfast's archive_library.
    Module,
    /// Holdfast's archive_command and restore_command.
    Command,
    /// pgBackRest with `archive-async`.
    Async,
    /// pgBackRest without.
    Sync,
    /// barman-cloud.
    Barman,
    /// The compressor alone: a bound.
    Compressor,
    /// cp: a bound.
    Copy,
}

/// What; in the table's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    /// All that waits, by the server's archiver.
    Drain,
    /// From one mark to the next, of that.
    Call,
    /// A call of archive_command, of a loop.
    Push,
    /// All of it, one by one, by a loop.
    Fetch,
    /// A call of restore_command, of that.
    Get,
}

/// One row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Milliseconds to the store.
    pub latency: u32,
    /// `zstd-3`, `lz4`.
    pub compression: &'static str,
    /// What.
    pub measure: Measure,
    /// Who.
    pub program: Program,
}

/// All samples of one key.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// One a run, or one a call.
    pub seconds: Vec<f64>,
    /// One a run; none for calls.
    pub processor_seconds: Vec<f64>,
    /// The largest in any run, in bytes.
    pub peak_memory: u64,
    /// Of the store, one a run; none for calls.
    pub requests: Vec<Requests>,
    /// In each run.
    pub segments: usize,
}

/// Everything that was measured.
#[derive(Clone, Debug, Default)]
pub struct Table(pub BTreeMap<Key, Series>);

impl Program {
    /// In reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Module => "holdfast module",
            Self::Command => "holdfast command",
            Self::Async => "pgbackrest async",
            Self::Sync => "pgbackrest",
            Self::Barman => "barman-cloud",
            Self::Compressor => "compressor",
            Self::Copy => "cp",
        }
    }

    /// How its processes are known.
    pub fn words(self) -> &'static [&'static str] {
        match self {
            Self::Module | Self::Command => &["holdfast", "holdfast-wal"],
            Self::Async | Self::Sync => &["pgbackrest"],
            Self::Barman => &barman::WORDS,
            Self::Compressor => &["zstd", "lz4"],
            Self::Copy => &["cp"],
        }
    }

    /// Somebody else's, for the same use.
    pub fn is_peer(self) -> bool {
        matches!(self, Self::Async | Self::Sync | Self::Barman)
    }

    /// No archiving at all.
    pub fn is_bound(self) -> bool {
        matches!(self, Self::Compressor | Self::Copy)
    }
}

impl Measure {
    /// In reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Call => "call",
            Self::Push => "push",
            Self::Fetch => "fetch",
            Self::Get => "get",
        }
    }
}

impl Series {
    /// The middle run, in seconds for each segment.
    pub fn median(&self) -> f64 {
        median(&self.seconds) / self.segments.max(1) as f64
    }
}

impl Table {
    /// Adds a run of so many segments, and how long each of its calls took.
    pub fn add(
        &mut self,
        whole: Key,
        each: Measure,
        segments: usize,
        (run, requests): (Run, Requests),
        calls: Vec<f64>,
    ) {
        let series = self.0.entry(whole).or_default();
        series.seconds.push(run.seconds);
        series.processor_seconds.push(run.processor_seconds);
        series.peak_memory = series.peak_memory.max(run.peak_memory);
        series.requests.push(requests);
        series.segments = segments;
        self.calls(whole, each, calls);
    }

    /// Adds calls alone.
    pub fn calls(&mut self, of: Key, each: Measure, calls: Vec<f64>) {
        if !calls.is_empty() {
            let key = Key {
                measure: each,
                ..of
            };
            let series = self.0.entry(key).or_default();
            series.seconds.extend(calls);
            series.segments = 1;
        }
    }
}

/// How many S3 requests of each kind the store has answered.
#[derive(Clone, Debug, Default)]
pub struct Requests(pub BTreeMap<String, u64>);

impl Requests {
    /// So far, by the store's own count.
    pub async fn ask(world: &World, store: &Store<'_>) -> Result<Self> {
        let mut command = world.command("curl");
        command
            .args(["--silent", "--show-error", "--fail", "--cacert"])
            .arg(store.minio.certificate().context("MinIO speaks TLS")?)
            .arg(format!(
                "{}/minio/metrics/v3/api/requests",
                store.minio.endpoint()
            ));
        let metrics = world.run(command).await?.success()?.stdout;
        let lines = metrics.lines();
        let lines = lines.filter_map(|line| line.strip_prefix("minio_api_requests_total{name=\""));
        let counts = lines.map(|line| {
            let (name, rest) = line.split_once('"').context("a name ends")?;
            let (_, count) = rest.rsplit_once(' ').context("a metric has a value")?;
            Ok((name.to_owned(), count.parse::<f64>()? as u64))
        });
        let counts: Result<_> = counts.collect();
        Ok(Self(counts.context("MinIO's metrics")?))
    }

    /// Since then.
    pub async fn since(&self, world: &World, store: &Store<'_>) -> Result<Self> {
        let mut now = Self::ask(world, store).await?;
        for (name, count) in &mut now.0 {
            *count -= self.0.get(name).copied().unwrap_or(0).min(*count);
        }
        now.0.retain(|_, count| *count > 0);
        Ok(now)
    }

    /// Of all kinds.
    pub fn all(&self) -> u64 {
        self.0.values().sum()
    }
}
